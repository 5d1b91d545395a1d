"""Mount points: what is usable, what is refused, and dead or silent FUSE mounts.

The FUSE mounts here have no file system behind them: the descriptor of /dev/fuse is the process.
"""

import ctypes
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from volcrypt.errors import MountError, TryAgainError, VolumeInUseError
from volcrypt.volume import mountpoint
from volcrypt.volume.mountpoint import (
    FS_TYPE,
    Liveness,
    check_mount_point,
    liveness,
    mount_at,
    mounts,
    parse_mountinfo,
    remove_dead_mount,
    remove_dead_mounts_of,
    unmount,
    users_of,
)

LIBC = ctypes.CDLL(None, use_errno=True)


@contextmanager
def silent_mount(directory: Path, source: str = "vol-00000000000000000") -> Iterator[int]:
    """A FUSE mount that nobody serves; gives the descriptor that keeps it from being dead."""
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0".encode()
    assert LIBC.mount(source.encode(), bytes(directory), FS_TYPE.encode(), 6, options) == 0
    try:
        yield device
    finally:
        LIBC.umount2(bytes(directory), 3)
        os.close(device)


@contextmanager
def tmpfs(directory: Path) -> Iterator[None]:
    subprocess.run(["mount", "-t", "tmpfs", "some-disk", str(directory)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=False, capture_output=True)


def dead(descriptor: int) -> None:
    """Close the descriptor of a silent mount, and keep its number taken for the clean-up."""
    null = os.open("/dev/null", os.O_RDONLY)
    os.dup2(null, descriptor)
    os.close(null)


def test_an_empty_directory_is_usable_and_comes_back_canonical(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert check_mount_point(tmp_path / "link") == tmp_path.resolve() / "real"


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("missing", "does not exist"),
        ("missing/below", "does not exist"),
        ("file", "is not a directory"),
        ("full", "is not empty"),
    ],
)
def test_an_unusable_mount_point_is_refused(tmp_path: Path, name: str, problem: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "full" / "entry").mkdir(parents=True)
    with pytest.raises(MountError, match=rf"^mount point {tmp_path / name} {problem}$"):
        check_mount_point(tmp_path / name)


def test_a_mounted_directory_is_refused_by_name(tmp_path: Path) -> None:
    with tmpfs(tmp_path), pytest.raises(MountError, match="already has some-disk mounted on it"):
        check_mount_point(tmp_path)


def test_a_dead_mount_is_taken_away(tmp_path: Path) -> None:
    with silent_mount(tmp_path) as descriptor:
        dead(descriptor)
        assert liveness(tmp_path) is Liveness.DEAD
        assert check_mount_point(tmp_path) == tmp_path
        assert mount_at(tmp_path) is None


def test_a_silent_mount_is_left_alone_unless_its_volume_is_held(tmp_path: Path) -> None:
    with silent_mount(tmp_path, "vol-1"):
        assert liveness(tmp_path, timeout_seconds=0.1) is Liveness.SILENT
        remove_dead_mounts_of("vol-2", tmp_path / "runtime")
        assert mount_at(tmp_path) is not None
        remove_dead_mount(tmp_path)
        assert mount_at(tmp_path) is None


def test_a_silent_mount_is_of_the_home_that_has_a_socket_for_its_volume(tmp_path: Path) -> None:
    point, ours, theirs = tmp_path / "point", tmp_path / "run" / "ours", tmp_path / "run" / "theirs"
    for directory in (point, ours, theirs):
        directory.mkdir(parents=True)
    with silent_mount(point, "vol-1"):
        (theirs / "vol-1.sock").touch()
        with pytest.raises(VolumeInUseError, match="in use by the process that serves it") as told:
            remove_dead_mounts_of("vol-1", ours)
        assert told.value.hint == "detach or unmount it in its home: it is on this host"
        assert mount_at(point) is not None
        remove_dead_mounts_of("vol-1", theirs)
        assert mount_at(point) is None


def test_dead_mounts_of_one_volume_are_taken_away_wherever_they_are(tmp_path: Path) -> None:
    first, second = tmp_path / "a b", tmp_path / "c"
    first.mkdir()
    second.mkdir()
    with silent_mount(first, "vol-1") as one, silent_mount(second, "vol-2") as two:
        dead(one)
        dead(two)
        remove_dead_mounts_of("vol-1", tmp_path / "runtime")
        assert mount_at(first) is None
        assert mount_at(second) is not None


def test_a_busy_mount_is_not_unmounted_and_its_users_are_named(tmp_path: Path) -> None:
    with tmpfs(tmp_path):
        (tmp_path / "below").mkdir()
        with (tmp_path / "file").open("w"), tmpfs(tmp_path / "below"):
            with pytest.raises(TryAgainError, match="is busy"):
                unmount(tmp_path)
            users = users_of(tmp_path)
            assert f"a mount at {tmp_path / 'below'}" in users
            assert "this command itself" in users
        unmount(tmp_path)
        assert mount_at(tmp_path) is None
        with pytest.raises(MountError, match="cannot unmount"):
            unmount(tmp_path)


def test_a_process_that_cannot_be_looked_at_hides_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that hangs in execve: whoever reads its links waits as long."""
    ended = threading.Event()
    readlink = os.readlink
    with subprocess.Popen(["sleep", "60"], cwd=tmp_path) as hanging:

        def read(path: Path) -> str:
            if str(path).startswith(f"/proc/{hanging.pid}/"):
                ended.wait(30)
            return readlink(path)

        with monkeypatch.context() as patched, (tmp_path / "file").open("w"):
            patched.setattr(os, "readlink", read)
            patched.setattr(mountpoint, "_LOOK_SECONDS", 0.3)
            assert users_of(tmp_path) == ["this command itself"]
        ended.set()
        assert f"sleep (pid {hanging.pid})" in users_of(tmp_path)
        hanging.kill()


def test_a_busy_mount_can_be_detached(tmp_path: Path) -> None:
    with tmpfs(tmp_path), (tmp_path / "file").open("w"):
        unmount(tmp_path, detach=True)
        assert mount_at(tmp_path) is None


def test_mountinfo_is_parsed_with_its_escapes() -> None:
    text = (
        "25 30 0:23 / /sys rw,nosuid shared:7 - sysfs sysfs rw\n"
        r"98 30 0:52 / /mnt/a\040b\134c rw - fuse.volcrypt vol-1 rw,user_id=0"
        "\n"
    )
    first, second = parse_mountinfo(text)
    assert (first.mount_point, first.device, first.fs_type) == ("/sys", "0:23", "sysfs")
    assert (second.mount_point, second.source) == ("/mnt/a b\\c", "vol-1")


@pytest.mark.parametrize("character", ["\x0c", "\r", "\x1c", "\x85", "\u2028", "\udcff"])
def test_whoever_chooses_the_name_of_a_mount_point_chooses_no_line(
    tmp_path: Path, character: str
) -> None:
    """None of these is escaped by the kernel, and `str.splitlines` splits at most of them."""
    forged = "1 2 0:99 / ## rw - fuse.volcrypt vol-0 rw".replace("/", "")
    point = tmp_path / f"a{character}{forged}"
    point.mkdir()
    before = mounts()
    with tmpfs(point):
        (found,) = [mount for mount in mounts() if mount not in before]
        assert (found.mount_point, found.fs_type) == (str(point), "tmpfs")
        assert mount_at(point) == found
        assert "rw" in found.options
    assert mount_at(point) is None
