"""A volume that becomes larger: data file, change map, chunk owners, and the device above them."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from tests.fakes.datafile import MemoryDataFile
from tests.fakes.preserve import MemoryKeeper
from tests.volume.place import (
    SEAL,
    SIZE,
    VOLUME,
    Place,
    begin_and_look,
    changed_of,
    mark,
    point,
    volume_place,
)
from volcrypt.crypto.data_key import DataKey
from volcrypt.errors import (
    IntegrityError,
    InvalidArgumentError,
    MountError,
    NoSpaceError,
    OutOfRangeError,
)
from volcrypt.geometry import CHUNK_BYTES, UNIT_BYTES, chunk_count
from volcrypt.volume.allocation import extend
from volcrypt.volume.change_map import ChangeMap
from volcrypt.volume.datafile import DataFile
from volcrypt.volume.device import Device
from volcrypt.volume.volume import Volume

LARGER = 5000 * CHUNK_BYTES  # more than a page of marks
CHUNKS = chunk_count(SIZE)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with volume_place(tmp_path) as place:
        yield place


def found(place: Place, size_bytes: int = LARGER) -> tuple[object, set[int] | None]:
    """Parent and marks as the next process finds them."""
    changes = place.open(size_bytes=size_bytes)
    try:
        return changes.parent, marked(changes)
    finally:
        changes.close()


def marked(changes: ChangeMap) -> set[int] | None:
    return begin_and_look(changes)


def grow_data(place: Place) -> None:
    extend(place.data, SIZE, LARGER)


class TestDataFile:
    def test_what_is_new_is_a_hole(self, place: Place) -> None:
        place.data.write_bytes(b"x" * SIZE)
        extend(place.data, SIZE, LARGER)
        with DataFile.open(place.data, LARGER) as data:
            assert list(data.candidate_chunks()) == list(range(CHUNKS))
            buffer = bytearray(CHUNK_BYTES)
            data.read_chunk(CHUNKS - 1, buffer)
            assert bytes(buffer) == b"x" * UNIT_BYTES + bytes(CHUNK_BYTES - UNIT_BYTES)

    def test_what_lay_behind_the_end_is_gone(self, place: Place) -> None:
        place.data.write_bytes(b"x" * (SIZE + 3 * CHUNK_BYTES))
        extend(place.data, SIZE, LARGER)
        assert place.data.stat().st_size == LARGER
        with DataFile.open(place.data, LARGER) as data:
            assert list(data.candidate_chunks(CHUNKS)) == []

    def test_it_is_durable_before_a_record_says_so(
        self, place: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        synced: list[int] = []
        real = os.fsync

        def fsync(descriptor: int) -> None:
            synced.append(os.fstat(descriptor).st_size)
            real(descriptor)

        monkeypatch.setattr("os.fsync", fsync)
        extend(place.data, SIZE, LARGER)
        assert synced == [LARGER]

    def test_room_that_was_taken_before_is_taken_of_what_is_new(self, place: Place) -> None:
        more = SIZE + 3 * CHUNK_BYTES
        extend(place.data, SIZE, more, preallocate=True)
        assert place.data.stat().st_blocks * 512 >= 3 * CHUNK_BYTES
        with DataFile.open(place.data, more) as data:
            assert list(data.candidate_chunks(CHUNKS)) == []
        with pytest.raises(NoSpaceError):
            extend(place.data, more, 2**43, preallocate=True)
        assert place.data.stat().st_size == more

    def test_a_file_that_is_short_or_led_elsewhere_is_left_alone(self, place: Place) -> None:
        os.truncate(place.data, SIZE - UNIT_BYTES)
        with pytest.raises(IntegrityError, match="the volume's record says"):
            extend(place.data, SIZE, LARGER)
        assert place.data.stat().st_size == SIZE - UNIT_BYTES
        place.data.rename(place.disk / "other")
        place.data.symlink_to(place.disk / "other")
        with pytest.raises(IntegrityError, match="is a link"):
            extend(place.data, SIZE, LARGER)

    def test_what_the_file_system_cannot_hold(self, place: Place) -> None:
        """ext4 holds files of up to 16 TiB."""
        with pytest.raises(InvalidArgumentError, match="cannot hold a file of"):
            extend(place.data, SIZE, 2**62)
        assert place.data.stat().st_size == SIZE

    def test_an_open_file_serves_more_when_it_is_there(self, place: Place) -> None:
        with DataFile.open(place.data, SIZE) as data:
            with pytest.raises(IntegrityError, match="the volume's record says"):
                data.grow(LARGER)
            assert data.size_bytes == SIZE
            extend(place.data, SIZE, LARGER)
            data.grow(LARGER)
            data.write_chunk(4000, b"y" * CHUNK_BYTES)
            assert list(data.candidate_chunks(1)) == [4000]


class TestChangeMap:
    def test_marks_and_parent_stay(self, place: Place) -> None:
        place.make_known(1)
        changes = place.open()
        mark(changes, 2)
        grow_data(place)
        changes.grow(LARGER)
        mark(changes, 4000)
        assert changes.parent == point(1)
        assert marked(changes) == {1, 2, 4000}
        changes.close()
        assert found(place) == (point(1), {1, 2, 4000})

    def test_a_capture_of_before_stays_one_of_before(self, place: Place) -> None:
        place.make_known(1)
        changes = place.open()
        capture = changes.begin_capture()
        mark(changes, 3)
        grow_data(place)
        changes.grow(LARGER)
        mark(changes, 4000)
        assert capture.size_bytes == SIZE
        assert changed_of(changes, capture) == {1}
        changes.commit_capture(capture, point(2))
        changes.close()
        assert found(place) == (point(2), {3, 4000})

    def test_an_aborted_capture_of_before_counts(self, place: Place) -> None:
        place.make_known(1)
        changes = place.open()
        capture = changes.begin_capture()
        grow_data(place)
        changes.grow(LARGER)
        mark(changes, 4000)
        changes.abort_capture(capture)
        changes.close()
        assert found(place) == (point(1), {1, 4000})

    def test_a_process_killed_before_it_was_told(self, place: Place) -> None:
        """Its map is of the smaller volume, also when a capture was running."""
        place.make_known(1)
        changes = place.open()
        changes.begin_capture()
        mark(changes, 2)
        changes.close()
        grow_data(place)
        assert found(place) == (point(1), {1, 2})

    def test_the_map_is_never_one_of_a_smaller_volume(self, place: Place) -> None:
        place.make_known(1)
        changes = place.open()
        grow_data(place)
        changes.grow(LARGER)
        changes.close()
        assert found(place, SIZE) == (None, None)

    def test_a_clean_copy_goes_with_it(self, place: Place) -> None:
        place.detach(1)
        changes = place.open()
        grow_data(place)
        changes.grow(LARGER)
        changes.save_clean()
        changes.close()
        assert not place.live.exists()
        assert found(place) == (point(1), {1})

    def test_a_clean_copy_of_before_says_nothing(self, place: Place) -> None:
        place.detach(1)
        grow_data(place)
        assert found(place) == (None, None)

    def test_a_map_that_could_only_be_made_in_memory_leaves_no_older_one(
        self, place: Place
    ) -> None:
        """What is marked in it is not in the file, which must not be found by anybody."""
        place.make_known(1)
        changes = place.open()
        grow_data(place)
        aside = place.memory.rename(place.memory.with_suffix(".aside"))
        changes.grow(LARGER)
        mark(changes, 4000)
        assert marked(changes) == {1, 4000}
        changes.close()
        (aside / place.live.name).unlink()
        aside.rename(place.memory)


class Bench:
    """A device on storage in memory with a real change map."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.data = MemoryDataFile(SIZE)
        self.changes = place.open()
        self.volume = Volume(
            self.data, size_bytes=SIZE, data_key=DataKey(bytearray(range(64))), changes=self.changes
        )
        self.device = Device(
            self.volume, changes=self.changes, open_keeper=lambda: MemoryKeeper(self.data)
        )

    async def grow(self, size_bytes: int = LARGER // 100) -> None:
        await self.device.grow(size_bytes)


@pytest.fixture
def bench(place: Place) -> Iterator[Bench]:
    made = Bench(place)
    yield made
    made.volume.close()
    made.changes.close()


async def test_a_device_serves_what_is_new(bench: Bench) -> None:
    await bench.device.write(SIZE - 100, b"a" * 100)
    with pytest.raises(OutOfRangeError):
        await bench.device.write(SIZE, b"b")
    await bench.grow()
    assert bench.device.size_bytes == LARGER // 100
    assert bytes(await bench.device.read(SIZE - 100, 1000)) == b"a" * 100 + bytes(900)
    assert await bench.device.write(SIZE - 50, b"b" * 1000) == 1000
    assert bytes(await bench.device.read(SIZE - 100, 200)) == b"a" * 50 + b"b" * 150
    end = LARGER // 100
    assert await bench.device.write(end - 10, b"c" * 100) == 10
    assert bytes(await bench.device.read(end - 10, 100)) == b"c" * 10
    # Smaller or the same changes nothing.
    await bench.grow(SIZE)
    await bench.grow()
    assert bench.device.size_bytes == end


async def test_growth_waits_for_what_is_under_way_and_keeps_a_capture(bench: Bench) -> None:
    """Writers go on all the time; a capture keeps its chunks, and what is new is free."""
    stop = trio.Event()
    written = 0

    async def write() -> None:
        nonlocal written
        while not stop.is_set():
            await bench.device.write(written % 8 * CHUNK_BYTES + 100, b"w" * 300_000)
            written += 1

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(write)
        while written < 20:
            await trio.lowlevel.checkpoint()
        captures = bench.device.captures
        capture = await captures.begin()
        await captures.settle(capture)
        await bench.grow()
        with trio.fail_after(10):
            await bench.device.write(CHUNKS * CHUNK_BYTES, b"new" * 10)
        assert bytes(await bench.device.read(CHUNKS * CHUNK_BYTES, 30)) == b"new" * 10
        captures.release(capture, range(CHUNKS))
        before = written
        while written < before + 20:
            await trio.lowlevel.checkpoint()
        stop.set()
    await captures.commit(capture, point(1))
    changed = marked(bench.changes)
    assert changed is not None
    assert CHUNKS in changed


async def test_growth_that_fails_changes_nothing(bench: Bench) -> None:
    def refuse(size_bytes: int) -> None:
        raise IntegrityError("too short")

    bench.data.grow = refuse  # type: ignore[method-assign]
    with pytest.raises(IntegrityError):
        await bench.grow()
    assert bench.device.size_bytes == bench.volume.size_bytes == SIZE
    with pytest.raises(OutOfRangeError):
        await bench.device.write(SIZE, b"b")


async def test_a_device_that_closes_does_not_grow(bench: Bench) -> None:
    await bench.device.close()
    with pytest.raises(MountError, match="being unmounted"):
        await bench.grow()


def test_the_fixture_is_the_volume_of_the_map(place: Place) -> None:
    """A map is made longer for its own volume and data file only."""
    place.make_known(1)
    other = ChangeMap.open(
        place.live,
        place.clean,
        volume_id=VOLUME[:-1] + "f",  # type: ignore[arg-type]
        size_bytes=LARGER,
        seal=SEAL,
        data_path=place.data,
    )
    assert other.is_void
    other.close()
