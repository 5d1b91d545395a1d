"""A volume that is migrated while it is used, killed and cut off, against a bytearray.

The driver is here: `record` is what it made durable. What must hold is what holds for any volume
(`test_device_model`), through the switch as well; and after each kill or cut the sides are equal
before the recorded cursor, wherever no intent is set: what is believed then is not copied again.

Bugs that were planted (below) show that these histories would notice.
"""

import errno
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from random import Random

import pytest
import trio
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule
from typing_extensions import Buffer

from tests.fakes.datafile import MemoryDataFile
from tests.fakes.preserve import MemoryKeeper
from tests.plane_kernel import KEY, plane_bed
from tests.properties.test_data_plane_model import PlaneModel
from tests.properties.test_device_model import (
    QUICK,
    REQUESTS,
    DeviceModel,
    Request,
    SlowData,
)
from tests.volume.place import SEAL, VOLUME
from volcrypt.crypto.data_key import DataKey
from volcrypt.errors import IntegrityError, TargetLostError, TryAgainError
from volcrypt.formats.write_intents import IntentsHeader
from volcrypt.geometry import CHUNK_BYTES, SECTOR_BYTES, UNIT_BYTES, ByteRange, chunk_count
from volcrypt.volume.change_map import ChangeMap
from volcrypt.volume.datafile import DataFile
from volcrypt.volume.device import Device
from volcrypt.volume.migration import MigratingVolume, Mode
from volcrypt.volume.migrator import Migrator
from volcrypt.volume.ownership import PlaneData
from volcrypt.volume.preserve import PreservedChunks
from volcrypt.volume.volume import Volume
from volcrypt.volume.write_intents import TICK_SECONDS, WriteIntents

SIZE = 5 * CHUNK_BYTES + 2 * UNIT_BYTES
CHUNKS = chunk_count(SIZE)
ENDS = st.sampled_from(["switch", "switch", "kill", "cut", "undecided", "withdraw"])


class FailingFile(DataFile):
    """Fails as a `MemoryDataFile` does."""

    fail_write_at: int | None = None
    fail_sync: int | None = None

    def write(self, offset: int, data: Buffer) -> None:
        end = offset + memoryview(data).nbytes
        if self.fail_write_at is not None and offset <= self.fail_write_at < end:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        super().write(offset, data)

    def sync(self) -> None:
        if self.fail_sync is not None:
            raise OSError(self.fail_sync, os.strerror(self.fail_sync))
        super().sync()


@dataclass(frozen=True, kw_only=True)
class Record:
    """What the driver made durable. `is_decided`: the target is the volume."""

    header: IntentsHeader
    target: SlowData | FailingFile
    intents: MemoryDataFile
    key: DataKey
    cursor: int = 0
    is_decided: bool = False


