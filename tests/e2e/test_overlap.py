"""Many writers over each other: no 512-byte sector is ever a mixture, and none changes that nobody
wrote to.

Every sector carries the name of the write that it came from, again and again from its first byte to
its last, and its own place. In one half writers overlap each other as they like, in sectors that
share data units and across chunks. In the other they meet in few units, the *seams*: long writes,
which worker threads carry out, end there, and in the middle of each lie sectors that belong to one
writer each, who writes to them in requests that run inline. Those are the neighbours: if a lock is
lost, an older copy of the unit is written back, and the owner finds that his last write is undone.
While they write, readers look for mixtures; at the end every sector must be of a write that covered
it and that no other one followed.
"""

import mmap
import os
import random
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.served_volume import ServedVolume, served_volume
from volcrypt.geometry import CHUNK_BYTES, SECTOR_BYTES, UNIT_BYTES
from volcrypt.volume.device import INLINE_BYTES
from volcrypt.volume.loop import attach_loop, detach_loop

SIZE = 2 * CHUNK_BYTES
SECTORS = SIZE // SECTOR_BYTES
UNIT_SECTORS = UNIT_BYTES // SECTOR_BYTES
SEAM_SECTORS = (INLINE_BYTES + UNIT_BYTES) // SECTOR_BYTES
"""From one seam to the next: just more than what runs inline."""
SEAMS = range(SECTORS // 2, SECTORS - UNIT_SECTORS + 1, SEAM_SECTORS)
"""First sectors of the units in which writers meet."""
OWNED_PART = 3
"""Which sector of such a unit belongs to the first owner, and the next ones to the others."""
OWNERS = 2
BEGINNING = 0
"""The name of the write with which all begins."""
LONGEST_SECTORS = 700
_TAG = struct.Struct("<II8s")

WRITERS, READERS = 6, 2
SEEDS = [1, *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(2, 12))]


@dataclass(frozen=True, slots=True)
class Write:
    """Sectors from `first` on; between `began` and `ended` it changed them, in any order."""

    first: int
    count: int
    began: float
    ended: float


