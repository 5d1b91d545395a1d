"""The ciphertext blob: what Encrypt and GenerateDataKey return. Names its key and material itself.

    offset  bytes  member
    0       4      magic, ASCII `VKCB`
    4       1      version, 1
    5       16     key id, the UUID in network order
    21      32     key material id
    53      12     IV of AES-256-GCM (NIST SP 800-38D), drawn in the HSM
    65      1..    ciphertext, as long as the plaintext
    end-16  16     tag of AES-256-GCM

The header is not covered by the tag directly: version, key id and material id are part of the
additional authenticated data (`kms.context`), so a blob with a changed header does not decrypt.

A worked example, of key 00112233-4455-6677-8899-aabbccddeeff, material 32 bytes of 0x11, IV 12
bytes of 0x22 and the sealed bytes 17 of 0x33:

    564b434201 00112233445566778899aabbccddeeff 1111...11 2222...22 3333...33
"""

import uuid
from dataclasses import dataclass
from typing import Final

from volcrypt.errors import BadMagicError, MalformedError, UnsupportedVersionError

MAGIC: Final = b"VKCB"
VERSION: Final = 1
MATERIAL_ID_BYTES: Final = 32
IV_BYTES: Final = 12
TAG_BYTES: Final = 16
MAX_BLOB_BYTES: Final = 6144
"""The limit of the AWS KMS on a ciphertext blob in a request."""

_KEY_ID: Final = len(MAGIC) + 1
_MATERIAL_ID: Final = _KEY_ID + 16
_SEALED: Final = _MATERIAL_ID + MATERIAL_ID_BYTES
_WHAT: Final = "ciphertext blob"


@dataclass(frozen=True, slots=True, kw_only=True)
class CiphertextBlob:
    """`key_id` is a UUID in its usual text form, `material_id` 64 lower-case hexadecimal digits.

    `sealed` is IV, ciphertext and tag in one, as the HSM adapter takes and gives it.
    """

    key_id: str
    material_id: str
    sealed: bytes


def encode_ciphertext_blob(blob: CiphertextBlob) -> bytes:
    return b"".join(
        (
            MAGIC,
            bytes((VERSION,)),
            uuid.UUID(blob.key_id).bytes,
            bytes.fromhex(blob.material_id),
            blob.sealed,
        )
    )


def decode_ciphertext_blob(data: bytes) -> CiphertextBlob:
    """Raises BadMagicError, UnsupportedVersionError, MalformedError."""
    if data[: len(MAGIC)] != MAGIC:
        raise BadMagicError(_WHAT)
    if len(data) <= len(MAGIC):
        raise MalformedError(_WHAT, "truncated")
    if data[len(MAGIC)] != VERSION:
        raise UnsupportedVersionError(_WHAT, data[len(MAGIC)], VERSION)
    if len(data) <= _SEALED + IV_BYTES + TAG_BYTES:
        raise MalformedError(_WHAT, "truncated")
    if len(data) > MAX_BLOB_BYTES:
        raise MalformedError(_WHAT, "too long")
    return CiphertextBlob(
        key_id=str(uuid.UUID(bytes=bytes(data[_KEY_ID:_MATERIAL_ID]))),
        material_id=bytes(data[_MATERIAL_ID:_SEALED]).hex(),
        sealed=bytes(data[_SEALED:]),
    )
