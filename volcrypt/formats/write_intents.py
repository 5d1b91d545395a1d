"""Write intents: where the two sides of a volume that is being migrated may differ.

A file `intents` beside the record, in sectors of 512 bytes, each written as a whole, so that a
power cut leaves the old or the new one; integers little-endian:

    offset  length  header, the first sector
    0       8       magic VCRYPINT
    8       4       version
    12      4       zeros
    16      32      volume id, padded with zeros
    48      8       size of the volume in bytes
    56      8       region size: what one bit stands for
    64      16      migration: random bytes that its record names
    80      400     zeros
    480     32      SHA-256 of the bytes before
    512 + 512 i     sector i of the bits, from region 3968 i on: as in `bit_sectors`, of the owner
                    that bytes 16 to 80 of the header make; bit r is region 3968 i + r,
                    1 = may differ

Rationale. A bit that is clear and should be set loses a write when the volume is switched over, so
doubt sets bits: a sector that does not hold, zeros too, stands for bits that are all set, and a
header that is damaged, or of another volume or migration, for a file of such sectors.

A worked example, 10 regions of which 0 and 9 may differ, is in
`tests/formats/test_write_intents.py`.
"""

import hashlib
import struct
from dataclasses import dataclass
from typing import Final

from volcrypt.errors import BadMagicError, IntegrityError, MalformedError, UnsupportedVersionError
from volcrypt.formats.bit_sectors import SECTOR_BITMAP_BYTES, open_bits, seal_bits, sectors_for
from volcrypt.geometry import CHUNK_BYTES, MAX_VOLUME_BYTES, SECTOR_BYTES, UNIT_BYTES
from volcrypt.names import VolumeId, is_volume_id

VERSION: Final = 1
MAGIC: Final = b"VCRYPINT"
MIGRATION_BYTES: Final = 16
REGIONS: Final = 2**15
"""More than so many only volumes have whose regions are as small as can be."""
SMALLEST_REGION_BYTES: Final = 8 * CHUNK_BYTES

_HEADER: Final = struct.Struct("<8sI4x32sQQ16s400x")
_OWNER: Final = slice(16, 80)


@dataclass(frozen=True, slots=True, kw_only=True)
class IntentsHeader:
    """Whose intents they are. `migration` are 16 random bytes."""

    volume_id: VolumeId
    size_bytes: int
    region_bytes: int
    migration: bytes

    @property
    def region_count(self) -> int:
        return -(-self.size_bytes // self.region_bytes)

    @property
    def sector_count(self) -> int:
        """Sectors behind the header."""
        return sectors_for(self.region_count)

    @property
    def file_bytes(self) -> int:
        return SECTOR_BYTES * (1 + self.sector_count)


def region_bytes_for(size_bytes: int) -> int:
    """The region size for a volume: each costs a sync when it is first written to, and is copied
    again as a whole after a crash."""
    chunks = -(-size_bytes // (REGIONS * CHUNK_BYTES))
    return max(SMALLEST_REGION_BYTES, chunks * CHUNK_BYTES)


def encode_header(header: IntentsHeader) -> bytes:
    """The first sector."""
    covered = _HEADER.pack(
        MAGIC,
        VERSION,
        header.volume_id.encode(),
        header.size_bytes,
        header.region_bytes,
        header.migration,
    )
    return covered + hashlib.sha256(covered).digest()


def decode_header(sector: bytes, *, what: str) -> IntentsHeader:
    """Raises FormatError and IntegrityError; `what` names the file in them."""
    if not sector.startswith(MAGIC):
        raise BadMagicError(what)
    if len(sector) != SECTOR_BYTES:
        raise MalformedError(what, "truncated or damaged")
    covered = sector[: _HEADER.size]
    if hashlib.sha256(covered).digest() != sector[_HEADER.size :]:
        raise IntegrityError(f"{what}: it is damaged")
    _, version, volume_id, size_bytes, region_bytes, migration = _HEADER.unpack(covered)
    if version != VERSION:
        raise UnsupportedVersionError(what, version, VERSION)
    text = volume_id.rstrip(b"\0").decode("ascii", "replace")
    if (
        any(covered[12:16])
        or not is_volume_id(text)
        or not 0 < size_bytes <= MAX_VOLUME_BYTES
        or size_bytes % UNIT_BYTES
        or not region_bytes
        or region_bytes % CHUNK_BYTES
        or any(covered[80:])
    ):
        raise MalformedError(what, "its values contradict each other")
    return IntentsHeader(
        volume_id=VolumeId(text),
        size_bytes=size_bytes,
        region_bytes=region_bytes,
        migration=migration,
    )


def sector_offset(index: int) -> int:
    """Where sector `index` of the bits lies in the file."""
    return SECTOR_BYTES * (1 + index)


def encode_sector(header: IntentsHeader, index: int, bits: bytes) -> bytes:
    """Sector `index` of the file, whose bits are `bits`."""
    return seal_bits(encode_header(header)[_OWNER], index, bits)


def decode_sectors(header: IntentsHeader, data: bytes) -> bytearray:
    """The bits of all sectors, one after the other, from the file behind its header; all set where
    it does not hold, or is missing."""
    owner = encode_header(header)[_OWNER]
    bitmap = bytearray()
    for index in range(header.sector_count):
        sector = data[SECTOR_BYTES * index : SECTOR_BYTES * (index + 1)]
        bits = open_bits(owner, index, sector)
        bitmap += b"\xff" * SECTOR_BITMAP_BYTES if bits is None else bits
    return bitmap
