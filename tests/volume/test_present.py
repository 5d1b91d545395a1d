"""The present map of an open volume: what is on disk when, and what it refuses."""

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from tests.file_system import DisposableFileSystem
from tests.syncs import recorded_syncs
from volcrypt.chunk_set import ChunkSet
from volcrypt.errors import (
    FormatError,
    IntegrityError,
    NoSpaceError,
    ReadOnlyError,
    RecordMissingError,
)
from volcrypt.formats.present_map import SECTOR_CHUNKS, PresentHeader, sector_offset
from volcrypt.geometry import CHUNK_BYTES, UNIT_BYTES
from volcrypt.names import VolumeId
from volcrypt.volume.present import PresentMap, open_present_map
from volcrypt.volume.present_file import count_present, create_present_map, is_complete

VOLUME = VolumeId("vol-0123456789abcdef0")
ROOT = bytes(range(32))
CHUNKS = 2 * SECTOR_CHUNKS + 3
SIZE = (CHUNKS - 1) * CHUNK_BYTES + UNIT_BYTES


def create(path: Path, size_bytes: int = SIZE) -> None:
    create_present_map(path, PresentHeader(volume_id=VOLUME, size_bytes=size_bytes, root=ROOT))


def reopen(path: Path, size_bytes: int = SIZE) -> PresentMap:
    return open_present_map(path, volume_id=VOLUME, size_bytes=size_bytes, root=ROOT)


def present_of(path: Path, size_bytes: int = SIZE) -> set[int]:
    """What the next process finds."""
    present = reopen(path, size_bytes)
    present.close()
    absent = ChunkSet.of_packed(present.absent_bits(size_bytes), present.chunk_count)
    assert len(absent) == present.absent_count
    return set(range(present.chunk_count)) - set(absent)


def test_what_was_written_is_found_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "present"
    create(path)
    assert present_of(path) == set()
    some = {0, 7, 8, SECTOR_CHUNKS - 1, SECTOR_CHUNKS, CHUNKS - 1}
    present = reopen(path)
    assert present.chunk_count == present.absent_count == CHUNKS
    present.write(sorted(some))
    assert not any(map(present.has, some))
    present.mark(some)
    present.close()
    present.close()
    assert all(map(present.has, some))
    assert present.present_count == len(some)
    assert present_of(path) == some
    assert count_present(path, VOLUME) == len(some)


def test_each_step_is_durable(tmp_path: Path) -> None:
    path = tmp_path / "present"
    with recorded_syncs() as synced:
        create(path, CHUNK_BYTES)
        assert synced == [path, tmp_path]
        present = reopen(path, CHUNK_BYTES)
        present.write([0])
        assert synced == [path, tmp_path, path]
        present.mark([0])
        present.finish()
    present.close()
    assert synced == [path, tmp_path, path, path]


def test_chunks_behind_the_snapshot_are_always_there(tmp_path: Path) -> None:
    create(tmp_path / "present", 3 * CHUNK_BYTES)
    present = reopen(tmp_path / "present", 3 * CHUNK_BYTES)
    present.close()
    assert [present.has(chunk) for chunk in (2, 3, 10**9)] == [False, True, True]


def test_holes_come_with_the_next_write(tmp_path: Path) -> None:
    path = tmp_path / "present"
    create(path)
    present = reopen(path)
    holes = np.zeros(1024, dtype=np.bool_)
    holes[[0, 5, 1023]] = True
    present.mark_holes(1024, holes)
    present.mark_holes(1024, holes)
    assert present.present_count == 3
    assert present.has(1029)
    assert present_of(path) == set()
    present.write([2])
    assert present_of(path) == {2, 1024, 1029, 2047}
    # The last run is shorter than a page.
    present.mark_holes(7 * 1024, np.ones(1024, dtype=np.bool_))
    present.write([])
    present.write([])
    present.close()
    assert present_of(path) == {2, 1024, 1029, 2047, *range(7 * 1024, CHUNKS)}


