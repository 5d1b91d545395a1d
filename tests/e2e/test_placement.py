"""Volumes whose data lies elsewhere: on block devices (loop devices here), and in files."""

import hashlib
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.command import Command, disposable_home
from tests.crash.kills import kill_at, points_of, spread
from tests.file_system import run

MIB = 2**20
UNIT = 4096
SIZE = 12 * MIB + 3 * UNIT

MakeDevice = Callable[[bytes], Path]


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Command]:
    with disposable_home(tmp_path / "home") as made:
        made.run("init")
        yield made


@pytest.fixture
def point(tmp_path: Path) -> Path:
    (tmp_path / "point").mkdir()
    return tmp_path / "point"


@pytest.fixture
def make_device(tmp_path: Path) -> Iterator[MakeDevice]:
    """Loop devices that begin with some content; taken down after the volumes on them."""
    with ExitStack() as stack:
        count = 0

        def make(content: bytes = b"") -> Path:
            nonlocal count
            count += 1
            image = tmp_path / f"disk-{count}"
            image.write_bytes(content)
            os.truncate(image, SIZE)
            device = Path(run("losetup", "--find", "--show", image).strip())
            stack.callback(
                lambda: subprocess.run(["losetup", "-d", device], check=False, capture_output=True)
            )
            return device

        yield make


@pytest.fixture
def on_device(make_device: MakeDevice, command: Command) -> Iterator[Command]:
    """The command, whose processes end before the devices go."""
    yield command
    command.kill_processes()


def content_of(path: Path) -> bytes:
    run("blockdev", "--flushbufs", path)
    return path.read_bytes()


def exported(command: Command, volume: str, tmp_path: Path) -> bytes:
    target = tmp_path / "exported"
    target.unlink(missing_ok=True)
    command.run("volume", "export", "--yes", volume, target)
    return target.read_bytes()


@pytest.mark.parametrize("encrypted", [True, False])
def test_a_volume_on_a_device(
    on_device: Command,
    make_device: MakeDevice,
    tmp_path: Path,
    point: Path,
    encrypted: bool,
) -> None:
    command, device = on_device, make_device(os.urandom(SIZE))
    key = [] if encrypted else ["--unencrypted"]
    create = ("volume", "create", "--data", str(device), "--name", "data", *key)
    command.run(*create, "--force")
    shown = command.json("volume", "show", "data")
    assert (shown["Size"], shown["DataPath"]) == (SIZE, str(device))
    assert shown["DataDevice"] == f"loop:{tmp_path / 'disk-1'}"
    assert exported(command, "data", tmp_path) == bytes(SIZE), "what was there is gone"
    first = command.json("snapshot", "create", "--wait", "data", "--name", "first")
    assert first["StoredChunks"] == 0

    loop = command.json("attach", "data", "--mkfs", "ext4", "--mount", point)["Loop"]
    content = os.urandom(3 * MIB)
    (point / "file").write_bytes(content)
    fd = os.open(point, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)
    run("sync", "--file-system", point)
    # Nobody else gets it meanwhile.
    assert "volume data" in command.fails(4, "volume", "create", "--data", device, "--force")
    attached = command.json("snapshot", "create", "--wait", "data", "--name", "attached")
    assert attached["ParentSnapshotId"] == first["SnapshotId"] or attached["StoredChunks"] > 6
    command.run("detach", "data")
    assert not Path("/sys/block", Path(loop).name, "loop").exists()
    assert (content[:UNIT] in content_of(device)) is not encrypted
    # No time and no holes tell what changed on a device: all of it is read, nothing stored twice.
    full = command.json("snapshot", "create", "--wait", "data", "--name", "full")
    assert full["StoredChunks"] <= 3
    image = exported(command, "data", tmp_path)
    restored = command.run("volume", "create", "--snapshot-id", "full")
    assert exported(command, restored, tmp_path) == image
    command.run("attach", "data", "--mount", point)
    assert (point / "file").read_bytes() == content
    command.run("detach", "data")

    before = content_of(device)
    deleted = command.json("volume", "delete", "data")
    assert deleted["DataKept"] == str(device)
    assert content_of(device) == before
    says = "has ext4" if not encrypted else "is not zero"
    assert says in command.fails(2, *create)


def test_a_snapshot_restores_onto_a_device(
    on_device: Command, make_device: MakeDevice, tmp_path: Path
) -> None:
    command, device = on_device, make_device(b"")
    content = os.urandom(5 * MIB)
    (tmp_path / "source").write_bytes(content)
    command.run("volume", "import", tmp_path / "source", "--name", "source")
    command.run("snapshot", "create", "--wait", "source", "--name", "snap")
    command.run("volume", "create", "--snapshot-id", "snap", "--data", device, "--name", "copy")
    assert command.json("volume", "show", "copy")["Size"] == len(content)
    assert exported(command, "copy", tmp_path) == content


