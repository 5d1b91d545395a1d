"""The device: many callers at once against a model, inline or thread, captures, the end."""

import errno
import random
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing
from typing_extensions import Buffer

from tests.fakes.datafile import MemoryDataFile
from volcrypt.crypto.data_key import DataKey
from volcrypt.errors import MountError, OutOfRangeError, ReadOnlyError, TryAgainError
from volcrypt.formats.change_map import ParentPoint
from volcrypt.formats.document import MacSeal
from volcrypt.geometry import CHUNK_BYTES, UNIT_BYTES, chunk_count
from volcrypt.names import SnapshotId, StoreId, VolumeId
from volcrypt.volume.change_map import ChangeMap
from volcrypt.volume.device import INLINE_BYTES, MAX_REQUEST_BYTES, Device
from volcrypt.volume.ownership import ChunkOwnership
from volcrypt.volume.volume import Volume

KEY = bytes(range(64))
CHUNKS = 8
SIZE = CHUNKS * CHUNK_BYTES
PARENT = ParentPoint(
    store_id=StoreId("store-00000000000000001"),
    snapshot_id=SnapshotId("snap-00000000000000001"),
    root=bytes(32),
)


class WatchedData(MemoryDataFile):
    """Notes which thread works on it; `gate` holds up the writes of worker threads."""

    def __init__(self, size_bytes: int) -> None:
        super().__init__(size_bytes)
        self.threads: set[int] = set()
        self.gate = threading.Event()
        self.gate.set()

    def read_into(self, offset: int, buffer: Buffer) -> None:
        self.threads.add(threading.get_ident())
        super().read_into(offset, buffer)

    def write(self, offset: int, data: Buffer) -> None:
        self.threads.add(threading.get_ident())
        if threading.current_thread() is not threading.main_thread():
            assert self.gate.wait(10)
        super().write(offset, data)

    def ran_inline(self) -> bool:
        """Whether everything since the last question ran on the loop's thread."""
        inline = self.threads == {threading.main_thread().ident}
        self.threads.clear()
        return inline


class Bench:
    """A device on storage in memory, with a real change map."""

    def __init__(self, directory: Path, *, read_only: bool = False) -> None:
        self.data = WatchedData(SIZE)
        (directory / "data").write_bytes(b"")
        self.changes = ChangeMap.open(
            directory / "map",
            directory / "clean",
            volume_id=VolumeId("vol-00000000000000001"),
            size_bytes=SIZE,
            seal=MacSeal(bytes(32)),
            data_path=directory / "data",
        )
        self.volume = Volume(
            self.data,
            size_bytes=SIZE,
            data_key=DataKey(bytearray(KEY)),
            changes=self.changes,
            read_only=read_only,
        )
        self.ownership = ChunkOwnership(chunk_count(SIZE))
        self.device = Device(self.volume, ownership=self.ownership, changes=self.changes)

    async def read(self, offset: int, size: int) -> bytes:
        return bytes(await self.device.read(offset, size))

    def captured_chunk(self, index: int) -> bytes:
        """A chunk as a snapshot sees it: ciphertext, here decrypted."""
        chunk = bytearray(self.data.content[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES])
        DataKey(bytearray(KEY)).kernel().decrypt_sparse_units(
            index * CHUNK_BYTES // UNIT_BYTES, chunk, chunk
        )
        return bytes(chunk)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.volume.close()
    made.changes.close()


@pytest.mark.parametrize("is_cached", [True, False])
async def test_many_callers_see_their_own_writes_and_spoil_nobodys(
    bench: Bench, is_cached: bool
) -> None:
    """Every caller owns every n-th run of 1000 bytes: neighbours share data units."""
    bench.data.is_cached = is_cached
    callers, run, runs = 6, 1000, 40
    model = bytearray(callers * run * runs)

    async def caller(number: int) -> None:
        dice = random.Random(number)
        for _ in range(60):
            index = dice.randrange(runs) * callers + number
            start = index * run + dice.randrange(run)
            length = dice.randrange(1, (index + 1) * run - start + 1)
            piece = dice.randbytes(length)
            assert await bench.device.write(start, piece) == length
            model[start : start + length] = piece
            assert await bench.read(start, length) == piece
            if dice.random() < 0.1:
                await bench.device.flush()
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        for number in range(callers):
            nursery.start_soon(caller, number)
    assert await bench.read(0, len(model)) == model


