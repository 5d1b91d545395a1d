"""The migrator: who waits for whom while a volume that is served goes over to its new place."""

import errno
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import mkdtemp

import pytest
import trio
import trio.testing

from tests.plane_kernel import KEY, PlaneBed, plane_bed
from tests.volume.bench import CHUNKS, SIZE, Bench, WatchedData
from tests.volume.place import SEAL, VOLUME, point
from volcrypt.crypto.data_key import DataKey
from volcrypt.errors import (
    FencedError,
    IntegrityError,
    ReadOnlyError,
    TargetLostError,
    TryAgainError,
)
from volcrypt.formats.write_intents import IntentsHeader
from volcrypt.geometry import CHUNK_BYTES, UNIT_BYTES
from volcrypt.volume.admission import Admission
from volcrypt.volume.change_map import ChangeMap
from volcrypt.volume.data_plane import DataPlane
from volcrypt.volume.datafile import DataFile
from volcrypt.volume.device import MAX_REQUEST_BYTES, Device
from volcrypt.volume.fuse import VolumeFileSystem
from volcrypt.volume.migration import MigratingVolume, first_data
from volcrypt.volume.migrator import Migrator
from volcrypt.volume.ownership import PlaneData
from volcrypt.volume.plane.door import READ, WRITE
from volcrypt.volume.preserve import PreservedChunks
from volcrypt.volume.volume import Volume
from volcrypt.volume.write_intents import WriteIntents

NEW_KEY = bytes(range(1, 65))
HEADER = IntentsHeader(
    volume_id=VOLUME, size_bytes=SIZE, region_bytes=CHUNK_BYTES, migration=bytes(16)
)


class MigratingBench(Bench):
    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.directory = directory
        self.source = self.volume
        self.target_data = WatchedData(SIZE)
        self.new_key = DataKey(bytearray(NEW_KEY))
        self.intents_file = WatchedData(HEADER.file_bytes)
        self.intents = WriteIntents.create(self.intents_file, HEADER)
        self.target = Volume(self.target_data, size_bytes=SIZE, data_key=self.new_key, changes=None)
        self.migrating = MigratingVolume(self.source, self.target, self.intents, cursor=0)
        self.migrator = Migrator(self.device, self.migrating)

    def served(self) -> Volume:
        """The target, opened as any volume."""
        return Volume(
            self.target_data, size_bytes=SIZE, data_key=self.new_key, changes=self.changes
        )

    async def switch(self, served: Volume) -> None:
        (self.directory / "data.next").write_bytes(b"")
        (self.directory / "data.next").replace(self.directory / "data")
        await self.migrator.switch(
            served,
            data=PlaneData(-1, self.new_key, None),
            follow=lambda: self.changes.follow(self.directory / "data"),
        )

    def target_bytes(self, offset: int, size: int) -> bytes:
        buffer = bytearray(size)
        self.target.read_into(offset, buffer)
        return bytes(buffer)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[MigratingBench]:
    made = MigratingBench(tmp_path)
    yield made
    made.migrating.close()
    made.changes.close()


async def test_a_volume_goes_over_under_its_callers(bench: MigratingBench) -> None:
    await bench.device.write(CHUNK_BYTES - 5, b"before it began")
    await bench.migrator.begin()
    assert await bench.migrator.copy_to(2) == 2
    await bench.device.write(CHUNK_BYTES, b"on both sides")
    await bench.device.write(5 * CHUNK_BYTES, b"behind the cursor")
    assert await bench.migrator.copy_to(CHUNKS) == CHUNKS
    assert await bench.migrator.verify_to(0, CHUNKS, bench.target) == CHUNKS
    await bench.migrator.prepare()
    await bench.device.write(0, b"on both sides again")
    served = bench.served()
    await bench.switch(served)
    assert await bench.read(0, 19) == b"on both sides again"
    assert await bench.read(CHUNK_BYTES - 5, 18) == b"beforon both sides"
    await bench.device.write(3, b"!")
    await bench.device.close()
    assert bench.source._closed
    assert bench.migrator.write_times.count == 4
    with pytest.raises(ValueError, match="closed"):
        bench.migrating.read_into(0, bytearray(1))
    buffer = bytearray(4)
    served.read_into(0, buffer)
    assert buffer == b"on !"
    assert bench.changes.is_void
    served.close()


