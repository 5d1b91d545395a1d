"""Discards on real mounts and loop devices: room comes back, and nothing else changes."""

import ctypes
import errno
import hashlib
import os
import secrets
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.command import Command, disposable_home
from tests.e2e.test_captures import captured_chunk
from tests.e2e.test_exerciser import LONG_BYTES, RUNS, exercise_loop, operations
from tests.e2e.test_exerciser import SIZE as SHORT
from tests.e2e.test_power_cut import lose_power
from tests.file_system import DisposableFileSystem, run
from tests.fsx import KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE, Exerciser, Options
from tests.served_volume import OpenFile, ServedVolume, served_volume
from volcrypt.geometry import CHUNK_BYTES, SECTOR_BYTES, UNIT_BYTES
from volcrypt.volume.launch import Discarding

MEBIBYTE = 2**20
SIZE = 16 * MEBIBYTE
PUNCH = PUNCH_HOLE | KEEP_SIZE
DISCARDS = Discarding(requests=True)

_libc = ctypes.CDLL(None, use_errno=True)


def deallocate(descriptor: int, offset: int, length: int, mode: int = PUNCH) -> int:
    """fallocate(2); its errno."""
    failed = _libc.fallocate(descriptor, mode, ctypes.c_int64(offset), ctypes.c_int64(length))
    return ctypes.get_errno() if failed else 0


# What the file system may take for the tree of extents when a hole splits them.
EXTENT_TREE = 16 * UNIT_BYTES


def used(path: Path) -> int:
    return path.stat().st_blocks * 512


def assert_falls_below(path: Path, bytes_: int) -> None:
    """ext4 mounted with `discard` asks for it from a worker of its own, after the journal's
    commit: not yet when `sync` returns."""
    deadline = time.monotonic() + 30
    while used(path) >= bytes_:
        assert time.monotonic() < deadline, (used(path), bytes_)
        time.sleep(0.05)


@pytest.fixture
def disk() -> Iterator[Path]:
    """Where allocation can be counted, and the page cache asked; not on tmpfs."""
    directory = Path("/var/tmp") / f"volcrypt-test-{secrets.token_hex(6)}"
    directory.mkdir()
    yield directory
    run("rm", "-rf", directory)


@pytest.fixture(params=[True, False], ids=["encrypted", "unencrypted"])
def volume(request: pytest.FixtureRequest, disk: Path) -> Iterator[ServedVolume]:
    with served_volume(
        disk, size_bytes=SIZE, encrypted=request.param, data_plane="native", discards=DISCARDS
    ) as made:
        made.mount()
        yield made


def test_what_fallocate_may_do_on_the_file(volume: ServedVolume) -> None:
    content = bytearray(os.urandom(4 * MEBIBYTE))
    with OpenFile(volume) as file:
        file.write(0, bytes(content))
        file.sync()
        before = used(volume.data_path)
        for mode, offset, length in (
            (PUNCH, MEBIBYTE, MEBIBYTE),
            (ZERO_RANGE, 3 * MEBIBYTE + 700, 2 * UNIT_BYTES),
            (ZERO_RANGE | KEEP_SIZE, 17, 5),
        ):
            assert deallocate(file.descriptor, offset, length, mode) == 0
            content[offset : offset + length] = bytes(length)
            assert file.read(0, len(content)) == content
        file.sync()
        given_back = MEBIBYTE + UNIT_BYTES
        assert abs(before - used(volume.data_path) - given_back) <= EXTENT_TREE
        assert deallocate(file.descriptor, SIZE - UNIT_BYTES, 2 * UNIT_BYTES) == 0
        assert deallocate(file.descriptor, SIZE, SIZE) == 0
        for mode in (0, KEEP_SIZE, 8, 32):
            assert deallocate(file.descriptor, 0, UNIT_BYTES, mode) == errno.EOPNOTSUPP
        assert deallocate(file.descriptor, 0, 2 * SIZE, ZERO_RANGE) == errno.EFBIG
        assert deallocate(file.descriptor, 0, 0) == errno.EINVAL
        # After all these refusals the kernel still asks.
        assert deallocate(file.descriptor, 0, MEBIBYTE) == 0
        assert file.read(0, MEBIBYTE + 1) == bytes(MEBIBYTE + 1)
        with volume.control() as client:
            status = client.status()
            assert (status.discard, status.discard_zeros) == (True, False)
    volume.unmount()
    assert "EIO" not in volume.log.read_text()


