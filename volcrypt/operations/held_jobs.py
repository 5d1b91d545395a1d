"""Being a job: its record, in its place and locked for as long as this process makes the snapshot.

`operations.jobs` says what the files are and mean.
"""

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final, Self

import msgspec

from volcrypt.durable import (
    make_directory_durably,
    no_space_named,
    remove_durably,
    sync_directory,
    write_fully,
)
from volcrypt.errors import NameTakenError, NoSpaceError, TryAgainError
from volcrypt.file_lock import locked_within
from volcrypt.formats.job import JobKind, JobRecord, encode_job
from volcrypt.operations.home import Home
from volcrypt.operations.job_progress import JobProgress, progress_path
from volcrypt.operations.jobs import Job, load_jobs

_NEW: Final = ".new"
"""Behind the name of a record that is being written."""


class HeldJob:
    """The job of a snapshot or copy that this process makes. Not for several threads."""

    def __init__(self, home: Home, record: JobRecord) -> None:
        """Raises NoSpaceError."""
        self._path = home.jobs_path / record.snapshot_id
        self._progress_path = progress_path(home, record.snapshot_id)
        self.record = record
        self._descriptor = self._put()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def update(self, **changes: object) -> None:
        """Raises NoSpaceError."""
        self.record = msgspec.structs.replace(self.record, **changes)
        before, self._descriptor = self._descriptor, self._put()
        os.close(before)

    def fail(self, reason: str) -> None:
        """Leave the record with the reason; on a full disk it lasts until the next boot."""
        try:
            self.update(reason=reason)
        except NoSpaceError:
            JobProgress.write_reason(self._progress_path, reason)
        else:
            self._progress_path.unlink(missing_ok=True)

    def remove(self) -> None:
        """There is nothing to say any more: the snapshot is completed, or was never told of."""
        self._progress_path.unlink(missing_ok=True)
        remove_durably(self._path)

    def close(self) -> None:
        """Let go of the lock. May be called twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _put(self) -> int:
        """Put the record in its place, locked; the descriptor that holds the lock."""
        temporary = self._path.with_name(f".{self._path.name}{_NEW}")
        with no_space_named(self._path):
            temporary.unlink(missing_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
            descriptor = os.open(temporary, flags, 0o600)
            try:
                assert locked_within(descriptor, fcntl.LOCK_EX, 0), (
                    "internal error: a new file is locked"
                )
                data = encode_job(self.record)
                write_fully(descriptor, data, 0)
                os.fsync(descriptor)
                os.replace(temporary, self._path)
                sync_directory(self._path.parent)
            except BaseException:
                os.close(descriptor)
                temporary.unlink(missing_ok=True)
                raise
        return descriptor


@contextmanager
def hold_jobs(home: Home, records: Sequence[JobRecord]) -> Iterator[list[HeldJob]]:
    """Announce snapshots or copies, all or none: their ids and names, and the volumes that a
    snapshot is of, are taken from here on.

    When the block ends the locks are let go of; records that were not removed stay. Raises
    NameTakenError, NoSpaceError, and TryAgainError when a snapshot of one of the volumes, or this
    very copy, is being made already.
    """
    make_directory_durably(home.jobs_path)
    jobs: list[HeldJob] = []
    try:
        with home.locked("jobs/lock"):
            _remove_unfinished(home)
            present = [job for job in load_jobs(home) if job.is_pending]
            for record in records:
                _check_is_free(record, present)
            try:
                for record in records:
                    jobs.append(HeldJob(home, record))  # noqa: PERF401 - those made are undone
            except BaseException:
                for job in jobs:
                    job.remove()
                raise
        yield jobs
    finally:
        for job in jobs:
            job.close()


def _remove_unfinished(home: Home) -> None:
    """Remove the files of jobs that were killed before their first record was in its place. The
    caller holds the lock, and with that nobody else is about to announce a job."""
    for path in home.jobs_path.glob(f".*{_NEW}"):
        if not path.with_name(path.name.removeprefix(".").removesuffix(_NEW)).exists():
            path.unlink(missing_ok=True)


def _check_is_free(record: JobRecord, present: Sequence[Job]) -> None:
    for job in present:
        if job.record is None:
            continue
        if job.snapshot_id == record.snapshot_id:
            raise job.error()
        if record.name is not None and job.record.name == record.name:
            raise NameTakenError("snapshot", record.name)
        if (
            job.record.volume_id == record.volume_id
            and job.record.kind is JobKind.SNAPSHOT
            and record.kind is JobKind.SNAPSHOT
        ):
            raise TryAgainError(
                f"snapshot {job.snapshot_id} of volume {record.volume_id} is still being made",
                hint=f"volcrypt snapshot wait {job.snapshot_id}",
            )
