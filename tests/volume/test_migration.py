"""MigratingVolume: what goes to which side, what a failure of the target costs, and its end."""

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.datafile import MemoryDataFile
from volcrypt.crypto.data_key import DataKey
from volcrypt.errors import IntegrityError, ReadOnlyError, TargetLostError, TryAgainError
from volcrypt.formats.write_intents import IntentsHeader
from volcrypt.geometry import CHUNK_BYTES, UNIT_BYTES, ByteRange
from volcrypt.names import VolumeId
from volcrypt.volume.datafile import DataFile
from volcrypt.volume.migration import SKIPPED_AT_ONCE, MigratingVolume, Mode, first_data
from volcrypt.volume.volume import Volume
from volcrypt.volume.write_intents import WriteIntents

SIZE = 4 * CHUNK_BYTES + UNIT_BYTES
HEADER = IntentsHeader(
    volume_id=VolumeId("vol-0123456789abcdef0"),
    size_bytes=SIZE,
    region_bytes=2 * CHUNK_BYTES,
    migration=bytes(16),
)


class Bed:
    """Both sides in memory; `volume` is migrated from an unencrypted to an encrypted one."""

    def __init__(self) -> None:
        self.source_data, self.target_data = MemoryDataFile(SIZE), MemoryDataFile(SIZE)
        self.file = MemoryDataFile(HEADER.file_bytes)
        WriteIntents.create(self.file, HEADER)
        self.key = DataKey(bytearray(range(64)))
        self.begin(cursor=0)

    def begin(self, *, cursor: int) -> None:
        self.intents = WriteIntents.open(self.file, HEADER)
        self.source = Volume(self.source_data, size_bytes=SIZE, data_key=None, changes=None)
        self.target = self.open_target()
        self.volume = MigratingVolume(self.source, self.target, self.intents, cursor=cursor)

    def open_target(self) -> Volume:
        return Volume(self.target_data, size_bytes=SIZE, data_key=self.key, changes=None)

    def copy(self, *, until: int = 99) -> list[int]:
        """What was copied."""
        copied: list[int] = []
        while (chunks := self.volume.next_work()) and len(copied) < until:
            self.volume.work(chunks)
            copied += chunks
        return copied

    def target_bytes(self, offset: int, size: int) -> bytes:
        return self.read(self.target, offset, size)

    def read(self, volume: Volume | MigratingVolume, offset: int, size: int) -> bytes:
        buffer = bytearray(size)
        volume.read_into(offset, buffer)
        return bytes(buffer)

    def writes(self, file: MemoryDataFile) -> int:
        return sum(call == "write" for call, _, _ in file.calls)


@pytest.fixture
def bed() -> Iterator[Bed]:
    bed = Bed()
    yield bed
    bed.volume.close()


def test_everything_is_copied_and_what_is_zero_stays_thin(bed: Bed) -> None:
    bed.volume.write(CHUNK_BYTES + 5, b"one")
    bed.volume.write(4 * CHUNK_BYTES, b"last")
    assert bed.copy() == [0, 1, 2, 3, 4]
    assert bed.volume.is_copied
    assert bed.read(bed.target, 0, SIZE) == bed.read(bed.source, 0, SIZE)
    assert [offset for call, offset, _ in bed.target_data.calls if call == "write"] == [
        CHUNK_BYTES,
        4 * CHUNK_BYTES,
    ]


@pytest.mark.parametrize("end", ["close", "abandon"])
def test_plaintext_on_its_way_is_wiped_at_the_end(bed: Bed, end: str) -> None:
    bed.volume.write(0, b"secret")
    bed.copy()
    bed.volume.settle()
    bed.volume.verify(0, bed.open_target())
    assert bytes(bed.volume._buffer[:6]) == bytes(bed.volume._compared[:6]) == b"secret"
    if end == "close":
        bed.volume.close()
    else:
        bed.volume.abandon()
    assert not any(bed.volume._buffer)
    assert not any(bed.volume._compared)


