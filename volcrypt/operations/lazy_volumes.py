"""Lazy volumes: made at once, their chunks still in a snapshot.

What makes one, and what ends it:

    1  lasting pin in the store     the chunks stay, whatever becomes of the snapshot
    2  present map                  nothing is present
    3  record with its `source`     the volume exists
       ... the process that serves it fetches chunks; the last one makes the map complete
    4  record without `source`      by the next command that has the home open, or by whoever
                                    fetched the rest because he needs all of the data
    5  lasting pin released, present map removed

Killed between 1 and 3, or between 4 and 5, a pin is left whose volume does not need it: the next
sweep of this home removes it. A store of which this home is no signer takes no pin from it: a
volume from there is filled before it exists (`operations.restore`).
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from volcrypt.crypto.data_key import DataKey
from volcrypt.errors import SealError, StoreNotFoundError, VolcryptError
from volcrypt.formats.manifest import Manifest
from volcrypt.formats.present_map import PresentHeader
from volcrypt.formats.volume_record import LazySource, VolumeRecord, WrappedDataKey
from volcrypt.kms.clock import host_time
from volcrypt.names import SnapshotId, StoreId, VolumeId
from volcrypt.operations.home import Home
from volcrypt.operations.keys import data_key_id, unwrap_key
from volcrypt.operations.progress import Progress
from volcrypt.operations.record_copies import record_copies
from volcrypt.operations.records import KIND, load_record, present_path, save_records
from volcrypt.operations.scratch import mounted_snapshots
from volcrypt.operations.stores import (
    LOCAL_STORE,
    home_signer,
    load_place,
    note_garbage,
    store_names,
    store_of,
)
from volcrypt.snapshot.pin import hold_lastingly, is_held_lastingly, release_lasting
from volcrypt.snapshot.store import SnapshotStore
from volcrypt.volume.launch import LazyAssignment
from volcrypt.volume.owner import hold_volume
from volcrypt.volume.present_file import PRESENT_FILE, create_present_map, is_complete

# ---------------------------------------------------------------- making


def source_of(manifest: Manifest, *, fill_rate: int | None) -> LazySource:
    """What a volume made from this snapshot has in its record."""
    return LazySource(
        store_id=manifest.store_id,
        snapshot_id=manifest.snapshot_id,
        root=manifest.root,
        size_bytes=manifest.size_bytes,
        digest=manifest.digest,
        wrapped_key=manifest.wrapped_key,
        fill_rate=fill_rate,
    )


def can_pin(home: Home, store: SnapshotStore) -> bool:
    """Whether what this home signs there is believed."""
    try:
        store.verifier_of(home_signer(home).id)
    except SealError:
        return False
    return True


@contextmanager
def pinned(
    home: Home, store: SnapshotStore, manifest: Manifest, volume_id: VolumeId
) -> Iterator[None]:
    """Hold the chunks of a snapshot for a volume that the block makes; given up when it fails.

    Raises SnapshotNotFoundError when it was deleted just before, and TryAgainError.
    """
    hold_lastingly(store, volume_id, manifest, signer=home_signer(home), now=int(host_time()))
    try:
        # A sweep may have been there before the pin; the snapshot itself says that it was not.
        store.manifest(manifest.snapshot_id)
        yield
    except BaseException:
        with suppress(VolcryptError, OSError):
            release_lasting(store, volume_id)
        raise


def make_present_map(home: Home, volume_id: VolumeId, source: LazySource) -> None:
    """Of a volume that is being made; durable on return."""
    header = PresentHeader(volume_id=volume_id, size_bytes=source.size_bytes, root=source.root)
    create_present_map(present_path(home, volume_id), header)


# ---------------------------------------------------------------- serving


def lazy_assignment(
    home: Home, source: LazySource, wrapped_key: WrappedDataKey | None, *, present: Path | None
) -> LazyAssignment:
    """For the process that serves a volume under `wrapped_key`. The store is not reached for."""
    name = store_names(home).get(source.store_id)
    if name is None:
        raise StoreNotFoundError(source.store_id)
    recrypts = data_key_id(source.wrapped_key) != data_key_id(wrapped_key)
    return LazyAssignment(
        source=source,
        place=None if name == LOCAL_STORE else load_place(home, name),
        store_directory=str(home.stores_path / LOCAL_STORE) if name == LOCAL_STORE else None,
        present_path=None if present is None else str(present),
        recrypts=recrypts,
        has_source_key=recrypts and source.wrapped_key is not None,
    )


@contextmanager
def source_key(home: Home, assignment: LazyAssignment | None) -> Iterator[DataKey | None]:
    """The snapshot's data key, where the process that serves needs it; wiped at the end. Raises
    KmsError."""
    if assignment is None or not assignment.has_source_key:
        yield None
        return
    assert assignment.source.wrapped_key is not None, "internal error: a key that is none"
    with unwrap_key(home, assignment.source.wrapped_key) as key:
        yield key


# ---------------------------------------------------------------- the end


def is_whole(home: Home, record: VolumeRecord) -> bool:
    """Whether all chunks of a volume are its own. Raises IntegrityError and FormatError."""
    path = present_path(home, record.volume_id)
    return record.source is None or is_complete(path, record.volume_id)


def make_whole(home: Home, record: VolumeRecord, progress: Progress) -> VolumeRecord:
    """Fetch what a lazy volume lacks, for work that needs all of its data; the caller owns it.

    Does nothing for others. Raises why a chunk cannot be had, KmsError, NoSpaceError.
    """
    if record.source is None:
        return record
    if not is_whole(home, record):
        # numpy and trio, for those alone that need them
        from volcrypt.operations.lazy_fetch import fetch_rest

        fetch_rest(home, record, record.source, progress)
    return _made_whole(home, record)


def make_whole_as_possible(
    home: Home, record: VolumeRecord, progress: Progress
) -> tuple[VolumeRecord, dict[int, str]]:
    """The same, and where something cannot be had, which chunks, each with a reason: the volume is
    lazy still, and they read zeros. Raises KmsError, NoSpaceError, IntegrityError, FormatError."""
    if record.source is None:
        return record, {}
    if not is_whole(home, record):
        from volcrypt.operations.lazy_fetch import fetch_possible

        absent = fetch_possible(home, record, record.source, progress)
        if absent:
            return record, absent
    return _made_whole(home, record), {}


def _made_whole(home: Home, record: VolumeRecord) -> VolumeRecord:
    record = clear_source(home, record)
    present_path(home, record.volume_id).unlink(missing_ok=True)
    return record


def settle_lazy_volumes(home: Home) -> None:
    """Make volumes of which every chunk is present ordinary ones. Never fails: what stays is done
    by a later command."""
    for path in sorted(home.volumes.path.glob(f"vol-*/{PRESENT_FILE}")):
        volume_id = VolumeId(path.parent.name)
        with suppress(VolcryptError, OSError):
            if is_complete(path, volume_id) and home.register.get(KIND, volume_id) is not None:
                record = load_record(home, volume_id)
                if record.source is not None:
                    clear_source(home, record)
                # A mount that is just beginning may still look for it.
                with hold_volume(path.parent, purpose="settle"):
                    path.unlink()


def clear_source(home: Home, record: VolumeRecord, *, is_assumed: bool = False) -> VolumeRecord:
    """The volume has all its chunks, as its present map says, or where there is none, its user
    (`is_assumed`); durable on return, with the copy of its record, by which other homes know that.
    Raises NoSpaceError, TryAgainError, KmsError."""
    with record_copies(home, record) as copies, home.exclusive():
        record = load_record(home, record.volume_id)
        source = record.source
        if source is not None:
            assert is_assumed or is_complete(
                present_path(home, record.volume_id), record.volume_id
            ), "internal error: chunks are absent"
            record = msgspec.structs.replace(record, source=None, counter=record.counter + 1)
            save_records(home, put=[record])
            with suppress(VolcryptError, OSError):
                copies.write(record)  # else the next mount does
    if source is not None:
        release_pin(home, record.volume_id, source.store_id, source.snapshot_id)
    return record


def release_pin(
    home: Home, volume_id: VolumeId, store_id: StoreId, snapshot_id: SnapshotId
) -> None:
    """Give the hold of a volume up, if the store can be reached; else the next sweep does. One is
    due when the snapshot is there no more."""
    with suppress(VolcryptError, OSError):
        store = store_of(home, store_id)
        release_lasting(store, volume_id)
        if next(store.manifest_names(snapshot_id), None) is None:
            note_garbage(home, store_id)


# ---------------------------------------------------------------- sweeping


def volumes_that_pin(home: Home) -> set[VolumeId]:
    """Whose lasting pins are needed: lazy volumes, those whose records cannot be read, and mounted
    snapshots. The caller holds the store alone: none of them is just being made."""
    needed = mounted_snapshots(home)
    for entry in home.register.entries(KIND):
        volume_id = VolumeId(entry.id)
        try:
            if load_record(home, volume_id).source is not None:
                needed.add(volume_id)
        except VolcryptError:
            needed.add(volume_id)
    return needed


def renew_pins(home: Home, store: SnapshotStore) -> None:
    """Put the lasting pins again that lazy volumes of this home have lost, so that a sweep of its
    own does not take their chunks, whoever deleted or damaged a pin. The caller holds the store
    alone. Raises TryAgainError while another home sweeps, and ObjectStoreError."""
    for entry in home.register.entries(KIND):
        volume_id = VolumeId(entry.id)
        try:
            source = load_record(home, volume_id).source
        except VolcryptError:
            continue
        if source is None or source.store_id != store.store_id:
            continue
        if not is_held_lastingly(store, volume_id, source):
            now, signer = int(host_time()), home_signer(home)
            hold_lastingly(store, volume_id, source, signer=signer, now=now)
