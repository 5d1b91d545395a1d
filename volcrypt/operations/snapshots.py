"""Snapshots of volumes: create, find, list, delete, verify."""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from functools import partial

import numpy as np
import trio

from volcrypt.errors import (
    IntegrityError,
    NameTakenError,
    SnapshotInUseError,
    SnapshotNotFoundError,
    TryAgainError,
    VolcryptError,
)
from volcrypt.formats.change_map import ParentPoint
from volcrypt.formats.manifest import Consistency, Manifest, SnapshotPoint
from volcrypt.formats.volume_record import VolumeRecord
from volcrypt.geometry import CHUNK_BYTES, chunk_count
from volcrypt.names import SnapshotId, VolumeId, is_snapshot_id, make_snapshot_id, parse_name
from volcrypt.operations.captures import BoolArray, OpenCapture, capture_volume
from volcrypt.operations.home import Home
from volcrypt.operations.progress import ChunkCounter, Progress
from volcrypt.operations.records import load_record
from volcrypt.operations.stores import (
    StoreLog,
    check_log_is_whole,
    home_signer,
    open_local_store,
    store_alone,
    store_in_use,
    store_log,
)
from volcrypt.operations.workflows import load_workflows, resumable_copies
from volcrypt.snapshot.draft import SnapshotDraft
from volcrypt.snapshot.log import commit, delete
from volcrypt.snapshot.pin import Pin
from volcrypt.snapshot.plan import StorePlan, mark_grown, plan_store, positions_of
from volcrypt.snapshot.signer import empty_log
from volcrypt.snapshot.store import SnapshotStore
from volcrypt.snapshot.sweep import Swept, sweep
from volcrypt.snapshot.transfer import find_parent, store_chunks
from volcrypt.snapshot.verify import Verification, verify
from volcrypt.volume.datafile import DataFile


def now() -> int:
    """Seconds since 1970-01-01 UTC."""
    return int(time.time())


def create_snapshot(home: Home, volume: str, *, name: str | None, progress: Progress) -> Manifest:
    """A snapshot of the volume as it is at this call; completed, and durable, on return."""
    record = load_record(home, volume)
    check_snapshot_name(home, name)
    return store_snapshot(
        home,
        record,
        snapshot_id=make_snapshot_id(home.random_id_bytes()),
        name=name,
        progress=progress,
    )


def check_snapshot_name(home: Home, name: str | None) -> None:
    """Raises InvalidArgumentError and NameTakenError."""
    if name is None:
        return
    parse_name(name)
    if any(manifest.name == name for manifest in list_snapshots(home)[0]):
        raise NameTakenError("snapshot", name)


def store_snapshot(
    home: Home,
    record: VolumeRecord,
    *,
    snapshot_id: SnapshotId,
    name: str | None,
    progress: Progress,
    held: bool = False,
) -> Manifest:
    """Store a snapshot under an id that was chosen before; one that is there already is kept.

    `held`: the caller has the volume's owner lock.
    """
    store = open_local_store(home)
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
        stack.enter_context(store_in_use(home))
        capture, data = stack.enter_context(capture_volume(home, record, held=held))
        captured_at = now()
        stack.callback(pin.release)
        plan, wanted = _plan(store, pin, record, capture, data)
        for run in runs_of(~wanted):
            capture.release(run)
        progress.begin(f"storing {snapshot_id}", int(wanted.sum()) * CHUNK_BYTES)
        stored = trio.run(
            partial(store_chunks, data, pin, plan, progress=_Released(capture, progress))
        )
        manifest = commit_snapshot(
            home,
            store,
            SnapshotDraft(
                snapshot_id=snapshot_id,
                name=name,
                volume_id=record.volume_id,
                size_bytes=data.size_bytes,
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
            ),
        )
        capture.commit(
            ParentPoint(
                store_id=store.store_id, snapshot_id=manifest.snapshot_id, root=manifest.root
            )
        )
        return manifest


class _Released:
    """Progress of a transfer: what is stored is given back to writers, and reported."""

    def __init__(self, capture: OpenCapture, progress: Progress) -> None:
        self._capture = capture
        self._count = ChunkCounter(progress)

    def __call__(self, index: int, size_bytes: int) -> None:
        self._capture.release(range(index, index + 1))
        self._count(index, size_bytes)