def tagged(number: int, first: int, count: int) -> bytes:
    """The content of `count` sectors of write `number`."""
    return b"".join(
        _TAG.pack(number, sector, b"volcrypt") * (SECTOR_BYTES // _TAG.size)
        for sector in range(first, first + count)
    )


def write_of(sector: int, content: bytes) -> int:
    """The write that a sector came from; fails for a mixture, and for another sector's content."""
    number, place, _ = _TAG.unpack_from(content)
    assert content == tagged(number, sector, 1), f"sector {sector} is a mixture: {content.hex()}"
    assert place == sector
    return int(number)


def free_extent(dice: random.Random) -> tuple[int, int]:
    """First sector and number of sectors of a write that belong to nobody."""
    if dice.random() < 0.5:
        count = dice.choice([1, 2, 7, 8, 9, 256, 257, 263, LONGEST_SECTORS])
        return dice.randrange(SECTORS // 2 - count), count
    # From behind what is owned in one seam up to that in the next.
    first = dice.choice(SEAMS[:-1]) + dice.randint(OWNED_PART + OWNERS, UNIT_SECTORS - 1)
    last = first // UNIT_SECTORS * UNIT_SECTORS + SEAM_SECTORS + dice.randrange(OWNED_PART)
    return first, last + 1 - first


class Bed:
    """The place that all write to; each thread opens it for itself."""

    def __init__(self, path: Path, flags: int) -> None:
        self._path = path
        self._flags = os.O_RDWR | os.O_CLOEXEC | flags
        self._own = threading.local()

    def _descriptor(self) -> tuple[int, memoryview]:
        if not hasattr(self._own, "descriptor"):
            self._own.descriptor = os.open(self._path, self._flags)
            self._own.buffer = memoryview(mmap.mmap(-1, SIZE))
        return self._own.descriptor, self._own.buffer

    def write(self, first: int, content: bytes) -> None:
        descriptor, buffer = self._descriptor()
        view = buffer[: len(content)]
        view[:] = content
        assert os.pwritev(descriptor, [view], first * SECTOR_BYTES) == len(content)

    def read(self, first: int, count: int) -> bytes:
        descriptor, buffer = self._descriptor()
        view = buffer[: count * SECTOR_BYTES]
        assert os.preadv(descriptor, [view], first * SECTOR_BYTES) == len(view)
        return bytes(view)

    def close(self) -> None:
        if hasattr(self._own, "descriptor"):
            os.close(self._own.descriptor)


def exercise(path: Path, flags: int, *, seed: int, turns: int) -> None:
    bed = Bed(path, flags)
    try:
        exercise_bed(bed, seed, turns)
    finally:
        bed.close()


def exercise_bed(bed: Bed, seed: int, turns: int) -> None:
    for first in range(0, SECTORS, LONGEST_SECTORS):
        bed.write(first, tagged(BEGINNING, first, min(LONGEST_SECTORS, SECTORS - first)))
    writes: dict[int, Write] = {BEGINNING: Write(0, SECTORS, 0, 0)}
    done = threading.Event()

    def writer(number: int) -> None:
        dice = random.Random(100 * seed + number)
        owned = {seam + OWNED_PART + number: BEGINNING for seam in SEAMS}
        for turn in range(turns):
            name = 1 + turn * WRITERS + number
            if number < OWNERS:
                first, count = dice.choice(list(owned)), 1
                found = write_of(first, bed.read(first, 1))
                assert found == owned[first], f"sector {first}: write {owned[first]} was undone"
                owned[first] = name
            else:
                first, count = free_extent(dice)
            began = time.monotonic()
            bed.write(first, tagged(name, first, count))
            writes[name] = Write(first, count, began, time.monotonic())

    def reader(number: int) -> None:
        dice = random.Random(100 * seed + 50 + number)
        while not done.is_set():
            count = dice.choice([1, 8, 9, 300])
            first = dice.randrange(SECTORS - count)
            content = bed.read(first, count)
            for sector in range(first, first + count):
                part = content[(sector - first) * SECTOR_BYTES :][:SECTOR_BYTES]
                write_of(sector, part)

    run_beside_each_other(writer, reader, done, bed)
    check_outcome(bed.read(0, SECTORS), writes)


def run_beside_each_other(
    writer: Callable[[int], None], reader: Callable[[int], None], done: threading.Event, bed: Bed
) -> None:
    def alone(work: Callable[[int], None], number: int) -> None:
        try:
            work(number)
        finally:
            bed.close()

    with ThreadPoolExecutor(WRITERS + READERS) as pool:
        readers = [pool.submit(alone, reader, number) for number in range(READERS)]
        writers = [pool.submit(alone, writer, number) for number in range(WRITERS)]
        try:
            for future in writers:
                future.result()
        finally:
            done.set()
        for future in readers:
            future.result()


def check_outcome(content: bytes, writes: dict[int, Write]) -> None:
    latest_began = [0.0] * SECTORS
    for write in writes.values():
        for sector in range(write.first, write.first + write.count):
            latest_began[sector] = max(latest_began[sector], write.began)
    for sector in range(SECTORS):
        name = write_of(sector, content[sector * SECTOR_BYTES :][:SECTOR_BYTES])
        write = writes[name]
        assert write.first <= sector < write.first + write.count, "not its sector"
        assert write.ended >= latest_began[sector], (
            f"sector {sector} is of write {name}, which another one had followed"
        )


@contextmanager
def place(volume: ServedVolume, door: str) -> Iterator[tuple[Path, int]]:
    if door == "file":
        yield volume.file, 0
        return
    device = attach_loop(volume.file, sector_size=SECTOR_BYTES, read_only=False)
    try:
        yield device, os.O_DIRECT
    finally:
        detach_loop(device, volume="books")


@pytest.mark.parametrize("door", ["file", "loop"])
@pytest.mark.parametrize("seed", SEEDS)
def test_no_sector_is_a_mixture_and_no_neighbour_changes(
    tmp_path: Path, door: str, seed: int
) -> None:
    with served_volume(tmp_path, size_bytes=SIZE) as volume:
        volume.mount()
        with place(volume, door) as (path, flags):
            exercise(path, flags, seed=seed, turns=300 if seed == 1 else 3000)
        volume.unmount()
