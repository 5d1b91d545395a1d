"""The power goes under a home: what was acknowledged is there afterwards, without any repair.

The home lies on a small file system that is shut down under the running processes, so that
everything that was not synced is lost; the mount point and the acknowledgements lie elsewhere. The
control run flushes nothing, and must lose something: else the harness would be blind.
"""

import os
import struct
from pathlib import Path

import pytest

from tests.command import Command, disposable_home, kill_and_wait
from tests.file_system import DisposableFileSystem

UNIT = 4096
UNITS = 512


def write_until_cut(point: Path, disk: DisposableFileSystem, *, flush: bool) -> dict[int, int]:
    """Write numbered units through the mount until the power goes; the last number acknowledged
    at each place."""
    acknowledged: dict[int, int] = {}
    with open(point / "volume", "r+b", buffering=0) as file:
        for number in range(1, 3 * UNITS):
            place = number * 7 % UNITS
            os.pwrite(file.fileno(), unit_of(number), place * UNIT)
            if flush and number % 8 == 0:
                os.fsync(file.fileno())
            if not flush or number % 8 == 0:
                for earlier in range(max(1, number - 7), number + 1):
                    acknowledged[earlier * 7 % UNITS] = earlier
        disk.shut_down()
    return acknowledged


def unit_of(number: int) -> bytes:
    return struct.pack("<Q", number) * (UNIT // 8)


def number_in(unit: bytes) -> int | None:
    """The number a unit was written with, 0 for never, None when it is none of ours, or torn."""
    (number,) = struct.unpack_from("<Q", unit)
    return number if unit == unit_of(number) else None


def lose_power(command: Command, disk: DisposableFileSystem, point: Path, pid: int) -> None:
    """Everything that runs on the dead disk ends, and the disk comes back."""
    kill_and_wait(pid)
    command.clear_dead_mount(point)
    disk.come_back()
    # A machine that lost its power has lost its tmpfs too.
    command.forget_runtime()


def lost_places(command: Command, point: Path, acknowledged: dict[int, int]) -> list[int]:
    """Places whose acknowledged write is not there; a later write may be."""
    lost = []
    command.run("mount", "data", point)
    try:
        with open(point / "volume", "rb", buffering=0) as file:
            for place, number in acknowledged.items():
                found = number_in(os.pread(file.fileno(), UNIT, place * UNIT))
                assert found is not None, f"unit {place} is neither old nor new"
                if found < number:
                    lost.append(place)
    finally:
        command.run("unmount", "data")
    return lost


@pytest.mark.parametrize("flush", [True, False])
def test_flushed_writes_survive(
    file_system: DisposableFileSystem, tmp_path: Path, flush: bool
) -> None:
    point = tmp_path / "point"
    point.mkdir()
    with disposable_home(file_system.directory / "home") as command:
        command.run("init")
        command.run("volume", "create", "--size", "2MiB", "--name", "data")
        pid = command.json("mount", "data", point)["Pid"]
        acknowledged = write_until_cut(point, file_system, flush=flush)
        lose_power(command, file_system, point, pid)
        lost = lost_places(command, point, acknowledged)
        assert (lost == []) is flush


def test_what_returned_survives(file_system: DisposableFileSystem, tmp_path: Path) -> None:
    """A key, a ciphertext, a volume and a snapshot that were reported as made are there."""
    image = tmp_path / "source"
    image.write_bytes(os.urandom(2**20))
    with disposable_home(file_system.directory / "home") as command:
        command.run("init")
        file_system.cut_power()
        key = command.json("kms", "create-key")["KeyMetadata"]["KeyId"]
        file_system.cut_power()
        volume = command.run("volume", "import", image, "--name", "data", "--kms-key-id", key)
        file_system.cut_power()
        snapshot = command.run("snapshot", "create", "--wait", "data")
        file_system.cut_power()
        command.forget_runtime()

        assert key in {row["KeyId"] for row in command.json("kms", "list-keys")["Keys"]}
        assert command.json("volume", "show", "data")["VolumeId"] == volume
        assert command.json("snapshot", "verify")["Snapshots"] == [snapshot]
        command.run("volume", "export", "--yes", "data", tmp_path / "exported")
        assert (tmp_path / "exported").read_bytes() == image.read_bytes()


def test_encrypt_survives_cuts_between_its_steps(
    ext4: DisposableFileSystem, tmp_path: Path
) -> None:
    """The command is killed by the cut itself: it meets a dead disk, and is given again."""
    image = tmp_path / "source"
    image.write_bytes(os.urandom(3 * 2**20))
    with disposable_home(ext4.directory / "home") as command:
        command.run("init")
        command.run("volume", "import", image, "--name", "data", "--unencrypted")
        cut = 0
        for delay in (0.3, 0.4, 0.5, 0.6, 0.7):
            process = command.start("encrypt", "data")
            if process.wait_for(delay) is None:
                ext4.shut_down()
                process.wait_for(60)
                ext4.come_back()
                command.forget_runtime()
                cut += 1
        assert cut, "every run was over before the cut"
        done = command.try_run("encrypt", "data")
        assert done.returncode == 0 or "encrypted already" in done.stderr, done.stderr
        command.run("volume", "export", "--yes", "data", tmp_path / "exported")
        assert (tmp_path / "exported").read_bytes() == image.read_bytes()
        assert command.json("status")["Volumes"]["Unencrypted"] == 0