@pytest.mark.parametrize(
    ("offset", "size", "inline"),
    [
        (0, UNIT_BYTES, True),
        (100, 10, True),
        (UNIT_BYTES - 1, 2, True),
        (0, INLINE_BYTES, True),
        (1, INLINE_BYTES, False),
        (0, INLINE_BYTES + UNIT_BYTES, False),
        (0, MAX_REQUEST_BYTES, False),
    ],
)
async def test_small_requests_run_inline_and_large_ones_hop(
    bench: Bench, offset: int, size: int, inline: bool
) -> None:
    await bench.device.write(offset, bytes(size))
    assert bench.data.ran_inline() == inline
    await bench.read(offset, size)
    assert bench.data.ran_inline() == (size <= INLINE_BYTES)


async def test_what_would_wait_for_the_medium_hops(bench: Bench) -> None:
    bench.data.is_cached = False
    await bench.read(0, UNIT_BYTES)
    assert not bench.data.ran_inline()
    await bench.device.write(1, b"partial")
    assert not bench.data.ran_inline()
    await bench.device.write(0, bytes(UNIT_BYTES))
    assert bench.data.ran_inline()


async def test_the_end_of_the_volume(bench: Bench) -> None:
    assert await bench.read(SIZE - 10, 100) == bytes(10)
    assert await bench.read(SIZE, 100) == b""
    assert await bench.read(SIZE + 1, 100) == b""
    assert await bench.device.write(SIZE - 3, b"abcdef") == 3
    assert await bench.read(SIZE - 3, 3) == b"abc"
    assert await bench.device.write(SIZE, b"") == 0
    with pytest.raises(OutOfRangeError):
        await bench.device.write(SIZE, b"x")


async def test_a_read_only_device_takes_no_writes_and_does_not_sync(tmp_path: Path) -> None:
    bench = Bench(tmp_path, read_only=True)
    with pytest.raises(ReadOnlyError):
        await bench.device.write(0, b"x")
    await bench.device.close()
    assert ("sync", 0, 0) not in bench.data.calls
    bench.changes.close()


async def test_requests_beside_a_write_in_a_thread(bench: Bench) -> None:
    """Same units wait for it, other units do not."""
    bench.data.gate.clear()
    order: list[str] = []

    async def write_much() -> None:
        await bench.device.write(0, b"w" * MAX_REQUEST_BYTES)
        order.append("write")

    async def read_same() -> None:
        assert await bench.read(MAX_REQUEST_BYTES - 1, 1) == b"w"
        order.append("same")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write_much)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(read_same)
        await trio.testing.wait_all_tasks_blocked()
        assert await bench.read(MAX_REQUEST_BYTES, 1) == b"\0"
        await bench.device.write(MAX_REQUEST_BYTES, b"x" * UNIT_BYTES)
        order.append("other")
        bench.data.gate.set()
    assert order == ["other", "write", "same"]


async def test_a_capture_stands_still_until_chunks_are_given_back(bench: Bench) -> None:
    await bench.device.write(0, b"old")
    capture = await bench.device.begin_capture()
    assert bench.device.capture_running
    written = [trio.Event(), trio.Event()]

    async def write(chunk: int) -> None:
        await bench.device.write(chunk * CHUNK_BYTES, b"new")
        written[chunk].set()

    async with trio.open_nursery() as nursery:
        for chunk in (0, 1):
            nursery.start_soon(write, chunk)
        await trio.testing.wait_all_tasks_blocked()
        assert not any(event.is_set() for event in written)
        assert await bench.read(0, 3) == b"old"
        bench.device.chunks_captured(range(1, 2))
        await written[1].wait()
        assert not written[0].is_set()
        assert bench.captured_chunk(0)[:3] == b"old"
        bench.device.chunks_captured(range(1))
    assert await bench.read(0, 3) == b"new"
    await bench.device.commit_capture(capture, PARENT)
    assert bench.changes.parent == PARENT


async def test_a_write_over_several_chunks_waits_for_all_of_them(bench: Bench) -> None:
    capture = await bench.device.begin_capture()
    done = trio.Event()

    async def write() -> None:
        await bench.device.write(CHUNK_BYTES - 1, b"ab")
        done.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        for chunk in (0, 1):
            await trio.testing.wait_all_tasks_blocked()
            assert not done.is_set()
            bench.device.chunks_captured(range(chunk, chunk + 1))
    await bench.device.abort_capture(capture)
    assert await bench.read(CHUNK_BYTES - 1, 2) == b"ab"


async def test_changes_are_counted_from_a_committed_capture(bench: Bench) -> None:
    first = await bench.device.begin_capture()
    assert first.parent is None
    assert first.changed is None
    await bench.device.commit_capture(first, PARENT)
    await bench.device.write(3 * CHUNK_BYTES, b"x")
    second = await bench.device.begin_capture()
    assert second.parent == PARENT
    assert second.changed is not None
    assert second.changed.nonzero()[0].tolist() == [3]
    bench.device.chunks_captured(range(CHUNKS))
    await bench.device.write(5 * CHUNK_BYTES, b"x")
    await bench.device.abort_capture(second)
    third = await bench.device.begin_capture()
    assert third.changed is not None
    assert third.changed.nonzero()[0].tolist() == [3, 5]
    await bench.device.abort_capture(third)
    await bench.device.abort_capture(third)


