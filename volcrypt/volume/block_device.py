"""Block devices as the place of a volume's data: which one it is, what is on it, zeroing it.

Names like /dev/sdb go to another disk after the next boot, and a volume that was written to the
wrong disk would destroy what is there. So a volume remembers a name that stays, where udev gives
one, and what the device says of itself, which is compared whenever it is opened.
"""

import errno
import fcntl
import os
import re
import shutil
import stat
import struct
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from volcrypt.crypto.xts import is_zero
from volcrypt.durable import read_fully
from volcrypt.errors import (
    ComponentMissingError,
    DeviceMissingError,
    IntegrityError,
    InvalidArgumentError,
    VolumeInUseError,
)
from volcrypt.geometry import SECTOR_BYTES, UNIT_BYTES, format_size

# linux/fs.h
_BLKZEROOUT: Final = 0x127F
_BLKSSZGET: Final = 0x1268
_ZERO_STEP: Final = 256 * 2**20
_LOOK_BYTES: Final = 2**20
_LOOKS: Final = 64
_SHARED_NAMES: Final = {
    "rbd": "a Ceph RBD image",
    "nbd": "a network block device",
    "drbd": "a DRBD device",
}

# What a device says of itself, the first that is there; relative to its directory in /sys.
_SAYINGS: Final = (
    ("dm", "dm/uuid"),
    ("wwid", "wwid"),
    ("wwid", "device/wwid"),
    ("serial", "serial"),
    ("serial", "device/serial"),
    ("md", "md/uuid"),
    ("rbd", "device/image_id"),
    ("loop", "loop/backing_file"),
)
SYSFS: Final = Path("/sys")
_LASTING: Final = (Path("/dev/disk/by-id"), Path("/dev/disk/by-partuuid"))


def is_block_device(path: Path) -> bool:
    """Whether a block device is at `path`, perhaps through links."""
    try:
        return stat.S_ISBLK(path.stat().st_mode)
    except OSError:
        return False


def lasting_name(path: Path) -> Path:
    """A name of this device that it keeps over a boot, where there is one; else `path`."""
    path = Path(os.path.abspath(path))
    if path.is_symlink():
        return path  # /dev/disk/by-*/, /dev/mapper/, /dev/GROUP/VOLUME: somebody chose it
    for directory in _LASTING:
        for link in sorted(directory.glob("*")):
            if os.path.realpath(link) == str(path):
                return link
    return path


def identity_of(path: Path) -> str:
    """What a device says of itself, with the part of it for a partition; empty if nothing."""
    number = path.stat().st_rdev
    directory = (SYSFS / "dev/block" / f"{os.major(number)}:{os.minor(number)}").resolve()
    part = ""
    if (directory / "partition").exists():
        start = (directory / "start").read_text().strip()
        part = f" partition {(directory / 'partition').read_text().strip()} at {start}"
        directory = directory.parent
    for kind, name in _SAYINGS:
        try:
            said = (directory / name).read_text(errors="replace").strip()
        except OSError:
            continue
        if said:
            return f"{kind}:{said}{part}"
    return ""


def shared_kind(path: Path) -> str | None:
    """What a device is, for people, when several hosts can reach it by its nature, or one of those
    that it lies on; None for all that is known to be one host's, and for what nothing is known of.
    """
    number = path.stat().st_rdev
    return _shared_kind_of(SYSFS / "dev" / "block" / f"{os.major(number)}:{os.minor(number)}")


def _shared_kind_of(directory: Path) -> str | None:
    directory = directory.resolve()
    if (directory / "partition").exists():
        directory = directory.parent
    for prefix, kind in _SHARED_NAMES.items():
        if re.fullmatch(rf"{prefix}\d+", directory.name):
            return kind
    parts = directory.parts
    if any(re.fullmatch(r"session\d+", part) for part in parts):
        return "an iSCSI disk"
    if any(part.startswith("rport-") for part in parts):
        return "a Fibre Channel disk"
    # Of an NVMe device of several paths the controllers are below its subsystem.
    device = directory / "device"
    for transport in (device / "transport", *sorted(device.glob("nvme*/transport"))):
        with suppress(OSError):
            if (said := transport.read_text().strip()) not in ("pcie", "apple-nvme"):
                return f"an NVMe disk over {said}"
    for below in sorted(directory.glob("slaves/*")):
        if (kind_below := _shared_kind_of(below)) is not None:
            return f"{kind_below} below {directory.name}"
    return None


