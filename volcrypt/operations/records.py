"""Volume records: found by id or name, believed when seal and register agree, changed atomically.

A change of one or several records is: stage each new record beside the old one, then one
transaction of the register that names the new counters and digests, then put each in place. Killed
before the transaction nothing has changed; killed after it, the staged record has the digest that
the register names and is put in place by the next reader.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final

from volcrypt.errors import RecordMissingError, RollbackError, VolcryptError, VolumeNotFoundError
from volcrypt.formats.migration import KIND as MIGRATION
from volcrypt.formats.volume_record import (
    VolumeRecord,
    decode_volume_record,
    encode_volume_record,
)
from volcrypt.kms.register import RegisterEntry
from volcrypt.names import VolumeId, is_volume_id
from volcrypt.operations.home import Home
from volcrypt.volume.block_device import find_device
from volcrypt.volume.directory import DATA_FILE, RECORD_FILES
from volcrypt.volume.present_file import PRESENT_FILE

KIND: Final = "volume"


def load_record(home: Home, volume: str) -> VolumeRecord:
    """The current record of a volume given by id or name.

    Raises VolumeNotFoundError; IntegrityError or FormatError when the record is missing, damaged,
    another's, or not the current one.
    """
    return _load_entry(home, find_entry(home, volume))


def find_entry(home: Home, volume: str) -> RegisterEntry:
    """What the register knows of a volume given by id or name. Raises VolumeNotFoundError."""
    by_id = is_volume_id(volume)
    entry = home.register.get(KIND, volume) if by_id else home.register.find(KIND, volume)
    if entry is None:
        raise VolumeNotFoundError(volume)
    return entry


def data_path(home: Home, record: VolumeRecord) -> Path:
    """Where the ciphertext of a volume lies, to be opened.

    Raises DeviceMissingError and IntegrityError when it is a block device that is not there, or is
    another one now.
    """
    path = nominal_data_path(home, record)
    return path if record.device is None else find_device(path, record.device)


def present_path(home: Home, volume_id: VolumeId) -> Path:
    """The file that says which chunks of a lazy volume are its own."""
    return home.volumes.path_of(volume_id) / PRESENT_FILE


def nominal_data_path(home: Home, record: VolumeRecord) -> Path:
    """Where the record says that the ciphertext lies."""
    if record.data_path is None:
        return home.volumes.path_of(record.volume_id) / DATA_FILE
    return Path(record.data_path)


def load_records(home: Home) -> dict[VolumeId, VolumeRecord | VolcryptError]:
    """Every registered volume in order of id; an unreadable one gives its error instead."""
    found: dict[VolumeId, VolumeRecord | VolcryptError] = {}
    for entry in home.register.entries(KIND):
        try:
            found[VolumeId(entry.id)] = _load_entry(home, entry)
        except VolcryptError as error:
            found[VolumeId(entry.id)] = error
    return found


def _load_entry(home: Home, entry: RegisterEntry) -> VolumeRecord:
    """Another command may put a newer record in place between our two looks: then the register
    has moved on too, and we look again."""
    while True:
        try:
            return _load_current(home, entry)
        except (RollbackError, RecordMissingError) as error:
            newer = home.register.get(KIND, entry.id)
            if newer is None:
                raise VolumeNotFoundError(entry.id) from None
            if newer == entry:
                error.hint = _way_out(home, entry)
                raise
            entry = newer


def _way_out(home: Home, entry: RegisterEntry) -> str:
    """What helps when a record is not what it was."""
    if home.register.get(MIGRATION, entry.id) is not None:
        return (
            f"'volcrypt encrypt {entry.id} --resume', or '--abort', puts it back: its unfinished "
            "encryption or rekeying knows it"
        )
    return (
        f"put {home.volumes.path_of(VolumeId(entry.id)) / RECORD_FILES[0]} back from a copy of the "
        "home, or from what 'volcrypt restore' makes of a backup; who has the volume open goes on, "
        "and its data can be read there until then"
    )


def _load_current(home: Home, entry: RegisterEntry) -> VolumeRecord:
    volume_id = VolumeId(entry.id)
    what = f"record of volume {volume_id}"
    data = home.volumes.read_record(volume_id, digest=entry.digest)
    record = decode_volume_record(data, home.record_seal(volume_id), what=what)
    if (record.volume_id, record.counter, record.name) != (entry.id, entry.counter, entry.name):
        raise RollbackError(what)
    return record


def stage_record(home: Home, record: VolumeRecord) -> None:
    """Lay a record ready, sealed, before `save_records` makes it current."""
    data = encode_volume_record(record, home.record_seal(record.volume_id))
    home.volumes.stage_record(record.volume_id, data)


def adopt_record(home: Home, record: VolumeRecord, *, known_counter: int | None) -> None:
    """Make current what another home has made, with the counter that it has there: in place of the
    record with `known_counter`, or of none. Raises as `save_records`."""
    stage_record(home, record)
    data = encode_volume_record(record, home.record_seal(record.volume_id))
    entry = RegisterEntry(
        kind=KIND,
        id=record.volume_id,
        name=record.name,
        counter=record.counter,
        digest=hashlib.sha256(data).digest(),
    )
    home.register.apply(put=[entry], expect={(KIND, record.volume_id): known_counter})
    home.volumes.promote_record(record.volume_id, data)


def save_records(
    home: Home,
    *,
    put: Sequence[VolumeRecord] = (),
    delete: Sequence[VolumeRecord] = (),
    also: Sequence[RegisterEntry] = (),
    done: Mapping[tuple[str, str], int] = MappingProxyType({}),
) -> None:
    """Make `put` current, forget `delete`, store the register rows `also` and remove those of work
    that is `done` (kind and id, and the counter they have), in one transaction.
    The counter of what is put is one above the registered one, 1 for what is new.

    Raises NameTakenError, NoSpaceError, and TryAgainError when another command was faster.
    """
    expect: dict[tuple[str, str], int | None] = {**done}
    entries = list(also)
    staged: dict[VolumeId, bytes] = {}
    for entry in also:
        expect[entry.kind, entry.id] = entry.counter - 1 or None
    for record in put:
        data = encode_volume_record(record, home.record_seal(record.volume_id))
        expect[KIND, record.volume_id] = record.counter - 1 or None
        entries.append(
            RegisterEntry(
                kind=KIND,
                id=record.volume_id,
                name=record.name,
                counter=record.counter,
                digest=hashlib.sha256(data).digest(),
            )
        )
        home.volumes.stage_record(record.volume_id, data)
        staged[record.volume_id] = data
    for record in delete:
        expect[KIND, record.volume_id] = record.counter
    home.register.apply(
        put=entries,
        delete=[*((KIND, record.volume_id) for record in delete), *done],
        expect=expect,
    )
    for volume_id, data in staged.items():
        home.volumes.promote_record(volume_id, data)
