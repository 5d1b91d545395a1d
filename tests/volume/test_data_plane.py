"""Who owns a chunk: device and compiled data plane at work on one volume, in every order.

A write of the plane is held up in the middle by freezing the file system below it: what is there
then is a lane that has begun, and everybody who wants its bytes, or no writer at all, has to wait.
"""

import errno
import os
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from tests.file_system import disposable_file_system
from tests.plane_kernel import (
    KEEP_SIZE,
    KEY,
    PUNCH_HOLE,
    ZERO_RANGE,
    PlaneBed,
    plane_bed,
)
from tests.volume.place import SEAL, VOLUME
from volcrypt.crypto.data_key import DataKey
from volcrypt.daemons.fencing import GRACE_SECONDS, Fencing
from volcrypt.errors import FencedError, VolumeError
from volcrypt.geometry import CHUNK_BYTES, SECTOR_BYTES, UNIT_BYTES
from volcrypt.volume.change_map import ChangeMap
from volcrypt.volume.data_plane import DataPlane
from volcrypt.volume.datafile import DataFile
from volcrypt.volume.device import INLINE_BYTES, Device
from volcrypt.volume.discard import Discards
from volcrypt.volume.freezing import freeze, thaw
from volcrypt.volume.fuse import VolumeFileSystem
from volcrypt.volume.ownership import BUDGET_STEP_BYTES
from volcrypt.volume.plane.door import READ, WRITE, Counts
from volcrypt.volume.preserve import PreservedChunks
from volcrypt.volume.volume import Volume

BOTH = READ | WRITE
SIZE = 4 * CHUNK_BYTES
OLD, NEW = b"o" * UNIT_BYTES, b"n" * UNIT_BYTES


@dataclass
class Budget:
    spent: int = 0

    def spend(self, size_bytes: int) -> None:
        self.spent += size_bytes

    def give_back(self, size_bytes: int) -> None:
        self.spent -= size_bytes

    def renew(self) -> None:
        pass


