"""Discards: what becomes holes, in pieces, and what each of them waits for."""

import errno
import os
import random
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio
import trio.testing

from tests.fakes.datafile import MemoryDataFile
from tests.fakes.origin import MemoryOrigin
from tests.volume.bench import PARENT, SIZE, Bench
from tests.volume.lazy_bench import CHUNKS, LazyBench, make_origin, plain_chunk
from tests.volume.lazy_bench import SIZE as LAZY_SIZE
from volcrypt.crypto.data_key import DataKey
from volcrypt.errors import FencedError, MountError, NoSpaceError, OutOfRangeError, ReadOnlyError
from volcrypt.formats.bit_sectors import SECTOR_BITMAP_BYTES
from volcrypt.geometry import CHUNK_BYTES, SECTOR_BYTES, UNIT_BYTES, ByteRange
from volcrypt.volume import discard as discard_module
from volcrypt.volume.datafile import DataFile
from volcrypt.volume.discard import Discards
from volcrypt.volume.present import PresentMap
from volcrypt.volume.volume import Volume
from volcrypt.volume.zero_runs import zero_runs


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.volume.close()
    made.changes.close()


async def discard(bench: Bench, offset: int, length: int, *, keeps_size: bool = True) -> None:
    await Discards(bench.device).discard(offset, length, keeps_size=keeps_size)


def deallocated(data: MemoryDataFile) -> list[tuple[int, int]]:
    return [call[1:] for call in data.calls if call[0] == "deallocate"]


async def a_piece(bench: Bench) -> None:
    """Wait until one is at work."""
    assert await trio.to_thread.run_sync(lambda: bench.data.came.acquire(timeout=10))


async def filled(bench: Bench, chunks: int = 8) -> bytes:
    for chunk in range(chunks):
        await bench.device.write(chunk * CHUNK_BYTES, os.urandom(CHUNK_BYTES))
    bench.data.calls.clear()
    return b"".join([await bench.read(c * CHUNK_BYTES, CHUNK_BYTES) for c in range(chunks)])


# ---------------------------------------------------------------- the volume


@pytest.mark.parametrize("key", [None, bytes(range(64))])
@pytest.mark.parametrize(
    ("offset", "length", "hole"),
    [
        (UNIT_BYTES, 2 * UNIT_BYTES, (UNIT_BYTES, 2 * UNIT_BYTES)),
        (700, 3 * UNIT_BYTES, (UNIT_BYTES, 2 * UNIT_BYTES)),
        (UNIT_BYTES, 2 * UNIT_BYTES + 1, (UNIT_BYTES, 2 * UNIT_BYTES)),
        (UNIT_BYTES - 1, UNIT_BYTES + 2, (UNIT_BYTES, UNIT_BYTES)),
        (10, 20, None),
        (UNIT_BYTES - 5, 10, None),
        (1, 2 * UNIT_BYTES - 2, None),
        (0, 1, None),
    ],
)
def test_zeros_are_exactly_there_and_whole_units_are_holes(
    key: bytes | None, offset: int, length: int, hole: tuple[int, int] | None
) -> None:
    data = MemoryDataFile(CHUNK_BYTES)
    data_key = None if key is None else DataKey(bytearray(key))
    volume = Volume(data, size_bytes=CHUNK_BYTES, data_key=data_key, changes=None)
    content = bytearray(random.Random(1).randbytes(CHUNK_BYTES))
    volume.write(0, content)
    volume.discard(offset, length)
    content[offset : offset + length] = bytes(length)
    found = bytearray(CHUNK_BYTES)
    volume.read_into(0, found)
    assert found == content
    assert deallocated(data) == ([] if hole is None else [hole])
    if hole is not None:
        assert not any(data.content[hole[0] : sum(hole)])
    volume.discard(0, 0)
    volume.close()