def test_zeros_are_copied_over_what_was_there(bed: Bed) -> None:
    """Copied, forgotten by a kill, and made zeros before it was copied again."""
    bed.volume.write(0, b"old")
    bed.copy(until=1)
    bed.begin(cursor=0)
    bed.volume.write(0, bytes(3))
    bed.copy(until=1)
    assert bed.target_bytes(0, 3) == bytes(3)


def test_before_the_cursor_writes_go_to_both_sides_behind_it_to_the_source(bed: Bed) -> None:
    bed.copy(until=2)
    bed.volume.write(2 * CHUNK_BYTES - 3, b"across")
    assert bed.intents.set_regions() == [0]
    assert bed.target_bytes(2 * CHUNK_BYTES - 3, 6) == b"acr\0\0\0"
    bed.volume.write(2 * CHUNK_BYTES + 7, b"behind")
    assert bed.intents.set_regions() == [0]
    assert bed.read(bed.volume, 2 * CHUNK_BYTES - 3, 16) == b"across".ljust(10, b"\0") + b"behind"


def test_the_intent_is_durable_before_a_side_is_touched(bed: Bed) -> None:
    bed.copy(until=2)
    bed.file.fail_sync = errno.EIO
    before = bed.writes(bed.source_data), bed.writes(bed.target_data)
    for error in (OSError, ReadOnlyError):
        with pytest.raises(error):
            bed.volume.write(0, b"x")
    assert before == (bed.writes(bed.source_data), bed.writes(bed.target_data))
    bed.volume.write(3 * CHUNK_BYTES, b"behind the cursor nothing is needed")


def test_what_waits_for_no_medium_is_known(bed: Bed) -> None:
    bed.copy(until=2)
    below, behind = ByteRange(0, UNIT_BYTES), ByteRange(2 * CHUNK_BYTES, UNIT_BYTES)
    assert not bed.volume.writes_at_once(below)
    assert bed.volume.writes_at_once(behind)
    bed.volume.write(0, bytes(UNIT_BYTES))
    assert bed.volume.writes_at_once(below)


def test_a_target_that_fails_costs_no_request(bed: Bed) -> None:
    bed.copy(until=2)
    bed.target_data.fail_write_at = 0
    bed.volume.write(0, b"goes on")
    bed.volume.write(CHUNK_BYTES, b"this too")
    bed.volume.flush()
    assert bed.read(bed.volume, 0, 7) == b"goes on"
    for call in (bed.volume.next_work, bed.volume.settle, bed.volume.prepare):
        with pytest.raises(TargetLostError, match=r"cannot be used: .*Input/output error"):
            call()
    # A later one copies again what was missed, and goes on.
    bed.target_data.fail_write_at = None
    bed.begin(cursor=2)
    assert bed.copy() == [0, 1, 2, 3, 4]
    assert bed.read(bed.target, 0, SIZE) == bed.read(bed.source, 0, SIZE)


def test_a_copy_that_fails_costs_no_request_either(bed: Bed) -> None:
    bed.volume.write(0, b"x")
    bed.target_data.fail_write_at = 0
    with pytest.raises(OSError, match="Input/output"):
        bed.copy()
    assert bed.volume.cursor == 0
    bed.volume.write(0, b"y")


def test_a_target_that_cannot_be_synced_is_lost_and_no_intent_cleared(bed: Bed) -> None:
    bed.copy(until=2)
    bed.volume.write(0, b"x")
    bed.target_data.fail_sync = errno.EIO
    with pytest.raises(OSError, match="Input/output"):
        bed.volume.settle(final=True)
    assert bed.intents.set_regions() == [0]
    bed.volume.write(0, b"y")
    bed.volume.flush()


def test_a_flush_syncs_the_source_alone_until_the_target_counts(bed: Bed) -> None:
    bed.copy()
    bed.volume.flush()
    assert ("sync", 0, 0) not in bed.target_data.calls
    bed.volume.prepare()
    bed.volume.settle()
    bed.target_data.calls.clear()
    bed.volume.flush()
    assert ("sync", 0, 0) in bed.target_data.calls


