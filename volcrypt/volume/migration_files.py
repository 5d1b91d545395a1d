"""The files of a migration, in the directory of its volume, and how they change their names.

    data         the source; after the decision, the target
    data.next    the target, until it is `data`
    data.old     the source after the decision, until it is destroyed
    intents      `volcrypt.volume.write_intents`

Each function here may be killed anywhere, or lose the power, and be called again: it then goes on.
The source is never without a name, so what is destroyed can be found and destroyed for good.

    finish_rename    data        link data data.old     data, data.old    rename      data.old
                     data.next   ->                     data.next         ->          data
    destroy_old      data.old    a hole, synced; then unlinked
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from volcrypt.durable import open_regular, sync_directory
from volcrypt.errors import RecordMissingError
from volcrypt.formats.write_intents import IntentsHeader
from volcrypt.geometry import SECTOR_BYTES
from volcrypt.volume.allocation import UNSUPPORTED, deallocate
from volcrypt.volume.datafile import DataFile
from volcrypt.volume.directory import DATA_FILE
from volcrypt.volume.write_intents import INTENTS_FILE, WriteIntents

NEXT_FILE: Final = "data.next"
OLD_FILE: Final = "data.old"
_PIECE_BYTES: Final = 2**30
_SOURCE_IS_THERE: Final = "'data' beside it is what the volume was before; keep a copy of that"


@dataclass(frozen=True, slots=True, kw_only=True)
class Destroyed:
    """What became of the old data. `punched`: its room was given back before the file was, which a
    medium that discards hears at once; else the file system could not, and zeros were written."""

    freed_bytes: int
    punched: bool
    seconds: float


def make_files(directory: Path, intents: IntentsHeader, *, preallocate: bool = False) -> None:
    """A new target, and write intents that are all clear; durable on return. What lies there is of
    no migration any more. Raises NoSpaceError."""
    remove_files(directory)
    DataFile.create(directory / NEXT_FILE, intents.size_bytes, preallocate=preallocate).close()
    with DataFile.create(directory / INTENTS_FILE, intents.file_bytes) as file:
        WriteIntents.create(file, intents)


def void_intents(directory: Path) -> None:
    """Somebody is about to write to the source alone: what was copied counts for nothing, whoever
    goes on. Durable on return."""
    if (directory / INTENTS_FILE).exists():
        (directory / INTENTS_FILE).unlink()
    sync_directory(directory)


def has_files(directory: Path) -> bool:
    """Whether there is a target, or intents, under their first names."""
    return any((directory / name).exists() for name in (INTENTS_FILE, NEXT_FILE))


def remove_files(directory: Path) -> None:
    """The target and the intents of a migration that was abandoned. Durable on return."""
    for name in (INTENTS_FILE, NEXT_FILE):
        (directory / name).unlink(missing_ok=True)
    sync_directory(directory)


def finish_rename(directory: Path, *, keeps_old: bool = False) -> bool:
    """It is decided that the target is the volume: have it called so, durably. Whether something
    was left to do. `keeps_old`: the source was not destroyed yet. Raises RecordMissingError when
    the target is nowhere: the source must not be taken for it, nor be destroyed."""
    data, following, old = (directory / name for name in (DATA_FILE, NEXT_FILE, OLD_FILE))
    if not following.exists():
        if not data.exists():
            raise RecordMissingError(f"data file {data}")
        if (old.exists() and old.samefile(data)) or (keeps_old and not old.exists()):
            raise RecordMissingError(f"data file {following}", hint=_SOURCE_IS_THERE)
        # Whoever did this may have been cut off before it was durable.
        sync_directory(directory)
        return False
    if old.exists() and data.exists() and not old.samefile(data):
        _destroy(old)  # what an earlier migration left
    if data.exists() and not old.exists():
        os.link(data, old, follow_symlinks=False)
        sync_directory(directory)
    os.rename(following, data)
    sync_directory(directory)
    return True


def destroy_old(
    directory: Path, *, progress: Callable[[int], None] = lambda _done: None
) -> Destroyed:
    """Destroy the source after the decision: its content first, durably, and then its name. Nothing
    there: it is done. `progress` hears of bytes. Raises OSError, and RecordMissingError when the
    source is still called the volume's data."""
    old, data = directory / OLD_FILE, directory / DATA_FILE
    if old.exists() and data.exists() and old.samefile(data):
        raise RecordMissingError(f"data file {directory / NEXT_FILE}", hint=_SOURCE_IS_THERE)
    started = time.monotonic()
    freed, punched = _destroy(old, progress) if old.exists() else (0, True)
    (directory / INTENTS_FILE).unlink(missing_ok=True)
    sync_directory(directory)
    return Destroyed(freed_bytes=freed, punched=punched, seconds=time.monotonic() - started)


def _destroy(path: Path, progress: Callable[[int], None] = lambda _done: None) -> tuple[int, bool]:
    """What room it had, and whether that was punched out."""
    descriptor = open_regular(path, os.O_RDWR)
    try:
        status = os.fstat(descriptor)
        punched = _empty(descriptor, status.st_size, progress)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    path.unlink()
    return status.st_blocks * SECTOR_BYTES, punched


def _empty(descriptor: int, size: int, progress: Callable[[int], None]) -> bool:
    """Make a hole of all of a file; False where only zeros could be written."""
    punched = True
    for offset in range(0, size, _PIECE_BYTES):
        length = min(_PIECE_BYTES, size - offset)
        if punched:
            try:
                deallocate(descriptor, offset, length, keeps_room=False)
            except OSError as error:
                if error.errno not in UNSUPPORTED:
                    raise
                punched = False
        if not punched:
            _write_zeros(descriptor, offset, length)
        progress(offset + length)
    return punched


def _write_zeros(descriptor: int, offset: int, length: int) -> None:
    zeros = bytes(2**20)
    end = offset + length
    while offset < end:
        offset += os.pwrite(descriptor, zeros[: end - offset], offset)
