"""Snapshots in the background, and sets of them, killed at steps along their way."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.command import Command, disposable_home
from tests.crash.kills import CALLS, Checkpoint, points_of, spread
from tests.faulty_proxy import Answer, FaultyProxy, Request, failure
from tests.listed import rows
from tests.s3_server import BUCKET

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
        # A manifest that is in its place has its name until it is deleted.
        manifests = [path.name for path in (command.home / "stores/local/manifests").iterdir()]
        for key in [each for each in made if any(each in name for name in manifests)]:
            command.run("snapshot", "delete", key)
            del made[key]
        # What changed is in the next ones, under the same names, and what is left can go.
        for name in ("data", "other"):
            again = command.json("snapshot", "create", "--wait", name, "--name", f"both-{name}")
            assert again["Root"] == roots[f"both-{name}"], point
        for key in made:
            command.run("snapshot", "delete", key)
        assert [row["State"] for row in rows(command).values()] == ["completed"] * 4
        assert list((command.home / "jobs").glob("*snap*")) == []
        assert command.json("snapshot", "verify")["Damages"] == []


class Stroke:
    """A fault that hits the worker of the first snapshot that is being made, with a signal, at a
    manifest: it is in its place then, and whoever put it there has not heard that."""

    def __init__(self, command: Command, number: signal.Signals, manifest: int) -> None:
        self._command = command
        self._number = number
        self._manifest = manifest
        self._seen: list[str] = []

    def __call__(self, request: Request, forward: Callable[[], Answer]) -> Answer | None:
        if request.method != "PUT" or "/manifests/" not in request.path:
            return forward()
        if request.path not in self._seen:
            self._seen.append(request.path)
        if len(self._seen) != self._manifest:
            return forward()
        answer = forward()
        (worker,) = self._command.workers()
        os.kill(worker, self._number)
        return answer


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_set_is_whole_or_none_wherever_its_worker_ends(
    prepared: Command, s3_proxy: FaultyProxy, prefix: str, number: signal.Signals
) -> None:
    command = prepared
    place = ("--url", f"s3://{BUCKET}/{prefix}", "--endpoint", s3_proxy.endpoint)
    command.run("store", "create", "away", *place)
    first = set(rows(command))
    for manifest, expected in ((1, ["error"] * 2), (2, ["completed"] * 2)):
        s3_proxy.fault = Stroke(command, number, manifest)
        ids = command.run(*BOTH, "--store", "away").split()
        for key in ids:
            code = 0 if expected[0] == "completed" else 1
            assert command.try_run("snapshot", "wait", key).returncode == code
        s3_proxy.fault = None
        made = {key: row["State"] for key, row in rows(command).items() if key not in first}
        assert made == dict(zip(ids, expected, strict=True))
        if expected[0] == "error":
            command.fails(1, "snapshot", "copy", ids[0])
            command.fails(1, "volume", "create", "--snapshot-id", ids[0])
            assert len(command.json("status")["FailedSnapshots"]) == 2
            # Its data may serve as a parent all the same.
            following = command.run("snapshot", "create", "--wait", "data", "--store", "away")
            command.run("snapshot", "delete", following)
        for key in ids:
            command.run("snapshot", "delete", key)
        assert set(rows(command)) == first
        assert list((command.home / "jobs").glob("*snap*")) == []
        assert command.json("snapshot", "verify", "--store", "away")["Damages"] == []


def test_a_set_whose_last_answer_is_lost_is_whole_when_it_is_there(
    prepared: Command, s3_proxy: FaultyProxy, prefix: str
) -> None:
    """The store says that it failed, and did not: taking back the first would leave the second."""
    command = prepared
    place = ("--url", f"s3://{BUCKET}/{prefix}", "--endpoint", s3_proxy.endpoint)
    command.run("store", "create", "away", *place)
    first = set(rows(command))
    seen: list[str] = []

    def lying(request: Request, forward: Callable[[], Answer]) -> Answer:
        answer = forward()
        if request.method == "PUT" and "/manifests/" in request.path:
            seen.append(request.path)
            if len(set(seen)) == 2:
                return failure(403, "AccessDenied")
        return answer

    s3_proxy.fault = lying
    assert "denied" in command.fails(5, *BOTH, "--store", "away", "--wait")
    s3_proxy.fault = None
    made = [row["State"] for key, row in rows(command).items() if key not in first]
    assert made == ["completed", "completed"]


def test_a_set_that_the_store_refuses_in_the_middle_is_taken_back(
    prepared: Command, s3_proxy: FaultyProxy, prefix: str, tmp_path: Path
) -> None:
    """As long as the last one was not begun: so the names are free again."""
    command = prepared
    place = ("--url", f"s3://{BUCKET}/{prefix}", "--endpoint", s3_proxy.endpoint)
    command.run("store", "create", "away", *place)
    command.run("volume", "create", "--size", "1MiB", "--name", "third")
    three = ("snapshot", "create", "data", "other", "third", "--name", "all", "--store", "away")
    first = set(rows(command))
    seen: list[str] = []

    def refusing(request: Request, forward: Callable[[], Answer]) -> Answer:
        if request.method == "PUT" and "/manifests/" in request.path:
            seen.append(request.path)
            if len(set(seen)) == 2:
                return failure(403, "AccessDenied")
        return forward()

    s3_proxy.fault = refusing
    assert "denied" in command.fails(5, *three, "--wait")
    s3_proxy.fault = None
    assert set(rows(command)) == first
    assert len(command.json(*three, "--wait")["Snapshots"]) == 3
