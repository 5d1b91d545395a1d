"""What a process does for a migration, beside what real mounts show: fences, ends and failures."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from tests.volume.place import SEAL, VOLUME
from volcrypt.crypto.data_key import DataKey
from volcrypt.daemons.fencing import Fencing
from volcrypt.daemons.migrating import Migrating
from volcrypt.daemons.served import Served
from volcrypt.errors import FencedError, IntegrityError, MountError, ReadOnlyError, TargetLostError
from volcrypt.formats.write_intents import IntentsHeader
from volcrypt.geometry import CHUNK_BYTES
from volcrypt.names import DataKeyId
from volcrypt.volume.change_map import ChangeMap
from volcrypt.volume.control_messages import MigrationOrder
from volcrypt.volume.datafile import DataFile
from volcrypt.volume.device import Device
from volcrypt.volume.launch import Assignment, MigrationAssignment
from volcrypt.volume.migration_files import make_files
from volcrypt.volume.preserve import PreservedChunks
from volcrypt.volume.volume import Volume

CHUNKS = 4
SIZE = CHUNKS * CHUNK_BYTES
NEW_KEY = bytes(range(1, 65))
ORDER = MigrationOrder(
    migration=bytes(16),
    region_bytes=CHUNK_BYTES,
    target_key_id=DataKeyId("dk-0123456789abcdef0"),
)
HEADER = IntentsHeader(
    volume_id=VOLUME, size_bytes=SIZE, region_bytes=CHUNK_BYTES, migration=bytes(16)
)


class Bench:
    """A volume under an old key, with the files of a migration, and nobody who mounts it."""

    def __init__(self, directory: Path) -> None:
        DataFile.create(directory / "data", SIZE).close()
        make_files(directory, HEADER)
        self.directory = directory
        self.assignment = Assignment(
            volume_id=VOLUME,
            name=None,
            size_bytes=SIZE,
            data_path=str(directory / "data"),
            read_only=False,
            has_data_key=True,
            volume_directory=str(directory),
            mount_directory="/nowhere",
            live_map_path=str(directory / "live"),
            socket_path="/nowhere",
            log_path="/nowhere",
        )
        self.changes = ChangeMap.open(
            directory / "live",
            directory / "clean",
            volume_id=VOLUME,
            size_bytes=SIZE,
            seal=SEAL,
            data_path=directory / "data",
        )
        data = DataFile.open(directory / "data", SIZE)
        self.old_key = DataKey(bytearray(range(64)))
        volume = Volume(data, size_bytes=SIZE, data_key=self.old_key, changes=self.changes)
        self.served = Served(
            data=data, volume=volume, data_key=self.old_key, data_key_id=None, written=None
        )
        self.device = Device(
            volume,
            changes=self.changes,
            open_keeper=lambda: PreservedChunks(self.served.data, directory),
        )
        self.migrating = Migrating(self.assignment, self.served, self.device, self.changes)

    async def begin(self) -> None:
        reader, writer = os.pipe()
        os.write(writer, NEW_KEY)
        os.close(writer)
        await self.migrating.begin(ORDER, reader)

    async def copy(self, stop: int = CHUNKS, rate_bytes: int | None = None) -> None:
        await self.migrating.copy(ORDER.migration, stop, rate_bytes)

    def wipe(self) -> None:
        self.served.wipe()
        self.migrating.wipe()


def is_wiped(key: DataKey) -> bool:
    try:
        key.view()
    except ValueError:
        return True
    return False


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.migrating.close_files()
    made.served.close()
    made.changes.close()


async def test_a_fence_forgets_both_keys(bench: Bench) -> None:
    for chunk in range(CHUNKS):
        await bench.device.write(chunk * CHUNK_BYTES, b"plaintext" * 1000)
    await bench.begin()
    session = bench.migrating._session
    assert session is not None
    fencing = Fencing(bench.device, wipe=bench.wipe)

    async def copy() -> None:
        with pytest.raises(FencedError, match="disabled"):
            await bench.copy(rate_bytes=2**20)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(copy)
        while session.volume.cursor == 0:
            await trio.lowlevel.checkpoint()
        assert b"plaintext" in bytes(session.volume._buffer)  # the control
        await fencing.fence("its key was disabled")
    assert is_wiped(bench.old_key)
    assert is_wiped(session.target_key)
    for buffer in (session.volume._buffer, session.volume._compared):
        assert not any(bytes(buffer))
    with pytest.raises(ValueError, match="closed"):
        session.volume.target.read_into(0, bytearray(1))
    with pytest.raises(FencedError):
        await bench.migrating.turn(ORDER.migration, "prepare")
    with pytest.raises(FencedError):
        await bench.copy()
    # It ends as any volume does.
    await bench.device.close()
    await bench.migrating.close()


async def test_the_end_comes_between_two_chunks(bench: Bench) -> None:
    for chunk in range(CHUNKS):
        await bench.device.write(chunk * CHUNK_BYTES, b"x")
    await bench.begin()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.copy, CHUNKS, 2**20)  # which would take two seconds
        session = bench.migrating._session
        assert session is not None
        while session.volume.cursor == 0:
            await trio.lowlevel.checkpoint()
        await bench.device.close()
        await bench.migrating.close()
    assert 0 < session.durable < CHUNKS
    with pytest.raises(MountError):
        await bench.device.write(0, b"x")


async def test_a_target_that_was_exchanged_or_removed_never_becomes_the_volume(
    bench: Bench,
) -> None:
    await bench.device.write(0, b"before")
    await bench.begin()
    await bench.copy()
    target, copy = bench.directory / "data.next", bench.directory / "copy"
    kept = target.rename(bench.directory / "kept")
    copy.write_bytes(kept.read_bytes())

    async def is_refused() -> None:
        with pytest.raises(IntegrityError, match="removed or exchanged") as refused:
            await bench.migrating.turn(ORDER.migration, "prepare")
        assert "--abort" in str(refused.value.hint)
        state = bench.migrating.state()
        assert state is not None
        assert state.phase == "verify", "not on both sides for good"
        with pytest.raises(IntegrityError, match="removed or exchanged"):
            await bench.begin()

    await is_refused()
    copy.rename(target)
    await bench.device.write(0, b"behind")
    await is_refused()
    kept.rename(target)
    state = await bench.migrating.turn(ORDER.migration, "prepare")
    assert state is not None
    assert state.phase == "prepared", "the control"
    await bench.migrating.turn(ORDER.migration, "withdraw")


async def test_it_goes_on_with_a_new_process_or_begins_anew(bench: Bench) -> None:
    await bench.device.write(0, b"before")
    await bench.begin()
    await bench.copy(2)
    state = bench.migrating.state()
    assert state is not None
    bench.migrating.close_files()
    for cursor, problem in [(state.durable, False), (0, True)]:
        if problem:
            (bench.directory / "data.next").unlink()
        again = Migrating(bench.assignment, bench.served, bench.device, bench.changes)
        key = DataKey(bytearray(NEW_KEY))
        again.go_on(MigrationAssignment(order=ORDER, cursor=cursor), key)
        found = again.state()
        if problem:
            assert found is None
            assert is_wiped(key)
            assert not (bench.directory / "intents").exists()
        else:
            assert found is not None
            assert (found.cursor, found.durable) == (state.durable, state.durable)
            again._session.volume.target.close()  # type: ignore[union-attr]
            again._session.close_files()  # type: ignore[union-attr]


async def test_a_target_whose_sync_fails_is_given_up_and_opened_again(bench: Bench) -> None:
    await bench.device.write(0, b"before")
    await bench.begin()
    session = bench.migrating._session
    assert session is not None
    # As a DataFile is after a failed sync: every later one fails.
    session.target_data._failed = True
    with pytest.raises(ReadOnlyError, match="sync"):
        await bench.copy()
    with pytest.raises(TargetLostError):
        await bench.copy()
    state = bench.migrating.state()
    assert state is not None
    assert state.problem is not None
    await bench.device.write(5, b"goes on")
    await bench.device.flush()
    await bench.begin()
    state = bench.migrating.state()
    assert state is not None
    assert (state.problem, state.cursor) == (None, 0)
    await bench.copy()
    buffer = bytearray(12)
    session.volume.target.read_into(0, buffer)
    assert buffer == b"beforegoes on"[:5] + b"goes on"
