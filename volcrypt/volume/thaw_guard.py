"""The process that serves a volume, as the last one that thaws a file system on it.

A file system is frozen for a snapshot by a freezer, a child of the command. Both may be killed at
once, as their cgroup is; so the process that serves the volume, which mostly lives elsewhere, has
the directory, too, and thaws when the command went without a word, or at the deadline. It has the
mount busy for no longer than they.

In a thread: a thaw writes, and that is for this very process to serve.
"""

import os
import select
import threading
import time
from contextlib import suppress
from typing import Final

from volcrypt.volume.freezing import thaw

_LOOK_SECONDS: Final = 0.05
_GIVE_UP_SECONDS: Final = 60.0


class ThawGuard:
    """Of one file system, from before it is frozen."""

    def __init__(self, directory: int, freezer: int, seconds: float) -> None:
        """Takes both descriptors over: of a directory of it, and of the freezer (a pidfd)."""
        self._directory = directory
        self._freezer = freezer
        self._due = time.monotonic() + seconds
        self._is_alone = False
        self._released = threading.Event()
        threading.Thread(target=self._run, daemon=True).start()

    def release(self) -> None:
        """It is thawed, or never was frozen."""
        self._released.set()

    def abandon(self) -> None:
        """Whoever would have said so is gone."""
        self._is_alone = True

    def _run(self) -> None:
        try:
            while not self._released.wait(_LOOK_SECONDS):
                is_due = time.monotonic() >= self._due
                # Once it is gone nobody freezes any more; before, we may be earlier than it.
                is_last = self._is_gone and (is_due or self._is_alone)
                if (is_due or is_last) and self._thaw():
                    return
                if is_last or time.monotonic() >= self._due + _GIVE_UP_SECONDS:
                    return
        finally:
            os.close(self._directory)
            os.close(self._freezer)

    @property
    def _is_gone(self) -> bool:
        return bool(select.select([self._freezer], [], [], 0)[0])

    def _thaw(self) -> bool:
        with suppress(OSError):  # EINVAL when it is not frozen
            thaw(self._directory)
            return True
        return False