async def test_one_capture_at_a_time(bench: Bench) -> None:
    capture = await bench.device.begin_capture()
    with pytest.raises(TryAgainError, match="another snapshot"):
        await bench.device.begin_capture()
    await bench.device.abort_capture(capture)


async def test_aborting_lets_waiting_writes_go(bench: Bench) -> None:
    capture = await bench.device.begin_capture()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.device.write, 0, b"x")
        await trio.testing.wait_all_tasks_blocked()
        await bench.device.abort_capture(capture)
    assert await bench.read(0, 1) == b"x"


@pytest.mark.parametrize("size", [UNIT_BYTES, 100, INLINE_BYTES * 2])
async def test_a_capture_is_one_point_in_time(bench: Bench, size: int) -> None:
    """Writers number their writes in one sequence: there is a k with all of the writes up to k in
    the capture and none after it.
    """
    places = [(chunk * CHUNK_BYTES + 64 * 1024) // size * size for chunk in range(CHUNKS)]
    cuts: list[dict[int, int]] = []
    sequence = 0
    running = True

    async def writer() -> None:
        nonlocal sequence
        while running:
            sequence += 1
            number = sequence
            await bench.device.write(
                places[number % CHUNKS], struct.pack("<Q", number).ljust(size, b".")
            )
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer)
        for _ in range(3):
            await trio.sleep(0.02)
            capture = await bench.device.begin_capture()
            captured: dict[int, int] = {}
            for chunk, place in enumerate(places):
                await trio.sleep(0.002)
                stored = bench.captured_chunk(chunk)
                (captured[chunk],) = struct.unpack_from("<Q", stored, place % CHUNK_BYTES)
                bench.device.chunks_captured(range(chunk, chunk + 1))
            await bench.device.commit_capture(capture, PARENT)
            cuts.append(captured)
        running = False
    for captured in cuts:
        cut = max(captured.values())
        latest = {n % CHUNKS: n for n in range(1, cut + 1)}
        assert captured == {chunk: latest.get(chunk, 0) for chunk in range(CHUNKS)}
    assert max(cuts[2].values()) > max(cuts[0].values()) > 0


async def test_closing_finishes_what_runs_refuses_what_comes_and_flushes(bench: Bench) -> None:
    bench.data.gate.clear()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.device.write, 0, b"w" * MAX_REQUEST_BYTES)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(bench.device.close)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(MountError, match="being unmounted"):
            await bench.device.write(SIZE - 1, b"x")
        with pytest.raises(MountError, match="being unmounted"):
            await bench.device.read(SIZE - 1, 1)
        bench.data.gate.set()
    operations = [call[0] for call in bench.data.calls]
    assert operations.index("write") < operations.index("sync")
    with pytest.raises(MountError, match="being unmounted"):
        await bench.device.begin_capture()


async def test_closing_ends_a_capture_and_refuses_what_waits_for_it(bench: Bench) -> None:
    """A write after the last flush would be in no change map."""
    await bench.device.begin_capture()
    refused = trio.Event()

    async def write() -> None:
        with pytest.raises(MountError, match="being unmounted"):
            await bench.device.write(0, b"x")
        refused.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        await trio.testing.wait_all_tasks_blocked()
        await bench.device.close()
        await refused.wait()
    assert await trio.to_thread.run_sync(lambda: bench.captured_chunk(0)[:1]) == b"\0"


async def test_a_lost_write_is_told_and_never_forgotten(bench: Bench) -> None:
    bench.data.fail_sync = errno.EIO
    with pytest.raises(OSError, match="Input/output error"):
        await bench.device.flush()
    assert bench.changes.is_void
    with pytest.raises(ReadOnlyError):
        await bench.device.write(0, bytes(UNIT_BYTES))
    with pytest.raises(ReadOnlyError):
        await bench.device.flush()
    capture = await bench.device.begin_capture()
    await bench.device.commit_capture(capture, PARENT)
    assert bench.changes.is_void
    with pytest.raises(ReadOnlyError):
        await bench.device.close()


async def test_a_failed_write_gives_its_range_back(bench: Bench) -> None:
    bench.data.fail_write_at = CHUNK_BYTES
    for size in (UNIT_BYTES, MAX_REQUEST_BYTES):
        with pytest.raises(OSError, match="Input/output error"):
            await bench.device.write(CHUNK_BYTES, bytes(size))
    bench.data.fail_write_at = None
    await bench.device.write(CHUNK_BYTES, b"fine")
    assert await bench.read(CHUNK_BYTES, 4) == b"fine"
