"""The driver of a migration: has the process that serves a volume copy, compare and switch, and
writes down what is durable; `volcrypt.volume.migrator` has the order, `operations.online` who may.

    step        killed here, the next call goes on with
    COPY        the cursor, where the process still serves both sides, or was mounted with them;
                else the beginning
    VERIFY      the chunk that was compared last
    RENAME      the names of the files: it is decided
    DESTROY     the old data

Nothing is lost when the process that serves dies: up to RENAME the source is the volume, then the
target.
"""

import time
from collections.abc import Callable
from typing import Final

import msgspec

from volcrypt.errors import MountError, TryAgainError
from volcrypt.formats.migration import Migration, MigrationStep
from volcrypt.formats.volume_record import VolumeRecord
from volcrypt.geometry import CHUNK_BYTES, chunk_count
from volcrypt.operations.home import Home
from volcrypt.operations.keys import unwrap_key
from volcrypt.operations.migration_mounts import order_of
from volcrypt.operations.migrations import (
    forget_migration,
    load_migration,
    migrated_record,
    save_migration,
)
from volcrypt.operations.mount_grants import move_grant
from volcrypt.operations.records import load_record
from volcrypt.operations.stages import Stages
from volcrypt.operations.watching import Watching
from volcrypt.volume.control import ControlClient
from volcrypt.volume.control_messages import MigrationState
from volcrypt.volume.control_migration import MigrationControl
from volcrypt.volume.migration_files import Destroyed, destroy_old, finish_rename, make_files
from volcrypt.volume.owner import current_owner

PIECES: Final = 64
"""The cursor is written at least so often: less than 2 % are done again, ..."""
PIECE_BYTES: Final = 32 * 2**20
"""... or this, if that is more."""
PIECE_SECONDS: Final = 4
"""A piece takes no longer than this where there is a rate."""
_WAIT_SECONDS: Final = 0.5


class PausedError(TryAgainError):
    """Somebody had the migration pause."""


