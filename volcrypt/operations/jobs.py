"""Jobs: snapshots and copies that are being made, and those that were not completed.

    HOME/jobs/SNAP-ID           `formats.job`; locked (flock) by the process that makes the
                                snapshot, from the moment that it is there to its own end
    HOME/jobs/lock              flock: one look at all jobs and one new one at a time
    RUNTIME/SNAP-ID.progress    how far it is, and which process it is (`job_progress`)

The lock says what a snapshot is, so that no death of a process can leave a wrong answer:

    locked                                     pending
    not locked, and the store has it whole     completed; the record is a leftover
    not locked otherwise                       error: the reason is in the record, or its process
                                               was killed before it could say one

The record is only ever replaced by one that is locked before it gets its name. Of a set, each
record names all; the set is whole when the store has, or had, every one of them.

A copy that was not completed is continued under its id, if its cursor is still there: then its
record is locked again, and it is pending once more.

Whom to stop is said on tmpfs, in a directory of this user alone, and not in the record: who could
write to storage could have any process stopped.
"""

import fcntl
import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from volcrypt.durable import open_regular, read_fully, remove_durably
from volcrypt.errors import (
    FormatError,
    SnapshotFailedError,
    SnapshotNotFoundError,
    SnapshotPendingError,
    TryAgainError,
)
from volcrypt.file_lock import is_at, locked_within
from volcrypt.formats.job import JobKind, JobRecord, decode_job
from volcrypt.names import SnapshotId, VolumeId, is_snapshot_id
from volcrypt.operations.home import Home
from volcrypt.operations.job_progress import JobProgress, read_progress, remove_runtime_files
from volcrypt.operations.workflows import copy_cursor_path
from volcrypt.volume.owner import boot_id, start_ticks

