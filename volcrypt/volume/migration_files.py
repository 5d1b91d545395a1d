"""The files of a migration, and how they change their names.

    data         the source; after the decision, the target
    data.next    the target, until it is `data`
    data.old     the source after the decision, until it is destroyed
    intents      `volcrypt.volume.write_intents`

They lie in the directory of the volume. Where the data is in a file PATH elsewhere, the new one is
beside it, on the same file system: `PATH.VOLUME-ID.next`, `PATH.VOLUME-ID.old`; the intents stay.

Each function here may be killed anywhere, or lose the power, and be called again: it then goes on.
The source is never without a name, so what is destroyed can be found and destroyed for good.

    finish_rename    data        link data data.old     data, data.old    rename      data.old
                     data.next   ->                     data.next         ->          data
    destroy_old      data.old    a hole, synced; then unlinked

Where a file system has no hard links the source is renamed: then `data` is nowhere for a moment,
and after a kill until the next call.

`directory` is the volume's, whose name is its id, and `data` where the data is, None: there.
"""

import errno
import os
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from volcrypt.durable import open_regular, sync_directory
from volcrypt.errors import IntegrityError, RecordMissingError
from volcrypt.formats.write_intents import IntentsHeader
from volcrypt.geometry import SECTOR_BYTES
from volcrypt.volume.allocation import UNSUPPORTED, deallocate
from volcrypt.volume.datafile import DataFile
from volcrypt.volume.directory import DATA_FILE
from volcrypt.volume.write_intents import INTENTS_FILE, WriteIntents

NEXT_FILE: Final = "data.next"
OLD_FILE: Final = "data.old"
_PIECE_BYTES: Final = 2**30
_NO_LINKS: Final = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


@dataclass(frozen=True, slots=True, kw_only=True)
class Destroyed:
    """What became of the old data. `punched`: its room was given back before the file was, which a
    medium that discards hears at once; else the file system could not, and zeros were written."""

    freed_bytes: int
    punched: bool
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MigrationNames:
    """Where the files of one migration lie."""

    data: Path
    following: Path
    old: Path
    intents: Path

    def sync(self) -> None:
        """All names are durable."""
        sync_directory(self.data.parent)
        if self.intents.parent != self.data.parent:
            sync_directory(self.intents.parent)


def names_of(directory: Path, data: Path | None = None) -> MigrationNames:
    """Where the files of a migration lie, or would."""
    intents = directory / INTENTS_FILE
    if data is None or data == directory / DATA_FILE:
        return MigrationNames(
            data=directory / DATA_FILE,
            following=directory / NEXT_FILE,
            old=directory / OLD_FILE,
            intents=intents,
        )
    beside = f"{data.name}.{directory.name}"
    return MigrationNames(
        data=data,
        following=data.with_name(f"{beside}.next"),
        old=data.with_name(f"{beside}.old"),
        intents=intents,
    )


def make_files(
    directory: Path,
    intents: IntentsHeader,
    *,
    data: Path | None = None,
    preallocate: bool = False,
) -> None:
    """A new target, and write intents that are all clear; durable on return. What lies there is of
    no migration any more. Raises NoSpaceError."""
    names = names_of(directory, data)
    remove_files(directory, data=data)
    DataFile.create(names.following, intents.size_bytes, preallocate=preallocate).close()
    with DataFile.create(names.intents, intents.file_bytes) as file:
        WriteIntents.create(file, intents)


def void_intents(directory: Path) -> None:
    """Somebody is about to write to the source alone: what was copied counts for nothing, whoever
    goes on. Durable on return."""
    if (directory / INTENTS_FILE).exists():
        (directory / INTENTS_FILE).unlink()
    sync_directory(directory)


def has_files(directory: Path) -> bool:
    """Whether there is a target in the volume's directory, or intents, under their first names."""
    return any((directory / name).exists() for name in (INTENTS_FILE, NEXT_FILE))


def remove_files(directory: Path, *, data: Path | None = None) -> None:
    """The target and the intents of a migration that was abandoned. Durable on return. The intents
    go last: while they are there, what else is there is known to be this home's."""
    names = names_of(directory, data)
    with suppress(FileNotFoundError):
        names.following.unlink()
        sync_directory(names.data.parent)
    names.intents.unlink(missing_ok=True)
    sync_directory(directory)


def finish_rename(directory: Path, *, data: Path | None = None, keeps_old: bool = False) -> bool:
    """It is decided that the target is the volume: have it called so, durably. Whether something
    was left to do. `keeps_old`: the source was not destroyed yet. Raises RecordMissingError when
    the target is nowhere: the source must not be taken for it, nor be destroyed."""
    names = names_of(directory, data)
    place = names.data.parent
    if not names.following.exists():
        if not names.data.exists():
            raise RecordMissingError(f"data file {names.data}")
        if _is_source(names) or (keeps_old and not names.old.exists()):
            raise RecordMissingError(f"data file {names.following}", hint=_source_is_there(names))
        # Whoever did this may have been cut off before it was durable.
        sync_directory(place)
        return False
    if os.path.lexists(names.old) and names.data.exists() and not _is_source(names):
        _remove_left(names.old, follow=names.data.parent != directory)
    if names.data.exists() and not names.old.exists():
        try:
            os.link(names.data, names.old, follow_symlinks=False)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            os.rename(names.data, names.old)
        sync_directory(place)
    os.rename(names.following, names.data)
    sync_directory(place)
    return True


def destroy_old(
    directory: Path,
    *,
    data: Path | None = None,
    progress: Callable[[int], None] = lambda _done: None,
) -> Destroyed:
    """Destroy the source after the decision: its content first, durably, and then its name. Nothing
    there: it is done. `progress` hears of bytes. Raises OSError, and RecordMissingError when the
    source is still called the volume's data."""
    names = names_of(directory, data)
    if _is_source(names):
        raise RecordMissingError(f"data file {names.following}", hint=_source_is_there(names))
    started = time.monotonic()
    freed, punched = (0, True)
    if names.old.exists():
        freed, punched = _destroy(names.old, progress, follow=names.data.parent != directory)
    names.intents.unlink(missing_ok=True)
    names.sync()
    return Destroyed(freed_bytes=freed, punched=punched, seconds=time.monotonic() - started)


def _is_source(names: MigrationNames) -> bool:
    """Whether what is called the volume's data is the source."""
    return (
        names.old.exists()
        and names.data.exists()
        and not names.old.is_symlink()
        and names.old.samefile(names.data)
    )


def _remove_left(path: Path, *, follow: bool) -> None:
    """What an earlier migration left under the name of the old data. What is a link, or has another
    name, is somebody's: only the name goes."""
    status = path.lstat()
    if stat.S_ISREG(status.st_mode) and status.st_nlink == 1:
        _destroy(path, follow=follow)
    else:
        path.unlink()


def _source_is_there(names: MigrationNames) -> str:
    return f"'{names.data.name}' beside it is what the volume was before; keep a copy of that"


def _destroy(
    path: Path, progress: Callable[[int], None] = lambda _done: None, *, follow: bool
) -> tuple[int, bool]:
    """What room it had, and whether that was punched out. `follow`: a user named its directory."""
    descriptor = open_regular(path, os.O_RDWR, follow=follow)
    try:
        status = os.fstat(descriptor)
        if status.st_nlink > 1:
            raise IntegrityError(
                f"{path} has another name (a hard link), under which it would be destroyed too",
                hint=f"remove that name ('find -samefile {path}'), and give the command again",
            )
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
