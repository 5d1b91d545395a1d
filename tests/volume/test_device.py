"""The device: many callers at once against a model, inline or thread, the end."""

import errno
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from tests.volume.bench import PARENT, SIZE, Bench
from volcrypt.errors import FencedError, MountError, OutOfRangeError, ReadOnlyError
from volcrypt.geometry import CHUNK_BYTES, UNIT_BYTES
from volcrypt.volume.device import INLINE_BYTES, MAX_REQUEST_BYTES


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


@pytest.mark.parametrize("what", ["quiesce", "grow"])
async def test_who_wants_nobody_at_work_waits_for_a_write(bench: Bench, what: str) -> None:
    bench.data.gate.clear()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.device.write, 0, b"w" * MAX_REQUEST_BYTES)
        await trio.testing.wait_all_tasks_blocked()
        if what == "grow":
            nursery.start_soon(bench.device.grow, SIZE + CHUNK_BYTES)
        else:
            nursery.start_soon(bench.device.quiesce)
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert bench.data.syncs == 0
        assert bench.device.size_bytes == SIZE
        bench.data.gate.set()
    assert (bench.data.syncs, bench.device.size_bytes) in ((1, SIZE), (0, SIZE + CHUNK_BYTES))


async def test_what_was_being_read_is_not_handed_out_behind_a_fence(bench: Bench) -> None:
    async def read() -> None:
        with pytest.raises(FencedError, match="key disabled"):
            await bench.device.read(0, MAX_REQUEST_BYTES)

    bench.data.read_gate.clear()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        bench.device.fence(FencedError("key disabled"))
        bench.data.read_gate.set()


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
        await bench.device.captures.begin()


async def test_a_lost_write_is_told_and_never_forgotten(bench: Bench) -> None:
    bench.data.fail_sync = errno.EIO
    with pytest.raises(OSError, match="Input/output error"):
        await bench.device.flush()
    assert bench.changes.is_void
    with pytest.raises(ReadOnlyError):
        await bench.device.write(0, bytes(UNIT_BYTES))
    with pytest.raises(ReadOnlyError):
        await bench.device.flush()
    capture = await bench.device.captures.begin()
    await bench.device.captures.commit(capture, PARENT)
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
