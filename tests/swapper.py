"""A hand on the storage that exchanges a name with a link while others work; and who sees whether
what the link leads to was touched."""

import ctypes
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_PROGRAM: Final = """
import ctypes, os, random, select, sys, time
libc = ctypes.CDLL(None, use_errno=True)
one, other = map(os.fsencode, sys.argv[1:])
AT_FDCWD, EXCHANGE = -100, 2
target = os.readlink(other)

def put_back():
    if not os.path.islink(other):  # so the link was taken
        os.rename(other, one)
        os.symlink(target, other)
    os.close(os.open(one, os.O_WRONLY | os.O_CREAT, 0o600))

done = 0
print("ready", flush=True)
while not select.select([0], [], [], 0)[0]:
    for _ in range(2):  # as it was, in the end
        while libc.renameat2(AT_FDCWD, one, AT_FDCWD, other, EXCHANGE):
            error = ctypes.get_errno()
            if error == 2:  # whoever works takes files away, too
                put_back()
                continue
            if error != 16:  # a mount point is not renamed
                sys.exit(os.strerror(error))
            if select.select([0], [], [], 0.001)[0]:
                break
        done += 1
        time.sleep(random.random() * 0.0005)
print(done)
"""

_EVENT: Final = struct.Struct("iIII")
_ALL: Final = 0xFFF
"""inotify(7): whatever can be done to a file."""


@contextmanager
def swapping(place: Path, link: Path) -> Iterator[None]:
    """Exchange the two names all the time, and leave them as they were."""
    process = subprocess.Popen(
        [sys.executable, "-S", "-c", _PROGRAM, place, link],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "ready\n"
        yield
    finally:
        out, err = process.communicate("")
    assert process.returncode == 0, err
    assert int(out) > 0


class Watched:
    """A directory outside, and what became of it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        assert self._descriptor >= 0
        for each in (directory, *(p for p in directory.rglob("*") if p.is_dir())):
            assert self._libc.inotify_add_watch(self._descriptor, os.fsencode(each), _ALL) >= 0

    def events(self) -> set[str]:
        """Names in it that were read, written, made, removed, or had their mode changed, since the
        last call; `.` is the directory itself."""
        found: set[str] = set()
        while True:
            try:
                data = os.read(self._descriptor, 2**16)
            except BlockingIOError:
                return found
            at = 0
            while at < len(data):
                _, mask, _, length = _EVENT.unpack_from(data, at)
                name = data[at + _EVENT.size : at + _EVENT.size + length].rstrip(b"\0").decode()
                found.add(f"{name or '.'} {mask:#x}")
                at += _EVENT.size + length

    def close(self) -> None:
        os.close(self._descriptor)


@contextmanager
def watched(directory: Path) -> Iterator[Watched]:
    found = Watched(directory)
    try:
        yield found
    finally:
        found.close()