def _plan(
    store: SnapshotStore, pin: Pin, record: VolumeRecord, capture: OpenCapture, data: DataFile
) -> tuple[StorePlan, BoolArray]:
    """What to read, and the same as a table. Decided while every chunk is held still: a chunk
    that is not read may change from then on."""
    data_key_id = record.wrapped_key.data_key_id if record.wrapped_key else None
    look = partial(
        find_parent,
        store,
        volume_id=record.volume_id,
        size_bytes=data.size_bytes,
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
    if parent is not None and changed is not None and parent.size_bytes < data.size_bytes:
        mark_grown(changed, parent.size_bytes, data.candidate_chunks)
    wanted = changed
    if wanted is None:
        wanted = np.zeros(chunk_count(data.size_bytes), dtype=np.bool_)
        for index in data.candidate_chunks():
            wanted[index] = True
    plan = plan_store(
        size_bytes=data.size_bytes,
        parent=parent,
        changed=changed,
        candidates=positions_of(wanted),
    )
    return plan, wanted


def commit_snapshot(home: Home, store: SnapshotStore, draft: SnapshotDraft) -> Manifest:
    """Complete a snapshot whose chunks were put under a pin."""
    with store_log(home, store) as log:
        check_snapshot_name(home, draft.name)
        manifest, head = commit(store, draft, log.signer, log.head)
        log.save(head)
    return manifest


def load_snapshot(home: Home, snapshot: str) -> Manifest:
    """A snapshot by id or name. Raises SnapshotNotFoundError, FormatError, IntegrityError."""
    if is_snapshot_id(snapshot):
        return open_local_store(home).manifest(SnapshotId(snapshot))
    manifests, damaged = list_snapshots(home)
    for manifest in manifests:
        if manifest.name == snapshot:
            # A name is given again when its snapshot is deleted: an old one must not have it back.
            check_log_is_whole(home, open_local_store(home))
            return manifest
    for error in damaged.values():
        raise IntegrityError(f"no readable snapshot is named {snapshot}; {error}")
    raise SnapshotNotFoundError(snapshot)


def list_snapshots(home: Home) -> tuple[list[Manifest], dict[SnapshotId, VolcryptError]]:
    """All snapshots, oldest first; and the error of each that cannot be read."""
    store = open_local_store(home)
    manifests: list[Manifest] = []
    damaged: dict[SnapshotId, VolcryptError] = {}
    for snapshot_id in store.snapshot_ids():
        try:
            manifests.append(store.manifest(snapshot_id))
        except SnapshotNotFoundError:
            continue  # deleted by another command just now
        except VolcryptError as error:
            damaged[snapshot_id] = error
    manifests.sort(key=lambda manifest: (manifest.completed_at, manifest.sequence))
    return manifests, damaged


def manifests_of(store: SnapshotStore, volume_id: VolumeId) -> list[Manifest]:
    """The readable snapshots of one volume."""
    found = []
    for snapshot_id in store.snapshot_ids():
        with suppress(VolcryptError):
            manifest = store.manifest(snapshot_id)
            if manifest.volume_id == volume_id:
                found.append(manifest)
    return found


def snapshots_of_volume(home: Home, volume_id: VolumeId) -> list[Manifest]:
    """The readable snapshots of one volume in this home's store."""
    return manifests_of(open_local_store(home), volume_id)


def delete_snapshot(home: Home, snapshot: str) -> SnapshotId:
    """Delete a snapshot. Its chunks go at once, or with the next deletion when a snapshot is
    being made just now."""
    snapshot_id = SnapshotId(snapshot)
    if not is_snapshot_id(snapshot):
        snapshot_id = load_snapshot(home, snapshot).snapshot_id
    for workflow in load_workflows(home):
        if snapshot_id in (workflow.plain_snapshot_id, workflow.copy_snapshot_id):
            raise SnapshotInUseError(
                f"snapshot {snapshot_id} is needed by the unfinished encryption of "
                f"{workflow.source_id}"
            )
    _delete(home, [snapshot_id])
    with suppress(TryAgainError):
        sweep_store(home)
    return snapshot_id


def purge_snapshots(home: Home, snapshot_ids: Sequence[SnapshotId]) -> None:
    """Delete snapshots, those that are there, and all that only they refer to, before returning.

    Raises TryAgainError when a snapshot is being made for too long.
    """
    for snapshot_id in snapshot_ids:
        with suppress(SnapshotNotFoundError):
            _delete(home, [snapshot_id])
    sweep_store(home)


def _delete(home: Home, snapshot_ids: Sequence[SnapshotId]) -> None:
    store = open_local_store(home)
    with store_log(home, store) as log:
        for snapshot_id in snapshot_ids:
            log.save(delete(store, snapshot_id, log.signer, log.head, now=now()))


def sweep_store(home: Home) -> Swept:
    """Delete what nothing refers to. Raises TryAgainError while snapshots are being made."""
    store = open_local_store(home)
    with store_alone(home):
        # What a manifest that is gone refers to is not known, and must not be taken for garbage.
        check_log_is_whole(home, store)
        return sweep(store, resumable=resumable_copies(home))


def verify_snapshots(home: Home, snapshot: str | None) -> Verification:
    """Check one snapshot with its lineage, or all, and the logs; no data key is used.

    Raises SnapshotNotFoundError; what is wrong is in the answer.
    """
    store = open_local_store(home)
    wanted: list[SnapshotId] | None = None
    if snapshot is not None:
        named = snapshot if is_snapshot_id(snapshot) else load_snapshot(home, snapshot).snapshot_id
        wanted = [SnapshotId(named)]
    head = StoreLog(home, store).head or empty_log(home_signer(home).id)
    return verify(store, wanted, lineage=True, expected_head=head)


def runs_of(mask: BoolArray) -> Iterator[range]:
    """The runs of consecutive indexes that are set."""
    edges = np.flatnonzero(np.diff(mask.astype(np.int8), prepend=0, append=0)).tolist()
    for start, stop in zip(edges[::2], edges[1::2], strict=True):
        yield range(start, stop)
