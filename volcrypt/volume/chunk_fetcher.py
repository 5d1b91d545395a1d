"""ChunkFetcher: one absent chunk of a volume, brought from its origin into the data file.

It knows trio, and what was fetched and what failed; it does not know what is durable: that, and who
wants which chunks when, is for `volume.lazy`.

A chunk is fetched once, however many want it. It goes into the data file when it is whole and was
checked. Fetches that wait for their origin can be given up; what comes later is thrown away.
"""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

import numpy as np
import trio
from numpy.typing import NDArray

from volcrypt.errors import IntegrityError, VolcryptError
from volcrypt.formats.pages import PAGE_CHUNKS
from volcrypt.geometry import CHUNK_BYTES, chunk_range
from volcrypt.volume.present import PresentMap
from volcrypt.volume.shared_work import SharedWork

if TYPE_CHECKING:
    from volcrypt.volume.datafile import DataFile

POOLED_BUFFERS: Final = 4
_REPORTED: Final = 1000
_ANY_CHUNK: Final = -1

Result = TypeVar("Result")
_log: Final = logging.getLogger(__name__)


class Origin(Protocol):
    """Where absent chunks come from. All calls may block, and come from several threads at once."""

    def hole_pages(self) -> NDArray[np.bool_]:
        """One element for each page of chunks: True where all of its chunks are holes."""
        ...

    def holes(self, page: int) -> NDArray[np.bool_]:
        """One element for each chunk of a page: True for a hole."""
        ...

    def read_chunk(self, index: int, buffer: memoryview) -> None:
        """The ciphertext of a chunk, checked; raises VolcryptError, and then `buffer` holds
        anything."""
        ...


class ChunkFile(Protocol):
    """What a lazy volume's own storage must be able to do; `DataFile` has it."""

    def write(self, offset: int, data: memoryview) -> None: ...