async def test_writers_wait_for_a_chunk_that_is_copied_and_readers_do_not(
    bench: MigratingBench,
) -> None:
    await bench.device.write(0, b"x" * MAX_REQUEST_BYTES)
    await bench.migrator.begin()
    bench.target_data.gate.clear()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.migrator.copy_to, 1)
        await trio.testing.wait_all_tasks_blocked(0.01)
        nursery.start_soon(bench.device.write, 0, b"late")
        nursery.start_soon(bench.device.write, CHUNK_BYTES, b"elsewhere")
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert await bench.read(UNIT_BYTES, 4) == b"xxxx"
        assert await bench.read(CHUNK_BYTES, 9) == b"elsewhere"
        bench.target_data.gate.set()
    assert await bench.read(0, 4) == bench.target_bytes(0, 4) == b"late"


async def test_who_waited_while_it_began_writes_to_both_sides(bench: MigratingBench) -> None:
    """What a waiting write goes to is looked up when its turn has come."""
    bench.migrating.cursor = CHUNKS
    bench.data.gate.clear()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.device.write, 0, b"1" * MAX_REQUEST_BYTES)
        await trio.testing.wait_all_tasks_blocked(0.01)
        nursery.start_soon(bench.migrator.begin)
        await trio.testing.wait_all_tasks_blocked(0.01)
        nursery.start_soon(bench.device.write, 0, b"2" * MAX_REQUEST_BYTES)
        await trio.testing.wait_all_tasks_blocked(0.01)
        bench.data.gate.set()
    assert bench.target_bytes(0, MAX_REQUEST_BYTES) == b"2" * MAX_REQUEST_BYTES


async def test_below_the_cursor_a_write_runs_inline_when_its_intent_is_set(
    bench: MigratingBench,
) -> None:
    await bench.migrator.begin()
    await bench.migrator.copy_to(2)
    bench.data.threads.clear()
    for offset, data, inline in [
        (0, bytes(UNIT_BYTES), False),
        (UNIT_BYTES, bytes(UNIT_BYTES), True),
        (5, b"partial", False),
        (CHUNK_BYTES, bytes(UNIT_BYTES), False),
        (3 * CHUNK_BYTES, bytes(UNIT_BYTES), True),
    ]:
        await bench.device.write(offset, data)
        assert bench.data.ran_inline() == inline
    assert bench.intents_file.syncs == 4  # two as it was made


async def test_snapshots_are_refused_while_the_data_changes_its_place(
    bench: MigratingBench,
) -> None:
    await bench.migrator.begin()
    await bench.migrator.copy_to(CHUNKS)
    capture = await bench.device.captures.begin()
    with pytest.raises(TryAgainError, match="a snapshot of the volume is being taken"):
        await bench.migrator.prepare()
    await bench.device.captures.commit(capture, point(1))
    await bench.migrator.prepare()
    with pytest.raises(TryAgainError, match="about to go over"):
        await bench.device.captures.begin()
    await bench.migrator.withdraw()
    await bench.device.captures.abort(await bench.device.captures.begin())
    await bench.migrator.prepare()
    await bench.switch(bench.served())
    capture = await bench.device.captures.begin()
    assert await bench.changed(capture) is None
    await bench.device.captures.commit(capture, point(2))
    await bench.device.write(3 * CHUNK_BYTES, b"x")
    capture = await bench.device.captures.begin()
    assert await bench.changed(capture) == {3}
    await bench.device.captures.abort(capture)


