"""The sealed secret: what the KMS keeps for itself in its catalogue, as only the HSM can open it.

Private keys of an import under way, passwords of key stores, secrets of access keys. Each is
encrypted under an AES-256 key of its own, which the HSM made and wrapped: so a secret is renewed
like key material when the token's wrapping key is, and nothing old opens it afterwards.

    offset  bytes  member
    0       4      magic, ASCII `VKSS`
    4       1      version, 1
    5       4      generation of the wrapping key, big-endian
    9       40     the secret's own key, wrapped (RFC 5649)
    49      12     IV of AES-256-GCM, drawn in the HSM
    61      1..    ciphertext, as long as the secret
    end-16  16     tag of AES-256-GCM

The additional authenticated data is the caller's and says what the secret is and whose.

A worked example, of generation 2, wrapped key 40 bytes of 0x11, IV 12 bytes of 0x22 and the sealed
bytes 17 of 0x33:

    564b535301 00000002 1111...11 2222...22 3333...33
"""

import struct
from dataclasses import dataclass, field
from typing import Final

from volcrypt.errors import BadMagicError, MalformedError, UnsupportedVersionError

MAGIC: Final = b"VKSS"
VERSION: Final = 1
WRAPPED_BYTES: Final = 40
_HEAD: Final = struct.Struct(f">4sBI{WRAPPED_BYTES}s")
_MIN_SEALED: Final = 12 + 1 + 16
_WHAT: Final = "sealed secret"


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedSecret:
    """`wrapped_key` was made by the token's wrapping key of this `generation`; `sealed` is IV,
    ciphertext and tag in one, as the HSM adapter takes and gives it."""

    generation: int
    wrapped_key: bytes = field(repr=False)
    sealed: bytes = field(repr=False)


def encode_sealed_secret(secret: SealedSecret) -> bytes:
    return _HEAD.pack(MAGIC, VERSION, secret.generation, secret.wrapped_key) + secret.sealed


def decode_sealed_secret(data: bytes) -> SealedSecret:
    """Raises BadMagicError, UnsupportedVersionError, MalformedError."""
    if data[: len(MAGIC)] != MAGIC:
        raise BadMagicError(_WHAT)
    if len(data) <= len(MAGIC):
        raise MalformedError(_WHAT, "truncated")
    if data[len(MAGIC)] != VERSION:
        raise UnsupportedVersionError(_WHAT, data[len(MAGIC)], VERSION)
    if len(data) < _HEAD.size + _MIN_SEALED:
        raise MalformedError(_WHAT, "truncated")
    _, _, generation, wrapped_key = _HEAD.unpack_from(data)
    return SealedSecret(
        generation=generation, wrapped_key=wrapped_key, sealed=bytes(data[_HEAD.size :])
    )
