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
    load_migration,
    migrated_record,
    save_migration,
)
from volcrypt.operations.mount_grants import move_grant
from volcrypt.operations.record_copies import record_copies
from volcrypt.operations.records import load_record, nominal_data_path
from volcrypt.operations.stages import Stages
from volcrypt.operations.watching import Watching
from volcrypt.volume.control import ControlClient
from volcrypt.volume.control_messages import MigrationState
from volcrypt.volume.control_migration import MigrationControl
from volcrypt.volume.datafile import DataFile
from volcrypt.volume.migration_files import (
    Destroyed,
    destroy_old,
    finish_rename,
    make_files,
    names_of,
)
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


def what_it_is(migration: Migration) -> str:
    """For messages."""
    return "encryption" if migration.source_key_id is None else "rekeying"


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
        self._data: Final = nominal_data_path(home, record)
        self._name: Final = record.name or record.volume_id
        self._chunks = chunk_count(migration.size_bytes)
        self.migration = migration
        self.state: MigrationState | None = None
        """Where it was last, as the process that serves says."""
        self._step: tuple[str, float] | None = None
        self._seconds_before = dict(migration.seconds)
        self._copied_before = migration.copied_bytes
        self.runs: Final = migration.runs + 1 if migration.generation else 1

    @property
    def is_decided(self) -> bool:
        """Whether the target is the volume."""
        return self.migration.step in (MigrationStep.RENAME, MigrationStep.DESTROY)

    def begin(self, control: ControlClient, watching: Watching | None) -> None:
        """Have the process serve both sides: go on with what it does, or from the beginning."""
        found = control.status().migration
        migration = self.migration
        if found is not None and found.migration == migration.migration:
            # What it says is in what was saved, as far as that goes.
            self._copied_before = max(0, migration.copied_bytes - found.copied_bytes)
        if found is None or found.migration != migration.migration:
            # As growing does: the size stays what it is from the record on.
            with self._home.exclusive():
                self._begin_anew()
        else:
            self.save(paused=False, rate_bytes=self._rate)
        order = order_of(self._home, self._record, migration, watching)
        with unwrap_key(self._home, migration.target_key) as key:
            self.state = MigrationControl(control).begin(order, key)

    def _begin_anew(self) -> None:
        current = load_record(self._home, self._record.volume_id)
        if current.size_bytes != self.migration.size_bytes:
            raise TryAgainError(f"volume {self._name} was just grown")
        self.save(
            step=MigrationStep.COPY, cursor=0, verified=0, rate_bytes=self._rate, paused=False
        )
        make_files(
            self._directory,
            self.migration.intents,
            data=self._data,
            preallocate=current.preallocated,
        )

    def run(self, control: ControlClient) -> None:
        """From `begin` to the decision. Raises PausedError, and as `MigrationControl`."""
        calls = MigrationControl(control)
        if self.migration.step is MigrationStep.COPY:
            self._timed(MigrationStep.COPY.value, lambda: self._copy(calls))
        self._timed(MigrationStep.VERIFY.value, lambda: self._verify(calls))
        self._timed("switch", lambda: self._decide(calls))

    def _copy(self, calls: MigrationControl) -> None:
        with DataFile.open(self._data, self.migration.size_bytes, read_only=True) as source:
            self._copy_data(calls, source)
        self.save(step=MigrationStep.VERIFY, cursor=self._chunks)

    def _copy_data(self, calls: MigrationControl, source: DataFile) -> None:
        """What is told counts data alone: holes take no time, and a rate with them says nothing."""
        assert self.state is not None, "internal error: copied before it was begun"
        done = self.state.durable
        self._stages.begin("copying", source.candidate_bytes(done))
        copied_bytes = 0
        while done < self._chunks or self.state.phase == "copy":
            stop = min(self._chunks, done + self._piece())
            self._use(
                calls.copy(self.migration.migration, max(stop, 1), rate_bytes=self._rate), calls
            )
            copied_bytes += source.candidate_bytes(done, self.state.durable)
            done = self.state.durable
            if done != self.migration.cursor and done < self._chunks:
                self.save(cursor=done)
            self._stages.advance(copied_bytes)

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
                self.save(verified=done)
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
            # What was removed by hand must not become the volume.
            names_of(self._directory, self._data).following.stat()
            record = load_record(self._home, self._record.volume_id)
            self.migration = save_migration(
                self._home,
                self._with_figures(),
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
        """From the decision to the destruction of the old data; `control` is None where nobody
        serves the volume. The caller forgets the migration. Raises KmsError where other homes have
        to know the new key."""
        finish_rename(
            self._directory,
            data=self._data,
            keeps_old=self.migration.step is MigrationStep.RENAME,
        )
        if control is not None:
            self._switch(control)
        if self.migration.step is MigrationStep.RENAME:
            self.save(step=MigrationStep.DESTROY)
        record = load_record(self._home, self._record.volume_id)
        if control is not None:
            move_grant(self._home, record)
        # Until the old data is gone other homes see that something is going on.
        with record_copies(self._home, record) as copies:
            copies.refresh(record)
        destroyed: list[Destroyed] = []
        self._timed(MigrationStep.DESTROY.value, lambda: destroyed.append(self._destroy()))
        return destroyed[0]

    def _destroy(self) -> Destroyed:
        self._stages.begin("removing the old data", self.migration.size_bytes)
        return destroy_old(self._directory, data=self._data, progress=self._stages.advance)

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
                self.save(verified=done, paused=True)
            elif self.migration.step is MigrationStep.COPY:
                self.save(cursor=min(state.durable, self._chunks), paused=True)
            else:
                self.save(paused=True)
            raise PausedError(
                f"the {what_it_is(self.migration)} of volume {self._name} is paused",
                hint=f"'volcrypt encrypt {self._name} --resume' goes on with it",
            )

    def _piece(self) -> int:
        piece = max(PIECE_BYTES // CHUNK_BYTES, self._chunks // PIECES)
        if self._rate is not None:
            piece = min(piece, max(1, self._rate * PIECE_SECONDS // CHUNK_BYTES))
        return piece

    @property
    def seconds(self) -> dict[str, float]:
        """What the steps took so far, of all runs."""
        if self._step is None:
            return self._seconds_before
        step, began = self._step
        took = self._seconds_before.get(step, 0.0) + time.monotonic() - began
        return {**self._seconds_before, step: round(took, 3)}

    @property
    def copied_bytes(self) -> int:
        """By all runs; what was copied again counts again."""
        return self._copied_before + (0 if self.state is None else self.state.copied_bytes)

    @property
    def worst_us(self) -> int:
        """The longest that a write took, of all runs."""
        return max(self.migration.worst_us, 0 if self.state is None else self.state.worst_us)

    def save(self, **changes: object) -> None:
        """Write down where it is, with what is known for the report."""
        changed = msgspec.structs.replace(self._with_figures(), **changes)
        self.migration = save_migration(self._home, changed)

    def _with_figures(self) -> Migration:
        return msgspec.structs.replace(
            self.migration,
            runs=self.runs,
            seconds=self.seconds,
            copied_bytes=self.copied_bytes,
            worst_us=self.worst_us,
        )

    def _timed(self, step: str, work: Callable[[], None]) -> None:
        self._stages.enter(step)
        self._step = (step, time.monotonic())
        try:
            work()
        finally:
            self._seconds_before, self._step = self.seconds, None
