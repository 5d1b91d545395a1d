"""A volume's ciphertext in memory: source and sink of chunks, which counts what is read."""

import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

from typing_extensions import Buffer

from volcrypt.geometry import chunk_range
from volcrypt.snapshot.transfer import ChunkSink, ChunkSource


def chunk_bytes(seed: int, length: int) -> bytes:
    """Bytes that differ between seeds; zeros for seed 0."""
    return (seed.to_bytes(8, "little") * (length // 8 + 1))[:length]


class MemoryChunks:
    """Chunks by index; those that are not there are holes."""

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.chunks: dict[int, bytes] = {}
        self.reads: list[int] = []
        self.synced = False
        self.fail_at: int | None = None
        """Reading or writing the chunk of this index fails."""
        self._lock = threading.Lock()

    def fill(self, index: int, seed: int) -> None:
        """Write a whole chunk of one seed."""
        self.chunks[index] = chunk_bytes(seed, chunk_range(index, self.size_bytes).length)

    def image(self) -> dict[int, bytes]:
        """Chunks that are not zero: what a snapshot must restore."""
        return {index: data for index, data in self.chunks.items() if any(data)}

    def candidate_chunks(self, first: int = 0) -> Iterator[int]:
        yield from (index for index in sorted(self.chunks) if index >= first)

    def grow(self, size_bytes: int) -> None:
        """Zeros behind the end, also in a last chunk that was short."""
        self.size_bytes = size_bytes
        for index, data in self.chunks.items():
            self.chunks[index] = data.ljust(chunk_range(index, size_bytes).length, b"\0")

    def read_chunk(self, index: int, buffer: Buffer) -> None:
        with self._lock:
            self.reads.append(index)
        if index == self.fail_at:
            raise OSError(5, "the disk failed")
        view = memoryview(buffer)
        view[:] = self.chunks.get(index, bytes(view.nbytes))

    def write_chunk(self, index: int, data: Buffer) -> None:
        if index == self.fail_at:
            raise OSError(5, "the disk failed")
        with self._lock:
            self.chunks[index] = bytes(data)

    def sync(self) -> None:
        self.synced = True


if TYPE_CHECKING:

    def _conforms(chunks: MemoryChunks) -> tuple[ChunkSource, ChunkSink]:
        return chunks, chunks
