"""Files that commands make at the user's word: never in the place of one that is there."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from volcrypt.crypto.xts import is_zero
from volcrypt.durable import no_space_named, sync_directory
from volcrypt.errors import InvalidArgumentError, NameTakenError
from volcrypt.geometry import UNIT_BYTES


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


def put_in_place(temporary: Path, target: Path) -> None:
    """A link, unlike a rename, never replaces what somebody made meanwhile."""
    try:
        os.link(temporary, target)
    except FileExistsError:
        raise NameTakenError("file", os.fspath(target)) from None
    temporary.unlink()
    sync_directory(target.absolute().parent)


@contextmanager
def new_image(target: Path, size_bytes: int) -> Iterator[int]:
    """A new sparse file of this size, open for writing, readable by its owner alone: it appears
    whole and durable when the block ends, or not at all.

    Until then it has no name, where the file system can do that: a kill leaves no plaintext. Else
    it is `.NAME.new` beside it, as for all that is put in place.
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
            os.ftruncate(descriptor, size_bytes)
            yield descriptor
            os.fsync(descriptor)
            if temporary is not None:
                put_in_place(temporary, target)
            else:
                _give_name(descriptor, target)
        finally:
            os.close(descriptor)
            if temporary is not None:
                temporary.unlink(missing_ok=True)


def _give_name(descriptor: int, target: Path) -> None:
    directory = target.absolute().parent
    place = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # With a directory named it is linkat, which follows what /proc has of the file.
        os.link(f"/proc/self/fd/{descriptor}", target.name, dst_dir_fd=place)
        os.fsync(place)
    except FileExistsError:
        raise NameTakenError("file", os.fspath(target)) from None
    finally:
        os.close(place)


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
