"""Who drives a migration: one command at a time, and how another one stops it.

RUNTIME/ID.driver    locked by who drives; there only so long. In it: what was asked of them
"""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from volcrypt.errors import VolumeInUseError
from volcrypt.file_lock import is_at, locked_within
from volcrypt.formats.volume_record import VolumeRecord
from volcrypt.names import VolumeId
from volcrypt.operations.home import Home

_GIVE_UP: Final = b"give it up"
_ASKED_SECONDS: Final = 1.0
_PATIENCE_SECONDS: Final = 60


class DriverLock:
    """Held: nobody else drives."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        os.ftruncate(descriptor, 0)

    @property
    def is_given_up(self) -> bool:
        """Whether somebody asked for that since."""
        return os.pread(self._descriptor, len(_GIVE_UP), 0) == _GIVE_UP


@contextmanager
def driving(home: Home, record: VolumeRecord) -> Iterator[DriverLock]:
    """Nobody else drives the migration of this volume. Raises VolumeInUseError."""
    with _locked(_path(home, record.volume_id), 0.0) as descriptor:
        if descriptor is None:
            raise _in_use(record)
        yield DriverLock(descriptor)


@contextmanager
def stopped(
    home: Home, record: VolumeRecord, ask: Callable[[], None], *, gives_up: bool = False
) -> Iterator[None]:
    """Nobody drives it, for this block; who does is asked, by `ask`, as often as it takes, and
    finds that it is given up. Raises VolumeInUseError."""
    path = _path(home, record.volume_id)
    for _ in range(_PATIENCE_SECONDS):
        if gives_up:
            with suppress(FileNotFoundError):
                path.write_bytes(_GIVE_UP)
        ask()
        with _locked(path, _ASKED_SECONDS) as descriptor:
            if descriptor is not None:
                yield
                return
    raise _in_use(record)


def is_driven(home: Home, volume_id: VolumeId) -> bool:
    """Whether somebody drives the migration of a volume just now."""
    try:
        with open(_path(home, volume_id), "rb") as file:
            return not locked_within(file.fileno(), fcntl.LOCK_SH, 0.0)
    except FileNotFoundError:
        return False


def _in_use(record: VolumeRecord) -> VolumeInUseError:
    name = record.name or record.volume_id
    return VolumeInUseError(
        name,
        "a command that encrypts it",
        hint=f"'volcrypt encrypt {name} --pause' stops it",
    )


def _path(home: Home, volume_id: VolumeId) -> Path:
    return home.runtime / f"{volume_id}.driver"


@contextmanager
def _locked(path: Path, patience_seconds: float) -> Iterator[int | None]:
    """A descriptor of the file, locked; None when somebody else has it all that time. The file goes
    at the end of the block."""
    while True:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(path, flags, 0o600)
        try:
            if not locked_within(descriptor, fcntl.LOCK_EX, patience_seconds):
                yield None
                return
            if not is_at(path, descriptor):
                continue  # who had it has removed it since
            try:
                yield descriptor
            finally:
                path.unlink(missing_ok=True)
            return
        finally:
            os.close(descriptor)
