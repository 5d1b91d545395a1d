"""Verification with many reads in flight: as many as the store likes, in an order that does not
show it, and not stopped by what is found."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from random import Random

import pytest
import trio
from typing_extensions import Buffer

from tests.fakes.chunks import MemoryChunks
from tests.fakes.objects import MemoryObjects
from tests.fakes.snapshots import Host, create_store, open_store
from volcrypt.errors import MalformedError, ObjectNotFoundError, ObjectStoreError
from volcrypt.geometry import CHUNK_BYTES
from volcrypt.snapshot.damage import DamageKind, Verification
from volcrypt.snapshot.verify import verify

CHUNKS = 48
SPREAD = 300
"""Of the chunks of a volume only each 300th holds data: they have many pages."""


class SlowObjects(MemoryObjects):
    """Every read takes a moment, each another one; `most` is how many there were at once."""

    in_flight = 8

    def __init__(self) -> None:
        super().__init__()
        self.slow = False
        self.away = ""
        self.longest = 2 * CHUNK_BYTES
        self.most = self._now = 0
        self._dice = Random(5)
        self._count_lock = threading.Lock()

    def get(self, name: str) -> bytes:
        with self._counted():
            if name == self.away:
                raise ObjectStoreError("the store is away")
            data = super().get(name)
            if len(data) > self.longest:
                raise MalformedError(f"object {name}", "too long")
            return data

    def get_into(self, name: str, buffer: Buffer) -> int:
        with self._counted():
            if name == self.away:
                raise ObjectStoreError("the store is away")
            self.calls.append(("get_into", name))
            if name not in self.objects:
                raise ObjectNotFoundError(name)
            data = self.objects[name]
            view = memoryview(buffer)
            view[: min(len(data), view.nbytes)] = data[: view.nbytes]
            return len(data)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        with self._count_lock:
            self._now += 1
            self.most = max(self.most, self._now)
            seconds = self._dice.random() * 0.004 if self.slow else 0
        time.sleep(seconds)
        try:
            yield
        finally:
            with self._count_lock:
                self._now -= 1


@pytest.fixture
def objects() -> SlowObjects:
    """A store with a snapshot of many chunks, and its child."""
    objects = SlowObjects()
    host = Host(create_store(objects))
    volume = MemoryChunks(CHUNKS * SPREAD * CHUNK_BYTES)
    for number in range(CHUNKS):
        volume.fill(number * SPREAD, number + 1)
    parent = trio.run(host.snapshot, 1, volume)
    volume.fill(0, 99)
    trio.run(partial(host.snapshot, 2, volume, parent=parent.point, changed={0}))
    objects.slow = True
    return objects


def verified(objects: SlowObjects, in_flight: int) -> Verification:
    objects.in_flight = in_flight
    objects.most = 0
    objects.calls.clear()
    return verify(open_store(objects), lineage=True)


def test_many_are_read_at_once_and_no_more_than_it_likes(objects: SlowObjects) -> None:
    found = verified(objects, 8)
    assert (found.damages, found.chunk_count) == ([], CHUNKS + 1)
    assert 4 <= objects.most <= 8 + 1  # who asks reads a table by himself
    assert verified(objects, 1).chunk_count == CHUNKS + 1
    assert objects.most <= 1 + 1


def test_what_is_read_is_read_once(objects: SlowObjects) -> None:
    verified(objects, 8)
    assert objects.count("get_into", "chunks/") == CHUNKS + 1
    assert objects.count("get", "manifests/") == 2


def test_findings_come_in_the_order_of_the_chunks(objects: SlowObjects) -> None:
    names = sorted(name for name in objects.objects if name.startswith("chunks/"))
    for number, name in enumerate(names[:30]):
        data = objects.objects[name]
        match number % 3:
            case 0:
                del objects.objects[name]
            case 1:
                objects.objects[name] = data[:-1]
            case _:
                objects.objects[name] = objects.objects[names[-1]]
    page = next(name for name in objects.objects if name.startswith("pages/"))
    objects.objects[page] = b"junk"
    one_by_one = verified(objects, 1)
    assert len(one_by_one.damages) > 20
    assert {damage.kind for damage in one_by_one.damages} == {
        DamageKind.DAMAGED,
        DamageKind.MISSING,
        DamageKind.SUBSTITUTED,
    }
    for _ in range(3):
        assert verified(objects, 8) == one_by_one


def test_a_store_that_goes_away_is_an_error_and_no_finding(objects: SlowObjects) -> None:
    objects.away = chunk(objects, 20)
    with pytest.raises(ObjectStoreError, match="the store is away"):
        verified(objects, 8)
    # Nobody reads on for an answer that nobody hears.
    assert not [each for each in threading.enumerate() if each.name.startswith("ThreadPool")]


def test_an_object_that_is_longer_than_any_is_a_finding(objects: SlowObjects) -> None:
    name = chunk(objects, 7)
    objects.objects[name] += bytes(2 * CHUNK_BYTES)
    (damage,) = verified(objects, 8).damages
    assert (damage.kind, damage.name) == (DamageKind.DAMAGED, name)


def chunk(objects: SlowObjects, number: int) -> str:
    return sorted(name for name in objects.objects if name.startswith("chunks/"))[number]
