"""Lazy chunks: fetched once when they are touched, never believed unchecked, durable in order."""

import logging
import threading
from collections.abc import Callable, Iterable
from itertools import pairwise

import pytest
import trio
import trio.testing
from typing_extensions import Buffer

from tests.fakes.chunks import chunk_bytes
from tests.fakes.datafile import MemoryDataFile
from tests.fakes.origin import MemoryOrigin, damaged, image_of
from volcrypt.chunk_set import ChunkSet
from volcrypt.errors import (
    ChunkCorruptError,
    FencedError,
    MountError,
    NoSpaceError,
    ObjectStoreError,
    ReadOnlyError,
)
from volcrypt.geometry import CHUNK_BYTES, UNIT_BYTES
from volcrypt.snapshot.pace import Pace
from volcrypt.volume.lazy import COMMIT_CHUNKS, FIRST_PAUSE_SECONDS, LazyChunks
from volcrypt.volume.present import PresentMap

CHUNKS = 12
SIZE = (CHUNKS - 1) * CHUNK_BYTES + UNIT_BYTES
HOLES = {2, 7}


class OrderedKeeper:
    """Notes in the data file's list of calls when bits are written."""

    def __init__(self, calls: list[tuple[str, int, int]]) -> None:
        self.calls = calls

    def write(self, sectors: Iterable[tuple[int, bytes]]) -> None:
        list(sectors)
        self.calls.append(("bits", 0, 0))

    def finish(self) -> None:
        self.calls.append(("finish", 0, 0))

    def close(self) -> None:
        self.calls.append(("close", 0, 0))


class Bench:
    """Lazy chunks over memory. `data` begins as holes."""

    def __init__(self, chunks: int = CHUNKS) -> None:
        size_bytes = (chunks - 1) * CHUNK_BYTES + UNIT_BYTES
        content = {
            index: chunk_bytes(index + 1, min(CHUNK_BYTES, size_bytes - index * CHUNK_BYTES))
            for index in range(chunks)
            if index not in HOLES
        }
        self.origin = MemoryOrigin(size_bytes, content)
        self.data = MemoryDataFile(size_bytes)
        self.present = PresentMap(
            chunks, bits=bytearray(496), keeper=OrderedKeeper(self.data.calls)
        )
        self.lazy = self.open()

    def open(self) -> LazyChunks:
        return LazyChunks(
            self.origin,
            self.present,
            size_bytes=self.origin.size_bytes,
            data=self.data,
            sync=self.data.sync,
            in_flight=4,
        )

    def holds(self, chunk: int) -> bool:
        """Whether the data file has what the snapshot has."""
        start = chunk * CHUNK_BYTES
        found = bytes(self.data.content[start : start + CHUNK_BYTES])
        return found == bytes(image_of(self.origin)[start : start + CHUNK_BYTES])

    def absent(self) -> list[int]:
        """As a snapshot of a larger volume is told."""
        bits = self.lazy.absent_bits(self.origin.size_bytes + 20 * CHUNK_BYTES)
        return list(ChunkSet.of_packed(bits, self.lazy.chunk_count + 20))

    def steps(self) -> list[str]:
        return [name for name, _, _ in self.data.calls]


@pytest.fixture
def bench() -> Bench:
    return Bench()


def one(chunk: int) -> range:
    return range(chunk, chunk + 1)


async def until(happened: Callable[[], bool]) -> None:
    """Wait for what comes from a thread."""
    for _ in range(30_000):
        if happened():
            return
        await trio.sleep(0.001)
    raise AssertionError("it does not happen")


async def test_a_touch_fetches_its_chunk_and_nothing_else(bench: Bench) -> None:
    assert not bench.lazy.may_read(one(3))
    await bench.lazy.make_readable(one(3))
    assert bench.lazy.may_read(one(3))
    assert bench.holds(3)
    assert bench.origin.calls == [("table", 0), ("page", 0), ("chunk", 3)]
    await bench.lazy.make_readable(one(3))
    await bench.lazy.make_readable(one(5))
    assert bench.origin.calls[3:] == [("chunk", 5)]
    # Holes need no chunk, and nothing at all is needed behind the snapshot's end.
    await bench.lazy.make_readable(range(6, 8))
    await bench.lazy.make_writable(one(2))
    assert bench.lazy.may_write(range(CHUNKS, CHUNKS + 5))
    assert bench.origin.asked_for("chunk") == [3, 5, 6]
    await bench.lazy.make_readable(one(CHUNKS - 1))
    assert bench.holds(CHUNKS - 1)