def test_a_settle_syncs_both_sides_and_says_what_was_copied_before(bed: Bed) -> None:
    bed.copy(until=2)
    token = bed.volume.begin_settle()
    bed.copy(until=1)
    bed.volume.flush()
    assert bed.volume.end_settle(token) == 2
    for file in (bed.source_data, bed.target_data):
        assert ("sync", 0, 0) in file.calls
    assert bed.volume.settle() == 3


def test_when_the_target_counts_its_failure_is_the_requests(bed: Bed) -> None:
    bed.copy()
    bed.volume.prepare()
    bed.target_data.fail_write_at = 0
    with pytest.raises(OSError, match="Input/output"):
        bed.volume.write(0, b"x")
    assert bed.read(bed.source, 0, 1) == b"\0"
    bed.target_data.fail_write_at = None
    # It was not decided after all: the sides are made equal again.
    bed.volume.withdraw()
    with pytest.raises(TryAgainError):
        bed.volume.prepare()
    assert bed.copy() == [0, 1]
    bed.volume.prepare()


def test_a_write_that_fails_on_the_source_is_copied_again(bed: Bed) -> None:
    bed.copy()
    bed.source_data.fail_write_at = UNIT_BYTES
    with pytest.raises(OSError, match="Input/output"):
        bed.volume.write(0, b"x" * 2 * UNIT_BYTES)
    bed.source_data.fail_write_at = None
    bed.volume.settle(final=True)
    assert bed.intents.set_regions() == [0]
    assert not bed.volume.is_copied
    bed.copy()
    assert bed.read(bed.target, 0, SIZE) == bed.read(bed.source, 0, SIZE)
    bed.volume.settle(final=True)
    assert bed.intents.set_regions() == []


def test_a_region_keeps_its_intent_while_it_is_copied_again(bed: Bed) -> None:
    bed.copy()
    bed.volume.write(0, b"x")
    bed.begin(cursor=5)
    assert bed.copy(until=1) == [0]
    bed.volume.settle(final=True)
    assert bed.intents.set_regions() == [0]
    token = bed.volume.begin_settle(final=True)
    assert bed.copy() == [1]
    bed.volume.flush()
    bed.volume.end_settle(token)
    assert bed.intents.set_regions() == [0]
    bed.volume.settle(final=True)
    assert bed.intents.set_regions() == []


def test_verification_reads_the_target_with_a_key_of_its_own(bed: Bed) -> None:
    bed.volume.write(CHUNK_BYTES, b"data")
    bed.copy()
    medium = bed.open_target()
    for chunk in range(5):
        bed.volume.verify(chunk, medium)
    bed.target_data.content[CHUNK_BYTES + 700] ^= 1
    with pytest.raises(IntegrityError, match="chunk 1 of the encrypted data"):
        bed.volume.verify(1, medium)
    with DataKey(bytearray(range(1, 65))) as other:
        strange = Volume(bed.target_data, size_bytes=SIZE, data_key=other, changes=None)
        with pytest.raises(IntegrityError, match="chunk 1"):
            bed.volume.verify(1, strange)


def test_verification_sees_each_byte_of_a_short_chunk(bed: Bed) -> None:
    """Also after a whole one, whose bytes lie behind it in the buffers."""
    bed.volume.write(0, b"\1" * SIZE)
    bed.copy()
    medium = bed.open_target()
    for chunk in (3, 4, 3):
        bed.volume.verify(chunk, medium)
    for place in (4 * CHUNK_BYTES, SIZE - 1):
        bed.target_data.content[place] ^= 1
        with pytest.raises(IntegrityError, match="chunk 4"):
            bed.volume.verify(4, medium)
        bed.target_data.content[place] ^= 1
    bed.volume.verify(4, medium)


def test_what_is_copied_is_written_out_at_once(bed: Bed) -> None:
    begun: list[tuple[int, int]] = []
    bed.source.write(CHUNK_BYTES, b"data")
    bed.source.write(4 * CHUNK_BYTES, b"data")
    volume = MigratingVolume(
        bed.source,
        bed.target,
        bed.intents,
        cursor=0,
        begin_write_back=lambda offset, length: begun.append((offset, length)),
    )
    while chunks := volume.next_work():
        volume.work(chunks)
    assert begun == [(CHUNK_BYTES, CHUNK_BYTES), (4 * CHUNK_BYTES, UNIT_BYTES)]


