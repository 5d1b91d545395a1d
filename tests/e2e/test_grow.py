"""Volumes that grow: with nobody at them, mounted, and attached under a file system in use."""

import hashlib
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest

from tests.command import Command, disposable_home
from tests.file_system import run
from volcrypt.confinement import CAP_SYS_RESOURCE, has_capability

UNIT = 4096
CHUNK = 512 * 1024
SMALL = 2 * 2**20 + UNIT
LARGE = 5 * 2**20 + 3 * UNIT


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Command]:
    with disposable_home(tmp_path / "home") as made:
        made.run("init")
        yield made


@pytest.fixture
def point(tmp_path: Path) -> Path:
    (tmp_path / "point").mkdir()
    return tmp_path / "point"


def make(command: Command, tmp_path: Path) -> bytes:
    """A volume `data` of SMALL random bytes."""
    content = os.urandom(SMALL)
    (tmp_path / "source").write_bytes(content)
    command.run("volume", "import", tmp_path / "source", "--name", "data")
    return content


def exported(command: Command, volume: str, tmp_path: Path) -> bytes:
    target = tmp_path / "exported"
    target.unlink(missing_ok=True)
    command.run("volume", "export", "--yes", volume, target)
    return target.read_bytes()


def data_file(command: Command) -> Path:
    return Path(command.json("volume", "show", "data")["DataPath"])


def check_snapshot_is_as_if_all_were_read(command: Command, incremental: bool) -> None:
    """The rule of change maps; the snapshot that reads all stores nothing that is there."""
    made = command.json("snapshot", "create", "--wait", "data")
    assert (made["ParentSnapshotId"] is not None) is incremental
    command.forget_runtime()
    for clean in command.home.glob("volumes/*/change-map"):
        clean.unlink()
    full = command.json("snapshot", "create", "--wait", "data")
    assert (full["StoredChunks"], full["Root"]) == (0, made["Root"])
    verified = command.json("snapshot", "verify")
    assert verified["Damages"] == []


def test_detached(command: Command, tmp_path: Path) -> None:
    content = make(command, tmp_path)
    first = command.run("snapshot", "create", "--wait", "data")
    # A growth that was killed, or somebody else, may have left something behind the end.
    with data_file(command).open("ab") as file:
        file.write(os.urandom(2**20))
    grown = command.json("volume", "grow", "data", "--size", str(LARGE))
    assert (grown["OriginalSize"], grown["TargetSize"]) == (SMALL, LARGE)
    shown = command.json("volume", "show", "data")
    assert (shown["Size"], shown["State"]) == (LARGE, "available")
    assert shown["AllocatedBytes"] <= SMALL + 2**16
    assert exported(command, "data", tmp_path) == content + bytes(LARGE - SMALL)
    second = command.json("snapshot", "create", "--wait", "data", "--name", "second")
    assert second["ParentSnapshotId"] == first
    # The chunk that was short is longer now, and so another one; all others are shared.
    assert (second["StoredChunks"], second["VolumeSize"]) == (1, LARGE)
    check_snapshot_is_as_if_all_were_read(command, incremental=True)
    for snapshot, expected in ((first, content), ("second", content + bytes(LARGE - SMALL))):
        restored = command.run("volume", "create", "--snapshot-id", snapshot)
        assert exported(command, restored, tmp_path) == expected
    again = command.json("volume", "grow", "data", "--size", str(LARGE))
    assert (again["OriginalSize"], again["TargetSize"]) == (LARGE, LARGE)