@pytest.mark.parametrize("plane", ["python", "native"])
def test_without_the_option_nobody_is_promised_anything(disk: Path, plane: str) -> None:
    with served_volume(disk, size_bytes=SIZE, data_plane=plane) as volume:  # type: ignore[arg-type]
        volume.mount()
        with OpenFile(volume) as file:
            file.write(0, b"x" * UNIT_BYTES)
            for _ in range(2):
                assert deallocate(file.descriptor, 0, UNIT_BYTES) == errno.EOPNOTSUPP
            assert file.read(0, UNIT_BYTES) == b"x" * UNIT_BYTES
        volume.unmount()
        volume.discards, volume.data_plane = DISCARDS, "native"
        volume.mount(read_only=True)
        with OpenFile(volume, os.O_RDONLY) as file:
            assert deallocate(file.descriptor, 0, UNIT_BYTES) in (errno.EBADF, errno.EROFS)
            assert file.read(0, UNIT_BYTES) == b"x" * UNIT_BYTES
        with pytest.raises(OSError, match="Read-only"):
            OpenFile(volume)
        volume.unmount()


def test_room_that_was_taken_in_advance_is_kept(disk: Path) -> None:
    with served_volume(
        disk, size_bytes=SIZE, data_plane="native", discards=DISCARDS, preallocated=True
    ) as volume:
        volume.mount()
        with OpenFile(volume) as file:
            file.write(0, b"x" * 4 * MEBIBYTE)
            file.sync()
            before = used(volume.data_path)
            assert before >= SIZE
            assert deallocate(file.descriptor, 0, SIZE) == 0
            file.sync()
            assert file.read(0, 4 * MEBIBYTE) == bytes(4 * MEBIBYTE)
            assert used(volume.data_path) >= SIZE
        volume.unmount()


@pytest.mark.parametrize("plane", ["python", "native"])
def test_zeros_that_are_written_become_holes_where_that_is_wanted(disk: Path, plane: str) -> None:
    with served_volume(disk, size_bytes=SIZE, data_plane=plane) as volume:  # type: ignore[arg-type]
        for wanted in (False, True):
            volume.discards = Discarding(zeros=wanted)
            volume.mount()
            with OpenFile(volume) as file:
                file.write(0, b"x" * 4 * MEBIBYTE)
                file.write(UNIT_BYTES + 100, bytes(2 * MEBIBYTE))
                file.write(3 * MEBIBYTE, bytes(CHUNK_BYTES))
                file.sync()
                expected = bytearray(b"x" * 4 * MEBIBYTE)
                expected[UNIT_BYTES + 100 : UNIT_BYTES + 100 + 2 * MEBIBYTE] = bytes(2 * MEBIBYTE)
                expected[3 * MEBIBYTE : 3 * MEBIBYTE + CHUNK_BYTES] = bytes(CHUNK_BYTES)
                assert file.read(0, 4 * MEBIBYTE) == expected
                held = 4 * MEBIBYTE - (2 * MEBIBYTE + CHUNK_BYTES if wanted else 0)
                # Beside it the data units at edges of requests, and a block of the extent tree.
                assert held <= used(volume.data_path) <= held + 4 * UNIT_BYTES + EXTENT_TREE
            volume.unmount()


@pytest.mark.parametrize("seed", RUNS)
@pytest.mark.parametrize("zeros", [False, True])
def test_the_exerciser_on_the_file(disk: Path, seed: int, zeros: bool) -> None:
    discards = Discarding(requests=True, zeros=zeros)
    with served_volume(disk, size_bytes=SHORT, data_plane="native", discards=discards) as volume:
        volume.mount()
        for alignment in (UNIT_BYTES, 1):
            options = Options(
                seed=seed,
                operations=operations(seed, 600),
                size_bytes=SHORT,
                longest_bytes=LONG_BYTES,
                fixed_size=True,
                deallocates=True,
                alignment=alignment,
                map_write=False,
            )
            exerciser = Exerciser(volume.file, options, directory=disk)
            counts = exerciser.run()
            assert min(counts["punch"], counts["zero"]) > 20
        volume.unmount()
        volume.data_plane, volume.discards = "python", Discarding()
        volume.mount(read_only=True)
        assert volume.file.read_bytes() == exerciser.expected
        volume.unmount()


