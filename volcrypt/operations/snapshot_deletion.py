"""Deletion of snapshots, and of what then nothing refers to.

The local store is this home's alone: a sweep holds it and deletes at once. In a shared store other
homes may be making snapshots, so it goes by condemned lists, marks and pins (`snapshot.sweep`).
"""

from collections.abc import Callable, Sequence
from contextlib import suppress

from volcrypt.errors import (
    ObjectNotFoundError,
    SnapshotInUseError,
    SnapshotNotFoundError,
    SweepBlockedError,
    TryAgainError,
)
from volcrypt.formats.manifest import Manifest
from volcrypt.names import SnapshotId, is_snapshot_id
from volcrypt.operations.home import Home
from volcrypt.operations.lazy_volumes import release_abandoned_pins, volumes_that_pin
from volcrypt.operations.snapshot_lookup import load_snapshot, store_holding
from volcrypt.operations.snapshots import now
from volcrypt.operations.stores import (
    check_log_is_whole,
    check_may_sign,
    home_signer,
    is_shared,
    load_heads,
    open_local_store,
    store_alone,
    store_log,
    store_of,
)
from volcrypt.operations.workflows import load_workflows, resumable_copies
from volcrypt.snapshot.log import delete
from volcrypt.snapshot.store import SnapshotStore
from volcrypt.snapshot.sweep import Swept, condemn, delete_condemned, sweep


def delete_snapshot(
    home: Home, snapshot: str, *, warn: Callable[[SweepBlockedError], None] = lambda _: None
) -> SnapshotId:
    """Delete a snapshot. Its chunks go at once, or with the next deletion when a snapshot is
    being made just now; `warn` is called when another snapshot that is damaged keeps them."""
    snapshot_id = SnapshotId(snapshot)
    if not is_snapshot_id(snapshot):
        snapshot_id = load_snapshot(home, snapshot).snapshot_id
    for workflow in load_workflows(home):
        if snapshot_id in (workflow.plain_snapshot_id, workflow.copy_snapshot_id):
            raise SnapshotInUseError(
                f"snapshot {snapshot_id} is needed by the unfinished encryption of "
                f"{workflow.source_id}"
            )
    store = store_holding(home, snapshot_id)
    _delete(home, store, snapshot_id)
    try:
        with suppress(TryAgainError):
            sweep_store(home, store)
    except SweepBlockedError as error:
        warn(error)
    return snapshot_id


def purge_snapshots(
    home: Home, local_ids: Sequence[SnapshotId], elsewhere: Sequence[Manifest] = ()
) -> None:
    """Delete snapshots, those that are there, and all that only they refer to, before returning:
    `local_ids` in the local store, `elsewhere` wherever they are.

    Raises TryAgainError when a snapshot is being made for too long.
    """
    local = open_local_store(home)
    doomed = [(local, snapshot_id) for snapshot_id in local_ids]
    doomed += [(store_of(home, each.store_id), each.snapshot_id) for each in elsewhere]
    for store, snapshot_id in doomed:
        with suppress(SnapshotNotFoundError):
            _delete(home, store, snapshot_id)
    for store in {store.store_id: store for store, _ in doomed}.values():
        sweep_store(home, store)


def _delete(home: Home, store: SnapshotStore, snapshot_id: SnapshotId) -> None:
    check_may_sign(home, store)
    with store_log(home, store) as log:
        known = load_heads(home, store.store_id)
        head = delete(store, snapshot_id, log.signer, log.head, now=now(), known_heads=known)
        log.save(head)


def sweep_store(home: Home, store: SnapshotStore) -> Swept:
    """Delete what nothing refers to. Raises TryAgainError while snapshots are being made."""
    with store_alone(home, store):
        # What a manifest that is gone refers to is not known, and must not be taken for garbage.
        check_log_is_whole(home, store)
        if not is_shared(home, store):
            lazy = volumes_that_pin(home)
            return sweep(store, resumable=resumable_copies(home), lazy=lazy)
        release_abandoned_pins(home, store)
        signer = home_signer(home)
        try:
            condemn(store, signer)
            return delete_condemned(store, signer, now=now())
        except ObjectNotFoundError as error:
            raise TryAgainError(
                f"another home is sweeping {store.objects.location} at the same time"
            ) from error
