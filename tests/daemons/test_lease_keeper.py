"""What is done while nobody can say that a lease is held, and the times that make it safe."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from tests.volume.bench import Bench
from volcrypt.daemons.fencing import GRACE_SECONDS
from volcrypt.daemons.lease_keeper import EARLY_SECONDS, LOOK_SECONDS, keep_lease
from volcrypt.daemons.watcher import PATIENCE_SECONDS
from volcrypt.errors import FencedError
from volcrypt.geometry import UNIT_BYTES
from volcrypt.operations import leases
from volcrypt.volume.lease_gate import LeaseGate
from volcrypt.volume.lease_time import TRUST_SECONDS, boot_seconds

ONE_START = 4


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.volume.close()
    made.changes.close()


def syncs(bench: Bench) -> int:
    return sum(call[0] == "sync" for call in bench.data.calls)


def test_whoever_overrides_waits_for_longer_than_a_holder_writes() -> None:
    # A holder that hears nothing writes for TRUST_SECONDS; what is under way then has the rest.
    assert leases.TAKE_OVER_SECONDS >= 1.5 * TRUST_SECONDS
    assert TRUST_SECONDS + LOOK_SECONDS + GRACE_SECONDS + 15 <= leases.TAKE_OVER_SECONDS
    # Nobody waits because a process that asks hangs once: another one has asked before.
    assert leases.LOOK_SECONDS + PATIENCE_SECONDS + ONE_START < TRUST_SECONDS


def test_the_clock_counts_while_the_machine_sleeps() -> None:
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    assert before <= boot_seconds() <= time.clock_gettime(time.CLOCK_BOOTTIME)


async def test_what_was_written_is_synced_before_and_behind_the_end(
    bench: Bench, autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    autojump_clock.autojump_threshold = 0.02
    gate = LeaseGate(clock=trio.current_time)
    bench.device.use_lease(gate)
    gate.held(trio.current_time())
    began = trio.current_time()
    nursery.start_soon(keep_lease, gate, bench.device)

    async def until(seconds: float) -> None:
        await trio.sleep(began + seconds - trio.current_time())

    assert syncs(bench) == 0
    await bench.device.write(0, b"a" * UNIT_BYTES)
    await until(TRUST_SECONDS - EARLY_SECONDS - 1)
    assert syncs(bench) == 0
    await until(TRUST_SECONDS - 1)
    assert syncs(bench) == 1
    await bench.device.write(0, b"b" * UNIT_BYTES)
    await until(TRUST_SECONDS + LOOK_SECONDS / 2)
    assert syncs(bench) == 2
    await until(3 * TRUST_SECONDS)
    assert syncs(bench) == 3
    gate.held(trio.current_time())
    await bench.device.write(0, b"c" * UNIT_BYTES)
    await trio.sleep(TRUST_SECONDS + 2 * LOOK_SECONDS)
    assert syncs(bench) > 3  # and all over again
    nursery.cancel_scope.cancel()


async def test_it_ends_with_a_fence(bench: Bench, autojump_clock: trio.testing.MockClock) -> None:
    gate = LeaseGate(clock=trio.current_time)
    bench.device.use_lease(gate)
    gate.held(trio.current_time())
    bench.device.fence(FencedError("lost"))
    await keep_lease(gate, bench.device)
    assert syncs(bench) == 0