@pytest.mark.parametrize("seed", RUNS)
@pytest.mark.parametrize("sector_size", [512, 4096])
def test_the_exerciser_on_the_loop_device(disk: Path, seed: int, sector_size: int) -> None:
    with served_volume(disk, size_bytes=SHORT, data_plane="native", discards=DISCARDS) as volume:
        exercise_loop(volume, disk, seed=seed, sector_size=sector_size, deallocates=True)


def test_many_terabytes_at_once(disk: Path) -> None:
    """In one call, and others are served meanwhile."""
    size = 8 * 2**40
    places = [0, 2**40 + 12345, 5 * 2**40 - 17, size - MEBIBYTE]
    with served_volume(disk, size_bytes=size, data_plane="native", discards=DISCARDS) as volume:
        volume.mount()
        with OpenFile(volume) as file:
            for place in places:
                file.write(place, os.urandom(MEBIBYTE))
            file.sync()
            assert used(volume.data_path) >= 4 * MEBIBYTE
            assert deallocate(file.descriptor, 1, size - 1) == 0
            assert any(file.read(0, 1))
            for place in places:
                assert not any(file.read(place + 1, MEBIBYTE - 1))
            file.sync()
            assert used(volume.data_path) <= 16 * UNIT_BYTES + EXTENT_TREE
        volume.unmount()


# ---------------------------------------------------------------- above the loop device


@pytest.fixture
def command(disk: Path) -> Iterator[Command]:
    with disposable_home(disk / "home") as made:
        made.run("init")
        yield made


def queue(attached: dict[str, str], name: str) -> int:
    path = Path("/sys/block") / Path(attached["Loop"]).name / "queue" / name
    return int(path.read_text())


def data_file(command: Command, name: str) -> Path:
    volume: str = command.json("volume", "show", name)["VolumeId"]
    return command.home / "volumes" / volume / "data"


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


NATIVE = ("--data-plane", "native")


@pytest.fixture
def name() -> str:
    """/dev/volcrypt is one for all homes of a machine."""
    return f"v{secrets.token_hex(5)}"


@pytest.fixture
def point(disk: Path) -> Path:
    path = disk / "point"
    path.mkdir()
    return path


@pytest.mark.parametrize(
    "key",
    [(), pytest.param(("--unencrypted",), marks=pytest.mark.soak)],
    ids=["encrypted", "unencrypted"],
)
def test_fstrim_gives_room_back_and_leaves_files_alone(
    command: Command, disk: Path, name: str, point: Path, key: tuple[str, ...]
) -> None:
    command.run("volume", "create", "--size", "64MiB", "--name", name, *key)
    data = data_file(command, name)
    options = (*NATIVE, "--discard")
    with attached(command, name, "--mkfs", "ext4", "--mount", point, *options) as device:
        assert queue(device, "discard_max_bytes") > 0
        assert queue(device, "discard_granularity") == UNIT_BYTES
        in_use = command.json("status")["InUse"]
        assert [(each["Discard"], each["DiscardZeros"]) for each in in_use] == [(True, False)]
        (point / "keep").write_bytes(os.urandom(4 * MEBIBYTE + 1))
        (point / "drop").write_bytes(os.urandom(24 * MEBIBYTE))
        run("sync", "-f", point)
        kept, before = digest(point / "keep"), used(data)
        first = command.run("snapshot", "create", "--wait", name)
        (point / "drop").unlink()
        run("sync", "-f", point)
        run("fstrim", point)
        assert used(data) < before - 20 * MEBIBYTE
        assert digest(point / "keep") == kept
        run("umount", point)
        second = command.run("snapshot", "create", "--wait", name)
        changed = command.json("snapshot", "diff", first, second)["ChangedRanges"]
        assert sum(each["Length"] for each in changed) >= 20 * MEBIBYTE
        run("mount", device["Loop"], point)
    # Incremental is full: another home's worth of looking at everything finds the same.
    made = command.run("volume", "create", "--snapshot-id", second)
    command.run("volume", "export", made, disk / "restored", "--yes")
    run("e2fsck", "-fn", disk / "restored")
    command.run("volume", "check", name)
    command.run("snapshot", "verify")
    with attached(command, name, "--mount", point) as device:
        assert queue(device, "discard_max_bytes") == 0
        assert digest(point / "keep") == kept
        assert b"not supported" in _fails("fstrim", point)


@contextmanager
def attached(command: Command, name: str, *options: str | Path) -> Iterator[dict[str, str]]:
    made = command.json("attach", name, *options)
    try:
        yield made
    finally:
        command.run("detach", name)


