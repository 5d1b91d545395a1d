"""Device against a bytearray: batches of requests at once, flushes, growth, kills and power cuts.

Requests of a batch overlap as they like, inline or in worker threads. Afterwards every sector must
be what the writes of the batch give in one order, all of them; what a read saw meanwhile, and what
a power cut leaves of it, what some of them give in some order. Writes that returned before a flush
began are there after any cut.
"""

import shutil
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from itertools import permutations
from pathlib import Path
from random import Random
from tempfile import mkdtemp

import pytest
import trio
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from typing_extensions import Buffer

from tests.fakes.datafile import MemoryDataFile
from tests.fakes.preserve import MemoryKeeper
from volcrypt.crypto.data_key import DataKey
from volcrypt.formats.document import MacSeal
from volcrypt.geometry import CHUNK_BYTES, SECTOR_BYTES, UNIT_BYTES, ByteRange
from volcrypt.names import VolumeId
from volcrypt.volume.change_map import ChangeMap
from volcrypt.volume.device import INLINE_BYTES, Device
from volcrypt.volume.discard import Discards
from volcrypt.volume.volume import Volume

SIZE = CHUNK_BYTES + 2 * UNIT_BYTES
GROWN = [SIZE + UNIT_BYTES, 2 * CHUNK_BYTES, 2 * CHUNK_BYTES + 3 * UNIT_BYTES]
SEAMS = [0, 3 * UNIT_BYTES, INLINE_BYTES + 3 * UNIT_BYTES, CHUNK_BYTES, SIZE]
LENGTHS = [1, SECTOR_BYTES, 700, UNIT_BYTES, 3 * UNIT_BYTES, INLINE_BYTES, INLINE_BYTES + 700]


class SlowData(MemoryDataFile):
    """In a worker thread it takes its time, so that others come in between."""

    def read_into(self, offset: int, buffer: Buffer) -> None:
        super().read_into(offset, buffer)
        if threading.current_thread() is not threading.main_thread():
            time.sleep(0.0005)


@dataclass(frozen=True, slots=True)
class Request:
    kind: str
    seam: int
    shift: int
    length: int

    def extent(self, size_bytes: int) -> ByteRange:
        offset = min(max(self.seam + self.shift, 0), size_bytes - 1)
        return ByteRange(offset, min(self.length, size_bytes - offset))


NEIGHBOURS = st.builds(
    lambda seam, places: [Request("write", seam, 1100 * place, 700) for place in places],
    st.sampled_from(SEAMS[:-1]),
    st.lists(st.integers(0, 2), min_size=2, max_size=3),
)
"""Parts of one data unit."""

REQUESTS = NEIGHBOURS | st.lists(
    st.builds(
        Request,
        st.sampled_from(["write", "write", "discard", "read", "flush"]),
        st.sampled_from(SEAMS),
        st.sampled_from([-UNIT_BYTES, -700, -SECTOR_BYTES, 0, SECTOR_BYTES, 1000]),
        st.sampled_from(LENGTHS),
    ),
    min_size=1,
    max_size=5,
).filter(lambda requests: sum(r.kind in ("write", "discard") for r in requests) <= 3)


@dataclass(frozen=True, slots=True)
class Patch:
    """What a write, or a discard, puts where."""

    extent: ByteRange
    data: bytes


def apply(sector: int, content: bytes, patches: tuple[Patch, ...]) -> bytes:
    """A sector after some writes in this order."""
    start = sector * SECTOR_BYTES
    result = bytearray(content)
    for patch in patches:
        first = max(start, patch.extent.offset)
        end = min(start + SECTOR_BYTES, patch.extent.end)
        if first < end:
            source = patch.data[first - patch.extent.offset : end - patch.extent.offset]
            result[first - start : end - start] = source
    return bytes(result)


