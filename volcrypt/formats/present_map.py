"""The present map: which chunks of a lazy volume are on its own storage.

A file `present` beside the record, in sectors of 512 bytes, each written as a whole, so that a
power cut leaves the old or the new one; integers little-endian:

    offset  length  header, the first sector
    0       8       magic VCRYPPRS
    8       4       version
    12      4       1 when every chunk is present, and the rest of the file means nothing; else 0
    16      32      volume id, padded with zeros
    48      8       size of the snapshot in bytes
    56      8       chunk size
    64      32      root of the snapshot
    96      384     zeros
    480     32      SHA-256 of the bytes before
    512 + 512 i     sector i of the map, from chunk 3968 i on:
                    bits as in `bit_sectors`, of the owner that volume id and root in the header
                    make; bit c is chunk 3968 i + c, 1 = present

A sector of zeros says that none of its chunks is present; so a new map is a file with a header.
Chunks behind the end of the snapshot are always present, and have no bits, whatever the volume
grows to. Bits behind the last chunk are 0.

Rationale. A bit that is set and should not be shows zeros where the snapshot has data, so every
sector is checked before it is believed.

A worked example, 10 chunks of which 0 and 9 are present, is in `tests/formats/test_present_map.py`.
"""

import hashlib
import struct
from dataclasses import dataclass
from typing import Final

from volcrypt.errors import BadMagicError, IntegrityError, MalformedError, UnsupportedVersionError
from volcrypt.formats.bit_sectors import (
    SECTOR_BITMAP_BYTES,
    SECTOR_BITS,
    open_bits,
    seal_bits,
    sectors_for,
)
from volcrypt.geometry import CHUNK_BYTES, MAX_VOLUME_BYTES, SECTOR_BYTES, UNIT_BYTES, chunk_count
from volcrypt.names import VolumeId, is_volume_id

VERSION: Final = 1
MAGIC: Final = b"VCRYPPRS"
SECTOR_CHUNKS: Final = SECTOR_BITS

_HEADER: Final = struct.Struct("<8sII32sQQ32s384x")
_NOTHING: Final = bytes(SECTOR_BYTES)


@dataclass(frozen=True, slots=True, kw_only=True)
class PresentHeader:
    """Whose map it is. `size_bytes` and `root` are the snapshot's."""

    volume_id: VolumeId
    size_bytes: int
    root: bytes
    complete: bool = False

    @property
    def chunk_count(self) -> int:
        return chunk_count(self.size_bytes)

    @property
    def sector_count(self) -> int:
        """Sectors behind the header."""
        return sectors_for(self.chunk_count)

    @property
    def file_bytes(self) -> int:
        return SECTOR_BYTES * (1 + self.sector_count)


def encode_header(header: PresentHeader) -> bytes:
    """The first sector."""
    covered = _HEADER.pack(
        MAGIC,
        VERSION,
        header.complete,
        header.volume_id.encode(),
        header.size_bytes,
        CHUNK_BYTES,
        header.root,
    )
    return covered + hashlib.sha256(covered).digest()


def decode_header(sector: bytes, *, what: str) -> PresentHeader:
    """Raises FormatError and IntegrityError; `what` names the map in them."""
    if not sector.startswith(MAGIC):
        raise BadMagicError(what)
    if len(sector) != SECTOR_BYTES:
        raise MalformedError(what, "truncated or damaged")
    if hashlib.sha256(sector[: _HEADER.size]).digest() != sector[_HEADER.size :]:
        raise IntegrityError(f"{what}: it is damaged")
    _, version, complete, volume_id, size_bytes, chunk_bytes, root = _HEADER.unpack(
        sector[: _HEADER.size]
    )
    if version != VERSION:
        raise UnsupportedVersionError(what, version, VERSION)
    text = volume_id.rstrip(b"\0").decode("ascii", "replace")
    if (
        complete not in (0, 1)
        or not is_volume_id(text)
        or chunk_bytes != CHUNK_BYTES
        or not 0 < size_bytes <= MAX_VOLUME_BYTES
        or size_bytes % UNIT_BYTES
        or any(sector[_HEADER.size - 384 : _HEADER.size])
    ):
        raise MalformedError(what, "its values contradict each other")
    return PresentHeader(
        volume_id=VolumeId(text), size_bytes=size_bytes, root=root, complete=bool(complete)
    )


def sector_offset(index: int) -> int:
    """Where sector `index` of the map lies in the file."""
    return SECTOR_BYTES * (1 + index)


def encode_sector(header: PresentHeader, index: int, bits: bytes) -> bytes:
    """Sector `index` of the map, whose bits are `bits`."""
    return seal_bits(_owner(header), index, bits) if any(bits) else _NOTHING


def decode_sectors(header: PresentHeader, data: bytes, *, what: str) -> bytearray:
    """The bits of all sectors, one after the other, from the file behind its header.

    Raises IntegrityError when one is damaged or another's, and MalformedError.
    """
    if len(data) != SECTOR_BYTES * header.sector_count:
        raise MalformedError(what, "not of the length that the snapshot's size asks for")
    bitmap = bytearray(SECTOR_BITMAP_BYTES * header.sector_count)
    for index in range(header.sector_count):
        sector = data[SECTOR_BYTES * index : SECTOR_BYTES * (index + 1)]
        if sector == _NOTHING:
            continue
        bits = open_bits(_owner(header), index, sector)
        if bits is None or not any(bits):
            raise IntegrityError(f"{what}: it is damaged in sector {index}")
        bitmap[SECTOR_BITMAP_BYTES * index : SECTOR_BITMAP_BYTES * (index + 1)] = bits
    padding = int.from_bytes(bitmap[header.chunk_count // 8 :], "little")
    if padding >> header.chunk_count % 8:
        raise MalformedError(what, "it has bits behind its last chunk")
    return bitmap


def _owner(header: PresentHeader) -> bytes:
    return header.volume_id.encode().ljust(32, b"\0") + header.root
