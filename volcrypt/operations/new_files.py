"""Files that commands make at the user's word: never in the place of one that is there."""

import ctypes
import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from volcrypt.crypto.xts import is_zero
from volcrypt.durable import held_directory, no_space_named
from volcrypt.errors import InvalidArgumentError, NameTakenError
from volcrypt.file_lock import is_at, locked_within
from volcrypt.geometry import UNIT_BYTES, format_size

_libc: Final = ctypes.CDLL(None, use_errno=True)
_RENAME_NOREPLACE: Final = 1


def check_new_file(target: Path) -> None:
    """Raises NameTakenError, InvalidArgumentError unless `target` can be made; before a key is
    asked for."""
    if target.is_block_device():
        raise InvalidArgumentError(
            f"{target} is a block device, and only new files are written",
            hint="attach the volume, and copy /dev/volcrypt/NAME",
        )
    if os.path.lexists(target):
        raise NameTakenError("file", os.fspath(target))
    if not target.absolute().parent.is_dir():
        raise InvalidArgumentError(f"{target.parent} is not a directory")


@contextmanager
def new_file(target: Path) -> Iterator[int]:
    """A new file, open for writing, readable by its owner alone: it appears whole and durable when
    the block ends, or not at all. Raises NameTakenError when `target` was made meanwhile.

    Until then it has no name, where the file system can do that: a kill leaves nothing of it. Else
    it is `.NAME.new` beside it, locked, which the next one of that name replaces. It appears in the
    directory that had its name at the beginning, whatever has that name by then.
    """
    parent = target.absolute().parent
    with no_space_named(target), held_directory(parent, follow=True) as directory:
        temporary = None
        try:
            descriptor = os.open(
                ".", os.O_WRONLY | os.O_TMPFILE | os.O_CLOEXEC, 0o600, dir_fd=directory
            )
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
                raise
            temporary = f".{target.name}.new"
            descriptor = _locked_file(directory, temporary, parent)
        try:
            yield descriptor
            os.fsync(descriptor)
            try:
                _give_name(directory, descriptor, temporary, target.name)
            except FileExistsError:
                raise NameTakenError("file", os.fspath(target)) from None
            except FileNotFoundError as error:  # the directory was removed, or the file
                raise FileNotFoundError(error.errno, error.strerror, str(target)) from None
            os.fsync(directory)
        finally:
            if temporary is not None:
                _remove_name(directory, temporary, descriptor)
            os.close(descriptor)


def _locked_file(directory: int, name: str, place: Path) -> int:
    """A new file that nobody else takes for one that a kill left. Raises NameTakenError where
    another command has it, and for what is no file."""
    new = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    while True:
        with suppress(FileExistsError):
            descriptor = os.open(name, new, 0o600, dir_fd=directory)
            # Whoever came between these lines removes it, and makes his own.
            if locked_within(descriptor, fcntl.LOCK_EX, 0) and is_at(
                name, descriptor, directory=directory
            ):
                return descriptor
            os.close(descriptor)
        if not _remove_left(directory, name):
            raise NameTakenError("file", os.fspath(place / name))


def _remove_left(directory: int, name: str) -> bool:
    """What a kill left under the name is gone; False where it is no file, or is being written."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(name, flags, dir_fd=directory)
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):  # a link, a socket
            return False
        raise
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return False
        if not locked_within(descriptor, fcntl.LOCK_EX, 0):
            return False
        _remove_name(directory, name, descriptor)
        return True
    finally:
        os.close(descriptor)


def _remove_name(directory: int, name: str, descriptor: int) -> None:
    """Unless another file has it."""
    if is_at(name, descriptor, directory=directory):
        os.unlink(name, dir_fd=directory)


@contextmanager
def new_image(target: Path, size_bytes: int) -> Iterator[int]:
    """`new_file`, sparse, of this size. Raises InvalidArgumentError for one that is too large for
    the file system."""
    with new_file(target) as descriptor:
        try:
            os.ftruncate(descriptor, size_bytes)
        except OSError as error:
            if error.errno != errno.EFBIG:
                raise
            size = format_size(size_bytes)
            raise InvalidArgumentError(
                f"{target} would have {size}, and its file system takes no file of that size"
            ) from error
        yield descriptor


def _give_name(directory: int, descriptor: int, name: str | None, new_name: str) -> None:
    """Have the file called so; `name` is what it is called now. Raises FileExistsError."""
    try:
        # What /proc has of it is followed: so it is this file, whatever `name` is by now. A kill
        # leaves the whole file, with two names.
        os.link(f"/proc/self/fd/{descriptor}", new_name, dst_dir_fd=directory)
    except OSError as error:
        if name is None or error.errno not in (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
        if not is_at(name, descriptor, directory=directory):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)) from None
        _rename_new(directory, name, new_name)
    else:
        if name is not None:
            _remove_name(directory, name, descriptor)


def _rename_new(directory: int, name: str, new_name: str) -> None:
    """Raises FileExistsError for a new name that is there."""
    old, new = os.fsencode(name), os.fsencode(new_name)
    if _libc.renameat2(directory, old, directory, new, _RENAME_NOREPLACE) == 0:
        return
    code = ctypes.get_errno()
    if code not in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
        raise OSError(code, os.strerror(code), new_name)
    # Neither links nor such a rename. Take the name, and then the place: a kill leaves an empty
    # file.
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    taken = os.open(new_name, flags, 0o600, dir_fd=directory)
    try:
        if not is_at(new_name, taken, directory=directory):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), new_name)
        os.rename(name, new_name, src_dir_fd=directory, dst_dir_fd=directory)
    finally:
        os.close(taken)


def data_runs(data: memoryview) -> Iterator[tuple[int, int]]:
    """Start and end of the runs of data units that are not all zeros."""
    start = None
    for at in range(0, len(data), UNIT_BYTES):
        if not is_zero(data[at : at + UNIT_BYTES]):
            start = at if start is None else start
        elif start is not None:
            yield start, at
            start = None
    if start is not None:
        yield start, len(data)
