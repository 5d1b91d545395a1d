"""Migrations of volumes of a home: their records, what a mount makes of them, and snapshots."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.planes import data_plane
from volcrypt.errors import (
    IntegrityError,
    InvalidArgumentError,
    MountError,
    RecordMissingError,
    RollbackError,
    TryAgainError,
    VolcryptError,
    VolumeInUseError,
)
from volcrypt.formats.migration import Migration, MigrationStep
from volcrypt.formats.volume_record import VolumeRecord
from volcrypt.geometry import CHUNK_BYTES
from volcrypt.kms.messages.keys import CreateKeyRequest, DisableKeyRequest
from volcrypt.operations.captures import Target, capture_volumes
from volcrypt.operations.home import Home
from volcrypt.operations.keys import KeyChoice, generate_key, unwrap_key, volume_context
from volcrypt.operations.leases import held_volume
from volcrypt.operations.migration_mounts import order_of
from volcrypt.operations.migration_orders import abort_migration
from volcrypt.operations.migrations import (
    forget_migration,
    load_migration,
    load_migrations,
    migrated_record,
    new_migration,
    save_migration,
    settle_rename,
)
from volcrypt.operations.mounts import (
    Mounted,
    mount_volume,
    served_volumes,
    socket_path,
    unmount_volume,
)
from volcrypt.operations.records import load_record
from volcrypt.operations.status import read_status
from volcrypt.operations.volume_deletion import delete_volume
from volcrypt.operations.volumes import create_volume
from volcrypt.operations.workflows import stale_cursors
from volcrypt.volume.control import ControlClient
from volcrypt.volume.control_migration import MigrationControl
from volcrypt.volume.launch import spawn_daemon
from volcrypt.volume.migration_files import destroy_old, finish_rename, make_files

CHUNKS = 4
SIZE = CHUNKS * CHUNK_BYTES
TEXT = b"what the volume holds " * 5000


class Migrated:
    """The volume `data` and its migration; this is the driver."""

    def __init__(self, home: Home, directory: Path, choice: KeyChoice) -> None:
        self.home = home
        self.point = directory / "mnt"
        self.point.mkdir()
        self.source = create_volume(home, size_bytes=SIZE, name="data", choice=choice)
        self.directory = home.volumes.path_of(self.source.volume_id)
        self.mount()
        self.write(CHUNK_BYTES, TEXT)

    @property
    def record(self) -> VolumeRecord:
        return load_record(self.home, "data")

    @property
    def migration(self) -> Migration:
        migration = load_migration(self.home, self.source.volume_id)
        assert migration is not None
        return migration

    def mount(self) -> Mounted:
        return mount_volume(
            self.home,
            "data",
            self.point,
            read_only=False,
            launch=spawn_daemon,
            data_plane=data_plane(),
        )

    def unmount(self) -> None:
        unmount_volume(self.home, "data")

    def write(self, offset: int, data: bytes) -> None:
        with (self.point / "volume").open("r+b", buffering=0) as file:
            file.seek(offset)
            file.write(data)

    def read(self, offset: int, size: int) -> bytes:
        with (self.point / "volume").open("rb") as file:
            file.seek(offset)
            return file.read(size)

    def save(self, kms_key: str | None = None) -> Migration:
        context = volume_context(self.source.volume_id)
        key = generate_key(self.home, kms_key, context)
        migration = save_migration(self.home, new_migration(self.home, self.record, key))
        make_files(self.directory, migration.intents)
        return migration

    @contextmanager
    def control(self) -> Iterator[MigrationControl]:
        with ControlClient(socket_path(self.home, self.source.volume_id), volume="data") as control:
            yield MigrationControl(control)

    def begin_and_copy(self, stop: int = CHUNKS) -> Migration:
        migration = self.migration
        with self.control() as control, unwrap_key(self.home, migration.target_key) as key:
            control.begin(order_of(self.home, self.record, migration, None), key)
            state = control.copy(migration.migration, stop)
            return save_migration(self.home, migration, cursor=state.durable)

    def verify_and_prepare(self) -> Migration:
        migration = save_migration(self.home, self.migration, step=MigrationStep.VERIFY)
        with self.control() as control, unwrap_key(self.home, migration.target_key) as key:
            state = control.verify(migration.migration, 0, CHUNKS, key)
            migration = save_migration(self.home, migration, verified=state.verified)
            control.prepare(migration.migration)
        return migration

    def decide(self) -> Migration:
        return save_migration(
            self.home,
            self.migration,
            step=MigrationStep.RENAME,
            put=[migrated_record(self.record, self.migration)],
        )

    def end(self) -> None:
        destroy_old(self.directory)
        forget_migration(self.home, self.migration)


@pytest.fixture
def made(home: Home, tmp_path: Path) -> Iterator[Migrated]:
    yield Migrated(home, tmp_path, KeyChoice(encrypted=False))
    take_down(home)


@pytest.fixture
def encrypted(home: Home, tmp_path: Path) -> Iterator[Migrated]:
    choice = KeyChoice(kms_key=create_key(home))
    yield Migrated(home, tmp_path, choice)
    take_down(home)


def take_down(home: Home) -> None:
    for status in served_volumes(home):
        with suppress(MountError):  # it is ending by itself
            unmount_volume(home, status.volume_id)


def create_key(home: Home) -> str:
    return home.kms.perform(home.volume_service, CreateKeyRequest()).key_metadata.arn


def disable_key(home: Home, arn: str | None) -> None:
    assert arn is not None
    home.kms.perform(home.caller, DisableKeyRequest(key_id=arn))


def test_its_record_is_the_current_one_or_refused(made: Migrated) -> None:
    home, first = made.home, made.save()
    assert made.migration == first
    assert (first.generation, first.cursor, first.step) == (1, 0, MigrationStep.COPY)
    path = home.work_path / f"{first.volume_id}.migration"
    before = path.read_bytes()
    second = save_migration(home, first, cursor=2)
    assert load_migrations(home) == [second]
    with pytest.raises(TryAgainError):
        save_migration(home, first, cursor=1)
    assert stale_cursors(home) == []
    current = path.read_bytes()
    made.unmount()
    path.write_bytes(before)
    with pytest.raises(RollbackError):
        made.mount()
    path.write_bytes(current)
    with pytest.raises(VolumeInUseError, match="unfinished"):
        delete_volume(home, "data")
    forget_migration(home, second)
    assert load_migration(home, first.volume_id) is None
    assert not path.exists()
    made.mount()
    assert made.read(CHUNK_BYTES, len(TEXT)) == TEXT


def test_a_mount_goes_on_where_it_was(made: Migrated) -> None:
    made.save()
    made.begin_and_copy(3)
    made.unmount()
    assert made.mount().migration_problem is None
    made.write(5, b"on both sides")
    with made.control() as control:
        assert control.pause(made.migration.migration) is not None
    (status,) = served_volumes(made.home)
    assert status.migration is not None
    assert (status.migration.durable, status.encrypted) == (made.migration.cursor, False)
    made.begin_and_copy()
    made.verify_and_prepare()
    with pytest.raises(TryAgainError, match="about to go over"):
        capture(made.home, made.record)
    before = made.record
    made.decide()
    finish_rename(made.directory)
    with made.control() as control:
        state = control.switch(made.migration.migration)
        assert state is not None
        assert state.phase == "switched"
    with pytest.raises(TryAgainError, match="was just encrypted"):
        capture(made.home, before)
    capture(made.home, made.record)
    made.end()
    assert made.read(0, 18) == b"\0\0\0\0\0on both sides"
    made.unmount()
    made.mount()
    assert made.read(CHUNK_BYTES, len(TEXT)) == TEXT
    assert TEXT[:4096] not in (made.directory / "data").read_bytes()


def capture(home: Home, record: VolumeRecord) -> None:
    with capture_volumes(home, [Target(record=record)]):
        pass


@pytest.mark.parametrize("how", ["mount", "command"])
def test_who_opens_it_next_finishes_what_was_decided(made: Migrated, how: str) -> None:
    made.save()
    made.begin_and_copy()
    made.verify_and_prepare()
    stale = made.record
    made.decide()
    made.write(7, b"after the decision")
    made.unmount()
    assert (made.directory / "data.next").exists()
    if how == "command":
        with (
            pytest.raises(TryAgainError, match="was just encrypted"),
            held_volume(made.home, stale, purpose="export"),
        ):
            pass
        assert not (made.directory / "data.next").exists()
        assert not settle_rename(made.home, stale.volume_id)
    made.mount()
    (status,) = served_volumes(made.home)
    assert (status.encrypted, status.migration) == (True, None)
    assert made.read(7, 18) == b"after the decision"
    assert made.read(CHUNK_BYTES, len(TEXT)) == TEXT
    made.end()
    assert TEXT[:4096] not in (made.directory / "data").read_bytes()


def test_without_the_new_key_the_volume_is_served_and_it_begins_anew(made: Migrated) -> None:
    key = create_key(made.home)
    made.save(key)
    made.begin_and_copy()
    made.unmount()
    disable_key(made.home, key)
    mounted = made.mount()
    assert mounted.migration_problem is not None
    assert "isabled" in mounted.migration_problem
    made.write(0, b"the source alone has this")
    assert served_volumes(made.home)[0].migration is None
    assert not (made.directory / "intents").exists()
    # It does not go on by itself either, when the key is back.
    forget_migration(made.home, made.migration)
    made.save()
    made.begin_and_copy()
    made.verify_and_prepare()
    made.decide()
    made.unmount()
    made.mount()
    assert made.read(0, 25) == b"the source alone has this"


def test_files_that_are_not_there_cost_no_mount(made: Migrated) -> None:
    made.save()
    made.begin_and_copy()
    made.unmount()
    (made.directory / "data.next").unlink()
    made.mount()
    assert served_volumes(made.home)[0].migration is None
    assert made.read(CHUNK_BYTES, len(TEXT)) == TEXT


def test_a_volume_whose_key_is_gone_is_saved_by_who_has_it_open(encrypted: Migrated) -> None:
    home = encrypted.home
    assert encrypted.record.wrapped_key is not None
    old = encrypted.record.wrapped_key
    disable_key(home, old.kms_key_arn)
    encrypted.save()
    encrypted.begin_and_copy()
    encrypted.verify_and_prepare()
    encrypted.decide()
    finish_rename(encrypted.directory)
    with encrypted.control() as control:
        control.switch(encrypted.migration.migration)
    encrypted.end()
    encrypted.unmount()
    with pytest.raises(VolcryptError):
        unwrap_key(home, old)
    encrypted.mount()
    assert encrypted.read(CHUNK_BYTES, len(TEXT)) == TEXT
    assert encrypted.record.wrapped_key is not None
    assert encrypted.record.wrapped_key.data_key_id != old.data_key_id


def test_a_record_that_does_not_hold_keeps_the_volume_shut(made: Migrated) -> None:
    """It may say that the data has another key by now."""
    migration = made.save()
    made.unmount()
    path = made.home.work_path / f"{migration.volume_id}.migration"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    for each in (path, path.with_name(f"{path.name}.next")):
        each.write_bytes(data)
    with pytest.raises((IntegrityError, RollbackError)):
        made.mount()
    with pytest.raises((IntegrityError, RollbackError)):
        capture(made.home, made.record)
    assert any("is not the current version" in text for text in read_status(made.home).warnings)
    abort_migration(made.home, "data")
    assert not (made.directory / "data.next").exists()
    assert read_status(made.home).workflows == []
    made.mount()
    assert made.read(CHUNK_BYTES, len(TEXT)) == TEXT


def test_what_was_given_up_by_somebody_who_was_killed_goes_with_the_next_mount(
    made: Migrated,
) -> None:
    made.save()
    made.begin_and_copy()
    forget_migration(made.home, made.migration)
    assert (made.directory / "data.next").exists()
    made.unmount()
    made.mount()
    assert not (made.directory / "data.next").exists()
    assert not (made.directory / "intents").exists()
    assert made.read(CHUNK_BYTES, len(TEXT)) == TEXT
    made.unmount()


@pytest.mark.parametrize("is_lost", [False, True])
def test_names_that_a_disk_lost_are_made_again_or_keep_the_volume_shut(
    made: Migrated, is_lost: bool
) -> None:
    """The record is further than the names, though those were synced before it."""
    made.save()
    made.begin_and_copy()
    made.verify_and_prepare()
    made.decide()
    made.unmount()
    finish_rename(made.directory)
    save_migration(made.home, made.migration, step=MigrationStep.DESTROY)
    (made.directory / "data").rename(made.directory / "data.next")
    (made.directory / "data.old").rename(made.directory / "data")
    if is_lost:
        os.link(made.directory / "data", made.directory / "data.old")
        (made.directory / "data.next").unlink()
        with pytest.raises(RecordMissingError, match=r"data\.next"):
            made.mount()
        assert TEXT in (made.directory / "data").read_bytes()
        return
    made.mount()
    assert made.read(CHUNK_BYTES, len(TEXT)) == TEXT
    made.unmount()


@pytest.mark.parametrize("is_renamed", [False, True])
def test_what_is_decided_goes_on_without_its_record(encrypted: Migrated, is_renamed: bool) -> None:
    encrypted.save()
    encrypted.begin_and_copy()
    encrypted.verify_and_prepare()
    decided = encrypted.decide()
    if is_renamed:
        finish_rename(encrypted.directory)
    encrypted.unmount()
    for path in encrypted.home.work_path.glob(f"{decided.volume_id}.migration*"):
        path.unlink()
    found = encrypted.migration
    assert found == replace(decided, started_at=found.started_at)
    with pytest.raises(InvalidArgumentError, match="only the removal of the old data is left"):
        abort_migration(encrypted.home, "data")
    encrypted.mount()
    assert encrypted.read(CHUNK_BYTES, len(TEXT)) == TEXT
    encrypted.end()
    assert load_migrations(encrypted.home) == []
    encrypted.save()
    assert encrypted.migration.step is MigrationStep.COPY, "nothing is left of the decision"


def test_it_is_given_up_when_its_driver_died_before_the_decision(made: Migrated) -> None:
    made.save()
    made.begin_and_copy()
    made.verify_and_prepare()
    abort_migration(made.home, "data")
    assert load_migrations(made.home) == []
    made.write(0, TEXT)
    capture(made.home, made.record)
    made.save()
    made.begin_and_copy()
    made.verify_and_prepare()
