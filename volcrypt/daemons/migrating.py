"""Migrating: what the process that serves a volume does when somebody migrates that.

It opens the files, takes the keys, and has the `Migrator` do one thing at a time.

A target that was given up is opened again by `begin`. A migration of another name is abandoned by
that: each has a record, a volume has one at a time, and who drives another one says by that that
this one's record is gone.
"""

import logging
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from volcrypt.crypto.data_key import DataKey
from volcrypt.daemons.journal import now_under
from volcrypt.daemons.key_pipe import receive_key
from volcrypt.daemons.mount_keeper import MountKeeper
from volcrypt.daemons.served import Served
from volcrypt.daemons.watcher import Watcher
from volcrypt.errors import (
    IntegrityError,
    InvalidArgumentError,
    TryAgainError,
    VolcryptError,
    VolumeError,
)
from volcrypt.formats.write_intents import MIGRATION_BYTES, IntentsHeader
from volcrypt.geometry import CHUNK_BYTES
from volcrypt.names import DataKeyId
from volcrypt.volume.change_map import ChangeMap
from volcrypt.volume.control_messages import MigrationOrder, MigrationState, Phase, Turn
from volcrypt.volume.datafile import DataFile
from volcrypt.volume.device import Device
from volcrypt.volume.launch import Assignment, MigrationAssignment
from volcrypt.volume.medium import Medium
from volcrypt.volume.migration import MigratingVolume, Mode, first_data
from volcrypt.volume.migration_files import names_of, void_intents
from volcrypt.volume.migrator import Migrator
from volcrypt.volume.ownership import PlaneData
from volcrypt.volume.volume import Volume
from volcrypt.volume.write_counter import WriteCounter
from volcrypt.volume.write_intents import WriteIntents

if TYPE_CHECKING:
    from volcrypt.volume.control_server import Migrations

_LATE_SECONDS: Final = 0.05

_log: Final = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class _Session:
    """One migration, from `begin` to its end or the target's."""

    order: MigrationOrder
    source_key_id: DataKeyId | None
    target_data: DataFile
    target_key: DataKey
    written: WriteCounter | None
    intents_file: DataFile
    intents: WriteIntents
    volume: MigratingVolume
    migrator: Migrator
    durable: int
    verified: int = 0
    rate_bytes: int | None = None

    def wipe(self) -> None:
        self.volume.close()
        self.target_key.wipe()

    def close_files(self) -> None:
        """What is not the target any more."""
        self.intents_file.close()
        self.target_data.close()
        if self.written is not None:
            self.written.close()


