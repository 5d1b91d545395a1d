"""Loop devices: a block device on the file of a mount. Synchronous.

A loop device asks the file below for whole sectors. 4096-byte sectors spare every merge of a
partial data unit, but what was laid out in 512-byte sectors does not open on them, so the content
decides (`probe_sector_size`).
"""

import errno
import fcntl
import os
import re
import shutil
import struct
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from volcrypt.errors import ComponentMissingError, MountError, PrivilegeError, VolumeInUseError
from volcrypt.volume.allocation import deallocate
from volcrypt.volume.block_device import signature_on
from volcrypt.volume.mountpoint import mounts, processes_using

PROBE_BYTES: Final = 128 * 1024
"""How much of the start of a volume `probe_sector_size` looks at."""

_BLKDISCARD: Final = 0x1277  # linux/fs.h
_SMALL: Final = 512
_LARGE: Final = 4096
_DETACH_SECONDS: Final = 5.0
_PASSING_SECONDS: Final = 0.5
_PARTITION: Final = re.compile(r"(loop\d+)p\d+")


def probe_sector_size(head: bytes) -> int:
    """512 or 4096: the largest sector on which content that starts with `head` works.

    `head` is the first PROBE_BYTES of the volume, or all of a smaller one. Nothing but zeros gives
    4096; content that is not known gives 512, on which everything works.
    """
    if not any(head):
        return _LARGE
    if head[1080:1082] == b"\x53\xef":  # ext2/3/4: s_magic; s_log_block_size counts from 1024
        (log_block_size,) = struct.unpack_from("<I", head, 1048)
        return _LARGE if 2 <= log_block_size <= 6 else _SMALL
    if head[:4] == b"XFSB":  # sb_sectsize, big-endian
        (sector_size,) = struct.unpack_from(">H", head, 102)
        return _LARGE if sector_size >= _LARGE else _SMALL
    if head[65600:65608] == b"_BHRfS_M":  # btrfs: sectorsize in the first superblock
        (sector_size,) = struct.unpack_from("<I", head, 65536 + 144)
        return _LARGE if sector_size >= _LARGE else _SMALL
    if head[4096:4104] == b"EFI PART" and head[512:520] != b"EFI PART":  # GPT lies at sector 1
        return _LARGE
    return _SMALL


def check_loop_devices() -> None:
    """Raises what `attach_loop` would raise before it does anything."""
    if os.geteuid() != 0:
        raise PrivilegeError("attaching a loop device needs root")
    if shutil.which("losetup") is None:
        raise ComponentMissingError("losetup", package="mount")
    if not Path("/dev/loop-control").exists():
        raise MountError(
            "this kernel offers no loop devices: /dev/loop-control is missing",
            hint="modprobe loop, or use 'volcrypt mount' and the file in the mount",
        )


def attach_loop(file: Path, *, sector_size: int, read_only: bool) -> Path:
    """A new loop device on `file`, with direct I/O; returns its path, `/dev/loopN`.

    Raises PrivilegeError, ComponentMissingError, MountError.
    """
    check_loop_devices()
    arguments = ["--find", "--show", "--partscan", "--direct-io=on", f"--sector-size={sector_size}"]
    if read_only:
        arguments.append("--read-only")
    device = Path(_losetup(*arguments, "--", str(file)).strip())
    # Without direct I/O the loop device would keep a second cache of plaintext, and losetup only
    # warns when the kernel refuses it.
    if _attribute(device, "loop/dio") != "1":
        _losetup("--detach", str(device))
        raise MountError(f"the kernel refused direct I/O on {file} with {sector_size}-byte sectors")
    return device


def forget_discards(device: Path, file: Path) -> None:
    """Have a fresh loop device offer no discards, since there are none of `file`, which it stands
    on. Does nothing when there are.

    The kernel takes for granted that a file can have holes, until one discard failed.
    """
    descriptor = os.open(file, os.O_RDWR | os.O_CLOEXEC)
    try:
        # Behind its end, where it could change nothing.
        end = os.lseek(descriptor, 0, os.SEEK_END)
        deallocate(descriptor, end, _LARGE, keeps_room=False)
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise MountError(f"{file} does not say whether it takes discards: {error}") from error
    else:
        return
    finally:
        os.close(descriptor)
    # From here on the kernel itself answers every discard of the file, so this one fails too.
    descriptor = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    try:
        with suppress(OSError):
            fcntl.ioctl(descriptor, _BLKDISCARD, struct.pack("QQ", 0, _LARGE))
    finally:
        os.close(descriptor)


def add_partitions(device: Path) -> list[Path]:
    """The partitions of a loop device, by number, as devices: those that the kernel found, or what
    is in the partition table of the content where the kernel does not know its kind.

    Kernels are built without the code for GPT or DOS tables (CONFIG_EFI_PARTITION,
    CONFIG_MSDOS_PARTITION); `partx` reads the table itself and tells the kernel of each. They go
    with the loop device. A table that cannot be read is none. Raises ComponentMissingError.
    """
    if not partitions_of(device) and signature_on(device, table=True) is not None:
        if shutil.which("partx") is None:
            raise ComponentMissingError("partx", package="util-linux")
        subprocess.run(["partx", "--add", "--", str(device)], check=False, capture_output=True)
    return partitions_of(device)


