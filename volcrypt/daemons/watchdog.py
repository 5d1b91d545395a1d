"""Telling systemd that a volume still answers: a read through its mount, again and again.

With WatchdogSec= systemd ends a process that was not heard of for so long, and starts it anew. What
is read goes the way of every request: kernel, data plane, cipher. An error is an answer: a fenced
volume, or one whose disk is broken, is not mended by a new process.
"""

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Final

import trio

from volcrypt.daemons.notify import notify
from volcrypt.errors import MountError
from volcrypt.volume.thread_start import in_thread

_READS_PER_PERIOD: Final = 3
_PATIENCE_SECONDS: Final = 10
_MICROSECONDS: Final = 1e6


def watchdog_seconds() -> float | None:
    """How long systemd waits for a sign of life, as sd_watchdog_enabled(3); None for ever.

    WATCHDOG_PID is not looked at: it is the command's that started this process and made it the
    main one.
    """
    given = os.environ.get("WATCHDOG_USEC", "")
    if not os.environ.get("NOTIFY_SOCKET") or not given.isdigit() or int(given) == 0:
        return None
    return int(given) / _MICROSECONDS


class Watchdog:
    """Reads by `read`, a blocking function, and tells systemd of each that came back."""

    def __init__(self, read: Callable[[], None]) -> None:
        self._read = read
        self._reading = trio.Lock()

    async def run(self) -> None:
        """Until it is cancelled; at once when systemd does not wait for it."""
        period = watchdog_seconds()
        if period is None:
            return
        while True:
            async with self._reading:
                with suppress(OSError, MountError):
                    # A read that never returns must not keep the process from ending.
                    await in_thread(self._read, abandon_on_cancel=True)
                notify("WATCHDOG=1")
            await trio.sleep(period / _READS_PER_PERIOD)

    @asynccontextmanager
    async def paused(self) -> AsyncIterator[None]:
        """With no read under way, which would keep the mount busy; unless one does not return."""
        with trio.move_on_after(_PATIENCE_SECONDS) as patience:
            await self._reading.acquire()
        try:
            yield
        finally:
            if not patience.cancelled_caught:
                self._reading.release()
