"""Encryption of a volume that stays in use, and of an encrypted one under another data key.

Id, mount and loop device stay; the data moves to a new file beside the old one, under a new data
key, while the process that serves the volume goes on (`migration_driver`). A volume that nobody
serves is served for that time, at a place of its own where nobody looks.

    volumes/ID/data         the source, the volume until the decision
    volumes/ID/data.next    the target
    RUNTIME/ID.driver       locked by who drives it
    RUNTIME/ID.work         where a volume is mounted for this alone
"""

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from volcrypt.errors import (
    FormatError,
    IntegrityError,
    InvalidArgumentError,
    TryAgainError,
    VolcryptError,
    VolumeInUseError,
    WorkNotFoundError,
)
from volcrypt.file_lock import locked_within
from volcrypt.formats.migration import Migration, MigrationStep
from volcrypt.formats.volume_record import VolumeRecord
from volcrypt.names import DataKeyId, SnapshotId, VolumeId
from volcrypt.operations.destruction import DISCARDED, OldData, old_data
from volcrypt.operations.encrypt_plan import EncryptionPlan, plan_migration
from volcrypt.operations.home import Home
from volcrypt.operations.keys import (
    KeyChoice,
    check_source_key,
    choose_key,
    is_under_customer_key,
    resolve_key,
    unwrap_key,
    volume_context,
)
from volcrypt.operations.migration_driver import MigrationDriver
from volcrypt.operations.migrations import (
    driver_lock,
    forget_migration,
    forget_undecided,
    is_begun,
    load_migration,
    new_migration,
    save_migration,
)
from volcrypt.operations.mounts import (
    Launch,
    check_free,
    mount_volume,
    socket_path,
    unmount_volume,
)
from volcrypt.operations.progress import Progress
from volcrypt.operations.records import find_entry, load_record
from volcrypt.operations.snapshot_deletion import purge_snapshots
from volcrypt.operations.snapshot_lookup import snapshots_of_volume
from volcrypt.operations.stages import Stages
from volcrypt.operations.watching import Watching
from volcrypt.operations.workflows import KIND as WORKFLOW
from volcrypt.operations.workflows import check_may_be_served, check_none_running
from volcrypt.operations.write_budget import forget_count
from volcrypt.volume.control import ControlClient
from volcrypt.volume.control_messages import StatusAnswer
from volcrypt.volume.control_migration import MigrationControl
from volcrypt.volume.directory import DATA_FILE
from volcrypt.volume.migration_files import remove_files
from volcrypt.volume.owner import current_owner, hold_volume

