"""Snapshots of volumes: made, and completed."""

from contextlib import ExitStack, suppress
from functools import partial

import trio

from volcrypt.chunk_set import ChunkSet
from volcrypt.errors import InvalidArgumentError, SnapshotNotFoundError
from volcrypt.formats.change_map import ParentPoint
from volcrypt.formats.manifest import Consistency, Manifest, SnapshotPoint
from volcrypt.formats.volume_record import VolumeRecord
from volcrypt.geometry import CHUNK_BYTES, chunk_count
from volcrypt.kms.clock import host_time
from volcrypt.names import SnapshotId, make_snapshot_id
from volcrypt.operations.captures import CapturedVolume, capture_volume
from volcrypt.operations.home import Home
from volcrypt.operations.progress import ChunkCounter, Progress
from volcrypt.operations.records import load_record
from volcrypt.operations.snapshot_lookup import check_name_in, check_snapshot_name, manifests_of
from volcrypt.operations.stores import (
    LOCAL_STORE,
    check_may_sign,
    home_signer,
    open_local_store,
    open_store,
    store_in_use,
    store_log,
)
from volcrypt.operations.write_budget import written_bytes
from volcrypt.snapshot.draft import SnapshotDraft
from volcrypt.snapshot.log import commit
from volcrypt.snapshot.pin import Pin
from volcrypt.snapshot.plan import StorePlan, mark_grown, plan_store
from volcrypt.snapshot.store import SnapshotStore
from volcrypt.snapshot.transfer import find_parent, store_chunks


def now() -> int:
    """Seconds since 1970-01-01 UTC."""
    return int(host_time())


def create_snapshot(
    home: Home, volume: str, *, name: str | None, store: str | None, progress: Progress
) -> Manifest:
    """A snapshot of the volume as it is at this call, in the store of that name (the local one
    when None); completed, and durable, on return."""
    record = load_record(home, volume)
    target = open_store(home, store or LOCAL_STORE)
    if target.document.region != home.region:
        raise InvalidArgumentError(
            f"the volume is in region {home.region}, snapshot store {store} in "
            f"{target.document.region}",
            hint="take the snapshot in a store of its region and copy it",
        )
    check_may_sign(home, target)
    check_snapshot_name(home, name, target)
    return store_snapshot(
        home,
        record,
        store=target,
        snapshot_id=make_snapshot_id(home.random_id_bytes()),
        name=name,
        progress=progress,
    )


def store_snapshot(
    home: Home,
    record: VolumeRecord,
    *,
    snapshot_id: SnapshotId,
    name: str | None,
    progress: Progress,
    store: SnapshotStore | None = None,
    held: bool = False,
) -> Manifest:
    """Store a snapshot, in the local store when None, under an id that was chosen before; one that
    is there already is kept.

    `held`: the caller has the volume's owner lock.
    """
    store = store or open_local_store(home)
    with suppress(SnapshotNotFoundError):
        return store.manifest(snapshot_id)
    pin = Pin(
        store,
        snapshot_id=snapshot_id,
        size_bytes=record.size_bytes,
        signer=home_signer(home),
        clock=now,
    )
    with ExitStack() as stack:
        stack.enter_context(store_in_use(home, store))
        capture = stack.enter_context(capture_volume(home, record, held=held, progress=progress))
        captured_at = now()
        stack.callback(pin.release)
        plan, wanted = _plan(store, pin, record, capture)
        capture.want(wanted)
        progress.begin(f"storing {snapshot_id}", len(wanted) * CHUNK_BYTES)
        stored = trio.run(
            partial(store_chunks, capture, pin, plan, progress=_Released(capture, progress))
        )
        manifest = commit_snapshot(
            home,
            store,
            SnapshotDraft(
                snapshot_id=snapshot_id,
                name=name,
                volume_id=record.volume_id,
                size_bytes=capture.size_bytes,
                parent=plan.base.point if plan.base is not None else None,
                root=stored.root,
                data_chunks=stored.data_chunks,
                stored_chunks=stored.stored_chunks,
                stored_bytes=stored.stored_bytes,
                key_source=record.key_source,
                wrapped_key=record.wrapped_key,
                account=record.account,
                consistency=Consistency.CRASH,
                captured_at=captured_at,
                completed_at=now(),
                written_bytes=written_bytes(home, record.wrapped_key),
            ),
        )
        capture.commit(
            ParentPoint(
                store_id=store.store_id, snapshot_id=manifest.snapshot_id, root=manifest.root
            )
        )
        return manifest


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
        pin.hold([parent.root], size_bytes=parent.size_bytes)
    else:
        pin.hold()
    parent = look(point, changed=changed) if parent is not None else None
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


def commit_snapshot(home: Home, store: SnapshotStore, draft: SnapshotDraft) -> Manifest:
    """Complete a snapshot whose chunks were put under a pin."""
    with store_log(home, store) as log:
        check_name_in(store, draft.name)
        manifest, head = commit(store, draft, log.signer, log.head)
        log.save(head)
    return manifest
