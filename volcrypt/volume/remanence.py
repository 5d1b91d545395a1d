"""What a medium may keep of data that was overwritten or deleted, as far as the kernel tells.

It looks at /proc/self/mountinfo and /sys/dev/block alone, asks no device, and promises nothing:
where the kernel says nothing, there is nothing in the answer.
"""

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from volcrypt.volume.block_device import SYSFS
from volcrypt.volume.mountpoint import parse_mountinfo, read_mountinfo

_COPIES_ON_WRITE: Final = frozenset({"btrfs", "zfs", "bcachefs", "nilfs2", "f2fs"})
_REMOTE: Final = frozenset({"nfs", "nfs4", "cifs", "smb3", "ceph", "9p", "virtiofs", "glusterfs"})
_MEMORY: Final = frozenset({"tmpfs", "ramfs"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Medium:
    """What something lies on. `rotates` and `discards` are None where the kernel does not say;
    `is_told`: a file that is deleted is discarded on the device at once (mount option `discard`).
    """

    device: str | None
    file_system: str | None
    mount_point: str | None
    rotates: bool | None
    discards: bool | None
    is_told: bool
    below: tuple[str, ...]
    """What the device lies on, for people."""

    def notes(self) -> list[str]:
        """What that means for data that was to be destroyed."""
        kind = self.file_system or ""
        if kind in _MEMORY:
            return ["it was in memory, or in swap"]
        if kind in _REMOTE:
            return [f"it is on a server ({kind}), which alone knows what is left there"]
        found = []
        if kind == "overlay":
            found.append("overlay: lower layers keep what they had")
        if kind in _COPIES_ON_WRITE:
            found.append(
                f"{kind} never writes in place: its snapshots and reflinks keep old blocks"
            )
        if kind == "xfs":
            found.append("xfs: files that were made of it with reflinks keep its blocks")
        if self.rotates is False:
            found.append(
                "an SSD keeps overwritten and discarded blocks until it erases them itself"
            )
        if self.rotates and kind:
            found.append("on a rotating disk what is freed stays until something is written there")
        if self.discards and kind and not self.is_told and self.mount_point is not None:
            found.append(f"'fstrim {self.mount_point}' tells the device which blocks are free")
        if self.discards is False and self.rotates is False:
            found.append("the device cannot be told which blocks are free")
        found += [f"below is {each}" for each in self.below]
        return found


def medium_of(path: Path, *, mountinfo: str | None = None, sysfs: Path = SYSFS) -> Medium | None:
    """Of a file, directory or block device; None for what is not there."""
    try:
        status = path.stat()
    except OSError:
        return None
    if stat.S_ISBLK(status.st_mode):
        return _medium(
            status.st_rdev, sysfs, file_system=None, mount_point=None, options=frozenset()
        )
    if mountinfo is None:
        mountinfo = read_mountinfo()
    real = os.path.realpath(path)
    mounted = parse_mountinfo(mountinfo)
    best: tuple[int, int] | None = None
    for number, mount in enumerate(mounted):
        if Path(real).is_relative_to(mount.mount_point):
            best = max(best or (0, 0), (len(mount.mount_point), number))
    if best is None:
        return _medium(
            status.st_dev, sysfs, file_system=None, mount_point=None, options=frozenset()
        )
    mount = mounted[best[1]]
    return _medium(
        status.st_dev,
        sysfs,
        file_system=mount.fs_type,
        mount_point=mount.mount_point,
        options=mount.options,
        source=mount.source,
    )


def _medium(
    number: int,
    sysfs: Path,
    *,
    file_system: str | None,
    mount_point: str | None,
    options: frozenset[str],
    source: str | None = None,
) -> Medium:
    directory = (sysfs / "dev" / "block" / f"{os.major(number)}:{os.minor(number)}").resolve()
    if not directory.is_dir() and source is not None and source.startswith("/dev/"):
        # btrfs and others have device numbers of their own.
        try:
            number = os.stat(source).st_rdev
        except OSError:
            number = 0
        directory = (sysfs / "dev" / "block" / f"{os.major(number)}:{os.minor(number)}").resolve()
    device = directory.name if directory.is_dir() else None
    whole = directory.parent if (directory / "partition").exists() else directory
    rotates = _number(whole / "queue" / "rotational")
    discard_bytes = _number(whole / "queue" / "discard_max_bytes")
    if device is not None and _is_virtual(whole):
        rotates = None  # what it says of itself is what its host made up
    return Medium(
        device=None if device is None else f"/dev/{device}",
        file_system=file_system,
        mount_point=mount_point,
        rotates=None if rotates is None else bool(rotates),
        discards=None if discard_bytes is None else discard_bytes > 0,
        is_told="discard" in options or any(each.startswith("discard=") for each in options),
        below=tuple(_below(whole)) if device is not None else (),
    )


def _is_virtual(directory: Path) -> bool:
    return "/virtio" in str(directory) or directory.name.startswith(("vd", "xvd"))


def _below(directory: Path) -> list[str]:
    found = []
    if (backing := _text(directory / "loop" / "backing_file")) is not None:
        found.append(f"the file {backing}, to whose medium all this applies")
    if (uuid := _text(directory / "dm" / "uuid")) is not None and uuid.startswith("LVM-"):
        found.append("a logical volume: its snapshots keep old blocks")
    elif uuid is not None:
        found.append("a device-mapper device: what is below it keeps what it keeps")
    if directory.name.startswith(("rbd", "nbd", "drbd")):
        found.append("storage of other hosts: its snapshots and replicas keep old blocks")
    if _is_virtual(directory):
        found.append("a virtual disk: its host knows the medium, and may keep snapshots of it")
    if (directory / "md").is_dir():
        found.append("an array of several disks")
    return found


def _text(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace").strip() or None
    except OSError:
        return None


def _number(path: Path) -> int | None:
    text = _text(path)
    return int(text) if text is not None and text.isdigit() else None