async def test_a_hole_that_is_touched_first_is_not_fetched(bench: Bench) -> None:
    await bench.lazy.make_readable(one(2))
    assert bench.origin.calls == [("table", 0), ("page", 0)]
    assert bench.steps() == []


async def test_nothing_is_written_before_that_is_allowed(bench: Bench) -> None:
    """As the lease of a volume has it."""

    async def allow() -> None:
        bench.data.calls.append(("allowed", 0, 0))

    bench.lazy.before_write = allow
    await bench.lazy.make_readable(one(3))
    assert bench.steps() == ["allowed", "write"]
    await bench.lazy.replace(one(5), lambda _: bench.data.calls.append(("replaced", 0, 0)))
    assert bench.steps()[2:4] == ["allowed", "replaced"]


async def test_many_who_touch_one_chunk_share_one_fetch(bench: Bench) -> None:
    bench.origin.gate.clear()
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(bench.lazy.make_readable, range(3, 5))
        await trio.testing.wait_all_tasks_blocked(0.01)
        bench.origin.gate.set()
    assert sorted(bench.origin.calls) == [("chunk", 3), ("chunk", 4), ("page", 0), ("table", 0)]


async def test_it_is_readable_only_when_it_is_in_the_data_file(bench: Bench) -> None:
    written = threading.Event()

    class Slow(MemoryDataFile):
        def write(self, offset: int, data: Buffer) -> None:
            assert written.wait(30)
            super().write(offset, data)

    bench.data = Slow(SIZE)
    bench.lazy = bench.open()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.lazy.make_readable, one(0))
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert bench.origin.asked_for("chunk") == [0]
        assert not bench.lazy.may_read(one(0))
        written.set()
    assert bench.lazy.may_read(one(0))


async def test_writable_is_what_is_durable_data_first(bench: Bench) -> None:
    await bench.lazy.make_readable(one(1))
    assert not bench.lazy.may_write(one(1))
    assert bench.steps() == ["write"]
    await bench.lazy.make_writable(range(4, 6))
    assert bench.steps() == ["write", "write", "write", "sync", "bits"]
    assert bench.lazy.may_write(range(4, 6))
    assert bench.lazy.may_write(one(1))
    await bench.lazy.make_writable(range(4, 6))
    assert bench.steps().count("sync") == 1


async def test_who_waits_for_durability_together_pays_once(bench: Bench) -> None:
    syncing = threading.Event()
    go_on = threading.Event()
    sync = bench.data.sync

    def slow_sync() -> None:
        syncing.set()
        assert go_on.wait(30)
        sync()

    bench.lazy._sync = slow_sync
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.lazy.make_writable, one(0))
        await trio.to_thread.run_sync(syncing.wait)
        for chunk in (1, 3, 4, 5, 6):
            nursery.start_soon(bench.lazy.make_writable, one(chunk))
        await until(lambda: all(bench.lazy.may_read(one(chunk)) for chunk in (1, 3, 4, 5, 6)))
        go_on.set()
    assert bench.steps().count("sync") == bench.steps().count("bits") == 2
    assert bench.lazy.may_write(range(7))


