"""Snapshots as they are asked for: of one volume or of a consistent set, announced as jobs, made.

The command may wait for them or not; `begun` is the moment from which nothing that happens to the
volumes matters to them any more. What fails before is the command's error and leaves nothing; what
fails later is a snapshot in state error, whose job says why.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from volcrypt.errors import InvalidArgumentError, VolcryptError
from volcrypt.formats.job import JobRecord
from volcrypt.formats.manifest import Consistency, Manifest
from volcrypt.formats.volume_record import VolumeRecord, key_arn_of
from volcrypt.names import SnapshotId, make_snapshot_id, parse_name
from volcrypt.operations.background import describe
from volcrypt.operations.freeze import plan_freeze
from volcrypt.operations.freezers import Freeze
from volcrypt.operations.held_jobs import HeldJob, hold_jobs
from volcrypt.operations.home import Home
from volcrypt.operations.job_progress import JobReporter
from volcrypt.operations.leftovers import forget_jobs
from volcrypt.operations.progress import BothProgress, JoinedProgress, Progress
from volcrypt.operations.records import load_record
from volcrypt.operations.snapshot_deletion import make_up_for_sweep
from volcrypt.operations.snapshot_lookup import check_name_in_stores
from volcrypt.operations.snapshots import Point, Wanted, now, store_snapshots
from volcrypt.operations.stores import LOCAL_STORE, check_may_sign, open_store
from volcrypt.snapshot.store import SnapshotStore
from volcrypt.volume.owner import boot_id


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotRequest:
    """`name` is that of one snapshot; of several, each is `name-VOLUMENAME`. `store` None: the
    local one. `freeze`: directories whose file systems are to be still at the moment. `rate`: bytes
    a second, of all together."""

    volumes: Sequence[str]
    name: str | None = None
    store: str | None = None
    freeze: Sequence[Path] = ()
    rate: int | None = None


def create_snapshots(
    home: Home,
    request: SnapshotRequest,
    *,
    progress: Progress,
    begun: Callable[[Sequence[JobRecord]], None] | None = None,
) -> list[Manifest]:
    """Snapshots of the volumes as they are at one moment of this call; completed, and durable, on
    return. All or none.

    `begun` is called when that moment is over; None when nobody is to go on before the end. Raises
    TryAgainError when a snapshot of one of them is being made already, NameTakenError, and what
    `load_record`, `open_store` and `plan_freeze` raise.
    """
    records = [load_record(home, volume) for volume in request.volumes]
    for record in records:
        if records.count(record) > 1:
            raise InvalidArgumentError(f"volume {record.name or record.volume_id} is named twice")
    store = open_store(home, request.store or LOCAL_STORE)
    if store.document.region != home.region:
        raise InvalidArgumentError(
            f"the volume is in region {home.region}, snapshot store {request.store} in "
            f"{store.document.region}",
            hint="take the snapshot in a store of its region and copy it",
        )
    check_may_sign(home, store)
    freeze = plan_freeze(home, records, request.freeze, store=store)
    forget_jobs(home)
    jobs = _announcements(home, request, records, store, freeze)
    with hold_jobs(home, jobs) as held:
        observer = _JobObserver(home, held, progress, begun)
        try:
            for job in jobs:
                # The names are announced, so whoever looks after us finds them taken.
                check_name_in_stores(home, job.name, store)
            manifests = store_snapshots(
                home,
                [
                    Wanted(
                        record=record,
                        snapshot_id=job.snapshot_id,
                        name=job.name,
                        consistency=job.consistency,
                    )
                    for record, job in zip(records, jobs, strict=True)
                ],
                store=store,
                observer=observer,
                freeze=freeze,
                rate=request.rate,
            )
        except BaseException as error:
            if observer.is_told or _is_something_left(store, jobs):
                for each in held:
                    each.fail(describe(error))
            else:
                for each in held:
                    each.remove()
            raise
        for each in held:
            each.remove()
    make_up_for_sweep(home, store)
    return manifests


def _announcements(
    home: Home,
    request: SnapshotRequest,
    records: Sequence[VolumeRecord],
    store: SnapshotStore,
    freeze: Freeze | None,
) -> list[JobRecord]:
    ids = [make_snapshot_id(home.random_id_bytes()) for _ in records]
    started_at = now()
    jobs = []
    for snapshot_id, record in zip(ids, records, strict=True):
        name = request.name
        if name is not None and len(records) > 1:
            name = f"{name}-{record.name or record.volume_id}"
        is_still = freeze is not None and record.volume_id in freeze.volumes
        key = record.wrapped_key
        jobs.append(
            JobRecord(
                snapshot_id=snapshot_id,
                name=None if name is None else parse_name(name),
                volume_id=record.volume_id,
                size_bytes=record.size_bytes,
                store_id=store.store_id,
                store_name=request.store or LOCAL_STORE,
                region=store.document.region,
                kms_key_arn=key_arn_of(key),
                data_key_id=key.data_key_id if key is not None else None,
                together=tuple(ids) if len(ids) > 1 else (),
                consistency=Consistency.FILE_SYSTEM if is_still else Consistency.CRASH,
                rate=request.rate,
                started_at=started_at,
                captured_at=None,
                barrier_us=None,
                pid=os.getpid(),
                boot_id=boot_id(),
                reason=None,
            )
        )
    return jobs


def _is_something_left(store: SnapshotStore, jobs: Sequence[JobRecord]) -> bool:
    """Whether a set may have been committed in part: then its jobs have to say so."""
    if len(jobs) < 2:
        return False
    try:
        return any(list(store.manifest_names(job.snapshot_id)) for job in jobs)
    except VolcryptError:
        return True


class _JobObserver:
    """Keeps the jobs up to date, and tells the command."""

    def __init__(
        self,
        home: Home,
        jobs: Sequence[HeldJob],
        progress: Progress,
        begun: Callable[[Sequence[JobRecord]], None] | None,
    ) -> None:
        self.is_told = False
        self._jobs = jobs
        self._begun = begun
        self._reporters = {
            job.record.snapshot_id: JobReporter(home, job.record.snapshot_id) for job in jobs
        }
        self._whole = JoinedProgress(progress, len(jobs), step="storing {} snapshots")

    def captured(self, points: Sequence[Point]) -> None:
        for job, point in zip(self._jobs, points, strict=True):
            job.update(
                size_bytes=point.size_bytes,
                captured_at=point.captured_at,
                barrier_us=point.barrier_us,
            )
        if self._begun is not None:
            self._begun([job.record for job in self._jobs])
            self.is_told = True

    def progress_of(self, snapshot_id: SnapshotId) -> Progress:
        return BothProgress(self._reporters[snapshot_id], self._whole.part(snapshot_id))
