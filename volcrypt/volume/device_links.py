"""The links of attached volumes: `/dev/volcrypt/NAME`, `NAME-part1`, ... Synchronous.

They are of all homes of a host, and two homes may give a volume the same name: the link is of who
makes it first. Whose it is, is looked at under one lock with what is done about it. The lock is a
flock of the directory itself, which comes with the first link and goes with the last.

A link is its volume's as long as the loop device that it leads to stands on that volume's mount.
After a kill it may lead to a device that is free, or to whatever got the number since; also to a
volume of another name, of whatever home: the process that serves it is asked for its name.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from volcrypt.errors import TryAgainError, VolcryptError, VolumeInUseError
from volcrypt.file_lock import locked_within
from volcrypt.names import is_volume_id
from volcrypt.volume.control import ControlClient
from volcrypt.volume.loop import backing_file, detach_loop, loop_of, partition_number
from volcrypt.volume.mountpoint import VOLUME_FILE

DEVICE_DIRECTORY: Final = Path("/dev/volcrypt")
LOST_FILE: Final = Path("/", VOLUME_FILE)
"""How the kernel names the file of a loop device whose FUSE mount was taken away below it."""

_PATIENCE_SECONDS: Final = 30


def linked_device(name: str, *, directory: Path = DEVICE_DIRECTORY) -> Path | None:
    """The device that `/dev/volcrypt/NAME` points to, or None."""
    try:
        return Path(os.readlink(directory / name))
    except OSError:
        return None


def partition_name(name: str, number: int) -> str:
    """As udev names partitions of named disks."""
    return f"{name}-part{number}"


def partition_links(name: str, *, directory: Path = DEVICE_DIRECTORY) -> list[str]:
    """What could be links to partitions of a volume."""
    return [
        link.name
        for link in sorted(directory.glob(f"{name}-part*"))
        if link.is_symlink() and link.name.removeprefix(f"{name}-part").isdigit()
    ]


def free_link(name: str, point: Path, *, directory: Path = DEVICE_DIRECTORY) -> None:
    """Have no link of this name, before the volume that is to have it is served at `point`.

    What is left of a killed process is taken away, its loop device too. Raises VolumeInUseError
    when the name is another volume's.
    """
    linked = linked_device(name, directory=directory)
    if linked is None:
        return
    if backing_file(linked) == LOST_FILE:
        detach_loop(loop_of(linked), volume=name)
    with _locked(directory):
        _check_free(name, point, directory)
        (directory / name).unlink(missing_ok=True)


def check_link_is_free(name: str, point: Path, *, directory: Path = DEVICE_DIRECTORY) -> None:
    """Raises VolumeInUseError where `free_link` would; changes nothing."""
    holder = _holder(name, directory)
    if holder is not None and holder not in (point, LOST_FILE.parent):
        raise _taken(name, directory)


def claim_link(name: str, device: Path, point: Path, *, directory: Path = DEVICE_DIRECTORY) -> Path:
    """`/dev/volcrypt/NAME`, pointing to `device`, for the volume that is served at `point`.

    Raises VolumeInUseError when the name is another volume's by now.
    """
    with _locked(directory):
        _check_free(name, point, directory)
        link = directory / name
        temporary = directory / f".{name}.new"
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(device)
        temporary.replace(link)
    _announce(device)
    return link


def drop_link(name: str, device: Path, *, directory: Path = DEVICE_DIRECTORY) -> None:
    """Remove the link, if it still points to `device`, which is the caller's until he detaches
    it."""
    with _locked(directory):
        if linked_device(name, directory=directory) == device:
            (directory / name).unlink()


def release_link(name: str, point: Path, *, directory: Path = DEVICE_DIRECTORY) -> None:
    """Remove the link of the volume that was served at `point`, and a false one; one that is
    another volume's stays."""
    device = linked_device(name, directory=directory)
    if device is None:
        return
    with _locked(directory):
        if _holder(name, directory) in (None, point):
            (directory / name).unlink(missing_ok=True)
    _announce(device)


