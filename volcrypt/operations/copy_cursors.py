"""Cursors of unfinished copies: sealed by the KMS, in HOME/work under the id of the copy to be."""

from contextlib import suppress

from volcrypt.errors import VolcryptError
from volcrypt.formats.document import MacSeal
from volcrypt.names import SnapshotId
from volcrypt.operations.home import Home
from volcrypt.operations.stores import store_of
from volcrypt.operations.workflows import copy_cursor_path, load_workflows, resumable_copies
from volcrypt.snapshot.cursor import CursorFile
from volcrypt.snapshot.pin import release_pin
from volcrypt.snapshot.store import SnapshotStore


def cursor_file(home: Home, snapshot_id: SnapshotId) -> CursorFile:
    """Of the copy that will have this id."""
    seal = MacSeal(home.vault.derive_home_key(b"volcrypt copy cursor\0" + snapshot_id.encode()))
    return CursorFile(copy_cursor_path(home, snapshot_id), seal)


def copies_of_workflows(home: Home) -> set[SnapshotId]:
    """Those that are not for `snapshot copy` to go on with, or to give up."""
    return {workflow.copy_snapshot_id for workflow in load_workflows(home)}


def give_up_lost_copies(home: Home, store: SnapshotStore) -> None:
    """Forget unfinished copies of snapshots of this store that were deleted since: nobody will go
    on with them. The caller holds the store alone. What cannot be read is left for later."""
    owned = copies_of_workflows(home)
    for snapshot_id in resumable_copies(home):
        with suppress(VolcryptError):
            file = cursor_file(home, snapshot_id)
            cursor = file.read()
            if (
                cursor is not None
                and snapshot_id not in owned
                and cursor.source_store_id == store.store_id
                and store.is_deleted(cursor.source_snapshot_id)
            ):
                release_pin(store_of(home, cursor.target_store_id), snapshot_id)
                file.remove()
