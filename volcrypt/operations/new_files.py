"""Files that commands make at the user's word: never in the place of one that is there."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from volcrypt.durable import no_space_named, sync_directory
from volcrypt.errors import InvalidArgumentError, NameTakenError


def check_new_file(target: Path) -> None:
    """Raises NameTakenError, InvalidArgumentError unless `target` can be made; before a key is
    asked for."""
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
    """A new sparse file of this size, open for writing: durable afterwards, or gone."""
    with (
        no_space_named(target),
        open(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb", 0) as image,
    ):
        try:
            os.ftruncate(image.fileno(), size_bytes)
            yield image.fileno()
            os.fsync(image.fileno())
            sync_directory(target.absolute().parent)
        except BaseException:
            target.unlink()
            raise