def _announce(device: Path) -> None:
    """Have udev look at a device again: systemd waits for the names of fstab until udev has told
    it (`systemd/90-volcrypt.rules`)."""
    with suppress(OSError):  # a read-only /sys; then there is no udev either
        (Path("/sys/class/block") / device.name / "uevent").write_text("change")


def remove_false_links(*, directory: Path = DEVICE_DIRECTORY) -> None:
    """Remove links to what is no volume any more: after a kill a loop device may have been freed,
    and be another's by now."""
    if not directory.is_dir():
        return
    with _locked(directory):
        for link in false_links(directory=directory):
            link.unlink(missing_ok=True)


def false_links(*, directory: Path = DEVICE_DIRECTORY) -> list[Path]:
    """The links that `remove_false_links` would remove."""
    return [
        link
        for link in sorted(directory.glob("*"))
        if (target := linked_device(link.name, directory=directory)) is not None
        and _point_below(target) is None
    ]


def _check_free(name: str, point: Path, directory: Path) -> None:
    holder = _holder(name, directory)
    if holder is not None and holder != point:
        raise _taken(name, directory)


def _taken(name: str, directory: Path) -> VolumeInUseError:
    linked = linked_device(name, directory=directory)
    backing = None if linked is None else backing_file(linked)
    hint = None
    if backing is not None and backing != LOST_FILE:
        hint = (
            f"in the home that it is of: volcrypt detach {backing.parent.stem}; that also ends "
            "what a killed process left"
        )
    return VolumeInUseError(
        name, f"another volume, or home: {directory / name} is {linked} on {backing}", hint=hint
    )


def _holder(name: str, directory: Path) -> Path | None:
    """The mount point of the volume that the link is of; None for a false link, or none."""
    linked = linked_device(name, directory=directory)
    point = None if linked is None else _point_below(linked)
    if linked is None or point is None:
        return None
    served = _served_name(point)
    # Where nobody can be asked the link is believed.
    return point if served is None or name == _link_name(served, linked) else None


def _point_below(linked: Path) -> Path | None:
    """The mount point of the volume that a loop device, or a partition of one, stands on, of
    whatever home; None when it stands on something else, or does not exist."""
    backing = backing_file(linked)
    is_gone = loop_of(linked) != linked and not linked.exists()
    if backing is None or is_gone or backing.name != VOLUME_FILE:
        return None
    point = backing.parent
    is_ours = point.suffix == ".mnt" and is_volume_id(point.stem)
    return point if is_ours or backing == LOST_FILE else None


def _served_name(point: Path) -> str | None:
    """What the process that serves a volume calls it; None where none answers."""
    if point == LOST_FILE.parent:
        return None
    try:
        with ControlClient(point.with_suffix(".sock"), volume=point.stem) as control:
            served = control.status()
    except VolcryptError:
        return None
    return served.name or served.volume_id


def _link_name(volume: str, device: Path) -> str:
    """How the link to a volume's loop device is called, or to a partition of it."""
    if loop_of(device) == device:
        return volume
    return partition_name(volume, partition_number(device))


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Be the only one who makes or removes links; makes the directory, and removes an empty one.

    Raises TryAgainError when somebody else takes long.
    """
    descriptor = _lock(directory)
    try:
        yield
    finally:
        with suppress(OSError):
            directory.rmdir()  # under the lock; who waited for it sees that it is gone
        os.close(descriptor)


def _lock(directory: Path) -> int:
    while True:
        # Not `exist_ok`: that fails when the directory is removed between its two looks.
        with suppress(FileExistsError):
            directory.mkdir(mode=0o755)
        try:
            descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            if not locked_within(descriptor, fcntl.LOCK_EX, _PATIENCE_SECONDS):
                raise TryAgainError(f"another command is changing {directory}")
            with suppress(FileNotFoundError):
                if os.path.samestat(os.stat(directory), os.fstat(descriptor)):
                    return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
