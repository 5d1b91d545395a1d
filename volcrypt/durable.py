"""Files that survive a power cut: written whole, synced, renamed, directory synced; or not at all.

Readers see the old or the new content, never a part, at any moment and after any crash.
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from volcrypt.errors import MalformedError, NoSpaceError


@contextmanager
def no_space_named(what: Path) -> Iterator[None]:
    """Turn ENOSPC and EDQUOT into NoSpaceError that names where the space ran out."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpaceError(f"no space left for {what}") from error
        raise


def open_regular(path: Path, flags: int, *, mode: int = 0o600) -> int:
    """The descriptor of a regular file. Raises MalformedError for a pipe, a device, a symlink, ...,
    and never waits for one; FileNotFoundError and other OSErrors as they come."""
    flags |= os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        descriptor = os.open(path, flags, mode)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
            raise MalformedError(str(path), "not a regular file") from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise MalformedError(str(path), "not a regular file")
    return descriptor


def read_file(path: Path, *, limit_bytes: int) -> bytes:
    """The content of a regular file of ours, of at most so many bytes.

    Whoever can write to storage can put something else in its place: what never ends (a pipe, a
    device), what leads elsewhere (a symlink), or more than memory holds. Raises MalformedError for
    those, FileNotFoundError and other OSErrors as they come.
    """
    descriptor = open_regular(path, os.O_RDONLY)
    with os.fdopen(descriptor, "rb") as file:
        if os.fstat(descriptor).st_size > limit_bytes:
            raise MalformedError(str(path), f"larger than {limit_bytes} bytes")
        return file.read(limit_bytes)


def sync_directory(path: Path) -> None:
    """Make the entries of a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_durably(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Replace `path` by a file that holds `data`, durably. Raises NoSpaceError.

    One writer at a time per path: the temporary name is fixed, so that a kill leaves at most one
    leftover, which the next write replaces.
    """
    temporary = _temporary(path)
    with no_space_named(path):
        try:
            temporary.unlink(missing_ok=True)
            descriptor = os.open(
                temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, mode
            )
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        sync_directory(path.parent)


def make_directory_durably(path: Path, *, mode: int = 0o700) -> None:
    """Make `path` unless it is there; its entry in the parent is durable afterwards."""
    with no_space_named(path):
        path.mkdir(mode=mode, exist_ok=True)
        sync_directory(path.parent)


def overwrite(path: Path) -> None:
    """Put zeros over the content of `path`, if it is there, durably; its size stays.

    Where the file system writes in place, what was there is gone from the medium as well. Raises
    NoSpaceError where it does not.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return
    try:
        with no_space_named(path):
            overwrite_descriptor(descriptor)
    finally:
        os.close(descriptor)


def overwrite_descriptor(descriptor: int) -> None:
    """The same for a file that is open for writing."""
    left, offset = os.fstat(descriptor).st_size, 0
    while left > 0:
        written = os.pwrite(descriptor, bytes(min(left, 2**20)), offset)
        left, offset = left - written, offset + written
    os.fsync(descriptor)


def remove_durably(path: Path) -> None:
    """Unlink `path` if it is there, with what a killed `write_durably` left of it; afterwards it
    does not come back by a power cut."""
    _temporary(path).unlink(missing_ok=True)
    path.unlink(missing_ok=True)
    sync_directory(path.parent)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.new")


def write_fully(descriptor: int, data: bytes | bytearray | memoryview, offset: int) -> None:
    """All of `data` at `offset`; a short write is continued."""
    view = memoryview(data)
    while view:
        count = os.pwrite(descriptor, view, offset)
        view, offset = view[count:], offset + count
