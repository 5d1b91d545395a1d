"""Encryption of a volume that stays in use, and of an encrypted one under another data key.

Id, mount and loop device stay; the data moves to a new file beside the old one, in the home or
where it is (`volume.migration_files`), under a new data key, while the process that serves the
volume goes on (`migration_driver`). A volume that nobody serves is served for that time
(`private_mounts`). One command drives at a time (`driver_lock`), and others can have it pause or
give up (`migration_orders`).

Not on a block device: there is no second one, and within it no way back to the source.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from volcrypt.errors import (
    InvalidArgumentError,
    TryAgainError,
    VolcryptError,
    WorkNotFoundError,
)
from volcrypt.formats.migration import Migration, MigrationStep
from volcrypt.formats.volume_record import VolumeRecord
from volcrypt.names import DataKeyId, SnapshotId, VolumeId
from volcrypt.operations.destruction import DISCARDED, OldData, old_data
from volcrypt.operations.driver_lock import DriverLock, driving
from volcrypt.operations.encrypt_plan import EncryptionPlan, plan_migration
from volcrypt.operations.home import Home
from volcrypt.operations.keys import KeyChoice
from volcrypt.operations.migration_driver import MigrationDriver, PausedError, what_it_is
from volcrypt.operations.migration_keys import (
    check_same_wishes,
    key_name,
    new_key,
    try_new_key,
)
from volcrypt.operations.migrations import (
    forget_migration,
    is_begun,
    load_migrated_record,
    load_migration,
    new_migration,
    save_migration,
)
from volcrypt.operations.mounts import Launch
from volcrypt.operations.private_mounts import control_of, served
from volcrypt.operations.progress import Progress
from volcrypt.operations.records import find_entry, load_record, nominal_data_path
from volcrypt.operations.snapshot_deletion import purge_snapshots
from volcrypt.operations.snapshot_lookup import snapshots_of_volume
from volcrypt.operations.stages import Stages
from volcrypt.operations.watching import Watching
from volcrypt.operations.workflows import check_none_running
from volcrypt.volume.control import ControlClient
from volcrypt.volume.control_migration import MigrationControl
from volcrypt.volume.migration_files import Destroyed, remove_files
from volcrypt.volume.owner import current_owner, hold_volume

_BY_COPY: Final = (
    "'volcrypt snapshot create', 'snapshot copy --kms-key-id K', and 'volume create --snapshot-id' "
    "make a new volume of it under another data key"
)
_ZEROED: Final = "overwritten with zeros and unlinked (its file system cannot discard)"


class GivenUpError(VolcryptError):
    """Somebody gave up what this command was doing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteTimes:
    """What writes took while the volume went over, of those that Python answered, which are all
    that went to both sides; in microseconds."""

    writes: int
    p50_us: int
    p99_us: int
    worst_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MigrationReport:
    """What was done, by all `runs` of the command together: `seconds` is what they took, without
    the time between them, `copied_bytes` what they copied, twice what was copied again.
    `was_served`: by a mount of its own, which is as it was. `times` is None where no write is known
    of; the worst is of all runs, the others of who served the volume last."""

    volume_id: VolumeId
    name: str | None
    size_bytes: int
    was_served: bool
    old_data_key_id: DataKeyId | None
    kms_key_arn: str | None
    data_key_id: DataKeyId
    copied_bytes: int
    times: WriteTimes | None
    freed_bytes: int
    old_data: list[OldData]
    runs: int
    started_at: int
    seconds: float
    step_seconds: dict[str, float]
    plain_snapshots_left: list[SnapshotId]
    plain_snapshots_deleted: list[SnapshotId]
    stores_not_read: list[str]


def has_migration(home: Home, volume: str) -> bool:
    """Whether a volume given by id or name has an unfinished migration."""
    return is_begun(home, VolumeId(find_entry(home, volume).id))


