"""The Nth call of a program that changes what is stored: it ends the process there, or fails.

What SQLite and the object stores of other languages call themselves is not seen, but for SQLite's
commits; strace sees that as well (`crash/kills.py`), at ten times the cost.
"""

import os
import signal
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

TROUBLE = "VOLCRYPT_TESTS_TROUBLE"
"""A variable of the environment: what befalls a forked command."""

NAMES = (
    "write",
    "pwrite",
    "pwritev",
    "ftruncate",
    "truncate",
    "posix_fallocate",
    "fsync",
    "fdatasync",
    "rename",
    "replace",
    "link",
    "unlink",
    "remove",
    "mkdir",
    "rmdir",
)


class _Countdown:
    """Calls `now` at the `number`th turn, and only then."""

    def __init__(self, number: int, now: Callable[[], None]) -> None:
        self.left = number
        self._now = now
        self._lock = threading.Lock()

    def turn(self) -> None:
        with self._lock:
            self.left -= 1
            is_now = self.left == 0
        if is_now:
            self._now()


def _counted(call: Callable[..., Any], countdown: _Countdown) -> Callable[..., Any]:
    def counted(*arguments: Any, **named: Any) -> Any:
        countdown.turn()
        return call(*arguments, **named)

    return counted


def _connecting(countdown: _Countdown) -> Callable[..., sqlite3.Connection]:
    connect = sqlite3.connect

    class Connection(sqlite3.Connection):
        def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
            if sql == "COMMIT":
                countdown.turn()
            return super().execute(sql, *values)

    return lambda *arguments, **named: connect(*arguments, factory=Connection, **named)


def trouble_at(number: int, code: int | None, note: Path) -> str:
    """What `TROUBLE` says when the `number`th call is to fail with errno `code`, once, or when it
    is to be the end (SIGKILL). That it came to that is seen by the file `note`."""
    return f"{number} {code or 0} {note}"


def meet_trouble(what: str) -> None:
    """In this process; the commits of SQLite are counted too, where it is to be the end."""
    number, code, note = what.split(" ", 2)

    def now() -> None:
        Path(note).touch()
        if code == "0":
            os.kill(os.getpid(), signal.SIGKILL)
        raise OSError(int(code), os.strerror(int(code)))

    countdown = _Countdown(int(number), now)
    for name in NAMES:
        setattr(os, name, _counted(getattr(os, name), countdown))
    if code == "0":
        sqlite3.connect = _connecting(countdown)  # type: ignore[assignment]