def _fails(*arguments: str | Path) -> bytes:
    done = subprocess.run(arguments, check=False, capture_output=True)
    assert done.returncode
    return done.stderr


def test_blkdiscard_empties_a_volume_and_mkfs_leaves_it_thin(
    command: Command, name: str, point: Path
) -> None:
    command.run("volume", "create", "--size", "64MiB", "--name", name)
    data = data_file(command, name)
    with attached(command, name, *NATIVE, "--discard", "--discard-zeros") as device:
        loop = Path(device["Loop"])
        with loop.open("r+b", buffering=0) as file:
            for _ in range(48):
                file.write(os.urandom(MEBIBYTE))
            os.fsync(file.fileno())
        full = used(data)
        run("blkdiscard", "--offset", "8MiB", "--length", "8MiB", loop)
        assert abs(full - used(data) - 8 * MEBIBYTE) <= EXTENT_TREE
        # Zeros all the same, whichever the kernel makes of it.
        run("blkdiscard", "--zeroout", "--offset", "24MiB", "--length", "8MiB", loop)
        content = loop.read_bytes()
        for start in (8, 24):
            assert not any(content[start * MEBIBYTE : (start + 8) * MEBIBYTE])
        assert all(any(content[mib * MEBIBYTE :][:MEBIBYTE]) for mib in (0, 7, 16, 23, 32, 47))
        run("mkfs.ext4", "-q", loop)
        assert used(data) < 12 * MEBIBYTE
        run("mount", "-o", "discard", loop, point)
        try:
            (point / "file").write_bytes(os.urandom(16 * MEBIBYTE))
            run("sync", "-f", point)
            before = used(data)
            (point / "file").unlink()
            run("sync", "-f", point)
            assert_falls_below(data, before - 12 * MEBIBYTE)
        finally:
            run("umount", point)


def test_what_cannot_be_is_refused_before_anything_is_done(
    command: Command, disk: Path, name: str, point: Path
) -> None:
    command.run("volume", "create", "--size", "4MiB", "--name", name)
    command.run("volume", "create", "--size", "4MiB", "--name", "full", "--preallocate")
    snapshot = command.run("snapshot", "create", "--wait", name)
    python = ("--data-plane", "python")
    for verb, *where in (("mount", name, point), ("attach", name)):
        said = command.fails(2, verb, *where, "--discard", *python)
        assert "--data-plane native" in said.partition("hint:")[2]
    said = command.fails(2, "mount", "full", point, "--discard-zeros", *python)
    assert "--preallocate" in said
    assert "read-only" in command.fails(2, "mount", snapshot, point, "--discard", *NATIVE)
    # A file system that has no holes.
    bare = disk / "bare"
    bare.mkdir()
    run("mount", "-t", "ramfs", "none", bare)
    try:
        command.run("volume", "create", "--size", "4MiB", "--name", "bare", "--data", bare / "d")
        for options in (("--discard", *NATIVE), ("--discard-zeros", *python)):
            said = command.fails(2, "mount", "bare", point, *options)
            assert "cannot give back" in said
        command.run("mount", "bare", point, *NATIVE)
        command.run("unmount", "bare")
        command.run("volume", "delete", "bare")
    finally:
        run("umount", bare)
    assert command.json("status")["InUse"] == []
    command.run("mount", "full", point, "--discard", *NATIVE)
    command.run("unmount", "full")


def test_a_lazy_volume(command: Command, disk: Path, point: Path) -> None:
    """What is not here yet is discarded as if it were, and does not come back."""
    content = os.urandom(8 * CHUNK_BYTES)
    (disk / "image").write_bytes(content)
    command.run("volume", "import", disk / "image", "--name", "source")
    command.run("snapshot", "create", "--wait", "source", "--name", "first")
    command.run("volume", "create", "--snapshot-id", "first", "--name", "lazy", "--fill-rate", "0")
    expected = bytearray(content)
    for turn in range(2):
        command.run("mount", "lazy", point, "--discard", *NATIVE)
        try:
            descriptor = os.open(point / "volume", os.O_RDWR)
            offset, length = (turn + 1) * 2 * CHUNK_BYTES - 100, CHUNK_BYTES + 200
            assert deallocate(descriptor, offset, length) == 0
            os.fsync(descriptor)
            os.close(descriptor)
            expected[offset : offset + length] = bytes(length)
            assert (point / "volume").read_bytes() == expected
        finally:
            command.kill_processes()
            command.clear_dead_mount(point)
    command.run("mount", "lazy", point)
    assert (point / "volume").read_bytes() == expected
    command.run("unmount", "lazy")


