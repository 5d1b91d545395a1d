"""Files that commands make at the user's word: never in the place of one that is there."""

import ctypes
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from volcrypt.crypto.xts import is_zero
from volcrypt.durable import no_space_named
from volcrypt.errors import InvalidArgumentError, NameTakenError
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
    it is `.NAME.new` beside it, which the next one of that name replaces.
    """
    directory = target.absolute().parent
    temporary: Path | None = None
    with no_space_named(target):
        try:
            descriptor = os.open(directory, os.O_WRONLY | os.O_TMPFILE | os.O_CLOEXEC, 0o600)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
                raise
            temporary = directory / f".{target.name}.new"
            temporary.unlink(missing_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            descriptor = os.open(temporary, flags, 0o600)
        try:
            yield descriptor
            os.fsync(descriptor)
            place = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                if temporary is None:
                    # With a directory named it is linkat, which follows what /proc has of the file.
                    os.link(f"/proc/self/fd/{descriptor}", target.name, dst_dir_fd=place)
                else:
                    _rename_new(place, temporary.name, target.name)
                os.fsync(place)
            except FileExistsError:
                raise NameTakenError("file", os.fspath(target)) from None
            finally:
                os.close(place)
        finally:
            os.close(descriptor)
            if temporary is not None:
                temporary.unlink(missing_ok=True)


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


def _rename_new(directory: int, name: str, new_name: str) -> None:
    """Raises FileExistsError for a new name that is there."""
    old, new = os.fsencode(name), os.fsencode(new_name)
    if _libc.renameat2(directory, old, directory, new, _RENAME_NOREPLACE) == 0:
        return
    code = ctypes.get_errno()
    if code not in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
        raise OSError(code, os.strerror(code), new_name)
    try:
        # NFS has no such rename. A kill leaves the whole file, with two names.
        os.link(name, new_name, src_dir_fd=directory, dst_dir_fd=directory)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
        # Neither has links. Take the name, and then the place: a kill leaves an empty file.
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        os.close(os.open(new_name, flags, 0o600, dir_fd=directory))
        os.rename(name, new_name, src_dir_fd=directory, dst_dir_fd=directory)


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