class MigrationDriver:
    """One run. The caller is the only one who drives this volume."""

    def __init__(
        self,
        home: Home,
        record: VolumeRecord,
        migration: Migration,
        stages: Stages,
        *,
        rate: int | None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._home = home
        self._record = record
        self._stages = stages
        self._rate = rate
        self._sleep = sleep
        self._directory: Final = home.volumes.path_of(record.volume_id)
        self._name: Final = record.name or record.volume_id
        self._chunks = chunk_count(migration.size_bytes)
        self.migration = migration
        self.state: MigrationState | None = None
        """Where it was last, as the process that serves says."""
        self.seconds: dict[str, float] = {}

    @property
    def is_decided(self) -> bool:
        """Whether the target is the volume."""
        return self.migration.step in (MigrationStep.RENAME, MigrationStep.DESTROY)

    def begin(self, control: ControlClient, watching: Watching | None) -> None:
        """Have the process serve both sides: go on with what it does, or from the beginning."""
        found = control.status().migration
        migration = self.migration
        if found is None or found.migration != migration.migration:
            # As growing does: the size stays what it is from the record on.
            with self._home.exclusive():
                self._begin_anew()
        elif migration.paused or migration.rate_bytes != self._rate:
            self._save(paused=False, rate_bytes=self._rate)
        order = order_of(self._home, self._record, migration, watching)
        with unwrap_key(self._home, migration.target_key) as key:
            self.state = MigrationControl(control).begin(order, key)

    def _begin_anew(self) -> None:
        current = load_record(self._home, self._record.volume_id)
        if current.size_bytes != self.migration.size_bytes:
            raise TryAgainError(f"volume {self._name} was just grown")
        self._save(
            step=MigrationStep.COPY, cursor=0, verified=0, rate_bytes=self._rate, paused=False
        )
        make_files(self._directory, self.migration.intents, preallocate=current.preallocated)

    def run(self, control: ControlClient) -> None:
        """From `begin` to the decision. Raises PausedError, and as `MigrationControl`."""
        calls = MigrationControl(control)
        if self.migration.step is MigrationStep.COPY:
            self._timed(MigrationStep.COPY.value, lambda: self._copy(calls))
        self._timed(MigrationStep.VERIFY.value, lambda: self._verify(calls))
        self._timed("switch", lambda: self._decide(calls))

    def _copy(self, calls: MigrationControl) -> None:
        self._stages.begin("copying", self._chunks * CHUNK_BYTES)
        assert self.state is not None, "internal error: copied before it was begun"
        done = self.state.durable
        self._stages.advance(done * CHUNK_BYTES)
        while done < self._chunks or self.state.phase == "copy":
            stop = min(self._chunks, done + self._piece())
            self._use(
                calls.copy(self.migration.migration, max(stop, 1), rate_bytes=self._rate), calls
            )
            done = self.state.durable
            if done != self.migration.cursor and done < self._chunks:
                self._save(cursor=done)
            self._stages.advance(done * CHUNK_BYTES)
        self._save(step=MigrationStep.VERIFY, cursor=self._chunks)

    def _verify(self, calls: MigrationControl) -> None:
        self._stages.begin("comparing with what is in use", self._chunks * CHUNK_BYTES)
        done = self.migration.verified
        # Unwrapped afresh: nothing that wrote had it.
        with unwrap_key(self._home, self.migration.target_key) as key:
            while done < self._chunks:
                stop = min(self._chunks, done + self._piece())
                try:
                    state = calls.verify(
                        self.migration.migration, done, stop, key, rate_bytes=self._rate
                    )
                except TryAgainError:
                    self._catch_up(calls)
                    continue
                self._use(state, calls, done=max(done, state.verified))
                done = max(done, state.verified)
                self._save(verified=done)
                self._stages.advance(done * CHUNK_BYTES)

    def _decide(self, calls: MigrationControl) -> None:
        """Both sides take all that is acknowledged; then one transaction makes the target the
        volume. Where nobody can say whether it happened, both go on, until somebody can."""
        self._stages.begin("switching", None)
        while True:
            try:
                self.state = calls.prepare(self.migration.migration)
                break
            except TryAgainError:  # a snapshot is taken, or there is something left to copy
                self._sleep(_WAIT_SECONDS)
                self._catch_up(calls)
        try:
            record = load_record(self._home, self._record.volume_id)
            self.migration = save_migration(
                self._home,
                self.migration,
                put=[migrated_record(record, self.migration)],
                step=MigrationStep.RENAME,
            )
        except BaseException:
            known = load_migration(self._home, self._record.volume_id)
            if known is None or known.step is not MigrationStep.RENAME:
                calls.withdraw(self.migration.migration)
                raise
            self.migration = known

    def finish(self, control: ControlClient | None) -> Destroyed:
        """From the decision to the end; `control` is None where nobody serves the volume."""
        finish_rename(self._directory, keeps_old=self.migration.step is MigrationStep.RENAME)
        if control is not None:
            self._switch(control)
        if self.migration.step is MigrationStep.RENAME:
            self._save(step=MigrationStep.DESTROY)
        if control is not None:
            move_grant(self._home, load_record(self._home, self._record.volume_id))
        began = time.monotonic()
        self._stages.enter(MigrationStep.DESTROY.value)
        self._stages.begin("removing the old data", self.migration.size_bytes)
        destroyed = destroy_old(self._directory, progress=self._stages.advance)
        forget_migration(self._home, self.migration)
        self.seconds[MigrationStep.DESTROY.value] = time.monotonic() - began
        return destroyed

    def _switch(self, control: ControlClient) -> None:
        try:
            self.state = MigrationControl(control).switch(self.migration.migration) or self.state
        except MountError:
            # Who died serves nothing; who mounts it next opens the target.
            if current_owner(self._directory) is not None:
                raise

    def _catch_up(self, calls: MigrationControl) -> None:
        state = calls.copy(self.migration.migration, self._chunks, rate_bytes=self._rate)
        self._use(state, calls)

    def _use(
        self, state: MigrationState, calls: MigrationControl, *, done: int | None = None
    ) -> None:
        """Look at an answer. Raises PausedError."""
        self.state = state
        if state.paused:
            if done is not None:
                self._save(verified=done, paused=True)
            elif self.migration.step is MigrationStep.COPY:
                self._save(cursor=min(state.durable, self._chunks), paused=True)
            else:
                self._save(paused=True)
            raise PausedError(
                f"the encryption of volume {self._name} is paused",
                hint=f"'volcrypt encrypt {self._name} --resume' goes on with it",
            )

    def _piece(self) -> int:
        piece = max(PIECE_BYTES // CHUNK_BYTES, self._chunks // PIECES)
        if self._rate is not None:
            piece = min(piece, max(1, self._rate * PIECE_SECONDS // CHUNK_BYTES))
        return piece

    def _save(self, **changes: object) -> None:
        changed = msgspec.structs.replace(self.migration, **changes)
        self.migration = save_migration(self._home, changed)

    def _timed(self, step: str, work: Callable[[], None]) -> None:
        self._stages.enter(step)
        began = time.monotonic()
        try:
            work()
        finally:
            self.seconds[step] = round(time.monotonic() - began, 3)
