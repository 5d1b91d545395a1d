"""The fence of a device: no request after it, none cut off by it, and no key left."""

import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from tests.volume.bench import PARENT, SIZE, Bench
from volcrypt.chunk_set import ChunkSet
from volcrypt.crypto.data_key import DataKey
from volcrypt.daemons.fencing import GRACE_SECONDS, Fencing
from volcrypt.errors import FencedError, VolcryptError
from volcrypt.geometry import CHUNK_BYTES, UNIT_BYTES, chunk_count
from volcrypt.volume.device import INLINE_BYTES


class Fenced(Bench):
    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.key = DataKey(bytearray(range(64)))
        self.volume._data_key = self.key
        self.fencing = Fencing(self.device, wipe=self.wipe)

    def wipe(self) -> None:
        self.volume.close()
        self.key.wipe()

    def has_key(self) -> bool:
        try:
            self.key.view()
        except ValueError:
            return False
        return True

    @property
    def wiped_at(self) -> float | None:
        assert self.fencing.note is not None
        return self.fencing.note.wiped_at

    async def wiped(self) -> None:
        while self.wiped_at is None:
            await trio.lowlevel.checkpoint()

    async def refuses_everything(self) -> None:
        for size in (UNIT_BYTES, 2 * INLINE_BYTES):
            with pytest.raises(FencedError, match="disabled"):
                await self.device.read(0, size)
            with pytest.raises(FencedError, match="disabled"):
                await self.device.write(0, bytes(size))
        with pytest.raises(FencedError, match="disabled"):
            await self.device.flush()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Fenced]:
    made = Fenced(tmp_path)
    yield made
    made.data.gate.set()
    made.data.read_gate.set()
    made.volume.close()
    made.changes.close()


async def test_nothing_is_served_and_nothing_left(bench: Fenced) -> None:
    await bench.device.write(0, b"p" * (2 * INLINE_BYTES))
    assert await bench.read(0, INLINE_BYTES) == b"p" * INLINE_BYTES
    assert await bench.read(0, 2 * INLINE_BYTES) == b"p" * (2 * INLINE_BYTES)
    assert b"p" in bytes(bench.device._inline_buffer)  # the control
    assert any(b"p" in bytes(buffer) for buffer in bench.device._buffers)
    assert bench.data.syncs == 0
    await bench.fencing.fence("key disabled")
    assert bench.data.syncs == 1  # later another host may write
    assert bench.fencing.note is not None
    assert bench.fencing.note.reason == "key disabled"
    assert bench.fencing.note.wiped_at is not None
    assert not bench.has_key()
    assert not any(bytes(bench.device._inline_buffer))
    assert not any(any(bytes(buffer)) for buffer in bench.device._buffers)
    await bench.refuses_everything()
    first = bench.fencing.note
    await bench.fencing.fence("another reason")
    assert bench.fencing.note == first


async def test_what_is_being_fetched_is_given_up(bench: Fenced) -> None:
    told: list[VolcryptError] = []

    async def stop(reason: VolcryptError) -> None:
        told.append(reason)

    fencing = Fencing(bench.device, wipe=bench.wipe, stop_fetching=stop)
    await fencing.fence("key disabled")
    assert fencing.note is not None
    assert [str(reason) for reason in told] == [str(fencing.note.error())]


async def test_a_write_under_way_ends_well_and_one_behind_it_does_not(
    bench: Fenced, nursery: trio.Nursery
) -> None:
    bench.data.gate.clear()
    done: list[str] = []

    async def write(byte: bytes) -> None:
        try:
            await bench.device.write(0, byte * CHUNK_BYTES)
            done.append(byte.decode())
        except FencedError:
            done.append(f"{byte.decode()} refused")

    nursery.start_soon(write, b"a")
    await trio.testing.wait_all_tasks_blocked()
    nursery.start_soon(write, b"b")
    await trio.testing.wait_all_tasks_blocked()
    nursery.start_soon(bench.fencing.fence, "key disabled")
    await trio.testing.wait_all_tasks_blocked()
    await bench.refuses_everything()
    assert bench.has_key()
    assert done == []
    bench.data.gate.set()
    await bench.wiped()
    assert done == ["a", "b refused"]
    assert not bench.has_key()
    assert bench.captured_chunk(0) == b"a" * CHUNK_BYTES


