"""Write intents: durable before a write, cleared after both sides were synced, set in doubt."""

import errno
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from tests.fakes.datafile import MemoryDataFile
from volcrypt.errors import ReadOnlyError
from volcrypt.formats.bit_sectors import SECTOR_BITS
from volcrypt.formats.write_intents import IntentsHeader
from volcrypt.geometry import CHUNK_BYTES, SECTOR_BYTES, ByteRange
from volcrypt.names import VolumeId
from volcrypt.volume.datafile import DataFile
from volcrypt.volume.write_intents import TICK_SECONDS, WriteIntents

REGION = CHUNK_BYTES
HEADER = IntentsHeader(
    volume_id=VolumeId("vol-0123456789abcdef0"),
    size_bytes=(SECTOR_BITS + 8) * REGION,
    region_bytes=REGION,
    migration=bytes(range(16)),
)


class Clock:
    seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def storage() -> MemoryDataFile:
    return MemoryDataFile(HEADER.file_bytes)


@pytest.fixture
def intents(storage: MemoryDataFile, clock: Clock) -> WriteIntents:
    return WriteIntents.create(storage, HEADER, clock=clock)


def at(region: int, count: int = 1) -> ByteRange:
    return ByteRange(region * REGION, count * REGION)


def reopened(storage: MemoryDataFile) -> list[int]:
    """What is set after a power cut that took whatever was not synced."""
    storage.lose_power(lambda _: 0)
    return WriteIntents.open(storage, HEADER).set_regions()


def settle(intents: WriteIntents, *, keep: tuple[int, ...] = (), final: bool = False) -> None:
    intents.end_settle(intents.begin_settle(final=final), keep=keep)


def test_new_ones_are_believed_when_all_of_them_is_durable(
    intents: WriteIntents, storage: MemoryDataFile
) -> None:
    """The header says that the bits behind it hold."""
    assert storage.calls == [
        ("write", SECTOR_BYTES, 2 * SECTOR_BYTES),
        ("sync", 0, 0),
        ("write", 0, SECTOR_BYTES),
        ("sync", 0, 0),
    ]


def test_a_bit_is_durable_before_the_write_begins(
    intents: WriteIntents, storage: MemoryDataFile
) -> None:
    assert not intents.are_set(at(3))
    with intents.writing(at(3)):
        assert intents.are_set(at(3))
        assert reopened(storage) == [3]


def test_a_write_over_sectors_sets_all_its_bits(
    intents: WriteIntents, storage: MemoryDataFile
) -> None:
    with intents.writing(ByteRange((SECTOR_BITS - 1) * REGION + 5, REGION)):
        assert reopened(storage) == [SECTOR_BITS - 1, SECTOR_BITS]


def test_what_is_set_costs_nothing_more(intents: WriteIntents, storage: MemoryDataFile) -> None:
    for _ in range(2):
        with intents.writing(at(0, 2)):
            pass
        storage.calls.clear()
    with intents.writing(at(1)):
        pass
    assert storage.calls == []


def test_a_bit_stays_for_a_whole_tick_after_the_last_write(
    intents: WriteIntents, clock: Clock
) -> None:
    with intents.writing(at(0, 2)):
        pass
    settle(intents)
    clock.seconds += TICK_SECONDS
    with intents.writing(at(1)):
        pass
    settle(intents)
    assert intents.set_regions() == [0, 1]
    with intents.writing(at(1)):
        pass
    clock.seconds += TICK_SECONDS
    settle(intents)
    assert intents.set_regions() == [1]
    clock.seconds += TICK_SECONDS
    settle(intents)
    assert intents.set_regions() == []


def test_a_final_settle_clears_at_once(intents: WriteIntents, storage: MemoryDataFile) -> None:
    with intents.writing(at(0, 3)):
        pass
    settle(intents, final=True, keep=(2,))
    assert intents.set_regions() == [2]
    storage.sync()
    assert reopened(storage) == [2]


