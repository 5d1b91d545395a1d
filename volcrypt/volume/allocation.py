"""The room that the data of a volume lies in: what is at a path, how long it is, making it longer,
giving parts of it back.

It knows files and block devices by their paths; `datafile` reads and writes what is in them.
"""

import ctypes
import errno
import os
import shlex
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

from volcrypt.durable import held_directory, no_space_named
from volcrypt.errors import (
    IntegrityError,
    InvalidArgumentError,
    NoSpaceError,
    PrivilegeError,
    RecordMissingError,
    VolumeInUseError,
)
from volcrypt.geometry import UNIT_BYTES, format_size
from volcrypt.names import is_volume_id
from volcrypt.volume.block_device import check_room, zero_out

UNSUPPORTED: Final = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.ENODEV})
"""What those say who cannot deallocate."""

# linux/falloc.h
_KEEP_SIZE: Final = 1
_PUNCH_HOLE: Final = 2
_ZERO_RANGE: Final = 16

# linux/fs.h
_SYNC_WRITE: Final = 2

_libc: Final = ctypes.CDLL(None, use_errno=True)


def deallocate(descriptor: int, offset: int, length: int, *, keeps_room: bool) -> None:
    """Make a range of an open file or block device read zeros, and give its room back, or keep it
    for what is written there next. Not durable before a sync.

    Raises OSError as the kernel reports it, with EOPNOTSUPP where that cannot be done.
    """
    mode = _KEEP_SIZE | (_ZERO_RANGE if keeps_room else _PUNCH_HOLE)
    while _libc.fallocate64(descriptor, mode, ctypes.c_int64(offset), ctypes.c_int64(length)):
        number = ctypes.get_errno()
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number))


def begin_write_back(descriptor: int, offset: int, length: int) -> None:
    """Have the kernel begin to write out a range of an open file or block device, and do not wait:
    the next sync finds less to do. It promises nothing, and no error is lost to that sync."""
    _libc.sync_file_range(
        descriptor, ctypes.c_int64(offset), ctypes.c_int64(length), ctypes.c_uint(_SYNC_WRITE)
    )


def can_deallocate(path: Path) -> bool:
    """Whether room of a data file can be given back; asked without changing anything. Of a block
    device only its use tells."""
    descriptor, is_device = open_data(path, os.O_RDWR)
    try:
        if not is_device:
            deallocate(
                descriptor, os.lseek(descriptor, 0, os.SEEK_END), UNIT_BYTES, keeps_room=False
            )
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        return False
    finally:
        os.close(descriptor)
    return True


def reserve(descriptor: int, path: Path, start: int, end: int) -> None:
    """Take room from `start` to `end` of an open file, so that no write there meets a full disk.
    It reads zeros, and counts as a hole until it is written: `SEEK_DATA` passes over it.

    Raises NoSpaceError. Where a file system cannot do it, zeros are written.
    """
    space = os.fstatvfs(descriptor)
    free_bytes = space.f_bavail * space.f_frsize
    if free_bytes < end - start:
        raise NoSpaceError(
            f"{path} needs {format_size(end - start)} at once, {format_size(free_bytes)} are free"
        )
    with no_space_named(path):
        os.posix_fallocate(descriptor, start, end - start)


def has_data(path: Path) -> bool:
    """Whether anything was ever written to a file. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        os.lseek(descriptor, 0, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return False
        raise
    finally:
        os.close(descriptor)
    return True


def extend(path: Path, size_bytes: int, new_bytes: int, *, preallocate: bool = False) -> None:
    """Make the data file of a volume of `size_bytes` one of `new_bytes`, durably; what is new is
    holes. It may be in use. On a block device what is new is zeroed instead.

    What lies behind the volume's end (another growth that came no further) is cut off first, so
    nothing old comes to light. Raises as `DataFile.open`, NoSpaceError, and InvalidArgumentError
    when the file system cannot hold so large a file; then the file is as it was.
    """
    descriptor, is_device = open_data(path, os.O_RDWR)
    try:
        check_length(descriptor, path, size_bytes)
        if is_device:
            check_room(descriptor, path, new_bytes)
            zero_out(descriptor, size_bytes, new_bytes, lambda _: None)
            os.close(descriptor)
            return
    except BaseException:
        os.close(descriptor)
        raise
    try:
        with no_space_named(path):
            os.ftruncate(descriptor, size_bytes)
            os.ftruncate(descriptor, new_bytes)
            if preallocate:
                reserve(descriptor, path, size_bytes, new_bytes)
            os.fsync(descriptor)
    except BaseException as error:
        with suppress(OSError):
            os.ftruncate(descriptor, size_bytes)
        if isinstance(error, OSError) and error.errno in (errno.EFBIG, errno.EINVAL):
            raise too_large(path, new_bytes) from error
        raise
    finally:
        os.close(descriptor)


def open_data(path: Path, flags: int) -> tuple[int, bool]:
    """A descriptor, and whether it is of a block device."""
    try:
        # Not through a link: who can write to storage could lead us, with a key, elsewhere. That
        # goes for the directory as well where it is a volume's own, not one that a user named.
        with held_directory(path.parent, follow=not is_volume_id(path.parent.name)) as place:
            kind = os.lstat(path.name, dir_fd=place).st_mode
            if stat.S_ISLNK(kind):
                raise IntegrityError(f"data file {path} is a link, it was put in its place")
            if not (stat.S_ISREG(kind) or stat.S_ISBLK(kind)):
                raise InvalidArgumentError(f"{path} is neither a file nor a block device")
            flags |= os.O_CLOEXEC | os.O_NOFOLLOW
            return os.open(path.name, flags, dir_fd=place), stat.S_ISBLK(kind)
    except FileNotFoundError as error:
        raise RecordMissingError(
            f"data file {path}",
            hint="mount what it lies on, or put it back; when it is lost: 'volcrypt volume "
            "delete', and 'volcrypt volume create --snapshot-id' of its last snapshot",
        ) from error
    except PermissionError as error:
        raise PrivilegeError(f"no permission to open {path}") from error
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise VolumeInUseError(
                str(path), "the kernel or another program", kind="device"
            ) from error
        raise


def check_length(descriptor: int, path: Path, size_bytes: int) -> None:
    present_bytes = os.lseek(descriptor, 0, os.SEEK_END)
    if present_bytes < size_bytes:
        raise IntegrityError(
            f"data file {path} has {present_bytes} bytes, the volume's record says {size_bytes}",
            hint="its end is lost: put the file back from a copy, or make a volume of a snapshot; "
            f"'truncate -s {size_bytes} {shlex.quote(str(path))}' opens what is left, with "
            "damage in place of the end",
        )


def too_large(path: Path, size_bytes: int) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"the file system of {path} cannot hold a file of {size_bytes} bytes"
    )