def test_what_is_absent_page_by_page() -> None:
    present = PresentMap.in_memory(CHUNKS)
    pages = -(-CHUNKS // 1024)
    assert present.pages_with_absent() == list(range(pages))
    for page in range(pages):
        present.mark_holes(page * 1024, np.ones(1024, dtype=np.bool_))
    assert present.absent_count == 0
    assert present.pages_with_absent() == []
    assert present.absent_in(range(1024, 2048)) == []
    fresh = PresentMap.in_memory(CHUNKS)
    fresh.mark([*range(1024), 1030, CHUNKS - 1])
    assert fresh.pages_with_absent() == list(range(1, pages))
    assert fresh.absent_in(range(1024, 1032)) == [1024, 1025, 1026, 1027, 1028, 1029, 1031]
    assert fresh.absent_in(range(7 * 1024, 8 * 1024)) == list(range(7 * 1024, CHUNKS - 1))
    assert fresh.absent_in(range(8 * 1024, 9 * 1024)) == []
    fresh.write([1])
    fresh.close()


def test_a_map_that_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "present"
    create(path)
    assert not is_complete(path, VOLUME)
    present = reopen(path)
    present.write(range(CHUNKS))
    present.mark(range(CHUNKS))
    assert not is_complete(path, VOLUME)
    present.finish()
    present.close()
    assert is_complete(path, VOLUME)
    assert not is_complete(path, VolumeId("vol-" + 17 * "f"))
    assert not is_complete(tmp_path / "nothing", VOLUME)
    assert present_of(path) == set(range(CHUNKS))


@pytest.mark.parametrize("size_chunks", [8, 5])
def test_a_complete_map_of_few_chunks(tmp_path: Path, size_chunks: int) -> None:
    size_bytes = size_chunks * CHUNK_BYTES
    create(tmp_path / "present", size_bytes)
    present = reopen(tmp_path / "present", size_bytes)
    present.mark(range(size_chunks))
    present.finish()
    present.close()
    assert present_of(tmp_path / "present", size_bytes) == set(range(size_chunks))
    assert reopen(tmp_path / "present", size_bytes).pages_with_absent() == []


def test_a_missing_damaged_or_foreign_map_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "present"
    with pytest.raises(RecordMissingError, match="present map of volume vol-0123456789abcdef0"):
        reopen(path)
    create(path)
    present = reopen(path)
    present.write([3])
    present.close()
    whole = path.read_bytes()
    for damaged in (b"", whole[:-1], whole[:600], _flipped(whole, 100), _flipped(whole, 530)):
        path.write_bytes(damaged)
        with pytest.raises((IntegrityError, FormatError), match="present map of volume vol-0"):
            reopen(path)
        assert not is_complete(path, VOLUME)
    path.write_bytes(whole)
    for other in (
        {"root": bytes(32)},
        {"size_bytes": CHUNK_BYTES},
        {"volume_id": "vol-" + 17 * "1"},
    ):
        arguments = {"volume_id": VOLUME, "size_bytes": SIZE, "root": ROOT} | other
        with pytest.raises(IntegrityError, match="of another volume or snapshot"):
            open_present_map(path, **arguments)  # type: ignore[arg-type]
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(FormatError):
        reopen(path)


def _flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


class FailingKeeper:
    """Fails as often as it is told."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.written: list[int] = []

    def write(self, sectors: Iterable[tuple[int, bytes]]) -> None:
        if self.failures:
            self.failures -= 1
            raise OSError(5, "Input/output error")
        self.written += [sector for sector, _ in sectors]

    def finish(self) -> None:
        raise AssertionError("not after a failure")

    def close(self) -> None:
        pass


def test_after_a_failure_nothing_more_is_claimed() -> None:
    keeper = FailingKeeper(failures=1)
    present = PresentMap(10, bits=bytearray(496), keeper=keeper)
    with pytest.raises(OSError, match="Input"):
        present.write([1])
    with pytest.raises(ReadOnlyError, match="present map failed"):
        present.write([1])
    assert keeper.written == []
    present.mark(range(10))
    present.finish()


def test_its_room_is_taken_when_it_is_made(ext4: DisposableFileSystem) -> None:
    path = ext4.directory / "present"
    create(path, 2**43)
    assert path.stat().st_blocks * 512 >= path.stat().st_size > 2**20
    ext4.fill()
    present = reopen(path, 2**43)
    present.write([5, 10**7])
    present.close()
    assert present_of(path, 2**43) == {5, 10**7}
    with pytest.raises(NoSpaceError):
        create(ext4.directory / "other", 2**43)


def test_what_was_written_survives_a_power_cut(ext4: DisposableFileSystem) -> None:
    path = ext4.directory / "present"
    create(path)
    present = reopen(path)
    present.write([1, SECTOR_CHUNKS])
    present.close()
    # The control: what is not synced is lost.
    with open(path, "r+b") as file:
        file.seek(sector_offset(2))
        file.write(b"junk")
    ext4.cut_power()
    assert present_of(path) == {1, SECTOR_CHUNKS}


@pytest.mark.parametrize("count", [1, 5, 7, 8, 9])
def test_only_chunks_of_the_snapshot_are_absent(count: int) -> None:
    """A volume that is larger, or has grown, has the others itself: nobody is to fetch them."""
    bits = PresentMap.in_memory(count).absent_bits(20 * CHUNK_BYTES)
    assert bits == ((1 << count) - 1).to_bytes(3, "little")
