"""ChunkSet: which chunks of one volume, in one bit each. Pure.

A volume of 16 TiB has 33.5 million chunks: a byte for each, copied a few times, is more memory than
all the rest of a snapshot. Here they take 4 MiB, and nothing that walks them expands more than a
block of them at once.
"""

from collections.abc import Iterable, Iterator
from typing import Final, Self

import numpy as np
import numpy.typing as npt

_BLOCK_BYTES: Final = 2**13
"""Bits are expanded by 64 Ki at a time."""
_STEP_BYTES: Final = 2**20


class ChunkSet:
    """Some of the chunks 0 to `chunk_count` - 1; empty at first."""

    __slots__ = ("_bits", "_bytes", "chunk_count")

    def __init__(self, chunk_count: int, members: Iterable[int] = ()) -> None:
        self.chunk_count = chunk_count
        self._bits = np.zeros(-(-chunk_count // 8), dtype=np.uint8)
        # Indexing a memoryview gives an int several times faster than indexing the array.
        self._bytes = memoryview(self._bits.data)
        for index in members:
            self.add(index)

    @classmethod
    def of_packed(cls, packed: bytes | bytearray, chunk_count: int) -> Self:
        """From one bit a chunk, the lowest of byte 0 first, as `packed` gives it. Raises ValueError
        for another length; bits behind the last chunk do not matter."""
        made = cls(chunk_count)
        if len(packed) != len(made._bits):
            raise ValueError("the bitmap has the wrong length")
        made._bits[:] = np.frombuffer(packed, dtype=np.uint8)
        made._clear_padding()
        return made

    def packed(self) -> bytes:
        """One bit a chunk, the lowest of byte 0 first."""
        return self._bits.tobytes()

    def add(self, index: int) -> None:
        self._check(index)
        self._bytes[index >> 3] |= 1 << (index & 7)

    def add_run(self, chunks: range) -> None:
        assert chunks.step == 1, "internal error: chunks are a run"
        assert 0 <= chunks.start <= chunks.stop <= self.chunk_count, "internal error: no such chunk"
        first_whole, last_whole = -(-chunks.start // 8), chunks.stop // 8
        if first_whole < last_whole:
            self._bits[first_whole:last_whole] = 0xFF
        for chunk in (
            *range(chunks.start, min(first_whole * 8, chunks.stop)),
            *range(max(last_whole * 8, chunks.start), chunks.stop),
        ):
            self._bytes[chunk >> 3] |= 1 << (chunk & 7)

    def add_others(self, packed: bytes) -> Iterator[None]:
        """Add what is clear in `packed`, one bit a chunk. In steps of a fraction of a millisecond
        each: other calls may come between them."""
        assert len(packed) == len(self._bits), "internal error: bits of another volume"
        for first in range(0, len(packed), _STEP_BYTES):
            step = np.frombuffer(packed[first : first + _STEP_BYTES], dtype=np.uint8)
            self._bits[first : first + len(step)] |= ~step
            self._clear_padding()
            yield

    def remove_from(self, first: int) -> None:
        """Remove `first` and all that follow."""
        if first < self.chunk_count:
            self._bits[first >> 3] &= (1 << (first & 7)) - 1
            self._bits[(first >> 3) + 1 :] = 0

    def __contains__(self, index: int) -> bool:
        self._check(index)
        return bool(self._bytes[index >> 3] >> (index & 7) & 1)

    def __len__(self) -> int:
        blocks = range(0, len(self._bits), _BLOCK_BYTES)
        return sum(
            int.from_bytes(self._bits[at : at + _BLOCK_BYTES].tobytes(), "little").bit_count()
            for at in blocks
        )

    def __iter__(self) -> Iterator[int]:
        """Ascending."""
        return self.starting_at(0)

    def starting_at(self, start: int) -> Iterator[int]:
        """The members from `start` on, ascending."""
        for first, flags in self._blocks():
            if first + len(flags) > start:
                flags[: max(0, start - first)] = 0
                yield from (np.flatnonzero(flags) + first).tolist()

    def runs(self) -> Iterator[range]:
        """The runs of chunks that are members, ascending."""
        last = range(0)
        for first, flags in self._blocks():
            edges = np.flatnonzero(np.diff(flags, prepend=0, append=0)) + first
            for start, stop in edges.reshape(-1, 2).tolist():
                if last.stop == start and last:
                    last = range(last.start, stop)
                    continue
                if last:
                    yield last
                last = range(start, stop)
        if last:
            yield last

    def groups(self, chunks_each: int) -> Iterator[int]:
        """Ascending numbers of the groups of `chunks_each`, a multiple of 8, that have members."""
        width = chunks_each // 8
        whole = len(self._bits) // width
        groups = self._bits[: whole * width].reshape(whole, width)
        yield from np.flatnonzero(groups.any(axis=1)).tolist()
        if self._bits[whole * width :].any():
            yield whole

    def _blocks(self) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
        """The blocks that have members: the number of the first chunk, and a flag for each."""
        for at in range(0, len(self._bits), _BLOCK_BYTES):
            block = self._bits[at : at + _BLOCK_BYTES]
            if block.any():
                yield at * 8, np.unpackbits(block, bitorder="little")

    def _clear_padding(self) -> None:
        if self.chunk_count % 8:
            self._bits[-1] &= (1 << self.chunk_count % 8) - 1

    def _check(self, index: int) -> None:
        if not 0 <= index < self.chunk_count:
            raise IndexError(f"there is no chunk {index} of {self.chunk_count}")
