"""Captures: the point in time, what is kept for it, holds, and what makes one fail."""

import errno
import os
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing
from typing_extensions import Buffer

from tests.volume.bench import CHUNKS, PARENT, SIZE, Bench
from volcrypt.errors import MountError, NoSpaceError, TryAgainError, VolumeError
from volcrypt.geometry import CHUNK_BYTES, UNIT_BYTES, ByteRange
from volcrypt.volume.capture import HOLD_SECONDS, KEPT_AT_ONCE
from volcrypt.volume.device import INLINE_BYTES, MAX_REQUEST_BYTES, Device
from volcrypt.volume.volume import Volume

NO_SPACE = NoSpaceError("no space left for /somewhere")


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.volume.close()
    made.changes.close()


async def write(bench: Bench, chunk: int, data: bytes = b"new") -> None:
    with trio.fail_after(10):
        assert await bench.device.write(chunk * CHUNK_BYTES, data) == len(data)


class TestKeeping:
    async def test_a_write_goes_on_and_the_old_chunk_is_kept(self, bench: Bench) -> None:
        await write(bench, 0, b"old")
        captures = bench.device.captures
        capture = await captures.begin()
        for _ in range(2):
            await write(bench, 0)
        assert await bench.read(0, 3) == b"new"
        assert bench.captured_chunk(0)[:3] == b"old"
        assert list(bench.keepers[-1].kept) == [0]
        assert captures.longest_keep_us > 0
        await captures.commit(capture, PARENT)
        assert bench.changes.parent == PARENT
        assert bench.keepers[-1].closed
        await write(bench, 1)
        assert list(bench.keepers[-1].kept) == [0]

    async def test_a_write_over_several_chunks_keeps_all_of_them(self, bench: Bench) -> None:
        await bench.device.captures.begin()
        assert await bench.device.write(CHUNK_BYTES - 1, bytes(MAX_REQUEST_BYTES)) > 0
        assert sorted(bench.keepers[-1].kept) == [0, 1, 2]

    async def test_what_is_released_is_not_kept(self, bench: Bench) -> None:
        captures = bench.device.captures
        capture = await captures.begin()
        captures.release(capture, range(2, 4))
        # Wanted are 0 and 5.
        await captures.release_unwanted(capture, bytes([0b00100001]))
        for chunk in range(CHUNKS):
            await write(bench, chunk)
        assert sorted(bench.keepers[-1].kept) == [0, 5]

    async def test_a_chunk_is_kept_once_and_all_writes_to_it_wait(self, bench: Bench) -> None:
        await bench.device.captures.begin()
        keeper = bench.keepers[-1]
        keeper.gate.clear()
        async with trio.open_nursery() as nursery:
            for number in range(5):
                nursery.start_soon(bench.device.write, number, b"x")
            await trio.testing.wait_all_tasks_blocked()
            assert await bench.read(0, 5) == bytes(5)
            keeper.gate.set()
        assert await bench.read(0, 5) == b"xxxxx"
        assert bench.captured_chunk(0)[:5] == bytes(5)

    async def test_memory_is_bounded(self, bench: Bench) -> None:
        await bench.device.captures.begin()
        keeper = bench.keepers[-1]
        keeper.gate.clear()
        async with trio.open_nursery() as nursery:
            for chunk in range(CHUNKS):
                nursery.start_soon(write, bench, chunk)
            for _ in range(KEPT_AT_ONCE):
                await trio.to_thread.run_sync(keeper.came.acquire)
            keeper.gate.set()
        assert keeper.most_at_once == KEPT_AT_ONCE
        assert len(keeper.kept) == CHUNKS

    async def test_the_end_waits_for_what_is_being_kept(self, bench: Bench) -> None:
        captures = bench.device.captures
        capture = await captures.begin()
        keeper = bench.keepers[-1]
        keeper.gate.clear()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write, bench, 0)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(captures.abort, capture)
            await trio.testing.wait_all_tasks_blocked()
            await write(bench, 1)
            ended_early = keeper.closed
            keeper.gate.set()
        assert (ended_early, keeper.closed) == (False, True)
        assert list(keeper.kept) == [0]

    async def test_a_cancelled_writer_leaves_the_chunk_to_the_next(self, bench: Bench) -> None:
        await bench.device.captures.begin()
        keeper = bench.keepers[-1]
        keeper.gate.clear()
        async with trio.open_nursery() as outer, trio.open_nursery() as nursery:
            nursery.start_soon(write, bench, 0, b"first")
            await trio.testing.wait_all_tasks_blocked()
            outer.start_soon(write, bench, 0, b"other")
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
            keeper.gate.set()
        assert await bench.read(0, 5) == b"other"
        assert bench.captured_chunk(0)[:5] == bytes(5)


