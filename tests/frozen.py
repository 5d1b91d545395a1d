"""Frozen file systems, and who froze them."""

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from volcrypt.volume.freezing import freeze, thaw
from volcrypt.volume.owner import start_ticks

LONG = 600.0


@contextmanager
def opened(directory: Path) -> Iterator[int]:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def is_frozen(directory: Path) -> bool:
    """Asked by freezing it: that is refused where it is frozen already."""
    with opened(directory) as descriptor:
        try:
            freeze(descriptor)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            return True
        thaw(descriptor)
        return False


def wait_until_thawed(directory: Path) -> None:
    while is_frozen(directory):
        time.sleep(0.02)


def wait_until_gone(orphans: list[int]) -> None:
    """Until then they have the file system open."""
    while any(start_ticks(pid) is not None for pid in orphans):
        time.sleep(0.02)


def freezers(parent: int | None = None) -> list[int]:
    """The children of this process, or of another one, that freeze."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            ours = f"\nPPid:\t{parent or os.getpid()}\n" in (path.parent / "status").read_text()
            if ours and b"volcrypt.daemons.freezer" in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


@contextmanager
def frozen_by_another(
    directory: Path, notes: Path | None = None, *, seconds: float = LONG, guard: Path | None = None
) -> Iterator[list[int]]:
    """By a process and its freezer, both of which are stopped; killed together at the end."""
    program = f"""
import time
from pathlib import Path
from volcrypt.operations.freezers import Freeze
where = Path({str(directory)!r})
notes = {None if notes is None else str(notes)!r}
guard = {None if guard is None else str(guard)!r}
with Freeze(
    [where],
    [],
    seconds={seconds},
    notes=notes and Path(notes),
    guards={{where: Path(guard)}} if guard else {{}},
) as still:
    still.freeze()
    print("frozen", flush=True)
    time.sleep(600)
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "frozen\n"
        both = [process.pid, *freezers(process.pid)]
        for pid in both:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield both
        finally:
            for pid in both:
                os.kill(pid, signal.SIGKILL)
    wait_until_gone(both[1:])
