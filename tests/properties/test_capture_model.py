"""Snapshots of an open device, incremental by its change map, for any history: each is the volume
at one point, whatever is written, kept, released, grown, given up or killed meanwhile.

An *image* is what a snapshot would hold: chunks that were read for it, all others those of its
parent. It must be what reading everything at its point would have given.
"""

import errno
import os
import shutil
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp

import trio
import trio.testing
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from typing_extensions import Buffer

from volcrypt.chunk_set import ChunkSet
from volcrypt.errors import VolcryptError
from volcrypt.formats.change_map import ParentPoint
from volcrypt.formats.document import MacSeal
from volcrypt.geometry import CHUNK_BYTES, UNIT_BYTES, chunk_count, chunk_range
from volcrypt.names import SnapshotId, StoreId, VolumeId
from volcrypt.snapshot.plan import mark_grown
from volcrypt.volume.allocation import extend
from volcrypt.volume.capture import RunningCapture
from volcrypt.volume.change_map import ChangeMap
from volcrypt.volume.datafile import DataFile
from volcrypt.volume.device import INLINE_BYTES, MAX_REQUEST_BYTES, Device
from volcrypt.volume.discard import Discards
from volcrypt.volume.preserve import PreservedChunks, PreservedReader
from volcrypt.volume.volume import Volume

SIZE = 4 * CHUNK_BYTES + UNIT_BYTES
GROWTH = CHUNK_BYTES + 2 * UNIT_BYTES
Image = dict[int, bytes]


@dataclass(frozen=True, slots=True)
class Write:
    """With seed 0 it is a discard."""

    offset: int
    length: int
    seed: int