class SlowVolume(Volume):
    """Writes too large for the loop wait for `gate` before they do anything at all."""

    gate: threading.Event

    def write(self, offset: int, data: Buffer) -> None:
        if memoryview(data).nbytes > INLINE_BYTES:
            assert self.gate.wait(10)
        super().write(offset, data)


class TestPointInTime:
    @pytest.mark.parametrize("has_begun", [True, False])
    async def test_a_write_under_way_is_part_of_it_and_nobody_waits_for_that_one(
        self, bench: Bench, has_begun: bool
    ) -> None:
        """It may have marked its chunks before the barrier, or mark them after it."""
        captures = bench.device.captures
        await captures.commit(await captures.begin(), PARENT)
        gate = bench.data.gate
        if not has_begun:
            slow = SlowVolume(bench.data, size_bytes=SIZE, data_key=None, changes=bench.changes)
            slow.gate = gate
            bench.device = Device(slow, changes=bench.changes, open_keeper=bench.open_keeper)
            captures = bench.device.captures
        gate.clear()
        changed: list[set[int] | None] = []

        async def settle() -> None:
            changed.append(await bench.changed(capture))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write, bench, 2, b"w" * MAX_REQUEST_BYTES)
            await trio.testing.wait_all_tasks_blocked()
            capture = await captures.begin()
            nursery.start_soon(settle)
            await write(bench, 5)
            assert bench.captured_chunk(5)[:3] == bytes(3)
            nursery.start_soon(write, bench, 2, b"later")
            await trio.testing.wait_all_tasks_blocked()
            assert changed == []
            assert 2 not in bench.keepers[-1].kept
            gate.set()
        assert changed == [{2, 3}]
        assert await bench.read(2 * CHUNK_BYTES, 6) == b"laterw"
        kept = bench.keepers[-1].kept[2]
        content = bench.captured_chunk(2) if has_begun else kept
        assert content == b"w" * CHUNK_BYTES
        await captures.commit(capture, PARENT)
        capture = await captures.begin()
        found = await bench.changed(capture)
        assert found is not None
        assert {2, 5} <= found

    async def test_a_write_that_only_waits_its_turn_comes_after_it(self, bench: Bench) -> None:
        captures = bench.device.captures
        bench.data.gate.clear()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write, bench, 2, b"w" * CHUNK_BYTES)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(write, bench, 2, b"later")
            await trio.testing.wait_all_tasks_blocked()
            await captures.begin()
            bench.data.gate.set()
        assert await bench.read(2 * CHUNK_BYTES, 6) == b"laterw"
        assert bench.captured_chunk(2) == b"w" * CHUNK_BYTES

    @pytest.mark.parametrize("size", [UNIT_BYTES, 100, INLINE_BYTES * 2])
    async def test_writers_that_never_stop(self, bench: Bench, size: int) -> None:
        """Writers number their writes in one sequence: there is a k with all of the writes up to k
        in the capture and none after it.
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

        captures = bench.device.captures
        async with trio.open_nursery() as nursery:
            nursery.start_soon(writer)
            for _ in range(3):
                await trio.sleep(0.02)
                capture = await captures.begin()
                await captures.settle(capture)
                captured: dict[int, int] = {}
                for chunk, place in enumerate(places):
                    await trio.sleep(0.002)
                    stored = bench.captured_chunk(chunk)
                    (captured[chunk],) = struct.unpack_from("<Q", stored, place % CHUNK_BYTES)
                    captures.release(capture, range(chunk, chunk + 1))
                await captures.commit(capture, PARENT)
                cuts.append(captured)
            running = False
        for captured in cuts:
            cut = max(captured.values())
            latest = {n % CHUNKS: n for n in range(1, cut + 1)}
            assert captured == {chunk: latest.get(chunk, 0) for chunk in range(CHUNKS)}
        assert max(cuts[2].values()) > max(cuts[0].values()) > 0

    async def test_changes_are_counted_from_a_committed_one(self, bench: Bench) -> None:
        captures = bench.device.captures
        first = await captures.begin()
        assert first.point.parent is None
        assert await bench.changed(first) is None
        await captures.commit(first, PARENT)
        await write(bench, 3)
        second = await captures.begin()
        assert second.point.parent == PARENT
        assert await bench.changed(second) == {3}
        await write(bench, 5)
        await captures.abort(second)
        third = await captures.begin()
        assert await bench.changed(third) == {3, 5}
        await captures.abort(third)
        await captures.abort(third)

    async def test_who_holds_everything_is_no_writer(self, bench: Bench) -> None:
        """A fence that falls, say: nothing changes under it."""
        captures = bench.device.captures
        await captures.commit(await captures.begin(), PARENT)
        begun: list[set[int] | None] = []

        async def begin() -> None:
            begun.append(await bench.changed(await captures.begin()))

        everything = bench.device._ranges.hold(ByteRange(0, SIZE), exclusive=True, is_barrier=True)
        async with trio.open_nursery() as nursery, everything:
            nursery.start_soon(begin)
            await trio.testing.wait_all_tasks_blocked()
            assert begun == []
        assert begun == [set()]

    async def test_one_at_a_time(self, bench: Bench) -> None:
        captures = bench.device.captures
        capture = await captures.begin()
        with pytest.raises(TryAgainError, match="another snapshot"):
            await captures.begin()
        await captures.abort(capture)

    async def test_it_waits_for_no_flush(self, bench: Bench) -> None:
        gate = threading.Event()
        sync = bench.data.sync

        def slow_sync() -> None:
            assert gate.wait(10)
            sync()

        bench.data.sync = slow_sync  # type: ignore[method-assign]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bench.device.flush)
            await trio.testing.wait_all_tasks_blocked()
            with trio.fail_after(5):
                await bench.device.captures.settle(await bench.device.captures.begin())
            gate.set()

    async def test_without_a_place_to_keep_things_there_is_none(self, bench: Bench) -> None:
        def refuse() -> None:
            raise NO_SPACE

        bench.open_keeper = refuse  # type: ignore[assignment, method-assign]
        device = Device(bench.volume, changes=bench.changes, open_keeper=bench.open_keeper)
        with pytest.raises(NoSpaceError):
            await device.captures.begin()
        assert not device.captures.is_running
        await device.write(0, b"new")


class TestHold:
    async def test_writes_wait_and_reads_do_not(self, bench: Bench) -> None:
        captures = bench.device.captures
        capture = await captures.begin(hold=True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write, bench, 0)
            await trio.testing.wait_all_tasks_blocked()
            assert await bench.read(0, 3) == bytes(3)
            assert await bench.read(0, MAX_REQUEST_BYTES) == bytes(MAX_REQUEST_BYTES)
            captures.resume(capture)
        assert await bench.read(0, 3) == b"new"
        assert bench.captured_chunk(0)[:3] == bytes(3)
        assert capture.barrier_us > 0

    async def test_ending_it_lets_writes_go(self, bench: Bench) -> None:
        captures = bench.device.captures
        capture = await captures.begin(hold=True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write, bench, 0)
            await trio.testing.wait_all_tasks_blocked()
            await captures.abort(capture)
        assert bench.keepers[-1].kept == {}

    @pytest.mark.parametrize("is_awaited", [True, False])
    async def test_nobody_waits_for_ever(
        self, bench: Bench, mock_clock: trio.testing.MockClock, is_awaited: bool
    ) -> None:
        captures = bench.device.captures
        capture = await captures.begin(hold=True)
        async with trio.open_nursery() as nursery:
            if is_awaited:
                nursery.start_soon(bench.device.write, 0, b"new")
                await trio.testing.wait_all_tasks_blocked()
            mock_clock.jump(HOLD_SECONDS + 1)
        with pytest.raises(TryAgainError, match="held for 5 s"):
            captures.resume(capture)
        with pytest.raises(TryAgainError, match="held for 5 s"):
            await captures.settle(capture)
        await bench.device.write(1, b"new")
        await captures.abort(capture)
        await captures.abort(await captures.begin())

    async def test_a_writer_that_comes_late_finds_it_over(
        self, bench: Bench, mock_clock: trio.testing.MockClock
    ) -> None:
        capture = await bench.device.captures.begin(hold=True)
        mock_clock.jump(HOLD_SECONDS + 1)
        await bench.device.write(0, b"new")
        with pytest.raises(TryAgainError):
            bench.device.captures.check(capture)


class TestFailure:
    @pytest.mark.parametrize(
        ("error", "told"),
        [
            (NO_SPACE, NoSpaceError),
            (OSError(errno.EIO, os.strerror(errno.EIO)), VolumeError),
        ],
    )
    async def test_what_cannot_be_kept_fails_the_capture_and_not_the_writer(
        self, bench: Bench, error: Exception, told: type[Exception]
    ) -> None:
        captures = bench.device.captures
        await captures.commit(await captures.begin(), PARENT)
        await write(bench, 1)
        capture = await captures.begin()
        bench.keepers[-1].error = error
        await write(bench, 2)
        await write(bench, 3)
        assert bench.keepers[-1].discarded
        with pytest.raises(told, match=r"no space left|Input/output error"):
            captures.check(capture)
        with pytest.raises(told):
            captures.release(capture, range(1))
        with pytest.raises(told):
            await captures.release_unwanted(capture, bytes(1))
        with pytest.raises(told):
            await captures.settle(capture)
        with pytest.raises(told):
            await captures.commit(capture, PARENT)
        await captures.abort(capture)
        assert await bench.changed(await captures.begin()) == {1, 2, 3}

    async def test_what_was_released_meanwhile_does_not_matter(self, bench: Bench) -> None:
        captures = bench.device.captures
        capture = await captures.begin()
        keeper = bench.keepers[-1]
        keeper.error = NO_SPACE
        keeper.gate.clear()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write, bench, 0)
            await trio.testing.wait_all_tasks_blocked()
            captures.release(capture, range(1))
            keeper.gate.set()
        captures.check(capture)
        assert await bench.read(0, 3) == b"new"

    @pytest.mark.parametrize("size", [UNIT_BYTES, MAX_REQUEST_BYTES])
    @pytest.mark.parametrize("takes_room", [True, False])
    async def test_a_writer_that_finds_no_room_gets_that_of_the_capture(
        self, bench: Bench, size: int, takes_room: bool
    ) -> None:
        captures = bench.device.captures
        capture = await captures.begin()
        keeper = bench.keepers[-1]
        keeper.takes_room_of_data = takes_room
        store = bench.data.write

        def crowded(offset: int, data: Buffer) -> None:
            if not keeper.discarded:
                raise NO_SPACE
            store(offset, data)

        bench.data.write = crowded  # type: ignore[method-assign]
        if takes_room:
            await write(bench, 0, b"x" * size)
            with pytest.raises(NoSpaceError, match="writers need the room"):
                captures.check(capture)
        else:
            with pytest.raises(NoSpaceError, match="no space left"):
                await write(bench, 0, b"x" * size)
            captures.check(capture)

    async def test_closing_ends_it_and_refuses_what_waits_for_it(self, bench: Bench) -> None:
        """A write after the last flush would be in no change map."""
        captures = bench.device.captures
        capture = await captures.begin(hold=True)

        async def refused() -> None:
            with pytest.raises(MountError, match="being unmounted"):
                await bench.device.write(0, b"x")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(refused)
            await trio.testing.wait_all_tasks_blocked()
            await bench.device.close()
        assert bench.captured_chunk(0)[:1] == b"\0"
        assert bench.keepers[-1].closed
        with pytest.raises(MountError, match="being unmounted"):
            captures.check(capture)
