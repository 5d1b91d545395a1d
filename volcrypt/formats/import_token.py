"""The import token: what GetParametersForImport gives, and ImportKeyMaterial must bring back.

    offset  bytes  member
    0       4      magic, ASCII `VKIT`
    4       1      version, 1
    5       16     key id, the UUID in network order
    21      16     import id, drawn anew for each token
    37      8      end of validity, seconds since 1970-01-01 UTC, big-endian
    45      32     tag: HMAC-SHA-256 over the bytes before it, under a key of the HSM

The token says nothing of the private key or the algorithm: those lie in the catalogue, under the
import id, and only of the last token that was given for a key. Opaque to whoever carries it.
"""

import struct
import uuid
from dataclasses import dataclass
from typing import Final

from volcrypt.errors import BadMagicError, MalformedError, UnsupportedVersionError

MAGIC: Final = b"VKIT"
VERSION: Final = 1
IMPORT_ID_BYTES: Final = 16
TAG_BYTES: Final = 32
_HEAD: Final = struct.Struct(">4sB16s16sQ")
_WHAT: Final = "import token"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportToken:
    """`import_id` is 32 lower-case hexadecimal digits; `valid_to` counts whole seconds."""

    key_id: str
    import_id: str
    valid_to: int

    def covered(self) -> bytes:
        """What the tag is over."""
        key, import_ = uuid.UUID(self.key_id).bytes, bytes.fromhex(self.import_id)
        return _HEAD.pack(MAGIC, VERSION, key, import_, self.valid_to)


def encode_import_token(token: ImportToken, tag: bytes) -> bytes:
    return token.covered() + tag


def decode_import_token(data: bytes) -> tuple[ImportToken, bytes]:
    """The token and its tag, which the caller verifies. Raises FormatError."""
    if data[: len(MAGIC)] != MAGIC:
        raise BadMagicError(_WHAT)
    if len(data) <= len(MAGIC):
        raise MalformedError(_WHAT, "truncated")
    if data[len(MAGIC)] != VERSION:
        raise UnsupportedVersionError(_WHAT, data[len(MAGIC)], VERSION)
    if len(data) != _HEAD.size + TAG_BYTES:
        raise MalformedError(_WHAT, "of a wrong length")
    _, _, key, import_, valid_to = _HEAD.unpack_from(data)
    token = ImportToken(
        key_id=str(uuid.UUID(bytes=key)), import_id=import_.hex(), valid_to=valid_to
    )
    return token, bytes(data[_HEAD.size :])
