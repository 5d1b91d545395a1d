"""Where absent chunks come from, in memory: counts what is asked for, fails and waits as told."""

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from volcrypt.errors import ChunkCorruptError
from volcrypt.formats.pages import PAGE_CHUNKS, page_count, page_range
from volcrypt.geometry import chunk_count, chunk_range
from volcrypt.volume.chunk_fetcher import Origin


class MemoryOrigin:
    """Chunks of ciphertext by index; those that are not there are holes."""

    def __init__(self, size_bytes: int, chunks: dict[int, bytes]) -> None:
        self.size_bytes = size_bytes
        self.chunks = chunks
        self.calls: list[tuple[str, int]] = []
        self.faults: dict[int, Callable[[], Exception]] = {}
        """Chunks that cannot be had, and why."""
        self.fails: Callable[[], Exception] | None = None
        """Why nothing at all can be had."""
        self.gate = threading.Event()
        """Clear: every chunk is on its way for ever."""
        self.gate.set()

    def hole_pages(self) -> NDArray[np.bool_]:
        self._note("table", 0)
        pages = {chunk // PAGE_CHUNKS for chunk in self.chunks}
        return np.array([page not in pages for page in range(page_count(self.size_bytes))])

    def holes(self, page: int) -> NDArray[np.bool_]:
        self._note("page", page)
        return np.array([chunk not in self.chunks for chunk in page_range(page, self.size_bytes)])

    def read_chunk(self, index: int, buffer: memoryview) -> None:
        self._note("chunk", index)
        # As bytes of the network do: what is not right is there as well.
        buffer[:] = b"\xee" * len(buffer)
        assert self.gate.wait(30)
        if (fault := self.faults.get(index)) is not None:
            raise fault()
        buffer[:] = self.chunks[index]

    def asked_for(self, kind: str) -> list[int]:
        """Numbers of the calls of one kind, in order."""
        return [number for called, number in self.calls if called == kind]

    def _note(self, kind: str, number: int) -> None:
        self.calls.append((kind, number))
        if self.fails is not None:
            raise self.fails()


def damaged(index: int) -> Callable[[], Exception]:
    return lambda: ChunkCorruptError("00" * 32, f"chunk {index} of snapshot snap-0")


def image_of(origin: MemoryOrigin) -> bytearray:
    """The ciphertext of the whole snapshot."""
    image = bytearray(origin.size_bytes)
    for index in range(chunk_count(origin.size_bytes)):
        extent = chunk_range(index, origin.size_bytes)
        image[extent.offset : extent.end] = origin.chunks.get(index, bytes(extent.length))
    return image


if TYPE_CHECKING:

    def _conforms(origin: MemoryOrigin) -> Origin:
        return origin
