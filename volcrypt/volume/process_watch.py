"""Waiting for the end of a process."""

import os
import select
import time
from typing import Final, Self

from volcrypt.volume.owner import start_ticks

_THREADS_SECONDS: Final = 2.0
_STEP_SECONDS: Final = 0.1


class ProcessWatch:
    """Waits for a process that need not be a child of ours (pidfd_open(2)).

    A process that has ended stays as long as the kernel does not let go of one of its threads, as
    of one that waits for a medium that hangs. It does nothing any more, so after two seconds in
    which its other threads had time to go it counts as gone.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._descriptor = os.pidfd_open(pid)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def wait(self, timeout_seconds: float) -> bool:
        """Whether it was gone within this time."""
        deadline = time.monotonic() + timeout_seconds
        step = min(_THREADS_SECONDS, timeout_seconds)
        while True:
            if select.select([self._descriptor], [], [], step)[0]:
                return True
            if start_ticks(self._pid) is None:
                return True
            step = min(_STEP_SECONDS, deadline - time.monotonic())
            if step <= 0:
                return False