@pytest.mark.parametrize("volume", [True], ids=["encrypted"], indirect=True)
def test_discards_under_a_running_snapshot(volume: ServedVolume) -> None:
    """What it holds is what was there before, of every chunk."""
    content = os.urandom(SIZE)
    with OpenFile(volume) as file:
        for start in range(0, SIZE, MEBIBYTE):
            file.write(start, content[start : start + MEBIBYTE])
        with volume.control() as client:
            state = client.begin_capture()
            assert deallocate(file.descriptor, CHUNK_BYTES + 700, SIZE // 2) == 0
            expected = bytearray(content)
            expected[CHUNK_BYTES + 700 : CHUNK_BYTES + 700 + SIZE // 2] = bytes(SIZE // 2)
            assert file.read(0, SIZE) == expected
            for chunk in range(SIZE // CHUNK_BYTES):
                found = captured_chunk(volume, state, chunk)
                assert found == content[chunk * CHUNK_BYTES :][:CHUNK_BYTES]
            client.abort_capture()
    volume.unmount()


@pytest.mark.parametrize("flush", [True, False])
def test_the_power_goes(file_system: DisposableFileSystem, tmp_path: Path, flush: bool) -> None:
    """What was discarded and flushed is zeros; of the rest each sector is old or zeros."""
    point = tmp_path / "point"
    point.mkdir()
    content = os.urandom(8 * MEBIBYTE)
    with disposable_home(file_system.directory / "home") as command:
        command.run("init")
        command.run("volume", "create", "--size", "8MiB", "--name", "data")
        pid = command.json("mount", "data", point, "--discard", *NATIVE)["Pid"]
        gone: set[int] = set()
        with open(point / "volume", "r+b", buffering=0) as file:
            for start in range(0, len(content), MEBIBYTE):
                os.pwrite(file.fileno(), content[start : start + MEBIBYTE], start)
            os.fsync(file.fileno())
            for number in range(100):
                offset, length = number * 37 % 128 * 16 * UNIT_BYTES, 9 * UNIT_BYTES + 512
                assert deallocate(file.fileno(), offset, length) == 0
                gone.update(range(offset // SECTOR_BYTES, (offset + length) // SECTOR_BYTES))
            if flush:
                os.fsync(file.fileno())
            file_system.shut_down()
        lose_power(command, file_system, point, pid)
        command.run("mount", "data", point)
        found = (point / "volume").read_bytes()
        command.run("unmount", "data")
    lost = 0
    for sector in range(len(content) // SECTOR_BYTES):
        place = slice(sector * SECTOR_BYTES, (sector + 1) * SECTOR_BYTES)
        if sector in gone and not any(found[place]):
            continue
        assert found[place] == content[place], f"sector {sector} is neither old nor zeros"
        lost += sector in gone
    assert (lost == 0) is flush


def test_a_block_device_is_asked_the_same(command: Command, disk: Path, point: Path) -> None:
    backing = disk / "backing"
    backing.touch()
    os.truncate(backing, SIZE)
    loop = run("losetup", "--find", "--show", backing).strip()
    try:
        command.run("volume", "create", "--size", "16MiB", "--name", "onit", "--data", loop)
        command.run("mount", "onit", point, "--discard", *NATIVE)
        try:
            content = bytearray(os.urandom(8 * MEBIBYTE))
            with open(point / "volume", "r+b", buffering=0) as file:
                for start in range(0, len(content), MEBIBYTE):
                    os.pwrite(file.fileno(), content[start : start + MEBIBYTE], start)
                os.fsync(file.fileno())
                full = used(backing)
                assert deallocate(file.fileno(), MEBIBYTE + 100, 4 * MEBIBYTE) == 0
                os.fsync(file.fileno())
                content[MEBIBYTE + 100 : 5 * MEBIBYTE + 100] = bytes(4 * MEBIBYTE)
                assert os.pread(file.fileno(), len(content), 0) == content
            assert used(backing) <= full - 3 * MEBIBYTE
        finally:
            command.run("unmount", "onit")
        command.run("volume", "delete", "onit")
    finally:
        run("losetup", "--detach", loop)
