"""Copies of snapshots: chunks from one table to another, resumable.

A copy goes on where its *cursor* stands. While chunks move, a second task writes cursors: it takes
the table as it is at one moment, stores it, makes all that it refers to durable, and then keeps the
cursor. A chunk is begun only while those that no durable cursor covers are at most one in fifty: so
wherever a copy is killed, at most 2 % of it is done again, what was under way among them.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import msgspec
import trio

from volcrypt.chunk_set import ChunkSet
from volcrypt.crypto.digest import ZERO_DIGEST
from volcrypt.errors import FormatError, IntegrityError, RollbackError
from volcrypt.formats.copy_cursor import CopyCursor
from volcrypt.formats.manifest import Manifest
from volcrypt.formats.pages import PAGE_CHUNKS, page_count
from volcrypt.snapshot.draft import StoredTable
from volcrypt.snapshot.mover import ChunkMover, Progress, Step
from volcrypt.snapshot.pin import Pin
from volcrypt.snapshot.plan import unsaved_chunks
from volcrypt.snapshot.pump import in_thread, only_failure
from volcrypt.snapshot.store import SnapshotStore
from volcrypt.snapshot.sweep_mark import PIN_LIFETIME_SECONDS
from volcrypt.snapshot.table import ChunkTable, FrozenTable, TableWriter
from volcrypt.snapshot.transfer import chunk_table, limiter_of

_RENEW_SECONDS: Final = PIN_LIFETIME_SECONDS / 6


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyBase:
    """A snapshot in the target store, of the size and under the data key of the copy to be."""

    table: ChunkTable
    data_chunks: int
    """That are no holes."""
    changed: ChunkSet | None
    """The copy is the base but for these chunks, and no others are read. None: that is not known,
    and the base only spares putting what it has."""


async def copy_chunks(
    source: ChunkTable,
    pin: Pin,
    cursor: CopyCursor,
    save: Callable[[CopyCursor], None],
    *,
    data_chunks: int,
    base: "CopyBase | None" = None,
    step: Step | None = None,
    limiter: trio.CapacityLimiter | None = None,
    progress: Progress | None = None,
) -> StoredTable:
    """Copy the chunks of a snapshot into the pin's store, from where `cursor` stands.

    `data_chunks` is the manifest's. `base`, which is under the pin, spares work; `cursor.base`
    names it if and only if it says what has changed. `save` keeps a cursor durably, and is called
    after everything that the cursor covers is durable; it runs in a thread. A cursor is only good
    together with the pin that was held since: when `pin.hold` says that there was none, pass it
    `restarted`.

    Raises RollbackError for a cursor of another copy, and what the stores and `step` raise.
    """
    if (cursor.source_root, cursor.target_store_id, cursor.target_snapshot_id) != (
        source.root,
        pin.store.store_id,
        pin.snapshot_id,
    ):
        raise RollbackError(f"cursor of the copy to {pin.snapshot_id}")
    changed = None if base is None else base.changed
    assert (changed is None) == (cursor.base is None), "internal error: a copy of another base"
    limiter = limiter or limiter_of(source.store, pin.store)
    cursor, writer = await in_thread(limiter, lambda: _writer(pin, source.size_bytes, cursor, base))
    indexes: Iterator[int]
    if changed is None:
        total, indexes = data_chunks, source.candidate_chunks(cursor.next_chunk)
    else:
        total, indexes = len(changed), changed.starting_at(cursor.next_chunk)
    saver = _Saver(
        pin,
        cursor,
        save,
        # In one store the pin keeps the source too, should it be deleted meanwhile.
        roots=([source.root] if source.store.store_id == pin.store.store_id else [])
        + ([base.table.root] if base is not None else []),
        limit=unsaved_chunks(total),
    )

    def recorded(index: int, size_bytes: int) -> None:
        saver.look()
        if progress is not None:
            progress(index, size_bytes)

    mover = ChunkMover(source, writer, step=step, limiter=limiter, progress=recorded)
    with only_failure():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(saver.run, mover, writer)
            await mover.store(indexes, admit=lambda: saver.admit(mover))
            nursery.cancel_scope.cancel()
    await mover.close_page()
    return await in_thread(limiter, writer.checkpoint)


def restarted(cursor: CopyCursor) -> CopyCursor:
    """The cursor of the same copy with nothing done: for one whose pin was lost."""
    return msgspec.structs.replace(
        cursor, next_chunk=0, root=ZERO_DIGEST, data_chunks=0, stored_chunks=0, stored_bytes=0
    )


def grown_table(store: SnapshotStore, manifest: Manifest, size_bytes: int) -> ChunkTable:
    """The table of a snapshot, which the caller holds a pin on, as one of a volume of `size_bytes`,
    which is not smaller: stored anew where it is larger, with holes at its end.

    Raises FormatError and IntegrityError.
    """
    table = chunk_table(store, manifest, grown_to=size_bytes)
    if manifest.size_bytes == size_bytes or manifest.root == ZERO_DIGEST:
        return table
    writer = TableWriter(
        store=store,
        size_bytes=size_bytes,
        start=table,
        compare=None,
        data_chunks=manifest.data_chunks,
    )
    # The last page has become longer, so it is another object.
    last = page_count(manifest.size_bytes) - 1
    writer.open_page(last)
    root = writer.checkpoint().root
    where = f"snapshot {manifest.snapshot_id}, enlarged"
    return ChunkTable(store, root, size_bytes=size_bytes, where=where)


class _Saver:
    """Keeps cursors while chunks move, and holds back who would run too far ahead of them."""

    def __init__(
        self,
        pin: Pin,
        cursor: CopyCursor,
        save: Callable[[CopyCursor], None],
        *,
        roots: list[bytes],
        limit: int,
    ) -> None:
        """`limit`: how many chunks may be begun that no durable cursor covers."""
        self._pin = pin
        self._cursor = cursor
        self._save = save
        self._roots = roots
        self._limit = limit
        self._saved_count = 0
        self._recorded = trio.Event()
        self._saved = trio.Event()
        self._thread = trio.CapacityLimiter(1)

    def look(self) -> None:
        """A chunk was recorded."""
        self._recorded.set()

    async def admit(self, mover: ChunkMover) -> None:
        """Wait until one chunk more may be begun."""
        while mover.begun - self._saved_count >= self._limit:
            await self._saved.wait()

    async def run(self, mover: ChunkMover, writer: TableWriter) -> None:
        """For ever: the pin is renewed by each cursor, and by the clock."""
        while True:
            next_chunk, count = mover.done
            if count - self._saved_count >= (self._limit + 1) // 2:
                table = writer.freeze()
                await in_thread(self._thread, lambda: self._keep(table, next_chunk))  # noqa: B023 awaited at once
                self._saved_count = count
                self._saved.set()
                self._saved = trio.Event()
                continue
            self._recorded = trio.Event()
            with trio.move_on_after(_RENEW_SECONDS) as waiting:
                await self._recorded.wait()
            if waiting.cancelled_caught:
                await in_thread(self._thread, self._pin.renew)

    def _keep(self, table: FrozenTable, next_chunk: int) -> None:
        stored = table.put()
        # Until the new cursor is durable a kill brings back the one before it.
        roots = [*self._roots, self._cursor.root, stored.root]
        self._pin.renew([root for root in roots if root != ZERO_DIGEST], batched=True)
        self._pin.store.objects.sync()
        self._cursor = msgspec.structs.replace(
            self._cursor,
            next_chunk=next_chunk,
            root=stored.root,
            data_chunks=stored.data_chunks,
            stored_chunks=stored.stored_chunks,
            stored_bytes=stored.stored_bytes,
        )
        self._save(self._cursor)


def _writer(
    pin: Pin, size_bytes: int, cursor: CopyCursor, base: CopyBase | None
) -> tuple[CopyCursor, TableWriter]:
    """What the cursor says was done; from the beginning when that is not sound any more."""
    where = f"copied part of {pin.snapshot_id}"
    start: ChunkTable | None = None
    if cursor.next_chunk > 0:
        try:
            start = ChunkTable(pin.store, cursor.root, size_bytes=size_bytes, where=where)
            start.page((cursor.next_chunk - 1) // PAGE_CHUNKS)
        except (FormatError, IntegrityError):
            start, cursor = None, restarted(cursor)
    data_chunks = cursor.data_chunks
    if start is None and base is not None and base.changed is not None:
        start, data_chunks = base.table, base.data_chunks
    return cursor, TableWriter(
        store=pin.store,
        size_bytes=size_bytes,
        start=start,
        compare=None if base is None else base.table,
        data_chunks=data_chunks,
        stored_chunks=cursor.stored_chunks,
        stored_bytes=cursor.stored_bytes,
    )
