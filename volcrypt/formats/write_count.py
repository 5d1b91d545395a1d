"""The write count: how much was encrypted under a data key, at most. One file for each data key.

One 512-byte sector, which a power cut leaves old or new, since it is overwritten in place:

    volcrypt write-count 1\\n      magic and version
    {...}\\n                       WriteCount as JSON
    DIGEST                        SHA-256 of the two lines above, 64 hexadecimal digits
    spaces up to 511 bytes, then \\n

Example of the JSON: {"data_key_id":"dk-0123456789abcdef0","written_bytes":4294967296}

The digest finds damage, and is no seal. A seal would not help against those who can write to the
file: an older count has a valid one too, and the register that would tell is not asked while a
volume is in use. What they gain is that a warning stays away.
"""

import hashlib
from typing import Final

import msgspec

from volcrypt.errors import BadMagicError, MalformedError, UnsupportedVersionError
from volcrypt.geometry import SECTOR_BYTES
from volcrypt.names import DataKeyId, is_data_key_id

VERSION: Final = 1
_KIND: Final = b"volcrypt write-count "
_MAGIC: Final = _KIND + str(VERSION).encode() + b"\n"
_LINES: Final = 3


class WriteCount(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Not more than `written_bytes` of ciphertext were made under the data key, all told."""

    data_key_id: DataKeyId
    written_bytes: int


def encode_write_count(count: WriteCount) -> bytes:
    """The sector."""
    text = _MAGIC + msgspec.json.encode(count) + b"\n"
    text += hashlib.sha256(text).hexdigest().encode()
    return text.ljust(SECTOR_BYTES - 1) + b"\n"


def decode_write_count(data: bytes, *, what: str) -> WriteCount:
    """Raises FormatError; `what` names the file in it."""
    if not data.startswith(_KIND):
        raise BadMagicError(what)
    if not data.startswith(_MAGIC):
        version = data[len(_KIND) :].split(b"\n")[0]
        if version.isdigit() and len(version) < 10:
            raise UnsupportedVersionError(what, int(version), VERSION)
        raise MalformedError(what, "its version does not parse")
    lines = data.split(b"\n")
    if len(data) != SECTOR_BYTES or len(lines) != _LINES + 1 or lines[_LINES]:
        raise MalformedError(what, "it was cut, or is too long")
    text = lines[0] + b"\n" + lines[1] + b"\n"
    if lines[2].rstrip(b" ") != hashlib.sha256(text).hexdigest().encode():
        raise MalformedError(what, "it is damaged")
    try:
        count = msgspec.json.decode(lines[1], type=WriteCount)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MalformedError(what, "it does not parse") from error
    if not is_data_key_id(count.data_key_id) or count.written_bytes < 0:
        raise MalformedError(what, "its values are not possible")
    return count
