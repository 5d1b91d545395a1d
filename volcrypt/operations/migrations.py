"""Migrations: the records of volumes whose data moves to a new file and key while they are in use.

A record is kept as a workflow's cursor is: in HOME/work, pinned by the register, one for a volume.
`save_migration` with the volume's new record is the decision: from that transaction on the target
is the volume, and whoever opens that next gives it the name of the data first (`settle_rename`).
Until then the source is the volume, whatever became of the rest.

Who opens the volume meanwhile is told how by `operations.migration_mounts`.

The decision is a row of the register, too (kind `decided`), with all that is not in the volume's
record and the rest needs. So a record of a migration that was damaged keeps nobody from the
volume: with the row, the migration goes on without its record; without the row, the source is the
volume, whatever the files say, and it can be given up.
"""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from volcrypt.durable import remove_durably, write_durably
from volcrypt.errors import (
    FormatError,
    IntegrityError,
    RollbackError,
    TryAgainError,
    VolumeInUseError,
)
from volcrypt.formats import migration as migration_format
from volcrypt.formats.document import MacSeal
from volcrypt.formats.migration import Migration, MigrationStep, decode_migration, encode_migration
from volcrypt.formats.volume_record import (
    VolumeRecord,
    WrappedDataKey,
    encode_volume_record,
    key_source_of,
)
from volcrypt.formats.write_intents import MIGRATION_BYTES, region_bytes_for
from volcrypt.geometry import chunk_count
from volcrypt.kms.clock import host_time
from volcrypt.kms.register import DIGEST_BYTES, RegisterEntry
from volcrypt.names import ID_DIGITS, DataKeyId, VolumeId
from volcrypt.operations.home import Home
from volcrypt.operations.keys import data_key_id
from volcrypt.operations.pinned_documents import read_pinned, stage_pinned
from volcrypt.operations.records import (
    find_entry,
    load_record,
    nominal_data_path,
    save_records,
)
from volcrypt.volume.migration_files import finish_rename, has_files, names_of, remove_files

KIND: Final = migration_format.KIND
DECIDED: Final = "decided"
"""Kind of the row that is there from the decision to the end."""
_SUFFIX: Final = ".migration"
_SOURCE_BYTES: Final = DIGEST_BYTES - MIGRATION_BYTES
_HAS_KEY: Final = 1
_DELETES: Final = 2
_KEY_PREFIX: Final = "dk-"


def new_migration(
    home: Home,
    record: VolumeRecord,
    target_key: WrappedDataKey,
    *,
    rate_bytes: int | None = None,
    delete_plain_snapshots: bool = False,
) -> Migration:
    """Of a volume that becomes one under `target_key`; nothing is saved."""
    # A register's id has nine random bytes.
    name = home.random_id_bytes() + home.random_id_bytes()
    return Migration(
        volume_id=record.volume_id,
        generation=0,
        step=MigrationStep.COPY,
        migration=name[:MIGRATION_BYTES],
        size_bytes=record.size_bytes,
        region_bytes=region_bytes_for(record.size_bytes),
        source_key_id=data_key_id(record.wrapped_key),
        target_key=target_key,
        started_at=int(host_time()),
        rate_bytes=rate_bytes,
        delete_plain_snapshots=delete_plain_snapshots and not record.is_encrypted,
        volume_record=encode_volume_record(record, home.record_seal(record.volume_id)),
    )


def load_migration(home: Home, volume_id: VolumeId) -> Migration | None:
    """The unfinished migration of a volume, or None. Raises IntegrityError and FormatError for a
    record that is not the current one, unless it is decided: then nothing is needed of it."""
    entry = home.register.get(KIND, volume_id)
    if entry is None:
        return None
    what = f"record of the migration of volume {volume_id}"
    try:
        data = read_pinned(
            entry,
            _path(home, volume_id),
            _staged(home, volume_id),
            what=what,
            hint=f"'volcrypt encrypt {volume_id} --abort' gives it up; the volume is whole",
        )
        migration = decode_migration(data, _seal(home, volume_id), what=what)
        if (migration.volume_id, migration.generation) != (volume_id, entry.counter):
            raise RollbackError(what)
    except (IntegrityError, FormatError):
        decided = home.register.get(DECIDED, volume_id)
        if decided is None:
            raise
        return _without_record(home, entry, decided)
    return migration


