"""Attach and detach: a loop device on a private mount of the volume, and what stands on that.

Built from the bottom up (mount, loop device, link, file system) and taken down from the top; what
was built is taken down again when a later step fails.
"""

import shutil
import subprocess
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from volcrypt.errors import (
    ComponentMissingError,
    InvalidArgumentError,
    MountError,
    VolumeInUseError,
)
from volcrypt.formats.volume_record import VolumeRecord
from volcrypt.names import VolumeId
from volcrypt.operations.home import Home
from volcrypt.operations.mounts import (
    Launch,
    Mounted,
    check_free,
    mount_volume,
    unmount_volume,
)
from volcrypt.operations.records import load_record
from volcrypt.volume.loop import (
    PROBE_BYTES,
    attach_loop,
    check_loop_devices,
    detach_dead_loops,
    detach_loop,
    link_device,
    loops_of,
    probe_sector_size,
    unlink_device,
    users_of,
)
from volcrypt.volume.mountpoint import VOLUME_FILE, mounts

_MKFS_PACKAGES: Final = {"ext4": "e2fsprogs", "xfs": "xfsprogs", "btrfs": "btrfs-progs"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Attached:
    """A volume on its loop device; `device` is the lasting name, `loop` what it points to now."""

    volume_id: VolumeId
    device: Path
    loop: Path
    sector_size: int
    mount_point: Path | None
    pid: int


def private_mount_point(home: Home, record: VolumeRecord) -> Path:
    """Where `attach` mounts a volume; only its loop device is meant to be used."""
    return home.runtime / f"{record.volume_id}.mnt"


def device_name(record: VolumeRecord) -> str:
    """The name in /dev/volcrypt."""
    return record.name or record.volume_id


def attach_volume(
    home: Home,
    volume: str,
    *,
    mkfs: str | None,
    mount_directory: Path | None,
    read_only: bool,
    launch: Launch,
) -> Attached:
    """Mount the volume privately, put a loop device on it, make or mount a file system if asked.

    Raises MountError, PrivilegeError, VolumeInUseError, KmsError; nothing is left of what failed.
    """
    check_loop_devices()
    if mkfs is not None:
        if read_only:
            raise InvalidArgumentError("a file system cannot be made read-only")
        if shutil.which(f"mkfs.{mkfs}") is None:
            raise ComponentMissingError(f"mkfs.{mkfs}", package=_MKFS_PACKAGES.get(mkfs))
    if mount_directory is not None and not mount_directory.is_dir():
        raise MountError(
            f"mount point {mount_directory} does not exist", hint=f"mkdir {mount_directory}"
        )
    record = load_record(home, volume)
    point = private_mount_point(home, record)
    with ExitStack() as undo:
        with home.exclusive():
            check_free(home, record)
            # A process that was killed leaves its loop device, on which nothing works any more.
            detach_dead_loops(point / VOLUME_FILE, volume=volume)
            point.mkdir(mode=0o700, exist_ok=True)
            undo.callback(_remove_empty, point)
            mounted = mount_volume(home, volume, point, read_only=read_only, launch=launch)
        undo.callback(unmount_volume, home, record.volume_id)
        attached = _build(
            record,
            mounted,
            undo,
            mkfs=mkfs,
            mount_directory=mount_directory,
            read_only=read_only,
        )
        undo.pop_all()
        return attached


def _build(
    record: VolumeRecord,
    mounted: Mounted,
    undo: ExitStack,
    *,
    mkfs: str | None,
    mount_directory: Path | None,
    read_only: bool,
) -> Attached:
    with open(mounted.file, "rb", buffering=0) as file:
        head = file.read(PROBE_BYTES)
    if mkfs is not None and any(head):
        raise InvalidArgumentError(
            f"volume {device_name(record)} is not empty", hint="attach it without --mkfs"
        )
    sector_size = probe_sector_size(head)
    loop = attach_loop(mounted.file, sector_size=sector_size, read_only=read_only)
    undo.callback(detach_loop, loop, volume=device_name(record))
    device = link_device(device_name(record), loop)
    undo.callback(unlink_device, device_name(record))
    if mkfs is not None:
        _run([f"mkfs.{mkfs}", str(device)], what=f"making the {mkfs} file system")
    if mount_directory is not None:
        options = ["-o", "ro"] if read_only else []
        _run(
            ["mount", *options, "--", str(device), str(mount_directory)],
            what=f"mounting {device} on {mount_directory}",
        )
    return Attached(
        volume_id=record.volume_id,
        device=device,
        loop=loop,
        sector_size=sector_size,
        mount_point=mount_directory.resolve() if mount_directory else None,
        pid=mounted.pid,
    )


def detach_volume(home: Home, volume: str) -> VolumeId:
    """Take down what `attach` built, and what is left of it after a kill.

    Raises VolumeInUseError that names who still uses it; then everything is as it was.
    """
    record = load_record(home, volume)
    point = private_mount_point(home, record)
    if not point.exists():
        raise InvalidArgumentError(f"volume {volume} is not attached")
    for loop in loops_of(point / VOLUME_FILE):
        _unmount_file_systems(loop, volume)
        detach_loop(loop, volume=volume)
    unlink_device(device_name(record))
    unmount_volume(home, record.volume_id)
    _remove_empty(point)
    return record.volume_id


def _unmount_file_systems(loop: Path, volume: str) -> None:
    """Unmount what stands on a loop device or one of its partitions, last mounted first."""
    partitions = {f"/dev/{path.name}" for path in Path("/sys/block", loop.name).glob("loop*p*")}
    sources = {str(loop), *partitions}
    for mount in reversed(mounts()):
        if mount.source not in sources:
            continue
        done = subprocess.run(
            ["umount", "--", mount.mount_point], check=False, capture_output=True, text=True
        )
        if done.returncode:
            raise VolumeInUseError(
                volume,
                "; ".join([f"a file system mounted on {mount.mount_point}", *users_of(loop)]),
                hint=f"end what uses {mount.mount_point}, then detach again",
            )


def _remove_empty(directory: Path) -> None:
    with suppress(OSError):
        directory.rmdir()


def _run(command: list[str], *, what: str) -> None:
    """Run a program of the host; its last line of complaint becomes the error."""
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise MountError(f"{what} failed: {lines[-1] if lines else 'no reason was given'}")
