"""Waiting for the end of a process."""

import os
import select
from typing import Self


class ProcessWatch:
    """Waits for a process that need not be a child of ours (pidfd_open(2))."""

    def __init__(self, pid: int) -> None:
        self._descriptor = os.pidfd_open(pid)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def wait(self, timeout_seconds: float) -> bool:
        return bool(select.select([self._descriptor], [], [], timeout_seconds)[0])
