"""A volume goes over to its new data and key under the programs that use it: real mounts, both
data planes."""

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tests.file_system import disposable_file_system
from tests.key_search import found_in_process, traces
from tests.migrated_volume import TARGET_KEY_ID, MigratedVolume, migrated_volume
from tests.served_volume import OpenFile
from volcrypt.crypto.data_key import DataKey
from volcrypt.errors import (
    IntegrityError,
    InvalidArgumentError,
    NoSpaceError,
    TargetLostError,
    TryAgainError,
)
from volcrypt.geometry import CHUNK_BYTES, UNIT_BYTES
from volcrypt.volume.control_messages import MigrationState
from volcrypt.volume.control_migration import MigrationControl

SIZE = 8 * 2**20
TEXT = b"read and written in the clear, up to now. " * 300


@pytest.fixture(params=["native", "python"])
def volume(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MigratedVolume]:
    with migrated_volume(tmp_path, size_bytes=SIZE, data_plane=request.param) as made:
        yield made


def test_a_volume_goes_over_under_an_open_file(volume: MigratedVolume) -> None:
    volume.mount()
    inode = volume.data_path.stat().st_ino
    with OpenFile(volume) as file:
        model = bytearray(SIZE)

        def write(offset: int, data: bytes) -> None:
            file.write(offset, data)
            model[offset : offset + len(data)] = data
            assert file.read(0, SIZE) == model

        write(CHUNK_BYTES - 77, TEXT)
        write(5 * CHUNK_BYTES, TEXT)
        with volume.migration() as driver:
            assert driver.begin().phase == "copy"
            assert 3 <= driver.copy(3).durable < volume.chunks  # holes are passed at once
            write(2 * CHUNK_BYTES + 5, b"on both sides")
            write(9 * CHUNK_BYTES, TEXT)
            assert driver.copy().phase == "verify"
            assert driver.verify().verified == volume.chunks
            write(4 * CHUNK_BYTES, TEXT)
            driver.calls.prepare(driver.name)
            write(6 * CHUNK_BYTES, TEXT)
            driver.decide()
            state = driver.switch()
            assert state is not None
            assert (state.phase, state.writes) != ("switched", 0)
            status = driver.control.status()
            assert status.encrypted
            assert status.data_key_id == TARGET_KEY_ID
            assert status.migration is None
            assert driver.calls.switch(bytes(16)) is None
            write(7 * CHUNK_BYTES, b"under the new key alone" * 1000)
            file.sync()
            driver.destroy()
            assert file.read(0, SIZE) == model
    assert sorted(path.name for path in volume.directory.glob("data*")) == ["data"]
    assert volume.data_path.stat().st_ino != inode
    volume.unmount()
    assert volume.decrypted() == model
    assert b"in the clear" not in volume.stored()
    volume.mount()
    with OpenFile(volume) as file:
        assert file.read(0, SIZE) == model


def test_an_abandoned_one_leaves_the_volume_as_it_was(volume: MigratedVolume) -> None:
    volume.mount()
    with OpenFile(volume) as file, volume.migration() as driver:
        file.write(0, TEXT)
        driver.begin()
        key = driver.volume.target_key()
        driver.copy()
        file.write(3, b"on both sides")
        driver.calls.prepare(driver.name)
        with pytest.raises(TryAgainError, match="about to go over"):
            driver.calls.abandon(driver.name)
        with pytest.raises(IntegrityError, match="not what the volume was migrated to"):
            driver.calls.switch(driver.name)
        driver.calls.withdraw(driver.name)
        name = driver.name
        driver.abandon()
        for call in (driver.calls.withdraw, driver.calls.switch, driver.calls.abandon):
            assert call(name) is None
        for refused in (driver.calls.prepare, lambda name: driver.calls.copy(name, 1)):
            with pytest.raises(TryAgainError, match="not being migrated"):
                refused(name)
        assert file.read(0, 20) == TEXT[:3] + b"on both sides" + TEXT[16:20]
        assert found_in_process(volume.pid, traces(bytes(key.view()))) == set()
        # Another one, from the beginning, and at once after that a third: its record is gone.
        assert driver.begin().cursor == 0
        driver.copy(2)
        volume.record = None
        assert driver.begin().cursor == 0
        driver.finish()
        assert file.read(0, 20) == TEXT[:3] + b"on both sides" + TEXT[16:20]
    volume.unmount()
    assert volume.decrypted().startswith(TEXT[:3] + b"on both sides")