_PATIENCE_SECONDS: Final = 60.0
_ZEROED: Final = "overwritten with zeros and unlinked (its file system cannot discard)"


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
    """What was done. `was_served`: by a mount of its own, which is as it was. `times` is None where
    nothing is known of this run; `copied_bytes` are this run's, `seconds` too."""

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
    record = load_record(home, volume)
    with _driving(home, record):
        record = load_record(home, record.volume_id)
        migration = load_migration(home, record.volume_id)
        if migration is None:
            if only_resume:
                raise WorkNotFoundError(f"there is no unfinished encryption of {volume}")
            check_can_migrate(home, record, rekeys=rekeys)
        else:
            _check_same_wishes(home, migration, volume, choice)
        plan = plan_migration(
            home, record, migration=migration, key=_key_name(home, record, choice, migration)
        ).held_to(rate)
        if migration is None:
            plan.check_room()
        announce(plan)
        is_fresh = migration is None
        if migration is None:
            wished = choice or KeyChoice(kms_key=_own_key(record))
            wrapped = choose_key(home, wished, volume_context(record.volume_id))
            assert wrapped is not None, "internal error: an encryption without a key"
            # Whoever may not decrypt with the key learns it now.
            unwrap_key(home, wrapped).wipe()
            migration = new_migration(home, record, wrapped, rate_bytes=rate)
        stages = Stages(progress, {each.step: each.seconds for each in plan.steps})
        driver = MigrationDriver(home, record, migration, stages, rate=rate)
        was_served = current_owner(home.volumes.path_of(record.volume_id)) is not None
        if driver.is_decided and not was_served:
            with hold_volume(home.volumes.path_of(record.volume_id), purpose="encrypt"):
                destroyed = driver.finish(None)
        else:
            with _served(home, record, launch) as status:
                watched = watching if status.checks else None
                with _control(home, record) as control:
                    if not driver.is_decided:
                        _begin(home, driver, control, watched, is_fresh=is_fresh)
                        driver.run(control)
                    destroyed = driver.finish(control)
        method = DISCARDED if destroyed.punched else _ZEROED
        left: list[SnapshotId] = []
        deleted: list[SnapshotId] = []
        unread: list[str] = []
        if migration.source_key_id is None:
            left, deleted, unread = _plain_snapshots(
                home, record.volume_id, delete=delete_plain_snapshots
            )
        state = driver.state
        return MigrationReport(
            volume_id=record.volume_id,
            name=record.name,
            size_bytes=record.size_bytes,
            was_served=was_served,
            old_data_key_id=migration.source_key_id,
            kms_key_arn=migration.target_key.kms_key_arn,
            data_key_id=migration.target_key.data_key_id,
            copied_bytes=0 if state is None else state.copied_bytes,
            times=None
            if state is None
            else WriteTimes(
                writes=state.writes,
                p50_us=state.p50_us,
                p99_us=state.p99_us,
                worst_us=state.worst_us,
            ),
            freed_bytes=destroyed.freed_bytes,
            old_data=[
                old_data("the old data", home.volumes.path_of(record.volume_id) / DATA_FILE, method)
            ],
            seconds=time.monotonic() - started,
            step_seconds=driver.seconds,
            plain_snapshots_left=left,
            plain_snapshots_deleted=deleted,
            stores_not_read=unread,
        )


def plan_of_migration(
    home: Home, volume: str, *, choice: KeyChoice | None, rekeys: bool
) -> EncryptionPlan:
    """What `migrate_volume` would do now; makes nothing."""
    record = load_record(home, volume)
    migration = load_migration(home, record.volume_id)
    if migration is None:
        check_can_migrate(home, record, rekeys=rekeys)
    else:
        _check_same_wishes(home, migration, volume, choice)
    return plan_migration(
        home, record, migration=migration, key=_key_name(home, record, choice, migration)
    )


def pause_migration(home: Home, volume: str) -> Migration:
    """Have it pause until somebody goes on with it. Raises WorkNotFoundError when there is none,
    InvalidArgumentError when it is past the switch."""
    record, migration = _undecided(home, volume)
    _ask_to_pause(home, record)
    with _driving(home, record, patience_seconds=_PATIENCE_SECONDS):
        record, migration = _undecided(home, volume)
        assert migration is not None, "internal error: paused without a record"
        if migration.paused:
            return migration
        return save_migration(home, migration, paused=True)


def abort_migration(home: Home, volume: str) -> VolumeId:
    """Give it up: the volume is as it was, and in use as it was; whatever became of its record.
    Raises as `pause_migration`."""
    record, migration = _undecided(home, volume, is_given_up=True)
    _ask_to_pause(home, record)
    directory = home.volumes.path_of(record.volume_id)
    with _driving(home, record, patience_seconds=_PATIENCE_SECONDS):
        record, migration = _undecided(home, volume, is_given_up=True)
        if current_owner(directory) is None:
            with hold_volume(directory, purpose="encrypt"):
                forget_undecided(home, record.volume_id)
                remove_files(directory)
        else:
            with _control(home, record) as control:
                status = control.status()
                going_on = None if status.migration is None else status.migration.migration
                if going_on is not None:
                    # Whoever drove it may have been killed between prepare and the decision.
                    MigrationControl(control).withdraw(going_on)
                # The record first: what is begun after a kill here abandons what it finds.
                forget_undecided(home, record.volume_id)
                if going_on is not None:
                    MigrationControl(control).abandon(going_on)
            remove_files(directory)
            if status.mount_directory == str(_private_point(home, record)):
                _end_private(home, record)
        if migration is not None:
            with suppress(VolcryptError, OSError):
                forget_count(home, migration.target_key)
    return record.volume_id


