"""What may be frozen for the moment of a snapshot, and with that how (`operations.freezers`).

Refused is what could stop this process, or
the one that serves the volume, at the first thing that it writes: a file system that home, stores,
runtime directory or data files lie on.
"""

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from volcrypt.errors import InvalidArgumentError, PrivilegeError
from volcrypt.formats.volume_record import VolumeRecord
from volcrypt.names import VolumeId
from volcrypt.operations.freezers import Freeze
from volcrypt.operations.home import Home
from volcrypt.operations.mounts import served_volumes, socket_path
from volcrypt.operations.records import nominal_data_path
from volcrypt.snapshot.store import SnapshotStore
from volcrypt.volume.loop import loops_of
from volcrypt.volume.mountpoint import VOLUME_FILE, Mount, mounts


@dataclass(frozen=True, slots=True, kw_only=True)
class _FileSystem:
    """A mounted file system; `devices` are the numbers (`major:minor`) that it may be known by."""

    mount_point: str
    devices: frozenset[str]


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
    guards = {
        directory: socket_path(home, volume_id)
        for numbers, directory in once.items()
        for volume_id, found in devices.items()
        if numbers & found
    }
    return Freeze(list(once.values()), still, notes=home.runtime, guards=guards)


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
