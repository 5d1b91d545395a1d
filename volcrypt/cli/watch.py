"""`status --watch`: the screen of a terminal, its keys, and its end.

A thread looks at the home once a second, since a process that hangs makes a look take long; this
one draws, and hears keys and signals at once. The terminal is given back as it was, however it
ends; Ctrl-Z does nothing, since it would leave the terminal as it is.
"""

import os
import select
import signal
import sys
import termios
import threading
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import click
from rich.console import Console
from rich.live import Live

from volcrypt.cli.watch_frame import frame
from volcrypt.errors import VolcryptError
from volcrypt.operations.live_status import LiveLook, LiveStatus

_INTERVAL_SECONDS: Final = 1.0
_END_SECONDS: Final = 1.0
_REDRAW: Final = signal.SIGWINCH
_ENDS: Final = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


def watch(look: LiveLook) -> int:
    """Show what `look` sees until `q`, Ctrl-C, or a signal; the exit code of the command. Raises
    what the first look raises, and click.UsageError where there is no terminal."""
    console = Console()
    if not sys.stdout.isatty() or console.is_dumb_terminal:
        raise click.UsageError(
            "--watch needs a terminal; elsewhere: while sleep 1; do volcrypt --json status; done"
        )
    first = look.look()  # may ask for the PIN: before the screen is ours
    looker = _Looker(look, first)
    with (
        _signals() as (signals, received),
        _keys() as keys,
        Live(console=console, screen=True, auto_refresh=False) as live,
    ):
        looker.start()
        while True:
            drawn = frame(looker.latest, height=console.size.height, now=time.time())
            live.update(drawn, refresh=True)
            ready, _, _ = select.select([signals, looker.news, *keys], [], [], _INTERVAL_SECONDS)
            if _is_over(ready, signals, received, looker, keys):
                break
    looker.stop()
    if looker.error is not None:
        raise looker.error
    ended_by = received & {signal.SIGTERM, signal.SIGHUP}
    return 128 + min(ended_by) if ended_by else 0


def _is_over(
    ready: list[int], signals: int, received: set[int], looker: "_Looker", keys: list[int]
) -> bool:
    if signals in ready:
        received.update(os.read(signals, 64))
        if received.intersection(_ENDS):
            return True
    if looker.news in ready:
        os.eventfd_read(looker.news)
        if looker.error is not None:
            return True
    return any(_ends(key) for key in keys if key in ready)


def _ends(key: int) -> bool:
    try:
        typed = os.read(key, 64)
        if not typed:
            termios.tcgetattr(key)
    except (OSError, termios.error):
        return True  # the terminal is gone
    return b"q" in typed.lower()


class _Looker:
    """The thread that looks."""

    def __init__(self, look: LiveLook, first: LiveStatus) -> None:
        self.latest = first
        self.error: Exception | None = None
        self.news = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        """Readable when there is something new."""
        self._look = look
        self._stopped = threading.Event()
        # One that hangs with a process does not keep the command from ending.
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join(_END_SECONDS)

    def _run(self) -> None:
        while not self._stopped.wait(_INTERVAL_SECONDS):
            try:
                self.latest = self._look.look()
            except (VolcryptError, OSError) as error:  # the home itself is gone
                self.error = error
            os.eventfd_write(self.news, 1)
            if self.error is not None:
                return


@contextmanager
def _signals() -> Iterator[tuple[int, set[int]]]:
    """A descriptor that reads the numbers of the signals which came, and a set to collect them."""
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    before = {number: signal.signal(number, lambda *_: None) for number in (_REDRAW, *_ENDS)}
    old_wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        yield reader, set()
    finally:
        signal.set_wakeup_fd(old_wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(reader)
        os.close(writer)


@contextmanager
def _keys() -> Iterator[list[int]]:
    """Standard input, where that is a terminal: each key at once, and none shown."""
    if not sys.stdin.isatty():
        yield []
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor)
        mode = termios.tcgetattr(descriptor)
        mode[6][termios.VSUSP] = b"\0"
        mode[6][termios.VMIN] = 0  # Ctrl-C throws away what was typed, also between select and read
        termios.tcsetattr(descriptor, termios.TCSADRAIN, mode)
        yield [descriptor]
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
