"""A process that has a file open, and does as it is told: for files of servers that are killed.
Whoever waits for such a one cannot be looked at (`ps` would wait with it), so it is no test's own
process.

    python -m tests.file_user PATH      reads lines of JSON, [call, offset, length or hex, ...], and
                                        answers each by [errno, hex]
"""

import json
import os
import select
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Self

_PATIENCE_SECONDS = 30


class FileUser:
    """The other side. Calls raise OSError as they would here; one that was begun may be left
    unanswered for a while."""

    def __init__(self, path: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.file_user", str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._answers = b""
        self.end()  # it is open

    def begin(self, call: str, offset: int = 0, *, length: int = 0, data: bytes = b"") -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([call, offset, length, data.hex()]).encode() + b"\n")
        self._process.stdin.flush()

    def answers(self) -> int:
        """How many calls were answered of which `end` was not asked."""
        assert self._process.stdout is not None
        while self._is_heard(0) and (piece := os.read(self._process.stdout.fileno(), 2**16)):
            self._answers += piece
        return self._answers.count(b"\n")

    def _is_heard(self, seconds: float) -> bool:
        assert self._process.stdout is not None
        return bool(select.select([self._process.stdout], [], [], seconds)[0])

    def end(self) -> bytes:
        """What the call that was begun first gives."""
        assert self._process.stdout is not None
        while b"\n" not in self._answers:
            assert self._is_heard(_PATIENCE_SECONDS), "it is not answered"
            piece = os.read(self._process.stdout.fileno(), 2**16)
            assert piece, "the process ended"
            self._answers += piece
        line, _, self._answers = self._answers.partition(b"\n")
        number, found = json.loads(line)
        if number:
            raise OSError(number, os.strerror(number))
        return bytes.fromhex(found)

    def read(self, offset: int, length: int) -> bytes:
        self.begin("read", offset, length=length)
        return self.end()

    def write(self, offset: int, data: bytes) -> None:
        self.begin("write", offset, data=data)
        self.end()

    def sync(self) -> None:
        self.begin("sync")
        self.end()

    def close(self) -> None:
        """Kill it; one that waits in the kernel goes when the server or its mount does."""
        self._process.kill()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_PATIENCE_SECONDS)
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            with suppress(OSError):
                stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _do(file: int, call: str, offset: int, length: int, data: bytes) -> bytes:
    if call == "read":
        return os.pread(file, length, offset)
    if call == "write":
        assert os.pwrite(file, data, offset) == len(data)
    elif call == "sync":
        os.fsync(file)
    return b""


def _main() -> None:
    file = os.open(sys.argv[1], os.O_RDWR | os.O_CLOEXEC)
    print(json.dumps([0, ""]), flush=True)
    for line in sys.stdin:
        call, offset, length, data = json.loads(line)
        number, found = 0, b""
        try:
            found = _do(file, call, offset, length, bytes.fromhex(data))
        except OSError as error:
            number = error.errno or -1
        print(json.dumps([number, found.hex()]), flush=True)


if __name__ == "__main__":
    _main()
