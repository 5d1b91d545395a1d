"""LUKS2 headers, as far as it takes to import what stands behind one: where the data is, and that
it is encrypted in the one way that we read.

The format is cryptsetup's ("LUKS2 On-Disk Format Specification"), read and never written here.
Integers are big-endian:

    offset  length
    0       6       magic "LUKS" 0xBA 0xBE
    6       2       version: 2; LUKS1 has 1
    8       8       size of this header with its JSON area: a power of two, 16 KiB to 4 MiB
    72      32      name of the checksum's algorithm
    256     8       offset of this header: 0
    448     64      checksum of all of it, with zeros in this place
    4096    ...     JSON, then zeros

A second copy follows it, and then the area of the keyslots, which only cryptsetup looks at: it
gives the volume key. Of the JSON we read which one segment there is, and that nothing is in it that
would change what its bytes mean. Whoever made the image made the header too: nothing in it is
believed beyond what the limits below allow.
"""

import hashlib
import re
from dataclasses import dataclass
from typing import Final

import msgspec

from volcrypt.crypto.data_key import DATA_KEY_BYTES
from volcrypt.errors import InvalidArgumentError, MalformedError
from volcrypt.geometry import UNIT_BYTES

BINARY_BYTES: Final = 4096
MAX_HEADER_BYTES: Final = 4 * 2**20
MAX_AREAS_BYTES: Final = 256 * 2**20
"""Both copies and the keyslots; cryptsetup makes at most 136 MiB."""
LUKS_MAGIC: Final = b"LUKS\xba\xbe"
_CIPHER: Final = "aes-xts-plain64"
_CHECKSUM: Final = slice(448, 512)
_NUMBER: Final = re.compile(r"[0-9]{1,18}")


@dataclass(frozen=True, slots=True, kw_only=True)
class LuksSegment:
    """The encrypted data: `size_bytes` from `offset_bytes` on, to the end of the device when None.
    The header with its keyslots takes `areas_bytes`."""

    offset_bytes: int
    size_bytes: int | None
    areas_bytes: int


class _Requirements(msgspec.Struct, frozen=True):
    mandatory: list[str] = []


class _Config(msgspec.Struct, frozen=True):
    json_size: str
    keyslots_size: str
    requirements: _Requirements = _Requirements()


class _Keyslot(msgspec.Struct, frozen=True):
    type: str
    key_size: int = 0


class _Segment(msgspec.Struct, frozen=True):
    type: str
    offset: str
    size: str
    iv_tweak: str = "0"
    encryption: str = ""
    sector_size: int = 0
    integrity: object = None
    flags: list[str] = []


class _Metadata(msgspec.Struct, frozen=True):
    keyslots: dict[str, _Keyslot]
    segments: dict[str, _Segment]
    config: _Config


def header_length(start: bytes, *, what: str) -> int:
    """How much there is to read of the header that starts so (`BINARY_BYTES` are enough).

    Raises InvalidArgumentError for LUKS1 and what is no LUKS at all, MalformedError.
    """
    if start[:6] != LUKS_MAGIC:
        raise InvalidArgumentError(f"{what} has no LUKS header")
    version = int.from_bytes(start[6:8], "big")
    if version != 2:
        raise InvalidArgumentError(
            f"{what} is of LUKS version {version}; only LUKS2 can be imported",
            hint="'cryptsetup convert --type luks2' makes one of LUKS1, with 512-byte sectors; "
            "or open it with cryptsetup and import what that shows",
        )
    length = int.from_bytes(start[8:16], "big")
    if not 4 * BINARY_BYTES <= length <= MAX_HEADER_BYTES or length & (length - 1):
        raise MalformedError(what, "its header has no possible length")
    return length