def partitions_of(device: Path) -> list[Path]:
    """The partitions that the kernel knows of a loop device, by number."""
    found = {}
    for entry in (Path("/sys/block") / device.name).glob(f"{device.name}p*"):
        number = _attribute(entry, "partition", below=entry.parent)
        if number is not None and (node := device.with_name(entry.name)).exists():
            found[int(number)] = node
    return [found[number] for number in sorted(found)]


def partition_number(partition: Path) -> int:
    """Of /dev/loop1p2 it is 2."""
    return int(partition.name.rpartition("p")[2])


def detach_loop(device: Path, *, volume: str) -> None:
    """Detach a loop device; what it still had to write is written. Does nothing if it is free.

    `volume` names it in errors. Raises VolumeInUseError that names who uses it, and after it was
    detached MountError when its last data, if there was any, could not be written.
    """
    if backing_file(device) is None:
        return
    _check_unused(device, volume)
    failure = _sync_device(device)
    _detach(device, volume)
    if failure is not None:
        # The kernel does not tell whether there was any: the flush of its cache fails as well.
        raise MountError(
            f"{device} is detached, and the last data written to it may be lost: {failure.strerror}"
        ) from failure


def set_loop_capacity(device: Path, size_bytes: int) -> None:
    """Make a loop device as large as its file, which has grown to `size_bytes`.

    Raises PrivilegeError, MountError.
    """
    check_loop_devices()
    _losetup("--set-capacity", str(device))
    sectors = _attribute(device, "size")
    if sectors is None or int(sectors) * _SMALL != size_bytes:
        raise MountError(f"the kernel did not take over the new size of {device}")


def detach_dead_loops(file: Path, *, volume: str) -> None:
    """Detach every loop device on `file`, the file of a mount whose process is gone.

    They can only give errors. Raises VolumeInUseError when one is in use all the same.
    """
    for device in loops_of(file):
        _check_unused(device, volume)
        _detach(device, volume)


def backing_file(device: Path) -> Path | None:
    """The file that a loop device, or that of a partition, stands on; None when it is free or does
    not exist."""
    name = _attribute(loop_of(device), "loop/backing_file")
    return None if name is None else Path(name.removesuffix(" (deleted)"))


def sector_size_of(device: Path) -> int:
    """Of a loop device that is attached."""
    return int(_attribute(device, "queue/logical_block_size") or _SMALL)


def is_read_only(device: Path) -> bool:
    return _attribute(device, "ro") == "1"


def loop_of(device: Path) -> Path:
    """The loop device that a partition is of, and a loop device itself."""
    found = _PARTITION.fullmatch(device.name)
    return device if found is None else device.with_name(found[1])


def loops_of(file: Path) -> list[Path]:
    """The loop devices that stand on `file`, an absolute path without symlinks."""
    return [
        device
        for entry in sorted(Path("/sys/block").glob("loop*"))
        if backing_file(device := Path("/dev") / entry.name) == file
    ]


def users_of(device: Path) -> list[str]:
    """Who keeps a block device busy, for people: mounts, swap, other devices, processes."""
    block = Path("/sys/block") / device.name
    parts = [block, *block.glob(f"{device.name}p*")]
    numbers = {(part / "dev").read_text().strip() for part in parts if (part / "dev").exists()}
    names = {f"/dev/{part.name}" for part in parts}
    # btrfs and overlays show an anonymous device number, but the device as their source.
    users = [
        f"a {mount.fs_type} file system mounted at {mount.mount_point}"
        for mount in mounts()
        if mount.device in numbers or mount.source in names
    ]
    users += [
        f"swap on {line.split()[0]}"
        for line in Path("/proc/swaps").read_text().splitlines()[1:]
        if line.split()[0] in names
    ]
    users += [
        f"device {holder.name}" for part in parts for holder in sorted(part.glob("holders/*"))
    ]
    return users + processes_using(names.__contains__)


def _check_unused(device: Path, volume: str) -> None:
    # `losetup`, `blkid` and the like look into every device of a machine, for moments.
    deadline = time.monotonic() + _PASSING_SECONDS
    while users := users_of(device):
        if time.monotonic() > deadline:
            raise VolumeInUseError(
                volume, ", ".join(users), hint="unmount or close it first, then detach again"
            )
        time.sleep(_PASSING_SECONDS / 20)


def _sync_device(device: Path) -> OSError | None:
    """Write out what was written to the device without a file system; the error if that fails.

    Detaching would write it too, and lose the error.
    """
    descriptor = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        return error
    finally:
        os.close(descriptor)
    return None


def _detach(device: Path, volume: str) -> None:
    backing = backing_file(device)
    _losetup("--detach", str(device))
    # When somebody had the device open just now (udev looks at it) the kernel detaches it at the
    # last close instead. Once it is free it may be attached again, to another file.
    deadline = time.monotonic() + _DETACH_SECONDS
    while backing is not None and backing_file(device) == backing:
        if time.monotonic() > deadline:
            raise VolumeInUseError(
                volume,
                ", ".join(users_of(device))
                or "the kernel, or a mount in another namespace (a container)",
                hint="it is detached as soon as that ends",
            )
        time.sleep(0.02)


def _attribute(device: Path, name: str, *, below: Path = Path("/sys/block")) -> str | None:
    try:
        return (below / device.name / name).read_text().strip()
    except OSError:
        return None


def _losetup(*arguments: str) -> str:
    done = subprocess.run(["losetup", *arguments], check=False, capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        reason = lines[-1].removeprefix("losetup: ") if lines else f"exit code {done.returncode}"
        raise MountError(f"losetup failed: {reason}")
    return done.stdout