def _undecided(
    home: Home, volume: str, *, is_given_up: bool = False
) -> tuple[VolumeRecord, Migration | None]:
    """One that is not past the switch; None for one `is_given_up` whose record is damaged."""
    record = load_record(home, volume)
    try:
        migration = load_migration(home, record.volume_id)
    except (IntegrityError, FormatError):
        if not is_given_up:
            raise
        return record, None  # a decided one needs no record
    if migration is None:
        if home.register.get(WORKFLOW, record.volume_id) is not None:
            raise InvalidArgumentError(
                f"the encryption of {volume} is none with --online",
                hint=f"Ctrl-C interrupts it, and 'volcrypt encrypt {volume}' goes on with it",
            )
        raise WorkNotFoundError(f"there is no unfinished encryption of {volume}")
    if migration.step in (MigrationStep.RENAME, MigrationStep.DESTROY):
        raise InvalidArgumentError(
            f"{volume} is encrypted; only the removal of the old data is left",
            hint=f"'volcrypt encrypt {volume} --resume' finishes it",
        )
    return record, migration


def _ask_to_pause(home: Home, record: VolumeRecord) -> None:
    """Whoever drives it stops soon; nobody may be there."""
    if current_owner(home.volumes.path_of(record.volume_id)) is not None:
        with suppress(VolcryptError), _control(home, record) as control:
            state = control.status().migration
            if state is not None:
                MigrationControl(control).pause(state.migration)


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
    if record.data_path is not None:
        raise InvalidArgumentError(
            f"the data of volume {name} is not in the home but at {record.data_path}",
            hint=f"detach it; then 'volcrypt encrypt {name}' leaves the data there"
            if not rekeys
            else "snapshot it, copy the snapshot with a key, and make a volume from the copy",
        )
    check_none_running(home, record.volume_id, name)


def _check_same_wishes(
    home: Home, migration: Migration, volume: str, choice: KeyChoice | None
) -> None:
    if migration.step in (MigrationStep.COPY, MigrationStep.VERIFY) and is_under_customer_key(
        migration.target_key
    ):
        check_source_key(
            home,
            migration.target_key,
            f"the unfinished encryption of {volume}",
            choice=choice,
        )
    arn = migration.target_key.kms_key_arn
    if choice is None or (choice.kms_key is None and choice.customer_key is None):
        return
    if (choice.kms_key is not None and resolve_key(home, choice.kms_key) != arn) or (
        choice.customer_key is not None and arn is not None
    ):
        raise InvalidArgumentError(
            f"the unfinished encryption of {volume} was begun under "
            f"{arn or 'a customer-provided key'}",
            hint=f"'volcrypt encrypt {volume} --resume' finishes it, --abort gives it up",
        )


def _own_key(record: VolumeRecord) -> str:
    wrapped = record.wrapped_key
    if wrapped is None or wrapped.kms_key_arn is None:
        raise InvalidArgumentError(
            f"volume {record.name or record.volume_id} is under a customer-provided key",
            hint="--kms-key-id says under which KMS key it is to be",
        )
    return wrapped.kms_key_arn


def _key_name(
    home: Home, record: VolumeRecord, choice: KeyChoice | None, migration: Migration | None
) -> str | None:
    """What the plan calls the key; None for a customer-provided one."""
    if migration is not None:
        return migration.target_key.kms_key_arn
    if choice is None:
        return _own_key(record)
    return None if choice.customer_key is not None else choice.kms_key or home.default_kms_key


