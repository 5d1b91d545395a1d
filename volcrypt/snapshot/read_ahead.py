"""Reading from a store with several requests in flight, in an order that does not show it.

What comes of the reads is given in the order in which they were asked for, so whoever reports it
says the same each time; what waits to be taken is bounded, and so is memory.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Final, Generic, TypeVar

from volcrypt.formats.manifest import Manifest
from volcrypt.formats.tombstone import Tombstone
from volcrypt.geometry import CHUNK_BYTES
from volcrypt.names import SnapshotId
from volcrypt.snapshot import layout
from volcrypt.snapshot.layout import EntryName
from volcrypt.snapshot.store import SnapshotStore

_WAITING: Final = 4
"""Reads that were asked for and not taken, for each that is in flight."""

Item = TypeVar("Item")
Result = TypeVar("Result")


@contextmanager
def readers(count: int) -> Iterator[ThreadPoolExecutor]:
    """So many threads; what they have not begun when the block ends is not begun any more."""
    pool = ThreadPoolExecutor(count)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def read_ahead(
    pool: ThreadPoolExecutor, read: Callable[[Item], Result], items: Iterable[Item], *, count: int
) -> Iterator[tuple[Item, Future[Result]]]:
    """Each item with what `read` will have answered, in order; `count` are begun ahead of need."""
    begun: deque[tuple[Item, Future[Result]]] = deque()
    for item in items:
        begun.append((item, pool.submit(read, item)))
        if len(begun) > count:
            yield begun.popleft()
    yield from begun


class InOrder(Generic[Result]):
    """Results of work in the threads of a pool, and of none, taken in the order of the calls."""

    def __init__(
        self, pool: ThreadPoolExecutor, take: Callable[[Result], None], *, in_flight: int
    ) -> None:
        """`take` gets each result, in the thread of who calls this; the pool has `in_flight`."""
        self._pool = pool
        self._take = take
        self._limit = in_flight * _WAITING
        self._waiting: deque[Future[Result] | Result] = deque()
        self._buffers: SimpleQueue[memoryview] = SimpleQueue()
        for _ in range(in_flight):
            self._buffers.put(memoryview(bytearray(CHUNK_BYTES)))

    def add(self, result: Result) -> None:
        self._waiting.append(result)
        self._settle(self._limit)

    def begin(self, work: Callable[[memoryview], Result]) -> None:
        """Have `work` done, with a buffer of a chunk's length. Raises what earlier work raised."""
        self._waiting.append(self._pool.submit(self._with_buffer, work))
        self._settle(self._limit)

    def finish(self) -> None:
        """All that was begun is done and taken. Raises what it raised."""
        self._settle(0)

    def _with_buffer(self, work: Callable[[memoryview], Result]) -> Result:
        buffer = self._buffers.get()
        try:
            return work(buffer)
        finally:
            self._buffers.put(buffer)

    def _settle(self, limit: int) -> None:
        while len(self._waiting) > limit:
            first = self._waiting.popleft()
            self._take(first.result() if isinstance(first, Future) else first)


class StoreView(SnapshotStore):
    """A store as it is at the first look: manifests and tombstones are listed once, and each is
    read once, `in_flight` of them at a time. For one thread, and its pool.
    """

    def __init__(self, store: SnapshotStore, pool: ThreadPoolExecutor) -> None:
        super().__init__(store.objects, store.document)
        self._pool = pool
        self._manifests: dict[EntryName, Future[tuple[Manifest, bytes]]] = {}
        self._tombstones: dict[EntryName, Future[tuple[Tombstone, bytes]]] = {}
        self._names: dict[SnapshotId, tuple[list[EntryName], list[EntryName]]] = {}
        # Manifests first: one that is deleted meanwhile is then found by its tombstone.
        for name in super()._entry_names(layout.MANIFESTS, None):
            self._names.setdefault(name.snapshot_id, ([], []))[0].append(name)
            self._manifests[name] = pool.submit(super().read_manifest, name)
        for name in super()._entry_names(layout.TOMBSTONES, None):
            self._names.setdefault(name.snapshot_id, ([], []))[1].append(name)
            self._tombstones[name] = pool.submit(super().read_tombstone, name)

    def read_manifest(self, name: EntryName) -> tuple[Manifest, bytes]:
        return self._manifests[name].result()

    def read_tombstone(self, name: EntryName) -> tuple[Tombstone, bytes]:
        return self._tombstones[name].result()

    def _entry_names(self, prefix: str, snapshot_id: SnapshotId | None) -> Iterator[EntryName]:
        kind = 0 if prefix == layout.MANIFESTS else 1
        if snapshot_id is not None:
            yield from self._names.get(snapshot_id, ([], []))[kind]
            return
        for names in self._names.values():
            yield from names[kind]
