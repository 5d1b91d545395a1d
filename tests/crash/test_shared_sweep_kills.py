"""The sweep of a store that other homes may use, in a `snapshot delete` that is killed before a
call: given again it ends, what is left is whole, and after the next deletion no garbage is left."""

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.command import Command, disposable_home
from tests.crash.kills import Checkpoint, Point, kill_at, points_in_order

SIZE = 2**21
DELETE = ("snapshot", "delete", "doomed")
NEXT = ("snapshot", "delete", "next")


class Scene:
    """A home with the snapshots `doomed`, `kept` and `next` in a store of other homes', too."""

    def __init__(self, command: Command, directory: Path) -> None:
        self.command = command
        self.directory = directory
        self.store = directory / "archive"
        self.store.mkdir()
        self.contents: dict[str, bytes] = {}
        command.run("init")
        command.run("store", "create", "archive", "--url", f"file://{self.store}")
        for name in ("doomed", "kept", "next"):
            self.contents[name] = os.urandom(SIZE)
            source = directory / "source"
            source.write_bytes(self.contents[name])
            command.run("volume", "import", source, "--name", name)
            command.run("snapshot", "create", "--wait", name, "--name", f"local-{name}")
            copy = ("snapshot", "copy", f"local-{name}", "--store", "archive", "--name", name)
            command.run(*copy, "--wait")
        self._checkpoint = Checkpoint(command, directory)
        self._store_copy = directory / "store-checkpoint"
        shutil.copytree(self.store, self._store_copy)

    def restore(self) -> None:
        self._checkpoint.restore()
        shutil.rmtree(self.store)
        shutil.copytree(self._store_copy, self.store)

    def content(self) -> set[str]:
        """Chunks, pages and manifests in the store; marks, lists, pins and half-written files would
        be there, too."""
        found = {path.relative_to(self.store) for path in self.store.rglob("*") if path.is_file()}
        return {str(path) for path in found if path.parts[0] != "tombstones"}

    def check(self, wanted: set[str]) -> None:
        rows = self.command.json("snapshot", "list", "--store", "archive")["Snapshots"]
        assert [row["Name"] for row in rows] == ["kept"]
        assert self.command.json("snapshot", "verify", "--store", "archive")["Damages"] == []
        assert self.content() == wanted
        volume = self.command.run("volume", "create", "--snapshot-id", "kept")
        target = self.directory / "content"
        target.unlink(missing_ok=True)
        self.command.run("volume", "export", "--yes", volume, target)
        assert target.read_bytes() == self.contents["kept"]
        status = self.command.json("status")
        assert status["Volumes"]["Damaged"] == []


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with disposable_home(tmp_path / "home") as command:
        yield Scene(command, tmp_path)


def run_through_kills(scene: Scene, choose: Callable[[list[Point]], list[Point]]) -> Counter[str]:
    """How often it was killed, by call."""
    before = scene.content()
    points = choose(points_in_order(scene.command, *DELETE, log=scene.directory / "log"))
    scene.command.run(*NEXT)
    wanted = scene.content()
    assert wanted < before
    scene.check(wanted)
    killed: Counter[str] = Counter()
    for point in points:
        scene.restore()
        assert scene.content() == before
        killed[point.call] += kill_at(scene.command, point, *DELETE)
        done = scene.command.try_run(*DELETE)
        assert done.returncode in (0, 3), f"{point}: {done.stderr}"
        scene.command.run(*NEXT)
        scene.check(wanted)
    assert killed.total() >= 0.9 * len(points)
    return killed


def test_killed_in_the_middle_of_it(scene: Scene) -> None:
    """Where half of what is garbage is gone."""

    def middle(points: list[Point]) -> list[Point]:
        unlinks = [point for point in points if point.call == "unlink"]
        return unlinks[len(unlinks) // 2 :][:1]

    assert run_through_kills(scene, middle)["unlink"] == 1


@pytest.mark.soak
def test_killed_before_every_call(scene: Scene) -> None:
    killed = run_through_kills(scene, list)
    print(f"\n{killed.total()} kills: {dict(killed)}")
    assert killed["unlink"] > 20
    assert killed["linkat"] > 0
    assert killed["rename"] > 0