def load_migrated_record(home: Home, volume: str) -> VolumeRecord:
    """As `load_record`; a damaged one of a volume that is migrated is put back first, from what the
    migration knows, if that is what the register names."""
    try:
        return load_record(home, volume)
    except (IntegrityError, FormatError):
        entry = find_entry(home, volume)
        volume_id = VolumeId(entry.id)
        try:
            migration = load_migration(home, volume_id)
        except (IntegrityError, FormatError):
            migration = None
        if migration is None or hashlib.sha256(migration.volume_record).digest() != entry.digest:
            raise
        home.volumes.put_back(volume_id, migration.volume_record)
        return load_record(home, volume)


def is_begun(home: Home, volume_id: VolumeId) -> bool:
    """Whether there is an unfinished migration of a volume, whatever became of its record."""
    return home.register.get(KIND, volume_id) is not None


def load_migrations(home: Home) -> list[Migration]:
    """All unfinished ones."""
    found = [load_migration(home, VolumeId(entry.id)) for entry in home.register.entries(KIND)]
    return [migration for migration in found if migration is not None]


def save_migration(
    home: Home,
    migration: Migration,
    *,
    put: Sequence[VolumeRecord] = (),
    **changes: object,
) -> Migration:
    """Make a changed record current, in one transaction with `put`; returns it with its new
    generation. Raises as `records.save_records`: TryAgainError when somebody else was faster."""
    changed = msgspec.structs.replace(migration, generation=migration.generation + 1, **changes)
    for record in put:
        sealed = encode_volume_record(record, home.record_seal(record.volume_id))
        changed = msgspec.structs.replace(changed, volume_record=sealed)
    data = encode_migration(changed, _seal(home, migration.volume_id))
    place, staged = _path(home, migration.volume_id), _staged(home, migration.volume_id)
    stage_pinned(home.register.get(KIND, migration.volume_id), place, staged, data)
    row = RegisterEntry(
        kind=KIND,
        id=migration.volume_id,
        name=None,
        counter=changed.generation,
        digest=hashlib.sha256(data).digest(),
    )
    also = [row]
    is_decided = changed.step in (MigrationStep.RENAME, MigrationStep.DESTROY)
    if is_decided and home.register.get(DECIDED, migration.volume_id) is None:
        also.append(_decided_row(changed))
    save_records(home, put=put, also=also)
    write_durably(place, data)
    return changed


def migrated_record(record: VolumeRecord, migration: Migration) -> VolumeRecord:
    """What the volume's record says from the decision on."""
    return msgspec.structs.replace(
        record,
        counter=record.counter + 1,
        wrapped_key=migration.target_key,
        key_source=key_source_of(migration.target_key),
        exported_at=None,
    )


def forget_migration(home: Home, migration: Migration) -> None:
    """It is done, or will never be; what lies beside the volume's data is the caller's business."""
    _forget(home, migration.volume_id, migration.generation)


def forget_undecided(home: Home, volume_id: VolumeId) -> None:
    """`forget_migration` of one that will never be, whatever became of its record. The caller is
    the only one who drives it. Raises TryAgainError when it is decided that it is to be."""
    entry = home.register.get(KIND, volume_id)
    if home.register.get(DECIDED, volume_id) is not None:
        raise TryAgainError(f"the encryption of volume {volume_id} was just decided")
    if entry is not None:
        _forget(home, volume_id, entry.counter)


def _forget(home: Home, volume_id: VolumeId, generation: int) -> None:
    home.register.apply(
        delete=[(KIND, volume_id), (DECIDED, volume_id)],
        expect={(KIND, volume_id): generation},
    )
    remove_durably(_staged(home, volume_id))
    remove_durably(_path(home, volume_id))


