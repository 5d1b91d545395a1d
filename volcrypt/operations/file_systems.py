"""The file system on an attached volume: found, and told that there is more room below it."""

import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from volcrypt.confinement import CAP_SYS_RESOURCE, has_capability
from volcrypt.errors import ComponentMissingError, InvalidArgumentError, MountError, PrivilegeError
from volcrypt.volume.mountpoint import mounts


@dataclass(frozen=True, slots=True, kw_only=True)
class MountedFileSystem:
    """A mounted file system that can grow; `command` makes it fill its device."""

    kind: str
    mount_point: Path
    command: list[str]


# How each is told, given device and mount point, and the package with the program. All of them
# have nothing to do when they fill their device already.
_GROWERS: Final[dict[str, tuple[Callable[[Path, str], list[str]], str]]] = {
    "ext2": (lambda device, _: ["resize2fs", str(device)], "e2fsprogs"),
    "ext3": (lambda device, _: ["resize2fs", str(device)], "e2fsprogs"),
    "ext4": (lambda device, _: ["resize2fs", str(device)], "e2fsprogs"),
    "xfs": (lambda _, point: ["xfs_growfs", point], "xfsprogs"),
    "btrfs": (lambda _, point: ["btrfs", "filesystem", "resize", "max", point], "btrfs-progs"),
}


def find_growable(device: Path, *, volume: str) -> MountedFileSystem:
    """The file system that is mounted from a loop device. Raises InvalidArgumentError when there
    is none that can grow, PrivilegeError, ComponentMissingError."""
    if os.geteuid() != 0:
        raise PrivilegeError("resizing a file system needs root")
    found = mounts()
    if any(mount.source.startswith(f"{device}p") for mount in found):
        raise InvalidArgumentError(
            f"volume {volume} is partitioned",
            hint="grow the volume without --resize-fs, then the partition, then its file system",
        )
    for mount in found:
        if mount.source != str(device) or mount.fs_type not in _GROWERS:
            continue
        command_of, package = _GROWERS[mount.fs_type]
        command = command_of(device, mount.mount_point)
        if shutil.which(command[0]) is None:
            raise ComponentMissingError(command[0], package=package)
        if command[0] == "resize2fs" and not has_capability(CAP_SYS_RESOURCE):
            raise PrivilegeError(
                f"resizing a mounted {mount.fs_type} needs the capability SYS_RESOURCE",
                hint="grow the volume without --resize-fs, unmount, then run e2fsck -f and "
                f"resize2fs on {device}",
            )
        if os.statvfs(mount.mount_point).f_flag & os.ST_RDONLY:
            raise InvalidArgumentError(f"{mount.mount_point} is mounted read-only")
        return MountedFileSystem(
            kind=mount.fs_type, mount_point=Path(mount.mount_point), command=command
        )
    raise InvalidArgumentError(
        f"no ext4, xfs or btrfs of volume {volume} is mounted",
        hint="a file system grows while it is mounted: mount it, then run this again",
    )


def run_program(command: list[str], *, what: str, hint: str | None = None) -> None:
    """Run a program of the host; what it says of the reason becomes the error, a MountError."""
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        # Programs surround their reason with banners, usage and advice, but sign it by their name.
        signed = [line for line in lines if line.startswith(f"{command[0]}: ")]
        plain = [line for line in lines if not line.startswith(("mke2fs ", "resize2fs ", "Usage:"))]
        reason = next(iter(signed + plain), "no reason was given")
        raise MountError(f"{what} failed: {reason.removeprefix(f'{command[0]}: ')}", hint=hint)
