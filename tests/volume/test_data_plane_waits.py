"""What of the compiled data plane has to wait, and what must not: for a lease that nobody has seen
lately, and for a medium that keeps every lane."""

import errno
import math
import threading
from collections.abc import AsyncIterator, Iterator
from fractions import Fraction
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import Buffer

from tests.file_system import disposable_file_system
from tests.plane_kernel import GETATTR
from tests.volume.test_data_plane import (
    BOTH,
    NEW,
    OLD,
    SIZE,
    Bench,
    ends,
    frozen,
    opened,
    serving,
    until_kept,
)
from volcrypt.errors import FencedError
from volcrypt.geometry import CHUNK_BYTES, UNIT_BYTES
from volcrypt.volume.data_plane import LANES
from volcrypt.volume.device import INLINE_BYTES
from volcrypt.volume.lease_gate import LeaseGate
from volcrypt.volume.lease_time import TRUST_SECONDS, boot_seconds, whole_nanoseconds


@pytest.fixture(scope="module")
def file_system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with disposable_file_system(tmp_path_factory.mktemp("disk")) as made:
        yield made.directory


@pytest.fixture
async def bench(file_system: Path, tmp_path: Path) -> AsyncIterator[Bench]:
    with opened(file_system, tmp_path) as made:
        async with serving(made):
            yield made


class TestLease:
    """The lane looks at the clock of the machine, so here time passes."""

    def gate(self, bench: Bench, *, left_seconds: float) -> LeaseGate:
        gate = LeaseGate()
        bench.device.use_lease(gate)
        gate.held(boot_seconds() - TRUST_SECONDS + left_seconds)
        return gate

    async def test_writes_are_the_planes_while_it_is_held(self, bench: Bench) -> None:
        self.gate(bench, left_seconds=TRUST_SECONDS)
        await bench.own()
        bench.was_fast()
        await bench.write(0, NEW)
        assert bench.was_fast()

    async def test_nothing_is_written_before_it_was_seen(self, bench: Bench) -> None:
        await bench.own()
        gate = LeaseGate()
        bench.device.use_lease(gate)
        bench.was_fast()
        await ends(bench, lambda: bench.write(0, NEW), lambda: gate.held(boot_seconds()))
        assert not bench.was_fast()
        assert bench.bed.stored(0, UNIT_BYTES) == NEW

    async def test_a_granted_write_waits_from_when_it_ends_until_it_is_held(
        self, bench: Bench
    ) -> None:
        await bench.own()
        gate = self.gate(bench, left_seconds=0.02)
        while gate.is_open:  # noqa: ASYNC110 nobody tells: that is the point
            await trio.sleep(0.005)
        assert bench.rights() == BOTH
        unique = bench.bed.send_write(0, NEW)
        await trio.sleep(0.02)
        assert bench.bed.is_silent()
        assert await bench.device.read(0, UNIT_BYTES) == OLD
        gate.held(boot_seconds())
        assert (await trio.to_thread.run_sync(bench.bed.reply)).unique == unique
        assert bench.rights() == BOTH
        bench.was_fast()
        await bench.write(0, NEW)
        assert bench.was_fast()

    async def test_a_lease_that_came_before_the_plane(self, tmp_path: Path) -> None:
        with opened(tmp_path, tmp_path, connects=False) as bench:
            gate = LeaseGate()
            bench.device.use_lease(gate)
            bench.device.use_plane(
                bench.bed.plane, is_marked=bench.changes.is_marked, budget=bench.budget
            )
            bench.bed.plane.add_budget(UNIT_BYTES)
            bench.bed.plane.grant(0, BOTH)
            bench.bed.send_write(0, NEW)
            bench.bed.await_event()
            assert bench.bed.plane.counts[:2] == (0, 1)
            gate.held(boot_seconds())
            await bench.write(0, NEW)
            assert bench.bed.plane.counts[:2] == (1, 1)

    @given(st.floats(0, 1e9))
    def test_no_moment_later_than_the_gate(self, seconds: float) -> None:
        assert 0 <= Fraction(seconds) * 10**9 - whole_nanoseconds(seconds) < 1
        assert whole_nanoseconds(-math.inf) == 0


