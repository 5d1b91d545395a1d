"""`encrypt` killed at steps all along its way: the same command again finishes it, without repair,
and nothing is lost, and nothing of the plaintext is left."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.command import Command, disposable_home
from tests.crash.kills import Checkpoint, Point, kill_at, points_of, spread

SIZE = 3 * 2**20 + 4096
QUICK_POINTS = 14


def image_bytes() -> bytes:
    """Two chunks of data, one of which is a mark that can be searched for, holes, a short end."""
    marked = b"".join(b"plaintext sector %06d " % n * 22 for n in range(1024))[: 512 * 1024]
    image = bytearray(SIZE)
    image[: len(marked)] = marked
    image[2**20 + 4096 : 2**20 + 8192] = os.urandom(4096)
    image[-4096:] = os.urandom(4096)
    return bytes(image)


@pytest.fixture
def prepared(tmp_path: Path) -> Iterator[tuple[Command, bytes]]:
    """A home with an unencrypted volume `legacy`, and what that holds."""
    image = image_bytes()
    (tmp_path / "image").write_bytes(image)
    with disposable_home(tmp_path / "home") as command:
        command.run("init")
        command.run("kms", "create-key")  # so that the default key is not the first one
        source = str(tmp_path / "image")
        command.run("volume", "import", source, "--unencrypted", "--name", "legacy")
        command.run("volume", "create", "--size", "1MiB")  # makes the default key
        yield command, image


def check_finished(command: Command, image: bytes, tmp_path: Path) -> None:
    """The encrypted volume has the name and the data, and no file has the plaintext."""
    exported = tmp_path / "exported"
    exported.unlink(missing_ok=True)
    command.run("volume", "export", "--yes", "legacy", exported)
    assert exported.read_bytes() == image
    exported.unlink()
    status = command.json("status")
    assert status["Volumes"] == {"Total": 2, "InUse": 0, "Unencrypted": 0, "Damaged": []}
    assert status["Snapshots"] == {"Total": 0, "Unencrypted": 0}
    assert status["Workflows"] == []
    assert list((command.home / "work").iterdir()) == []
    assert len(list((command.home / "volumes").iterdir())) == 2
    for path in command.home.rglob("*"):
        if path.is_file():
            assert b"plaintext sector" not in path.read_bytes(), path


def run_through_kills(
    prepared: tuple[Command, bytes], tmp_path: Path, choose: Callable[[list[Point]], list[Point]]
) -> None:
    command, image = prepared
    checkpoint = Checkpoint(command, tmp_path)
    points = choose(points_of(command, "encrypt", "legacy", log=tmp_path / "log"))
    check_finished(command, image, tmp_path)
    killed = 0
    for point in points:
        checkpoint.restore()
        killed += kill_at(command, point, "encrypt", "legacy")
        done = command.try_run("encrypt", "legacy")
        if done.returncode == 2:
            # The kill came after the last change: there was nothing left to do.
            assert "is encrypted already" in done.stderr
        else:
            assert done.returncode == 0, f"{point}: {done.stderr}"
        check_finished(command, image, tmp_path)
    # How the threads share the work varies a little; nearly all points must have been kills.
    assert killed >= 0.8 * len(points)


def test_killed_at_points_all_along(prepared: tuple[Command, bytes], tmp_path: Path) -> None:
    run_through_kills(prepared, tmp_path, lambda points: spread(points, QUICK_POINTS))


def test_killed_between_making_a_file_and_giving_it_its_size(
    prepared: tuple[Command, bytes], tmp_path: Path
) -> None:
    run_through_kills(
        prepared, tmp_path, lambda points: [p for p in points if p.call == "ftruncate"]
    )


@pytest.mark.soak
def test_killed_at_every_call(prepared: tuple[Command, bytes], tmp_path: Path) -> None:
    run_through_kills(prepared, tmp_path, list)
