"""Detaching: what `operations.attachments` built is taken down, from the top."""

import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from volcrypt.errors import MountError, TryAgainError, VolumeInUseError, VolumeNotFoundError
from volcrypt.names import VolumeId
from volcrypt.operations.attachments import device_name, mounts_on, private_mount_point
from volcrypt.operations.home import Home
from volcrypt.operations.leases import release_lease
from volcrypt.operations.mount_grants import retire_grant
from volcrypt.operations.mounts import (
    check_is_no_snapshot,
    check_no_snapshot,
    find_served,
    socket_path,
    unmount_volume,
)
from volcrypt.operations.records import load_record
from volcrypt.volume.device_links import LOST_FILE, linked_device, partition_links, release_link
from volcrypt.volume.loop import backing_file, detach_loop, loops_of
from volcrypt.volume.mountpoint import (
    VOLUME_FILE,
    mount_at,
    processes_below,
    remove_dead_mount,
    users_of,
)
from volcrypt.volume.owner import current_owner, is_kept


def detach_volume(
    home: Home,
    volume: str,
    *,
    stop_snapshot: bool = False,
    note: Callable[[str], None] = lambda _text: None,
) -> VolumeId:
    """Take down what `attach` built, and what is left of it after a kill. `note` is told what the
    user should know of a volume that was fenced.

    From the top: file systems, the last mounted first; loop device; links; the mount. Raises
    VolumeInUseError that names who still uses it, and, unless it is to be stopped, TryAgainError
    while a snapshot is made of the volume; then everything is as it was, unless somebody began to
    in this moment.
    """
    served = find_served(home, volume)
    if served is not None:
        check_no_snapshot(home, served, stop=stop_snapshot)
    if served is not None and served.snapshot_id is not None:
        raise MountError(
            f"snapshot {volume} is mounted on {served.mount_directory}, not attached",
            hint=f"volcrypt unmount {volume}",
        )
    try:
        known = served if served is not None else load_record(home, volume)
    except VolumeNotFoundError:
        check_is_no_snapshot(home, volume, "is not attached")
        raise
    point = private_mount_point(home, known.volume_id)
    if served is None and is_kept(home.volumes.path_of(known.volume_id)):
        raise TryAgainError(
            f"volume {volume} waits for the next process of its service",
            hint="systemctl stop that, or start it",
        )
    if not point.exists():
        raise MountError(f"volume {volume} is not attached")
    name = device_name(known)
    loops = loops_below(point, name)
    lost: MountError | None = None
    for loop in loops:
        _check_unused(loop, volume)
    for loop in loops:
        _unmount_file_systems(loop, volume)
        try:
            detach_loop(loop, volume=volume)
        except MountError as error:
            if served is None:
                lost = error  # its process was killed: take down the rest, then say so
            elif served.fenced is not None:
                note(f"{error}: {served.fenced.error()}")
            else:
                raise
    for link in (*partition_links(name), name):
        release_link(link, point)
    if served is not None:
        unmount_volume(home, known.volume_id)
    else:
        if mount_at(point) is not None:
            remove_dead_mount(point)
        if current_owner(home.volumes.path_of(known.volume_id)) is None:
            socket_path(home, known.volume_id).unlink(missing_ok=True)
    with suppress(OSError):
        point.rmdir()
    retire_grant(home, known.volume_id)
    release_lease(home, known.volume_id)
    if lost is not None:
        raise lost
    return known.volume_id


def loops_below(point: Path, name: str) -> list[Path]:
    """The loop devices of a volume of that name; also one whose mount at `point` is gone while it
    was in use, and which therefore does not know any more what it stands on."""
    loops = loops_of(point / VOLUME_FILE)
    linked = linked_device(name)
    if linked is not None and linked not in loops and backing_file(linked) == LOST_FILE:
        loops.append(linked)
    return loops


def _check_unused(loop: Path, volume: str) -> None:
    """Raises VolumeInUseError when a process uses one of the file systems, before any of them is
    unmounted."""
    for mount in mounts_on(loop):
        if users := processes_below(Path(mount.mount_point)):
            raise _in_use_at(volume, users, mount.mount_point)


def _in_use_at(volume: str, users: list[str], point: str) -> VolumeInUseError:
    return VolumeInUseError(
        volume,
        f"{', '.join(users) or 'something in the kernel'} on {point}",
        hint="end that, or have it leave the directory, then detach again",
    )


def _unmount_file_systems(loop: Path, volume: str) -> None:
    for mount in mounts_on(loop):
        done = subprocess.run(
            ["umount", "--", mount.mount_point], check=False, capture_output=True, text=True
        )
        if done.returncode:
            raise _in_use_at(volume, users_of(Path(mount.mount_point)), mount.mount_point)