def find_device(path: Path, identity: str) -> Path:
    """The device at `path`, without links, which is the one that had this identity.

    Raises DeviceMissingError, IntegrityError.
    """
    real = Path(os.path.realpath(path))
    if not real.exists():
        raise DeviceMissingError(str(path))
    if not is_block_device(real):
        raise IntegrityError(f"{path} is no block device any more")
    found = identity_of(real)
    if identity and found != identity:
        raise IntegrityError(
            f"{path} is another device now: it says {found or 'nothing'!r} of itself, and the "
            f"volume was made on {identity!r}"
        )
    return real


def open_alone(path: Path) -> int:
    """A descriptor to write with, while nobody else has it mounted or claimed.

    Raises VolumeInUseError, InvalidArgumentError when volumes cannot lie on such a device.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_EXCL | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise VolumeInUseError(
                str(path), "the kernel or another program", kind="device"
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise InvalidArgumentError(f"{path} cannot be written to") from error
        raise
    (sector,) = struct.unpack("i", fcntl.ioctl(descriptor, _BLKSSZGET, bytes(4)))
    if sector > UNIT_BYTES:
        os.close(descriptor)
        raise InvalidArgumentError(f"{path} has sectors of {sector} bytes, 4096 is the most")
    return descriptor


def size_of(descriptor: int) -> int:
    return os.lseek(descriptor, 0, os.SEEK_END)


def check_aligned(path: Path) -> None:
    """Raises InvalidArgumentError for a partition whose data units would lie across two blocks of
    the disk below."""
    number = path.stat().st_rdev
    start = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}/start")
    if start.exists() and int(start.read_text()) * SECTOR_BYTES % UNIT_BYTES:
        raise InvalidArgumentError(
            f"{path} begins at sector {start.read_text().strip()} of its disk, which is no "
            "multiple of 4096 bytes"
        )


def signature_on(path: Path, *, table: bool = False) -> str | None:
    """What is on a device by its signature, such as `ext4` or `gpt`; None when there is none. With
    `table` only a partition table counts.

    Raises ComponentMissingError.
    """
    if shutil.which("blkid") is None:
        raise ComponentMissingError("blkid", package="util-linux")
    done = subprocess.run(
        ["blkid", "--probe", "--output", "export", "--", str(path)],
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode == 8 and not table:
        return "several signatures"
    found = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
    return (None if table else found.get("TYPE")) or found.get("PTTYPE")


def find_data(descriptor: int, size_bytes: int) -> int | None:
    """Where the first byte that is not zero was found; None when none was.

    All of the start and the end is looked at, and a bit in many places between.
    """
    step = max(UNIT_BYTES, size_bytes // _LOOKS // UNIT_BYTES * UNIT_BYTES)
    looks = [(0, _LOOK_BYTES), (max(0, size_bytes - _LOOK_BYTES), _LOOK_BYTES)]
    looks += [(offset, UNIT_BYTES) for offset in range(0, size_bytes, step)]
    for offset, length in looks:
        found = read_fully(descriptor, min(length, size_bytes - offset), offset)
        if not is_zero(found):
            return offset + next(index for index, byte in enumerate(found) if byte)
    return None


def zero_out(descriptor: int, start: int, end: int, advance: Callable[[int], None]) -> None:
    """Make a range read zeros, durably: by the device itself where it can, else by writing them.

    Not by discarding, after which a device may read anything.
    """
    for offset in range(start, end, _ZERO_STEP):
        length = min(_ZERO_STEP, end - offset)
        fcntl.ioctl(descriptor, _BLKZEROOUT, struct.pack("QQ", offset, length))
        advance(offset + length - start)
    os.fsync(descriptor)


def check_room(descriptor: int, path: Path, size_bytes: int) -> None:
    """Raises InvalidArgumentError when the device is smaller."""
    if size_of(descriptor) < size_bytes:
        raise InvalidArgumentError(
            f"{path} has {format_size(size_of(descriptor))}, the volume would have "
            f"{format_size(size_bytes)}"
        )
