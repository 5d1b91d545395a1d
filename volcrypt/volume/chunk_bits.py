"""One bit a chunk: tables, and what they are as bytes. Pure.

As bytes, bit i % 8 (from the lowest) of byte i // 8 is chunk i; bits beyond the last chunk mean
nothing.
"""

import zlib
from collections.abc import Iterator
from typing import Final

import numpy as np

from volcrypt.errors import MalformedError
from volcrypt.geometry import chunk_count

_STEP_BYTES: Final = 2**20


class ChunkBits:
    """One bit a chunk, all clear at first."""

    def __init__(self, chunks: int) -> None:
        self.chunks = chunks
        self._array = np.zeros(-(-chunks // 8), dtype=np.uint8)
        # Indexing a memoryview gives an int several times faster than indexing the array.
        self._bytes = memoryview(self._array.data)

    def __getitem__(self, chunk: int) -> bool:
        return bool(self._bytes[chunk >> 3] >> (chunk & 7) & 1)

    def set(self, chunks: range) -> None:
        assert chunks.step == 1, "internal error: chunks are a run"
        assert 0 <= chunks.start <= chunks.stop <= self.chunks, "internal error: no such chunk"
        first_whole, last_whole = -(-chunks.start // 8), chunks.stop // 8
        if first_whole < last_whole:
            self._array[first_whole:last_whole] = 0xFF
        for chunk in (
            *range(chunks.start, min(first_whole * 8, chunks.stop)),
            *range(max(last_whole * 8, chunks.start), chunks.stop),
        ):
            self._bytes[chunk >> 3] |= 1 << (chunk & 7)

    def set_where_clear(self, bits: bytes) -> Iterator[None]:
        """Set what is clear in `bits`, one bit a chunk, the lowest of byte 0 first. In steps of a
        fraction of a millisecond each: other calls may come between them."""
        assert len(bits) == len(self._array), "internal error: bits of another volume"
        for first in range(0, len(bits), _STEP_BYTES):
            step = np.frombuffer(bits[first : first + _STEP_BYTES], dtype=np.uint8)
            self._array[first : first + len(step)] |= ~step
            yield


def pack_bits(bits: bytes | bytearray) -> bytes:
    """A volume of 64 TiB has 16 MiB of bits, nearly all of them alike."""
    return zlib.compress(bits, level=1)


def unpack_bits(packed: bytes, size_bytes: int) -> bytes:
    """The bits of all chunks of a volume of this size. Raises MalformedError."""
    length = -(-chunk_count(size_bytes) // 8)
    inflater = zlib.decompressobj()
    try:
        bits = inflater.decompress(packed, length)
    except zlib.error as error:
        raise MalformedError("control document", "its bitmap is damaged") from error
    if len(bits) != length or inflater.unconsumed_tail:
        raise MalformedError("control document", "its bitmap has the wrong length")
    return bits
