"""Orders to a migration from a command that does not drive it: to pause, and to be given up.
Whoever drives it stops first (`driver_lock`).
"""

from contextlib import suppress

from volcrypt.errors import (
    FormatError,
    IntegrityError,
    InvalidArgumentError,
    VolcryptError,
    WorkNotFoundError,
)
from volcrypt.formats.migration import Migration, MigrationStep
from volcrypt.formats.volume_record import VolumeRecord
from volcrypt.names import VolumeId
from volcrypt.operations.driver_lock import stopped
from volcrypt.operations.home import Home
from volcrypt.operations.migrations import (
    forget_undecided,
    load_migrated_record,
    load_migration,
    save_migration,
)
from volcrypt.operations.private_mounts import control_of, end_private, is_private
from volcrypt.operations.records import nominal_data_path
from volcrypt.operations.workflows import KIND as WORKFLOW
from volcrypt.operations.write_budget import forget_count
from volcrypt.volume.control_migration import MigrationControl
from volcrypt.volume.migration_files import remove_files
from volcrypt.volume.owner import current_owner, hold_volume


def pause_migration(home: Home, volume: str) -> Migration:
    """Have it pause until somebody goes on with it. Raises WorkNotFoundError when there is none,
    InvalidArgumentError when it is past the switch."""
    record, migration = _undecided(home, volume)
    with stopped(home, record, lambda: _ask_to_pause(home, record)):
        record, migration = _undecided(home, volume)
        assert migration is not None, "internal error: paused without a record"
        if migration.paused:
            return migration
        return save_migration(home, migration, paused=True)


def abort_migration(home: Home, volume: str) -> VolumeId:
    """Give it up: the volume is as it was, and in use as it was; whatever became of its record.
    Raises as `pause_migration`."""
    record, migration = _undecided(home, volume, is_given_up=True)
    directory, data = home.volumes.path_of(record.volume_id), nominal_data_path(home, record)
    with stopped(home, record, lambda: _ask_to_pause(home, record), gives_up=True):
        record, migration = _undecided(home, volume, is_given_up=True)
        if current_owner(directory) is None:
            with hold_volume(directory, purpose="encrypt"):
                # Before the record: what lies beside data elsewhere is then nobody's.
                remove_files(directory, data=data)
                forget_undecided(home, record.volume_id)
        else:
            with control_of(home, record) as control:
                status = control.status()
                going_on = None if status.migration is None else status.migration.migration
                if going_on is not None:
                    # Whoever drove it may have been killed between prepare and the decision.
                    MigrationControl(control).withdraw(going_on)
                # The record first: what is begun after a kill here abandons what it finds.
                forget_undecided(home, record.volume_id)
                if going_on is not None:
                    MigrationControl(control).abandon(going_on)
            remove_files(directory, data=data)
            if is_private(home, status):
                end_private(home, record)
        if migration is not None:
            with suppress(VolcryptError, OSError):
                forget_count(home, migration.target_key)
    return record.volume_id


def _undecided(
    home: Home, volume: str, *, is_given_up: bool = False
) -> tuple[VolumeRecord, Migration | None]:
    """One that is not past the switch; None for one `is_given_up` whose record is damaged."""
    record = load_migrated_record(home, volume)
    try:
        migration = load_migration(home, record.volume_id)
    except (IntegrityError, FormatError):
        if not is_given_up:
            raise
        return record, None  # a decided one needs no record
    if migration is None:
        if home.register.get(WORKFLOW, record.volume_id) is not None:
            raise InvalidArgumentError(
                f"the encryption of {volume} was begun without --online",
                hint=f"Ctrl-C stops it, and 'volcrypt encrypt {volume}' goes on with it",
            )
        raise WorkNotFoundError.encryption_of(volume)
    if migration.step in (MigrationStep.RENAME, MigrationStep.DESTROY):
        raise InvalidArgumentError(
            f"{volume} is encrypted under the new key; only the removal of the old data is left",
            hint=f"'volcrypt encrypt {volume} --resume' finishes it",
        )
    return record, migration


def _ask_to_pause(home: Home, record: VolumeRecord) -> None:
    """Whoever drives it stops soon; nobody may be there."""
    if current_owner(home.volumes.path_of(record.volume_id)) is not None:
        with suppress(VolcryptError), control_of(home, record) as control:
            state = control.status().migration
            if state is not None:
                MigrationControl(control).pause(state.migration)