async def test_what_cannot_be_had_is_an_error_for_who_touches_it_until_it_can(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    bench.origin.faults[4] = damaged(4)
    for _ in range(3):
        with pytest.raises(ChunkCorruptError):
            await bench.lazy.make_readable(range(3, 6))
    assert bench.lazy.may_read(one(3))
    assert bench.lazy.may_read(one(5))
    assert not bench.lazy.may_read(one(4))
    assert bench.data.content[4 * CHUNK_BYTES : 5 * CHUNK_BYTES] == bytes(CHUNK_BYTES)
    assert bench.origin.asked_for("chunk").count(4) == 3
    assert [record.getMessage() for record in caplog.records] == [
        f"chunk 4 cannot be had: {damaged(4)()}"
    ]
    assert str(bench.lazy.last_error) == bench.lazy.problem == str(damaged(4)())
    await bench.lazy.make_readable(one(1))
    assert bench.lazy.problem == str(damaged(4)())
    bench.origin.faults.clear()
    await bench.lazy.make_writable(one(4))
    assert bench.holds(4)
    assert str(bench.lazy.problem) == "None"
    assert caplog.records[-1].getMessage() == "chunk 4 can be had again"


async def test_a_store_that_is_away_is_one_line_in_the_log(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    bench.origin.fails = lambda: ObjectStoreError("the store is away")
    for chunk in range(5):
        with pytest.raises(ObjectStoreError):
            await bench.lazy.make_readable(one(chunk))
    assert len(caplog.records) == 1
    bench.origin.fails = None
    await bench.lazy.make_readable(one(1))
    bench.origin.fails = lambda: ObjectStoreError("the store is away")
    with pytest.raises(ObjectStoreError):
        await bench.lazy.make_readable(one(3))
    assert len(caplog.records) == 3  # it came back, and was away again


async def test_a_sync_that_failed_lets_nothing_be_written(bench: Bench) -> None:
    def fail() -> None:
        raise OSError(5, "Input/output error")

    bench.lazy._sync = fail
    with pytest.raises(OSError, match="Input"):
        await bench.lazy.make_writable(one(0))
    assert not bench.lazy.may_write(one(0))
    assert bench.lazy.may_read(one(0))
    assert "bits" not in bench.steps()


async def test_filling_brings_everything_in_order(bench: Bench) -> None:
    await bench.lazy.make_readable(one(9))
    assert bench.absent() == [0, 1, 3, 4, 5, 6, 8, 10, 11]
    await bench.lazy.fill(Pace(None))
    assert bench.lazy.is_complete
    assert bench.data.content == image_of(bench.origin)
    rest = bench.origin.asked_for("chunk")[1:]
    assert rest == sorted(rest) == [0, 1, 3, 4, 5, 6, 8, 10, 11]
    assert bench.steps()[-3:] == ["sync", "bits", "finish"]
    assert bench.absent() == []


async def test_filling_makes_durable_as_it_goes() -> None:
    bench = Bench(2 * COMMIT_CHUNKS + 10)
    await bench.lazy.fill(Pace(None))
    assert bench.steps().count("sync") == 3
    assert bench.data.content == image_of(bench.origin)


async def test_filling_keeps_to_its_rate(
    bench: Bench, autojump_clock: trio.testing.MockClock
) -> None:
    started = trio.current_time()
    chunks = len(bench.origin.chunks)
    await bench.lazy.fill(Pace(CHUNK_BYTES))
    # A second's worth is saved up at first, and the last one is not waited for.
    assert chunks - 3 <= trio.current_time() - started <= chunks


async def test_filling_waits_for_the_store_longer_each_time(
    bench: Bench, autojump_clock: trio.testing.MockClock
) -> None:
    tries: list[float] = []

    def fail() -> Exception:
        tries.append(trio.from_thread.run_sync(trio.current_time))
        if len(tries) == 9:
            bench.origin.fails = None
        return ObjectStoreError("the store is away")

    bench.origin.fails = fail
    await bench.lazy.fill(Pace(None))
    waits = [later - earlier for earlier, later in pairwise(tries)]
    assert waits == [FIRST_PAUSE_SECONDS * 2**n for n in range(6)] + [60.0, 60.0]
    assert bench.data.content == image_of(bench.origin)


async def test_filling_goes_around_damage_and_comes_back(
    bench: Bench, autojump_clock: trio.testing.MockClock
) -> None:
    bench.origin.faults = {3: damaged(3), 6: damaged(6)}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.lazy.fill, Pace(None))
        await until(lambda: bench.absent() == [3, 6])
        await until(lambda: bench.lazy.may_write(range(8, CHUNKS)))
        bench.origin.faults.clear()
    assert bench.data.content == image_of(bench.origin)


async def test_touches_do_not_wait_for_a_filling_that_is_held_up(bench: Bench) -> None:
    bench.origin.gate.clear()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.lazy.fill, Pace(None))
        await until(lambda: bench.origin.asked_for("chunk") == [0])
        await bench.lazy.make_readable(one(2))  # a hole
        nursery.start_soon(bench.lazy.make_readable, one(9))
        await until(lambda: bench.origin.asked_for("chunk") == [0, 9])
        bench.origin.gate.set()
    assert bench.lazy.is_complete


