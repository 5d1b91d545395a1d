"""Snapshots by id and by name, in all stores of a home.

The local store comes first: what is found there is meant, and no other store is asked. A store that
cannot be read hides what it holds and nothing else: only when something is not found in the others
does its error matter.

A snapshot that has a job (`operations.jobs`) is there when that is done. What a set that was killed
while it was completed left in the store is no snapshot either.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from volcrypt.errors import (
    IntegrityError,
    InvalidArgumentError,
    NameTakenError,
    SnapshotFailedError,
    SnapshotNotFoundError,
    SnapshotPendingError,
    StoreNotFoundError,
    VolcryptError,
)
from volcrypt.formats.manifest import Manifest
from volcrypt.names import SnapshotId, VolumeId, is_snapshot_id, parse_name
from volcrypt.operations.home import Home
from volcrypt.operations.jobs import Job, find_job, load_jobs
from volcrypt.operations.stores import (
    LOCAL_STORE,
    check_log_is_whole,
    open_store,
    open_stores,
    store_of,
)
from volcrypt.snapshot.listing import read_manifests
from volcrypt.snapshot.store import SnapshotStore


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """Snapshots, oldest first; the jobs of those that are not completed; the error of each that
    cannot be read, and of each store."""

    manifests: list[Manifest] = field(default_factory=list)
    jobs: list[Job] = field(default_factory=list)
    damaged: dict[SnapshotId, VolcryptError] = field(default_factory=dict)
    unread: dict[str, VolcryptError] = field(default_factory=dict)


def list_snapshots(home: Home, store: str | None = None) -> Listing:
    """The snapshots of one store, or of all. Raises what `open_store` does for one that was named;
    of all, those that cannot be read are in the answer."""
    if store is not None:
        stores: dict[str, SnapshotStore | VolcryptError] = {store: open_store(home, store)}
    else:
        stores = dict(open_stores(home))
    # The jobs first, and the manifests last: what is whole in between, also a set whose jobs end
    # one by one, is then listed as a whole.
    jobs = [
        job
        for job in load_jobs(home)
        if (store is None or job.record is None or job.record.store_name == store)
        and not _is_done(job, stores)
    ]
    found = _sorted_listing(stores)
    for job in jobs:
        _merge(found, job)
    return found


def _is_done(job: Job, stores: Mapping[str, SnapshotStore | VolcryptError]) -> bool:
    """Whether a job is only what is left of one; not for all that can be told, where the store
    cannot be read."""
    store = None if job.record is None else stores.get(job.record.store_name)
    with suppress(VolcryptError):
        return isinstance(store, SnapshotStore) and is_whole(store, job)
    return False


def _merge(found: Listing, job: Job) -> None:
    others = [each for each in found.manifests if each.snapshot_id != job.snapshot_id]
    is_alone = job.record is not None and not job.record.together
    if job.is_pending and is_alone and len(others) < len(found.manifests):
        return  # it has just been completed
    found.manifests[:] = others
    found.jobs.append(job)


def _sorted_listing(stores: dict[str, SnapshotStore | VolcryptError]) -> Listing:
    found = Listing()
    for name, store in stores.items():
        if isinstance(store, VolcryptError):
            if len(stores) == 1:
                raise store
            found.unread[name] = store
            continue
        try:
            manifests, damaged = read_manifests(store)
        except VolcryptError as error:
            if len(stores) == 1:
                raise
            found.unread[name] = error
            continue
        found.manifests.extend(manifests)
        found.damaged.update(damaged)
    found.manifests.sort(key=lambda manifest: (manifest.completed_at, manifest.sequence))
    return found


def check_snapshot_name(home: Home, name: str | None, store: SnapshotStore) -> None:
    """Raises InvalidArgumentError, and NameTakenError when a snapshot has it that is being made, or
    is in `store` or in any other store that can be read."""
    if name is not None and any(
        job.is_pending and job.record is not None and job.record.name == name
        for job in load_jobs(home)
    ):
        raise NameTakenError("snapshot", name)
    check_name_in_stores(home, name, store)


def check_name_in_stores(home: Home, name: str | None, store: SnapshotStore) -> None:
    """The same, of completed snapshots."""
    if name is None:
        return
    parse_name(name)
    check_name_in(store, name)
    for _, other in open_stores(home):
        if isinstance(other, SnapshotStore) and other.store_id != store.store_id:
            try:
                check_name_in(other, name)
            except NameTakenError:
                raise
            except VolcryptError:
                continue  # it hides what it holds, whatever is wrong with it


def check_name_in(store: SnapshotStore, name: str | None) -> None:
    """Raises NameTakenError when a snapshot of this store has the name."""
    if name is not None and any(each.name == name for each in read_manifests(store)[0]):
        raise NameTakenError("snapshot", name)


def load_snapshot(home: Home, snapshot: str) -> Manifest:
    """A completed snapshot by id or name. Raises SnapshotPendingError and SnapshotFailedError for
    others, SnapshotNotFoundError, FormatError, IntegrityError, and InvalidArgumentError for a name
    that several have."""
    job = find_job(home, snapshot)
    if job is not None and job.is_pending:
        raise job.error()
    if is_snapshot_id(snapshot):
        snapshot_id = SnapshotId(snapshot)
        holding = store_holding(home, snapshot_id)
        if job is not None and not is_whole(holding, job):
            raise job.error()
        return holding.manifest(snapshot_id)
    found: list[Manifest] = []
    damaged: list[VolcryptError] = []
    unread: list[VolcryptError] = []
    for name, store in open_stores(home):
        if isinstance(store, VolcryptError):
            if name == LOCAL_STORE:
                if store.hint is None or isinstance(store, StoreNotFoundError):
                    store.hint = "snapshots in other stores can be used by their id"
                raise store  # what has the name there is what would be meant
            unread.append(store)
            continue
        try:
            manifests, errors = read_manifests(store)
        except VolcryptError as error:
            unread.append(error)
            continue
        damaged += errors.values()
        named = [manifest for manifest in manifests if manifest.name == snapshot]
        if named:
            # A name is given again when its snapshot is deleted: an old one must not have it back.
            check_log_is_whole(home, store)
            found += named
            if name == LOCAL_STORE:
                break
    if len(found) > 1:
        raise InvalidArgumentError(
            f"several snapshots are named {snapshot}: "
            + ", ".join(manifest.snapshot_id for manifest in found),
            hint="name the one that is meant by its id",
        )
    if found:
        job = find_job(home, found[0].snapshot_id)
        if job is not None and not is_whole(store_of(home, found[0].store_id), job):
            raise job.error()
        return found[0]
    if damaged:
        raise IntegrityError(f"no readable snapshot is named {snapshot}; {damaged[0]}")
    raise _not_found(home, snapshot, unread)


def names_a_snapshot(home: Home, target: str) -> bool:
    """Whether an id or name is that of a snapshot, completed or not, for all that can be told: for
    who was given it where a volume is wanted."""
    try:
        load_snapshot(home, target)
    except (SnapshotPendingError, SnapshotFailedError):
        return True
    except VolcryptError:
        return False
    return True


def store_holding(home: Home, snapshot_id: SnapshotId) -> SnapshotStore:
    """The store that has a manifest of this snapshot, sound or not; the local one when it was
    deleted there. Raises SnapshotNotFoundError, or the error of a store that may have it."""
    unread: list[VolcryptError] = []
    for _, store in open_stores(home):
        if isinstance(store, VolcryptError):
            unread.append(store)
            continue
        try:
            if next(store.manifest_names(snapshot_id), None) is not None:
                return store
        except VolcryptError as error:
            unread.append(error)
    raise _not_found(home, snapshot_id, unread)


def is_whole(store: SnapshotStore, job: Job) -> bool:
    """Whether the store has, or had, the snapshot of this job and all that were made with it."""
    together = job.record.together if job.record is not None else ()
    return all(
        next(store.manifest_names(each), None) is not None
        or next(store.tombstone_names(each), None) is not None
        for each in together or (job.snapshot_id,)
    )


def is_completed(home: Home, job: Job) -> bool:
    """The same, for all that can be told: not where the store cannot be read."""
    with suppress(VolcryptError):
        return job.record is not None and is_whole(store_of(home, job.record.store_id), job)
    return False


def _not_found(home: Home, snapshot: str, unread: list[VolcryptError]) -> VolcryptError:
    job = find_job(home, snapshot)
    if job is not None:
        return job.error()
    if not unread:
        return SnapshotNotFoundError(snapshot)
    error = unread[0]
    error.hint = f"snapshot {snapshot} is in no other store. {error.hint or ''}".strip(" .")
    return error


def manifests_of(store: SnapshotStore, volume_id: VolumeId) -> list[Manifest]:
    """The readable snapshots of one volume."""
    return [manifest for manifest in read_manifests(store)[0] if manifest.volume_id == volume_id]


def snapshots_of_volume(home: Home, volume_id: VolumeId) -> tuple[list[Manifest], list[str]]:
    """The readable snapshots of one volume in all stores, and the stores that cannot be read."""
    found = list_snapshots(home)
    manifests = [manifest for manifest in found.manifests if manifest.volume_id == volume_id]
    return manifests, list(found.unread)