class ChunkFetcher:
    def __init__(
        self,
        origin: Origin,
        present: PresentMap,
        *,
        size_bytes: int,
        data: ChunkFile,
        before_write: Callable[[], Awaitable[None]],
    ) -> None:
        """`size_bytes` is the snapshot's; `before_write` waits until `data` may be written to,
        or raises why it will not be."""
        self._origin = origin
        self._present = present
        self._size_bytes = size_bytes
        self._data = data
        self._before_write = before_write
        self._known_pages: set[int] = set()
        self._knows_hole_pages = False
        self._shared = SharedWork()
        self._buffers: list[memoryview] = []
        self._reported: dict[int, str] = {}
        self.fetched: set[int] = set()
        """Chunks that are in the data file, though perhaps not on the medium."""
        self.ended: VolcryptError | None = None
        """Why nothing is fetched any more."""
        self.last_error: VolcryptError | None = None
        """Why the last fetch failed; None after one that did not."""

    @property
    def problem(self) -> str | None:
        """Why something cannot be had: what came up last of that which has not come since."""
        return next(reversed(self._reported.values()), None)

    def has(self, chunk: int) -> bool:
        """Whether it can be read now."""
        return self._present.has(chunk) or chunk in self.fetched

    def reason(self, chunk: int) -> str | None:
        """Why this one cannot be had; None where that was no fault of its own."""
        return self._reported.get(chunk)

    async def end(self, reason: VolcryptError) -> None:
        """Give up what is being fetched; nothing is from now on."""
        if self.ended is None:
            self.ended = reason
        await self._shared.give_up(self.ended)

    async def fetch(self, chunk: int, limiter: trio.CapacityLimiter) -> None:
        """Make one chunk readable."""
        if self.ended is not None:
            raise self.ended
        try:
            await self._shared.run(chunk, lambda: self._fetch_alone(chunk, limiter))
        except VolcryptError as error:
            self._report(chunk, error)
            raise
        if self._reported:
            if self._reported.pop(chunk, None) is not None:
                _log.warning("chunk %d can be had again", chunk)
            if self._reported.pop(_ANY_CHUNK, None) is not None:
                _log.warning("chunks can be had again")
        self.last_error = None

    async def _fetch_alone(self, chunk: int, limiter: trio.CapacityLimiter) -> None:
        await self.learn(chunk // PAGE_CHUNKS, limiter)
        if self.has(chunk):
            return
        extent = chunk_range(chunk, self._size_bytes)
        async with self._buffer() as buffer:
            view = buffer[: extent.length]
            await _given_up_in_thread(lambda: self._origin.read_chunk(chunk, view), limiter)
            await self._before_write()
            # Not given up: it must not write when the data file is closed.
            await trio.to_thread.run_sync(self._data.write, extent.offset, view)
        self.fetched.add(chunk)

    async def replace(self, chunk: int, work: Callable[[int], None]) -> bool:
        """Have `work` give the chunk its content, in a thread, instead of fetching it; False where
        it is here, or somebody fetches it. Raises what `work` raises."""
        if self.has(chunk) or self._shared.is_under_way(chunk):
            return False
        if self.ended is not None:
            raise self.ended
        await self._shared.run(chunk, partial(self._replace_alone, chunk, work))
        return True

    async def _replace_alone(self, chunk: int, work: Callable[[int], None]) -> None:
        await self._before_write()
        await trio.to_thread.run_sync(work, chunk)
        self.fetched.add(chunk)

    async def learn(self, page: int, limiter: trio.CapacityLimiter) -> None:
        """Find out which chunks of a page are holes."""
        if page in self._known_pages:
            return
        await self.learn_table(limiter)
        if page not in self._known_pages:
            await self._shared.run(("page", page), lambda: self._learn_page(page, limiter))

    async def learn_table(self, limiter: trio.CapacityLimiter) -> None:
        """Find out which pages are nothing but holes."""
        if not self._knows_hole_pages:
            await self._shared.run("table", lambda: self._learn_hole_pages(limiter))

    async def _learn_hole_pages(self, limiter: trio.CapacityLimiter) -> None:
        hole_pages = await _given_up_in_thread(self._origin.hole_pages, limiter)
        # A page at a time would be as many calls as there are pages, nearly all of them holes.
        step = 512
        for first in range(0, len(hole_pages), step):
            some = hole_pages[first : first + step]
            if some.any():
                self._present.mark_holes(first * PAGE_CHUNKS, np.repeat(some, PAGE_CHUNKS))
        self._known_pages.update(np.flatnonzero(hole_pages).tolist())
        self._knows_hole_pages = True

    async def _learn_page(self, page: int, limiter: trio.CapacityLimiter) -> None:
        holes = await _given_up_in_thread(lambda: self._origin.holes(page), limiter)
        self._present.mark_holes(page * PAGE_CHUNKS, holes)
        self._known_pages.add(page)

    def _report(self, chunk: int, error: VolcryptError) -> None:
        """Once for each chunk and reason; a store that is away is one reason for all."""
        if error is self.ended:
            return
        key = chunk if isinstance(error, IntegrityError) else _ANY_CHUNK
        self.last_error = error
        if self._reported.get(key) != str(error) and len(self._reported) < _REPORTED:
            self._reported[key] = str(error)
            _log.warning("chunk %d cannot be had: %s", chunk, error)

    @asynccontextmanager
    async def _buffer(self) -> AsyncIterator[memoryview]:
        buffer = self._buffers.pop() if self._buffers else memoryview(bytearray(CHUNK_BYTES))
        yield buffer
        # Not when it failed: a thread that was given up may still write into it.
        self._buffers.append(buffer)
        del self._buffers[POOLED_BUFFERS:]


async def _given_up_in_thread(work: Callable[[], Result], limiter: trio.CapacityLimiter) -> Result:
    """Run it in a thread that is left alone when the task is cancelled."""
    return await trio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=limiter)


if TYPE_CHECKING:

    def _conformance(data: DataFile) -> ChunkFile:
        return data
