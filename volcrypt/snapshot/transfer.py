"""Chunks on the move: from a volume into a store, from a store to a volume. For those from store
to store see `snapshot.copying`.

One producer walks the chunks in order; workers, each with one buffer that it keeps, take them from
a bounded channel and do one thread hop per chunk: read, transform, digest, put. There are as many
as the stores say hide their latency: a few for a disk, more for a service far away. What is in
memory never grows with the volume. The first failure cancels all, and is what the caller sees;
since nothing refers to what was put so far, nothing half done is visible.

A chunk that is all zero is a hole: it is not stored, and not written when it is restored.
"""

from typing import Final, Protocol

import trio
from typing_extensions import Buffer

from volcrypt.chunk_set import ChunkSet
from volcrypt.errors import FormatError, IntegrityError, SnapshotNotFoundError
from volcrypt.formats.manifest import Manifest, SnapshotPoint
from volcrypt.formats.pages import PAGE_CHUNKS
from volcrypt.geometry import CHUNK_BYTES
from volcrypt.names import DataKeyId, VolumeId
from volcrypt.snapshot.draft import StoredTable
from volcrypt.snapshot.mover import ChunkMover, ChunkSource, Progress, Step
from volcrypt.snapshot.pace import Pace
from volcrypt.snapshot.pin import Pin
from volcrypt.snapshot.plan import MAX_BATCH_CHUNKS, StorePlan, is_parent
from volcrypt.snapshot.pump import in_thread, only_failure, pump
from volcrypt.snapshot.store import SnapshotStore
from volcrypt.snapshot.sweep_mark import PIN_LIFETIME_SECONDS
from volcrypt.snapshot.table import ChunkTable, TableWriter

_RENEW_SECONDS: Final = PIN_LIFETIME_SECONDS / 6


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
    changed: ChunkSet | None,
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
            # The last page of a smaller parent becomes longer, so it is read as well.
            longer = manifest.size_bytes // CHUNK_BYTES // PAGE_CHUNKS
            if manifest.size_bytes < size_bytes:
                table.page(longer)
            for number in changed.groups(PAGE_CHUNKS):
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
    pace: Pace | None = None,
) -> StoredTable:
    """Put what the plan says into the pin's store; the answer goes into a draft for `log.commit`.

    Raises what source and store raise.
    """
    limiter = limiter or limiter_of(pin.store)
    writer = await in_thread(limiter, lambda: _store_writer(pin.store, source.size_bytes, plan))
    engine = ChunkMover(source, writer, step=None, limiter=limiter, progress=progress, pace=pace)
    indexes = iter(plan.chunks)
    with only_failure():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_keep_alive, pin, limiter)
            while await engine.store(indexes, MAX_BATCH_CHUNKS):
                await in_thread(limiter, pin.store.objects.sync)
            nursery.cancel_scope.cancel()
    await engine.close_page()
    return await in_thread(limiter, writer.checkpoint)


async def _keep_alive(pin: Pin, limiter: trio.CapacityLimiter) -> None:
    """Renew a pin for ever: chunks may move as slowly as they like."""
    while True:
        await trio.sleep(_RENEW_SECONDS)
        await in_thread(limiter, pin.renew)


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
    limiter = limiter or limiter_of(table.store)

    def restore_one(index: int, view: memoryview) -> None:
        table.read_chunk(index, view)
        if step is not None:
            step(index, view)
        sink.write_chunk(index, view)

    async def restore(index: int, view: memoryview) -> None:
        await in_thread(limiter, lambda: restore_one(index, view))
        if progress is not None:
            progress(index, len(view))

    await pump(table.candidate_chunks(), restore, size_bytes=table.size_bytes, limiter=limiter)
    await in_thread(limiter, sink.sync)


def limiter_of(*stores: SnapshotStore) -> trio.CapacityLimiter:
    """How many chunks are under way at once."""
    return trio.CapacityLimiter(max(store.objects.in_flight for store in stores))


def _store_writer(store: SnapshotStore, size_bytes: int, plan: StorePlan) -> TableWriter:
    base = None if plan.base is None else chunk_table(store, plan.base, grown_to=size_bytes)
    return TableWriter(
        store=store,
        size_bytes=size_bytes,
        start=base if plan.incremental else None,
        compare=base,
        data_chunks=plan.base.data_chunks if plan.incremental and plan.base is not None else 0,
    )