def test_a_key_that_was_given_up_is_nowhere(tmp_path: Path) -> None:
    """Of an encrypted volume the old one, from the switch on."""
    with migrated_volume(tmp_path, size_bytes=SIZE, encrypted=True, data_plane="native") as volume:
        volume.mount()
        old = volume.key
        with OpenFile(volume) as file, volume.migration() as driver:
            file.write(0, TEXT * 100)
            driver.begin()
            driver.copy()
            assert volume.record is not None
            new = volume.record.key
            file.write(1, TEXT)
            for key in (old, new):  # the control
                assert found_in_process(volume.pid, traces(key))
            driver.finish()
            file.write(UNIT_BYTES, TEXT)
            assert file.read(UNIT_BYTES, len(TEXT)) == TEXT
            assert found_in_process(volume.pid, traces(old)) == set()
            assert found_in_process(volume.pid, traces(new))


def test_a_target_without_room_costs_no_request(tmp_path: Path) -> None:
    with disposable_file_system(tmp_path, kind="ext4", size_bytes=64 * 2**20) as disk:
        place = disk.directory / "volume"
        place.mkdir()
        with migrated_volume(
            place, size_bytes=24 * 2**20, preallocated=True, mount_at=tmp_path / "mnt"
        ) as volume:
            volume.mount()
            with OpenFile(volume) as file, volume.migration() as driver:
                for offset in range(0, 24 * 2**20, 2**20):
                    file.write(offset, TEXT[:1] * 2**20)
                file.sync()
                volume.preallocated = False  # the target takes its room as it is copied
                driver.begin()
                assert driver.copy(4).durable == 4
                disk.fill(leave_bytes=4 * 2**20)
                with pytest.raises((NoSpaceError, TargetLostError)):
                    driver.copy()
                state = driver.control.status().migration
                assert state is not None
                assert state.problem is not None
                assert 4 < state.cursor < volume.chunks
                file.write(0, TEXT)
                file.write(20 * 2**20, TEXT)
                file.sync()
                with pytest.raises(TargetLostError, match="no space left"):
                    driver.copy()
                (disk.directory / "ballast").unlink()
                state = driver.begin()
                assert (state.problem, state.durable, state.to_repeat) == (None, 4, 1)
                driver.finish()
                assert file.read(0, len(TEXT)) == TEXT
                assert file.read(20 * 2**20, len(TEXT)) == TEXT
            volume.unmount()
            assert volume.decrypted()[: len(TEXT)] == TEXT


def test_it_goes_at_its_rate_and_stops_when_it_is_told(volume: MigratedVolume) -> None:
    volume.mount()
    with OpenFile(volume) as file, volume.migration() as driver, volume.control() as other:
        for chunk in range(volume.chunks):
            file.write(chunk * CHUNK_BYTES, TEXT)
        driver.begin()
        answers: list[MigrationState] = []
        thread = threading.Thread(target=lambda: answers.append(driver.copy(rate_bytes=2**20)))
        thread.start()
        # At this rate it would take eight seconds.
        while (state := other.status().migration) is None or state.copied_bytes == 0:
            assert thread.is_alive()
        assert state.rate_bytes == 2**20
        paused = MigrationControl(other).pause(driver.name)
        assert paused is not None
        thread.join(30)
        assert answers[0].paused
        assert 0 < answers[0].durable < volume.chunks
        again = driver.copy()
        assert (again.paused, again.durable) == (True, answers[0].durable)
        assert not driver.begin().paused
        driver.copy()
        assert driver.verify(2, 5).verified == 5
        driver.finish()


