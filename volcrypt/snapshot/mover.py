"""ChunkMover: reads, transforms and puts chunks; a TableWriter makes pages of their digests."""

from collections.abc import Awaitable, Callable, Iterable, Iterator
from itertools import islice
from typing import Protocol

import trio
from typing_extensions import Buffer

from volcrypt.crypto.digest import ZERO_DIGEST
from volcrypt.crypto.xts import is_zero
from volcrypt.formats.pages import PAGE_CHUNKS
from volcrypt.snapshot.pace import Pace
from volcrypt.snapshot.pump import in_thread, pump
from volcrypt.snapshot.store import Stored
from volcrypt.snapshot.table import ChunkTable, TableWriter

Progress = Callable[[int, int], None]
"""Called with chunk index and bytes, on the loop's thread, when a chunk is stored or restored."""
Step = Callable[[int, memoryview], None]
"""Changes the ciphertext of a chunk in place, given its index; runs in worker threads."""


class ChunkSource(Protocol):
    """What chunks are read from; safe for several threads."""

    @property
    def size_bytes(self) -> int: ...
    def candidate_chunks(self) -> Iterable[int]: ...
    def read_chunk(self, index: int, buffer: Buffer) -> None: ...


class ChunkMover:
    """Reads, transforms and puts chunks; the pages go through a TableWriter."""

    def __init__(
        self,
        source: ChunkSource,
        writer: TableWriter,
        *,
        step: Step | None,
        limiter: trio.CapacityLimiter,
        progress: Progress | None,
        pace: Pace | None = None,
    ) -> None:
        """`pace`: how fast chunks are read; as fast as it goes when None."""
        self._source = source
        self._writer = writer
        self._step = step
        self._limiter = limiter
        self._progress = progress
        self._pace = pace
        self._page: int | None = None
        self._known: dict[int, bytes | None] = {}
        self._under_way: dict[int, int] = {}
        """Chunks that were begun and are not recorded, in order, by how many were begun before."""
        self.begun = 0
        """How many chunks were begun."""
        self._following = 0

    @property
    def done(self) -> tuple[int, int]:
        """`(index, count)`: all chunks below this index that were to be stored are recorded, and so
        many they are."""
        for index, before in self._under_way.items():
            return index, before
        return self._following, self.begun

    async def store(
        self,
        indexes: Iterator[int],
        limit: int | None = None,
        *,
        admit: Callable[[], Awaitable[None]] | None = None,
    ) -> bool:
        """Store up to `limit` chunks more; False when there was none left. `admit` is awaited
        before each is begun."""

        async def prepare(index: int) -> None:
            if admit is not None:
                await admit()
            await self._prepare(index)

        count = await pump(
            islice(indexes, limit),
            self._store,
            size_bytes=self._source.size_bytes,
            limiter=self._limiter,
            prepare=prepare,
        )
        return count > 0

    async def close_page(self) -> None:
        """Nothing more will come."""
        if self._page is not None:
            page, self._page = self._page, None
            if self._writer.close_page(page):
                await self._put_page(page)

    async def _prepare(self, index: int) -> None:
        page = index // PAGE_CHUNKS
        if self._page != page:
            await self.close_page()
            await in_thread(self._limiter, lambda: self._writer.open_page(page))
            self._page = page
        self._known[index] = self._writer.expect(index)
        self._under_way[index] = self.begun
        self.begun += 1
        self._following = index + 1

    async def _store(self, index: int, view: memoryview) -> None:
        known = self._known.pop(index)
        if self._pace is not None:
            await self._pace.wait(len(view))
        digest, stored = await in_thread(self._limiter, lambda: self._store_one(index, view, known))
        page = self._writer.record(index, digest, stored)
        del self._under_way[index]
        if self._progress is not None:
            self._progress(index, len(view))
        if page is not None:
            await self._put_page(page)

    async def _put_page(self, page: int) -> None:
        digest, repaired = await in_thread(self._limiter, lambda: self._writer.put_page(page))
        self._writer.page_put(page, digest, repaired)

    def _store_one(self, index: int, view: memoryview, known: bytes | None) -> tuple[bytes, Stored]:
        if known is not None and self._unread_digest(index) == known:
            return known, Stored.PRESENT
        self._source.read_chunk(index, view)
        if is_zero(view):
            return ZERO_DIGEST, Stored.PRESENT  # a hole stays one under any key
        if self._step is not None:
            self._step(index, view)
        store = self._writer.store
        digest = store.digest.digest(view)
        if digest == known:
            return digest, Stored.PRESENT
        return digest, store.put_chunk(digest, view)

    def _unread_digest(self, index: int) -> bytes | None:
        """What a chunk that is copied as it is will be named, where its table says so already."""
        source, target = self._source, self._writer.store
        if (
            self._step is None
            and isinstance(source, ChunkTable)
            and source.store.digest is target.digest
        ):
            return source.digest(index)
        return None