def test_what_is_on_a_device_is_not_touched_without_being_told(
    on_device: Command, make_device: MakeDevice, tmp_path: Path, point: Path
) -> None:
    command = on_device
    formatted, scrambled = make_device(b""), make_device(bytes(7 * MIB) + os.urandom(5 * MIB))
    run("mkfs.ext4", "-q", formatted)
    run("mount", formatted, point)
    in_use = ("volume", "create", "--data", str(formatted), "--force")
    assert "in use" in command.fails(4, *in_use)
    run("umount", point)
    digests = {
        device: hashlib.sha256(content_of(device)).digest() for device in (formatted, scrambled)
    }
    on_formatted = ("volume", "create", "--data", str(formatted))
    assert "has ext4" in command.fails(2, *on_formatted)
    assert "is not zero" in command.fails(2, "volume", "create", "--data", scrambled)
    said = command.fails(2, *on_formatted, "--force", "--size", str(SIZE + UNIT))
    assert "the volume would have" in said
    assert "for files" in command.fails(2, *on_formatted, "--force", "--preallocate")
    other = tmp_path / "file"
    other.write_bytes(b"precious")
    assert "exists already" in command.fails(2, "volume", "create", "--size=1MiB", "--data", other)
    new = tmp_path / "new"
    command.fails(2, "volume", "create", "--size=1MiB", "--data", new, "--force")
    command.fails(2, "volume", "create", "--size=1MiB", "--assume-zeroed")
    command.fails(2, "volume", "create", "--data", new)
    command.fails(2, "volume", "create", "--size=1MiB", "--data", tmp_path / "no" / "directory")
    inside = command.home / "volumes" / "mine"
    assert "in the home" in command.fails(2, "volume", "create", "--size=1MiB", "--data", inside)
    assert list((command.home / "volumes").iterdir()) == []
    assert other.read_bytes() == b"precious"
    for device, digest in digests.items():
        assert hashlib.sha256(content_of(device)).digest() == digest


def test_another_device_under_the_same_name_is_refused(
    on_device: Command, make_device: MakeDevice, tmp_path: Path, point: Path
) -> None:
    """As when disks get their names in another order at the next boot."""
    command, device = on_device, make_device(b"")
    command.run("volume", "create", "--data", device, "--name", "data")
    run("losetup", "-d", device)
    (tmp_path / "other").write_bytes(os.urandom(SIZE))
    run("losetup", device, tmp_path / "other")
    for arguments in (
        ["mount", "data", str(point)],
        ["attach", "data"],
        ["volume", "check", "data"],
        ["volume", "export", "--yes", "data", str(tmp_path / "exported")],
        ["volume", "grow", "data", "--size", str(SIZE + UNIT)],
        ["snapshot", "create", "--wait", "data"],
    ):
        assert "is another device now" in command.fails(6, *arguments)
    assert command.json("volume", "show", "data")["State"] == "error"
    assert command.json("volume", "list")["Volumes"][0]["State"] == "error"
    command.run("status")
    run("losetup", "-d", device)
    run("losetup", device, tmp_path / "disk-1")
    command.run("volume", "check", "data")
    command.run("volume", "delete", "data")


def test_a_device_that_is_not_there_may_come_later(
    on_device: Command, make_device: MakeDevice, tmp_path: Path
) -> None:
    """As an iSCSI disk after a boot."""
    command, link = on_device, tmp_path / "disk"
    device = make_device(b"")
    link.symlink_to(device)
    command.run("volume", "create", "--data", link, "--name", "data")
    link.unlink()
    for arguments in (["attach", "data"], ["volume", "check", "data"]):
        assert f"data device {link} is not there" in command.fails(7, *arguments)
    link.symlink_to(device)
    command.run("volume", "check", "data")


@pytest.mark.parametrize("mounted", [True, False])
def test_growing_on_a_device_zeroes_what_is_new(
    on_device: Command, make_device: MakeDevice, tmp_path: Path, point: Path, mounted: bool
) -> None:
    command, device = on_device, make_device(b"")
    small = 4 * MIB + UNIT
    command.run("volume", "create", "--data", device, "--size", str(small), "--name", "data")
    with device.open("r+b", buffering=0) as file:
        os.pwrite(file.fileno(), os.urandom(SIZE - small), small)
        os.fsync(file.fileno())
    if mounted:
        command.run("mount", "data", point)
    said = command.fails(2, "volume", "grow", "data", "--size", str(SIZE + UNIT))
    assert "the volume would have" in said
    command.run("volume", "grow", "data", "--size", str(SIZE))
    if mounted:
        assert (point / "volume").read_bytes() == bytes(SIZE)
        command.run("unmount", "data")
    assert exported(command, "data", tmp_path) == bytes(SIZE)
    assert command.json("volume", "show", "data")["Size"] == SIZE