def test_mounted(command: Command, tmp_path: Path, point: Path) -> None:
    """Whoever has the file open can write behind the old end at once."""
    content = make(command, tmp_path)
    command.run("snapshot", "create", "--wait", "data", "--name", "before")
    command.run("mount", "data", point)
    with open(point / "volume", "r+b", buffering=0) as file:
        assert os.fstat(file.fileno()).st_size == SMALL
        with pytest.raises(OSError, match="File too large"):
            os.pwrite(file.fileno(), b"x", SMALL)
        # The kernel asked again after the error, and believes the answer for minutes.
        assert os.fstat(file.fileno()).st_size == SMALL
        command.run("volume", "grow", "data", "--size", str(LARGE))
        assert os.fstat(file.fileno()).st_size == LARGE
        assert file.seek(0, os.SEEK_END) == LARGE
        assert os.pread(file.fileno(), 2 * CHUNK, SMALL) == bytes(2 * CHUNK)
        os.pwrite(file.fileno(), b"x" * 1000, SMALL - 500)
        os.pwrite(file.fileno(), b"y" * 1000, LARGE - 1000)
        os.fsync(file.fileno())
    expected = bytearray(content + bytes(LARGE - SMALL))
    expected[SMALL - 500 : SMALL + 500] = b"x" * 1000
    expected[LARGE - 1000 :] = b"y" * 1000
    after = command.json("snapshot", "create", "--wait", "data", "--name", "after")
    assert (after["VolumeSize"], after["StoredChunks"]) == (LARGE, 2)
    command.run("unmount", "data")
    check_snapshot_is_as_if_all_were_read(command, incremental=True)
    assert exported(command, "data", tmp_path) == expected
    for snapshot, image in (("before", content), ("after", bytes(expected))):
        restored = command.run("volume", "create", "--snapshot-id", snapshot)
        assert exported(command, restored, tmp_path) == image


def test_killed_before_the_daemon_was_told(command: Command, tmp_path: Path, point: Path) -> None:
    """The record says more than the process serves: a snapshot is one of what users see, and the
    next mount has all of it."""
    content = make(command, tmp_path)
    command.run("snapshot", "create", "--wait", "data")
    command.run("mount", "data", point)
    (pid,) = command.processes()
    with open(point / "volume", "r+b", buffering=0) as file:
        file.write(b"marked")
    os.kill(pid, 19)  # SIGSTOP: it hangs, and the command waits for it in vain
    try:
        command.fails(7, "volume", "grow", "data", "--size", str(LARGE))
    finally:
        os.kill(pid, 18)
    assert command.json("volume", "show", "data")["Size"] == SMALL, "refused before any change"
    grow_record_only(command, pid)
    assert (point / "volume").stat().st_size == SMALL
    seen = command.json("snapshot", "create", "--wait", "data", "--name", "seen")
    assert (seen["VolumeSize"], seen["StoredChunks"]) == (SMALL, 1)
    command.kill_processes()
    command.clear_dead_mount(point)
    command.run("mount", "data", point)
    assert (point / "volume").stat().st_size == LARGE
    later = command.json("snapshot", "create", "--wait", "data")
    assert (later["VolumeSize"], later["ParentSnapshotId"]) == (LARGE, seen["SnapshotId"])
    command.run("unmount", "data")
    check_snapshot_is_as_if_all_were_read(command, incremental=True)
    expected = b"marked" + content[6:] + bytes(LARGE - SMALL)
    assert exported(command, "data", tmp_path) == expected


def grow_record_only(command: Command, pid: int) -> None:
    """`volume grow` killed when it sends the daemon the new size."""
    from tests.crash.kills import Point, kill_at

    for number in range(1, 20):
        assert kill_at(
            command, Point("sendto", number), "volume", "grow", "data", "--size", str(LARGE)
        )
        if command.json("volume", "show", "data")["Size"] == LARGE:
            return
    pytest.fail("no kill came between the record and the daemon")


def test_what_is_refused(command: Command, tmp_path: Path, point: Path) -> None:
    make(command, tmp_path)
    for size, says in (
        (str(SMALL - UNIT), "cannot shrink"),
        (str(LARGE + 1), "multiple of 4096"),
        (str(64 * 2**40 + UNIT), "64 TiB"),
        ("0", "larger than zero"),
        ("much", "not a size"),
    ):
        assert says in command.fails(2, "volume", "grow", "data", "--size", size)
    command.fails(3, "volume", "grow", "nothing", "--size", "1GiB")
    command.fails(2, "volume", "grow", "data")
    resize = ("volume", "grow", "data", "--size", str(LARGE), "--resize-fs")
    assert "is not attached" in command.fails(2, *resize)
    command.run("mount", "data", point)
    assert "is not attached" in command.fails(2, *resize)
    command.run("unmount", "data")
    command.run("attach", "data")
    assert "no ext4, xfs or btrfs" in command.fails(2, *resize)
    command.run("detach", "data")
    shown = command.json("volume", "show", "data")
    assert shown["Size"] == SMALL
    assert data_file(command).stat().st_size == SMALL