def test_a_write_that_ends_after_the_settle_began_keeps_its_bit(intents: WriteIntents) -> None:
    with ExitStack() as write:
        write.enter_context(intents.writing(at(0)))
        before = intents.begin_settle(final=True)
    intents.end_settle(before)
    assert intents.set_regions() == [0]


def test_a_write_under_way_keeps_its_bit(intents: WriteIntents) -> None:
    with intents.writing(at(0)), intents.writing(at(0)):
        settle(intents, final=True)
        assert intents.set_regions() == [0]


def test_what_was_cleared_is_durably_set_again(
    intents: WriteIntents, storage: MemoryDataFile
) -> None:
    with intents.writing(at(0)):
        pass
    settle(intents, final=True)
    with intents.writing(at(0)):
        assert reopened(storage) == [0]


def test_who_comes_while_bits_are_written_goes_with_the_next(storage: MemoryDataFile) -> None:
    begun, go_on = threading.Event(), threading.Event()

    class Slow(MemoryDataFile):
        def sync(self) -> None:
            super().sync()
            begun.set()
            assert go_on.wait(10)

    go_on.set()
    slow = Slow(HEADER.file_bytes)
    intents = WriteIntents.create(slow, HEADER)
    begun.clear()
    go_on.clear()
    slow.calls.clear()

    def write(region: int) -> None:
        with intents.writing(at(region)):
            pass

    threads = [threading.Thread(target=write, args=(region,)) for region in range(6)]
    threads[0].start()
    assert begun.wait(10)
    for thread in threads[1:]:
        thread.start()
    while len(intents._wanted) < 5:
        threading.Event().wait(0.001)
    go_on.set()
    for thread in threads:
        thread.join()
    assert [call for call, _, _ in slow.calls] == ["write", "sync", "write", "sync"]
    assert intents.set_regions() == list(range(6))


def test_a_failed_sync_is_the_end_of_it(intents: WriteIntents, storage: MemoryDataFile) -> None:
    with intents.writing(at(0)):
        pass
    storage.fail_sync = errno.EIO
    for error in (OSError, ReadOnlyError):
        with pytest.raises(error), intents.writing(at(1)):
            pytest.fail("a write began without its bit")
    with intents.writing(at(0)):
        pass


def zero_a_sector(storage: MemoryDataFile) -> None:
    storage.content[SECTOR_BYTES : 2 * SECTOR_BYTES] = bytes(SECTOR_BYTES)


def damage_the_header(storage: MemoryDataFile) -> None:
    storage.content[20] ^= 1


def make_it_another_migrations(storage: MemoryDataFile) -> None:
    WriteIntents.create(storage, replace(HEADER, migration=bytes(16)))


def void(storage: MemoryDataFile) -> None:
    WriteIntents.open(storage, HEADER).void()
    storage.lose_power(lambda _: 0)


@pytest.mark.parametrize(
    ("happens", "count"),
    [
        (zero_a_sector, SECTOR_BITS),
        (damage_the_header, HEADER.region_count),
        (make_it_another_migrations, HEADER.region_count),
        (void, HEADER.region_count),
    ],
)
def test_doubt_sets_bits(
    intents: WriteIntents,
    storage: MemoryDataFile,
    happens: Callable[[MemoryDataFile], None],
    count: int,
) -> None:
    assert reopened(storage) == []
    happens(storage)
    assert reopened(storage) == list(range(count))
    assert reopened(storage) == list(range(count))


def test_bits_are_kept_in_a_file(tmp_path: Path) -> None:
    DataFile.create(tmp_path / "intents", HEADER.file_bytes, preallocate=True).close()
    with DataFile.open(tmp_path / "intents", HEADER.file_bytes) as file:
        intents = WriteIntents.create(file, HEADER)
        with intents.writing(at(5)):
            pass
    with DataFile.open(tmp_path / "intents", HEADER.file_bytes) as file:
        assert WriteIntents.open(file, HEADER).set_regions() == [5]
