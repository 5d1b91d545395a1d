"""Somebody who makes, links, replaces and removes a file of one name, at any moment, while commands
make theirs; and who tells what became of his own.

As a program: `python intruder.py TARGET VICTIM` does so until its standard input ends, and prints
as JSON what `Seen` has. VICTIM is a file elsewhere, to which its links lead.
"""

import json
import os
import random
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CONTENT = b"another's"
MOST_OPEN = 200


@dataclass
class Seen:
    """`made`: files, links and directories of his. `harmed`: which of them were written to.
    `theirs`: files that others had given the name, and `unfinished` are those that were written to
    afterwards."""

    made: int = 0
    theirs: int = 0
    harmed: list[str] = field(default_factory=list)
    unfinished: list[int] = field(default_factory=list)


class _Intruder:
    def __init__(self, target: str, victim: str) -> None:
        self._target, self._victim = target, victim
        self._own: dict[int, int] = {os.stat(victim).st_ino: os.open(victim, os.O_RDONLY)}
        self._theirs: dict[int, tuple[int, bytes]] = {}
        self.made = 0

    def run(self) -> None:
        print("ready", flush=True)
        pauses = (0.0,) * 8 + (0.002,) * 4 + (0.02,) * 4 + (0.3,)
        while not _is_over(random.choice(pauses)):
            random.choice(
                (self._make, self._link, self._link_hard, self._replace, self._directory)
            )()
            self._look()
            if _is_over(random.choice((0.0, 0.001, 0.01))):
                break
            self._look()
            self._remove()
        self._look()

    def _make(self) -> None:
        with suppress(FileExistsError):
            self._keep(os.open(self._target, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644))

    def _keep(self, descriptor: int) -> None:
        os.write(descriptor, CONTENT)
        if len(self._own) < MOST_OPEN:
            self._own[os.fstat(descriptor).st_ino] = descriptor
        self.made += 1

    def _replace(self) -> None:
        """What is there is his from now on, whosever it was."""
        self._look()
        aside = f"{self._target}.aside"
        self._keep(os.open(aside, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644))
        try:
            os.rename(aside, self._target)
        except IsADirectoryError:
            os.unlink(aside)

    def _link(self) -> None:
        with suppress(FileExistsError):
            os.symlink(self._victim, self._target)
            self.made += 1

    def _link_hard(self) -> None:
        with suppress(FileExistsError):
            os.link(self._victim, self._target)
            self.made += 1

    def _directory(self) -> None:
        with suppress(FileExistsError):
            os.mkdir(self._target)
            self.made += 1

    def _remove(self) -> None:
        with suppress(FileNotFoundError):
            try:
                os.unlink(self._target)
            except IsADirectoryError:
                os.rmdir(self._target)

    def _look(self) -> None:
        try:
            descriptor = os.open(self._target, os.O_RDONLY | os.O_NOFOLLOW)
        except OSError:  # nothing there, or a link
            return
        status = os.fstat(descriptor)
        is_directory = status.st_mode & 0o170000 == 0o040000
        if is_directory or status.st_ino in self._own or status.st_ino in self._theirs:
            os.close(descriptor)
        else:
            self._theirs[status.st_ino] = (descriptor, _content(descriptor))

    def seen(self) -> Seen:
        return Seen(
            made=self.made,
            theirs=len(self._theirs),
            harmed=[
                repr(_content(each)[:40])
                for each in self._own.values()
                if _content(each) != CONTENT
            ],
            unfinished=[
                len(before) for each, before in self._theirs.values() if _content(each) != before
            ],
        )


def _content(descriptor: int) -> bytes:
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0)


def _is_over(seconds: float) -> bool:
    return bool(select.select([0], [], [], seconds)[0])


@contextmanager
def intruding(target: Path, victim: Path) -> Iterator[Seen]:
    """What it tells is there after the context; the name is nobody's then."""
    victim.write_bytes(CONTENT)
    process = subprocess.Popen(
        [sys.executable, __file__, target, victim],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    seen = Seen()
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield seen
    finally:
        out, err = process.communicate("")
    assert process.returncode == 0, err
    told: dict[str, Any] = json.loads(out)
    for name, value in told.items():
        setattr(seen, name, value)


def main() -> None:
    intruder = _Intruder(*sys.argv[1:])
    intruder.run()
    print(json.dumps(vars(intruder.seen())))
    intruder._remove()


if __name__ == "__main__":
    main()
