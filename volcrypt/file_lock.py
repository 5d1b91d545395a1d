"""Waiting for an flock, but not for ever."""

import fcntl
import os
import time
from pathlib import Path
from typing import Final

_PAUSE_SECONDS: Final = 0.002


def locked_within(descriptor: int, kind: int, patience_seconds: float) -> bool:
    """Whether a lock of this kind (`fcntl.LOCK_SH` or `LOCK_EX`) could be had within this time; it
    is tried once at least."""
    deadline = time.monotonic() + patience_seconds
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(_PAUSE_SECONDS)
        else:
            return True


def is_at(path: Path | str, descriptor: int, *, directory: int | None = None) -> bool:
    """Whether the file that was opened, and locked since, has that name still, in `directory` where
    that is open; no link is followed."""
    try:
        there = os.stat(path, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(there, os.fstat(descriptor))
