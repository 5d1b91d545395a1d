"""Snapshots of a 16 TiB volume: what they store, and how much memory they take."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.command import VOLCRYPT, Command, disposable_home, kill_and_wait
from tests.file_system import disposable_file_system
from volcrypt.geometry import CHUNK_BYTES

SIZE = 16 * 2**40
LIMIT_KIB = 200_000
"""What a snapshot of any size may take: 200 MB, in the unit of `ru_maxrss`."""


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Command]:
    """On XFS: ext4 holds no file of 16 TiB."""
    with (
        disposable_file_system(tmp_path, kind="xfs", size_bytes=2**30) as made,
        disposable_home(made.directory / "home") as command,
    ):
        command.run("init")
        command.run("volume", "create", "--size", "16TiB", "--name", "big")
        yield command


# A process begins with the peak of the one that it was forked from, so that is to be a small one.
MEASURE = """
import os, sys
pid = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ)
_, status, usage = os.wait4(pid, 0)
print(os.waitstatus_to_exitcode(status), usage.ru_maxrss)
"""


def peak_kib(command: Command, *arguments: str) -> int:
    """Run a command that must succeed; answers the most memory that it had at once."""
    given: list[str | Path] = [
        sys.executable,
        "-c",
        MEASURE,
        VOLCRYPT,
        "--home",
        command.home,
        *arguments,
    ]
    done = subprocess.run(given, check=True, capture_output=True, text=True)
    code, peak = done.stdout.split()[-2:]
    assert code == "0", done.stderr
    return int(peak)


def objects(command: Command) -> dict[str, set[str]]:
    store = command.home / "stores/local"
    return {
        kind: {path.name for path in (store / kind).rglob("*") if path.is_file()}
        for kind in ("chunks", "pages", "manifests")
    }


def new_objects(before: dict[str, set[str]], after: dict[str, set[str]]) -> list[int]:
    return [len(after[kind] - before[kind]) for kind in ("chunks", "pages", "manifests")]


def write(volume: Path, chunks: list[int]) -> None:
    descriptor = os.open(volume, os.O_RDWR)
    try:
        for chunk in chunks:
            os.pwrite(descriptor, os.urandom(4096), chunk * CHUNK_BYTES)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def test_cost_and_memory_follow_what_changed(command: Command, tmp_path: Path) -> None:
    point = tmp_path / "point"
    point.mkdir()
    last = SIZE // CHUNK_BYTES - 1
    chunks = [0, 1, last // 2, last]

    assert peak_kib(command, "snapshot", "create", "big", "--wait") < LIMIT_KIB
    empty = objects(command)
    assert new_objects({kind: set() for kind in empty}, empty) == [0, 0, 1]
    assert peak_kib(command, "snapshot", "create", "big", "--wait") < LIMIT_KIB
    unchanged = objects(command)
    assert new_objects(empty, unchanged) == [0, 0, 1]

    command.run("mount", "big", point)
    write(point / "volume", chunks)
    assert peak_kib(command, "snapshot", "create", "big", "--wait", "--name", "few") < LIMIT_KIB
    few = objects(command)
    assert new_objects(unchanged, few) == [4, 3 + 1, 1]  # three pages, one table
    write(point / "volume", [last])
    assert peak_kib(command, "snapshot", "create", "big", "--wait", "--name", "one") < LIMIT_KIB
    assert new_objects(few, objects(command)) == [1, 1 + 1, 1]
    serving = command.processes()
    command.run("unmount", point)
    for pid in serving:  # it may still be ending, and keep the file system
        kill_and_wait(pid)

    command.run("snapshot", "verify")