async def test_it_is_not_prepared_when_the_target_cannot_be_synced(bench: MigratingBench) -> None:
    await bench.migrator.begin()
    await bench.migrator.copy_to(CHUNKS)
    with pytest.raises(AssertionError, match="not prepared"):
        await bench.switch(bench.served())
    bench.target_data.fail_sync = errno.EIO
    with pytest.raises(OSError, match="Input/output"):
        await bench.migrator.prepare()
    await bench.device.captures.abort(await bench.device.captures.begin())
    await bench.device.write(0, b"goes on")
    await bench.device.flush()
    with pytest.raises(TargetLostError):
        await bench.migrator.copy_to(CHUNKS)


async def test_a_pause_comes_after_the_chunk_that_is_copied(bench: MigratingBench) -> None:
    await bench.device.write(0, b"x" * MAX_REQUEST_BYTES)
    await bench.migrator.begin()
    bench.target_data.gate.clear()
    async with trio.open_nursery() as nursery:

        async def copy() -> None:
            assert await bench.migrator.copy_to(CHUNKS) == 1

        nursery.start_soon(copy)
        await trio.testing.wait_all_tasks_blocked(0.01)
        bench.migrator.pause()
        bench.target_data.gate.set()
    assert bench.migrating.cursor == 1


async def test_it_stops_with_the_volume(bench: MigratingBench) -> None:
    await bench.migrator.begin()
    bench.data.fail_sync = errno.EIO
    with pytest.raises(OSError, match="Input/output"):
        await bench.device.flush()
    with pytest.raises(ReadOnlyError, match="were lost"):
        await bench.migrator.copy_to(1)
    bench.device.fence(FencedError("its key is gone"))
    for call in (
        lambda: bench.migrator.copy_to(1),
        lambda: bench.migrator.verify_to(0, 1, bench.target),
        bench.migrator.prepare,
        bench.migrator.abandon,
    ):
        with pytest.raises(FencedError):
            await call()


async def test_what_differs_is_found_and_what_is_not_copied_is_not_compared(
    bench: MigratingBench,
) -> None:
    await bench.migrator.begin()
    with pytest.raises(TryAgainError, match="left to be copied"):
        await bench.migrator.verify_to(0, CHUNKS, bench.target)
    await bench.migrator.copy_to(CHUNKS)
    bench.target.write(4 * CHUNK_BYTES, b"x")
    with pytest.raises(IntegrityError, match="chunk 4"):
        await bench.migrator.verify_to(0, CHUNKS, bench.target)


async def test_abandoned_it_is_as_before(bench: MigratingBench) -> None:
    await bench.migrator.begin()
    await bench.migrator.copy_to(2)
    await bench.device.write(0, b"kept")
    await bench.migrator.abandon()
    writes = len(bench.target_data.calls)
    await bench.device.write(0, b"KEPT")
    assert await bench.read(0, 4) == b"KEPT"
    assert len(bench.target_data.calls) == writes
    assert len(WriteIntents.open(bench.intents_file, HEADER).set_regions()) == CHUNKS


async def test_a_clean_end_leaves_no_intent(bench: MigratingBench) -> None:
    await bench.migrator.begin()
    await bench.migrator.copy_to(2)
    await bench.device.write(0, b"x")
    await bench.device.close()
    await bench.migrator.close()
    assert WriteIntents.open(bench.intents_file, HEADER).set_regions() == []


# ---------------------------------------------------------------- the data plane


