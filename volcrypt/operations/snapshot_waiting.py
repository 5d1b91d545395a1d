"""Waiting until snapshots are completed, or never will be."""

import time
from collections.abc import Sequence

from volcrypt.formats.manifest import Manifest
from volcrypt.names import SnapshotId
from volcrypt.operations.home import Home
from volcrypt.operations.jobs import find_job, wait_for_job
from volcrypt.operations.progress import SILENT, Progress
from volcrypt.operations.snapshot_lookup import load_snapshot


def wait_for_snapshots(
    home: Home,
    snapshots: Sequence[str],
    *,
    timeout_seconds: float | None,
    progress: Progress,
) -> list[Manifest]:
    """The completed snapshots, by id or name, when they are.

    Raises SnapshotFailedError for one that failed, SnapshotNotFoundError for one that is not there
    or was deleted meanwhile, SnapshotPendingError when the time is over.
    """
    deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
    if not home.opens_quietly:
        _ = home.register  # who has to be asked for a PIN is asked now, and not hours later
    found = []
    for snapshot in snapshots:
        job = find_job(home, snapshot)
        if job is not None and job.is_pending:
            home.rest()
            snapshot = job.snapshot_id
            _wait(home, job.snapshot_id, deadline, progress)
            for other in () if job.record is None else job.record.together:
                # Of a set all are completed at once, and their jobs end one by one.
                _wait(home, other, deadline, SILENT)
        found.append(load_snapshot(home, snapshot))
    return found


def _wait(home: Home, snapshot_id: SnapshotId, deadline: float | None, progress: Progress) -> None:
    total_bytes: int | None = None
    for job in wait_for_job(home, snapshot_id, deadline=deadline):
        if job.progress is None or job.progress.total_bytes is None:
            continue
        if total_bytes is None:
            total_bytes = job.progress.total_bytes
            progress.begin(f"waiting for {snapshot_id}", total_bytes)
        progress.advance(job.progress.done_bytes)
