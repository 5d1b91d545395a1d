"""Power cuts under lazy volumes on a real ext4 and XFS: what was acknowledged is not fetched over,
and what was not durable is fetched again; with controls that break the order, and lose."""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from tests.fakes.origin import MemoryOrigin
from tests.file_system import DisposableFileSystem, disposable_file_system
from tests.volume.lazy_bench import (
    HOLE,
    SIZE,
    VOLUME,
    LazyBench,
    make_origin,
    plain_image,
)
from volcrypt.errors import IntegrityError
from volcrypt.formats.present_map import PresentHeader, sector_offset
from volcrypt.geometry import CHUNK_BYTES, UNIT_BYTES
from volcrypt.snapshot.pace import Pace
from volcrypt.volume import lazy
from volcrypt.volume.datafile import DataFile
from volcrypt.volume.present import PresentMap, open_present_map
from volcrypt.volume.present_file import PresentFile, create_present_map, is_complete

ROOT = bytes(range(32))
WRITTEN = b"acknowledged" * 50


@pytest.fixture(scope="module", params=["ext4", "xfs"])
def disk(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[DisposableFileSystem]:
    place = tmp_path_factory.mktemp("lazy")
    with disposable_file_system(place, kind=request.param, size_bytes=2**26) as made:
        yield made


class Disk:
    """The files of one lazy volume on the file system that loses its power."""

    def __init__(self, disk: DisposableFileSystem, memory: Path) -> None:
        self.disk = disk
        self.memory = memory
        self.directory = disk.directory / memory.name
        self.directory.mkdir()
        DataFile.create(self.directory / "data", SIZE).close()
        header = PresentHeader(volume_id=VOLUME, size_bytes=SIZE, root=ROOT)
        create_present_map(self.directory / "present", header)

    @contextmanager
    def process(
        self,
        origin: MemoryOrigin,
        *,
        commit_sync: Callable[[], None] | None = None,
        change: Callable[[PresentMap], None] = lambda present: None,
    ) -> Iterator[LazyBench]:
        """One that is killed at the end of the block. `change` breaks its present map."""
        present = open_present_map(
            self.directory / "present", volume_id=VOLUME, size_bytes=SIZE, root=ROOT
        )
        change(present)
        with DataFile.open(self.directory / "data", SIZE) as data:
            bench = LazyBench(data, present, origin, memory=self.memory, commit_sync=commit_sync)
            try:
                yield bench
            finally:
                bench.die()
                present.close()

    def content(self, origin: MemoryOrigin) -> bytes:
        """What the next process reads."""

        async def read_all(bench: LazyBench) -> bytes:
            pieces = [
                await bench.read(offset, min(2**20, SIZE - offset))
                for offset in range(0, SIZE, 2**20)
            ]
            return b"".join(pieces)

        with self.process(origin) as bench:
            return trio.run(read_all, bench)


@pytest.fixture
def lazy_disk(disk: DisposableFileSystem, tmp_path: Path) -> Disk:
    return Disk(disk, tmp_path)


async def write_over_absent_chunks(bench: LazyBench) -> bytearray:
    """Writes at odd places of absent chunks, flushed; the image as it should be."""
    image = plain_image()
    for offset in (100, CHUNK_BYTES + 5 * UNIT_BYTES - 7, HOLE * CHUNK_BYTES + 1, SIZE - 700):
        piece = WRITTEN[: SIZE - offset]
        await bench.device.write(offset, piece)
        image[offset : offset + len(piece)] = piece
    await bench.device.flush()
    return image


def test_acknowledged_writes_over_absent_chunks_survive(lazy_disk: Disk) -> None:
    origin = make_origin()
    with lazy_disk.process(origin) as bench:
        image = trio.run(write_over_absent_chunks, bench)
    lazy_disk.disk.cut_power()
    origin.calls.clear()
    assert lazy_disk.content(origin) == image
    # Only what nobody had touched was fetched; the hole was looked up, not fetched.
    assert sorted(origin.asked_for("chunk")) == [3]
    # Kills alone, as well.
    lazy_disk.disk.cut_power()
    assert lazy_disk.content(origin) == image


class UnsyncedFile(PresentFile):
    """Writes bits, and does not wait for them."""

    def write(self, sectors: Iterable[tuple[int, bytes]]) -> None:
        sync, os.fdatasync = os.fdatasync, lambda _: None  # type: ignore[assignment]
        try:
            super().write(sectors)
        finally:
            os.fdatasync = sync


def without_syncing_bits(present: PresentMap) -> None:
    file = present._keeper
    assert isinstance(file, PresentFile)
    present._keeper = UnsyncedFile(file._descriptor, file._path, file._header)


def test_control_bits_that_are_not_durable_cost_acknowledged_writes(lazy_disk: Disk) -> None:
    origin = make_origin()
    with lazy_disk.process(origin, change=without_syncing_bits) as bench:
        image = trio.run(write_over_absent_chunks, bench)
    lazy_disk.disk.cut_power()
    assert lazy_disk.content(origin) != image


def test_control_bits_before_the_data_show_zeros(lazy_disk: Disk) -> None:
    origin = make_origin()

    async def touch(bench: LazyBench) -> None:
        await bench.lazy.make_writable(range(1))

    with lazy_disk.process(origin, commit_sync=lambda: None) as bench:
        trio.run(touch, bench)
    lazy_disk.disk.cut_power()
    assert lazy_disk.content(origin)[:CHUNK_BYTES] == bytes(CHUNK_BYTES)


class KilledError(Exception):
    """The end of a process in the middle of a fetch."""


def test_a_cut_at_any_chunk_of_the_filling_resumes_there(
    lazy_disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lazy, "COMMIT_CHUNKS", 1)
    chunks = sorted(make_origin().chunks)
    for number, chunk in enumerate(chunks):
        origin = make_origin()
        origin.faults[chunk] = KilledError
        with lazy_disk.process(origin) as bench, pytest.raises(ExceptionGroup):
            trio.run(bench.lazy.fill, Pace(None))
        # What came before is durable, and is not fetched again.
        assert origin.asked_for("chunk") == chunks[max(0, number - 1) : number + 1]
        lazy_disk.disk.cut_power()
    origin = make_origin()
    with lazy_disk.process(origin) as bench:
        trio.run(bench.lazy.fill, Pace(None))
    assert origin.asked_for("chunk") == chunks[-1:]
    lazy_disk.disk.cut_power()
    assert is_complete(lazy_disk.directory / "present", VOLUME)
    assert lazy_disk.content(make_origin()) == plain_image()


def test_a_damaged_bit_is_found_and_never_read_as_zeros(lazy_disk: Disk) -> None:
    path = lazy_disk.directory / "present"
    with open(path, "r+b") as file:
        file.seek(sector_offset(0) + 16)
        file.write(b"\x1f")
    with pytest.raises(IntegrityError, match="it is damaged in sector 0"):
        lazy_disk.content(make_origin())