async def test_a_medium_that_hangs_does_not_keep_the_key(
    bench: Fenced, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """But for the cipher of the request that hangs, which goes with it."""
    autojump_clock.autojump_threshold = float("inf")
    bench.data.gate.clear()

    async def write() -> None:
        with pytest.raises(FencedError):
            await bench.device.write(0, b"a" * CHUNK_BYTES)

    nursery.start_soon(write)
    while not bench.data.threads:  # it has not come to the medium yet
        await trio.lowlevel.checkpoint()
    nursery.start_soon(bench.fencing.fence, "key disabled")
    await trio.testing.wait_all_tasks_blocked()
    assert bench.has_key()
    autojump_clock.jump(GRACE_SECONDS + 1)
    await trio.testing.wait_all_tasks_blocked()
    assert not bench.has_key()
    assert bench.volume._lanes == []
    assert bench.wiped_at is None
    await bench.refuses_everything()
    bench.data.gate.set()
    await bench.wiped()
    assert bench.volume._lanes == []


async def test_what_hangs_is_answered_after_the_grace_time(
    bench: Fenced, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """The write that hangs, those behind it, a flush; the thread keeps its range until it ends."""
    autojump_clock.autojump_threshold = float("inf")
    bench.data.gate.clear()
    refused: list[str] = []

    async def refuse(name: str, request: Callable[[], Awaitable[object]]) -> None:
        with pytest.raises(FencedError, match="disabled"):
            await request()
        refused.append(name)

    size = CHUNK_BYTES
    nursery.start_soon(refuse, "write", lambda: bench.device.write(0, b"a" * size))
    while not bench.data.threads:
        await trio.lowlevel.checkpoint()
    nursery.start_soon(refuse, "behind", lambda: bench.device.write(0, b"b" * size))
    nursery.start_soon(refuse, "read", lambda: bench.device.read(0, 2 * INLINE_BYTES))
    nursery.start_soon(refuse, "flush", bench.device.flush)
    while not bench.data.syncs:
        await trio.lowlevel.checkpoint()
    await trio.testing.wait_all_tasks_blocked()
    nursery.start_soon(bench.fencing.fence, "key disabled")
    await trio.testing.wait_all_tasks_blocked()
    assert refused == []
    autojump_clock.jump(GRACE_SECONDS + 1)
    await trio.testing.wait_all_tasks_blocked()
    assert sorted(refused) == ["behind", "flush", "read", "write"]
    # It still may write there: nobody else may, and nothing counts as drained.
    assert not bench.device._ranges.is_idle
    assert bench.wiped_at is None
    closed = trio.Event()

    async def close() -> None:
        await bench.device.close()
        closed.set()

    nursery.start_soon(close)
    await trio.testing.wait_all_tasks_blocked()
    assert not closed.is_set()
    bench.data.gate.set()
    await bench.wiped()
    await closed.wait()
    assert bench.captured_chunk(0) == b"a" * size  # it was encrypted before the fence
    assert bench.device._ranges.is_idle


async def test_a_flush_alone_that_hangs_is_answered(
    bench: Fenced, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """It needs no key, which is wiped at once."""
    autojump_clock.autojump_threshold = float("inf")
    bench.data.gate.clear()
    refused = trio.Event()

    async def flush() -> None:
        with pytest.raises(FencedError):
            await bench.device.flush()
        refused.set()

    nursery.start_soon(flush)
    while not bench.data.syncs:
        await trio.lowlevel.checkpoint()
    nursery.start_soon(bench.fencing.fence, "key disabled")
    await trio.testing.wait_all_tasks_blocked()
    await bench.wiped()
    assert not refused.is_set()
    autojump_clock.jump(GRACE_SECONDS + 1)
    await refused.wait()
    bench.data.gate.set()


async def test_a_write_that_comes_back_encrypts_nothing_more(bench: Fenced) -> None:
    """Who gave the data was answered, and the place of the data may hold other data."""
    data = bytearray(b"a" * (2 * INLINE_BYTES + 100))
    bench.data.read_gate.clear()
    problems: list[Exception] = []

    def write() -> None:
        try:
            bench.volume.write(50, data)
        except ValueError as error:
            problems.append(error)

    thread = threading.Thread(target=write)
    thread.start()
    while not bench.data.threads:
        await trio.lowlevel.checkpoint()
    bench.wipe()
    data[:] = b"b" * len(data)
    bench.data.read_gate.set()
    await trio.to_thread.run_sync(thread.join)
    assert len(problems) == 1
    assert not any(bench.data.content)


async def test_the_end_keeps_what_was_written_and_changed(bench: Fenced) -> None:
    capture = await bench.device.captures.begin()
    await bench.device.captures.commit(capture, PARENT)
    await bench.device.write(3 * CHUNK_BYTES, b"x" * UNIT_BYTES)
    await bench.fencing.fence("key disabled")
    await bench.device.close()
    assert bench.data.content[3 * CHUNK_BYTES : 3 * CHUNK_BYTES + 16] != bytes(16)
    bits = bench.changes.changed_bits(bench.changes.begin_capture())
    assert bits is not None
    assert set(ChunkSet.of_packed(bits, chunk_count(SIZE))) == {3}


@pytest.mark.parametrize("fence_during", [True, False])
async def test_a_snapshot_needs_no_key(bench: Fenced, fence_during: bool) -> None:
    await bench.device.write(0, b"x" * CHUNK_BYTES)
    before = bytes(bench.data.content)
    if not fence_during:
        await bench.fencing.fence("key disabled")
    capture = await bench.device.captures.begin()
    if fence_during:
        await bench.fencing.fence("key disabled")
    bench.device.captures.release(capture, range(SIZE // CHUNK_BYTES))
    await bench.device.captures.commit(capture, PARENT)
    assert bytes(bench.data.content) == before
    assert bench.changes.parent == PARENT
    await bench.device.close()


async def test_who_waits_for_a_snapshot_is_refused(bench: Fenced, nursery: trio.Nursery) -> None:
    await bench.device.captures.begin(hold=True)
    refused = trio.Event()

    async def write() -> None:
        with pytest.raises(FencedError):
            await bench.device.write(0, b"x" * UNIT_BYTES)
        refused.set()

    nursery.start_soon(write)
    await trio.testing.wait_all_tasks_blocked()
    with trio.fail_after(10):
        await bench.fencing.fence("key disabled")
        await refused.wait()
    assert not any(bench.data.content[:UNIT_BYTES])


def test_threads_are_not_needed_to_wipe(tmp_path: Path) -> None:
    """Whoever serves from another thread finds a closed volume, not a key."""
    bench = Fenced(tmp_path)
    bench.wipe()
    problems: list[Exception] = []

    def work() -> None:
        try:
            bench.volume.read_into(0, bytearray(UNIT_BYTES))
        except ValueError as error:
            problems.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert len(problems) == 1
    bench.changes.close()