class Marks:
    """A change map that says whether storage had changed when it was told."""

    def __init__(self, data: MemoryDataFile) -> None:
        self._data = data
        self.marked: list[range] = []

    def mark(self, chunks: range) -> None:
        assert not [call for call in self._data.calls if call[0] != "read"], "marked too late"
        self.marked.append(chunks)

    def distrust(self) -> None:
        raise AssertionError("nothing failed")

    def grow(self, size_bytes: int) -> None:
        raise AssertionError("nothing grew")


def test_chunks_are_marked_before_and_nothing_of_it_is_counted() -> None:
    class Counter:
        def __init__(self) -> None:
            self.spent = 0

        def spend(self, size_bytes: int) -> None:
            self.spent += size_bytes

        def renew(self) -> None:
            pass

    data, counter = MemoryDataFile(4 * CHUNK_BYTES), Counter()
    marks = Marks(data)
    volume = Volume(
        data,
        size_bytes=4 * CHUNK_BYTES,
        data_key=DataKey(bytearray(range(64))),
        changes=marks,
        written=counter,
        drops_zeros=True,
    )
    volume.discard(CHUNK_BYTES - UNIT_BYTES, CHUNK_BYTES)
    assert marks.marked == [range(2)]
    assert counter.spent == 0
    data.calls.clear()
    volume.write(2 * CHUNK_BYTES, bytes(CHUNK_BYTES) + b"x")
    assert marks.marked[1:] == [range(2, 4)]
    assert counter.spent == UNIT_BYTES
    assert deallocated(data) == [(2 * CHUNK_BYTES, CHUNK_BYTES)]
    volume.close()


def test_what_may_not_be_discarded() -> None:
    data = MemoryDataFile(CHUNK_BYTES)
    reader = Volume(data, size_bytes=CHUNK_BYTES, data_key=None, changes=None, read_only=True)
    with pytest.raises(ReadOnlyError):
        reader.discard(0, UNIT_BYTES)
    volume = Volume(data, size_bytes=CHUNK_BYTES, data_key=None, changes=None)
    for offset, length in ((-1, UNIT_BYTES), (UNIT_BYTES, CHUNK_BYTES)):
        with pytest.raises(OutOfRangeError):
            volume.discard(offset, length)
    volume.close()
    with pytest.raises(ValueError, match="closed"):
        volume.discard(0, UNIT_BYTES)
    assert data.calls == []


# ---------------------------------------------------------------- zeros that are written