class PlaneBench:
    """The kernel's requests go through the plane; files on a disk, for the page cache to know."""

    def __init__(self, bed: PlaneBed, disk: Path) -> None:
        self.bed = bed
        self.disk = disk
        self.data = DataFile.open(bed.data, SIZE)
        self.next = DataFile.create(disk / "data.next", SIZE)
        self.changes = ChangeMap.open(
            disk / "live",
            disk / "clean",
            volume_id=VOLUME,
            size_bytes=SIZE,
            seal=SEAL,
            data_path=bed.data,
        )
        self.new_key = DataKey(bytearray(NEW_KEY))
        source = Volume(
            self.data, size_bytes=SIZE, data_key=DataKey(bytearray(KEY)), changes=self.changes
        )
        self.target = Volume(self.next, size_bytes=SIZE, data_key=self.new_key, changes=None)
        self.intents = WriteIntents.create(WatchedData(HEADER.file_bytes), HEADER)
        self.migrating = MigratingVolume(
            source,
            self.target,
            self.intents,
            cursor=0,
            next_data=first_data(self.data, self.next),
        )
        self.device = Device(
            source,
            open_keeper=lambda: PreservedChunks(self.data, self.disk),
            changes=self.changes,
        )
        self.device.use_plane(bed.plane, is_marked=self.changes.is_marked, budget=None)
        self.migrator = Migrator(self.device, self.migrating)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        plane = DataPlane(self.bed.plane, self.device, VolumeFileSystem(self.device))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(plane.run)
            yield
            nursery.cancel_scope.cancel()

    async def write(self, offset: int, data: bytes) -> None:
        await trio.to_thread.run_sync(self.bed.write, offset, data)

    async def read(self, offset: int) -> bytes:
        return await trio.to_thread.run_sync(self.bed.read, offset, UNIT_BYTES)

    def close(self) -> None:
        self.migrating.close()
        self.changes.close()
        self.data.close()
        self.next.close()


@pytest.fixture
def planes() -> Iterator[PlaneBench]:
    disk = Path(mkdtemp(dir="/var/tmp"))
    try:
        with plane_bed(disk, size_bytes=SIZE) as bed:
            made = PlaneBench(bed, disk)
            yield made
            made.close()
    finally:
        shutil.rmtree(disk)


OLD, NEW, NEWER = (letter * UNIT_BYTES for letter in (b"o", b"n", b"r"))


async def write_before_and_behind_the_cursor(planes: PlaneBench) -> None:
    async with planes.serving():
        await planes.migrator.begin()
        for chunk in range(3):
            await planes.write(chunk * CHUNK_BYTES, OLD)
            assert planes.bed.plane.rights(chunk) == READ | WRITE
        await planes.migrator.copy_to(2)
        for data in (NEW, NEWER):
            for chunk in range(3):
                await planes.write(chunk * CHUNK_BYTES, data)
        assert planes.bed.plane.rights(2) == READ | WRITE
        for chunk in range(2):
            buffer = bytearray(UNIT_BYTES)
            planes.target.read_into(chunk * CHUNK_BYTES, buffer)
            assert buffer == NEWER
            assert await planes.read(chunk * CHUNK_BYTES) == NEWER
            assert planes.bed.plane.rights(chunk) == READ


async def test_the_plane_writes_behind_the_cursor_alone(planes: PlaneBench) -> None:
    await write_before_and_behind_the_cursor(planes)


async def test_control_a_stale_right_to_write_is_found(
    planes: PlaneBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Admission, "is_written_once", lambda admission, chunk: True)
    with pytest.raises(ExceptionGroup) as found:
        await write_before_and_behind_the_cursor(planes)
    assert found.group_contains(AssertionError)


async def test_the_plane_goes_over_with_the_volume(planes: PlaneBench) -> None:
    async with planes.serving():
        await planes.write(0, OLD)
        await planes.migrator.begin()
        await planes.migrator.copy_to(CHUNKS)
        await planes.migrator.prepare()
        planes.next.path.replace(planes.bed.data)
        served = Volume(
            planes.next, size_bytes=SIZE, data_key=planes.new_key, changes=planes.changes
        )
        await planes.migrator.switch(
            served,
            data=PlaneData(planes.next.fileno(), planes.new_key, None),
            follow=lambda: planes.changes.follow(planes.bed.data),
        )
        assert not planes.bed.plane.rights(0)
        before = planes.bed.plane.counts.fast
        for data in (NEW, NEWER):
            await planes.write(0, data)
            assert await planes.read(0) == data
        assert planes.bed.plane.counts.fast > before
        buffer = bytearray(UNIT_BYTES)
        served.read_into(0, buffer)
        assert buffer == NEWER
        source = bytearray(UNIT_BYTES)
        planes.data.read_into(0, source)
        DataKey(bytearray(KEY)).kernel().decrypt_sparse_units(0, source, source)
        assert source == OLD
    served.close()