def test_it_ends_as_the_target_or_as_the_source(bed: Bed) -> None:
    bed.copy()
    bed.volume.prepare()
    assert bed.volume.mode is Mode.COMMITTING
    bed.volume.settle()
    bed.volume.close()
    for side in (bed.source, bed.target):
        with pytest.raises(ValueError, match="closed"):
            side.write(0, b"x")
    bed.begin(cursor=5)
    assert bed.volume.abandon() is bed.source
    bed.source.write(0, b"open")
    assert WriteIntents.open(bed.file, HEADER).set_regions() == [0, 1, 2]


def test_it_cannot_grow(bed: Bed) -> None:
    with pytest.raises(TryAgainError, match="being encrypted"):
        bed.volume.grow(2 * SIZE)


def test_holes_of_both_files_are_passed_at_once(tmp_path: Path) -> None:
    count = 2 * SKIPPED_AT_ONCE + 10
    size = count * CHUNK_BYTES
    files = [DataFile.create(tmp_path / name, size) for name in ("data", "data.next")]
    sides = [Volume(file, size_bytes=size, data_key=None, changes=None) for file in files]
    header = IntentsHeader(
        volume_id=HEADER.volume_id, size_bytes=size, region_bytes=CHUNK_BYTES, migration=bytes(16)
    )
    intents = WriteIntents.create(MemoryDataFile(header.file_bytes), header)
    sides[0].write((SKIPPED_AT_ONCE + 5) * CHUNK_BYTES, b"source")
    sides[1].write((SKIPPED_AT_ONCE + 7) * CHUNK_BYTES, b"what a killed one left")
    volume = MigratingVolume(sides[0], sides[1], intents, cursor=0, next_data=first_data(*files))
    steps: list[int] = []
    while chunks := volume.next_work():
        if len(steps) == 1:
            # Written to after it was looked at.
            volume.write((SKIPPED_AT_ONCE + 2) * CHUNK_BYTES, b"late")
        volume.work(chunks)
        steps.append(volume.cursor - SKIPPED_AT_ONCE)
    assert steps == [0, 2, 3, 5, 6, 7, 8, SKIPPED_AT_ONCE + 8, count - SKIPPED_AT_ONCE]
    content = [bytearray(3), bytearray(3)]
    for side, found in zip(sides, content, strict=True):
        side.read_into((SKIPPED_AT_ONCE + 7) * CHUNK_BYTES, found)
    assert content == [bytes(3), bytes(3)]
    volume.close()
    for file in files:
        file.close()


def test_a_discard_goes_where_a_write_goes(bed: Bed) -> None:
    bed.volume.write(0, b"x" * SIZE)
    bed.copy(until=2)
    bed.volume.discard(CHUNK_BYTES + 100, 2 * CHUNK_BYTES)
    before = ByteRange(CHUNK_BYTES + 100, CHUNK_BYTES - 100)
    assert bed.target_bytes(before.offset, before.length) == bytes(before.length)
    assert bed.read(bed.volume, CHUNK_BYTES + 99, 2 * CHUNK_BYTES + 2) == (
        b"x" + bytes(2 * CHUNK_BYTES) + b"x"
    )
    assert [offset for call, offset, _ in bed.target_data.calls if call == "deallocate"] == [
        CHUNK_BYTES + UNIT_BYTES
    ]
    assert bed.intents.set_regions() == [0]
    bed.copy()
    assert bed.target_bytes(0, SIZE) == bed.read(bed.volume, 0, SIZE)


def test_a_discard_that_storage_cannot_do_costs_the_target_nothing(bed: Bed) -> None:
    bed.volume.write(0, b"x" * SIZE)
    bed.copy()
    bed.target_data.fail_deallocate = errno.EOPNOTSUPP
    with pytest.raises(OSError, match="not supported"):
        bed.volume.discard(0, CHUNK_BYTES)
    assert bed.volume.failure is None
    assert not bed.volume.is_copied
    assert bed.copy() == [0, 1]