_MAX_BYTES: Final = 64 * 1024
_POLL_SECONDS: Final = 0.1
STOP_SECONDS: Final = 15.0
_KILLED: Final = "its process was killed"
_REBOOTED: Final = "the host went down while it was being made"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job as it was found. `record` is None when it cannot be read; `reason` is None exactly
    while the snapshot is pending. `has_cursor`: a copy that can be continued."""

    snapshot_id: SnapshotId
    record: JobRecord | None
    reason: str | None
    progress: JobProgress | None = None
    has_cursor: bool = False

    @property
    def is_pending(self) -> bool:
        return self.reason is None

    @property
    def percent(self) -> int:
        """0 to 99: what is completed has no job."""
        if self.progress is None or not self.progress.total_bytes:
            return 0
        return min(99, self.progress.done_bytes * 100 // self.progress.total_bytes)

    def error(self) -> SnapshotPendingError | SnapshotFailedError:
        """What a command is told that needs the snapshot."""
        if self.reason is None:
            return SnapshotPendingError(self.snapshot_id)
        original = self.record.origin if self.record is not None and self.has_cursor else None
        return SnapshotFailedError(
            self.snapshot_id,
            self.reason,
            unfinished_copy_of=None if original is None else original.snapshot_id,
        )


# ---------------------------------------------------------------- looking


def load_jobs(home: Home) -> list[Job]:
    """All jobs whose snapshots are not completed for all that can be told without a store, oldest
    first. A leftover of a completed snapshot is among them: whoever has the manifest knows better.
    """
    try:
        names = os.listdir(home.jobs_path)
    except FileNotFoundError:
        return []
    found = [_look(home, SnapshotId(name)) for name in names if is_snapshot_id(name)]
    jobs = [job for job in found if job is not None]
    return sorted(jobs, key=lambda job: job.record.started_at if job.record is not None else 0)


def find_job(home: Home, snapshot: str) -> Job | None:
    """The job of a snapshot given by id, or of the pending one, then of the last failed one, that
    has this name."""
    if is_snapshot_id(snapshot):
        return _look(home, SnapshotId(snapshot))
    named = [job for job in load_jobs(home) if job.record and job.record.name == snapshot]
    return max(named, key=lambda job: job.is_pending, default=None)


def pending_job_of(home: Home, volume_id: VolumeId) -> Job | None:
    """The snapshot of this volume that is being made; copies of its snapshots need no volume."""
    for job in load_jobs(home):
        if (
            job.is_pending
            and job.record is not None
            and job.record.kind is JobKind.SNAPSHOT
            and job.record.volume_id == volume_id
        ):
            return job
    return None


def _look(home: Home, snapshot_id: SnapshotId) -> Job | None:
    path = home.jobs_path / snapshot_id
    while True:
        try:
            descriptor = open_regular(path, os.O_RDONLY)
        except FileNotFoundError:
            return None
        except FormatError as error:
            return Job(snapshot_id=snapshot_id, record=None, reason=str(error))
        try:
            is_held = not locked_within(descriptor, fcntl.LOCK_SH, 0)
            data = read_fully(descriptor, _MAX_BYTES, 0)
            if not is_at(path, descriptor):
                continue  # replaced, or removed, just now
        finally:
            os.close(descriptor)
        progress = read_progress(home, snapshot_id)
        try:
            record = decode_job(data, what=f"job of {snapshot_id}")
        except FormatError as error:
            reason = None if is_held else str(error)
            return Job(snapshot_id=snapshot_id, record=None, reason=reason, progress=progress)
        if is_held:
            return Job(snapshot_id=snapshot_id, record=record, reason=None, progress=progress)
        reason = record.reason or (progress.reason if progress is not None else None)
        if reason is None:
            reason = _KILLED if record.boot_id == boot_id() else _REBOOTED
        return Job(
            snapshot_id=snapshot_id,
            record=record,
            reason=reason,
            has_cursor=copy_cursor_path(home, snapshot_id).exists(),
        )


# ---------------------------------------------------------------- waiting, stopping, removing


def wait_for_job(home: Home, snapshot_id: SnapshotId, *, deadline: float | None) -> Iterator[Job]:
    """What the job looks like, again and again, until nobody holds it any more. `deadline` is of
    `time.monotonic`. Raises TryAgainError when that is over."""
    while (job := _look(home, snapshot_id)) is not None and job.is_pending:
        yield job
        if deadline is not None and time.monotonic() >= deadline:
            raise SnapshotPendingError(snapshot_id)
        time.sleep(_POLL_SECONDS)


def stop_job(
    home: Home, snapshot_id: SnapshotId, *, patience_seconds: float = STOP_SECONDS
) -> None:
    """End the process that makes a snapshot, and with it all snapshots that it makes together;
    returns when it let go. It is killed when it does not end by itself for so long. Raises
    TryAgainError when it cannot be found or does not end."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        job = _look(home, snapshot_id)
        if job is None or not job.is_pending:
            return
        _signal(job, number)
        deadline = time.monotonic() + patience_seconds
        with suppress(SnapshotPendingError):
            for _ in wait_for_job(home, snapshot_id, deadline=deadline):
                pass
            return
    raise TryAgainError(f"the process that makes snapshot {snapshot_id} does not end")


def _signal(job: Job, number: signal.Signals) -> None:
    progress = job.progress
    if progress is None:
        raise TryAgainError(f"snapshot {job.snapshot_id} is just beginning")
    try:
        process = os.pidfd_open(progress.pid)
    except ProcessLookupError:
        return
    try:
        # Only now the number cannot come to mean another process.
        if start_ticks(progress.pid) == progress.start_ticks:
            signal.pidfd_send_signal(process, number)
    except ProcessLookupError:
        return
    finally:
        os.close(process)


def remove_job(home: Home, snapshot_id: SnapshotId) -> None:
    """Forget a job that nobody holds. Raises SnapshotNotFoundError when there is none."""
    with home.locked("jobs/lock"):
        job = _look(home, snapshot_id)
        if job is None:
            raise SnapshotNotFoundError(snapshot_id)
        if job.is_pending:
            raise job.error()
        remove_runtime_files(home, snapshot_id)
        remove_durably(home.jobs_path / snapshot_id)
