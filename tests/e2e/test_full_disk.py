"""The disk below the volumes fills up: what is promised holds, and what is not is said early."""

import hashlib
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.command import Command, disposable_home
from tests.file_system import DisposableFileSystem, disposable_file_system, run

MIB = 2**20
UNIT = 4096
SIZE = 24 * MIB


@pytest.fixture(params=["ext4", "xfs"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[DisposableFileSystem]:
    """The one that the home lies on."""
    with disposable_file_system(tmp_path, kind=request.param, size_bytes=320 * MIB) as made:
        yield made


@pytest.fixture
def command(disk: DisposableFileSystem) -> Iterator[Command]:
    with disposable_home(disk.directory / "home") as made:
        made.run("init")
        yield made


@pytest.fixture
def point(tmp_path: Path) -> Path:
    (tmp_path / "point").mkdir()
    return tmp_path / "point"


@pytest.mark.parametrize("encrypted", [True, False])
def test_a_preallocated_volume_takes_every_write_on_a_full_disk(
    command: Command, disk: DisposableFileSystem, point: Path, encrypted: bool
) -> None:
    key = [] if encrypted else ["--unencrypted"]
    command.run("volume", "create", "--size", str(SIZE), "--preallocate", "--name", "data", *key)
    shown = command.json("volume", "show", "data")
    assert shown["Preallocated"] is True
    assert shown["AllocatedBytes"] >= SIZE
    grown = SIZE + 8 * MIB
    command.run("volume", "grow", "data", "--size", str(grown))
    assert command.json("volume", "show", "data")["AllocatedBytes"] >= grown
    # Nothing was written: for a snapshot there is nothing there.
    empty = command.json("snapshot", "create", "--wait", "data")
    assert empty["StoredChunks"] == 0
    command.run("mount", "data", point)
    disk.fill()
    content = bytearray(grown)
    with open(point / "volume", "r+b", buffering=0) as file:
        assert os.pread(file.fileno(), MIB, 3 * MIB) == bytes(MIB)
        # Every other unit first, which parts the room that was taken into the most pieces.
        for start in (0, 1):
            for offset in range(start * UNIT, grown // 4, 2 * UNIT):
                unit = os.urandom(UNIT)
                os.pwrite(file.fileno(), unit, offset)
                content[offset : offset + UNIT] = unit
            os.fsync(file.fileno())
        for offset in range(grown // 2, grown, MIB):
            piece = os.urandom(MIB)
            os.pwrite(file.fileno(), piece, offset)
            content[offset : offset + MIB] = piece
        os.fsync(file.fileno())
    with open(point / "volume", "rb", buffering=0) as file:
        for offset in range(0, grown, MIB):
            assert os.pread(file.fileno(), MIB, offset) == content[offset : offset + MIB]
    command.run("unmount", "data")
    (disk.directory / "ballast").unlink()
    restored = command.run("snapshot", "create", "--wait", "data")
    volume = command.run("volume", "create", "--snapshot-id", restored, "--preallocate")
    assert command.json("volume", "show", volume)["AllocatedBytes"] >= grown
    target = point.parent / "exported"
    command.run("volume", "export", "--yes", volume, target)
    assert target.read_bytes() == content


def test_room_that_is_not_there_is_refused_and_nothing_is_left(command: Command) -> None:
    before = sorted((command.home / "volumes").iterdir())
    said = command.fails(1, "volume", "create", "--size", "2GiB", "--preallocate")
    assert "needs 2 GiB at once" in said
    assert sorted((command.home / "volumes").iterdir()) == before
    command.run("volume", "create", "--size", "8MiB", "--preallocate", "--name", "data")
    said = command.fails(1, "volume", "grow", "data", "--size", "2GiB")
    assert "at once" in said
    shown = command.json("volume", "show", "data")
    assert (shown["Size"], Path(shown["DataPath"]).stat().st_size) == (8 * MIB, 8 * MIB)


def test_status_warns_before_it_is_full(command: Command, disk: DisposableFileSystem) -> None:
    command.run("volume", "create", "--size", "100MiB", "--name", "data")
    assert space_warnings(command) == []
    disk.fill(leave_bytes=50 * MIB)
    (warning,) = space_warnings(command)
    assert "its thin volumes may still take 100 MiB" in warning
    command.run("volume", "delete", "data")
    assert space_warnings(command) == [], "nothing is promised that is not there"
    disk.fill(leave_bytes=4 * MIB)
    (warning,) = space_warnings(command)
    assert "less than 5 %" in warning


def test_a_file_system_on_a_thin_volume_outlives_a_full_disk(
    command: Command, disk: DisposableFileSystem, point: Path
) -> None:
    """Writers get errors, looking and closing work, and when there is room again everything that
    was acknowledged is there."""
    command.run("volume", "create", "--size", "200MiB", "--name", "data")
    loop = command.json("attach", "data", "--mkfs", "ext4", "--mount", point)["Loop"]
    acknowledged: dict[str, str] = {}
    write_files(point, acknowledged, "early", count=10)
    disk.fill(leave_bytes=50 * MIB)
    (warning,) = space_warnings(command)
    assert "its thin volumes may still take" in warning
    wait_for_log(command, "its thin volumes may still take")
    disk.fill(leave_bytes=12 * MIB)
    with pytest.raises(OSError, match=r"No space|Input/output|Read-only"):
        write_files(point, acknowledged, "late", count=200)
    assert any(name.startswith("late") for name in acknowledged)
    check_files(point, acknowledged)
    told = [line.partition(" ")[2] for line in wait_for_log(command, "ENOSPC").splitlines()]
    assert "may still take" in told[0], "first that it will be full, then that it is"
    assert "no space left" in told[1]
    # `status` asks the KMS, which does nothing that it cannot put on record.
    said = command.try_run("status")
    assert said.returncode == 0 or "no space left" in said.stderr
    assert command.json("volume", "show", "data")["State"] == "in-use"
    detached = command.try_run("detach", "data")
    assert "Traceback" not in detached.stderr

    (disk.directory / "ballast").unlink()
    if detached.returncode != 0:
        # What could not be written is said; what still stands is taken down by the next call.
        assert detached.stderr.startswith("error: "), detached.stderr
        command.try_run("detach", "data")
    assert command.json("status")["InUse"] == []
    attached = command.json("attach", "data")
    loop = attached["Loop"]
    checked = subprocess.run(["e2fsck", "-fp", loop], check=False, capture_output=True, text=True)
    assert checked.returncode in (0, 1), checked.stdout + checked.stderr
    run("mount", loop, point)
    check_files(point, acknowledged)
    write_files(point, acknowledged, "again", count=10)
    check_files(point, acknowledged)
    command.run("detach", "data")


def space_warnings(command: Command) -> list[str]:
    return [text for text in command.json("status")["Warnings"] if "file system under" in text]


def wait_for_log(command: Command, word: str) -> str:
    """What the process that serves has logged, once `word` is in it."""
    deadline = time.monotonic() + 60
    while True:
        (log,) = command.runtime.glob("*.log")
        if word in (text := log.read_text()):
            return text
        assert time.monotonic() < deadline, f"no {word!r} in: {text}"
        time.sleep(0.1)


def write_files(point: Path, acknowledged: dict[str, str], name: str, *, count: int) -> None:
    """Files of 300 KiB, each noted when it and its name are synced."""
    directory = os.open(point, os.O_RDONLY)
    try:
        for number in range(count):
            content = os.urandom(300 * 1024)
            with open(point / f"{name}-{number}", "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.fsync(directory)
            acknowledged[f"{name}-{number}"] = hashlib.sha256(content).hexdigest()
    finally:
        os.close(directory)


def check_files(point: Path, acknowledged: dict[str, str]) -> None:
    for name, digest in acknowledged.items():
        assert hashlib.sha256((point / name).read_bytes()).hexdigest() == digest, name


def test_looking_works_on_a_full_disk(command: Command, disk: DisposableFileSystem) -> None:
    """In a home that never had a snapshot, too, and when nothing can be recorded."""
    command.run("volume", "create", "--size", "1MiB", "--unencrypted", "--name", "data")
    disk.fill()
    # The room that the log's last block has left is used up by requests.
    for _ in range(100):
        if command.json("status")["Keys"] is None:
            break
    found = command.json("status")
    assert found["Keys"] is None
    assert found["Volumes"]["Total"] == 1
    assert any("no space left" in warning for warning in found["Warnings"])
    assert command.json("snapshot", "list")["Snapshots"] == []