def decode_luks2(header: bytes, *, what: str) -> LuksSegment:
    """The one segment of a header, given with all of its JSON area.

    Raises InvalidArgumentError for what cannot be imported, with the reason; MalformedError for
    what is damaged or contradicts itself.
    """
    length = header_length(header, what=what)
    if len(header) < length:
        raise MalformedError(what, "its header is cut short")
    _check_sum(header[:length], what)
    metadata = _decode_json(header[BINARY_BYTES:length], what)
    if _number(metadata.config.json_size, what) != length - BINARY_BYTES:
        raise MalformedError(what, "its header contradicts itself")
    areas = 2 * length + _number(metadata.config.keyslots_size, what)
    if areas > MAX_AREAS_BYTES:
        raise MalformedError(what, "its area of keyslots is larger than there can be")
    segment = _only_segment(metadata, what)
    size = None if segment.size == "dynamic" else _number(segment.size, what)
    if size is not None and (size == 0 or size % UNIT_BYTES):
        raise MalformedError(what, f"its data has {size} bytes, which cannot be")
    return LuksSegment(
        offset_bytes=_number(segment.offset, what), size_bytes=size, areas_bytes=areas
    )


def _check_sum(header: bytes, what: str) -> None:
    algorithm = header[72:104].rstrip(b"\0").decode("latin-1")
    if algorithm != "sha256":
        raise InvalidArgumentError(f"{what}: its checksum is by {algorithm!r}, not by 'sha256'")
    if header[256:264] != bytes(8):
        raise MalformedError(what, "its header belongs to another place")
    blank = header[: _CHECKSUM.start] + bytes(64) + header[_CHECKSUM.stop :]
    if header[_CHECKSUM] != hashlib.sha256(blank).digest() + bytes(32):
        raise MalformedError(what, "the checksum of its header does not hold")


def _decode_json(area: bytes, what: str) -> _Metadata:
    text, _, rest = area.partition(b"\0")
    if rest.strip(b"\0"):
        raise MalformedError(what, "there is something behind the JSON of its header")
    try:
        return msgspec.json.decode(text, type=_Metadata)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedError(what, "the JSON of its header does not parse") from error


def _only_segment(metadata: _Metadata, what: str) -> _Segment:
    """The segment, when it is what we read. Raises InvalidArgumentError that says what it is."""
    requirements = metadata.config.requirements.mandatory
    segments = list(metadata.segments.values())
    if (
        any("reencrypt" in name for name in requirements)
        or any(slot.type == "reencrypt" for slot in metadata.keyslots.values())
        or any("in-reencryption" in segment.flags for segment in segments)
    ):
        raise InvalidArgumentError(
            f"{what}: a reencryption of it is unfinished",
            hint="finish it with 'cryptsetup reencrypt'",
        )
    if requirements:
        raise _cannot(what, f"it requires {', '.join(map(repr, requirements))}")
    if len(segments) != 1:
        raise _cannot(what, f"it has {len(segments)} segments")
    (segment,) = segments
    if segment.type != "crypt":
        raise _cannot(what, f"its data is of type {segment.type!r}")
    if segment.integrity is not None:
        raise _cannot(what, "it has integrity protection")
    if segment.encryption != _CIPHER:
        raise _cannot(what, f"its cipher is {segment.encryption!r}")
    if segment.sector_size != UNIT_BYTES:
        raise _cannot(what, f"its sectors have {segment.sector_size} bytes")
    if segment.iv_tweak != "0":
        raise _cannot(what, f"its IVs start at {segment.iv_tweak!r}")
    if segment.flags:
        raise _cannot(what, f"its data is marked {', '.join(map(repr, segment.flags))}")
    sizes = {slot.key_size for slot in metadata.keyslots.values() if slot.type == "luks2"}
    if not sizes:
        raise _cannot(what, "it has no keyslot")
    if DATA_KEY_BYTES not in sizes:
        bits = ", ".join(str(8 * size) for size in sorted(sizes))
        raise _cannot(what, f"its key has {bits} bits")
    return segment


def _cannot(what: str, reason: str) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"{what} cannot be imported: {reason}",
        hint=f"imported is LUKS2 with {_CIPHER}, a key of {8 * DATA_KEY_BYTES} bits and sectors of "
        f"{UNIT_BYTES} bytes; open it with cryptsetup, and import what that shows",
    )


def _number(text: str, what: str) -> int:
    if _NUMBER.fullmatch(text) is None:
        raise MalformedError(what, "its header contradicts itself")
    return int(text)