def _begin(
    home: Home,
    driver: MigrationDriver,
    control: ControlClient,
    watching: Watching | None,
    *,
    is_fresh: bool,
) -> None:
    """What was never begun leaves nothing."""
    try:
        driver.begin(control, watching)
    except BaseException:
        if is_fresh and driver.migration.generation:
            with suppress(VolcryptError, OSError):
                forget_migration(home, driver.migration)
                with suppress(VolcryptError, OSError):  # who served it may be dead
                    MigrationControl(control).abandon(driver.migration.migration)
                remove_files(home.volumes.path_of(driver.migration.volume_id))
        raise


def _plain_snapshots(
    home: Home, volume_id: VolumeId, *, delete: bool
) -> tuple[list[SnapshotId], list[SnapshotId], list[str]]:
    """Unencrypted snapshots that are left, that were deleted, and stores that did not answer."""
    found, unread = snapshots_of_volume(home, volume_id)
    plain = [each for each in found if each.wrapped_key is None]
    ids = [each.snapshot_id for each in plain]
    if not delete or not plain:
        return ids, [], unread
    purge_snapshots(home, [], plain)
    return [], ids, unread


@contextmanager
def _driving(home: Home, record: VolumeRecord, *, patience_seconds: float = 0.0) -> Iterator[None]:
    """Nobody else drives the migration of this volume. Raises VolumeInUseError."""
    path = driver_lock(home, record.volume_id)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        if not locked_within(descriptor, fcntl.LOCK_EX, patience_seconds):
            name = record.name or record.volume_id
            raise VolumeInUseError(
                name,
                "a command that encrypts it",
                hint=f"'volcrypt encrypt {name} --pause' stops it",
            )
        yield
    finally:
        os.close(descriptor)


def _private_point(home: Home, record: VolumeRecord) -> Path:
    return home.runtime / f"{record.volume_id}.work"


@contextmanager
def _served(home: Home, record: VolumeRecord, launch: Launch) -> Iterator[StatusAnswer]:
    """A volume that is served: as it is in use, or for this block, where nobody looks."""
    name = record.name or record.volume_id
    owner = current_owner(home.volumes.path_of(record.volume_id))
    if owner is None:
        check_may_be_served(home, record.volume_id, name)
        point = _private_point(home, record)
        point.mkdir(mode=0o700, exist_ok=True)
        given = list(home.customer_keys)
        if not is_under_customer_key(record.wrapped_key):
            home.customer_keys.clear()  # they are for the target, and not to open this
        try:
            mount_volume(home, record.volume_id, point, read_only=False, launch=launch)
        finally:
            home.customer_keys[:] = given
    elif owner.purpose != "mount" or not owner.is_local:
        check_free(home, record.volume_id, name)
    with _control(home, record) as control:
        status = control.status()
    if status.read_only:
        raise TryAgainError(
            f"volume {name} is mounted read-only", hint=f"volcrypt unmount {name}, and mount it"
        )
    try:
        yield status
    finally:
        if status.mount_directory == str(_private_point(home, record)):
            _end_private(home, record)


def _end_private(home: Home, record: VolumeRecord) -> None:
    with suppress(VolcryptError, OSError):
        unmount_volume(home, record.volume_id)
        _private_point(home, record).rmdir()


def _control(home: Home, record: VolumeRecord) -> ControlClient:
    return ControlClient(
        socket_path(home, record.volume_id), volume=record.name or record.volume_id
    )


def migration_warning(home: Home, volume_id: VolumeId) -> str | None:
    """What to tell who mounts a volume whose encryption is unfinished."""
    migration = load_migration(home, volume_id)
    if migration is None:
        return None
    what = "the encryption of this volume is unfinished"
    if migration.step in (MigrationStep.RENAME, MigrationStep.DESTROY):
        what = "the old data of this volume is not removed yet"
    return f"{what}; 'volcrypt encrypt {volume_id} --resume' goes on with it"
