"""Freezing the file systems on volumes for the moment of a snapshot (FIFREEZE, ioctl_fifreeze(2)).

Each is frozen by a process of its own, which thaws it when it is told to, when we are gone, and
when the deadline comes (`volcrypt.daemons.freezer`). Refused is what could stop this process, or
the one that serves the volume, at the first thing that it writes: a file system that home, stores,
runtime directory or data files lie on.
"""

import errno
import os
import select
import socket
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from volcrypt.errors import (
    InvalidArgumentError,
    MountError,
    PrivilegeError,
    TryAgainError,
    VolcryptError,
)
from volcrypt.formats.volume_record import VolumeRecord
from volcrypt.names import VolumeId
from volcrypt.operations.home import Home
from volcrypt.operations.mounts import served_volumes
from volcrypt.operations.records import nominal_data_path
from volcrypt.snapshot.store import SnapshotStore
from volcrypt.volume.freezing import thaw
from volcrypt.volume.loop import loops_of
from volcrypt.volume.mountpoint import VOLUME_FILE, Mount, mounts
from volcrypt.volume.process_start import start_process

FREEZER_MODULE: Final = "volcrypt.daemons.freezer"
DEADLINE_SECONDS: Final = 10.0
_SYNC_SECONDS: Final = 300.0
_ANSWER_SECONDS: Final = 60.0
_PAUSE_SECONDS: Final = 0.005
_CHANNEL_FD: Final = 3
_DIRECTORY_FD: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class _FileSystem:
    """A mounted file system; `devices` are the numbers (`major:minor`) that it may be known by."""

    mount_point: str
    devices: frozenset[str]


class Freeze:
    """The file systems at some directories; `volumes` are those whose whole content is on them.

    A context manager: at its end nothing is frozen by us any more, whatever happened. That may take
    until writes get through again, so captures end before.
    """

    def __init__(
        self,
        directories: Sequence[Path],
        volumes: Iterable[VolumeId],
        *,
        seconds: float = DEADLINE_SECONDS,
    ) -> None:
        """`seconds`: how long each may be frozen."""
        self.volumes = frozenset(volumes)
        self._directories = directories
        self._seconds = seconds
        self._freezers: list[_Freezer] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        freezers, self._freezers = self._freezers, []
        for freezer in freezers:
            freezer.close()
        for freezer in freezers:
            freezer.end()

    def freeze(self) -> None:
        """Returns when all are frozen. Raises what keeps one from it."""
        for directory in self._directories:
            self._freezers.append(_Freezer(directory, self._seconds))
        # Each step for all before the next: while one still syncs none is frozen.
        for freezer in self._freezers:
            freezer.expect("ready", _SYNC_SECONDS)
        for freezer in self._freezers:
            freezer.tell("freeze")
        for freezer in self._freezers:
            freezer.expect("frozen", _ANSWER_SECONDS)

    def begin_thaw(self) -> None:
        """Let go. Raises TryAgainError when one was not kept frozen until now."""
        for freezer in self._freezers:
            freezer.tell("thaw")
        for freezer in self._freezers:
            freezer.expect("thawing", _ANSWER_SECONDS)

    def finish_thaw(self) -> None:
        """Returns when all are thawed. Raises TryAgainError when somebody else had thawed one."""
        for freezer in self._freezers:
            freezer.expect("thawed", _ANSWER_SECONDS)


