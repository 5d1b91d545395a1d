"""A lazy device against a bytearray: reads, writes, discards, touches, fills, kills, power cuts.

After every step what is read is the snapshot with what was written over it, or an error where the
snapshot cannot be had. After a kill nothing that was written is missing; after a power cut each
512-byte sector is one of what it was at the last flush and what was written to it since.
"""

import errno
import shutil
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from random import Random
from tempfile import mkdtemp
from typing import TypeVar

import trio
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.fakes.datafile import MemoryDataFile
from tests.fakes.origin import damaged
from tests.volume.lazy_bench import CHUNKS, HOLE, SIZE, LazyBench, make_origin, plain_image
from volcrypt.errors import IntegrityError, ObjectStoreError, ReadOnlyError
from volcrypt.formats.bit_sectors import SECTOR_BITMAP_BYTES
from volcrypt.geometry import (
    CHUNK_BYTES,
    SECTOR_BYTES,
    UNIT_BYTES,
    ByteRange,
    chunks_of,
)
from volcrypt.volume.discard import Discards
from volcrypt.volume.present import PresentMap

Result = TypeVar("Result")


def clip(chunk: int, shift: int, length: int) -> ByteRange:
    offset = min(max(chunk * CHUNK_BYTES + shift, 0), SIZE - 1)
    return ByteRange(offset, min(length, SIZE - offset))


RANGES = st.builds(
    clip,
    st.integers(0, CHUNKS),
    st.integers(-2 * UNIT_BYTES, 2 * UNIT_BYTES)
    | st.sampled_from([-UNIT_BYTES, -SECTOR_BYTES, -1, 0, 1]),
    st.integers(1, 2 * UNIT_BYTES) | st.sampled_from([SECTOR_BYTES, UNIT_BYTES, CHUNK_BYTES]),
)


class DurableBits:
    """Where bits outlive the process. `fails` once, before or after it is on disk."""

    def __init__(self) -> None:
        self.bits = bytes(SECTOR_BITMAP_BYTES)
        self.fails: str | None = None
        self.complete = False

    def write(self, sectors: Iterable[tuple[int, bytes]]) -> None:
        how, self.fails = self.fails, None
        if how == "before":
            raise OSError(errno.EIO, "the disk of the map failed")
        for sector, bits in sectors:
            assert sector == 0
            self.bits = bits
        if how == "after":
            raise OSError(errno.EIO, "the disk of the map failed")

    def finish(self) -> None:
        self.complete = True

    def close(self) -> None:
        pass


class LazyModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.memory = Path(mkdtemp(dir="/dev/shm"))
        self.storage = MemoryDataFile(SIZE)
        self.bits = DurableBits()
        self.model = plain_image()
        self.unsynced: dict[int, set[bytes]] = {}
        self.origin = make_origin()
        self.open()

    def open(self) -> None:
        present = PresentMap(CHUNKS, bits=bytearray(self.bits.bits), keeper=self.bits)
        self.bench = LazyBench(self.storage, present, self.origin, memory=self.memory)
        self.has_failed = False

    def run(self, work: Callable[[LazyBench], Awaitable[Result]]) -> Result:
        async def run() -> Result:
            return await work(self.bench)

        return trio.run(run)

    def is_absent(self, extent: ByteRange) -> bool:
        """Whether something of it would have to come from where nothing comes from."""
        return any(
            not self.bench.lazy.may_read(range(chunk, chunk + 1))
            and (chunk in self.origin.faults or self.origin.fails is not None)
            for chunk in chunks_of(extent)
        )

    @rule(extent=RANGES)
    def read(self, extent: ByteRange) -> None:
        fails = self.is_absent(extent)
        try:
            found = self.run(lambda bench: bench.read(extent.offset, extent.length))
        except (IntegrityError, ObjectStoreError):
            assert fails
        else:
            assert found == self.model[extent.offset : extent.end]

    @precondition(lambda self: self.bits.fails is None)
    @rule(extent=RANGES)
    def discard(self, extent: ByteRange) -> None:
        self.change(
            extent,
            bytes(extent.length),
            lambda bench: Discards(bench.device).discard(
                extent.offset, extent.length, keeps_size=True
            ),
        )

    @rule(extent=RANGES, seed=st.integers(0, 2**32), zeros=st.booleans())
    def write(self, extent: ByteRange, seed: int, zeros: bool) -> None:
        pattern = b"\0" if zeros else seed.to_bytes(5, "little")
        data = (pattern * (extent.length // len(pattern) + 1))[: extent.length]
        self.change(extent, data, lambda bench: bench.device.write(extent.offset, data))

    def change(
        self, extent: ByteRange, data: bytes, work: Callable[[LazyBench], Awaitable[object]]
    ) -> None:
        """`work` makes the bytes of `extent` what is in `data`."""
        try:
            self.run(work)
        except (IntegrityError, ObjectStoreError):
            assert self.is_absent(extent)
            return
        except OSError:
            self.has_failed = True
            return
        except ReadOnlyError:
            if not self.has_failed:
                raise
            return
        sectors = range(extent.offset // SECTOR_BYTES, -(-extent.end // SECTOR_BYTES))
        for sector in sectors:
            self.unsynced.setdefault(sector, {self.sector(sector)})
        self.model[extent.offset : extent.end] = data
        for sector in sectors:
            self.unsynced[sector].add(self.sector(sector))

    def sector(self, index: int) -> bytes:
        return bytes(self.model[index * SECTOR_BYTES : (index + 1) * SECTOR_BYTES])

    @rule()
    def flush(self) -> None:
        self.run(lambda bench: bench.device.flush())
        self.unsynced.clear()

    @rule(chunk=st.integers(0, CHUNKS - 1))
    def fill_step(self, chunk: int) -> None:
        """The filling comes to a chunk."""
        if not self.is_absent(ByteRange(chunk * CHUNK_BYTES, 1)):
            self.run(lambda bench: bench.lazy.make_readable(range(chunk, chunk + 1)))

    @precondition(lambda self: not self.origin.faults and self.origin.fails is None)
    @precondition(lambda self: not self.has_failed and self.bits.fails is None)
    @rule()
    def fill_all(self) -> None:
        self.run(lambda bench: bench.lazy.fetch_all(lambda done, total: None))
        assert self.bits.complete
        assert self.bench.lazy.is_complete

    @rule(chunk=st.integers(0, CHUNKS - 1).filter(lambda chunk: chunk != HOLE))
    def damage(self, chunk: int) -> None:
        self.origin.faults[chunk] = damaged(chunk)

    @rule()
    def store_goes_away(self) -> None:
        self.origin.fails = lambda: ObjectStoreError("the store is away")

    @precondition(lambda self: self.origin.faults or self.origin.fails)
    @rule()
    def repair(self) -> None:
        self.origin.faults.clear()
        self.origin.fails = None

    @rule(how=st.sampled_from(["before", "after"]))
    def map_will_fail(self, how: str) -> None:
        self.bits.fails = how

    @rule()
    def kill(self) -> None:
        self.bench.die()
        self.open()

    @rule()
    def unmount(self) -> None:
        self.run(lambda bench: bench.lazy.close())
        self.flush()
        self.bench.die()
        self.open()

    @rule(choices=st.randoms(use_true_random=False))
    def lose_power(self, choices: Random) -> None:
        """Of all that was not flushed, any mix of before and after survives."""
        self.bench.die()
        for name in ("live", "clean"):
            (self.memory / name).unlink(missing_ok=True)
        self.storage.lose_power(choices.randrange)
        self.open()
        faults, fails = dict(self.origin.faults), self.origin.fails
        self.origin.faults.clear()
        self.origin.fails = None
        image = b"".join(
            self.run(lambda bench, at=at: bench.read(at, min(CHUNK_BYTES, SIZE - at)))  # type: ignore[misc]
            for at in range(0, SIZE, CHUNK_BYTES)
        )
        self.origin.faults.update(faults)
        self.origin.fails = fails
        for sector in range(SIZE // SECTOR_BYTES):
            found = image[sector * SECTOR_BYTES : (sector + 1) * SECTOR_BYTES]
            assert found in self.unsynced.get(sector, {self.sector(sector)}), f"sector {sector}"
        self.model[:] = image
        self.unsynced.clear()

    @invariant()
    def what_is_present_is_durable(self) -> None:
        """No bit without its data, whatever the medium holds of what was not synced."""
        for chunk in range(CHUNKS):
            if chunk != HOLE and self.bits.bits[0] >> chunk & 1:
                start = chunk * CHUNK_BYTES // SECTOR_BYTES
                sectors = range(
                    start, min(start + CHUNK_BYTES // SECTOR_BYTES, SIZE // SECTOR_BYTES)
                )
                zeros = bytes(SECTOR_BYTES)
                assert all(
                    zeros not in self.storage._versions.get(s, ())
                    or zeros in {self.sector(s), *self.unsynced.get(s, ())}  # discarded
                    for s in sectors
                )

    def teardown(self) -> None:
        self.bench.die()
        shutil.rmtree(self.memory)


LazyModel.TestCase.settings = settings(
    max_examples=40,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
TestLazyModel = LazyModel.TestCase
