"""The range lock: overlap, order of arrival, cancellation, and a model of many callers."""

import random
from functools import partial

import trio
import trio.testing

from volcrypt.geometry import ByteRange
from volcrypt.volume.range_lock import RangeLock


async def test_shared_holders_overlap_and_an_exclusive_one_waits_for_them() -> None:
    lock = RangeLock()
    order: list[str] = []

    async def writer() -> None:
        async with lock.hold(ByteRange(0, 4096), exclusive=True):
            order.append("writer")

    async with trio.open_nursery() as nursery, lock.hold(ByteRange(0, 8192), exclusive=False):
        assert lock.is_free(ByteRange(0, 4096), exclusive=False)
        async with lock.hold(ByteRange(4096, 4096), exclusive=False):
            nursery.start_soon(writer)
            await trio.testing.wait_all_tasks_blocked()
            order.append("readers")
    assert order == ["readers", "writer"]


async def test_ranges_apart_do_not_wait() -> None:
    lock = RangeLock()
    async with lock.hold(ByteRange(0, 4096), exclusive=True):
        assert not lock.is_free(ByteRange(4095, 2), exclusive=False)
        with trio.fail_after(1):
            async with lock.hold(ByteRange(4096, 4096), exclusive=True):
                pass
    assert lock.is_free(ByteRange(0, 1 << 40), exclusive=True)


async def test_a_reader_does_not_overtake_a_waiting_writer() -> None:
    lock = RangeLock()
    order: list[str] = []

    async def work(name: str, *, exclusive: bool) -> None:
        async with lock.hold(ByteRange(0, 4096), exclusive=exclusive):
            order.append(name)

    async with trio.open_nursery() as nursery, lock.hold(ByteRange(0, 4096), exclusive=False):
        nursery.start_soon(lambda: work("writer", exclusive=True))
        await trio.testing.wait_all_tasks_blocked()
        assert not lock.is_free(ByteRange(0, 4096), exclusive=False)
        nursery.start_soon(lambda: work("reader", exclusive=False))
        await trio.testing.wait_all_tasks_blocked()
        assert order == []
    assert order == ["writer", "reader"]


async def test_a_cancelled_waiter_lets_those_behind_it_pass() -> None:
    lock = RangeLock()
    async with lock.hold(ByteRange(0, 4096), exclusive=False):
        with trio.move_on_after(0) as scope:
            async with lock.hold(ByteRange(0, 4096), exclusive=True):
                raise AssertionError("granted against a holder")
        assert scope.cancelled_caught
        assert lock.is_free(ByteRange(0, 4096), exclusive=False)
    assert lock.is_free(ByteRange(0, 4096), exclusive=True)


async def test_a_grant_in_the_turn_of_the_cancellation_is_given_back() -> None:
    lock = RangeLock()
    scope = trio.CancelScope()

    async def waiter() -> None:
        with scope:
            async with lock.hold(ByteRange(0, 4096), exclusive=True):
                await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        async with lock.hold(ByteRange(0, 4096), exclusive=True):
            nursery.start_soon(waiter)
            await trio.testing.wait_all_tasks_blocked()
        scope.cancel()
    assert lock.is_free(ByteRange(0, 4096), exclusive=True)


async def test_many_callers_never_conflict_and_all_finish() -> None:
    lock = RangeLock()
    active: list[tuple[ByteRange, bool]] = []
    finished = 0

    async def caller(seed: int) -> None:
        nonlocal finished
        dice = random.Random(seed)
        for _ in range(50):
            extent = ByteRange(dice.randrange(64), dice.randrange(1, 16))
            exclusive = dice.random() < 0.5
            async with lock.hold(extent, exclusive=exclusive):
                for other, other_exclusive in active:
                    assert not (extent.overlaps(other) and (exclusive or other_exclusive))
                active.append((extent, exclusive))
                for _ in range(dice.randrange(3)):
                    await trio.lowlevel.checkpoint()
                active.remove((extent, exclusive))
        finished += 1

    async with trio.open_nursery() as nursery:
        for seed in range(20):
            nursery.start_soon(caller, seed)
    assert finished == 20
    assert lock.is_free(ByteRange(0, 64), exclusive=True)


async def test_outlasting_writers_waits_for_those_of_now_and_holds_up_nobody() -> None:
    lock = RangeLock()
    ended: list[str] = []

    async def hold(name: str, offset: int, end: trio.Event, *, exclusive: bool = True) -> None:
        async with lock.hold(ByteRange(offset, 4096), exclusive=exclusive):
            await end.wait()
        ended.append(name)

    async def outlast() -> None:
        await lock.outlast_writers()
        ended.append("outlasted")

    await lock.outlast_writers()
    events = [trio.Event() for _ in range(4)]
    async with trio.open_nursery() as nursery:
        for number, exclusive in enumerate([True, True, False]):
            place = number * 4096
            nursery.start_soon(
                partial(hold, str(number), place, events[number], exclusive=exclusive)
            )
        await trio.testing.wait_all_tasks_blocked()
        assert sorted(e.offset for e in lock.exclusive_extents) == [0, 4096]
        for _ in range(2):
            nursery.start_soon(outlast)
        await trio.testing.wait_all_tasks_blocked()
        # One that comes later is let in, and not waited for.
        nursery.start_soon(hold, "3", 3 * 4096, events[3])
        await trio.testing.wait_all_tasks_blocked()
        assert len(lock.exclusive_extents) == 3
        for event in (events[1], events[0]):
            assert "outlasted" not in ended
            event.set()
            await trio.testing.wait_all_tasks_blocked()
        assert ended[-2:] == ["outlasted", "outlasted"]
        for event in events:
            event.set()
    assert lock.exclusive_extents == []
