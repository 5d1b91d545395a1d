"""Zero runs: which parts of a write could be holes instead. Pure arithmetic and comparison."""

from collections.abc import Iterator

from volcrypt.crypto.xts import is_zero
from volcrypt.geometry import UNIT_BYTES, ByteRange


def zero_runs(extent: ByteRange, data: memoryview) -> Iterator[tuple[ByteRange, bool]]:
    """`extent`, whose bytes are `data`, in order in runs: True are whole data units of zeros, False
    is all else."""
    start = extent.offset
    was_zero = False
    for unit in range(-(-extent.offset // UNIT_BYTES) * UNIT_BYTES, extent.end, UNIT_BYTES):
        place = unit - extent.offset
        is_one = unit + UNIT_BYTES <= extent.end and is_zero(data[place : place + UNIT_BYTES])
        if is_one != was_zero:
            if start < unit:
                yield ByteRange(start, unit - start), was_zero
            start, was_zero = unit, is_one
    if start < extent.end:
        yield ByteRange(start, extent.end - start), was_zero