class TestHeldUp:
    """A medium that keeps every lane: a disk that hangs, or a kernel that throttles writers."""

    async def test_nobody_else_waits(self, bench: Bench) -> None:
        for chunk in range(4):
            await bench.own(chunk)
        rest = 2 * CHUNK_BYTES - UNIT_BYTES
        await bench.write(2 * CHUNK_BYTES + UNIT_BYTES, OLD[:1] * rest)
        assert not bench.bed.plane.is_held_up()
        with frozen(bench.disk) as let_go:
            writes = [bench.bed.send_write(chunk * CHUNK_BYTES, NEW) for chunk in range(LANES)]
            await until_kept(LANES)
            # What is cached, what is Python's, and what is libfuse's.
            for _ in range(20):
                assert await bench.read(2 * CHUNK_BYTES, UNIT_BYTES) == OLD
            assert bench.bed.plane.is_held_up()
            bench.was_fast()
            assert await bench.read(2 * CHUNK_BYTES, 2**20) == OLD[:1] * 2**20
            assert bench.was_fast()
            assert [bench.rights(chunk) for chunk in range(4)] == [BOTH] * 4
            assert await bench.read(2 * CHUNK_BYTES + 700, 700) == OLD[700:1400]
            unique = bench.bed.send(GETATTR, b"")
            assert (await trio.to_thread.run_sync(bench.bed.libfuse.recv, 2**16))[8:16] == (
                unique.to_bytes(8, "little")
            )
            # A small write of Python's waits in a thread of its own: the loop goes on.
            writes.append(bench.bed.send_write(2 * CHUNK_BYTES, NEW))
            await until_kept(LANES + 1)
            assert await bench.read(3 * CHUNK_BYTES, UNIT_BYTES) == OLD
            assert bench.bed.is_silent()
            let_go()
            replies = [await trio.to_thread.run_sync(bench.bed.reply) for _ in writes]
        assert sorted(reply.unique for reply in replies) == writes
        assert not any(reply.error for reply in replies)
        assert not bench.bed.plane.is_held_up()
        for chunk in range(3):
            assert bench.bed.stored(chunk * CHUNK_BYTES, UNIT_BYTES) == NEW

    @pytest.mark.parametrize("begins_at", [0, 700])
    async def test_a_first_write_keeps_nobody_else(self, bench: Bench, begins_at: int) -> None:
        """Not even the fence, though it comes to Python and is small."""
        await bench.own(0)
        await bench.read(CHUNK_BYTES, UNIT_BYTES)
        error = FencedError("the key is gone")
        with frozen(bench.disk) as let_go:
            rescue = threading.Timer(10, let_go)
            rescue.start()
            asked = bench.bed.send_write(CHUNK_BYTES + begins_at, NEW)
            await until_kept(1)
            assert await bench.read(0, UNIT_BYTES) == OLD
            assert await bench.read(2 * CHUNK_BYTES, 700) == bytes(700)
            bench.device.fence(error)
            reply = await trio.to_thread.run_sync(
                bench.bed.reply_to, bench.bed.send_read(0, UNIT_BYTES)
            )
            assert reply.error == errno.EIO
            bench.device.give_up(error)
            reply = await trio.to_thread.run_sync(bench.bed.reply)
            assert (reply.unique, reply.error) == (asked, errno.EIO)
            assert rescue.is_alive()
            rescue.cancel()
            await ends(bench, bench.device.drained, let_go)

    async def test_behind_a_fence_everybody_is_told(self, bench: Bench) -> None:
        for chunk in range(LANES):
            await bench.own(chunk)
        error = FencedError("the key is gone")
        with frozen(bench.disk) as let_go:
            asked = [bench.bed.send_write(chunk * CHUNK_BYTES, NEW) for chunk in range(LANES)]
            await until_kept(LANES)
            bench.device.fence(error)
            for offset in (0, 3 * CHUNK_BYTES):
                for send in (
                    partial(bench.bed.send_read, offset, UNIT_BYTES),
                    partial(bench.bed.send_write, offset, OLD),
                ):
                    reply = await trio.to_thread.run_sync(bench.bed.reply_to, send())
                    assert reply.error == errno.EIO
            bench.device.give_up(error)
            replies = [await trio.to_thread.run_sync(bench.bed.reply) for _ in asked]
            assert sorted(reply.unique for reply in replies) == asked
            assert {reply.error for reply in replies} == {errno.EIO}
            await ends(bench, bench.device.drained, let_go)
        assert bench.bed.is_silent()

    async def test_a_fence_under_load_leaves_nobody_without_an_answer(self, bench: Bench) -> None:
        """Each request has one; none of those asked later is served, and nothing changes then."""
        for chunk in range(4):
            await bench.own(chunk)
        asked: list[int] = []
        errors: list[tuple[int, int]] = []
        sizes = [UNIT_BYTES, 700, INLINE_BYTES + UNIT_BYTES]
        for turn in range(20):
            if turn == 10:
                bench.device.fence(FencedError("the key is gone"))
            for size in sizes:
                offset = (turn * 37 * UNIT_BYTES) % (SIZE - CHUNK_BYTES)
                asked.append(bench.bed.send_read(offset, size))
                asked.append(bench.bed.send_write(offset, NEW[:1] * size))
            while len(errors) < len(asked) - 12:
                reply = await trio.to_thread.run_sync(bench.bed.reply)
                errors.append((reply.unique, reply.error))
        while len(errors) < len(asked):
            reply = await trio.to_thread.run_sync(bench.bed.reply)
            errors.append((reply.unique, reply.error))
        await bench.device.drained()
        found = bench.bed.data.read_bytes()
        later = bench.bed.send_write(0, OLD)
        assert (await trio.to_thread.run_sync(bench.bed.reply_to, later)).error == errno.EIO
        assert bench.bed.data.read_bytes() == found
        assert sorted(unique for unique, _ in errors) == asked
        behind = set(asked[10 * 2 * len(sizes) :])
        assert {error for unique, error in errors if unique in behind} == {errno.EIO}
        assert {error for unique, error in errors if unique not in behind} <= {0, errno.EIO}

    async def test_cold_reads_of_eight_callers_are_under_way_at_once(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Each waits at the medium until all are there. What a lane asks for, the kernel may have
        read ahead before Python asks, so here nothing is granted nor cached."""
        callers = 8
        all_there = threading.Barrier(callers)
        read_into = bench.volume.read_into

        def read_slowly(offset: int, buffer: Buffer) -> None:
            all_there.wait(5)
            read_into(offset, buffer)

        monkeypatch.setattr(bench.volume, "read_into", read_slowly)
        monkeypatch.setattr(bench.volume, "try_read_into", lambda *_: False)
        for size in (UNIT_BYTES, INLINE_BYTES + UNIT_BYTES):
            bench.bed.plane.revoke_all(BOTH)
            asked = [bench.bed.send_read(number * size, size) for number in range(callers)]
            replies = [await trio.to_thread.run_sync(bench.bed.reply) for _ in asked]
            assert sorted(reply.unique for reply in replies) == asked
            assert not any(reply.error for reply in replies)
        assert bench.bed.plane.counts.fast == 0