class Migrating:
    """All calls come from the loop's thread."""

    def __init__(
        self,
        assignment: Assignment,
        served: Served,
        device: Device,
        changes: ChangeMap,
        *,
        watcher: Watcher | None = None,
        keeper: MountKeeper | None = None,
    ) -> None:
        self._assignment = assignment
        self._directory = Path(assignment.volume_directory)
        self._names = names_of(self._directory, Path(assignment.data_path))
        self._served = served
        self._device = device
        self._changes = changes
        self.watcher = watcher
        self.keeper = keeper
        self._session: _Session | None = None
        self._fresh_key: DataKey | None = None
        # One thing at a time: the copying of a killed driver's may still be going on.
        self._working = trio.Lock()

    def go_on(self, migration: MigrationAssignment, target_key: DataKey) -> None:
        """Before anything is served: with a migration that was begun earlier. Takes the key over.

        Where that cannot be, the volume is served without it, and what was copied is void. Raises
        OSError when not even that can be made durable.
        """
        try:
            session = self._open(migration.order, target_key, cursor=migration.cursor)
        except (VolcryptError, OSError) as error:
            target_key.wipe()
            _log.warning("the migration cannot go on, and has to begin anew: %s", error)
            void_intents(self._directory)
            return
        self._session = session
        session.migrator.begin_unserved()

    # ------------------------------------------------------------ requests

    async def begin(self, order: MigrationOrder, key_pipe: int) -> MigrationState | None:
        """Raises as `MigrationControl.begin` says; closes the pipe."""
        key = await receive_key(key_pipe)
        is_ours = True
        try:
            async with self._alone_at_work():
                if self._session is not None and self._session.order.migration != order.migration:
                    await self._abandon(self._session)
                if self._session is None:
                    is_ours = False
                    await self._begin(order, key)
                elif self._session.volume.failure is not None:
                    await self._open_again(self._session)
                else:
                    await self._check_named(self._session)
                return self.state()
        finally:
            if is_ours:
                key.wipe()

    async def copy(
        self, migration: bytes, stop: int, rate_bytes: int | None
    ) -> MigrationState | None:
        async with self._working:
            session = self._session_of(migration)
            session.rate_bytes = rate_bytes
            with _told("the new data of the volume"):
                session.durable = await session.migrator.copy_to(stop, rate_bytes=rate_bytes)
            return self.state()

    async def verify(
        self, migration: bytes, chunks: range, rate_bytes: int | None, key_pipe: int
    ) -> MigrationState | None:
        key = self._fresh_key = await receive_key(key_pipe)
        try:
            async with self._working:
                session = self._session_of(migration)
                session.rate_bytes = rate_bytes
                stop = min(chunks.stop, session.volume.chunk_count)
                with _told("the new data of the volume"):
                    # The last of it may still be on its way.
                    await session.migrator.settle()
                    await self._check_named(session)
                    medium = Medium(self._names.following, key)
                    try:
                        session.verified = await session.migrator.verify_to(
                            chunks.start, stop, medium, rate_bytes=rate_bytes
                        )
                    except IntegrityError as error:
                        error.hint = self._give_up_hint
                        raise
                    finally:
                        medium.close()
                return self.state()
        finally:
            key.wipe()
            self._fresh_key = None

    async def turn(self, migration: bytes, to: Turn) -> MigrationState | None:
        if to == "pause":
            if self._session is not None:
                self._session_of(migration).migrator.pause()
            return self.state()
        async with self._alone_at_work():
            if self._session is None:
                if to == "prepare":
                    raise TryAgainError("the volume is not being migrated")
                return None
            session = self._session_of(migration)
            with _told("the data of the volume"):
                match to:
                    case "prepare":
                        if session.volume.mode is not Mode.COMMITTING:
                            await session.migrator.prepare()
                            session.durable = session.volume.chunk_count
                        try:
                            await self._check_named(session)
                        except BaseException:
                            await session.migrator.withdraw()
                            raise
                    case "withdraw":
                        await session.migrator.withdraw()
                    case "switch":
                        return await self._switch(session)
                    case "abandon":
                        await self._abandon(session)
            return self.state()

    def state(self) -> MigrationState | None:
        """Where it is; None when none is going on."""
        return None if self._session is None else self._state_of(self._session)

    def _state_of(self, session: _Session) -> MigrationState:
        volume, times = session.volume, session.migrator.write_times
        phase: Phase = "copy"
        if session is not self._session:
            phase = "switched"
        elif volume.mode is Mode.COMMITTING:
            phase = "prepared"
        elif volume.is_copied:
            phase = "verify"
        return MigrationState(
            migration=session.order.migration,
            phase=phase,
            source_key_id=session.source_key_id,
            target_key_id=session.order.target_key_id,
            chunks=volume.chunk_count,
            cursor=volume.cursor,
            durable=session.durable,
            verified=session.verified,
            to_repeat=volume.repeats,
            copied_bytes=volume.copied_bytes,
            busy_seconds=session.migrator.busy_seconds,
            rate_bytes=session.rate_bytes,
            paused=session.migrator.is_paused,
            problem=None if volume.failure is None else _text(volume.failure),
            writes=times.count,
            p50_us=times.quantile_us(0.5),
            p99_us=times.quantile_us(0.99),
            worst_us=times.worst_us,
        )

    # ------------------------------------------------------------ the end

    def wipe(self) -> None:
        """Behind a fence: the keys, and every cipher that nobody uses."""
        if self._session is not None:
            self._session.wipe()
        if self._fresh_key is not None:
            self._fresh_key.wipe()

    async def close(self) -> None:
        """After the device was closed: no intent stays set without need."""
        session = self._session
        if session is None:
            return
        session.migrator.pause()
        async with self._working:
            if self._session is not session or session.volume.failure is not None:
                return
            try:
                await session.migrator.close()
            except (VolcryptError, OSError) as error:
                # Intents stay set, and cost a copy of their regions.
                _log.warning("the new data of the volume was not flushed: %s", error)

    def close_files(self) -> None:
        """When nothing runs any more. May be called twice."""
        if self._session is not None:
            self._session.wipe()
            self._session.close_files()

    # ------------------------------------------------------------ within

    @asynccontextmanager
    async def _alone_at_work(self) -> AsyncIterator[None]:
        """Have what is going on return soon, and then nothing go on beside."""
        if self._session is not None:
            self._session.migrator.pause()
        async with self._working:
            if self._session is not None:
                self._session.migrator.resume()
            yield

    def _session_of(self, migration: bytes) -> _Session:
        if self._session is None:
            raise TryAgainError("the volume is not being migrated")
        if self._session.order.migration != migration:
            raise InvalidArgumentError("the volume is being migrated by somebody else")
        return self._session

    async def _check_named(self, session: _Session) -> None:
        """Raises IntegrityError when what would be given the name of the data is not what was
        written to: it lacks what came since, and the source would be destroyed."""
        path = self._names.following
        with suppress(FileNotFoundError):
            named = await trio.to_thread.run_sync(os.lstat, path)
            if os.path.samestat(named, os.fstat(session.target_data.fileno())):
                return
        raise IntegrityError(
            f"{path} is not the new data of the volume: it was removed or exchanged",
            hint=self._give_up_hint,
        )

    @property
    def _give_up_hint(self) -> str:
        volume = self._assignment.volume_id
        return f"'volcrypt encrypt {volume} --abort' gives it up; the volume is whole"

    async def _begin(self, order: MigrationOrder, key: DataKey) -> None:
        """Takes the key over."""
        try:
            if self._device.read_only:
                raise TryAgainError("the volume is mounted read-only")
            if not self._device.is_whole:
                raise TryAgainError("the volume is still being filled from its snapshot")
            if self.watcher is not None and order.watch is None:
                raise InvalidArgumentError("nothing is said of how the new key is watched")
            with _told("the files of the migration"):
                session = await trio.to_thread.run_sync(lambda: self._open(order, key, cursor=0))
            try:
                await session.migrator.begin()
            except BaseException:
                session.volume.target.close()
                session.close_files()
                raise
        except BaseException:
            key.wipe()
            raise
        self._session = session

    def _open(self, order: MigrationOrder, key: DataKey, *, cursor: int) -> _Session:
        if len(order.migration) != MIGRATION_BYTES or not order.region_bytes > 0:
            raise InvalidArgumentError("that names no migration")
        if order.region_bytes % CHUNK_BYTES:
            raise InvalidArgumentError(f"regions of {order.region_bytes} bytes")
        header = IntentsHeader(
            volume_id=self._assignment.volume_id,
            size_bytes=self._device.size_bytes,
            region_bytes=order.region_bytes,
            migration=order.migration,
        )
        with ExitStack() as undo:
            target_data = self._open_target()
            undo.callback(target_data.close)
            intents_file = DataFile.open(self._names.intents, header.file_bytes)
            undo.callback(intents_file.close)
            intents = WriteIntents.open(intents_file, header)
            written = None
            if order.count_path is not None:
                written = WriteCounter(Path(order.count_path))
                undo.callback(written.close)
            volume = self._pair(target_data, key, written, intents, cursor=cursor)
            undo.pop_all()
        return _Session(
            order=order,
            source_key_id=self._served.data_key_id,
            target_data=target_data,
            target_key=key,
            written=written,
            intents_file=intents_file,
            intents=intents,
            volume=volume,
            migrator=Migrator(self._device, volume),
            durable=cursor,
        )

    def _open_target(self) -> DataFile:
        return DataFile.open(
            self._names.following,
            self._device.size_bytes,
            keeps_room=self._assignment.preallocated,
        )

    def _pair(
        self,
        target_data: DataFile,
        key: DataKey,
        written: WriteCounter | None,
        intents: WriteIntents,
        *,
        cursor: int,
    ) -> MigratingVolume:
        target = Volume(
            target_data,
            size_bytes=self._device.size_bytes,
            data_key=key,
            changes=None,
            written=written,
            drops_zeros=self._assignment.discards.zeros,
        )
        return MigratingVolume(
            self._served.volume,
            target,
            intents,
            cursor=cursor,
            next_data=first_data(self._served.data, target_data),
            has_room_to_give=not self._assignment.preallocated,
            begin_write_back=target_data.begin_write_back,
        )

    async def _open_again(self, session: _Session) -> None:
        """The target, which was given up: from the durable cursor on, and where intents are set."""
        async with self._device.alone():
            # Nobody is in the middle of a write to it.
            session.volume.target.close()
            session.target_data.close()
        with _told("the new data of the volume"):
            target_data = await trio.to_thread.run_sync(self._open_target)
        volume = self._pair(
            target_data,
            session.target_key,
            session.written,
            session.intents,
            # What was copied may have been given back with its room.
            cursor=0 if session.intents.is_void else session.durable,
        )
        migrator = Migrator(self._device, volume)
        migrator.busy_seconds = session.migrator.busy_seconds
        volume.copied_bytes = session.volume.copied_bytes
        try:
            await migrator.begin()
        except BaseException:
            volume.target.close()
            target_data.close()
            raise
        session.target_data, session.volume, session.migrator = target_data, volume, migrator
        session.durable, session.verified = volume.cursor, 0

    async def _switch(self, session: _Session) -> MigrationState:
        data_path = Path(self._assignment.data_path)
        if session.volume.mode is not Mode.COMMITTING:
            raise TryAgainError("the switch was not prepared")
        named = await trio.to_thread.run_sync(os.stat, data_path)
        if not os.path.samestat(named, os.fstat(session.target_data.fileno())):
            raise IntegrityError(f"{data_path} is not what the volume was migrated to")
        session.target_data.path = data_path
        volume = Volume(
            session.target_data,
            size_bytes=self._device.size_bytes,
            data_key=session.target_key,
            changes=self._changes,
            written=session.written,
            drops_zeros=self._assignment.discards.zeros,
        )
        try:
            await session.migrator.switch(
                volume,
                data=PlaneData(session.target_data.fileno(), session.target_key, session.written),
                follow=lambda: self._follow(data_path),
            )
        except BaseException:
            volume.close()
            raise
        before = replace(self._served)
        self._served.data, self._served.volume = session.target_data, volume
        self._served.data_key, self._served.written = session.target_key, session.written
        self._served.data_key_id = session.order.target_key_id
        now_under(session.order.kms_key_arn)
        self._session = None
        session.intents_file.close()
        before.close()
        if self.keeper is not None:
            await trio.to_thread.run_sync(self.keeper.kept_anew)
        if self.watcher is not None and session.order.watch is not None:
            self.watcher.replace(session.order.watch)
        # Who was held off is served now, and counts too.
        await trio.sleep(_LATE_SECONDS)
        state = self._state_of(session)
        self._device.write_times = None
        return state

    def _follow(self, data_path: Path) -> None:
        self._changes.follow(data_path)
        if self.keeper is not None:
            self.keeper.follow(data_path)

    async def _abandon(self, session: _Session) -> None:
        if session.volume.mode is Mode.COMMITTING:
            raise TryAgainError("the volume is about to go over to its new data")
        await session.migrator.abandon()
        self._session = None
        self._device.write_times = None
        session.target_key.wipe()
        session.close_files()


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Who asked hears what storage said."""
    try:
        yield
    except OSError as error:
        raise VolumeError(f"{what}: {error.strerror}") from error


def _text(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error)


if TYPE_CHECKING:

    def _conformance(migrating: Migrating) -> Migrations:
        return migrating
