"""Snapshots of volumes: captured, stored, and completed."""

from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Protocol

import trio

from volcrypt.errors import SnapshotNotFoundError, VolcryptError
from volcrypt.formats.change_map import ParentPoint
from volcrypt.formats.manifest import Consistency, Manifest
from volcrypt.formats.volume_record import VolumeRecord
from volcrypt.kms.clock import host_time
from volcrypt.names import SnapshotId
from volcrypt.operations.captures import Target, capture_volumes
from volcrypt.operations.freezers import Freeze
from volcrypt.operations.home import Home
from volcrypt.operations.progress import Progress
from volcrypt.operations.snapshot_lookup import check_name_in
from volcrypt.operations.stores import home_signer, open_local_store, store_in_use, store_log
from volcrypt.operations.transfers import Transfer, store_all
from volcrypt.operations.write_budget import written_bytes
from volcrypt.snapshot.draft import SnapshotDraft
from volcrypt.snapshot.log import commit, delete
from volcrypt.snapshot.pace import Pace
from volcrypt.snapshot.pin import Pin
from volcrypt.snapshot.store import SnapshotStore


def now() -> int:
    """Seconds since 1970-01-01 UTC."""
    return int(host_time())


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A snapshot that is to be made, under an id that was chosen before. `held`: the caller has the
    volume's owner lock."""

    record: VolumeRecord
    snapshot_id: SnapshotId
    name: str | None
    held: bool = False
    consistency: Consistency = Consistency.CRASH


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """What a snapshot will be of. `barrier_us`: how long all writers were held up for it."""

    size_bytes: int
    captured_at: int
    barrier_us: int


class Observer(Protocol):
    """Who is told how snapshots come along."""

    def captured(self, points: Sequence[Point]) -> None:
        """All are fixed now, whatever is written from here on; in the order they were asked for.
        What is raised ends them."""

    def progress_of(self, snapshot_id: SnapshotId) -> Progress:
        """Who is told of the chunks of one."""


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
    wanted = Wanted(record=record, snapshot_id=snapshot_id, name=name, held=held)
    return store_snapshots(home, [wanted], store=store, observer=_OnlyProgress(progress))[0]


class _OnlyProgress:
    """An observer that is told of one snapshot's chunks."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def captured(self, points: Sequence[Point]) -> None:
        """Nobody waits for it."""

    def progress_of(self, _snapshot_id: SnapshotId) -> Progress:
        return self._progress


def store_snapshots(
    home: Home,
    wanted: Sequence[Wanted],
    *,
    store: SnapshotStore,
    observer: Observer,
    freeze: Freeze | None = None,
    rate: int | None = None,
) -> list[Manifest]:
    """Snapshots of several volumes at one point in time, in one store; completed, and durable, on
    return. All or none.

    `freeze`: what is to be frozen for the moment. `rate` is in bytes a second, of all together.
    Whoever is killed here leaves chunks that the next sweep takes, and between the manifests of
    several snapshots the first of them; whoever announced them knows that the set is not whole.
    """
    with ExitStack() as stack:
        stack.enter_context(store_in_use(home, store))
        pins = []
        for each in wanted:
            pin = Pin(
                store,
                snapshot_id=each.snapshot_id,
                size_bytes=each.record.size_bytes,
                signer=home_signer(home),
                clock=now,
            )
            # Before the point in time is fixed: what keeps us from the store is found here. What is
            # answered with an error may be stored all the same.
            stack.callback(_release, pin)
            pin.hold()
            pins.append(pin)
        targets = [Target(record=each.record, held=each.held) for each in wanted]
        if freeze is not None:
            stack.enter_context(freeze)
        fetching = observer.progress_of(wanted[0].snapshot_id)
        captures = stack.enter_context(
            capture_volumes(home, targets, still=freeze, progress=fetching)
        )
        captured_at = now()
        observer.captured(
            [
                Point(
                    size_bytes=each.size_bytes,
                    captured_at=captured_at,
                    barrier_us=each.barrier_us,
                )
                for each in captures
            ]
        )
        transfers = []
        for each, pin, captured in zip(wanted, pins, captures, strict=True):
            progress = observer.progress_of(each.snapshot_id)
            transfers.append(Transfer.prepare(store, pin, each.record, captured, progress))
        home.rest()
        tables = trio.run(store_all, transfers, Pace(rate))
        drafts = [
            SnapshotDraft(
                snapshot_id=each.snapshot_id,
                name=each.name,
                volume_id=each.record.volume_id,
                size_bytes=transfer.capture.size_bytes,
                parent=transfer.plan.base.point if transfer.plan.base is not None else None,
                root=table.root,
                data_chunks=table.data_chunks,
                stored_chunks=table.stored_chunks,
                stored_bytes=table.stored_bytes,
                key_source=each.record.key_source,
                wrapped_key=each.record.wrapped_key,
                account=each.record.account,
                consistency=each.consistency,
                captured_at=captured_at,
                completed_at=now(),
                written_bytes=written_bytes(home, each.record.wrapped_key),
            )
            for each, transfer, table in zip(wanted, transfers, tables, strict=True)
        ]
        if freeze is not None:
            freeze.finish_thaw()
        manifests = _commit_all(home, store, drafts)
        for manifest, transfer in zip(manifests, transfers, strict=True):
            transfer.capture.commit(
                ParentPoint(
                    store_id=store.store_id, snapshot_id=manifest.snapshot_id, root=manifest.root
                )
            )
        return manifests


def _release(pin: Pin) -> None:
    # One that stays is a leftover, which a sweep takes for what it is.
    with suppress(VolcryptError):
        pin.release()


def commit_snapshot(home: Home, store: SnapshotStore, draft: SnapshotDraft) -> Manifest:
    """Complete a snapshot whose chunks were put under a pin."""
    return _commit_all(home, store, [draft])[0]


def _commit_all(
    home: Home, store: SnapshotStore, drafts: Sequence[SnapshotDraft]
) -> list[Manifest]:
    """Complete several, all or none: the set is whole exactly when its last manifest is there.

    So until that is begun what was committed can be taken back. From then on it may be there,
    whatever comes of us (a signal, an answer of the store that was lost), and nothing is taken
    back: tombstones of some would make a set of the others. A part that stays is no snapshot, since
    none of it is while one was never there.
    """
    manifests: list[Manifest] = []
    with store_log(home, store) as log:
        for draft in drafts:
            check_name_in(store, draft.name)
        try:
            for draft in drafts:
                manifest, head = commit(store, draft, log.signer, log.head)
                manifests.append(manifest)
                log.save(head)
        except BaseException:
            with suppress(VolcryptError):
                for manifest in manifests if len(manifests) < len(drafts) - 1 else ():
                    log.save(delete(store, manifest.snapshot_id, log.signer, log.head, now=now()))
            raise
    return manifests
