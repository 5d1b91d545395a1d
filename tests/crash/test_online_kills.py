"""`encrypt --online` and `rekey` killed before a system call that changes something: the command
that drives it, or the process that serves the volume, under a writer who syncs.

Afterwards the volume is mounted again, if that ended, and the same command given again: nothing
that was synced is lost, everything on disk is of its format, and what the next snapshot stores, by
what it knows of changes, is what reading the whole volume stores.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.command import Command, disposable_home, kill_and_wait
from tests.crash.kills import CALLS, Point, points_in_order, run_killed, spread
from tests.crash.writer import Writer
from tests.strace import calls_by_thread, injection, strace

SIZE: Final = 3 * 2**20
VERBS: Final = ("encrypt", "rekey")
LOOK_EVERY: Final = 4
"""Kills after which snapshots are looked at, too."""


class Scene:
    """A home with a mounted volume `data`, of which there is a snapshot."""

    def __init__(self, command: Command, directory: Path, verb: str) -> None:
        self.command = command
        self.directory = directory
        self.is_plain = verb == "encrypt"
        self.request = [verb, "data", *(["--online"] if self.is_plain else [])]
        self.point = directory / "point"
        self.point.mkdir()
        self.content = b""
        self.pid = 0
        command.run("init")
        command.run("snapshot", "list")  # makes the local store
        self.create()

    @property
    def file(self) -> Path:
        return self.point / "volume"

    def create(self) -> None:
        self.content = random.Random(3).randbytes(SIZE // 2) + bytes(SIZE // 2)
        source = self.directory / "source"
        source.write_bytes(self.content)
        options = ["--unencrypted"] if self.is_plain else []
        self.command.run("volume", "import", source, "--name", "data", *options)
        self.command.run("snapshot", "create", "--wait", "data")
        self.mount()

    def create_anew(self) -> None:
        self.command.run("unmount", "data")
        self.command.run("volume", "delete", "data")
        self.create()

    def mount(self) -> None:
        done = self.command.try_run("mount", "data", self.point)  # may say what is unfinished
        assert done.returncode == 0, done.stderr
        (self.pid,) = self.command.processes()

    @property
    def is_done(self) -> bool:
        """Whether a volume that was plain has gone over, and nothing is left of it."""
        is_encrypted = self.command.json("volume", "show", "data")["Encrypted"]
        return bool(is_encrypted) and not self.command.json("status")["Workflows"]

    @property
    def new_files(self) -> list[Path]:
        """What only a migration touches, by their paths and in their directory."""
        (data,) = self.command.home.glob("volumes/*/data")
        names = ("data.next", "intents")
        return [*(data.with_name(name) for name in names), *map(Path, names)]

    def kill_driver(self, point: Point) -> bool:
        """False when it did not come to the point."""
        with Writer(self.file, self.content) as writer:
            writer.await_syncs(1)
            done = run_killed(self.command, point, *self.request)
            writer.await_syncs(writer.syncs + 1)
        assert writer.error is None
        assert done.returncode in (-9, 137, 0), f"{point}: {done.stderr}"
        self.content = self.file.read_bytes()
        writer.check(self.content)
        return done.returncode != 0

    def kill_server(self, point: Point) -> bool:
        kill = injection(point.call, f"signal=KILL:when={point.number}")
        with (
            Writer(self.file, self.content) as writer,
            strace(self.pid, *kill, paths=self.new_files),
        ):
            self.command.try_run(*self.request)
            is_killed = not lives(self.pid)
            kill_and_wait(self.pid)
        self.mount()
        self.content = self.file.read_bytes()
        writer.check(self.content)
        return is_killed

    def finish(self) -> None:
        if not self.is_plain or not self.is_done:
            self.command.run(*self.request)
        assert self.file.read_bytes() == self.content
        assert self.command.json("volume", "show", "data")["Encrypted"]
        self.check_nothing_is_left()

    def check_nothing_is_left(self) -> None:
        status = self.command.json("status")
        assert status["Workflows"] == []
        assert status["Volumes"]["Damaged"] == []
        left = {path.name for path in self.command.home.glob("volumes/*/*")}
        assert left - {"owner", "record", "record.spare", "grant", "change-map"} == {"data"}
        if list((self.command.home / "work").iterdir()):  # killed when it was done: others clear up
            self.command.run(
                "volume", "create", "--size", "1MiB", "--name", "other", "--unencrypted"
            )
            self.command.run("volume", "delete", "other")
        assert list((self.command.home / "work").iterdir()) == []

    def check_snapshots(self) -> None:
        """That a snapshot of the changes is one of everything."""
        made = self.command.json("snapshot", "create", "--wait", "data")
        self.command.run("unmount", "data")
        self.command.run("volume", "check", "data")
        self.command.forget_runtime()
        for clean in self.command.home.glob("volumes/*/change-map"):
            clean.unlink()
        full = self.command.json("snapshot", "create", "--wait", "data")
        assert (full["StoredChunks"], full["Root"]) == (0, made["Root"])
        assert self.command.json("snapshot", "verify")["Damages"] == []
        self.mount()
        assert self.file.read_bytes() == self.content


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes() != b""
    except OSError:
        return False


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Command]:
    with disposable_home(tmp_path / "home") as made:
        yield made


def kill_all(scene: Scene, points: list[Point], kill: Callable[[Point], bool]) -> Counter[str]:
    """How often it was killed, by call."""
    killed: Counter[str] = Counter()
    for number, point in enumerate(points, 1):
        if scene.is_plain and scene.is_done:
            scene.create_anew()
        killed[point.call] += kill(point)
        scene.finish()
        if number % LOOK_EVERY == 0:
            scene.check_snapshots()
    scene.check_snapshots()
    scene.command.run("unmount", "data")
    return killed


def driver_points(scene: Scene) -> list[Point]:
    return points_in_order(scene.command, *scene.request, log=scene.directory / "log")


def server_points(scene: Scene) -> list[Point]:
    """Of all its threads, as far as they touch what is new; some come to less when the work is
    spread otherwise."""
    log = scene.directory / "log"
    with (
        Writer(scene.file, scene.content) as writer,
        strace(scene.pid, f"trace={CALLS}", log=log, paths=scene.new_files),
    ):
        scene.command.run(*scene.request)
    scene.content = scene.file.read_bytes()
    writer.check(scene.content)
    most: dict[str, int] = {}
    for calls in calls_by_thread(log).values():
        for call, count in Counter(calls).items():
            most[call] = max(most.get(call, 0), count)
    return [Point(call, number) for call in most for number in range(1, most[call] + 1)]


def test_who_serves_is_killed_as_it_begins_and_copies(command: Command, tmp_path: Path) -> None:
    """What was never begun leaves nothing."""
    scene = Scene(command, tmp_path, "rekey")
    assert scene.kill_server(Point("openat", 1))
    scene.check_nothing_is_left()
    assert kill_all(scene, [Point("pwrite64", 2)], scene.kill_server).total() == 1


@pytest.mark.soak
@pytest.mark.parametrize("verb", VERBS)
def test_the_driver_is_killed_before_every_call(
    command: Command, tmp_path: Path, verb: str
) -> None:
    scene = Scene(command, tmp_path, verb)
    points = driver_points(scene)
    killed = kill_all(scene, points, scene.kill_driver)
    print(f"\n{killed.total()} of {len(points)}: {dict(killed)}")
    assert killed.total() >= 0.9 * len(points)
    # Names are given and taken away, and it was killed before each of that.
    for call, least in (("link", 1), ("rename", 4), ("unlink", 4)):
        calls = (call, f"{call}at")
        wanted = sum(point.call in calls for point in points)
        assert sum(killed[each] for each in calls) >= max(0.9 * wanted, least), call


@pytest.mark.soak
@pytest.mark.parametrize("verb", VERBS)
def test_who_serves_is_killed_all_along(command: Command, tmp_path: Path, verb: str) -> None:
    """Slowly, so that it answers a writer all the while: hundreds of calls, some of each kind are
    taken."""
    scene = Scene(command, tmp_path, verb)
    scene.request += ["--rate", "1MiB"]
    found = server_points(scene)
    points = [
        point
        for call in sorted({point.call for point in found})
        for point in spread([point for point in found if point.call == call], 40)
    ]
    killed = kill_all(scene, points, scene.kill_server)
    print(f"\n{killed.total()} of {len(points)}: {dict(killed)}")
    assert killed.total() >= 0.8 * len(points)
    assert killed["pwrite64"] > 20
    assert killed["fdatasync"] > 1
