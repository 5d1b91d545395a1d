"""The locks of a home's key management state: who may change it now, and who may use it at all.

    HOME/kms/lock       `WriterLock`: one process at a time changes the catalogue and appends to the
                        audit log
    HOME/kms/serving    `held_home`: shared by every process that uses the KMS in process, or held
                        by the one server that all others then go through; it says there who it is

Both are flocks: the kernel lets go of them when their process ends, however it ends.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from volcrypt.durable import open_regular, read_fully, write_fully
from volcrypt.errors import TryAgainError
from volcrypt.file_lock import locked_within

SERVING: Final = "serving"
_MAX_HOLDER_BYTES: Final = 64
PATIENCE_SECONDS: Final = 30.0


class WriterLock:
    """Opened once per process; not reentrant, and one thread at a time by its owner's own lock."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = open_regular(path, os.O_RDWR | os.O_CREAT)

    def close(self) -> None:
        os.close(self._descriptor)

    @contextmanager
    def held(self, *, patience_seconds: float = PATIENCE_SECONDS) -> Iterator[None]:
        """Raises TryAgainError when others hold it for longer than `patience_seconds`."""
        if not locked_within(self._descriptor, fcntl.LOCK_EX, patience_seconds):
            raise TryAgainError(
                f"another process holds {self._path} for more than {patience_seconds:g} s"
            )
        try:
            yield
        finally:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)


@contextmanager
def held_home(
    path: Path, *, exclusive: bool, patience_seconds: float = PATIENCE_SECONDS
) -> Iterator[None]:
    """Hold a home: for this process alone, as its server, or shared with others like it.

    Raises TryAgainError when a server holds it, and for `exclusive` when commands do for longer
    than `patience_seconds`.
    """
    descriptor = open_regular(path, os.O_RDWR | os.O_CREAT)
    try:
        # Shared holders come and go; a server stays, so nobody waits for one.
        is_alone = exclusive and locked_within(descriptor, fcntl.LOCK_EX, 0)
        if not is_alone and not locked_within(descriptor, fcntl.LOCK_SH, 0):
            raise _held_by_server(path, descriptor)
        if (
            exclusive
            and not is_alone
            and not locked_within(descriptor, fcntl.LOCK_EX, patience_seconds)
        ):
            raise TryAgainError(
                f"home {path.parent.parent} is held by other commands for more than "
                f"{patience_seconds:g} s"
            )
        if exclusive:
            write_fully(descriptor, f"volcrypt kms serve (process {os.getpid()})\n".encode(), 0)
        try:
            yield
        finally:
            if exclusive:
                os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def is_served(path: Path) -> bool:
    """Whether a server holds the home at this moment; the lock file is made by the first who does.

    Raises MalformedError for what is no lock file.
    """
    try:
        descriptor = open_regular(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        return not locked_within(descriptor, fcntl.LOCK_SH, 0)
    finally:
        os.close(descriptor)


def _held_by_server(path: Path, descriptor: int) -> TryAgainError:
    # A server that begins holds the lock for a moment before it has written who it is.
    name = read_fully(descriptor, _MAX_HOLDER_BYTES, 0).decode(errors="replace").strip()
    return TryAgainError(
        f"home {path.parent.parent} is held by {name or 'a server that is starting'}",
        hint="use that server, or stop it",
    )