@dataclass
class Bench:
    """The kernel's requests go through the plane; what it hands on, to the device."""

    bed: PlaneBed
    device: Device
    changes: ChangeMap
    volume: Volume
    disk: Path
    budget: Budget
    takes_reply: bool = True
    """Whether the end of a write under way is looked at where it was begun."""
    _seen: Counts = field(default_factory=lambda: Counts(0, 0, 0, 0))

    async def write(self, offset: int, data: bytes) -> None:
        await trio.to_thread.run_sync(self.bed.write, offset, data)

    async def read(self, offset: int, size: int) -> bytes:
        return await trio.to_thread.run_sync(self.bed.read, offset, size)

    async def discard(self, offset: int, size: int, *, mode: int = PUNCH_HOLE | KEEP_SIZE) -> int:
        """The errno that the kernel gets."""

        def ask() -> int:
            return self.bed.reply_to(self.bed.send_discard(offset, size, mode=mode)).error

        return await trio.to_thread.run_sync(ask)

    def was_fast(self) -> bool:
        """Whether all that was asked since the last call was the plane's."""
        before, self._seen = self._seen, self.bed.plane.counts
        return self._seen.fast > before.fast and self._seen.handed_on == before.handed_on

    def rights(self, chunk: int = 0) -> int:
        return self.bed.plane.rights(chunk)

    def forget(self, chunk: int) -> None:
        """What is cached of it; it was flushed."""
        descriptor = os.open(self.bed.data, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, chunk * CHUNK_BYTES, CHUNK_BYTES, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)

    async def own(self, chunk: int = 0) -> None:
        """Have the plane own a chunk, as everybody does: by writing to it."""
        await self.write(chunk * CHUNK_BYTES, OLD)
        assert self.rights(chunk) == BOTH

    @asynccontextmanager
    async def write_under_way(self, offset: int = 0) -> AsyncIterator[Callable[[], None]]:
        """A fast write of NEW that has begun and does not end before what this gives is called."""
        await self.own(offset // CHUNK_BYTES)
        with frozen(self.disk) as let_go:
            unique = self.bed.send_write(offset, NEW)
            await until_kept(1)
            yield let_go
            let_go()
            if self.takes_reply:
                reply = await trio.to_thread.run_sync(self.bed.reply)
                assert (reply.unique, reply.error) == (unique, 0)


@contextmanager
def frozen(disk: Path) -> Iterator[Callable[[], None]]:
    """Every write to the file system waits, until what this gives is called."""
    directory = os.open(disk, os.O_RDONLY)
    is_frozen = True

    def let_go() -> None:
        nonlocal is_frozen
        if is_frozen:
            is_frozen = False
            thaw(directory)

    # Who waits for it in a call would do so for ever, and could not be killed.
    watchdog = threading.Timer(10, let_go)
    watchdog.start()
    freeze(directory)
    try:
        yield let_go
    finally:
        watchdog.cancel()
        let_go()
        os.close(directory)


def kept_threads() -> int:
    """How many threads of this process are in a call that cannot be interrupted."""
    states = [path.read_text() for path in Path("/proc/self/task").glob("*/stat")]
    return sum(state.rpartition(") ")[2].startswith("D") for state in states)


async def until_kept(count: int) -> None:
    with trio.fail_after(5):
        while kept_threads() < count:  # noqa: ASYNC110 nobody tells
            await trio.sleep(0.001)


@pytest.fixture(scope="module")
def file_system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with disposable_file_system(tmp_path_factory.mktemp("disk")) as made:
        yield made.directory


@contextmanager
def opened(
    disk: Path,
    directory: Path,
    *,
    read_only: bool = False,
    connects: bool = True,
    drops_zeros: bool = False,
) -> Iterator[Bench]:
    """The data alone lies on `disk`: nothing else may wait when it is frozen."""
    (disk / "data").unlink(missing_ok=True)
    with plane_bed(disk, size_bytes=SIZE, takes_discards=True, drops_zeros=drops_zeros) as bed:
        data_key = DataKey(bytearray(KEY))
        changes = ChangeMap.open(
            directory / "live",
            directory / "change-map",
            volume_id=VOLUME,
            size_bytes=SIZE,
            seal=SEAL,
            data_path=bed.data,
        )
        budget = Budget()
        with DataFile.open(bed.data, SIZE) as data:
            volume = Volume(
                data,
                size_bytes=SIZE,
                data_key=data_key,
                changes=changes,
                written=budget,
                read_only=read_only,
                drops_zeros=drops_zeros,
            )
            device = Device(
                volume, changes=changes, open_keeper=lambda: PreservedChunks(data, directory)
            )
            if connects:
                device.use_plane(bed.plane, is_marked=changes.is_marked, budget=budget)
            try:
                yield Bench(bed, device, changes, volume, disk, budget)
            finally:
                volume.close()
                changes.close()


@pytest.fixture
async def bench(file_system: Path, tmp_path: Path) -> AsyncIterator[Bench]:
    with opened(file_system, tmp_path) as made:
        async with serving(made):
            yield made


@asynccontextmanager
async def serving(bench: Bench) -> AsyncIterator[None]:
    plane = DataPlane(
        bench.bed.plane,
        bench.device,
        VolumeFileSystem(bench.device),
        Discards(bench.device),
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(plane.run)
        yield
        nursery.cancel_scope.cancel()


async def ends(bench: Bench, work: Callable[[], object], let_go: Callable[[], None]) -> None:
    """`work`, an async function, ends only after the write under way is let go."""
    is_over = trio.Event()

    async def do() -> None:
        await work()  # type: ignore[misc]
        is_over.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(do)
        await trio.sleep(0.05)
        assert not is_over.is_set()
        let_go()
        with trio.fail_after(5):
            await is_over.wait()


class TestGranting:
    async def test_what_was_written_is_the_planes(self, bench: Bench) -> None:
        await bench.write(0, OLD)
        assert not bench.was_fast()
        await bench.write(UNIT_BYTES, NEW)
        assert await bench.read(0, 2 * UNIT_BYTES) == OLD + NEW
        assert bench.was_fast()
        assert bench.bed.stored(0, 2 * UNIT_BYTES) == OLD + NEW

    async def test_what_was_read_is_the_planes_to_read(self, bench: Bench) -> None:
        await bench.read(CHUNK_BYTES, UNIT_BYTES)
        assert bench.rights(1) == READ
        assert not bench.was_fast()
        await bench.read(CHUNK_BYTES + UNIT_BYTES, UNIT_BYTES)
        assert bench.was_fast()
        await bench.write(CHUNK_BYTES, NEW)
        assert not bench.was_fast()

    async def test_a_chunk_is_marked_before_it_is_the_planes_to_write(self, bench: Bench) -> None:
        assert not bench.changes.is_marked(2)
        await bench.own(2)
        assert bench.changes.is_marked(2)

    async def test_python_has_a_chunk_as_long_as_it_works_on_it(self, bench: Bench) -> None:
        await bench.own()
        bench.was_fast()
        await bench.write(SECTOR_BYTES, b"part")
        assert not bench.was_fast()
        assert bench.rights() == BOTH
        expected = OLD[:SECTOR_BYTES] + b"part" + OLD[SECTOR_BYTES + 4 :]
        assert await bench.read(0, UNIT_BYTES) == expected
        assert bench.was_fast()

    async def test_what_is_encrypted_is_counted_before(self, bench: Bench) -> None:
        await bench.own()
        assert bench.budget.spent == BUDGET_STEP_BYTES + UNIT_BYTES
        await bench.write(0, NEW)
        await bench.device.close()
        assert bench.budget.spent == 2 * UNIT_BYTES

    async def test_a_budget_that_is_spent_is_filled_again(self, bench: Bench) -> None:
        await bench.own()
        bench.bed.plane.add_budget(-bench.bed.plane.add_budget(0))
        await bench.write(0, NEW)
        assert bench.bed.plane.add_budget(0) == BUDGET_STEP_BYTES

    async def test_cold_reads_are_pythons(self, bench: Bench) -> None:
        await bench.own()
        await bench.device.flush()
        bench.forget(0)
        bench.was_fast()
        assert await bench.read(0, UNIT_BYTES) == OLD
        assert not bench.was_fast()
        assert await bench.read(0, UNIT_BYTES) == OLD
        assert bench.was_fast()

    async def test_a_read_only_volume_is_the_planes_to_read(
        self, file_system: Path, tmp_path: Path
    ) -> None:
        with opened(file_system, tmp_path, read_only=True) as bench:
            async with serving(bench):
                await bench.read(0, UNIT_BYTES)
                assert bench.rights() == READ
                reply = await trio.to_thread.run_sync(
                    lambda: bench.bed.reply_to(bench.bed.send_write(0, NEW))
                )
                assert reply.error == errno.EROFS
                assert bench.rights() == READ

    async def test_what_is_absent_is_never_the_planes(self, bench: Bench) -> None:
        class Absent:
            def __init__(self) -> None:
                self.readable: set[int] = set()
                self.writable: set[int] = set()

            def may_read(self, chunks: range) -> bool:
                return set(chunks) <= self.readable

            def may_write(self, chunks: range) -> bool:
                return set(chunks) <= self.writable

            async def make_readable(self, chunks: range) -> None:
                self.readable |= set(chunks)

            async def replace(self, chunks: range, work: Callable[[int], None]) -> None:
                raise AssertionError("nothing is discarded")

            async def make_writable(self, chunks: range) -> None:
                await self.make_readable(chunks)
                self.writable |= set(chunks)

        await bench.own()
        absent = bench.device.admission.absent = Absent()
        absent.readable = {0}
        await bench.read(0, SECTOR_BYTES)
        assert bench.rights() == READ  # though it is marked
        absent.readable = set()
        bench.bed.plane.revoke(range(1), BOTH)

        async def fail(chunks: range) -> None:
            raise VolumeError("the store is away")

        absent.make_readable = fail  # type: ignore[method-assign]
        unique = bench.bed.send_read(0, SECTOR_BYTES)
        reply = await trio.to_thread.run_sync(bench.bed.reply_to, unique)
        assert reply.error == errno.EIO
        assert bench.rights() == 0


class TestCaptures:
    async def test_no_captured_chunk_is_the_planes_to_write(self, bench: Bench) -> None:
        for chunk in (0, 1):
            await bench.own(chunk)
        capture = await bench.device.captures.begin()
        assert bench.rights() == READ
        assert not bench.changes.is_marked(0)
        await bench.read(0, UNIT_BYTES)
        assert bench.rights() == READ
        bench.device.captures.release(capture, range(1, 2))
        await bench.read(CHUNK_BYTES, UNIT_BYTES)
        assert bench.rights(1) == READ  # it is not marked
        await bench.write(CHUNK_BYTES, NEW)
        assert bench.rights(1) == BOTH
        await bench.write(0, NEW)  # keeps it first
        assert bench.rights() == BOTH
        assert bench.changes.is_marked(0)
        await bench.device.captures.abort(capture)

    async def test_a_held_volume_is_not_written(self, bench: Bench) -> None:
        await bench.own()
        capture = await bench.device.captures.begin(hold=True)
        await bench.read(0, UNIT_BYTES)
        assert bench.rights() == READ
        await ends(
            bench,
            lambda: bench.write(0, NEW),
            lambda: bench.device.captures.resume(capture),
        )
        await bench.device.captures.abort(capture)

    async def test_a_barrier_waits_for_nobody_and_its_point_for_the_write(
        self, bench: Bench
    ) -> None:
        async with bench.write_under_way() as let_go:
            capture = await bench.device.captures.begin()
            assert capture.barrier_us < 100_000
            await ends(bench, lambda: bench.device.captures.settle(capture), let_go)
        # The write is part of the point: its chunk is as it is, and was not kept.
        assert bench.bed.stored(0, UNIT_BYTES) == NEW
        await bench.device.captures.abort(capture)
        assert bench.changes.is_marked(0)

    async def test_a_chunk_is_kept_after_the_write_under_way(self, bench: Bench) -> None:
        async with bench.write_under_way() as let_go:
            capture = await bench.device.captures.begin()
            await ends(bench, lambda: bench.device.write(0, b"later"), let_go)
        await bench.device.captures.settle(capture)
        assert bench.bed.stored(0, UNIT_BYTES)[:5] == b"later"
        await bench.device.captures.abort(capture)


class TestUnderWay:
    """What has to wait for a write that the plane has begun."""

    async def test_a_write_to_the_same_unit(self, bench: Bench) -> None:
        async with bench.write_under_way() as let_go:
            await ends(bench, lambda: bench.device.write(SECTOR_BYTES, b"part"), let_go)
        expected = NEW[:SECTOR_BYTES] + b"part" + NEW[SECTOR_BYTES + 4 :]
        assert await bench.read(0, UNIT_BYTES) == expected

    async def test_a_read_of_the_same_unit(self, bench: Bench) -> None:
        async with bench.write_under_way() as let_go:
            await ends(bench, lambda: bench.device.read(0, 700), let_go)

    async def test_not_a_read_beside_it(self, bench: Bench) -> None:
        async with bench.write_under_way():
            with trio.fail_after(2):
                await bench.device.read(UNIT_BYTES, UNIT_BYTES)
                # Nor does it hold up the other lane.
                assert await bench.read(UNIT_BYTES, UNIT_BYTES) == bytes(UNIT_BYTES)

    async def test_the_plane_gives_what_overlaps_to_python(self, bench: Bench) -> None:
        async with bench.write_under_way() as let_go:
            unique = bench.bed.send_read(0, UNIT_BYTES)
            await trio.sleep(0.02)
            assert bench.bed.is_silent()
            let_go()
            bench.takes_reply = False
            replies = [await trio.to_thread.run_sync(bench.bed.reply) for _ in range(2)]
            assert [reply.body for reply in replies if reply.unique == unique] == [NEW]

    async def test_growth(self, bench: Bench) -> None:
        os.truncate(bench.bed.data, SIZE + CHUNK_BYTES)
        async with bench.write_under_way() as let_go:
            await ends(bench, lambda: bench.device.grow(SIZE + CHUNK_BYTES), let_go)
        assert bench.rights() == 0
        await bench.own(4)
        assert await bench.read(SIZE, UNIT_BYTES) == OLD

    async def test_the_end(self, bench: Bench) -> None:
        async with bench.write_under_way() as let_go:
            await ends(bench, bench.device.close, let_go)
        assert bench.rights() == 0
        reply = await trio.to_thread.run_sync(
            lambda: bench.bed.reply_to(bench.bed.send_read(0, UNIT_BYTES))
        )
        assert reply.error == errno.ESHUTDOWN

    async def test_the_end_when_the_connection_has_ended_first(self, bench: Bench) -> None:
        async with bench.write_under_way() as let_go:
            bench.takes_reply = False
            bench.bed.kernel.shutdown(socket.SHUT_RDWR)  # the other lane is told at once
            while not bench.bed.plane.has_ended:  # noqa: ASYNC110 told by a thread of C
                await trio.sleep(0.001)
            await ends(bench, bench.device.close, let_go)

    async def test_a_fence(self, bench: Bench) -> None:
        async with bench.write_under_way() as let_go:
            bench.device.fence(FencedError("the key is gone"))
            await ends(bench, bench.device.drained, let_go)
        assert bench.bed.plane.wipe() == 0
        bench.was_fast()
        for send in (
            partial(bench.bed.send_read, 0, UNIT_BYTES),
            partial(bench.bed.send_write, 0, OLD),
        ):
            unique = send()
            reply = await trio.to_thread.run_sync(bench.bed.reply_to, unique)
            assert reply.error == errno.EIO
        assert bench.rights() == 0
        assert bench.bed.stored(0, UNIT_BYTES) == NEW

    async def test_what_hangs_behind_a_fence_is_answered_once_and_waited_for(
        self, bench: Bench
    ) -> None:
        bench.takes_reply = False
        async with bench.write_under_way() as let_go:
            bench.device.fence(FencedError("the key is gone"))
            await trio.sleep(0.02)
            assert bench.bed.is_silent()
            for _ in range(2):
                bench.device.give_up(FencedError("the key is gone"))
            reply = await trio.to_thread.run_sync(bench.bed.reply)
            assert reply.error == errno.EIO
            assert bench.bed.is_silent()
            assert bench.bed.plane.wipe() == 1
            await ends(bench, bench.device.drained, let_go)
        assert bench.bed.plane.wipe() == 0
        # Both lanes are at work again, and nothing else was answered meanwhile.
        for _ in range(4):
            unique = bench.bed.send_read(0, UNIT_BYTES)
            reply = await trio.to_thread.run_sync(bench.bed.reply_to, unique)
            assert reply.error == errno.EIO
        assert bench.bed.is_silent()
        assert bench.bed.stored(0, UNIT_BYTES) == NEW  # it was encrypted before the fence

    async def test_a_write_that_ended_is_not_given_up(self, bench: Bench) -> None:
        async with bench.write_under_way() as let_go:
            bench.device.fence(FencedError("the key is gone"))
            await ends(bench, bench.device.answered, let_go)
            bench.device.give_up(FencedError("the key is gone"))
        assert bench.bed.is_silent()

    async def test_a_fence_waits_for_a_medium_as_long_as_for_one_of_pythons(
        self, bench: Bench, mock_clock: trio.testing.MockClock
    ) -> None:
        mock_clock.rate = 1.0
        bench.takes_reply = False

        def wipe() -> None:
            bench.volume.close()
            bench.bed.plane.wipe()

        def is_wiped() -> bool:
            return fencing.note is not None and fencing.note.wiped_at is not None

        fencing = Fencing(bench.device, wipe=wipe)
        async with bench.write_under_way() as let_go, trio.open_nursery() as nursery:
            nursery.start_soon(fencing.fence, "the key is gone")
            await trio.sleep(0.02)
            assert bench.bed.is_silent()
            mock_clock.jump(GRACE_SECONDS)
            reply = await trio.to_thread.run_sync(bench.bed.reply)
            assert reply.error == errno.EIO
            assert not is_wiped()
            let_go()
        assert is_wiped()
        assert bench.bed.is_silent()

    async def test_a_fence_falls_at_once(self, bench: Bench) -> None:
        await bench.own()
        bench.device.fence(FencedError("the key is gone"))
        assert bench.rights() == 0
        unique = bench.bed.send_read(0, UNIT_BYTES)
        reply = await trio.to_thread.run_sync(bench.bed.reply_to, unique)
        assert reply.error == errno.EIO

    async def test_a_write_of_pythons_has_its_chunks_alone(self, bench: Bench) -> None:
        await bench.own()
        await bench.own(1)
        with frozen(bench.disk) as let_go:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(bench.device.write, 0, bytes(INLINE_BYTES + UNIT_BYTES))
                await until_kept(1)
                assert (bench.rights(0), bench.rights(1)) == (0, BOTH)
                # Somebody else who reads there grants nothing either.
                await bench.device.read(CHUNK_BYTES - UNIT_BYTES, UNIT_BYTES)
                assert bench.rights(0) == 0
                let_go()
        assert bench.rights(0) == BOTH

    async def test_a_wipe_does_not_wait_and_the_lane_wipes_itself(self, bench: Bench) -> None:
        async with bench.write_under_way() as let_go:
            assert bench.bed.plane.wipe() == 1
            let_go()
        assert bench.bed.plane.wipe() == 0

    async def test_stopping_waits_no_longer_than_it_is_told(self, bench: Bench) -> None:
        async with bench.write_under_way():
            started = time.monotonic()
            assert not bench.bed.plane.stop(milliseconds=20)
            assert time.monotonic() - started < 2


class TestErrors:
    async def test_after_a_failed_sync_nothing_is_written(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await bench.own()

        def fail() -> None:
            raise VolumeError("the medium is gone")

        monkeypatch.setattr(bench.volume, "flush", fail)
        with pytest.raises(VolumeError):
            await bench.device.flush()
        assert bench.rights() == READ
        await bench.read(0, SECTOR_BYTES)
        assert bench.rights() == READ
        bench.was_fast()
        await bench.write(0, NEW)  # it is the volume that would refuse it
        assert not bench.was_fast()
        assert bench.rights() == READ

    async def test_what_fails_is_an_answer_and_what_is_cancelled_too(self, bench: Bench) -> None:
        reply = await trio.to_thread.run_sync(
            lambda: bench.bed.reply_to(bench.bed.send_write(SIZE, NEW))
        )
        assert reply.error == errno.EFBIG
        capture = await bench.device.captures.begin(hold=True)
        unique = bench.bed.send_write(0, NEW)
        await trio.sleep(0.02)
        assert bench.bed.is_silent()
        await bench.device.captures.abort(capture)
        assert (await trio.to_thread.run_sync(bench.bed.reply)).unique == unique


class TestDiscards:
    async def test_the_plane_keeps_away_and_serves_again_after_the_next_request(
        self, bench: Bench
    ) -> None:
        await bench.own()
        await bench.write(UNIT_BYTES, NEW)
        bench.was_fast()
        assert await bench.discard(0, UNIT_BYTES) == 0
        assert not bench.was_fast()
        assert bench.rights() == 0
        assert await bench.read(0, 2 * UNIT_BYTES) == bytes(UNIT_BYTES) + NEW
        assert bench.rights() == BOTH
        with bench.bed.data.open("rb") as file:
            assert not any(file.read(UNIT_BYTES))

    async def test_it_waits_for_a_write_under_way(self, bench: Bench) -> None:
        async with bench.write_under_way() as let_go:
            discards = Discards(bench.device)
            work = partial(discards.discard, 0, UNIT_BYTES, keeps_size=True)
            await ends(bench, work, let_go)
        assert await bench.read(0, UNIT_BYTES) == bytes(UNIT_BYTES)

    async def test_a_captured_chunk_is_kept(self, bench: Bench) -> None:
        await bench.own()
        capture = await bench.device.captures.begin()
        assert await bench.discard(0, CHUNK_BYTES) == 0
        assert len(capture.keeper.descriptors) > 0
        assert not bench.device.captures._conditions.is_captured(0)
        bench.device.captures.check(capture)
        assert bench.changes.is_marked(0)
        assert not bench.changes.is_marked(1)
        await bench.device.captures.abort(capture)

    async def test_errors(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        """As they are, but for one that would keep the kernel from ever asking again."""
        await bench.own()
        assert await bench.discard(0, 2 * SIZE, mode=ZERO_RANGE) == errno.EFBIG
        assert await bench.discard(SIZE, UNIT_BYTES) == 0
        for raised, told in (
            (errno.EOPNOTSUPP, errno.EOPNOTSUPP),
            (errno.ENOSYS, errno.EOPNOTSUPP),
            (errno.EIO, errno.EIO),
            (errno.ENOSPC, errno.ENOSPC),
        ):

            def fail(*_: object, number: int = raised, **__: object) -> None:
                raise OSError(number, os.strerror(number))

            monkeypatch.setattr("volcrypt.volume.datafile.deallocate", fail)
            assert await bench.discard(0, UNIT_BYTES) == told
        assert await bench.read(0, UNIT_BYTES) == OLD

    async def test_behind_a_fence(self, bench: Bench) -> None:
        await bench.own()
        bench.device.fence(FencedError("the key is gone"))
        assert await bench.discard(0, UNIT_BYTES) == errno.EIO


async def test_a_read_only_volume_takes_no_discards(file_system: Path, tmp_path: Path) -> None:
    with opened(file_system, tmp_path, read_only=True) as bench:
        async with serving(bench):
            assert await bench.discard(0, UNIT_BYTES) == errno.EROFS


async def test_zeros_are_dropped_whoever_owns_the_chunk(file_system: Path, tmp_path: Path) -> None:
    with opened(file_system, tmp_path, drops_zeros=True) as bench:
        async with serving(bench):
            await bench.own()
            bench.was_fast()
            await bench.write(UNIT_BYTES, NEW)
            assert bench.was_fast()
            await bench.write(0, bytes(UNIT_BYTES) + NEW)
            assert not bench.was_fast()
            assert await bench.read(0, 2 * UNIT_BYTES) == bytes(UNIT_BYTES) + NEW
            with bench.bed.data.open("rb") as file:
                assert not any(file.read(UNIT_BYTES))
                assert any(file.read(UNIT_BYTES))
