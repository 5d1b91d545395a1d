"""Sizes and offsets: data units, chunks, ranges. Pure arithmetic, all in bytes of plaintext.

A *data unit* (IEEE 1619) is what one XTS tweak covers; a *chunk* is the unit of snapshots and of
change tracking; a *sector* is the 512-byte unit of Linux interfaces.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from volcrypt.errors import InvalidArgumentError

SECTOR_BYTES: Final = 512
UNIT_BYTES: Final = 4096
CHUNK_BYTES: Final = 512 * 1024
UNITS_PER_CHUNK: Final = CHUNK_BYTES // UNIT_BYTES
MAX_VOLUME_BYTES: Final = 64 * 2**40

_SIZE = re.compile(r"([0-9]{1,20})(B|[KMGT]i?B?)?", re.IGNORECASE | re.ASCII)
_BINARY: Final = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_DECIMAL: Final = {"K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


@dataclass(frozen=True, slots=True)
class ByteRange:
    """`length` bytes from `offset`; may be empty."""

    offset: int
    length: int

    @property
    def end(self) -> int:
        return self.offset + self.length

    def overlaps(self, other: "ByteRange") -> bool:
        """True when a byte lies in both; an empty range overlaps nothing."""
        return max(self.offset, other.offset) < min(self.end, other.end)


def chunk_count(size_bytes: int) -> int:
    """How many chunks cover a volume of this size; the last may be short."""
    return -(-size_bytes // CHUNK_BYTES)


def chunk_range(index: int, size_bytes: int) -> ByteRange:
    """The bytes of chunk `index` in a volume of this size."""
    offset = index * CHUNK_BYTES
    return ByteRange(offset, min(CHUNK_BYTES, size_bytes - offset))


def chunks_of(extent: ByteRange) -> range:
    """The indexes of the chunks that `extent` touches."""
    if extent.length == 0:
        return range(0)
    return range(extent.offset // CHUNK_BYTES, (extent.end - 1) // CHUNK_BYTES + 1)


def align_to_units(extent: ByteRange) -> ByteRange:
    """The smallest range of whole data units that covers `extent`."""
    start = extent.offset // UNIT_BYTES * UNIT_BYTES
    end = -(-extent.end // UNIT_BYTES) * UNIT_BYTES
    return ByteRange(start, end - start)


def is_unit_aligned(extent: ByteRange) -> bool:
    return extent.offset % UNIT_BYTES == 0 and extent.length % UNIT_BYTES == 0


def split_at_chunks(extent: ByteRange) -> Iterator[ByteRange]:
    """`extent` in order, in pieces that each lie in one chunk."""
    offset = extent.offset
    while offset < extent.end:
        end = min(extent.end, (offset // CHUNK_BYTES + 1) * CHUNK_BYTES)
        yield ByteRange(offset, end - offset)
        offset = end


def parse_size(text: str) -> int:
    """Bytes from `4096`, `10GiB`, `500M`: K, M, G, T alone or with `iB` are powers of 1024, with
    `B` powers of 1000 (`MB` = 10^6).

    Raises InvalidArgumentError.
    """
    match = _SIZE.fullmatch(text)
    if match is None:
        raise InvalidArgumentError(f"{text!r} is not a size", hint="write it like 10GiB or 500M")
    number, suffix = int(match[1]), (match[2] or "B").upper()
    if suffix == "B":
        return number
    decimal = suffix.endswith("B") and "I" not in suffix
    return number * (_DECIMAL if decimal else _BINARY)[suffix[0]]


def check_volume_size(size_bytes: int) -> int:
    """`size_bytes` when a volume may have it; raises InvalidArgumentError otherwise."""
    if size_bytes <= 0:
        raise InvalidArgumentError("a volume must be larger than zero bytes")
    if size_bytes % UNIT_BYTES:
        raise InvalidArgumentError(
            f"a volume's size must be a multiple of {UNIT_BYTES} bytes, {size_bytes} is not"
        )
    if size_bytes > MAX_VOLUME_BYTES:
        raise InvalidArgumentError("a volume cannot be larger than 64 TiB")
    return size_bytes


def format_size(size_bytes: int) -> str:
    """For people: `512 B`, `1.5 GiB`."""
    if size_bytes < 1024:
        return f"{size_bytes} B"
    exponent = min((size_bytes.bit_length() - 1) // 10, 4)
    return f"{size_bytes / 1024**exponent:.4g} {('KiB', 'MiB', 'GiB', 'TiB')[exponent - 1]}"
