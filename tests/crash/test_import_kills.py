"""`volume import` killed at steps all along its way: the same command again finishes it, without
repair, and nothing else is left; or it is given up, and nothing is left at all."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.command import Command, disposable_home
from tests.crash.kills import Checkpoint, Point, kill_at, points_of, spread
from tests.crash.test_encrypt_kills import image_bytes

QUICK_POINTS = 5


@pytest.fixture
def prepared(tmp_path: Path) -> Iterator[tuple[Command, Path]]:
    """A home whose default key is there, and an image."""
    image = tmp_path / "image"
    image.write_bytes(image_bytes())
    with disposable_home(tmp_path / "home") as command:
        command.run("init")
        command.run("volume", "create", "--size", "1MiB", "--name", "other")
        yield command, image


def check_only(command: Command, names: list[str]) -> None:
    volumes = command.json("volume", "list")["Volumes"]
    assert sorted(each["Name"] for each in volumes) == names
    assert command.json("status")["Imports"] == []
    assert list((command.home / "work").iterdir()) == []
    assert len(list((command.home / "volumes").iterdir())) == len(names)
    assert len(list((command.home / "written").glob("*"))) <= len(names)
    for path in command.home.rglob("*"):
        if path.is_file():
            assert b"plaintext sector" not in path.read_bytes(), path


def check_finished(command: Command, image: Path) -> None:
    exported = image.with_name("exported")
    exported.unlink(missing_ok=True)
    command.run("volume", "export", "--yes", "new", exported)
    assert exported.read_bytes() == image.read_bytes()
    check_only(command, ["new", "other"])


def run_through_kills(
    prepared: tuple[Command, Path], tmp_path: Path, choose: Callable[[list[Point]], list[Point]]
) -> None:
    command, image = prepared
    again = ("volume", "import", str(image), "--name", "new")
    checkpoint = Checkpoint(command, tmp_path)
    points = choose(points_of(command, *again, log=tmp_path / "log"))
    check_finished(command, image)
    killed = 0
    for number, point in enumerate(points):
        checkpoint.restore()
        killed += kill_at(command, point, *again)
        if number % 3 == 2 and command.json("status")["Imports"]:
            command.run("volume", "import", image, "--abort")
            check_only(command, ["other"])
        done = command.try_run(*again)
        if done.returncode == 4:
            # The kill came after the last change: there was nothing left to do.
            assert "new exists already" in done.stderr
            # What another command tidies up.
            command.run("volume", "delete", "other")
            command.run("volume", "create", "--size", "1MiB", "--name", "other")
        else:
            assert done.returncode == 0, f"{point}: {done.stderr}"
        check_finished(command, image)
    assert killed >= 0.8 * len(points)


def test_killed_at_points_all_along(prepared: tuple[Command, Path], tmp_path: Path) -> None:
    run_through_kills(prepared, tmp_path, lambda points: spread(points, QUICK_POINTS))


@pytest.mark.soak
def test_killed_at_every_call(prepared: tuple[Command, Path], tmp_path: Path) -> None:
    run_through_kills(prepared, tmp_path, list)
