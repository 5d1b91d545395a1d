"""A device under a lease: nothing is written while nobody can say that the lease is held."""

import math
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from tests.volume.bench import Bench
from volcrypt.errors import FencedError, MountError
from volcrypt.geometry import CHUNK_BYTES, UNIT_BYTES
from volcrypt.volume.lease_gate import LeaseGate
from volcrypt.volume.lease_time import TRUST_SECONDS

SIZES = [UNIT_BYTES, CHUNK_BYTES]
"""One that is written on the loop, and one in a thread."""


class Leased(Bench):
    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.now = 1000.0
        self.gate = LeaseGate(clock=lambda: self.now)
        self.device.use_lease(self.gate)

    @property
    def content(self) -> bytes:
        return bytes(self.data.content)

    @asynccontextmanager
    async def waiting_write(self, size: int) -> AsyncIterator[None]:
        """A write that cannot be done at first, and is at the end."""
        before = self.content
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.device.write, 0, b"w" * size)
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert self.content == before
            yield
        assert self.content != before


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Leased]:
    made = Leased(tmp_path)
    yield made
    made.data.gate.set()
    made.volume.close()
    made.changes.close()


@pytest.mark.parametrize("size", SIZES)
async def test_writes_wait_until_the_lease_was_seen(bench: Leased, size: int) -> None:
    async with bench.waiting_write(size):
        bench.gate.held(bench.now)


@pytest.mark.parametrize("size", SIZES)
async def test_no_word_for_long_stops_writes_and_word_lets_them_go_on(
    bench: Leased, size: int
) -> None:
    bench.gate.held(bench.now)
    bench.now += TRUST_SECONDS - 0.1
    await bench.device.write(0, b"a" * size)  # the control
    # Nothing runs in between: as after a sleep of the machine.
    bench.now += 0.1
    async with bench.waiting_write(size):
        assert await bench.read(0, size) == b"a" * size
        bench.gate.held(bench.now)
    assert await bench.read(0, size) == b"w" * size


async def test_it_counts_when_it_was_asked_and_not_when_it_was_answered(bench: Leased) -> None:
    asked = bench.now
    bench.now += TRUST_SECONDS
    bench.gate.held(asked)
    assert bench.gate.left_seconds == 0
    bench.now = asked + 1
    assert bench.gate.left_seconds == TRUST_SECONDS - 1
    # An old answer that comes late takes nothing back, and a clock of tomorrow is not believed.
    bench.gate.held(asked - TRUST_SECONDS)
    assert bench.gate.left_seconds == TRUST_SECONDS - 1
    bench.gate.held(bench.now + 1e9)
    assert bench.gate.left_seconds == TRUST_SECONDS


async def test_a_sync_waits_too(bench: Leased) -> None:
    async with trio.open_nursery() as nursery:
        done = trio.Event()

        async def flush() -> None:
            await bench.device.flush()
            done.set()

        nursery.start_soon(flush)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert not done.is_set()
        bench.gate.held(bench.now)
        await done.wait()


@pytest.mark.parametrize("size", SIZES)
async def test_who_waits_is_told_of_a_fence(bench: Leased, size: int) -> None:
    before = bench.content
    async with trio.open_nursery() as nursery:

        async def write() -> None:
            with pytest.raises(FencedError, match="lost"):
                await bench.device.write(0, b"w" * size)

        nursery.start_soon(write)
        await trio.testing.wait_all_tasks_blocked(0.01)
        bench.device.fence(FencedError("lost"))
    assert bench.content == before


@pytest.mark.parametrize("size", SIZES)
async def test_the_end_does_not_wait_for_who_waits(bench: Leased, size: int) -> None:
    before = bench.content
    async with trio.open_nursery() as nursery:

        async def write() -> None:
            with pytest.raises(MountError, match="unmounted"):
                await bench.device.write(0, b"w" * size)

        nursery.start_soon(write)
        await trio.testing.wait_all_tasks_blocked(0.01)
        await bench.device.close()
    assert bench.content == before


async def test_a_write_that_got_its_place_late_looks_again(bench: Leased) -> None:
    bench.gate.held(bench.now)
    bench.data.gate.clear()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.device.write, 0, b"a" * CHUNK_BYTES)
        await trio.testing.wait_all_tasks_blocked(0.01)
        nursery.start_soon(bench.device.write, 0, b"b" * CHUNK_BYTES)
        await trio.testing.wait_all_tasks_blocked(0.01)
        bench.now += TRUST_SECONDS
        bench.data.gate.set()
        await bench.device.quiesce()
        assert await bench.read(0, CHUNK_BYTES) == b"a" * CHUNK_BYTES
        bench.gate.held(bench.now)
    assert await bench.read(0, CHUNK_BYTES) == b"b" * CHUNK_BYTES


def test_who_looks_at_the_clock_himself_is_told_when_it_closes(bench: Leased) -> None:
    """Of each time that is later, and of nothing else."""
    told: list[float] = []
    bench.gate.prolonged = told.append
    assert bench.gate.until == -math.inf
    bench.gate.held(bench.now)
    bench.gate.held(bench.now - 1)
    bench.gate.held(bench.now)
    bench.now += 1
    bench.gate.held(bench.now)
    assert told == [bench.now - 1 + TRUST_SECONDS, bench.now + TRUST_SECONDS]
    assert bench.gate.until == told[-1]


def test_the_data_plane_is_granted_nothing_when_it_is_closed(bench: Leased) -> None:
    bench.device._is_marked = lambda _: True
    assert bench.device._may_be_granted(0, exclusive=False)
    assert not bench.device._may_be_granted(0, exclusive=True)
    bench.gate.held(bench.now)
    assert bench.device._may_be_granted(0, exclusive=True)
