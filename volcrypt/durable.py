"""Files that survive a power cut: written whole, synced, renamed, directory synced; or not at all.

Readers see the old or the new content, never a part, at any moment and after any crash.
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from volcrypt.errors import MalformedError, NoSpaceError

_MAX_LINKS: Final = 40
"""As the kernel follows."""

OTHERS_LINK: Final = "a link of another user leads there"


@contextmanager
def no_space_named(what: Path) -> Iterator[None]:
    """Turn ENOSPC and EDQUOT into NoSpaceError that names where the space ran out."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpaceError(f"no space left for {what}") from error
        raise


@contextmanager
def held_directory(path: Path, *, follow: bool = False) -> Iterator[int]:
    """A directory, held by a descriptor: what is done by that is done there, whatever becomes of
    the name meanwhile. Raises MalformedError for a symlink, unless `follow` says that it may be one
    (of a user's choice); FileNotFoundError and other OSErrors as they come, with the whole path of
    a file in the directory."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    try:
        descriptor = os.open(path, flags)
    except NotADirectoryError as error:
        if follow:
            raise
        # Not looked at once more: it may be another by now.
        raise MalformedError(str(path), "a link or file in the place of a directory") from error
    try:
        yield descriptor
    except OSError as error:
        if isinstance(error.filename, str) and os.path.dirname(error.filename) == "":
            error.filename = str(path / error.filename)  # a user cannot tell "lock" from another
        raise
    finally:
        os.close(descriptor)


def open_real_directory(path: Path) -> int:
    """An O_PATH descriptor of the directory at an absolute path without links. Raises
    NotADirectoryError for a link anywhere in it, and other OSErrors."""
    flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open("/", flags)
    for part in path.parts[1:]:
        try:
            below = os.open(part, flags, dir_fd=descriptor)
        finally:
            os.close(descriptor)
        descriptor = below
    return descriptor


def canonical(path: Path) -> Path:
    """The path without links. Raises OSErrors as `Path.resolve(strict=True)` does; PermissionError
    for a link that is neither root's nor this user's: whoever may put one there may exchange it for
    one that leads elsewhere at any moment."""
    left = [*reversed(path.absolute().parts[1:])]
    found: list[str] = []
    links = 0
    while left:
        part = left.pop()
        if part == "..":
            del found[-1:]
            continue
        descriptor = os.open(Path("/", *found, part), os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISLNK(status.st_mode):
                found.append(part)
                continue
            if status.st_uid not in (0, os.geteuid()):
                raise PermissionError(errno.EACCES, OTHERS_LINK, str(path))
            target = Path(os.readlink("", dir_fd=descriptor))
        finally:
            os.close(descriptor)
        links += 1
        if links > _MAX_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
        if target.is_absolute():
            found.clear()
        left += reversed([each for each in target.parts if each != "/"])
    return Path("/", *found)


def open_regular(path: Path, flags: int, *, mode: int = 0o600, follow: bool = False) -> int:
    """The descriptor of a regular file. Raises MalformedError for a pipe, a device, a symlink, ...,
    and never waits for one; FileNotFoundError and other OSErrors as they come. Its directory may be
    a symlink only if `follow` says so."""
    flags |= os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        with held_directory(path.parent, follow=follow) as directory:
            descriptor = os.open(path.name, flags, mode, dir_fd=directory)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
            raise MalformedError(str(path), "not a regular file") from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise MalformedError(str(path), "not a regular file")
    return descriptor


def read_file(path: Path, *, limit_bytes: int, follow: bool = False) -> bytes:
    """The content of a regular file of ours, of at most so many bytes.

    Whoever can write to storage can put something else in its place: what never ends (a pipe, a
    device), what leads elsewhere (a symlink), or more than memory holds. Raises MalformedError for
    those, FileNotFoundError and other OSErrors as they come. `follow` as in `open_regular`.
    """
    descriptor = open_regular(path, os.O_RDONLY, follow=follow)
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


def write_durably(path: Path, data: bytes, *, mode: int = 0o600, follow: bool = False) -> None:
    """Replace `path` by a file that holds `data`, durably. Raises NoSpaceError, and MalformedError
    where its directory is a symlink, unless `follow` says that it may be one.

    One writer at a time per path: the temporary name is fixed, so that a kill leaves at most one
    leftover, which the next write replaces.
    """
    temporary = _temporary(path).name
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    with no_space_named(path), held_directory(path.parent, follow=follow) as directory:
        try:
            _unlink(temporary, directory)
            descriptor = os.open(temporary, flags, mode, dir_fd=directory)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path.name, src_dir_fd=directory, dst_dir_fd=directory)
        except OSError:
            _unlink(temporary, directory)
            raise
        os.fsync(directory)


def _unlink(name: str, directory: int) -> None:
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=directory)


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


def remove_durably(path: Path, *, follow: bool = False) -> None:
    """Unlink `path` if it is there, with what a killed `write_durably` left of it; afterwards it
    does not come back by a power cut. Raises MalformedError as `write_durably`."""
    with held_directory(path.parent, follow=follow) as directory:
        _unlink(_temporary(path).name, directory)
        _unlink(path.name, directory)
        os.fsync(directory)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.new")


def read_fully(descriptor: int, length: int, offset: int) -> bytes:
    """`length` bytes from `offset`, fewer where the file ends before; a short read is continued."""
    found = os.pread(descriptor, length, offset)
    if len(found) == length or not found:
        return found
    pieces = [found]
    length, offset = length - len(found), offset + len(found)
    while length and (found := os.pread(descriptor, length, offset)):
        pieces.append(found)
        length, offset = length - len(found), offset + len(found)
    return b"".join(pieces)


def write_fully(descriptor: int, data: bytes | bytearray | memoryview, offset: int) -> None:
    """All of `data` at `offset`; a short write is continued."""
    view = memoryview(data)
    while view:
        count = os.pwrite(descriptor, view, offset)
        view, offset = view[count:], offset + count
