"""A loop device on a served volume: raw sectors against a model, and ext4 through a kill."""

import hashlib
import mmap
import os
import random
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.file_system import run
from tests.served_volume import ServedVolume, served_volume
from volcrypt.errors import MountError, VolumeInUseError
from volcrypt.volume.loop import (
    PROBE_BYTES,
    attach_loop,
    backing_file,
    detach_dead_loops,
    detach_loop,
    loops_of,
    probe_sector_size,
)

SIZE = 48 * 2**20


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[ServedVolume]:
    with served_volume(tmp_path, size_bytes=SIZE) as made:
        made.mount()
        yield made


def attach(volume: ServedVolume) -> Path:
    with volume.file.open("rb") as file:
        sector_size = probe_sector_size(file.read(PROBE_BYTES))
    return attach_loop(volume.file, sector_size=sector_size, read_only=False)


def sector_size_of(device: Path) -> int:
    return int(Path("/sys/block", device.name, "queue/logical_block_size").read_text())


@contextmanager
def mounted(device: Path, directory: Path) -> Iterator[None]:
    directory.mkdir(exist_ok=True)
    run("mount", device, directory)
    try:
        yield
    finally:
        if os.path.ismount(directory):
            run("umount", directory)


def write_file(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


@pytest.mark.parametrize(
    ("sector_size", "flags"), [(512, os.O_DIRECT), (4096, os.O_DIRECT), (512, 0)]
)
def test_random_sectors_against_a_model(volume: ServedVolume, sector_size: int, flags: int) -> None:
    dice = random.Random(sector_size)
    model = bytearray(SIZE)
    device = attach_loop(volume.file, sector_size=sector_size, read_only=False)
    buffer = mmap.mmap(-1, 2**21)
    descriptor = os.open(device, os.O_RDWR | flags)
    try:
        for _ in range(150):
            length = dice.choice([1, 2, 3, 8, 9, 300, 2**21 // sector_size]) * sector_size
            length = min(length, 2**21)
            offset = dice.randrange((SIZE - length) // sector_size) * sector_size
            view = memoryview(buffer)[:length]
            if dice.random() < 0.6:
                view[:] = dice.randbytes(length)
                model[offset : offset + length] = view
                assert os.pwritev(descriptor, [view], offset) == length
            else:
                assert os.preadv(descriptor, [view], offset) == length
                assert view == model[offset : offset + length]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
        detach_loop(device, volume="books")
    assert volume.file.read_bytes() == model


@pytest.mark.parametrize(("block_size", "sector_size"), [(1024, 512), (4096, 4096)])
def test_ext4_survives_a_kill_of_the_process(
    volume: ServedVolume, tmp_path: Path, block_size: int, sector_size: int
) -> None:
    """What was synced is there, the journal replays, and nothing needs a hand but the umount of
    the file system that lost its disk.
    """
    directory = tmp_path / "fs"
    run("mkfs.ext4", "-q", "-b", str(block_size), volume.file)
    device = attach(volume)
    assert sector_size_of(device) == sector_size
    dice = random.Random(block_size)
    contents = {f"file-{index}": dice.randbytes(dice.randrange(300_000)) for index in range(30)}
    with mounted(device, directory):
        for name, content in contents.items():
            write_file(directory / name, content)
        # Work that nobody synced is under way when the kill comes.
        busy = subprocess.Popen(
            ["dd", "if=/dev/urandom", f"of={directory / 'unsynced'}", "bs=64k", "status=none"],
            stderr=subprocess.DEVNULL,
        )
        write_file(directory / "last", b"synced while another wrote")
        volume.signal(signal.SIGKILL)
        busy.wait(30)
        with pytest.raises(VolumeInUseError, match="ext4 file system mounted at"):
            detach_dead_loops(volume.file, volume="books")
    detach_dead_loops(volume.file, volume="books")
    assert backing_file(device) is None

    volume.mount()
    device = attach(volume)
    with mounted(device, directory):
        assert (directory / "last").read_bytes() == b"synced while another wrote"
        for name, content in contents.items():
            found = hashlib.sha256((directory / name).read_bytes()).digest()
            assert found == hashlib.sha256(content).digest()
    run("e2fsck", "-fn", device)
    detach_loop(device, volume="books")
    run("e2fsck", "-fn", volume.file)
    volume.unmount()
    assert list(volume.runtime.iterdir()) == []


def test_data_that_a_detach_cannot_write_is_told(volume: ServedVolume) -> None:
    device = attach(volume)
    with device.open("r+b") as file:
        file.write(b"in the cache of the device")
        file.flush()
        volume.signal(signal.SIGKILL)
        with pytest.raises(OSError, match="Input/output error"):
            os.fsync(file.fileno())
        file.seek(0)
        file.write(b"again")
    with pytest.raises(
        MountError, match=rf"^{device} is detached, and the last data written to it may be lost"
    ):
        detach_loop(device, volume="books")
    assert backing_file(device) is None


def test_who_looks_in_for_a_moment_keeps_nobody(volume: ServedVolume) -> None:
    """As `losetup` and `blkid` do, on all devices of a machine."""
    device = attach(volume)
    with subprocess.Popen(
        ["sh", "-c", f"exec 3<{device}; echo; sleep 0.2"], stdout=subprocess.PIPE
    ) as passer:
        assert passer.stdout is not None
        passer.stdout.readline()
        detach_loop(device, volume="books")
    assert backing_file(device) is None
    volume.unmount()


def test_whoever_keeps_a_volume_attached_is_named(volume: ServedVolume, tmp_path: Path) -> None:
    run("mkfs.ext4", "-q", volume.file)
    device = attach(volume)
    assert loops_of(volume.file) == [device]
    with mounted(device, tmp_path / "fs"):
        with pytest.raises(VolumeInUseError, match="ext4 file system mounted at"):
            detach_loop(device, volume="books")
        with volume.control() as client, pytest.raises(VolumeInUseError) as caught:
            client.unmount()
        assert str(caught.value) == f"volume books is in use by loop device {device}"
        assert caught.value.hint == "volcrypt detach books"
        write_file(tmp_path / "fs" / "still", b"works")
    detach_loop(device, volume="books")
    assert backing_file(device) is None
    volume.unmount()
