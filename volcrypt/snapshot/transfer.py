"""Chunks on the move: from a volume into a store, from store to store, from a store to a volume.

One producer walks the chunks in order; a few workers, each with one buffer that it keeps, take them
from a bounded channel and do one thread hop per chunk: read, transform, digest, put. What is in
memory never grows with the volume. The first failure cancels all, and is what the caller sees;
since nothing refers to what was put so far, nothing half done is visible.

A chunk that is all zero is a hole: it is not stored, and not written when it is restored.
"""

from collections.abc import Awaitable, Callable, Iterable, Iterator
from itertools import islice
from typing import Final, Protocol, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt
import trio
from typing_extensions import Buffer

from volcrypt.crypto.digest import ZERO_DIGEST
from volcrypt.crypto.xts import is_zero
from volcrypt.errors import FormatError, IntegrityError, RollbackError, SnapshotNotFoundError
from volcrypt.formats.copy_cursor import CopyCursor
from volcrypt.formats.manifest import Manifest, SnapshotPoint
from volcrypt.formats.pages import PAGE_CHUNKS
from volcrypt.geometry import CHUNK_BYTES, chunk_range
from volcrypt.names import DataKeyId, VolumeId
from volcrypt.snapshot.draft import StoredTable
from volcrypt.snapshot.pin import Pin
from volcrypt.snapshot.plan import MAX_BATCH_CHUNKS, StorePlan, batch_chunks, is_parent
from volcrypt.snapshot.store import SnapshotStore, Stored
from volcrypt.snapshot.table import ChunkTable, TableWriter

WORKERS: Final = 4
_LOOK_AHEAD: Final = 256

Progress = Callable[[int, int], None]
"""Called with chunk index and bytes, on the loop's thread, when a chunk is stored or restored."""
Step = Callable[[int, memoryview], None]
"""Changes the ciphertext of a chunk in place, given its index; runs in worker threads."""
Item = TypeVar("Item")


class ChunkSource(Protocol):
    """What chunks are read from; safe for several threads."""

    @property
    def size_bytes(self) -> int: ...
    def candidate_chunks(self) -> Iterable[int]: ...
    def read_chunk(self, index: int, buffer: Buffer) -> None: ...


class ChunkSink(Protocol):
    """What chunks are written to, by several threads; reads zeros where nothing was written."""

    @property
    def size_bytes(self) -> int: ...
    def write_chunk(self, index: int, data: Buffer) -> None: ...
    def sync(self) -> None: ...


def chunk_table(
    store: SnapshotStore, manifest: Manifest, *, grown_to: int | None = None
) -> ChunkTable:
    """The chunks of a snapshot. Raises FormatError and IntegrityError."""
    return ChunkTable(
        store,
        manifest.root,
        size_bytes=manifest.size_bytes,
        where=f"snapshot {manifest.snapshot_id}",
        grown_to=grown_to,
    )