def settle_rename(home: Home, volume_id: VolumeId) -> bool:
    """Where it is decided that the target is the volume: give it the name of the data, unless it
    has that; where there is no migration, remove what one left. Whether a name was left to give.
    The caller holds the volume, which nobody serves.

    Raises IntegrityError and FormatError, and RecordMissingError when the target is nowhere.
    """
    migration = load_migration(home, volume_id)
    directory = home.volumes.path_of(volume_id)
    if migration is None:
        if has_files(directory):  # who gave it up was killed
            remove_files(directory, data=nominal_data_path(home, load_record(home, volume_id)))
        return False
    if migration.step not in (MigrationStep.RENAME, MigrationStep.DESTROY):
        return False
    # Also when that was done: a disk that lied about its syncs may have lost it.
    return finish_rename(
        directory,
        data=nominal_data_path(home, load_record(home, volume_id)),
        keeps_old=migration.step is MigrationStep.RENAME,
    )


def check_not_elsewhere(home: Home, record: VolumeRecord) -> None:
    """Raises VolumeInUseError while another home gives the volume a new data key, whose data lies
    where both find it. The caller has called `settle_rename`."""
    if record.data_path is None or record.device is not None or not record.is_encrypted:
        return
    if home.register.get(KIND, record.volume_id) is not None:
        return
    names = names_of(home.volumes.path_of(record.volume_id), Path(record.data_path))
    found = next((path for path in (names.following, names.old) if os.path.lexists(path)), None)
    if found is not None:
        finish = f"'volcrypt rekey {record.volume_id}' there finishes that"
        raise VolumeInUseError(
            record.name or record.volume_id,
            f"another home, which gives it a new data key (its file is {found})",
            hint=f"{finish}; if that home is lost, remove the file"
            if found == names.following
            else finish,
        )


def _decided_row(migration: Migration) -> RegisterEntry:
    """In the place of a digest: which migration, and the number of the source's data key; of one
    without a key, whether its plain snapshots are to go."""
    source = bytes([_DELETES if migration.delete_plain_snapshots else 0]).ljust(
        _SOURCE_BYTES, b"\0"
    )
    if migration.source_key_id is not None:
        number = int(migration.source_key_id.removeprefix(_KEY_PREFIX), 16)
        source = bytes([_HAS_KEY]) + number.to_bytes(_SOURCE_BYTES - 1, "big")
    return RegisterEntry(
        kind=DECIDED,
        id=migration.volume_id,
        name=None,
        counter=1,
        digest=migration.migration + source,
    )


def _without_record(home: Home, entry: RegisterEntry, decided: RegisterEntry) -> Migration:
    """One that is decided, from the register and the volume's record. What was done of its rest is
    unknown, and may be done twice."""
    record = load_record(home, entry.id)
    assert record.wrapped_key is not None, "internal error: decided, and not encrypted"
    source = decided.digest[MIGRATION_BYTES:]
    number = int.from_bytes(source[1:], "big")
    chunks = chunk_count(record.size_bytes)
    names = names_of(home.volumes.path_of(record.volume_id), nominal_data_path(home, record))
    is_left = names.following.exists() or names.old.exists()
    return Migration(
        volume_id=record.volume_id,
        generation=entry.counter,
        step=MigrationStep.RENAME if is_left else MigrationStep.DESTROY,
        migration=decided.digest[:MIGRATION_BYTES],
        size_bytes=record.size_bytes,
        region_bytes=region_bytes_for(record.size_bytes),
        source_key_id=DataKeyId(f"{_KEY_PREFIX}{number:0{ID_DIGITS}x}")
        if source[0] == _HAS_KEY
        else None,
        target_key=record.wrapped_key,
        started_at=int(host_time()),
        cursor=chunks,
        verified=chunks,
        delete_plain_snapshots=source[0] == _DELETES,
        volume_record=encode_volume_record(record, home.record_seal(record.volume_id)),
    )


def _seal(home: Home, volume_id: VolumeId) -> MacSeal:
    return MacSeal(home.vault.derive_home_key(b"volcrypt migration\0" + volume_id.encode()))


def _path(home: Home, volume_id: VolumeId) -> Path:
    return home.work_path / f"{volume_id}{_SUFFIX}"


def _staged(home: Home, volume_id: VolumeId) -> Path:
    return home.work_path / f"{volume_id}{_SUFFIX}.next"