@pytest.mark.parametrize(
    ("offset", "pattern", "runs"),
    [
        (0, "0", [(0, 1, True)]),
        (0, "x0x", [(0, 1, False), (1, 1, True), (2, 1, False)]),
        (0, "00xx00", [(0, 2, True), (2, 2, False), (4, 2, True)]),
        (5, "xx", [(5, 2, False)]),
        (0, "", []),
    ],
)
def test_runs_of_zeros(offset: int, pattern: str, runs: list[tuple[int, int, bool]]) -> None:
    data = b"".join(
        bytes(UNIT_BYTES) if each == "0" else bytes(UNIT_BYTES - 1) + b"x" for each in pattern
    )
    found = zero_runs(ByteRange(offset * UNIT_BYTES, len(data)), memoryview(data))
    assert [
        (run.offset // UNIT_BYTES, run.length // UNIT_BYTES, is_zero) for run, is_zero in found
    ] == runs


def test_parts_of_units_are_no_runs_of_zeros() -> None:
    extent = ByteRange(SECTOR_BYTES, 3 * UNIT_BYTES)
    found = list(zero_runs(extent, memoryview(bytes(extent.length))))
    assert found == [
        (ByteRange(SECTOR_BYTES, UNIT_BYTES - SECTOR_BYTES), False),
        (ByteRange(UNIT_BYTES, 2 * UNIT_BYTES), True),
        (ByteRange(3 * UNIT_BYTES, SECTOR_BYTES), False),
    ]
    assert list(zero_runs(ByteRange(10, 20), memoryview(bytes(20)))) == [(ByteRange(10, 20), False)]


@pytest.mark.parametrize("drops", [True, False])
def test_zeros_become_holes_where_they_are_wanted(drops: bool) -> None:
    data = MemoryDataFile(CHUNK_BYTES)
    key = DataKey(bytearray(range(64)))
    volume = Volume(data, size_bytes=CHUNK_BYTES, data_key=key, changes=None, drops_zeros=drops)
    volume.write(0, b"x" * CHUNK_BYTES)
    written = bytes(UNIT_BYTES) + b"y" * UNIT_BYTES + bytes(3 * UNIT_BYTES)
    assert volume.drops(0, written) is drops
    assert not volume.drops(SECTOR_BYTES, bytes(UNIT_BYTES))
    volume.write(0, written)
    assert deallocated(data) == (
        [(0, UNIT_BYTES), (2 * UNIT_BYTES, 3 * UNIT_BYTES)] if drops else []
    )
    found = bytearray(CHUNK_BYTES)
    volume.read_into(0, found)
    assert found == written.ljust(CHUNK_BYTES, b"x")
    volume.close()


def test_where_holes_cannot_be_made_zeros_are_written() -> None:
    data = MemoryDataFile(CHUNK_BYTES)
    key = DataKey(bytearray(range(64)))
    volume = Volume(data, size_bytes=CHUNK_BYTES, data_key=key, changes=None, drops_zeros=True)
    volume.write(0, b"x" * CHUNK_BYTES)
    data.fail_deallocate = errno.EIO
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        volume.write(0, bytes(UNIT_BYTES))
    data.fail_deallocate = errno.EOPNOTSUPP
    volume.write(0, bytes(UNIT_BYTES))
    assert not volume.drops(0, bytes(UNIT_BYTES))
    found = bytearray(2 * UNIT_BYTES)
    volume.read_into(0, found)
    assert found == bytes(UNIT_BYTES) + b"x" * UNIT_BYTES
    assert any(data.content[:UNIT_BYTES])
    volume.close()


async def test_what_punches_is_not_done_on_the_loop(tmp_path: Path) -> None:
    bench = Bench(tmp_path, drops_zeros=True)
    await bench.device.write(0, b"x" * UNIT_BYTES)
    assert bench.data.ran_inline()
    await bench.device.write(0, bytes(UNIT_BYTES))
    assert not bench.data.ran_inline()
    assert await bench.read(0, UNIT_BYTES) == bytes(UNIT_BYTES)
    bench.volume.close()
    bench.changes.close()


# ---------------------------------------------------------------- the data file


@pytest.mark.parametrize("keeps_room", [False, True])
def test_a_data_file_gives_room_back_or_keeps_it(tmp_path: Path, keeps_room: bool) -> None:
    path = Path("/var/tmp") / f"{tmp_path.name}.data"
    try:
        DataFile.create(path, 8 * CHUNK_BYTES).close()
        with DataFile.open(path, 8 * CHUNK_BYTES, keeps_room=keeps_room) as data:
            data.write(0, b"x" * 8 * CHUNK_BYTES)
            data.sync()
            full = path.stat().st_blocks
            data.deallocate(CHUNK_BYTES, 4 * CHUNK_BYTES)
            data.sync()
            given_back = (full - path.stat().st_blocks) * 512
            # Beside it the file system's tree of extents, which a hole may split.
            assert abs(given_back - (0 if keeps_room else 4 * CHUNK_BYTES)) <= 64 * 1024
            assert data.next_data(CHUNK_BYTES, 8 * CHUNK_BYTES) == 5 * CHUNK_BYTES
            assert data.next_data(CHUNK_BYTES, 2 * CHUNK_BYTES) == 2 * CHUNK_BYTES
            assert data.next_data(10, 2 * CHUNK_BYTES) == 10
            found = bytearray(8 * CHUNK_BYTES)
            data.read_into(0, found)
            assert found == b"x" * CHUNK_BYTES + bytes(4 * CHUNK_BYTES) + b"x" * 3 * CHUNK_BYTES
        with (
            DataFile.open(path, 8 * CHUNK_BYTES, read_only=True) as data,
            pytest.raises(ReadOnlyError),
        ):
            data.deallocate(0, UNIT_BYTES)
    finally:
        path.unlink()


# ---------------------------------------------------------------- the device


async def test_a_discard_goes_in_pieces_and_passes_over_holes(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discard_module, "PIECE_BYTES", 2 * CHUNK_BYTES)
    await bench.device.write(CHUNK_BYTES + 100, b"x")
    await bench.device.write(5 * CHUNK_BYTES, b"x" * 2 * CHUNK_BYTES)
    bench.data.calls.clear()
    capture = await bench.device.captures.begin()
    await bench.device.captures.commit(capture, PARENT)
    await discard(bench, 0, SIZE)
    assert deallocated(bench.data) == [
        (CHUNK_BYTES, CHUNK_BYTES),
        (5 * CHUNK_BYTES, CHUNK_BYTES),
        (6 * CHUNK_BYTES, 2 * CHUNK_BYTES),
    ]
    assert not any(bench.data.content)
    changed = await bench.changed(await bench.device.captures.begin())
    assert changed == {1, 5, 6, 7}, "what was empty has not changed"


async def test_before_a_piece_nothing_of_a_unit_is_passed_over(bench: Bench) -> None:
    """Also where blocks of storage are smaller than data units."""
    await bench.device.write(0, b"x" * UNIT_BYTES)
    bench.data.content[:SECTOR_BYTES] = bytes(SECTOR_BYTES)
    await discard(bench, 0, 2 * UNIT_BYTES)
    assert deallocated(bench.data) == [(0, 2 * UNIT_BYTES)]


async def test_the_end_of_the_volume(bench: Bench) -> None:
    before = await filled(bench)
    with pytest.raises(OutOfRangeError):
        await discard(bench, SIZE - UNIT_BYTES, 2 * UNIT_BYTES, keeps_size=False)
    await discard(bench, SIZE, 2**60)
    await discard(bench, 2**62, 2**61)
    assert await bench.read(SIZE - UNIT_BYTES, UNIT_BYTES) == before[-UNIT_BYTES:]
    await discard(bench, SIZE - UNIT_BYTES, 2**60)
    assert await bench.read(SIZE - 2 * UNIT_BYTES, 2 * UNIT_BYTES) == before[
        -2 * UNIT_BYTES : -UNIT_BYTES
    ] + bytes(UNIT_BYTES)
    await discard(bench, 0, SIZE, keeps_size=False)
    assert not any(bench.data.content)


async def test_a_read_only_device_discards_nothing(tmp_path: Path) -> None:
    bench = Bench(tmp_path, read_only=True)
    with pytest.raises(ReadOnlyError):
        await discard(bench, 0, UNIT_BYTES)
    assert bench.data.calls == []
    bench.volume.close()
    bench.changes.close()


async def test_what_a_snapshot_needs_is_kept_first(bench: Bench) -> None:
    before = await filled(bench)
    await bench.device.captures.commit(await bench.device.captures.begin(), PARENT)
    capture = await bench.device.captures.begin()
    assert await bench.changed(capture) == set()
    bench.device.captures.release(capture, range(2, 3))
    await discard(bench, CHUNK_BYTES, 2 * CHUNK_BYTES)
    assert bench.captured_chunk(1) == before[CHUNK_BYTES : 2 * CHUNK_BYTES]
    assert list(bench.keepers[-1].kept) == [1]
    assert await bench.read(CHUNK_BYTES, 2 * CHUNK_BYTES) == bytes(2 * CHUNK_BYTES)
    await bench.device.captures.abort(capture)
    assert await bench.changed(await bench.device.captures.begin()) == {1, 2}


async def test_a_snapshot_that_begins_meanwhile_has_all_of_a_piece(bench: Bench) -> None:
    """It begins at once, and nobody sees anything of it before the piece is done."""
    await filled(bench)
    captures = bench.device.captures
    await captures.commit(await captures.begin(), PARENT)
    bench.data.gate.clear()
    seen: set[int] | None = set()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(discard, bench, 0, SIZE)
        await a_piece(bench)
        with trio.fail_after(5):
            capture = await captures.begin()

        async def settle() -> None:
            nonlocal seen
            seen = await bench.changed(capture)

        nursery.start_soon(settle)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert seen == set()
        bench.data.gate.set()
    assert seen == set(range(8))
    assert not any(bench.captured_chunk(0))


async def test_others_wait_for_the_piece_and_not_for_all(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discard_module, "PIECE_BYTES", CHUNK_BYTES)
    await filled(bench)
    bench.data.gate.clear()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(discard, bench, 0, SIZE)
        await a_piece(bench)
        with trio.fail_after(5):
            await bench.read(CHUNK_BYTES, UNIT_BYTES)
        with trio.move_on_after(0.02) as waits:
            await bench.read(0, UNIT_BYTES)
        assert waits.cancelled_caught
        bench.data.gate.set()


@pytest.mark.parametrize("ends", ["fence", "close", "give up"])
async def test_nothing_is_discarded_behind_the_end(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, ends: str
) -> None:
    monkeypatch.setattr(discard_module, "PIECE_BYTES", CHUNK_BYTES)
    before = await filled(bench)
    bench.data.gate.clear()
    errors: list[Exception] = []
    fenced = FencedError("the key is gone")

    async def run() -> None:
        try:
            await discard(bench, 0, SIZE)
        except (FencedError, MountError) as error:
            errors.append(error)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await a_piece(bench)
        if ends == "close":
            nursery.start_soon(bench.device.close)
            await trio.testing.wait_all_tasks_blocked(0.01)
        else:
            bench.device.fence(fenced)
        if ends == "give up":
            bench.device.give_up(fenced)
            with trio.fail_after(5):
                await bench.device.answered()
            assert errors == [fenced]
        bench.data.gate.set()
    with trio.fail_after(5):
        await bench.device.drained()
    assert len(errors) == 1
    found = bytearray(SIZE)
    bench.volume.read_into(0, found)
    assert found == bytes(CHUNK_BYTES) + before[CHUNK_BYTES:], "one piece, and no other"
    with pytest.raises((FencedError, MountError)):
        await discard(bench, 0, SIZE)


async def test_a_discard_that_finds_no_room_gets_that_of_the_snapshot(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    await filled(bench)
    capture = await bench.device.captures.begin()
    bench.keepers[-1].takes_room_of_data = True
    deallocate, failures = bench.data.deallocate, [NoSpaceError("full")]

    def fail_once(offset: int, length: int) -> None:
        if failures:
            raise failures.pop()
        deallocate(offset, length)

    monkeypatch.setattr(bench.data, "deallocate", fail_once)
    await discard(bench, 0, CHUNK_BYTES)
    assert await bench.read(0, CHUNK_BYTES) == bytes(CHUNK_BYTES)
    with pytest.raises(NoSpaceError):
        bench.device.captures.check(capture)


async def test_a_medium_that_cannot_is_said_as_it_is(bench: Bench) -> None:
    await filled(bench)
    bench.data.fail_deallocate = errno.EOPNOTSUPP
    with pytest.raises(OSError, match=os.strerror(errno.EOPNOTSUPP)):
        await discard(bench, 0, SIZE)


async def test_a_cancelled_one_leaves_its_range_free(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discard_module, "PIECE_BYTES", CHUNK_BYTES)
    await filled(bench)
    bench.data.gate.clear()
    threading.Timer(0.05, bench.data.gate.set).start()
    with trio.move_on_after(0.01):
        await discard(bench, 0, SIZE)
    with trio.fail_after(5):
        await bench.device.write(0, b"x")
    bench.data.gate.set()
    assert len(deallocated(bench.data)) < 8


# ---------------------------------------------------------------- chunks that are not here


@dataclass
class Bits:
    """Where bits outlive the process; looks whether the data that they vouch for is durable."""

    data: MemoryDataFile
    fails: bool = False
    written: int = 0

    def write(self, sectors: Iterable[tuple[int, bytes]]) -> None:
        assert not self.data._versions, "a bit before its data"
        if self.fails:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        for _, bits in sectors:
            self.written = bits[0]

    def finish(self) -> None:
        pass

    def close(self) -> None:
        pass


@dataclass
class Lazy:
    bench: LazyBench
    origin: MemoryOrigin
    present: PresentMap
    data: MemoryDataFile
    bits: Bits

    async def discard(self, offset: int, length: int) -> None:
        discards = Discards(self.bench.device)
        await discards.discard(offset, length, keeps_size=True)

    @property
    def fetched(self) -> list[int]:
        return self.origin.asked_for("chunk")


@pytest.fixture
def lazy(tmp_path: Path) -> Iterator[Lazy]:
    data, origin = MemoryDataFile(LAZY_SIZE), make_origin()
    bits = Bits(data)
    present = PresentMap(CHUNKS, bits=bytearray(SECTOR_BITMAP_BYTES), keeper=bits)
    bench = LazyBench(data, present, origin, memory=tmp_path)
    yield Lazy(bench, origin, present, data, bits)
    bench.die()


async def test_an_absent_chunk_becomes_zeros_without_being_fetched(lazy: Lazy) -> None:
    """Durably, before its bit; a part of one is fetched as before a write."""
    await lazy.discard(0, CHUNK_BYTES)
    assert (lazy.fetched, lazy.bits.written) == ([], 1)
    assert lazy.bench.changes.is_marked(0)
    assert not lazy.bench.changes.is_marked(1)
    assert await lazy.bench.read(0, CHUNK_BYTES) == bytes(CHUNK_BYTES)
    assert await lazy.bench.read(CHUNK_BYTES, CHUNK_BYTES) == plain_chunk(1)
    await lazy.discard(CHUNK_BYTES + 1, LAZY_SIZE)
    assert lazy.fetched == [1, CHUNKS - 1], "the last one is short, and not known as a whole"
    assert lazy.bench.lazy.is_complete
    assert await lazy.bench.read(CHUNK_BYTES, 2) == plain_chunk(1)[:1] + b"\0"
    assert not any(lazy.data.content[2 * CHUNK_BYTES :])


async def test_what_a_snapshot_may_need_is_fetched(lazy: Lazy) -> None:
    capture = await lazy.bench.device.captures.begin()
    await lazy.discard(0, CHUNK_BYTES)
    assert lazy.fetched == [0]
    assert await lazy.bench.read(0, UNIT_BYTES) == bytes(UNIT_BYTES)
    await lazy.bench.device.captures.abort(capture)


async def test_what_is_being_fetched_is_waited_for(lazy: Lazy) -> None:
    """It would come over the zeros."""
    lazy.origin.gate.clear()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lazy.bench.read, 0, UNIT_BYTES)
        while lazy.fetched != [0]:  # noqa: ASYNC110 nobody tells
            await trio.sleep(0.001)
        nursery.start_soon(lazy.discard, 0, CHUNK_BYTES)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert deallocated(lazy.data) == []
        lazy.origin.gate.set()
    assert await lazy.bench.read(0, CHUNK_BYTES) == bytes(CHUNK_BYTES)
    assert not any(lazy.data.content[:CHUNK_BYTES])


async def test_what_did_not_become_durable_is_absent_again(lazy: Lazy) -> None:
    lazy.bits.fails = True
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        await lazy.discard(0, 2 * CHUNK_BYTES)
    assert not lazy.bench.lazy.may_read(range(1))
    assert await lazy.bench.read(0, CHUNK_BYTES) == plain_chunk(0)
    lazy.data.fail_deallocate = errno.EOPNOTSUPP
    with pytest.raises(OSError, match=os.strerror(errno.EOPNOTSUPP)):
        await lazy.discard(CHUNK_BYTES, CHUNK_BYTES)
    assert await lazy.bench.read(CHUNK_BYTES, CHUNK_BYTES) == plain_chunk(1)


async def test_behind_a_fence_nothing_absent_is_replaced(lazy: Lazy) -> None:
    lazy.bench.device.fence(FencedError("the key is gone"))
    with pytest.raises(FencedError):
        await lazy.discard(0, CHUNK_BYTES)
    assert lazy.data.calls == []
