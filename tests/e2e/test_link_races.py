"""Names that are exchanged with links while commands work as root: nothing outside is touched.

Who does that writes to the storage of a home, or to the directory of a mount point.
"""

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.command import Command, disposable_home
from tests.swapper import Watched, swapping, watched
from volcrypt.volume.mountpoint import mounts

FILES = ("data", "record", "record.spare", "owner", "change-map")


class Place:
    """A home with a volume, and something outside that looks like a part of it."""

    def __init__(self, command: Command, directory: Path) -> None:
        self.command = command
        self.outside = directory / "outside"
        self.link = directory / "link"
        self.point = directory / "point"
        self.point.mkdir()
        self.out = directory / "out"
        self.volume = command.home / "volumes" / command.json("volume", "show", "data")["VolumeId"]

    def commands(self, number: int) -> tuple[tuple[str | Path, ...], ...]:
        """What reads and writes the volume's files."""
        return (
            ("volume", "export", "--yes", "data", self.out),
            ("volume", "grow", "data", "--size", f"{number + 2}MiB"),
            ("mount", "data", self.point),
            ("unmount", "data"),
            ("snapshot", "create", "--wait", "data", "--name", f"s{number}"),
        )

    def work(self, rounds: int) -> list[int]:
        """Each command so many times, and how it ended; none of them by a bug."""
        codes = []
        for number in range(rounds):
            for words in self.commands(number):
                done = self.command.try_run(*words)
                assert "Traceback" not in done.stderr, (words, done.stderr)
                assert "internal error" not in done.stderr, (words, done.stderr)
                codes.append(done.returncode)
                self.out.unlink(missing_ok=True)
        return codes


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with disposable_home(tmp_path / "home") as command:
        command.run("init")
        command.run("volume", "create", "--size", "1MiB", "--name", "data")
        yield Place(command, tmp_path)


def copied(original: Path, outside: Path) -> None:
    """What the link leads to, and would do as well."""
    if original.is_dir():
        shutil.copytree(original, outside)
    else:
        outside.mkdir()
        shutil.copy(original, outside / original.name)


def test_the_directory_of_a_volume(place: Place) -> None:
    race_for_directory(place, rounds=1)


@pytest.mark.soak
def test_the_directory_of_a_volume_for_long(place: Place) -> None:
    race_for_directory(place, rounds=20)


def race_for_directory(place: Place, *, rounds: int) -> None:
    copied(place.volume, place.outside)
    place.link.symlink_to(place.outside)
    with watched(place.outside) as seen:
        with swapping(place.volume, place.link):
            place.work(rounds)
            check_untouched(seen)
            check_control(place, seen)
        # And where it stays there: as much is refused, and deleting deletes nothing.
        aside = place.volume.with_name("aside")
        place.volume.rename(aside)
        place.volume.symlink_to(place.outside)
        assert 0 not in place.work(1)
        assert place.command.try_run("volume", "delete", "data").returncode != 0
        check_untouched(seen)
        place.volume.unlink()
        aside.rename(place.volume)
        assert place.command.try_run("volume", "export", "--yes", "data", place.out).returncode == 0


def check_control(place: Place, seen: Watched) -> None:
    """An open without protection loses the race."""
    end = time.monotonic() + 30
    while not any(event.startswith("record ") for event in seen.events()):
        assert time.monotonic() < end, "never won"
        (place.volume / "record").read_bytes()


def check_untouched(seen: Watched) -> None:
    """The directory itself may have been opened, to be synced; nothing in it was."""
    assert seen.events() <= {". 0x40000020", ". 0x40000010"}


@pytest.mark.soak
@pytest.mark.parametrize("name", FILES)
def test_a_file_of_a_volume_for_long(place: Place, name: str) -> None:
    race_for_file(place, name, rounds=20)


def race_for_file(place: Place, name: str, *, rounds: int) -> None:
    place.command.run("mount", "data", place.point)
    place.command.run("unmount", "data")
    (place.volume / name).touch()  # no snapshot yet, so no clean change map
    copied(place.volume / name, place.outside)
    place.link.symlink_to(place.outside / name)
    with watched(place.outside) as seen:
        with swapping(place.volume / name, place.link):
            place.work(rounds)
        check_untouched(seen)


@pytest.mark.parametrize("rounds", [2, pytest.param(60, marks=pytest.mark.soak)])
def test_a_mount_point(place: Place, rounds: int) -> None:
    """In a directory of somebody who wants our mount elsewhere: over /etc, say."""
    place.outside.mkdir()
    place.link.symlink_to(place.outside)
    os.lchown(place.link, 65534, 65534)
    with swapping(place.point, place.link):
        for _ in range(rounds):
            done = place.command.try_run("mount", "data", place.point, "--data-plane", "native")
            assert "internal error" not in done.stderr
            assert str(place.outside) not in {mount.mount_point for mount in mounts()}
            place.command.try_run("unmount", "data")
    assert os.listdir(place.outside) == []


def test_whose_links_lead_to_a_mount_point(place: Place) -> None:
    below = place.outside / "below"
    below.mkdir(parents=True)
    place.link.symlink_to("outside")
    other = place.outside / "other"
    other.symlink_to("../outside/below")
    for given in (place.link / "below", place.point / "../link/../outside/below", other):
        place.command.run("mount", "data", given)
        assert str(below) in {mount.mount_point for mount in mounts()}
        place.command.run("unmount", "data")
    for each in (place.link, other):
        os.lchown(each, 65534, 65534)
    for given in (place.link / "below", other):
        assert "link of another user" in place.command.fails(2, "mount", "data", given)
    assert str(below) not in {mount.mount_point for mount in mounts()}
