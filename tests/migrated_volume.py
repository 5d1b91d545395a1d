"""A volume that is migrated while the real process serves it, without any KMS.

`MigratedVolume` is the driver, too: `record` is what that made durable, and `mount` gives it to the
process as `operations.mounts` does.
"""

import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from tests.served_volume import ServedVolume
from volcrypt.crypto.data_key import DataKey
from volcrypt.crypto.xts import XtsKernel
from volcrypt.formats.write_intents import IntentsHeader
from volcrypt.geometry import CHUNK_BYTES, chunk_count
from volcrypt.names import DataKeyId
from volcrypt.volume.control import ControlClient
from volcrypt.volume.control_messages import MigrationOrder, MigrationState
from volcrypt.volume.control_migration import MigrationControl
from volcrypt.volume.launch import Assignment, MigrationAssignment, spawn_daemon
from volcrypt.volume.migration_files import destroy_old, finish_rename, make_files, remove_files
from volcrypt.volume.owner import hold_volume

SOURCE_KEY_ID = DataKeyId("dk-00000000000000000000000000000001")
TARGET_KEY_ID = DataKeyId("dk-00000000000000000000000000000002")


@dataclass(frozen=True, kw_only=True)
class Record:
    """What the driver made durable. `is_decided`: the target is the volume."""

    migration: bytes
    key: bytes
    cursor: int = 0
    is_decided: bool = False


@dataclass(kw_only=True)
class MigratedVolume(ServedVolume):
    encrypted: bool = False
    region_bytes: int = CHUNK_BYTES
    mount_at: Path | None = None
    """Where a file system below `directory` comes and goes: somewhere else."""
    record: Record | None = None
    is_target: bool = False
    """Whether the record of the volume names the target's key."""

    @property
    def mount_directory(self) -> Path:
        return self.mount_at or super().mount_directory

    @property
    def chunks(self) -> int:
        return chunk_count(self.size_bytes)

    @property
    def header(self) -> IntentsHeader:
        assert self.record is not None
        return IntentsHeader(
            volume_id=self.volume_id,
            size_bytes=self.size_bytes,
            region_bytes=self.region_bytes,
            migration=self.record.migration,
        )

    @property
    def order(self) -> MigrationOrder:
        assert self.record is not None
        return MigrationOrder(
            migration=self.record.migration,
            region_bytes=self.region_bytes,
            target_key_id=TARGET_KEY_ID,
            count_path=str(self.directory / "written"),
        )

    def target_key(self) -> DataKey:
        assert self.record is not None
        return DataKey(bytearray(self.record.key))

    def assignment(self, *, read_only: bool = False) -> Assignment:
        migration = None
        if self.record is not None and not read_only:
            migration = MigrationAssignment(order=self.order, cursor=self.record.cursor)
        return msgspec.structs.replace(
            super().assignment(read_only=read_only),
            data_key_id=(TARGET_KEY_ID if self.is_target else SOURCE_KEY_ID)
            if self.encrypted
            else None,
            migration=migration,
        )

    def mount(self, *, read_only: bool = False) -> None:
        """As the next mount after anything finds it."""
        if self.record is not None and self.record.is_decided:
            finish_rename(self.directory)
            self.go_over()
        assignment = self.assignment(read_only=read_only)
        with hold_volume(self.directory, purpose="mount") as owner:
            self.pid = spawn_daemon(
                assignment,
                self.data_key(),
                bytearray(self.seal_key),
                owner,
                None,
                None if assignment.migration is None else self.target_key(),
            )
            owner.let_go()

    def go_over(self) -> None:
        """What the volume's record says from the decision on."""
        assert self.record is not None
        self.encrypted, self.key, self.is_target = True, self.record.key, True
        self.record = None

    # ------------------------------------------------------------ the driver

    @contextmanager
    def migration(self) -> Iterator["Driver"]:
        with self.control() as control:
            yield Driver(self, control)

    def stored(self) -> bytes:
        return self.data_path.read_bytes()

    def decrypted(self) -> bytes:
        """What is stored under the volume's key, as a stranger reads it."""
        data = bytearray(self.stored())
        XtsKernel(self.key).decrypt_sparse_units(0, data, data)
        return bytes(data)


class Driver:
    """One connection's worth of it. Raises what the process says."""

    def __init__(self, volume: MigratedVolume, control: ControlClient) -> None:
        self.volume = volume
        self.control = control
        self.calls = MigrationControl(control)

    @property
    def name(self) -> bytes:
        assert self.volume.record is not None
        return self.volume.record.migration

    def begin(self) -> MigrationState:
        """Anew, or what is there; as the wire says."""
        volume = self.volume
        state = self.control.status().migration
        if volume.record is None:
            volume.record = Record(migration=secrets.token_bytes(16), key=secrets.token_bytes(64))
        if state is None or state.migration != volume.record.migration:
            volume.record = replace(volume.record, cursor=0)
            make_files(volume.directory, volume.header)
        with volume.target_key() as key:
            return self.calls.begin(volume.order, key)

    def copy(self, stop: int | None = None, *, rate_bytes: int | None = None) -> MigrationState:
        volume = self.volume
        assert volume.record is not None
        state = self.calls.copy(
            self.name, volume.chunks if stop is None else stop, rate_bytes=rate_bytes
        )
        volume.record = replace(volume.record, cursor=state.durable)
        return state

    def verify(self, first: int = 0, stop: int | None = None) -> MigrationState:
        with self.volume.target_key() as key:
            return self.calls.verify(
                self.name, first, self.volume.chunks if stop is None else stop, key
            )

    def decide(self) -> None:
        """The register's transaction."""
        assert self.volume.record is not None
        self.volume.record = replace(self.volume.record, is_decided=True)

    def switch(self) -> MigrationState | None:
        finish_rename(self.volume.directory)
        state = self.calls.switch(self.name)
        self.volume.go_over()
        return state

    def destroy(self) -> None:
        destroy_old(self.volume.directory)

    def finish(self) -> MigrationState | None:
        """All that is left of it."""
        self.copy()
        self.verify()
        self.calls.prepare(self.name)
        self.decide()
        state = self.switch()
        self.destroy()
        return state

    def abandon(self) -> None:
        name = self.name
        self.volume.record = None
        assert self.calls.abandon(name) is None
        remove_files(self.volume.directory)


@contextmanager
def migrated_volume(
    directory: Path, *, size_bytes: int = 8 * 2**20, **options: object
) -> Iterator[MigratedVolume]:
    """One that is not mounted yet, as `served_volume`."""
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="volcrypt-test-") as runtime:
        volume = MigratedVolume(
            directory=directory,
            runtime=Path(runtime),
            size_bytes=size_bytes,
            **options,  # type: ignore[arg-type]
        )
        try:
            yield volume
        finally:
            volume.clean_up()