WRITES = st.builds(
    Write,
    offset=st.integers(0, SIZE // UNIT_BYTES - 1).map(lambda unit: unit * UNIT_BYTES)
    | st.integers(0, SIZE - 1),
    length=st.sampled_from([1, UNIT_BYTES, CHUNK_BYTES, MAX_REQUEST_BYTES]),
    seed=st.just(0) | st.integers(1, 255),
)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """`under_way` is written while it begins, and comes to `stops_at` before; then, one after the
    other: a write, "read" (the next chunk), "grow", or "fail" (the next chunk is not kept)."""

    under_way: Write | None
    stops_at: str
    steps: Sequence[Write | str]
    ends: str


SNAPSHOTS = st.builds(
    Snapshot,
    under_way=st.none() | WRITES.filter(lambda write: write.seed > 0),
    stops_at=st.sampled_from(["its marks", "its data"]),
    steps=st.lists(WRITES | st.sampled_from(["read", "read", "grow", "fail"]), max_size=8),
    ends=st.sampled_from(["commit", "commit", "commit", "abort", "kill"]),
)


class FailingChunks(PreservedChunks):
    fails = False

    def keep(self, chunk: int) -> None:
        if self.fails:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        super().keep(chunk)


class Gate:
    """Stops writes that are too large for the loop where it is told to."""

    def __init__(self) -> None:
        self.place = ""
        self.opened = threading.Event()

    def pass_through(self, place: str, data: Buffer) -> None:
        if place == self.place and memoryview(data).nbytes > INLINE_BYTES:
            assert self.opened.wait(10)


class SlowFile(DataFile):
    gate: Gate

    def write(self, offset: int, data: Buffer) -> None:
        self.gate.pass_through("its data", data)
        super().write(offset, data)


class SlowVolume(Volume):
    gate: Gate

    def write(self, offset: int, data: Buffer) -> None:
        self.gate.pass_through("its marks", data)
        super().write(offset, data)


class World:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.size = SIZE
        DataFile.create(directory / "data", SIZE).close()
        self.model = bytearray(SIZE)
        self.images: dict[SnapshotId, Image] = {}
        self.open()

    def open(self) -> None:
        self.gate = Gate()
        self.data = SlowFile.open(self.directory / "data", self.size)
        self.data.gate = self.gate
        self.changes = ChangeMap.open(
            self.directory / "live",
            self.directory / "clean",
            volume_id=VolumeId("vol-0123456789abcdef0"),
            size_bytes=self.size,
            seal=MacSeal(bytes(32)),
            data_path=self.directory / "data",
        )
        self.volume = SlowVolume(
            self.data, size_bytes=self.size, data_key=None, changes=self.changes
        )
        self.volume.gate = self.gate
        self.device = Device(self.volume, changes=self.changes, open_keeper=self.open_keeper)

    def open_keeper(self) -> FailingChunks:
        self.keeper = FailingChunks(self.data, self.directory)
        return self.keeper

    def kill(self) -> None:
        self.volume.close()
        self.changes.close()
        self.data.close()

    async def write(self, step: Write) -> None:
        content = bytes([step.seed]) * min(step.length, self.size - step.offset)
        if step.seed == 0:
            discards = Discards(self.device)
            await discards.discard(step.offset, len(content), keeps_size=True)
        else:
            assert await self.device.write(step.offset, content) == len(content)
        self.model[step.offset : step.offset + len(content)] = content

    async def grow(self) -> None:
        extend(self.directory / "data", self.size, self.size + GROWTH)
        self.size += GROWTH
        self.model += bytes(GROWTH)
        await self.device.grow(self.size)

    async def snapshot(self, steps: Snapshot) -> None:
        captures = self.device.captures
        async with trio.open_nursery() as nursery:
            if steps.under_way is not None:
                self.gate.place = steps.stops_at
                self.gate.opened.clear()
                nursery.start_soon(self.write, steps.under_way)
                await trio.testing.wait_all_tasks_blocked()
            capture = await captures.begin()
            self.gate.opened.set()
            bits = await captures.settle(capture)
        # The write under way had begun, so it belongs to the captured point as a whole.
        point = bytes(self.model)
        try:
            image = await self.take(steps, capture, bits)
            if steps.ends == "commit":
                number = SnapshotId(f"snap-{len(self.images):017x}")
                await captures.commit(
                    capture,
                    ParentPoint(
                        store_id=StoreId("store-0123456789abcdef0"),
                        snapshot_id=number,
                        root=bytes(32),
                    ),
                )
                assert image == chunks_of(point, capture.size_bytes)
                self.images[number] = image
                event("incremental" if bits is not None else "full")
        except VolcryptError:
            event("failed")
        if steps.ends == "kill":
            with suppress(VolcryptError):
                captures.check(capture)
            self.kill()
            self.keeper.close()
            self.open()
        else:
            await captures.abort(capture)

    async def take(self, steps: Snapshot, capture: RunningCapture, bits: bytearray | None) -> Image:
        """What is read of a capture; raises VolcryptError when it fails."""
        captures, size = self.device.captures, capture.size_bytes
        parent = (
            {} if capture.point.parent is None else self.images[capture.point.parent.snapshot_id]
        )
        data = DataFile.open(self.directory / "data", size, read_only=True)
        if bits is None:
            wanted = ChunkSet(chunk_count(size), data.candidate_chunks())
        else:
            wanted = ChunkSet.of_packed(bits, chunk_count(size))
            if len(parent) < chunk_count(size) or len(parent[len(parent) - 1]) < CHUNK_BYTES:
                parent_bytes = sum(map(len, parent.values()))
                if parent_bytes < size:
                    mark_grown(wanted, parent_bytes, data.candidate_chunks)
        image = {
            index: parent.get(index, b"").ljust(chunk_range(index, size).length, b"\0")
            for index in range(chunk_count(size))
        }
        await captures.release_unwanted(capture, wanted.packed())
        to_read = list(wanted)
        with PreservedReader([os.dup(fd) for fd in capture.keeper.descriptors]) as kept, data:

            def read() -> None:
                chunk = to_read.pop(0)
                buffer = bytearray(chunk_range(chunk, size).length)
                data.read_chunk(chunk, buffer)
                kept.replace(chunk, buffer)
                captures.release(capture, range(chunk, chunk + 1))
                image[chunk] = bytes(buffer)

            for step in steps.steps:
                match step:
                    case Write():
                        await self.write(step)
                    case "read" if to_read:
                        read()
                    case "grow":
                        await self.grow()
                    case "fail":
                        self.keeper.fails = True
            while to_read:
                read()
        return image


def chunks_of(content: bytes, size_bytes: int) -> Image:
    return {
        index: content[index * CHUNK_BYTES : min((index + 1) * CHUNK_BYTES, size_bytes)]
        for index in range(chunk_count(size_bytes))
    }


@given(st.lists(WRITES | SNAPSHOTS, min_size=3, max_size=12))
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_every_snapshot_is_the_volume_at_one_point(steps: list[Write | Snapshot]) -> None:
    directory = Path(mkdtemp(dir="/dev/shm", prefix="volcrypt-test-"))

    async def run() -> None:
        world = World(directory)
        for step in steps:
            if isinstance(step, Write):
                await world.write(step)
            else:
                await world.snapshot(step)
        found = bytearray(world.size)
        world.volume.read_into(0, found)
        assert found == world.model
        await world.device.close()
        world.kill()

    try:
        trio.run(run)
    finally:
        shutil.rmtree(directory)
