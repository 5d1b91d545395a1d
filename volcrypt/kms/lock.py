"""The home's writer lock: one process at a time changes the catalogue and appends to the audit log.

An flock on HOME/kms/lock: the kernel lets go of it when its process ends, however it ends.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from volcrypt.errors import TryAgainError

PATIENCE_SECONDS: Final = 30.0
_PAUSE_SECONDS: Final = 0.002


class WriterLock:
    """Opened once per process; not reentrant, and one thread at a time by its owner's own lock."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def close(self) -> None:
        os.close(self._descriptor)

    @contextmanager
    def held(self, *, patience_seconds: float = PATIENCE_SECONDS) -> Iterator[None]:
        """Raises TryAgainError when others hold it for longer than `patience_seconds`."""
        deadline = time.monotonic() + patience_seconds
        while True:
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise TryAgainError(
                        f"another process holds {self._path} for more than {patience_seconds:g} s"
                    ) from None
                time.sleep(_PAUSE_SECONDS)
        try:
            yield
        finally:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
