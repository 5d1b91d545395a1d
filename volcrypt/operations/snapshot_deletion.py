"""Deletion of snapshots, and of what then nothing refers to.

The local store is this home's alone: a sweep holds it and deletes at once. In a shared store other
homes may be making snapshots, so it goes by condemned lists, marks and pins (`snapshot.sweep`).
"""

from collections.abc import Callable, Sequence
from contextlib import suppress

from volcrypt.durable import remove_durably
from volcrypt.errors import (
    ConfigurationError,
    InvalidArgumentError,
    ObjectStoreError,
    SnapshotFailedError,
    SnapshotInUseError,
    SnapshotNotFoundError,
    StoreAccessError,
    StoreNotFoundError,
    SweepBlockedError,
    TryAgainError,
    VolcryptError,
)
from volcrypt.formats.job import JobRecord
from volcrypt.formats.manifest import Manifest
from volcrypt.names import SnapshotId, StoreId, is_snapshot_id
from volcrypt.operations.copy_cursors import give_up_lost_copies
from volcrypt.operations.home import Home
from volcrypt.operations.jobs import Job, find_job, load_jobs, remove_job, stop_job
from volcrypt.operations.lazy_volumes import renew_pins, volumes_that_pin
from volcrypt.operations.snapshot_lookup import load_snapshot, store_holding
from volcrypt.operations.snapshots import now
from volcrypt.operations.stores import (
    check_log_is_whole,
    check_may_sign,
    home_signer,
    is_shared,
    load_heads,
    note_garbage,
    open_local_store,
    store_alone,
    store_log,
    store_of,
    unswept_path,
)
from volcrypt.operations.workflows import copy_cursor_path, load_workflows, resumable_copies
from volcrypt.snapshot.log import delete
from volcrypt.snapshot.pin import release_pin
from volcrypt.snapshot.store import SnapshotStore
from volcrypt.snapshot.sweep import Swept, sweep, sweep_shared


def delete_snapshot(
    home: Home, snapshot: str, *, warn: Callable[[SweepBlockedError], None] = lambda _: None
) -> SnapshotId:
    """Delete a snapshot; one that is being made is stopped, with all that are made with it. Its
    chunks go at once, or when the snapshots are done that are being made just now; `warn` is called
    when another snapshot that is damaged keeps them.

    Raises SnapshotNotFoundError, InvalidArgumentError for a name that two have, SnapshotInUseError,
    and TryAgainError when what makes it does not stop.
    """
    job = find_job(home, snapshot)
    if job is not None and job.is_pending:
        stop_job(home, job.snapshot_id)
        snapshot_id = job.snapshot_id
    elif is_snapshot_id(snapshot):
        snapshot_id = SnapshotId(snapshot)
    else:
        snapshot_id = _by_name(home, snapshot, job)
    for workflow in load_workflows(home):
        if snapshot_id in (workflow.plain_snapshot_id, workflow.copy_snapshot_id):
            raise SnapshotInUseError(
                f"snapshot {snapshot_id} is needed by the unfinished encryption of "
                f"{workflow.source_id}"
            )
    job = find_job(home, snapshot_id)
    if job is None:
        store = store_holding(home, snapshot_id)
        _delete(home, store, snapshot_id)
    else:
        found = _delete_job(home, job)
        if found is None:
            return snapshot_id
        store = found
    if _at_work(home, store) is not None:
        note_garbage(home, store.store_id)
        return snapshot_id
    try:
        sweep_store(home, store)
    except TryAgainError:
        note_garbage(home, store.store_id)
    except SweepBlockedError as error:
        warn(error)
    else:
        unswept_path(home, store.store_id).unlink(missing_ok=True)
    return snapshot_id


def _by_name(home: Home, name: str, job: Job | None) -> SnapshotId:
    """The completed snapshot of this name, or the failed one. Raises InvalidArgumentError where
    there are both: nobody is to lose the good one by mistake."""
    try:
        completed = load_snapshot(home, name).snapshot_id
    except (SnapshotFailedError, SnapshotNotFoundError):
        if job is None:
            raise
        return job.snapshot_id
    if job is not None and job.snapshot_id != completed:
        raise InvalidArgumentError(
            f"two snapshots are named {name}: {completed}, and {job.snapshot_id}, which was not "
            "completed",
            hint="give the id",
        )
    return completed


def _delete_job(home: Home, job: Job) -> SnapshotStore | None:
    """Delete what a job that ended left: here, and in the store if that can be reached, which is
    the answer. What cannot be deleted there is a leftover that no home takes for a snapshot."""
    store: SnapshotStore | None = None
    remove_durably(copy_cursor_path(home, job.snapshot_id))  # first: nobody is to continue it now
    with suppress(
        ConfigurationError,
        ObjectStoreError,
        StoreAccessError,
        StoreNotFoundError,
        SnapshotFailedError,
    ):
        if job.record is None:
            store = store_holding(home, job.snapshot_id)
        else:
            store = store_of(home, job.record.store_id)
        with suppress(SnapshotNotFoundError):
            _delete(home, store, job.snapshot_id)
        release_pin(store, job.snapshot_id)
    with suppress(SnapshotNotFoundError):  # it was completed after all, and cleared its record
        remove_job(home, job.snapshot_id)
    return store


def make_up_for_sweep(home: Home, store: SnapshotStore) -> None:
    """Sweep if that is due (`stores.note_garbage`), unless snapshots are being made there. What is
    wrong with the store is for those to report who need it."""
    if unswept_path(home, store.store_id).exists() and _at_work(home, store) is None:
        with suppress(VolcryptError):
            sweep_store(home, store)
            unswept_path(home, store.store_id).unlink(missing_ok=True)


def _at_work(home: Home, store: SnapshotStore) -> Job | None:
    """A snapshot that is being made in the store, or copied from there: nobody has to wait to find
    that out."""
    for job in load_jobs(home):
        if job.is_pending and (job.record is None or store.store_id in _stores_of(job.record)):
            return job
    return None


def _stores_of(record: JobRecord) -> set[StoreId]:
    origin = record.origin
    return {record.store_id} if origin is None else {record.store_id, origin.store_id}


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
    try:
        return _sweep_alone(home, store)
    except TryAgainError as error:
        pending = _at_work(home, store)
        if pending is not None and error.hint is None:
            error.hint = f"volcrypt snapshot wait {pending.snapshot_id}"
        raise


def _sweep_alone(home: Home, store: SnapshotStore) -> Swept:
    with store_alone(home, store):
        # What a manifest that is gone refers to is not known, and must not be taken for garbage.
        check_log_is_whole(home, store)
        give_up_lost_copies(home, store)
        renew_pins(home, store)
        lazy, resumable = volumes_that_pin(home), resumable_copies(home)
        if not is_shared(home, store):
            return sweep(store, resumable=resumable, lazy=lazy)
        return sweep_shared(store, home_signer(home), resumable=resumable, lazy=lazy, clock=now)
