"""MemoryKeeper: what a capture keeps, in memory; can be held up, and fail."""

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tests.fakes.datafile import MemoryDataFile
from volcrypt.geometry import chunk_range

if TYPE_CHECKING:
    from volcrypt.volume.capture import ChunkKeeper


class MemoryKeeper:
    """`kept` has the ciphertext of each chunk that was kept.

    `gate` holds up `keep`, and `error` makes it fail. `most_at_once` threads were in it; each that
    comes gives `came` once more.
    """

    descriptors: Sequence[int] = ()

    def __init__(self, data: MemoryDataFile) -> None:
        self.kept: dict[int, bytes] = {}
        self.gate = threading.Event()
        self.gate.set()
        self.error: Exception | None = None
        self.takes_room_of_data = False
        self.discarded = False
        self.closed = False
        self.most_at_once = 0
        self.came = threading.Semaphore(0)
        self._at_once = 0
        self._data = data
        self._size_bytes = data.size_bytes
        self._lock = threading.Lock()

    def keep(self, chunk: int) -> None:
        assert chunk not in self.kept, "kept twice"
        assert not self.closed
        with self._lock:
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        self.came.release()
        try:
            assert self.gate.wait(10)
            if self.error is not None:
                raise self.error
            extent = chunk_range(chunk, self._size_bytes)
            content = bytearray(extent.length)
            self._data.read_into(extent.offset, content)
            self.kept[chunk] = bytes(content)
        finally:
            with self._lock:
                self._at_once -= 1

    def discard(self) -> None:
        self.discarded = True
        self.kept.clear()

    def close(self) -> None:
        self.closed = True


if TYPE_CHECKING:

    def _conformance(keeper: MemoryKeeper) -> ChunkKeeper:
        return keeper