def test_what_is_no_order_is_refused(volume: MigratedVolume) -> None:
    volume.mount(read_only=True)
    with volume.migration() as driver, pytest.raises(TryAgainError, match="read-only"):
        driver.begin()
    volume.unmount()
    volume.record = None
    volume.mount()
    with volume.migration() as driver:
        driver.begin()
        reader, writer = os.pipe()
        os.write(writer, bytes(63))
        os.close(writer)
        for descriptors in ([], [reader], [reader, reader]):
            with pytest.raises(InvalidArgumentError, match="no data key came"):
                driver.control.ask_migration(volume.order, descriptors)
        os.close(reader)
        with pytest.raises(InvalidArgumentError, match="somebody else"):
            driver.calls.copy(bytes(16), 1)
        for order in (
            msgspec.structs.replace(volume.order, migration=bytes(15)),
            msgspec.structs.replace(volume.order, migration=bytes(16), region_bytes=1),
        ):
            with pytest.raises(InvalidArgumentError), volume.target_key() as key:
                driver.calls.begin(order, key)
        # The one before was abandoned by that.
        assert driver.control.status().migration is None


def test_data_that_is_not_what_it_should_be_is_found(volume: MigratedVolume) -> None:
    volume.mount()
    with OpenFile(volume) as file, volume.migration() as driver:
        file.write(0, TEXT)
        driver.begin()
        driver.copy()
        with pytest.raises(IntegrityError, match="chunk 0"), wrong_key() as key:
            driver.calls.verify(driver.name, 0, volume.chunks, key)
        with (volume.directory / "data.next").open("r+b") as target:
            target.seek(5 * UNIT_BYTES)
            target.write(b"x")
        with pytest.raises(IntegrityError, match="chunk 0"):
            driver.verify()


def wrong_key() -> DataKey:
    return DataKey(bytearray(range(64)))


def test_a_clean_end_leaves_nothing_to_repeat(volume: MigratedVolume) -> None:
    volume.mount()
    with OpenFile(volume) as file, volume.migration() as driver:
        driver.begin()
        driver.copy()
        file.write(0, TEXT)
    volume.unmount()
    volume.mount()
    with volume.control() as control:
        state = control.status().migration
    assert state is not None
    assert (state.cursor, state.to_repeat) == (volume.chunks, 0)


def test_writers_get_the_room_that_the_target_had_taken(tmp_path: Path) -> None:
    """On a full disk the migration begins anew, and no request fails."""
    with disposable_file_system(tmp_path, kind="ext4", size_bytes=96 * 2**20) as disk:
        place = disk.directory / "volume"
        place.mkdir()
        with migrated_volume(place, size_bytes=24 * 2**20, mount_at=tmp_path / "mnt") as volume:
            volume.mount()
            with OpenFile(volume) as file, volume.migration() as driver:
                for offset in range(0, 12 * 2**20, 2**20):
                    file.write(offset, TEXT[:1] * 2**20)
                driver.begin()
                driver.copy()
                disk.fill()
                for offset in range(12 * 2**20, 18 * 2**20, 2**20):
                    file.write(offset, TEXT[1:2] * 2**20)
                file.sync()
                state = driver.control.status().migration
                assert state is not None
                assert state.problem == "writers need the room that it had taken"
                (disk.directory / "ballast").unlink()
                state = driver.begin()
                assert (state.problem, state.cursor, state.durable) == (None, 0, 0)
                driver.copy()
                file.write(5, TEXT)
            # What is left of the intents is that they say nothing.
            volume.signal(signal.SIGKILL)
            volume.mount()
            with OpenFile(volume) as file, volume.migration() as driver:
                state = driver.begin()
                assert state.to_repeat == volume.chunks
                driver.finish()
                assert file.read(5, len(TEXT)) == TEXT
                assert file.read(17 * 2**20, 4) == TEXT[1:2] * 4
            volume.unmount()
            assert volume.decrypted()[17 * 2**20 : 18 * 2**20] == TEXT[1:2] * 2**20
