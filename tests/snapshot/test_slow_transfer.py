"""Snapshots that take hours, by a clock of the test: their pace, and their pin."""

import pytest
import trio
from trio.testing import MockClock
from typing_extensions import Buffer

from tests.fakes.chunks import MemoryChunks
from tests.fakes.objects import MemoryObjects
from tests.fakes.snapshots import NOW, Host, create_store, open_store, restore
from volcrypt.errors import ObjectStoreError
from volcrypt.formats.pin import decode_pin
from volcrypt.geometry import CHUNK_BYTES
from volcrypt.snapshot import layout
from volcrypt.snapshot.copying import copy_chunks
from volcrypt.snapshot.pace import Pace
from volcrypt.snapshot.pin import Pin
from volcrypt.snapshot.plan import StorePlan
from volcrypt.snapshot.sweep_mark import PIN_LIFETIME_SECONDS
from volcrypt.snapshot.transfer import chunk_table, store_chunks

CHUNKS = 60
SECONDS_A_CHUNK = 200


@pytest.fixture
def autojump_clock() -> MockClock:
    """Threads do the reading and putting: time stands still for as long as they take."""
    return MockClock(autojump_threshold=0.01)


class TimedChunks(MemoryChunks):
    """Remembers when it was read."""

    def __init__(self, size_bytes: int) -> None:
        super().__init__(size_bytes)
        self.read_at: list[float] = []

    def read_chunk(self, index: int, buffer: Buffer) -> None:
        self.read_at.append(trio.from_thread.run_sync(trio.current_time))
        super().read_chunk(index, buffer)


def slow_volume() -> TimedChunks:
    volume = TimedChunks(CHUNKS * CHUNK_BYTES)
    for index in range(CHUNKS):
        volume.fill(index, index + 1)
    return volume


def timed_pin(host: Host, volume: MemoryChunks, number: int = 1) -> Pin:
    """A pin whose clock is that of the loop; it is renewed in threads."""

    def clock() -> int:
        try:
            return NOW + int(trio.current_time())
        except RuntimeError:
            return NOW + int(trio.from_thread.run_sync(trio.current_time))

    return Pin(
        host.store,
        snapshot_id=host.pin(number, 0).snapshot_id,
        size_bytes=volume.size_bytes,
        signer=host.signer,
        clock=clock,
    )


def plan_of(volume: MemoryChunks) -> StorePlan:
    return StorePlan(chunks=volume.candidate_chunks(), base=None, incremental=False)


async def test_chunks_are_read_at_the_rate_that_was_asked_for(autojump_clock: MockClock) -> None:
    host = Host(create_store(MemoryObjects()))
    volume = slow_volume()
    pin = timed_pin(host, volume)
    pin.hold()
    start = trio.current_time()
    rate = CHUNK_BYTES // SECONDS_A_CHUNK
    stored = await store_chunks(volume, pin, plan_of(volume), pace=Pace(rate))
    assert stored.stored_chunks == CHUNKS
    for count, moment in enumerate(sorted(volume.read_at)):
        assert count * CHUNK_BYTES <= rate * (moment - start) + rate + CHUNK_BYTES
    # As fast as is allowed, too.
    assert trio.current_time() - start == pytest.approx((CHUNKS - 1) * SECONDS_A_CHUNK, rel=0.01)


async def look_at_pin(host: Host, pin: Pin, looks: list[int]) -> None:
    """Note how old it is, in seconds, again and again."""
    while True:
        await trio.sleep(100)
        data = host.store.objects.get(layout.pin_name(pin.snapshot_id))
        body = decode_pin(data, host.store.verifier_of, what="pin")
        looks.append(NOW + int(trio.current_time()) - body.renewed_at)


async def test_a_slow_snapshot_keeps_its_pin_alive(autojump_clock: MockClock) -> None:
    objects = MemoryObjects()
    host = Host(create_store(objects))
    volume = slow_volume()
    pin = timed_pin(host, volume)
    pin.hold()
    looks: list[int] = []

    async with trio.open_nursery() as nursery:
        nursery.start_soon(look_at_pin, host, pin, looks)
        pace = Pace(CHUNK_BYTES // SECONDS_A_CHUNK)
        stored = await store_chunks(volume, pin, plan_of(volume), pace=pace)
        nursery.cancel_scope.cancel()
    assert len(looks) > 2 * PIN_LIFETIME_SECONDS / 100  # it did take hours
    assert max(looks) < PIN_LIFETIME_SECONDS / 2
    manifest = host.commit(host.draft(1, volume.size_bytes, stored), pin)
    assert await restore(open_store(objects), manifest) == volume.image()


async def test_a_copy_of_which_each_chunk_takes_hours_keeps_its_pin_alive(
    autojump_clock: MockClock,
) -> None:
    objects = MemoryObjects()
    host = Host(create_store(objects))
    volume = MemoryChunks(2 * CHUNK_BYTES)
    for index in range(2):
        volume.fill(index, index + 1)
    source = await host.snapshot(1, volume)
    pin = timed_pin(host, volume, 2)
    pin.hold([source.root])
    looks: list[int] = []

    def step(_index: int, _view: memoryview) -> None:
        trio.from_thread.run(trio.sleep, 3 * PIN_LIFETIME_SECONDS)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(look_at_pin, host, pin, looks)
        await copy_chunks(
            chunk_table(host.store, source),
            pin,
            host.cursor(source, 2),
            lambda _: None,
            data_chunks=2,
            step=step,
        )
        nursery.cancel_scope.cancel()
    assert len(looks) > 2 * PIN_LIFETIME_SECONDS / 100
    assert max(looks) < PIN_LIFETIME_SECONDS / 2


class ReadOnlyPins(MemoryObjects):
    """Takes new objects, and replaces none."""

    def replace(self, name: str, data: Buffer, *, batched: bool = False) -> None:
        raise ObjectStoreError(f"{name} cannot be replaced")


async def test_a_pin_that_cannot_be_renewed_ends_the_snapshot(autojump_clock: MockClock) -> None:
    host = Host(create_store(ReadOnlyPins()))
    volume = slow_volume()
    pin = timed_pin(host, volume)
    pin.hold()
    with pytest.raises(ObjectStoreError, match="cannot be replaced"):
        await store_chunks(volume, pin, plan_of(volume), pace=Pace(CHUNK_BYTES // SECONDS_A_CHUNK))
    assert len(volume.read_at) < CHUNKS / 2