def test_an_unencrypted_volume_grows_and_is_encrypted_then(
    command: Command, tmp_path: Path
) -> None:
    content = os.urandom(SMALL)
    (tmp_path / "source").write_bytes(content)
    command.run("volume", "import", tmp_path / "source", "--name", "data", "--unencrypted")
    command.run("volume", "grow", "data", "--size", str(LARGE))
    command.run("encrypt", "data")
    assert exported(command, "data", tmp_path) == content + bytes(LARGE - SMALL)


class BusyFileSystem:
    """Writes files into a file system, and knows what was written and synced."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.digests: dict[str, str] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._write)
        self.failure: OSError | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def wait_for(self, count: int) -> None:
        while len(self.digests) < count and self._thread.is_alive():
            self._stop.wait(0.01)

    def check(self) -> None:
        assert self.failure is None
        assert len(self.digests) > 5
        for name, digest in self.digests.items():
            found = (self.directory / name).read_bytes()
            assert hashlib.sha256(found).hexdigest() == digest, name

    def _write(self) -> None:
        number = 0
        try:
            while not self._stop.is_set() and number < 60:
                content = os.urandom(200_000 + number * 4000)
                with open(self.directory / f"file-{number}", "wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                self.digests[f"file-{number}"] = hashlib.sha256(content).hexdigest()
                number += 1
        except OSError as error:
            self.failure = error


@pytest.mark.parametrize(("kind", "small", "large"), [("xfs", 320, 700), ("ext4", 32, 200)])
def test_under_a_file_system_in_use(
    command: Command, point: Path, kind: str, small: int, large: int
) -> None:
    command.run("volume", "create", "--size", f"{small}MiB", "--name", "data")
    attached = command.json("attach", "data", "--mkfs", kind, "--mount", point)
    resize = ("volume", "grow", "data", "--size", f"{large}MiB", "--resize-fs")
    first = command.run("snapshot", "create", "--wait", "data")
    with BusyFileSystem(point) as busy:
        busy.wait_for(5)
        # The kernel resizes a mounted ext4 for those with SYS_RESOURCE, which containers lack.
        is_possible = kind != "ext4" or has_capability(CAP_SYS_RESOURCE)
        if is_possible:
            assert command.json(*resize)["FileSystem"] == kind
        else:
            assert "needs the capability SYS_RESOURCE" in command.fails(5, *resize)
            assert command.json("volume", "show", "data")["Size"] == small * 2**20
            assert command.json(*resize[:-1])["Loops"] == [attached["Loop"]]
        busy.wait_for(len(busy.digests) + 5)
    size = run("blockdev", "--getsize64", attached["Loop"]).strip()
    assert int(size) == large * 2**20
    if not is_possible:
        run("umount", point)
        subprocess.run(["e2fsck", "-fp", attached["Loop"]], check=True, capture_output=True)
        run("resize2fs", attached["Loop"])
        run("mount", attached["Loop"], point)
    space = os.statvfs(point)
    assert space.f_blocks * space.f_frsize > 0.8 * large * 2**20
    # More than went into it before.
    filler = os.urandom(2**20)
    with open(point / "filler", "wb") as file:
        file.writelines(filler for _ in range(small))
        os.fsync(file.fileno())
    busy.check()
    second = command.json("snapshot", "create", "--wait", "data")
    assert second["ParentSnapshotId"] == first
    command.run("detach", "data")
    check_snapshot_is_as_if_all_were_read(command, incremental=True)
    loop = command.json("attach", "data", "--mount", point)["Loop"]
    busy.check()
    assert (point / "filler").stat().st_size == small * 2**20
    run("umount", point)
    run(*(["xfs_repair", "-n", loop] if kind == "xfs" else ["e2fsck", "-fn", loop]))
    command.run("detach", "data")
