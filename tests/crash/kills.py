"""Killing a command at its Nth system call of those that change what is on disk."""

import re
import shutil
import subprocess
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tests.command import Command

AnyPoint = TypeVar("AnyPoint")

CALLS = (
    "write,pwrite64,pwritev,ftruncate,fallocate,fsync,fdatasync,syncfs,rename,renameat,renameat2,"
    "link,linkat,unlink,unlinkat,mkdir,mkdirat,rmdir"
)
"""Calls after which something else may be found on disk."""


@dataclass(frozen=True, slots=True)
class Point:
    """Before the `number`th time that a thread of the command makes system call `call`."""

    call: str
    number: int


def points_of(command: Command, *arguments: str, log: Path) -> list[Point]:
    """All points at which a command can be killed; runs it once, to its end.

    strace counts each call of each thread by itself, so the busiest thread says how far it goes.
    """
    done = command.try_run(
        *arguments, prefix=("strace", "-f", "-o", str(log), "-e", f"trace={CALLS}")
    )
    assert done.returncode == 0, done.stderr
    calls = re.findall(rf"^(\d+) +({CALLS.replace(',', '|')})\(", log.read_text(), re.MULTILINE)
    most: dict[str, int] = {}
    for (_thread, call), count in Counter(calls).items():
        most[call] = max(most.get(call, 0), count)
    return [Point(call, number) for call in most for number in range(1, most[call] + 1)]


def points_in_order(command: Command, *arguments: str, log: Path) -> list[Point]:
    """The points of the command's busiest thread, in the order in which it comes to them; runs it
    once, to its end."""
    points_of(command, *arguments, log=log)
    calls = re.findall(rf"^(\d+) +({CALLS.replace(',', '|')})\(", log.read_text(), re.MULTILINE)
    ((busiest, _),) = Counter(thread for thread, _ in calls).most_common(1)
    seen: Counter[str] = Counter()
    points = []
    for thread, call in calls:
        if thread == busiest:
            seen[call] += 1
            points.append(Point(call, seen[call]))
    return points


def run_killed(
    command: Command, point: Point, *arguments: str
) -> "subprocess.CompletedProcess[str]":
    """Run a command, and kill (SIGKILL) it, or what it began and left, at a point."""
    inject = f"inject={point.call}:signal=KILL:when={point.number}"
    return command.try_run(
        *arguments,
        prefix=("strace", "-f", "-o", "/dev/null", "-e", f"trace={point.call}", "-e", inject),
    )


def kill_at(command: Command, point: Point, *arguments: str) -> bool:
    """Run a command and kill it (SIGKILL) at a point; False when it did not come to it."""
    done = run_killed(command, point, *arguments)
    killed = done.returncode in (-9, 137)
    assert killed or done.returncode == 0, f"{point}: {done.returncode} {done.stderr}"
    return killed


def spread(points: list[AnyPoint], count: int) -> list[AnyPoint]:
    """`count` of the points, evenly spread, with both ends."""
    if len(points) <= count:
        return points
    return [points[round(step * (len(points) - 1) / (count - 1))] for step in range(count)]


class Checkpoint:
    """A home as it was, to begin again from. It comes back at the same path: records hold paths."""

    def __init__(self, command: Command, directory: Path) -> None:
        self._command = command
        self._copy = directory / "checkpoint"
        shutil.copytree(command.home, self._copy, symlinks=True)

    def restore(self) -> None:
        shutil.rmtree(self._command.home)
        shutil.rmtree(self._command.runtime, ignore_errors=True)
        # cp keeps holes; a data file would be all data otherwise.
        subprocess.run(["cp", "-a", "--sparse=always", self._copy, self._command.home], check=True)