class MigrationModel(DeviceModel):
    def __init__(self) -> None:
        super().__init__()
        self.size_bytes = SIZE
        self.storage = SlowData(SIZE)
        self.model = bytearray(SIZE)
        self.record: Record | None = None
        self.migrations = 0
        self.now = 0.0
        self.background: Callable[[], Awaitable[None]] | None = None

    # ------------------------------------------------------------ life

    def open(self) -> None:
        if self.record is not None and self.record.is_decided:
            self.go_over()
        self.open_storage()
        self.changes = ChangeMap.open(
            self.memory / "live",
            self.memory / "clean",
            volume_id=VOLUME,
            size_bytes=SIZE,
            seal=SEAL,
            data_path=self.data_path,
        )
        self.migrator: Migrator | None = None
        source = self.open_served()
        self.device = self.open_device(source)
        self.volume: Volume | MigratingVolume = source  # type: ignore[assignment]
        if self.record is not None:
            self.begin_session(source)
            assert self.migrating is not None
            self.check_sides()

    @property
    def data_path(self) -> Path:
        return self.memory / "data"

    def open_storage(self) -> None:
        """What is in memory stays there."""

    def end_captures(self) -> None:
        """There are none."""

    def open_device(self, source: Volume) -> Device:
        return Device(source, open_keeper=lambda: MemoryKeeper(self.storage), changes=self.changes)

    def make_target(self) -> SlowData | FailingFile:
        return SlowData(SIZE)

    def open_served(self) -> Volume:
        return Volume(
            self.storage,
            size_bytes=SIZE,
            data_key=self.key,
            changes=self.changes,
            drops_zeros=self.drops_zeros,
        )

    @property
    def migrating(self) -> MigratingVolume | None:
        return self.volume if isinstance(self.volume, MigratingVolume) else None

    def begin_session(self, source: Volume) -> None:
        assert self.record is not None
        self.intents = WriteIntents.open(
            self.record.intents, self.record.header, clock=lambda: self.now
        )
        target = Volume(
            self.record.target,
            size_bytes=SIZE,
            data_key=self.record.key,
            changes=None,
            drops_zeros=self.drops_zeros,
        )
        volume = MigratingVolume(source, target, self.intents, cursor=self.record.cursor)
        self.volume = volume
        self.migrator = Migrator(self.device, volume)
        trio.run(self.migrator.begin)

    def go_over(self) -> None:
        assert self.record is not None
        assert isinstance(self.record.target, SlowData)
        self.storage, self.key = self.record.target, self.record.key
        self.record = None

    def check_sides(self) -> None:
        """As they are found: what will not be copied again is equal."""
        assert self.migrating is not None
        assert self.record is not None
        for chunk in range(self.record.cursor):
            extent = ByteRange(chunk * CHUNK_BYTES, min(CHUNK_BYTES, SIZE - chunk * CHUNK_BYTES))
            if not self.intents.are_set(extent):
                found = [bytearray(extent.length), bytearray(extent.length)]
                self.migrating.source.read_into(extent.offset, found[0])
                self.migrating.target.read_into(extent.offset, found[1])
                assert found[0] == found[1], f"chunk {chunk} differs, and nobody knows"

    def mend(self) -> None:
        if self.record is not None:
            target = self.record.target
            target.fail_write_at = target.fail_sync = None
            target._failed = False

    def end_process(self) -> None:
        super().end_process()
        self.mend()

    @precondition(lambda self: self.unsynced)
    @rule(seed=st.integers(0, 2**32))
    def lose_power(self, seed: int) -> None:
        # Not the dice of the source: then both sides would lose the same.
        dice = Random(seed + 1)
        if self.record is not None:
            assert isinstance(self.record.target, SlowData)
            self.record.target.lose_power(dice.randrange)
            self.record.intents.lose_power(dice.randrange)
        super().lose_power(seed)

    @rule()
    def close_and_open(self) -> None:
        if self.record is not None and self.migrating is not None:
            trio.run(self.device.close)
            assert self.migrator is not None
            with suppress(TargetLostError, OSError):
                trio.run(self.migrator.close)
        super().close_and_open()

    def grow(self, step: int, requests: list[Request]) -> None:
        """Refused meanwhile; see `test_device_model` for others."""

    # ------------------------------------------------------------ requests, and what runs beside

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        async with super().serving(), trio.open_nursery() as nursery:
            if self.background is not None:
                nursery.start_soon(self.background)
            yield

    @rule(
        requests=REQUESTS,
        further=st.integers(1, CHUNKS - 1),
        is_cached=st.booleans(),
        to_end=st.booleans(),
    )
    def batch_further_on(
        self, requests: list[Request], further: int, is_cached: bool, to_end: bool
    ) -> None:
        moved = [
            replace(request, seam=min(request.seam + further * CHUNK_BYTES, SIZE))
            for request in requests
        ]
        self.batch(moved, is_cached)
        if to_end:
            self.flush()

    @rule(offset=st.integers(0, CHUNKS - 1).map(lambda chunk: chunk * CHUNK_BYTES))
    def write_zeros(self, offset: int) -> None:
        """Over a whole chunk, as who trims without a discard."""
        data = bytes(min(CHUNK_BYTES, SIZE - offset))
        for sector in range(offset // SECTOR_BYTES, (offset + len(data)) // SECTOR_BYTES):
            self.unsynced.setdefault(sector, {self.sector(sector)}).add(bytes(SECTOR_BYTES))
        trio.run(self.device.write, offset, data)
        self.model[offset : offset + len(data)] = data

    # ------------------------------------------------------------ the driver

    @precondition(lambda self: self.record is None)
    @rule(region_chunks=st.sampled_from([1, 2, 4]), requests=REQUESTS)
    def begin(self, region_chunks: int, requests: list[Request]) -> None:
        self.migrations += 1
        header = IntentsHeader(
            volume_id=VOLUME,
            size_bytes=SIZE,
            region_bytes=region_chunks * CHUNK_BYTES,
            migration=self.migrations.to_bytes(16, "little"),
        )
        intents = MemoryDataFile(header.file_bytes)
        WriteIntents.create(intents, header)
        key = DataKey(bytearray((self.migrations + index) % 256 for index in range(64)))
        self.record = Record(header=header, target=self.make_target(), intents=intents, key=key)
        assert isinstance(self.volume, Volume)
        self.begin_session(self.volume)
        self.batch(requests, True)

    @precondition(lambda self: self.record is not None)
    @rule(
        stop=st.integers(1, CHUNKS),
        requests=REQUESTS,
        saves=st.booleans(),
        further=st.integers(0, 4),
    )
    def copy(self, stop: int, requests: list[Request], saves: bool, further: int) -> None:
        """While requests are served; the driver may be killed before it has written down how far
        it came."""
        assert self.migrator is not None
        migrator = self.migrator
        cursor = 0

        async def copy() -> None:
            nonlocal cursor
            with suppress(TargetLostError, OSError):
                cursor = await migrator.copy_to(stop)

        self.background = copy
        moved = [
            replace(request, seam=min(request.seam + further * CHUNK_BYTES, SIZE))
            for request in requests
        ]
        self.batch(moved, True)
        self.background = None
        assert self.record is not None
        if saves and cursor > self.record.cursor:
            self.record = replace(self.record, cursor=cursor)

    @precondition(lambda self: self.record is not None)
    @rule(seconds=st.sampled_from([0.0, TICK_SECONDS, 3 * TICK_SECONDS]))
    def settle(self, seconds: float) -> None:
        assert self.migrator is not None
        self.now += seconds
        with suppress(TargetLostError, OSError):
            trio.run(self.migrator.settle)

    @precondition(lambda self: self.record is not None)
    @rule(sync=st.booleans(), chunk=st.integers(0, CHUNKS - 1))
    def break_target(self, sync: bool, chunk: int) -> None:
        """Until it is opened again."""
        assert self.record is not None
        if self.migrating is None or self.migrating.mode is Mode.COMMITTING:
            return
        if sync:
            self.record.target.fail_sync = errno.EIO
        else:
            self.record.target.fail_write_at = chunk * CHUNK_BYTES

    @precondition(lambda self: self.record is not None)
    @rule()
    def give_room(self) -> None:
        """To a writer that found none."""
        trio.run(self.device.spare_room)

    @precondition(lambda self: self.migrating is not None and self.migrating.failure is not None)
    @rule()
    def try_again(self) -> None:
        """Another session, in the same process."""
        assert self.migrating is not None
        self.mend()
        source = self.migrating.source
        assert isinstance(source, Volume)
        self.begin_session(source)
        self.check_sides()

    @precondition(lambda self: self.record is not None)
    @rule(end=ENDS, seed=st.integers(0, 2**32))
    def finish(self, end: str, seed: int) -> None:
        """All that is left of it; after the decision, and before, anything may happen."""
        assert self.migrator is not None
        assert self.record is not None
        try:
            cursor = trio.run(self.migrator.copy_to, CHUNKS)
            assert cursor == CHUNKS
            self.record = replace(self.record, cursor=cursor)
            medium = Volume(
                self.record.target, size_bytes=SIZE, data_key=self.record.key, changes=None
            )
            trio.run(self.migrator.verify_to, 0, CHUNKS, medium)
            self.batch([Request("write", 2 * CHUNK_BYTES, -700, 1400)], True)
            trio.run(self.migrator.prepare)
        except (TargetLostError, OSError):
            return
        except TryAgainError:
            assert self.device.captures.is_running
            return
        self.mend()  # what was broken and not touched would fail requests from here on
        self.unsynced.clear()
        with pytest.raises(TryAgainError):
            trio.run(self.device.captures.begin)
        self.batch([Request("write", CHUNK_BYTES, -700, 1400)], True)
        if end == "withdraw":
            trio.run(self.migrator.withdraw)
            return
        if end != "undecided":
            self.record = replace(self.record, is_decided=True)
            if seed % 2:
                self.batch([Request("write", 3 * CHUNK_BYTES, -700, 1400)], True)
                self.flush()
            self.batch([Request("write", 4 * CHUNK_BYTES, -700, 1400)], True)
        if end == "switch":
            self.switch()
        elif end == "kill":
            self.kill()
        else:
            self.lose_power(seed)

    @rule(
        meanwhile=st.lists(REQUESTS, min_size=3, max_size=3),
        stop=st.integers(1, CHUNKS),
        happens=st.sampled_from(["nothing", "kill", "cut", "break", "zeros", "room"]),
        end=ENDS,
        seed=st.integers(0, 2**32),
    )
    def whole_migration(
        self, meanwhile: list[list[Request]], stop: int, happens: str, end: str, seed: int
    ) -> None:
        """Rules of this machine in one step, which alone seldom come in this order."""
        if seed % 4:
            self.end_captures()
        if self.record is None:
            self.begin(2, meanwhile[0])
        self.copy(stop, meanwhile[1], seed % 3 > 0, seed % 5)
        if happens == "break":
            self.break_target(seed % 2 > 0, seed % CHUNKS)
        if happens == "room":
            self.give_room()
        self.batch(meanwhile[2], True)
        if happens == "cut":
            self.lose_power(seed)
        elif happens in ("kill", "zeros"):
            self.kill()
        if happens == "zeros":
            self.write_zeros(seed % CHUNKS * CHUNK_BYTES)
        if self.migrating is not None and self.migrating.failure is not None:
            self.try_again()
        self.finish(end, seed)

    def descriptor(self) -> int:
        return -1  # there is no plane

    def switch(self) -> None:
        assert self.record is not None
        assert self.migrator is not None
        self.go_over()
        served = self.open_served()
        trio.run(
            partial(
                self.migrator.switch,
                served,
                data=PlaneData(self.descriptor(), self.key, None),
                follow=lambda: self.changes.follow(self.data_path),
            )
        )
        self.volume = served

    @precondition(lambda self: self.record is not None)
    @rule()
    def abandon(self) -> None:
        assert self.migrator is not None
        assert self.migrating is not None
        source = self.migrating.source
        assert isinstance(source, Volume)
        intents = self.intents
        self.record = None
        trio.run(self.migrator.abandon)
        self.volume = source
        intents._storage.lose_power(lambda _: 0)  # type: ignore[attr-defined]
        assert len(WriteIntents.open(intents._storage, intents.header).set_regions()) == (
            intents.header.region_count
        )

    @invariant()
    def nothing_that_was_copied_differs(self) -> None:
        """While it runs: outside of what is to be copied again."""
        volume = self.migrating
        if volume is None or volume.failure is not None or not volume.is_copied:
            return
        found = bytearray(SIZE)
        volume.target.read_into(0, found)
        assert found == self.model


MigrationModel.TestCase.settings = settings(QUICK, max_examples=25, stateful_step_count=20)
TestMigrationModel = MigrationModel.TestCase


class LongMigrationModel(MigrationModel):
    """The same for long."""


LongMigrationModel.TestCase.settings = settings(QUICK, max_examples=3000, stateful_step_count=40)
TestMigrationModelForLong = pytest.mark.soak(LongMigrationModel.TestCase)


class PlaneMigrationModel(MigrationModel, PlaneModel):
    """With requests of the kernel, on files; no power cuts."""

    def open_storage(self) -> None:
        self.stack = ExitStack()
        key = KEY if self.key is None else bytes(self.key.view())
        self.bed = self.stack.enter_context(
            plane_bed(
                self.disk,
                size_bytes=SIZE,
                encrypted=self.key is not None,
                key=key,
                takes_discards=True,
                drops_zeros=self.drops_zeros,
            )
        )
        self.file = self.data = self.stack.enter_context(FailingFile.open(self.data_path, SIZE))
        if self.record is not None:
            target = FailingFile.open(self.next_path, SIZE)
            self.stack.callback(target.close)
            self.record = replace(self.record, target=target)
        self.replies = {}
        self.waiting = {}
        self.turn = 0
        self.gate = None

    @property
    def data_path(self) -> Path:
        return self.disk / "data"

    @property
    def next_path(self) -> Path:
        return self.disk / "data.next"

    def make_target(self) -> FailingFile:
        self.next_path.unlink(missing_ok=True)
        target = FailingFile.create(self.next_path, SIZE)
        self.stack.callback(target.close)
        return target

    def open_served(self) -> Volume:
        return Volume(
            self.file,
            size_bytes=SIZE,
            data_key=self.key,
            changes=self.changes,
            drops_zeros=self.drops_zeros,
        )

    def open_device(self, source: Volume) -> Device:
        device = Device(
            source,
            open_keeper=lambda: PreservedChunks(self.data, self.disk),
            changes=self.changes,
        )
        device.use_plane(self.bed.plane, is_marked=self.changes.is_marked, budget=None)
        return device

    def end_captures(self) -> None:
        if self.capture is not None:
            self.end_capture(False)

    def descriptor(self) -> int:
        return self.file.fileno()

    def go_over(self) -> None:
        assert self.record is not None
        assert isinstance(self.record.target, FailingFile)
        self.file = self.data = self.record.target
        self.key = self.record.key
        self.record = None
        self.next_path.replace(self.data_path)

    def lose_power(self, seed: int) -> None:
        """Not here."""
        self.kill()


PlaneMigrationModel.TestCase.settings = settings(QUICK, max_examples=15, stateful_step_count=20)
TestPlaneMigrationModel = PlaneMigrationModel.TestCase


class LongPlaneMigrationModel(PlaneMigrationModel):
    """The same for long."""


LongPlaneMigrationModel.TestCase.settings = settings(
    QUICK, max_examples=1500, stateful_step_count=40
)
TestPlaneMigrationModelForLong = pytest.mark.soak(LongPlaneMigrationModel.TestCase)


# ---------------------------------------------------------------- planted bugs


def skip_the_target(volume: MigratingVolume, change: Callable[[], None]) -> None:
    """A write before the cursor goes to the source alone."""


def believe_unsynced(volume: MigratingVolume, token: tuple[int, int]) -> int:
    """The cursor is called durable before the target is."""
    volume._intents.end_settle(token[1])
    return token[0]


def sync_the_target_alone(migrator: Migrator) -> Awaitable[int]:
    """What was copied was in the source's page cache, and is lost there."""
    token = migrator._volume.begin_settle()
    return migrator._run(lambda: migrator._volume.end_settle(token))


def forget_the_intent(intents: WriteIntents, regions: range) -> None:
    """Bits are set in memory alone."""
    for region in regions:
        intents._bits[region >> 3] |= 1 << (region & 7)


def clear_too_early(intents: WriteIntents, *, final: bool = False) -> int:
    """Regions whose last write came after the sync."""
    return intents._tick + 2


def skip_zeros(volume: MigratingVolume, extent: ByteRange) -> bool:
    """Zeros are not copied over what the target has."""
    return True


def forget_stale(volume: MigratingVolume) -> range:
    """What may differ is not copied again."""
    return range(0)


async def prepare_without_sync(migrator: Migrator) -> None:
    """The target is decided for while only the page cache has it."""
    async with migrator._device.alone():
        migrator._volume.prepare()
        migrator._device.captures.refusal = TryAgainError("not now")


def give_room_and_believe(volume: MigratingVolume) -> bool:
    """What was copied is gone, and nothing says so."""
    volume._give_up(TryAgainError("given back"))
    volume.target.discard(0, volume.size_bytes)
    return True


def flush_the_source_alone(volume: MigratingVolume) -> None:
    """Also when the target may be the volume."""
    volume.source.flush()


# ---------------------------------------------------------------- histories that find them


WRITE = [Request("write", 0, 700, 4 * UNIT_BYTES)]


def copied(model: MigrationModel) -> None:
    """Everything, with some data, and that is written down."""
    model.batch(WRITE, True)
    model.begin(2, [Request("write", CHUNK_BYTES, 0, 700)])
    model.copy(CHUNKS, [Request("read", 0, 0, 1)], True, 0)


def written_to_and_switched(model: MigrationModel, seed: int) -> None:
    copied(model)
    model.batch(WRITE, True)
    model.finish("switch", seed)


def copied_and_cut(model: MigrationModel, seed: int) -> None:
    copied(model)
    model.lose_power(seed)


def written_to_and_cut(model: MigrationModel, seed: int) -> None:
    copied(model)
    model.batch(WRITE, True)
    model.lose_power(seed)


def written_to_while_it_settles(model: MigrationModel, seed: int) -> None:
    copied(model)
    assert model.migrating is not None
    token = model.migrating.begin_settle()
    trio.run(model.device.flush)
    model.batch(WRITE, True)
    model.migrating.end_settle(token)
    model.intents._storage.sync()
    model.lose_power(seed)


def zeroed_before_it_is_copied_again(model: MigrationModel, seed: int) -> None:
    model.batch(WRITE, True)
    model.begin(2, [Request("read", 0, 0, 1)])
    model.copy(CHUNKS, [Request("read", 0, 0, 1)], False, 0)
    model.kill()
    model.write_zeros(0)
    model.finish("switch", seed)


def missed_by_a_broken_target(model: MigrationModel, seed: int) -> None:
    copied(model)
    model.break_target(False, 0)
    model.batch(WRITE, True)
    model.try_again()
    model.finish("switch", seed)


def room_given_and_killed(model: MigrationModel, seed: int) -> None:
    copied(model)
    model.give_room()
    model.kill()
    model.finish("switch", seed)


def decided_and_cut(model: MigrationModel, seed: int) -> None:
    model.begin(2, WRITE)
    model.finish("cut", seed)


PLANTED: list[tuple[type, str, Callable[..., object], Callable[[MigrationModel, int], None]]] = [
    (MigratingVolume, "_change_target", skip_the_target, written_to_and_switched),
    (MigratingVolume, "end_settle", believe_unsynced, copied_and_cut),
    (Migrator, "settle", sync_the_target_alone, copied_and_cut),
    (WriteIntents, "_set", forget_the_intent, written_to_and_cut),
    (WriteIntents, "begin_settle", clear_too_early, written_to_while_it_settles),
    (MigratingVolume, "_reads_zeros", skip_zeros, zeroed_before_it_is_copied_again),
    (MigratingVolume, "_stale_chunks", forget_stale, missed_by_a_broken_target),
    (Migrator, "prepare", prepare_without_sync, decided_and_cut),
    (MigratingVolume, "give_back_room", give_room_and_believe, room_given_and_killed),
    (MigratingVolume, "flush", flush_the_source_alone, decided_and_cut),
]


def play(
    history: Callable[[MigrationModel, int], None], kind: type[MigrationModel] = MigrationModel
) -> None:
    for seed in range(4):
        model = kind()
        try:
            model.open_first(True, False)
            history(model, seed)
            model.everything_reads_back()
            model.nothing_that_was_copied_differs()
        finally:
            model.teardown()


HISTORIES: list[Callable[[MigrationModel, int], None]] = list({each[3]: None for each in PLANTED})


@pytest.mark.parametrize("history", HISTORIES)
def test_histories(history: Callable[[MigrationModel, int], None]) -> None:
    play(history)


@pytest.mark.parametrize("planted", PLANTED, ids=lambda planted: planted[2].__name__)
def test_control_planted_bugs_are_found(
    planted: tuple[type, str, Callable[..., object], Callable[[MigrationModel, int], None]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place, name, bug, history = planted
    monkeypatch.setattr(place, name, bug)
    with pytest.raises((AssertionError, IntegrityError)):
        play(history)