def test_zeroes_are_assumed_when_the_user_says_so(
    on_device: Command, make_device: MakeDevice, tmp_path: Path
) -> None:
    """Who forces it onto what is not zero reads noise there, and was told."""
    command, device = on_device, make_device(b"")
    command.run("volume", "create", "--data", device, "--assume-zeroed", "--name", "data")
    assert exported(command, "data", tmp_path) == bytes(SIZE)
    command.run("volume", "delete", "data")
    assert not any(content_of(device))


def test_an_encrypted_volume_stays_on_its_device(
    on_device: Command, make_device: MakeDevice, point: Path
) -> None:
    command, device = on_device, make_device(b"")
    command.run("volume", "create", "--data", device, "--unencrypted", "--name", "data")
    command.run("mount", "data", point)
    with open(point / "volume", "r+b", buffering=0) as file:
        file.write(b"on a device" * 1000)
    command.run("unmount", "data")
    assert b"on a device" in content_of(device), "the control"
    assert "the encrypted volume needs" in command.fails(2, "encrypt", "data", "--keep-old")
    plan = command.json("encrypt", "data", "--dry-run")
    assert (plan["Target"], plan["DataBytesAtMost"]) == (str(device), True)
    report = command.json("encrypt", "data")
    assert report["OldData"][0]["Method"] == "overwritten in place with its ciphertext"
    assert b"on a device" not in content_of(device)
    command.run("mount", "data", point)
    with open(point / "volume", "rb", buffering=0) as file:
        assert file.read(11000) == b"on a device" * 1000
    command.run("unmount", "data")


class TestFile:
    def test_its_life(self, command: Command, tmp_path: Path, point: Path) -> None:
        path = tmp_path / "elsewhere" / "data"
        path.parent.mkdir()
        command.run("volume", "create", "--size=3MiB", "--data", path, "--name", "data")
        assert command.json("volume", "show", "data")["DataPath"] == str(path)
        assert (path.stat().st_mode & 0o777, path.stat().st_size) == (0o600, 3 * MIB)
        said = command.fails(4, "volume", "create", "--size=3MiB", "--data", path)
        assert "volume data" in said
        command.run("mount", "data", point)
        with open(point / "volume", "r+b", buffering=0) as file:
            file.write(b"somewhere else" * 1000)
        command.run("snapshot", "create", "--wait", "data")
        command.run("unmount", "data")
        command.run("volume", "grow", "data", "--size=5MiB")
        assert path.stat().st_size == 5 * MIB
        assert exported(command, "data", tmp_path).startswith(b"somewhere else" * 1000)
        assert b"somewhere" not in path.read_bytes()
        command.run("volume", "delete", "data")
        assert list(path.parent.iterdir()) == []

    def test_it_is_not_followed_elsewhere(self, command: Command, tmp_path: Path) -> None:
        path = tmp_path / "data"
        command.run("volume", "create", "--size=3MiB", "--data", path, "--name", "data")
        path.rename(tmp_path / "other")
        path.symlink_to(tmp_path / "other")
        assert "is a link" in command.fails(6, "volume", "check", "data")
        command.run("volume", "delete", "data")
        assert (tmp_path / "other").exists()

    def test_a_killed_create_or_delete_leaves_nothing_in_the_way(
        self, command: Command, tmp_path: Path
    ) -> None:
        path = tmp_path / "data"
        create = ("volume", "create", "--size=3MiB", "--data", str(path), "--name", "data")
        points = spread(points_of(command, *create, log=tmp_path / "log"), 12)
        command.run("volume", "delete", "data")
        for point in points:
            kill_at(command, point, *create)
            if command.json("volume", "list")["Volumes"]:
                command.run("volume", "delete", "data")
            # Whatever changes the home clears up first.
            command.run("volume", "create", "--size=1MiB", "--name", "other")
            command.run("volume", "delete", "other")
            command.run(*create)
            command.run("volume", "check", "data")
            command.run("volume", "delete", "data")
            assert not path.exists()
        command.run(*create)
        for point in spread(
            points_of(command, "volume", "delete", "data", log=tmp_path / "log"), 8
        ):
            command.run(*create)
            kill_at(command, point, "volume", "delete", "data")
            if command.json("volume", "list")["Volumes"]:
                command.run("volume", "delete", "data")
            command.run("volume", "create", "--size=1MiB", "--name", "other")
            command.run("volume", "delete", "other")
            assert not path.exists()
