"""Cursors of unfinished imports: kept in HOME/work, pinned by the register, one for a source.

    work/VOLUME-ID.import         the cursor; its successor is staged beside it, as records are
    work/VOLUME-ID.import-log     what was read of the source (`formats.import_log`)

The register names the current cursor under the id of the volume to be. Its name there is a digest
of the source's path: so the same command finds what it is to go on with, and a damaged cursor
stands in the way of no other source.
"""

import hashlib
import os
from pathlib import Path

import msgspec

from volcrypt.durable import remove_durably, write_durably
from volcrypt.errors import RecordMissingError, RollbackError, VolcryptError
from volcrypt.formats.document import MacSeal
from volcrypt.formats.import_cursor import (
    KIND,
    ImportCursor,
    decode_import_cursor,
    encode_import_cursor,
)
from volcrypt.formats.volume_record import VolumeRecord
from volcrypt.kms.register import RegisterEntry
from volcrypt.names import VolumeId
from volcrypt.operations.home import Home
from volcrypt.operations.pinned_documents import read_pinned, stage_pinned
from volcrypt.operations.records import save_records


def find_import(home: Home, source: Path) -> VolumeId | None:
    """The volume to be of the unfinished import of this source."""
    entry = home.register.find(KIND, _register_name(source))
    return None if entry is None else VolumeId(entry.id)


def unfinished_imports(home: Home) -> dict[VolumeId, ImportCursor | VolcryptError]:
    """All of them; an unreadable cursor gives its error instead."""
    found: dict[VolumeId, ImportCursor | VolcryptError] = {}
    for entry in home.register.entries(KIND):
        volume_id = VolumeId(entry.id)
        try:
            found[volume_id] = load_import(home, volume_id)
        except VolcryptError as error:
            found[volume_id] = error
    return found


def volumes_to_be(home: Home) -> set[VolumeId]:
    """Whose directories are no leftovers."""
    return {VolumeId(entry.id) for entry in home.register.entries(KIND)}


def load_import(home: Home, volume_id: VolumeId) -> ImportCursor:
    """The current cursor of an import that the register has. Raises IntegrityError, FormatError."""
    entry = home.register.get(KIND, volume_id)
    what = f"cursor of the import into volume {volume_id}"
    hint = give_up_hint(volume_id)
    if entry is None:
        raise RecordMissingError(what)
    paths = _path(home, volume_id), _staged(home, volume_id)
    data = read_pinned(entry, *paths, what=what, hint=hint)
    cursor = decode_import_cursor(data, _seal(home, volume_id), what=what)
    if (cursor.volume_id, cursor.generation) != (volume_id, entry.counter):
        raise RollbackError(what, hint=hint)
    return cursor


def give_up_hint(source: Path | VolumeId) -> str:
    return f"'volcrypt volume import {source} --abort' gives it up"


def save_import(home: Home, source: Path, cursor: ImportCursor, **changes: object) -> ImportCursor:
    """Make a changed cursor current, durably; returns it with its new generation."""
    changed = msgspec.structs.replace(cursor, generation=cursor.generation + 1, **changes)
    data = encode_import_cursor(changed, _seal(home, cursor.volume_id))
    place, staged = _path(home, cursor.volume_id), _staged(home, cursor.volume_id)
    stage_pinned(home.register.get(KIND, cursor.volume_id), place, staged, data)
    entry = RegisterEntry(
        kind=KIND,
        id=cursor.volume_id,
        name=_register_name(source),
        counter=changed.generation,
        digest=hashlib.sha256(data).digest(),
    )
    known = None if cursor.generation == 0 else cursor.generation
    home.register.apply(put=[entry], expect={(KIND, cursor.volume_id): known})
    write_durably(place, data)
    return changed


def finish_import(home: Home, cursor: ImportCursor, record: VolumeRecord) -> None:
    """The volume exists, and the import is done: one transaction. Raises as `save_records`."""
    save_records(home, put=[record], done={(KIND, cursor.volume_id): cursor.generation})
    remove_import_files(home, cursor.volume_id)


def forget_import(home: Home, volume_id: VolumeId) -> None:
    """The import is given up; may be called again."""
    home.register.apply(delete=[(KIND, volume_id)])
    remove_import_files(home, volume_id)


def remove_import_files(home: Home, volume_id: VolumeId) -> None:
    for path in (_staged(home, volume_id), _path(home, volume_id), log_path(home, volume_id)):
        remove_durably(path)


def log_path(home: Home, volume_id: VolumeId) -> Path:
    return home.work_path / f"{volume_id}.import-log"


def _register_name(source: Path) -> str:
    return hashlib.sha256(os.fsencode(source)).hexdigest()


def _seal(home: Home, volume_id: VolumeId) -> MacSeal:
    return MacSeal(home.vault.derive_home_key(b"volcrypt import cursor\0" + volume_id.encode()))


def _path(home: Home, volume_id: VolumeId) -> Path:
    return home.work_path / f"{volume_id}.import"


def _staged(home: Home, volume_id: VolumeId) -> Path:
    return home.work_path / f"{volume_id}.import.next"
