"""A program on a terminal of its own (a pty), its keys, and what it shows."""

import fcntl
import os
import pty
import re
import select
import struct
import termios
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ENTERS = "\x1b[?1049h"
"""What a program sends that takes the whole screen, ..."""
LEAVES = "\x1b[?1049l"
"""... and gives it back."""
SHOWS_CURSOR = "\x1b[?25h"

_SECONDS = 30.0
_CODE = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")
_HOME = "\x1b[H"


class Terminal:
    """What the program has written so far is `output`."""

    def __init__(self, pid: int, descriptor: int) -> None:
        self.pid = pid
        self.output = ""
        self._descriptor = descriptor
        self._code: int | None = None
        self._seen = 0

    @property
    def screen(self) -> str:
        """The last whole screen that a full-screen program drew, without colours."""
        drawn = self.output.split(_HOME)
        return _CODE.sub("", drawn[-1] if drawn[-1].count("\n") > 2 else drawn[-2])

    @property
    def mode(self) -> list[Any]:
        """How the terminal is set."""
        return termios.tcgetattr(self._descriptor)

    def press(self, keys: str) -> None:
        os.write(self._descriptor, keys.encode())

    def resize(self, *, lines: int, columns: int) -> None:
        fcntl.ioctl(self._descriptor, termios.TIOCSWINSZ, struct.pack("4H", lines, columns, 0, 0))

    def wait_for(self, text: str) -> None:
        """Read until the screen shows `text`."""
        deadline = time.monotonic() + _SECONDS
        while not (_HOME in self.output and text in self.screen):
            assert time.monotonic() < deadline, f"no {text!r} on the screen:\n{self.output[-4000:]}"
            assert self._read(), f"it ended without {text!r}:\n{self.output[-4000:]}"

    def wait_to_read(self, text: str) -> None:
        """The same of anything that it writes, after what was waited for before."""
        deadline = time.monotonic() + _SECONDS
        while text not in _CODE.sub("", self.output)[self._seen :]:
            assert time.monotonic() < deadline, f"no {text!r}:\n{self.output[-4000:]}"
            assert self._read(), f"it ended without {text!r}:\n{self.output[-4000:]}"
        whole = _CODE.sub("", self.output)
        self._seen = whole.index(text, self._seen) + len(text)

    def ends(self) -> int:
        """Its exit code, negative for a signal; reads what comes until then."""
        while self._read():
            pass
        if self._code is None:
            self._code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self._code

    def close(self) -> None:
        if self._code is None:
            os.kill(self.pid, 9)
            os.waitpid(self.pid, 0)
        os.close(self._descriptor)

    def _read(self) -> bool:
        ready, _, _ = select.select([self._descriptor], [], [], _SECONDS)
        assert ready, f"silent:\n{self.output[-4000:]}"
        try:
            data = os.read(self._descriptor, 65536)
        except OSError:  # nobody has the other end any more
            return False
        self.output += data.decode(errors="replace")
        return bool(data)


@contextmanager
def on_terminal(
    arguments: Sequence[str | Path], *, lines: int = 24, columns: int = 120, term: str = "xterm"
) -> Iterator[Terminal]:
    """Run a program; it is killed afterwards if it still runs."""
    size = struct.pack("4H", lines, columns, 0, 0)
    environment = {**os.environ, "TERM": term}
    for name in ("COLUMNS", "LINES"):
        environment.pop(name, None)
    texts = [str(each) for each in arguments]
    pid, descriptor = pty.fork()
    if pid == 0:
        fcntl.ioctl(0, termios.TIOCSWINSZ, size)
        os.execve(texts[0], texts, environment)
    terminal = Terminal(pid, descriptor)
    try:
        yield terminal
    finally:
        terminal.close()
