"""Snapshots in the background, and sets of them, killed at steps along their way."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.command import Command, disposable_home
from tests.crash.kills import CALLS, Checkpoint, points_of, spread

SIZE = 4 * 2**20
QUICK_POINTS = 6
BOTH = ("snapshot", "create", "data", "other", "--name", "both")


@pytest.fixture
def prepared(tmp_path: Path) -> Iterator[Command]:
    """A home with the volumes `data` and `other`, and snapshots of both."""
    with disposable_home(tmp_path / "home") as command:
        command.run("init")
        for name in ("data", "other"):
            (tmp_path / "image").write_bytes(os.urandom(SIZE))
            command.run("volume", "import", tmp_path / "image", "--name", name)
        command.run("snapshot", "create", "--wait", "data", "other", "--name", "first")
        (tmp_path / "mnt").mkdir()
        for name in ("data", "other"):
            command.run("mount", name, tmp_path / "mnt")
            with open(tmp_path / "mnt" / "volume", "r+b") as file:
                file.seek(2**20)
                file.write(os.urandom(4096))
                os.fsync(file.fileno())
            command.run("unmount", name)
        yield command


def rows(command: Command) -> dict[str, dict[str, Any]]:
    return {row["SnapshotId"]: row for row in command.json("snapshot", "list")["Snapshots"]}


@pytest.mark.parametrize("points", [QUICK_POINTS, pytest.param(10**6, marks=pytest.mark.soak)])
def test_a_killed_set_is_whole_or_not_there(prepared: Command, tmp_path: Path, points: int) -> None:
    """strace follows command and worker, and ends when both have: whichever thread comes first to
    the point takes its process with it."""
    command = prepared
    first = set(rows(command))
    checkpoint = Checkpoint(command, tmp_path)
    found = points_of(command, *BOTH, log=tmp_path / "log")
    roots = {row["Name"]: row["Root"] for row in rows(command).values()}
    for point in spread(found, points):
        checkpoint.restore()
        inject = f"inject={point.call}:signal=KILL:when={point.number}"
        done = command.try_run(
            *BOTH, prefix=("strace", "-f", "-o", "/dev/null", "-e", f"trace={CALLS}", "-e", inject)
        )
        assert "Traceback" not in done.stderr
        made = {key: row for key, row in rows(command).items() if key not in first}
        states = [row["State"] for row in made.values()]
        assert states in ([], ["error"], ["error"] * 2, ["completed"] * 2), (point, states)
        if done.returncode == 0:
            # What was shown is accounted for.
            assert sorted(done.stdout.split()) == sorted(made), point
        if states == ["completed"] * 2:
            continue
        for key in made:
            assert "was not completed" in command.fails(1, "snapshot", "wait", key)
        # What changed is in the next ones, under the same names, and what is left can go.
        for name in ("data", "other"):
            again = command.json("snapshot", "create", "--wait", name, "--name", f"both-{name}")
            assert again["Root"] == roots[f"both-{name}"], point
        for key in made:
            command.run("snapshot", "delete", key)
        assert [row["State"] for row in rows(command).values()] == ["completed"] * 4
        assert list((command.home / "jobs").glob("*snap*")) == []
        assert command.json("snapshot", "verify")["Damages"] == []


def test_a_set_that_was_committed_in_part_is_none(prepared: Command, tmp_path: Path) -> None:
    """Killed when the first manifest of two is in its place: the last link of its thread is the
    second."""
    command = prepared
    first = set(rows(command))
    manifests = command.home / "stores/local/manifests"
    checkpoint = Checkpoint(command, tmp_path)
    points = points_of(command, *BOTH, log=tmp_path / "log")
    links = [each for each in reversed(points) if each.call in ("link", "linkat")]
    # Now and then a thread that stores chunks comes to the number first.
    for point in links * 4:
        checkpoint.restore()
        inject = f"inject={point.call}:signal=KILL:when={point.number}"
        strace = ("strace", "-f", "-o", "/dev/null", "-e", f"trace={point.call}", "-e", inject)
        command.try_run(*BOTH, prefix=strace)
        if len(list(manifests.iterdir())) == len(first) + 1:
            break
    else:
        raise AssertionError("no kill came between the two manifests")
    made = {key: row for key, row in rows(command).items() if key not in first}
    assert [row["State"] for row in made.values()] == ["error", "error"]
    for key in made:
        command.fails(1, "snapshot", "copy", key)
        command.fails(1, "volume", "create", "--snapshot-id", key)
    # Its data may serve as a parent all the same.
    command.run("snapshot", "create", "--wait", "data", "--name", "next")
    for key in made:
        command.run("snapshot", "delete", key)
    assert [row["Name"] for row in rows(command).values()] == ["first-data", "first-other", "next"]
    assert len(list(manifests.iterdir())) == len(first) + 1
    assert command.json("snapshot", "verify")["Damages"] == []
