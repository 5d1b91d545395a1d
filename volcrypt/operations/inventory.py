"""All that a home knows of and that is encrypted, or should be: one look at volumes, snapshots in
every store, what is being made, unfinished work. For reports; changes nothing.

What cannot be read is named with the reason, and a store that does not answer too: a report that
left it out would say that there is nothing.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field

from volcrypt.errors import VolcryptError
from volcrypt.formats.copy_cursor import CopyCursor
from volcrypt.formats.job import JobRecord
from volcrypt.formats.manifest import Manifest
from volcrypt.formats.migration import Migration
from volcrypt.formats.volume_record import VolumeRecord, WrappedDataKey
from volcrypt.formats.workflow import Workflow
from volcrypt.geometry import chunk_count
from volcrypt.names import DataKeyId, StoreId, VolumeId
from volcrypt.operations.copy_cursors import cursor_file
from volcrypt.operations.home import Home
from volcrypt.operations.migrations import KIND as MIGRATIONS
from volcrypt.operations.migrations import load_migration
from volcrypt.operations.record_copies import copy_location
from volcrypt.operations.records import load_records, present_path
from volcrypt.operations.snapshot_lookup import list_snapshots
from volcrypt.operations.stores import LOCAL_STORE, check_log_is_whole, open_stores, store_names
from volcrypt.operations.workflows import KIND as WORKFLOWS
from volcrypt.operations.workflows import load_workflow, resumable_copies
from volcrypt.operations.write_budget import written_bytes
from volcrypt.snapshot.store import SnapshotStore
from volcrypt.volume.present_file import count_present


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """`stores` are names by id; of those, `unread` did not answer, and why. `unreadable` is what is
    there and cannot be read, and why. `absent_chunks` are of lazy volumes, those still in their
    snapshots, all of them where that cannot be told. `record_copies` say where those of volumes
    lie. `written` is by data key."""

    stores: dict[StoreId, str] = field(default_factory=dict)
    unread: dict[str, str] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)
    volumes: list[VolumeRecord] = field(default_factory=list)
    absent_chunks: dict[VolumeId, int] = field(default_factory=dict)
    record_copies: dict[VolumeId, str] = field(default_factory=dict)
    snapshots: list[Manifest] = field(default_factory=list)
    pending: list[JobRecord] = field(default_factory=list)
    unfinished_copies: list[CopyCursor] = field(default_factory=list)
    workflows: list[Workflow] = field(default_factory=list)
    migrations: list[Migration] = field(default_factory=list)
    written: dict[DataKeyId, int] = field(default_factory=dict)

    def store_name(self, store_id: StoreId) -> str:
        return self.stores.get(store_id, store_id)


def take_inventory(home: Home) -> Inventory:
    """Raises what opening the home's KMS does; all else is in the answer."""
    found = Inventory(stores=store_names(home))
    for volume_id, record in load_records(home).items():
        if isinstance(record, VolcryptError):
            found.unreadable[f"volume {volume_id}"] = str(record)
        else:
            _add_volume(home, found, record)
    _add_snapshots(home, found)
    _add_unfinished(home, found)
    for wrapped, at_least in _data_keys(found):
        key = wrapped.data_key_id
        known = found.written.get(key, 0)
        with suppress(VolcryptError):
            known = max(known, written_bytes(home, wrapped))
        found.written[key] = max(known, at_least)
    return found


def _add_volume(home: Home, found: Inventory, record: VolumeRecord) -> None:
    found.volumes.append(record)
    location = copy_location(home, record)
    if location is not None:
        found.record_copies[record.volume_id] = location
    if record.source is not None:
        absent = chunk_count(record.source.size_bytes)
        with suppress(VolcryptError, OSError):
            path = present_path(home, record.volume_id)
            absent -= count_present(path, record.volume_id)
        found.absent_chunks[record.volume_id] = absent


def _add_snapshots(home: Home, found: Inventory) -> None:
    try:
        listing = list_snapshots(home)
    except VolcryptError as error:
        found.unread[LOCAL_STORE] = str(error)  # it is the only one, and that is what was raised
        return
    found.snapshots.extend(listing.manifests)
    found.unread.update({name: str(error) for name, error in listing.unread.items()})
    for snapshot_id, damage in listing.damaged.items():
        found.unreadable[f"snapshot {snapshot_id}"] = str(damage)
    for job in listing.jobs:
        if job.record is None:
            found.unreadable[f"snapshot {job.snapshot_id}"] = "what is being made there is unknown"
        elif job.is_pending:
            found.pending.append(job.record)
    for name, store in open_stores(home):
        if isinstance(store, SnapshotStore) and name not in found.unread:
            try:
                check_log_is_whole(home, store)
            except VolcryptError as error:
                # What a store does not show may be there all the same.
                found.unreadable[f"log of snapshot store {name}"] = str(error)


def _add_unfinished(home: Home, found: Inventory) -> None:
    for entry in home.register.entries(WORKFLOWS):
        try:
            workflow = load_workflow(home, VolumeId(entry.id))
        except VolcryptError as error:
            found.unreadable[f"unfinished encryption of {entry.id}"] = str(error)
            continue
        if workflow is not None:
            found.workflows.append(workflow)
    for entry in home.register.entries(MIGRATIONS):
        try:
            migration = load_migration(home, VolumeId(entry.id))
        except VolcryptError as error:
            found.unreadable[f"unfinished encryption of {entry.id}"] = str(error)
            continue
        if migration is not None:
            found.migrations.append(migration)
    for snapshot_id in resumable_copies(home):
        try:
            cursor = cursor_file(home, snapshot_id).read()
        except VolcryptError as error:
            found.unreadable[f"unfinished copy {snapshot_id}"] = str(error)
            continue
        if cursor is not None:
            found.unfinished_copies.append(cursor)


def _data_keys(found: Inventory) -> Iterator[tuple[WrappedDataKey, int]]:
    """Every data key, and how much was encrypted under it at least."""
    for record in found.volumes:
        if record.wrapped_key is not None:
            yield record.wrapped_key, 0
    for manifest in found.snapshots:
        if manifest.wrapped_key is not None:
            yield manifest.wrapped_key, manifest.written_bytes
