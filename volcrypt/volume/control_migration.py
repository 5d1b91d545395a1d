"""MigrationControl: the commands' side of a migration of a volume that is served.

Who drives one calls this, and keeps the record; `volcrypt.volume.migrator` has the order.
"""

import os

from volcrypt.crypto.data_key import DataKey
from volcrypt.errors import VolumeError
from volcrypt.volume.control import ControlClient
from volcrypt.volume.control_messages import (
    CopyMigrationRequest,
    MigrationOrder,
    MigrationState,
    Turn,
    TurnMigrationRequest,
    VerifyMigrationRequest,
)


class MigrationControl:
    """Calls over one connection, one at a time. Each raises as `ControlClient`, and what the
    process that serves met."""

    def __init__(self, control: ControlClient) -> None:
        self._control = control

    def begin(self, order: MigrationOrder, target_key: DataKey) -> MigrationState:
        """Serve both sides from now on, or go on with that: of a migration that the process has
        not, its record says that nothing was copied, durably.

        Raises TryAgainError while that is not possible, InvalidArgumentError when it never is,
        RecordMissingError and IntegrityError for files that do not fit, VolumeInUseError,
        FencedError.
        """
        return self._going_on(self._with_key(order, target_key))

    def copy(self, migration: bytes, stop: int, *, rate_bytes: int | None = None) -> MigrationState:
        """Copy again what may differ, and then up to chunk `stop`; less when it is paused.

        What `durable` says may be written down. Raises NoSpaceError, TargetLostError and
        VolumeError when the target is given up, which the volume does not mind; ReadOnlyError when
        the volume lost writes, FencedError.
        """
        request = CopyMigrationRequest(migration=migration, stop=stop, rate_bytes=rate_bytes)
        return self._going_on(self._control.ask_migration(request))

    def verify(
        self,
        migration: bytes,
        first: int,
        stop: int,
        fresh_key: DataKey,
        *,
        rate_bytes: int | None = None,
    ) -> MigrationState:
        """Compare chunks `first` to `stop` with what the medium has under `fresh_key`, which was
        unwrapped for this. Up to `verified` that is done, less than `stop` when it is paused.

        Raises IntegrityError for what differs, TryAgainError when something has to be copied
        first, and as `copy`.
        """
        request = VerifyMigrationRequest(
            migration=migration, first=first, stop=stop, rate_bytes=rate_bytes
        )
        return self._going_on(self._with_key(request, fresh_key))

    def prepare(self, migration: bytes) -> MigrationState:
        """Have both sides take whatever is acknowledged. Raises TryAgainError while a snapshot is
        taken, or something is left to be copied; and as `copy`."""
        return self._going_on(self._turn(migration, "prepare"))

    def withdraw(self, migration: bytes) -> MigrationState | None:
        """It is known that the target was not made the volume."""
        return self._turn(migration, "withdraw")

    def switch(self, migration: bytes) -> MigrationState | None:
        """It is decided that the target is the volume, and it has the name of the data: serve it
        alone. What it came to; None when that was done before. Raises IntegrityError when it has
        not that name, FencedError, and VolumeError; may be called again then."""
        return self._turn(migration, "switch")

    def abandon(self, migration: bytes) -> MigrationState | None:
        """The record of the migration is gone: serve the source alone. None when that is done.
        Raises TryAgainError when it is prepared, VolumeError; may be called again then."""
        return self._turn(migration, "abandon")

    def pause(self, migration: bytes) -> MigrationState | None:
        """Have work that others asked for return soon, and nothing more be done until `begin`."""
        return self._turn(migration, "pause")

    def _turn(self, migration: bytes, to: Turn) -> MigrationState | None:
        return self._control.ask_migration(TurnMigrationRequest(migration=migration, to=to))

    def _with_key(
        self, request: MigrationOrder | VerifyMigrationRequest, key: DataKey
    ) -> MigrationState | None:
        # Nothing of it stays anywhere but in the two processes: a pipe is kernel memory.
        reader, writer = os.pipe()
        try:
            try:
                os.write(writer, key.view())
            finally:
                os.close(writer)
            return self._control.ask_migration(request, [reader])
        finally:
            os.close(reader)

    @staticmethod
    def _going_on(state: MigrationState | None) -> MigrationState:
        if state is None:
            raise VolumeError("the process that serves the volume knows nothing of a migration")
        return state