def migrate_volume(
    home: Home,
    volume: str,
    *,
    choice: KeyChoice | None,
    rekeys: bool,
    launch: Launch,
    watching: Watching,
    progress: Progress,
    rate: int | None = None,
    delete_plain_snapshots: bool = False,
    only_resume: bool = False,
    announce: Callable[[EncryptionPlan], None] = lambda _: None,
) -> MigrationReport:
    """Encrypt a volume, or with `rekeys` give an encrypted one another data key, under `choice`, or
    go on with that; `choice` None: the KMS key that it is under. `watching`: how a mount that is
    watched goes on to be; `launch` serves one that nobody has mounted.

    Raises PausedError, TryAgainError, VolumeInUseError, InvalidArgumentError, WorkNotFoundError
    when with `only_resume` nothing was begun, KmsError, NoSpaceError, IntegrityError when the copy
    is not what it should be, MountError when the process that serves ended.
    """
    started = time.monotonic()
    record = load_migrated_record(home, volume)
    with driving(home, record) as lock:
        record = load_record(home, record.volume_id)
        migration = load_migration(home, record.volume_id)
        if migration is None:
            if only_resume:
                raise WorkNotFoundError.encryption_of(volume)
            check_can_migrate(home, record, rekeys=rekeys)
            # Whoever may not use the key learns it now, and not below a plan.
            wrapped = new_key(home, record, choice)
        else:
            wrapped = migration.target_key
            check_same_wishes(home, migration, volume, choice)
            if delete_plain_snapshots and not migration.delete_plain_snapshots:
                migration = save_migration(home, migration, delete_plain_snapshots=True)
        plan = plan_migration(
            home,
            record,
            migration=migration,
            key=key_name(home, record, choice, migration),
            delete_plain_snapshots=delete_plain_snapshots,
        ).held_to(rate)
        if migration is None:
            plan.check_room()
        announce(plan)
        if migration is None:
            migration = new_migration(
                home,
                record,
                wrapped,
                rate_bytes=rate,
                delete_plain_snapshots=delete_plain_snapshots,
            )
        before = sum(migration.seconds.values())
        stages = Stages(progress, {each.step: each.seconds for each in plan.steps})
        driver = MigrationDriver(home, record, migration, stages, rate=rate)
        was_served = current_owner(home.volumes.path_of(record.volume_id)) is not None
        destroyed = _drive(home, driver, record, lock, launch=launch, watching=watching)
        left, deleted, unread = _plain_snapshots(home, driver.migration)
        forget_migration(home, driver.migration)
        return MigrationReport(
            volume_id=record.volume_id,
            name=record.name,
            size_bytes=record.size_bytes,
            was_served=was_served,
            old_data_key_id=migration.source_key_id,
            kms_key_arn=migration.target_key.kms_key_arn,
            data_key_id=migration.target_key.data_key_id,
            copied_bytes=driver.copied_bytes,
            times=_times(driver),
            freed_bytes=destroyed.freed_bytes,
            old_data=[
                old_data(
                    "the old data",
                    nominal_data_path(home, record),
                    DISCARDED if destroyed.punched else _ZEROED,
                )
            ],
            runs=driver.runs,
            started_at=migration.started_at,
            seconds=before + time.monotonic() - started,
            step_seconds=driver.seconds,
            plain_snapshots_left=left,
            plain_snapshots_deleted=deleted,
            stores_not_read=unread,
        )


def _drive(
    home: Home,
    driver: MigrationDriver,
    record: VolumeRecord,
    lock: DriverLock,
    *,
    launch: Launch,
    watching: Watching,
) -> Destroyed:
    """From where it is to the destruction of the old data. Raises GivenUpError, and as
    `migrate_volume`."""
    directory = home.volumes.path_of(record.volume_id)
    if driver.is_decided and current_owner(directory) is None:
        with hold_volume(directory, purpose="encrypt"):
            return driver.finish(None)
    is_fresh = not driver.migration.generation
    with served(home, record, launch) as status, control_of(home, record) as control:
        if not driver.is_decided:
            try:
                _begin(home, driver, control, watching if status.checks else None, is_fresh)
                driver.run(control)
            except PausedError as error:
                if not lock.is_given_up:
                    raise
                raise GivenUpError(
                    f"the {what_it_is(driver.migration)} of volume "
                    f"{record.name or record.volume_id} is given up with --abort: the volume is as "
                    "it was"
                ) from error
        return driver.finish(control)


