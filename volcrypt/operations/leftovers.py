"""What killed commands leave behind, and its removal. Nothing here is needed for correctness: a
leftover is never mistaken for the real thing. It takes space and looks untidy."""

from contextlib import suppress

from volcrypt.durable import remove_durably
from volcrypt.errors import SnapshotNotFoundError, VolcryptError
from volcrypt.formats.job import JobKind
from volcrypt.names import SnapshotId, VolumeId
from volcrypt.operations.home import Home
from volcrypt.operations.import_cursors import volumes_to_be
from volcrypt.operations.jobs import load_jobs, remove_job
from volcrypt.operations.placement import remove_data
from volcrypt.operations.records import KIND
from volcrypt.operations.snapshot_lookup import is_whole
from volcrypt.operations.stores import open_local_store, store_of
from volcrypt.operations.workflows import (
    copy_cursor_path,
    load_workflows,
    resumable_copies,
    stale_cursors,
)
from volcrypt.snapshot.store import SnapshotStore


def remove_leftovers(home: Home) -> None:
    """Remove volumes that were never finished or not wholly deleted, and cursors of work that is
    done. The caller holds the home exclusively."""
    known = {VolumeId(entry.id) for entry in home.register.entries(KIND)}
    known |= {workflow.target_id for workflow in load_workflows(home)}
    known |= volumes_to_be(home)
    for volume_id in home.volumes.leftovers(known):
        remove_data(home, volume_id)
        home.volumes.remove(volume_id)
    for path in stale_cursors(home):
        remove_durably(path)
    for snapshot_id in resumable_copies(home):
        # Damage in the store is for others to report; the cursor stays for as long.
        with suppress(VolcryptError):
            if is_decided(open_local_store(home), snapshot_id):
                remove_durably(copy_cursor_path(home, snapshot_id))


def forget_jobs(home: Home) -> None:
    """Remove what was left of jobs by processes that were killed when all was done, or, of a copy,
    before anybody was told of it: it has no cursor. Whatever is wrong with a store is for others to
    report."""
    for job in load_jobs(home):
        if job.is_pending or job.record is None:
            continue
        with suppress(VolcryptError):
            was_never_begun = job.record.kind is JobKind.COPY and not job.has_cursor
            if was_never_begun or is_whole(store_of(home, job.record.store_id), job):
                # Of a copy killed when it was completed: in other stores nobody else looks.
                remove_durably(copy_cursor_path(home, job.snapshot_id))
                remove_job(home, job.snapshot_id)


def is_decided(store: SnapshotStore, snapshot_id: SnapshotId) -> bool:
    """Whether a copy that was begun is complete in this store, or was once and was deleted."""
    try:
        store.manifest(snapshot_id)
    except SnapshotNotFoundError:
        return store.tombstone(snapshot_id) is not None
    return True
