"""`volume grow` killed at steps all along its way, with nobody at the volume and while it is
mounted, and its home's power cut: it is larger or as it was, and the same command finishes it."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.command import Command, disposable_home
from tests.crash.kills import Point, kill_at, points_of, spread
from tests.file_system import DisposableFileSystem

SIZE = 2 * 2**20 + 4096
STEP = 2**20 + 8192
QUICK_POINTS = 10


class GrowingVolume:
    """The volume `data`, what it holds, and the sizes that it may have."""

    def __init__(self, command: Command, directory: Path) -> None:
        self.command = command
        self.directory = directory
        self.content = os.urandom(SIZE)
        self.size = SIZE
        (directory / "source").write_bytes(self.content)
        command.run("init")
        command.run("volume", "import", str(directory / "source"), "--name", "data")
        command.run("snapshot", "create", "--wait", "data")

    @property
    def grow(self) -> tuple[str, ...]:
        """The next growth."""
        return ("volume", "grow", "data", "--size", str(self.size + STEP))

    def points(self, count: int) -> list[Point]:
        points = points_of(self.command, *self.grow, log=self.directory / "log")
        self.size += STEP
        return spread(points, count)

    def check_and_finish(self) -> None:
        """It is of one size or the other, all data is there, and the growth can be finished."""
        assert self.command.json("volume", "show", "data")["Size"] in (self.size, self.size + STEP)
        self.command.run("volume", "check", "data")
        self.command.run(*self.grow)
        self.size += STEP
        assert self.command.json("volume", "show", "data")["Size"] == self.size
        data = Path(self.command.json("volume", "show", "data")["DataPath"])
        assert data.stat().st_size == self.size

    def check_content(self) -> None:
        target = self.directory / "exported"
        target.unlink(missing_ok=True)
        self.command.run("volume", "export", "--yes", "data", target)
        assert target.read_bytes() == self.content + bytes(self.size - len(self.content))
        made = self.command.json("snapshot", "create", "--wait", "data")
        self.command.forget_runtime()
        for clean in self.command.home.glob("volumes/*/change-map"):
            clean.unlink()
        full = self.command.json("snapshot", "create", "--wait", "data")
        assert (full["StoredChunks"], full["Root"]) == (0, made["Root"])


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[GrowingVolume]:
    with disposable_home(tmp_path / "home") as command:
        yield GrowingVolume(command, tmp_path)


def kill_all(volume: GrowingVolume, points: list[Point]) -> None:
    killed = 0
    for point in points:
        killed += kill_at(volume.command, point, *volume.grow)
        volume.check_and_finish()
    assert killed >= 0.8 * len(points)


def test_killed_at_points_all_along(volume: GrowingVolume) -> None:
    kill_all(volume, volume.points(QUICK_POINTS))
    volume.check_content()


def test_killed_while_it_is_mounted(volume: GrowingVolume, tmp_path: Path) -> None:
    """A writer goes on in what it was told of; the daemon is never asked twice for the same."""
    mount = tmp_path / "point"
    mount.mkdir()
    volume.command.run("mount", "data", mount)
    with open(mount / "volume", "r+b", buffering=0) as file:
        for point in volume.points(QUICK_POINTS):
            kill_at(volume.command, point, *volume.grow)
            assert os.fstat(file.fileno()).st_size in (volume.size, volume.size + STEP)
            volume.check_and_finish()
            assert os.fstat(file.fileno()).st_size == volume.size
            end = os.urandom(4096)
            os.pwrite(file.fileno(), end, volume.size - 4096)
            volume.content = volume.content.ljust(volume.size - 4096, b"\0") + end
    volume.command.run("unmount", "data")
    volume.check_content()


@pytest.mark.soak
def test_killed_at_every_call(volume: GrowingVolume) -> None:
    kill_all(volume, volume.points(1000))
    volume.check_content()


def test_the_power_goes_at_points_all_along(
    file_system: DisposableFileSystem, tmp_path: Path
) -> None:
    """A record never says more than the data file has, whatever was not synced."""
    with disposable_home(file_system.directory / "home") as command:
        volume = GrowingVolume(command, tmp_path)
        for point in volume.points(QUICK_POINTS):
            kill_at(command, point, *volume.grow)
            file_system.cut_power()
            command.forget_runtime()
            volume.check_and_finish()
            # What the command said is done stays done.
            file_system.cut_power()
            command.forget_runtime()
            assert command.json("volume", "show", "data")["Size"] == volume.size
            command.run("volume", "check", "data")
        volume.check_content()