def _times(driver: MigrationDriver) -> WriteTimes | None:
    state = driver.state
    if state is None:
        return None
    return WriteTimes(
        writes=state.writes,
        p50_us=state.p50_us,
        p99_us=state.p99_us,
        worst_us=driver.worst_us,
    )


def plan_of_migration(
    home: Home,
    volume: str,
    *,
    choice: KeyChoice | None,
    rekeys: bool,
    delete_plain_snapshots: bool = False,
) -> EncryptionPlan:
    """What `migrate_volume` would do now; makes nothing. Raises as that does, the KMS's refusals
    too."""
    record = load_migrated_record(home, volume)
    migration = load_migration(home, record.volume_id)
    if migration is None:
        check_can_migrate(home, record, rekeys=rekeys)
        try_new_key(home, record, choice)
    else:
        check_same_wishes(home, migration, volume, choice)
    return plan_migration(
        home,
        record,
        migration=migration,
        key=key_name(home, record, choice, migration),
        delete_plain_snapshots=delete_plain_snapshots,
    )


def check_can_migrate(home: Home, record: VolumeRecord, *, rekeys: bool) -> None:
    """Raises InvalidArgumentError, VolumeInUseError for what cannot go over to another file."""
    name = record.name or record.volume_id
    if rekeys and not record.is_encrypted:
        raise InvalidArgumentError(
            f"volume {name} is not encrypted", hint=f"'volcrypt encrypt {name}' does that"
        )
    if not rekeys and record.is_encrypted:
        raise InvalidArgumentError(
            f"volume {name} is encrypted already",
            hint=f"'volcrypt rekey {name}' gives it another key",
        )
    if record.device is not None:
        raise InvalidArgumentError(
            f"the data of volume {name} is on the device {record.data_path}, which has no room for "
            "a second one",
            hint=f"unmount or detach it; then 'volcrypt encrypt {name}' leaves it on the device"
            if not rekeys
            else _BY_COPY,
        )
    if record.lease is not None:
        raise InvalidArgumentError(
            f"other hosts can take volume {name} over, which do not know its new data key",
            hint=_BY_COPY,
        )
    check_none_running(home, record.volume_id, name)


def _begin(
    home: Home,
    driver: MigrationDriver,
    control: ControlClient,
    watching: Watching | None,
    is_fresh: bool,
) -> None:
    """What was never begun leaves nothing."""
    record = load_record(home, driver.migration.volume_id)
    directory, data = home.volumes.path_of(record.volume_id), nominal_data_path(home, record)
    try:
        driver.begin(control, watching)
    except BaseException:
        if is_fresh and driver.migration.generation:
            with suppress(VolcryptError, OSError):
                forget_migration(home, driver.migration)
                with suppress(VolcryptError, OSError):  # who served it may be dead
                    MigrationControl(control).abandon(driver.migration.migration)
                remove_files(directory, data=data)
        raise


def _plain_snapshots(
    home: Home, migration: Migration
) -> tuple[list[SnapshotId], list[SnapshotId], list[str]]:
    """Unencrypted snapshots that are left, that were deleted, and stores that did not answer.
    Raises TryAgainError when one of these may have some that are to go."""
    if migration.source_key_id is not None:
        return [], [], []
    found, unread = snapshots_of_volume(home, migration.volume_id)
    if unread and migration.delete_plain_snapshots:
        raise TryAgainError(
            f"unencrypted snapshots cannot be looked for in {', '.join(unread)}",
            hint="the volume is encrypted; the same command deletes them when they answer",
        )
    plain = [each for each in found if each.wrapped_key is None]
    ids = [each.snapshot_id for each in plain]
    if not migration.delete_plain_snapshots or not plain:
        return ids, [], unread
    purge_snapshots(home, [], plain)
    return [], ids, unread


def migration_warning(home: Home, volume_id: VolumeId) -> str | None:
    """What to tell who mounts a volume whose encryption is unfinished."""
    migration = load_migration(home, volume_id)
    if migration is None:
        return None
    way = f"'volcrypt encrypt {volume_id} --resume' goes on with it"
    if migration.step in (MigrationStep.RENAME, MigrationStep.DESTROY):
        return f"the old data of this volume is not removed yet; {way}"
    return f"the {migration.called} of this volume is unfinished; {way}, '--abort' gives it up"