def find_parent(
    store: SnapshotStore,
    point: SnapshotPoint | None,
    *,
    volume_id: VolumeId,
    size_bytes: int,
    data_key_id: DataKeyId | None,
    changed: npt.NDArray[np.bool_] | None,
) -> Manifest | None:
    """The parent, if it can serve: there, of the same data, and its pages sound where they matter.

    To be called under a pin on the point's root. Any doubt is None, and the snapshot is made by
    reading everything: never an error. Pages are looked at now, since later is too late: once
    unchanged chunks were given back to writers they cannot be read for this snapshot any more.
    """
    if point is None:
        return None
    try:
        manifest = store.manifest(point.snapshot_id)
        if not is_parent(
            manifest,
            point,
            volume_id=volume_id,
            size_bytes=size_bytes,
            data_key_id=data_key_id,
        ):
            return None
        table = chunk_table(store, manifest, grown_to=size_bytes)
        if changed is not None:
            pages = np.logical_or.reduceat(changed, np.arange(0, len(changed), PAGE_CHUNKS))
            # The last page of a smaller parent becomes longer, so it is read as well.
            if manifest.size_bytes < size_bytes:
                pages[manifest.size_bytes // CHUNK_BYTES // PAGE_CHUNKS] = True
            for number in np.flatnonzero(pages).tolist():
                table.page(number)
    except (SnapshotNotFoundError, FormatError, IntegrityError):
        return None
    return manifest


async def store_chunks(
    source: ChunkSource,
    pin: Pin,
    plan: StorePlan,
    *,
    limiter: trio.CapacityLimiter | None = None,
    progress: Progress | None = None,
) -> StoredTable:
    """Put what the plan says into the pin's store; the answer goes into a draft for `log.commit`.

    Raises what source and store raise.
    """
    limiter = limiter or trio.CapacityLimiter(WORKERS)
    writer = await _in_thread(limiter, lambda: _store_writer(pin.store, source.size_bytes, plan))
    engine = _Engine(source, writer, step=None, limiter=limiter, progress=progress)
    indexes = iter(plan.chunks)
    while await engine.store(indexes, MAX_BATCH_CHUNKS):
        await _in_thread(limiter, pin.store.objects.sync)
        await _in_thread(limiter, pin.renew)
    await engine.close_page()
    return await _in_thread(limiter, writer.checkpoint)


async def copy_chunks(
    source: ChunkTable,
    pin: Pin,
    cursor: CopyCursor,
    save: Callable[[CopyCursor], None],
    *,
    data_chunks: int,
    step: Step | None = None,
    limiter: trio.CapacityLimiter | None = None,
    progress: Progress | None = None,
) -> StoredTable:
    """Copy the chunks of a snapshot into the pin's store, from where `cursor` stands.

    `data_chunks` is the manifest's. `save` keeps a cursor durably, and is called after everything
    that the cursor covers is durable; it runs in a thread. A cursor is only good together with the
    pin that was held since: when `pin.hold` says that there was none, pass it `restarted`.

    Raises RollbackError for a cursor of another copy, and what the stores and `step` raise.
    """
    if (cursor.source_root, cursor.target_store_id, cursor.target_snapshot_id) != (
        source.root,
        pin.store.store_id,
        pin.snapshot_id,
    ):
        raise RollbackError(f"cursor of the copy to {pin.snapshot_id}")
    limiter = limiter or trio.CapacityLimiter(WORKERS)
    cursor, writer = await _in_thread(limiter, lambda: _copy_writer(pin, source.size_bytes, cursor))
    saved_root = cursor.root
    # In one store the pin keeps the source too, should it be deleted meanwhile.
    source_roots = [source.root] if source.store.store_id == pin.store.store_id else []
    engine = _Engine(source, writer, step=step, limiter=limiter, progress=progress)

    def keep() -> None:
        nonlocal saved_root
        stored = writer.checkpoint()
        pin.store.objects.sync()
        # Until the new cursor is durable a kill brings back the one before it.
        pin.renew([*source_roots, saved_root, stored.root])
        save(
            msgspec.structs.replace(
                cursor,
                next_chunk=engine.next_chunk,
                root=stored.root,
                data_chunks=stored.data_chunks,
                stored_chunks=stored.stored_chunks,
                stored_bytes=stored.stored_bytes,
            )
        )
        saved_root = stored.root

    indexes = source.candidate_chunks(cursor.next_chunk)
    while await engine.store(indexes, batch_chunks(data_chunks)):
        await _in_thread(limiter, keep)
    await engine.close_page()
    return await _in_thread(limiter, writer.checkpoint)


async def restore_chunks(
    table: ChunkTable,
    sink: ChunkSink,
    *,
    step: Step | None = None,
    limiter: trio.CapacityLimiter | None = None,
    progress: Progress | None = None,
) -> None:
    """Write the chunks of a snapshot to `sink`, and sync it. Holes are not written.

    No byte of a chunk is written before its digest was checked. Raises IntegrityError, and what
    store, sink and `step` raise.
    """
    assert sink.size_bytes >= table.size_bytes, "internal error: the sink is too small"
    limiter = limiter or trio.CapacityLimiter(WORKERS)

    def restore_one(index: int, view: memoryview) -> None:
        table.read_chunk(index, view)
        if step is not None:
            step(index, view)
        sink.write_chunk(index, view)

    async def restore(index: int, view: memoryview) -> None:
        await _in_thread(limiter, lambda: restore_one(index, view))
        if progress is not None:
            progress(index, len(view))

    await _pump(table.candidate_chunks(), restore, size_bytes=table.size_bytes, limiter=limiter)
    await _in_thread(limiter, sink.sync)


class _Engine:
    """Reads, transforms and puts chunks; the pages go through a TableWriter."""

    def __init__(
        self,
        source: ChunkSource,
        writer: TableWriter,
        *,
        step: Step | None,
        limiter: trio.CapacityLimiter,
        progress: Progress | None,
    ) -> None:
        self._source = source
        self._writer = writer
        self._step = step
        self._limiter = limiter
        self._progress = progress
        self._page: int | None = None
        self._known: dict[int, bytes | None] = {}
        self.next_chunk = 0

    async def store(self, indexes: Iterator[int], limit: int) -> bool:
        """Store up to `limit` chunks more; False when there was none left."""
        count = await _pump(
            islice(indexes, limit),
            self._store,
            size_bytes=self._source.size_bytes,
            limiter=self._limiter,
            prepare=self._prepare,
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
            await _in_thread(self._limiter, lambda: self._writer.open_page(page))
            self._page = page
        self._known[index] = self._writer.expect(index)
        self.next_chunk = index + 1

    async def _store(self, index: int, view: memoryview) -> None:
        known = self._known.pop(index)
        digest, stored = await _in_thread(
            self._limiter, lambda: self._store_one(index, view, known)
        )
        page = self._writer.record(index, digest, stored)
        if page is not None:
            await self._put_page(page)
        if self._progress is not None:
            self._progress(index, len(view))

    async def _put_page(self, page: int) -> None:
        digest, repaired = await _in_thread(self._limiter, lambda: self._writer.put_page(page))
        self._writer.page_put(page, digest, repaired)

    def _store_one(self, index: int, view: memoryview, known: bytes | None) -> tuple[bytes, Stored]:
        self._source.read_chunk(index, view)
        if self._step is not None:
            self._step(index, view)
        if is_zero(view):
            return ZERO_DIGEST, Stored.PRESENT
        store = self._writer.store
        digest = store.digest.digest(view)
        if digest == known:
            return digest, Stored.PRESENT
        return digest, store.put_chunk(digest, view)


def _store_writer(store: SnapshotStore, size_bytes: int, plan: StorePlan) -> TableWriter:
    base = None if plan.base is None else chunk_table(store, plan.base, grown_to=size_bytes)
    return TableWriter(
        store=store,
        size_bytes=size_bytes,
        start=base if plan.incremental else None,
        compare=base,
        data_chunks=plan.base.data_chunks if plan.incremental and plan.base is not None else 0,
    )


def _copy_writer(pin: Pin, size_bytes: int, cursor: CopyCursor) -> tuple[CopyCursor, TableWriter]:
    """What the cursor says was done; from the beginning when that is not sound any more."""
    where = f"copied part of {pin.snapshot_id}"
    try:
        done = ChunkTable(pin.store, cursor.root, size_bytes=size_bytes, where=where)
        if cursor.next_chunk > 0:
            done.page((cursor.next_chunk - 1) // PAGE_CHUNKS)
    except (FormatError, IntegrityError):
        done = ChunkTable(pin.store, ZERO_DIGEST, size_bytes=size_bytes, where=where)
        cursor = restarted(cursor)
    return cursor, TableWriter(
        store=pin.store,
        size_bytes=size_bytes,
        start=done,
        compare=None,
        data_chunks=cursor.data_chunks,
        stored_chunks=cursor.stored_chunks,
        stored_bytes=cursor.stored_bytes,
    )


def restarted(cursor: CopyCursor) -> CopyCursor:
    """The cursor of the same copy with nothing done: for one whose pin was lost."""
    return msgspec.structs.replace(
        cursor, next_chunk=0, root=ZERO_DIGEST, data_chunks=0, stored_chunks=0, stored_bytes=0
    )


async def _in_thread(limiter: trio.CapacityLimiter, work: Callable[[], Item]) -> Item:
    return await trio.to_thread.run_sync(work, limiter=limiter)


async def _pump(
    indexes: Iterable[int],
    work: Callable[[int, memoryview], Awaitable[None]],
    *,
    size_bytes: int,
    limiter: trio.CapacityLimiter,
    prepare: Callable[[int], Awaitable[None]] | None = None,
) -> int:
    """Do `work` for each chunk, with a buffer of the chunk's length; answers how many there were.

    `prepare` is called for each in order, before its work begins.
    """
    iterator = iter(indexes)
    count = 0
    send, receive = trio.open_memory_channel[int](WORKERS)
    try:
        async with trio.open_nursery() as nursery, send:
            for _ in range(WORKERS):
                nursery.start_soon(_worker, receive.clone(), work, size_bytes)
            receive.close()
            # The iterator may read pages or look for data in a file: in a thread, ahead of need.
            while batch := await _in_thread(limiter, lambda: list(islice(iterator, _LOOK_AHEAD))):
                for index in batch:
                    if prepare is not None:
                        await prepare(index)
                    await send.send(index)
                    count += 1
    except BaseExceptionGroup as group:
        failures = group.split(trio.Cancelled)[1]
        if failures is None:
            raise
        raise _first(failures) from None
    return count


async def _worker(
    receive: trio.MemoryReceiveChannel[int],
    work: Callable[[int, memoryview], Awaitable[None]],
    size_bytes: int,
) -> None:
    buffer = memoryview(bytearray(CHUNK_BYTES))
    async with receive:
        async for index in receive:
            await work(index, buffer[: chunk_range(index, size_bytes).length])


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The failure to report: the others are its consequences, or came a moment later."""
    failure: BaseException = group
    while isinstance(failure, BaseExceptionGroup):
        failure = failure.exceptions[0]
    return failure
