"""What killed commands leave behind, and its removal. Nothing here is needed for correctness: a
leftover is never mistaken for the real thing. It takes space and looks untidy."""

from contextlib import suppress

from volcrypt.durable import remove_durably
from volcrypt.errors import SnapshotNotFoundError, VolcryptError
from volcrypt.names import SnapshotId, VolumeId
from volcrypt.operations.home import Home
from volcrypt.operations.placement import remove_data
from volcrypt.operations.records import KIND
from volcrypt.operations.stores import open_local_store
from volcrypt.operations.workflows import (
    copy_cursor_path,
    load_workflows,
    resumable_copies,
    stale_cursors,
)


def remove_leftovers(home: Home) -> None:
    """Remove volumes that were never finished or not wholly deleted, and cursors of work that is
    done. The caller holds the home exclusively."""
    known = {VolumeId(entry.id) for entry in home.register.entries(KIND)}
    known |= {workflow.target_id for workflow in load_workflows(home)}
    for volume_id in home.volumes.leftovers(known):
        remove_data(home, volume_id)
        home.volumes.remove(volume_id)
    for path in stale_cursors(home):
        remove_durably(path)
    for snapshot_id in resumable_copies(home):
        # Damage in the store is for others to report; the cursor stays for as long.
        with suppress(VolcryptError):
            if is_decided(home, snapshot_id):
                remove_durably(copy_cursor_path(home, snapshot_id))


def is_decided(home: Home, snapshot_id: SnapshotId) -> bool:
    """Whether a copy that was begun is complete, or was complete once and deleted since."""
    store = open_local_store(home)
    try:
        store.manifest(snapshot_id)
    except SnapshotNotFoundError:
        return store.tombstone(snapshot_id) is not None
    return True