def sectors_of(extent: ByteRange) -> range:
    return range(extent.offset // SECTOR_BYTES, -(-extent.end // SECTOR_BYTES))


class DeviceModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.memory = Path(mkdtemp(dir="/dev/shm"))
        self.size_bytes = SIZE
        (self.memory / "data").write_bytes(b"")
        self.storage = SlowData(SIZE)
        self.model = bytearray(SIZE)
        # Per sector written since the last flush, what it may be after a power cut.
        self.unsynced: dict[int, set[bytes]] = {}
        self.writes = 0

    @initialize(is_encrypted=st.booleans(), drops_zeros=st.booleans())
    def open_first(self, is_encrypted: bool, drops_zeros: bool) -> None:
        self.drops_zeros = drops_zeros
        self.key = DataKey(bytearray(range(64))) if is_encrypted else None
        self.open()

    def open(self) -> None:
        self.changes = ChangeMap.open(
            self.memory / "live",
            self.memory / "clean",
            volume_id=VolumeId("vol-0123456789abcdef0"),
            size_bytes=self.size_bytes,
            seal=MacSeal(bytes(32)),
            data_path=self.memory / "data",
        )
        self.volume = Volume(
            self.storage,
            size_bytes=self.size_bytes,
            data_key=self.key,
            changes=self.changes,
            drops_zeros=self.drops_zeros,
        )
        self.device = Device(
            self.volume,
            open_keeper=lambda: MemoryKeeper(self.storage),
            changes=self.changes,
        )

    def end_process(self) -> None:
        self.volume.close()
        self.changes.close()

    def sector(self, index: int) -> bytes:
        return bytes(self.model[index * SECTOR_BYTES : (index + 1) * SECTOR_BYTES])

    def set_cached(self, is_cached: bool) -> None:
        self.storage.is_cached = is_cached

    # ------------------------------------------------------------ requests

    @rule(requests=REQUESTS, is_cached=st.booleans())
    def batch(self, requests: list[Request], is_cached: bool) -> None:
        self.set_cached(is_cached)
        patches: list[Patch] = []
        reads: list[tuple[ByteRange, bytes]] = []
        flushes = False

        async def read(extent: ByteRange) -> None:
            reads.append((extent, await self.read(extent)))

        async def work() -> None:
            nonlocal flushes
            async with self.serving(), trio.open_nursery() as nursery:
                for request in requests:
                    extent = request.extent(self.size_bytes)
                    if request.kind == "flush":
                        flushes = True
                        nursery.start_soon(self.device.flush)
                    elif request.kind == "read":
                        nursery.start_soon(read, extent)
                    elif request.kind == "discard":
                        patches.append(Patch(extent, bytes(extent.length)))
                        nursery.start_soon(self.discard, extent)
                    else:
                        self.writes += 1
                        # Now and then zeros, which may become holes.
                        pattern = b"%7d." % self.writes if self.writes % 4 else bytes(8)
                        data = (pattern * (extent.length // 8 + 1))[: extent.length]
                        patches.append(Patch(extent, data))
                        nursery.start_soon(self.write, patches[-1])

        trio.run(work)
        self.set_cached(True)
        for extent, data in reads:
            self.check_read(extent, data, patches)
        if flushes:
            # What the batch itself wrote may have come too late for it.
            self.unsynced.clear()
        found = bytearray(self.size_bytes)
        self.volume.read_into(0, found)
        for sector in sorted({s for patch in patches for s in sectors_of(patch.extent)}):
            here = [patch for patch in patches if sector in sectors_of(patch.extent)]
            before = self.sector(sector)
            after = found[sector * SECTOR_BYTES : (sector + 1) * SECTOR_BYTES]
            complete = {apply(sector, before, order) for order in permutations(here)}
            assert bytes(after) in complete, f"sector {sector} is what no order of writes gives"
            versions = self.unsynced.setdefault(sector, {before})
            for version in list(versions):
                versions.update(partial_outcomes(sector, version, here))
            versions.update(partial_outcomes(sector, before, here))
            self.model[sector * SECTOR_BYTES : (sector + 1) * SECTOR_BYTES] = after

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """While requests are made."""
        yield

    async def read(self, extent: ByteRange) -> bytes:
        # What comes back is only good until the next checkpoint.
        return bytes(await self.device.read(extent.offset, extent.length))

    async def write(self, patch: Patch) -> None:
        size = await self.device.write(patch.extent.offset, patch.data)
        assert size == patch.extent.length

    async def discard(self, extent: ByteRange) -> None:
        discards = Discards(self.device)
        await discards.discard(extent.offset, extent.length, keeps_size=True)

    def check_read(self, extent: ByteRange, data: bytes, patches: list[Patch]) -> None:
        assert len(data) == extent.length
        for sector in sectors_of(extent):
            start, end = sector * SECTOR_BYTES, (sector + 1) * SECTOR_BYTES
            first, last = max(start, extent.offset), min(end, extent.end)
            here = [patch for patch in patches if sector in sectors_of(patch.extent)]
            allowed = {
                outcome[first - start : last - start]
                for outcome in partial_outcomes(sector, self.sector(sector), here)
            }
            assert data[first - extent.offset : last - extent.offset] in allowed

    @rule()
    def flush(self) -> None:
        trio.run(self.device.flush)
        self.unsynced.clear()

    @precondition(lambda self: self.size_bytes < GROWN[-1])
    @rule(step=st.integers(0, len(GROWN) - 1), requests=REQUESTS)
    def grow(self, step: int, requests: list[Request]) -> None:
        """The data file is longer first, as `volume grow` makes it."""
        larger = [size for size in GROWN if size > self.size_bytes]
        size_bytes = larger[step % len(larger)]
        trio.run(partial(self.device.grow, size_bytes))
        self.model += bytes(size_bytes - self.size_bytes)
        self.size_bytes = size_bytes
        assert self.device.size_bytes == size_bytes
        self.batch(requests, is_cached=True)

    # ------------------------------------------------------------ ends

    @precondition(lambda self: self.unsynced)
    @rule()
    def kill(self) -> None:
        self.end_process()
        self.open()

    @rule()
    def close_and_open(self) -> None:
        trio.run(self.device.close)
        self.unsynced.clear()
        self.changes.save_clean()
        self.end_process()
        self.open()

    @precondition(lambda self: self.unsynced)
    @rule(seed=st.integers(0, 2**32))
    def lose_power(self, seed: int) -> None:
        # How much there is to choose depends on the order of threads: nothing to be drawn for.
        self.end_process()
        self.storage.lose_power(Random(seed).randrange)
        (self.memory / "live").unlink()
        self.open()
        for sector, versions in self.unsynced.items():
            buffer = bytearray(SECTOR_BYTES)
            self.volume.read_into(sector * SECTOR_BYTES, buffer)
            assert bytes(buffer) in versions, f"sector {sector} is neither old nor new"
            self.model[sector * SECTOR_BYTES : (sector + 1) * SECTOR_BYTES] = buffer
        self.unsynced.clear()

    @invariant()
    def everything_reads_back(self) -> None:
        buffer = bytearray(self.size_bytes)
        self.volume.read_into(0, buffer)
        assert buffer == self.model

    def teardown(self) -> None:
        if hasattr(self, "volume"):
            self.end_process()
        shutil.rmtree(self.memory)


def partial_outcomes(sector: int, content: bytes, patches: list[Patch]) -> Iterator[bytes]:
    """What some of the writes, none or all, make of a sector in some order."""
    for count in range(len(patches) + 1):
        for some in permutations(patches, count):
            yield apply(sector, content, some)


QUICK = settings(
    max_examples=40,
    stateful_step_count=20,
    deadline=None,
    # What depends on the order of threads does not get simpler by trying again.
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow],
)
DeviceModel.TestCase.settings = QUICK
TestDeviceModel = DeviceModel.TestCase


class LongDeviceModel(DeviceModel):
    """The same for long."""


LongDeviceModel.TestCase.settings = settings(QUICK, max_examples=3000, stateful_step_count=40)
TestDeviceModelForLong = pytest.mark.soak(LongDeviceModel.TestCase)
