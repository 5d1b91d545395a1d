"""The chunks of snapshots on their way into a store: what to read is decided while every chunk is
kept, and each is given up when it is stored."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Self

import trio

from volcrypt.chunk_set import ChunkSet
from volcrypt.formats.manifest import SnapshotPoint
from volcrypt.formats.volume_record import VolumeRecord
from volcrypt.geometry import CHUNK_BYTES, chunk_count
from volcrypt.operations.captures import CapturedVolume
from volcrypt.operations.progress import ChunkCounter, Progress
from volcrypt.operations.snapshot_lookup import manifests_of
from volcrypt.snapshot.draft import StoredTable
from volcrypt.snapshot.pace import Pace
from volcrypt.snapshot.pin import Pin
from volcrypt.snapshot.plan import StorePlan, mark_grown, plan_store
from volcrypt.snapshot.pump import only_failure
from volcrypt.snapshot.store import SnapshotStore
from volcrypt.snapshot.transfer import find_parent, store_chunks


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """The chunks of one snapshot on their way into the store."""

    pin: Pin
    capture: CapturedVolume
    plan: StorePlan
    progress: Progress

    @classmethod
    def prepare(
        cls,
        store: SnapshotStore,
        pin: Pin,
        record: VolumeRecord,
        capture: CapturedVolume,
        progress: Progress,
    ) -> Self:
        """Decide what to read, and give up what will not be."""
        plan, wanted = _plan(store, pin, record, capture)
        capture.want(wanted)
        progress.begin(f"storing {pin.snapshot_id}", len(wanted) * CHUNK_BYTES)
        return cls(pin=pin, capture=capture, plan=plan, progress=progress)

    async def run(self, pace: Pace) -> StoredTable:
        progress = _Released(self.capture, self.progress)
        return await store_chunks(self.capture, self.pin, self.plan, progress=progress, pace=pace)


async def store_all(transfers: Sequence[Transfer], pace: Pace) -> list[StoredTable]:
    """All beside each other, since chunks of every volume are kept; the first failure ends all."""
    tables: dict[int, StoredTable] = {}

    async def store(number: int) -> None:
        tables[number] = await transfers[number].run(pace)

    with only_failure():
        async with trio.open_nursery() as nursery:
            for number in range(len(transfers)):
                nursery.start_soon(store, number)
    return [tables[number] for number in range(len(transfers))]


class _Released:
    """Progress of a transfer: what is stored need not be kept from writers any more, which is also
    how a capture that has failed is heard of, and is reported."""

    def __init__(self, capture: CapturedVolume, progress: Progress) -> None:
        self._capture = capture
        self._count = ChunkCounter(progress)

    def __call__(self, index: int, size_bytes: int) -> None:
        self._capture.release(range(index, index + 1))
        self._count(index, size_bytes)


def _plan(
    store: SnapshotStore, pin: Pin, record: VolumeRecord, capture: CapturedVolume
) -> tuple[StorePlan, ChunkSet]:
    """What to read, and the same as a table. Decided while every chunk is kept: what is not read
    is not from then on."""
    data_key_id = record.wrapped_key.data_key_id if record.wrapped_key else None
    look = partial(
        find_parent,
        store,
        volume_id=record.volume_id,
        size_bytes=capture.size_bytes,
        data_key_id=data_key_id,
    )
    changed = capture.changed
    point = None
    if capture.parent is not None and capture.parent.store_id == store.store_id:
        point = SnapshotPoint(snapshot_id=capture.parent.snapshot_id, root=capture.parent.root)
    parent = look(point, changed=None)
    if parent is not None:
        # The pin is held already, so no sweep has begun since; one is told what this stands on.
        pin.renew([parent.root], size_bytes=parent.size_bytes)
        parent = look(point, changed=changed)
    if parent is None:
        # The map is void, or knows a parent that is gone. The newest snapshot of this volume is
        # compared with instead: everything is read, what is the same is not stored again.
        changed = None
        latest = max(
            manifests_of(store, record.volume_id),
            key=lambda manifest: manifest.sequence,
            default=None,
        )
        if latest is not None:
            pin.renew([latest.root], size_bytes=latest.size_bytes)
            parent = look(latest.point, changed=None)
    if parent is not None and changed is not None and parent.size_bytes < capture.size_bytes:
        mark_grown(changed, parent.size_bytes, capture.candidate_chunks)
    wanted = changed
    if wanted is None:
        wanted = ChunkSet(chunk_count(capture.size_bytes), capture.candidate_chunks())
    plan = plan_store(
        size_bytes=capture.size_bytes,
        parent=parent,
        changed=changed,
        candidates=wanted,
    )
    return plan, wanted