class _Freezer:
    """The process of one file system, seen from here."""

    def __init__(self, directory: Path, seconds: float) -> None:
        """Raises MountError when the directory cannot be opened or the process not be started."""
        self.directory = directory
        self._channel: socket.socket | None = None
        try:
            self._descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise MountError(f"cannot freeze {directory}: {error.strerror}") from error
        try:
            ours, theirs = socket.socketpair()
            with theirs:
                self._pid = start_process(
                    FREEZER_MODULE,
                    [
                        f"--channel-fd={_CHANNEL_FD}",
                        f"--directory-fd={_DIRECTORY_FD}",
                        f"--seconds={seconds}",
                    ],
                    environment={},
                    descriptors={_CHANNEL_FD: theirs.fileno(), _DIRECTORY_FD: self._descriptor},
                )
        except BaseException:
            os.close(self._descriptor)
            raise
        self._channel = ours
        self._is_frozen = False

    def tell(self, word: str) -> None:
        assert self._channel is not None, "internal error: its process was ended"
        with suppress(OSError):  # it is gone, as the next answer will say
            self._channel.sendall(f"{word}\n".encode())
        if word == "freeze":
            self._is_frozen = True  # perhaps, from here on

    def expect(self, word: str, seconds: float) -> None:
        """Raises what the process reports instead."""
        answer = self._answer(seconds)
        if answer in ("thawed", "expired", "lost") or answer.startswith("error"):
            self._is_frozen = False
        if answer != word:
            raise self._error(answer)

    def close(self) -> None:
        """Nothing more is asked; its process thaws, and ends."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def end(self) -> None:
        """Wait for the process to be gone, and thaw if it could not."""
        deadline = time.monotonic() + _ANSWER_SECONDS
        is_gone = False
        while not is_gone and time.monotonic() < deadline:
            is_gone = os.waitpid(self._pid, os.WNOHANG)[0] != 0
            time.sleep(0 if is_gone else _PAUSE_SECONDS)
        if is_gone and self._is_frozen:
            # EINVAL when its process has done it, which it did unless it was killed. One that is
            # still there is in the kernel, on its way to do so.
            with suppress(OSError):
                thaw(self._descriptor)
        os.close(self._descriptor)

    def _answer(self, seconds: float) -> str:
        """The next line; empty when the process is gone."""
        assert self._channel is not None, "internal error: its process was ended"
        line = bytearray()
        deadline = time.monotonic() + seconds
        while not line.endswith(b"\n"):
            left = max(0.0, deadline - time.monotonic())
            if not select.select([self._channel], [], [], left)[0]:
                raise TryAgainError(f"freezing {self.directory} takes too long")
            try:
                piece = self._channel.recv(1)
            except OSError:
                piece = b""
            if not piece:
                return ""
            line += piece
        return line.decode(errors="replace").strip()

    def _error(self, answer: str) -> VolcryptError:
        where = self.directory
        if answer == "expired":
            return TryAgainError(
                f"{where} could not be kept frozen until the snapshot began: that took longer than "
                "the time after which it is always thawed"
            )
        if answer == "lost":
            return TryAgainError(f"somebody else thawed {where} before the snapshot began")
        if not answer.startswith("error "):
            return TryAgainError(f"the process that was to freeze {where} was killed")
        number = int(answer.split()[1])
        if number == errno.EBUSY:
            return TryAgainError(
                f"{where} is frozen already, by somebody else", hint=f"fsfreeze -u {where}"
            )
        if number == errno.EPERM:
            return PrivilegeError(f"freezing {where} needs root")
        if number in (errno.EOPNOTSUPP, errno.ENOTTY):
            return InvalidArgumentError(f"the file system at {where} cannot be frozen")
        return MountError(f"cannot freeze {where}: {os.strerror(number)}")


# ---------------------------------------------------------------- what may be frozen


def plan_freeze(
    home: Home,
    records: Sequence[VolumeRecord],
    directories: Sequence[Path],
    *,
    store: SnapshotStore,
) -> Freeze | None:
    """How to freeze what is mounted at `directories`, which lies on the volumes; None for none.

    Raises PrivilegeError, and InvalidArgumentError for a file system that is not on these volumes,
    that something lies on which is needed meanwhile, or that is not all of what is on its volume.
    """
    if not directories:
        return None
    if os.geteuid() != 0:
        raise PrivilegeError("freezing a file system needs root")
    table = mounts()
    frozen = {Path(directory): _file_system_at(table, directory) for directory in directories}
    _check_nothing_needed_lies_on(home, records, store, table, frozen)
    devices = _devices_of_volumes(home, records)
    for directory, file_system in frozen.items():
        if not any(file_system.devices & found for found in devices.values()):
            raise InvalidArgumentError(
                f"the file system at {directory} is not on a volume that the snapshot is of",
                hint="name the directory that a file system of the volume is mounted on",
            )
    still = []
    for volume_id, found in devices.items():
        ours = {each.devices for each in frozen.values() if each.devices & found}
        if not ours:
            continue
        for mount in table:
            others = _devices_of_mount(mount)
            if others & found and not any(others & each for each in ours):
                raise InvalidArgumentError(
                    f"the file system at {mount.mount_point} is on the same volume",
                    hint=f"add --freeze {mount.mount_point}",
                )
        still.append(volume_id)
    # A file system that was named twice, by two of its directories, is frozen once.
    once = {each.devices: directory for directory, each in frozen.items()}
    return Freeze(list(once.values()), still)


def _file_system_at(table: Sequence[Mount], directory: Path) -> _FileSystem:
    if not directory.is_dir():
        raise InvalidArgumentError(f"{directory} is not a directory")
    return _file_system_of(table, directory)


def _file_system_of(table: Sequence[Mount], path: Path) -> _FileSystem:
    """What the file system is that `path` lies on, which exists."""
    path = path.resolve()
    number = _number(os.stat(path).st_dev)
    above = [mount for mount in table if path.is_relative_to(mount.mount_point)]
    # The last of those at the deepest mount point is the one on top.
    mount = max(reversed(above), key=lambda found: len(found.mount_point))
    return _FileSystem(mount_point=mount.mount_point, devices=_devices_of_mount(mount) | {number})


def _devices_of_mount(mount: Mount) -> frozenset[str]:
    """Its own number and, where that is anonymous as with btrfs, that of its source."""
    numbers = {mount.device}
    if mount.source.startswith("/"):
        with suppress(OSError):
            numbers.add(_number(os.stat(mount.source).st_rdev))
    return frozenset(numbers - {"0:0"})


def _check_nothing_needed_lies_on(
    home: Home,
    records: Sequence[VolumeRecord],
    store: SnapshotStore,
    table: Sequence[Mount],
    frozen: dict[Path, _FileSystem],
) -> None:
    needed = {"the home": home.path, "what the home has on tmpfs": home.runtime}
    needed |= {
        f"the data of volume {record.name or record.volume_id}": nominal_data_path(home, record)
        for record in records
    }
    location = Path(store.objects.location.removeprefix("file://"))
    if location.is_absolute():
        needed["the snapshot store"] = location
    for what, path in needed.items():
        if not path.exists():
            continue
        under = _file_system_of(table, path).devices
        for directory, file_system in frozen.items():
            if under & file_system.devices:
                raise InvalidArgumentError(
                    f"{what} lies on the file system at {directory}, which would stop the snapshot"
                )


def _devices_of_volumes(
    home: Home, records: Sequence[VolumeRecord]
) -> dict[VolumeId, frozenset[str]]:
    """The numbers of all block devices that stand on each volume: loop devices, their partitions,
    and what was made of those, loop devices again included."""
    served = {each.volume_id: Path(each.mount_directory) for each in served_volumes(home)}
    return {
        record.volume_id: frozenset(
            number
            for loop in loops_of(served[record.volume_id] / VOLUME_FILE)
            for number in _numbers_above(Path("/sys/block") / loop.name)
        )
        for record in records
        if record.volume_id in served
    }


def _numbers_above(block: Path) -> set[str]:
    numbers: set[str] = set()
    with suppress(OSError):
        numbers.add((block / "dev").read_text().strip())
    loops = [Path("/sys/block") / loop.name for loop in loops_of(Path("/dev") / block.name)]
    for above in [*block.glob(f"{block.name}p*"), *block.glob("holders/*"), *loops]:
        numbers |= _numbers_above(above.resolve())
    return numbers


def _number(device: int) -> str:
    return f"{os.major(device)}:{os.minor(device)}"
