"""What a volume's process needs of memory: little, at any size, and no more after long work."""

import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.served_volume import ServedVolume, served_volume
from volcrypt.formats.change_map import ParentPoint
from volcrypt.geometry import UNIT_BYTES
from volcrypt.names import SnapshotId, StoreId

MIB, GIB, TIB = 2**20, 2**30, 2**40
LIMIT_BYTES = 100 * MIB
PARENT = ParentPoint(
    store_id=StoreId("store-00000000000000001"),
    snapshot_id=SnapshotId("snap-00000000000000001"),
    root=bytes(32),
)


def memory_of(pid: int, name: str) -> int:
    """`VmRSS`, `VmHWM` (the most there ever was), ... of a process, in bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


@pytest.fixture
def directory() -> Iterator[Path]:
    """On a file system that can hold a file of any size."""
    made = Path(tempfile.mkdtemp(dir="/dev/shm"))
    yield made
    shutil.rmtree(made)


@pytest.mark.parametrize("size_bytes", [GIB, 16 * TIB], ids=["1GiB", "16TiB"])
def test_the_size_of_a_volume_costs_nothing(directory: Path, size_bytes: int) -> None:
    """First and last byte, and a point in time: nothing is looked through, nothing is in memory."""
    with served_volume(directory, size_bytes=size_bytes) as volume:
        for turn in range(2):
            volume.mount()
            descriptor = os.open(volume.file, os.O_RDWR)
            try:
                for place in (0, size_bytes // 2, size_bytes - UNIT_BYTES):
                    before = bytes(UNIT_BYTES) if turn == 0 else b"%d" % place * 64
                    assert os.pread(descriptor, len(before), place) == before
                    os.pwrite(descriptor, b"%d" % place * 64, place)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            with volume.control() as client:
                client.begin_capture()
                client.commit_capture(PARENT)
            assert memory_of(volume.pid, "VmHWM") < LIMIT_BYTES
            volume.unmount()
        assert volume.data_path.stat().st_blocks * 512 < 64 * 1024


def work(volume: ServedVolume, dice: random.Random, requests: int) -> None:
    """Reads, writes, syncs, captures; sizes and places as they come, many callers' worth."""
    descriptor = os.open(volume.file, os.O_RDWR)
    try:
        for number in range(requests):
            length = dice.choice([1, 512, 4096, 9000, 65536, 200_000, 2 * MIB])
            offset = dice.randrange(volume.size_bytes - length)
            if dice.random() < 0.6:
                os.pwrite(descriptor, dice.randbytes(length), offset)
            else:
                os.pread(descriptor, length, offset)
            if number % 50 == 49:
                os.fsync(descriptor)
            if number % 200 == 199:
                with volume.control() as client:
                    client.begin_capture()
                    client.status()
                    client.commit_capture(PARENT)
    finally:
        os.close(descriptor)


def test_many_large_requests_at_once_take_little(tmp_path: Path) -> None:
    """Callers wait for each other before they cost memory, also those that Python has to serve."""
    callers, length = 48, MIB
    with served_volume(tmp_path, size_bytes=(callers + 1) * MIB) as volume:
        volume.mount()

        def call(number: int) -> None:
            content = random.Random(number).randbytes(length)
            descriptor = os.open(volume.file, os.O_RDWR)
            try:
                for offset in (number * length, number * length + 512) * 2:
                    assert os.pwrite(descriptor, content, offset) == length
                    os.pread(descriptor, length, offset)
            finally:
                os.close(descriptor)

        with ThreadPoolExecutor(callers) as pool:
            list(pool.map(call, range(callers)))
        assert memory_of(volume.pid, "VmHWM") < LIMIT_BYTES
        volume.unmount()


@pytest.mark.parametrize(
    ("rounds", "requests"), [(4, 400), pytest.param(60, 20_000, marks=pytest.mark.soak)]
)
def test_memory_is_flat_over_long_work(tmp_path: Path, rounds: int, requests: int) -> None:
    """After a first round, which fills its pools, a process grows no more."""
    dice = random.Random(11)
    with served_volume(tmp_path, size_bytes=64 * MIB) as volume:
        volume.mount()
        resident = []
        for _ in range(rounds):
            work(volume, dice, requests)
            resident.append(memory_of(volume.pid, "VmRSS"))
        descriptors = len(list(Path(f"/proc/{volume.pid}/fd").iterdir()))
        assert memory_of(volume.pid, "VmHWM") < LIMIT_BYTES
        assert max(resident) - resident[0] < 4 * MIB, [size // 1024 for size in resident]
        assert descriptors < 40
        volume.unmount()
