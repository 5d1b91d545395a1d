"""`snapshot create`, `snapshot copy` and `snapshot delete` killed at steps along their way."""

import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.command import VOLCRYPT, Command, disposable_home
from tests.crash.kills import Checkpoint, kill_at, points_of, run_killed, spread

SIZE = 8 * 2**20
QUICK_POINTS = 5


@pytest.fixture
def prepared(tmp_path: Path) -> Iterator[Command]:
    """A home with an encrypted volume `data` and a snapshot `first`, changed since."""
    with disposable_home(tmp_path / "home") as command:
        command.run("init")
        (tmp_path / "image").write_bytes(os.urandom(SIZE))
        command.run("volume", "import", tmp_path / "image", "--name", "data")
        command.run("snapshot", "create", "--wait", "data", "--name", "first")
        change(command, tmp_path, 3 * 2**20)
        yield command


def change(command: Command, tmp_path: Path, offset: int) -> None:
    """Write through a mount, so that the change map has something to say."""
    point = tmp_path / "mnt"
    point.mkdir(exist_ok=True)
    command.run("mount", "data", point)
    with open(point / "volume", "r+b") as file:
        file.seek(offset)
        file.write(os.urandom(4096))
        os.fsync(file.fileno())
    command.run("unmount", "data")


def content_of(command: Command, tmp_path: Path, *export: str) -> bytes:
    target = tmp_path / "content"
    target.unlink(missing_ok=True)
    command.run(*export, target)
    return target.read_bytes()


def check_snapshot(command: Command, tmp_path: Path, name: str) -> None:
    """The snapshot is what the volume is, and everything in the store is sound."""
    volume = command.run("volume", "create", "--snapshot-id", name)
    assert content_of(command, tmp_path, "volume", "export", "--yes", volume) == content_of(
        command, tmp_path, "volume", "export", "--yes", "data"
    )
    command.run("volume", "delete", volume)
    assert command.json("snapshot", "verify")["Damages"] == []


@pytest.mark.parametrize("points", [QUICK_POINTS, pytest.param(10**6, marks=pytest.mark.soak)])
def test_a_killed_snapshot_is_made_by_the_next_call(
    prepared: Command, tmp_path: Path, points: int
) -> None:
    command = prepared
    checkpoint = Checkpoint(command, tmp_path)
    found = points_of(
        command, "snapshot", "create", "--wait", "data", "--name", "next", log=tmp_path / "log"
    )
    full_root = command.json("snapshot", "show", "next")["Root"]
    for point in spread(found, points):
        checkpoint.restore()
        kill_at(command, point, "snapshot", "create", "--wait", "data", "--name", "next")
        done = command.try_run("snapshot", "create", "--wait", "data", "--name", "next")
        # The kill may have come after the commit: then the name is taken by what it named.
        assert done.returncode == 0 or "named next exists already" in done.stderr, done.stderr
        # Whatever became of the change map: what is stored is what reading all would store.
        assert command.json("snapshot", "show", "next")["Root"] == full_root
        check_snapshot(command, tmp_path, "next")


@pytest.mark.parametrize("points", [QUICK_POINTS, pytest.param(10**6, marks=pytest.mark.soak)])
@pytest.mark.parametrize("wait", [("--wait",), ()])
def test_a_killed_copy_is_continued(
    prepared: Command, tmp_path: Path, wait: tuple[str, ...], points: int
) -> None:
    """By the command itself, or by its worker: strace follows both, and ends when both have."""
    command = prepared
    key = command.json("kms", "create-key")["KeyMetadata"]["KeyId"]
    copy = ("snapshot", "copy", "first", "--kms-key-id", key, "--name", "copied")
    checkpoint = Checkpoint(command, tmp_path)
    for point in spread(points_of(command, *copy, *wait, log=tmp_path / "log"), points):
        checkpoint.restore()
        killed = run_killed(command, point, *copy, *wait)
        begun = killed.stdout.strip()
        rows = {row["SnapshotId"]: row for row in command.json("snapshot", "list")["Snapshots"]}
        assert begun == "" or rows[begun]["State"] in ("error", "completed"), point
        work = list((command.home / "work").glob("snap-*"))
        done = command.try_run(*copy, "--wait")
        assert done.returncode == 0 or "named copied exists already" in done.stderr, done.stderr
        if begun:
            assert done.returncode != 0 or done.stdout.strip() == begun, point
        elif work and done.returncode == 0:
            assert work[0].name.startswith(done.stdout.strip()), point
        rows = {row["SnapshotId"]: row for row in command.json("snapshot", "list")["Snapshots"]}
        assert [row["State"] for row in rows.values()] == ["completed"] * 2, point
        assert list((command.home / "work").iterdir()) == []
        assert command.json("snapshot", "verify")["Damages"] == []


@pytest.mark.parametrize("points", [QUICK_POINTS, pytest.param(10**6, marks=pytest.mark.soak)])
def test_a_killed_deletion_is_finished(prepared: Command, tmp_path: Path, points: int) -> None:
    command = prepared
    command.run("snapshot", "create", "--wait", "data", "--name", "next")
    checkpoint = Checkpoint(command, tmp_path)
    found = points_of(command, "snapshot", "delete", "first", log=tmp_path / "log")
    for point in spread(found, points):
        checkpoint.restore()
        kill_at(command, point, "snapshot", "delete", "first")
        done = command.try_run("snapshot", "delete", "first")
        assert done.returncode in (0, 3), done.stderr
        assert [row["Name"] for row in command.json("snapshot", "list")["Snapshots"]] == ["next"]
        check_snapshot(command, tmp_path, "next")


def test_writers_go_on_when_the_command_that_takes_a_snapshot_is_killed(
    prepared: Command, tmp_path: Path
) -> None:
    command = prepared
    point = tmp_path / "mnt"
    command.run("mount", "data", point)
    stop = threading.Event()
    written = threading.Event()

    def write() -> None:
        with open(point / "volume", "r+b", buffering=0) as file:
            while not stop.is_set():
                os.pwrite(file.fileno(), os.urandom(4096), 5 * 2**20)
                written.set()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for delay in (0.15, 0.2, 0.25, 0.3, 0.35):
            taking = subprocess.Popen(
                [VOLCRYPT, "--home", command.home, "snapshot", "create", "--wait", "data"],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            stop.wait(delay)
            taking.send_signal(signal.SIGKILL)
            taking.wait()
            written.clear()
            assert written.wait(10), "a writer was left waiting"
    finally:
        stop.set()
        writer.join()
    command.run("snapshot", "create", "--wait", "data", "--name", "after")
    command.run("unmount", "data")
    check_snapshot(command, tmp_path, "after")