async def test_all_at_once_fails_at_the_first_that_cannot_be_had(bench: Bench) -> None:
    calls: list[tuple[int, int]] = []
    bench.origin.faults[5] = damaged(5)
    with pytest.raises(ChunkCorruptError):
        await bench.lazy.fetch_all(lambda done, total: calls.append((done, total)))
    assert "finish" not in bench.steps()
    # What came is kept.
    assert bench.steps()[-2:] == ["sync", "bits"]
    bench.origin.faults.clear()
    await bench.lazy.fetch_all(lambda done, total: calls.append((done, total)))
    assert bench.data.content == image_of(bench.origin)
    assert calls[0] == (0, CHUNKS * CHUNK_BYTES)
    assert calls[-1][0] == calls[-1][1]


async def test_a_full_disk_is_an_error_and_no_end(
    bench: Bench, autojump_clock: trio.testing.MockClock
) -> None:
    class Full(MemoryDataFile):
        full = True

        def write(self, offset: int, data: Buffer) -> None:
            if self.full:
                raise NoSpaceError("no space left")
            super().write(offset, data)

    data = bench.data = Full(SIZE)
    bench.lazy = bench.open()
    with pytest.raises(NoSpaceError):
        await bench.lazy.make_readable(one(0))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.lazy.fill, Pace(None))
        await trio.sleep(10)
        data.full = False
    assert bench.data.content == image_of(bench.origin)


async def test_a_medium_that_fails_ends_the_filling(bench: Bench) -> None:
    class Broken(MemoryDataFile):
        def write(self, offset: int, data: Buffer) -> None:
            raise OSError(5, "Input/output error")

    bench.data = Broken(SIZE)
    bench.lazy = bench.open()
    with pytest.raises(OSError, match="Input"):
        await bench.lazy.fill(Pace(None))
    with pytest.raises(OSError, match="Input"):
        await bench.lazy.make_readable(range(3, 5))


async def test_the_end_gives_up_what_hangs_and_keeps_what_came(bench: Bench) -> None:
    await bench.lazy.make_readable(one(1))
    bench.origin.gate.clear()
    ended: list[type[Exception]] = []

    async def touch(chunk: int) -> None:
        try:
            await bench.lazy.make_readable(one(chunk))
        except MountError as error:
            ended.append(type(error))

    async with trio.open_nursery() as nursery:
        for chunk in (3, 3, 4):
            nursery.start_soon(touch, chunk)
        await until(lambda: len(bench.origin.asked_for("chunk")) == 3)
        await bench.lazy.close()
    assert ended == [MountError] * 3
    assert bench.steps()[-3:] == ["sync", "bits", "close"]
    assert bench.lazy.may_write(one(1))
    with pytest.raises(MountError):
        await bench.lazy.make_readable(one(5))
    with pytest.raises(MountError):
        await bench.lazy.make_writable(one(5))
    # What the store sends now goes nowhere.
    bench.origin.gate.set()
    assert bench.data.content[3 * CHUNK_BYTES : 5 * CHUNK_BYTES] == bytes(2 * CHUNK_BYTES)


async def test_the_end_says_why(bench: Bench, nursery: trio.Nursery) -> None:
    bench.origin.gate.clear()
    seen: list[str] = []

    async def touch() -> None:
        try:
            await bench.lazy.make_readable(one(3))
        except FencedError as error:
            seen.append(str(error))

    nursery.start_soon(touch)
    await until(lambda: len(bench.origin.asked_for("chunk")) == 1)
    await bench.lazy.close(FencedError("the key was taken away"))
    await until(lambda: bool(seen))
    assert seen == ["the volume is fenced: the key was taken away"]
    await bench.lazy.close()
    with pytest.raises(FencedError):
        await bench.lazy.make_writable(one(5))
    bench.origin.gate.set()


async def test_the_end_of_one_that_failed_is_quiet(bench: Bench) -> None:
    await bench.lazy.make_readable(one(1))

    def fail() -> None:
        raise ReadOnlyError("an earlier sync failed")

    bench.lazy._sync = fail
    await bench.lazy.close()
    assert "bits" not in bench.steps()
