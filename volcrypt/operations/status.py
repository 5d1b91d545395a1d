"""What is there, what is in use, what deserves attention."""

import os
from dataclasses import dataclass

from volcrypt.errors import (
    AccessDeniedError,
    FormatError,
    IntegrityError,
    VolcryptError,
)
from volcrypt.formats.manifest import Manifest
from volcrypt.formats.migration import Migration
from volcrypt.formats.volume_record import VolumeRecord
from volcrypt.kms.clock import host_time
from volcrypt.kms.messages.keys import ListKeysRequest
from volcrypt.names import SnapshotId, VolumeId
from volcrypt.operations.attachments import device_name, private_mount_point
from volcrypt.operations.driver_lock import is_driven
from volcrypt.operations.freeze_notes import freeze_warnings
from volcrypt.operations.home import Home
from volcrypt.operations.import_cursors import unfinished_imports
from volcrypt.operations.jobs import Job, load_jobs
from volcrypt.operations.key_states import TroubledKey, troubled_keys
from volcrypt.operations.migrations import KIND as MIGRATIONS
from volcrypt.operations.migrations import load_migration
from volcrypt.operations.mounts import left_mount_of
from volcrypt.operations.records import load_records, nominal_data_path
from volcrypt.operations.snapshot_lookup import is_completed, list_snapshots
from volcrypt.operations.space import space_warnings
from volcrypt.operations.stores import LOCAL_STORE, check_log_is_whole, find_local_store
from volcrypt.operations.uses import InUse, owner_of, uses_of
from volcrypt.operations.volume_settings import SettingsView, view_settings
from volcrypt.operations.workflows import KIND as WORKFLOWS
from volcrypt.operations.workflows import load_workflow
from volcrypt.operations.write_budget import budget_warnings
from volcrypt.volume.mountpoint import mounts


@dataclass(frozen=True, slots=True, kw_only=True)
class UnfinishedEncryption:
    """An encryption or rekeying that was begun, and `step`, what is next. `is_running`: a command
    is at work on it; if none is, somebody may have had it pause."""

    volume_id: str
    name: str | None
    step: str
    rekeys: bool
    is_running: bool
    is_paused: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """A home at a glance. `imports` are (volume to be, its
    source and next step; None where the cursor cannot be read); `keys` is None for who may
    not list them, and where the KMS cannot tell. `troubled_keys` are of volumes, and of those that
    the caller may describe. `pending` are the snapshots that are being made, `failed` those that
    never will be. `settings` are None where they cannot be read."""

    home: str
    account: str
    region: str
    settings: SettingsView | None
    keys: int | None
    troubled_keys: list[TroubledKey]
    volumes: int
    unencrypted_volumes: int
    damaged: list[str]
    snapshots: int
    unencrypted_snapshots: int
    in_use: list[InUse]
    workflows: list["UnfinishedEncryption"]
    imports: list[tuple[str, str | None, str | None]]
    pending: list[Job]
    failed: list[Job]
    free_bytes: int
    warnings: list[str]

    @property
    def volumes_in_use(self) -> int:
        """Without snapshots that are mounted."""
        return sum(each.snapshot_id is None for each in self.in_use)


def read_status(home: Home) -> Status:
    """Never fails because one object is damaged, or because the KMS refuses to answer: that is what
    it reports."""
    found = load_records(home)
    records = [record for record in found.values() if isinstance(record, VolumeRecord)]
    damaged = [
        error.about(volume_id)
        for volume_id, error in found.items()
        if isinstance(error, VolcryptError)
    ]
    jobs = load_jobs(home)
    manifests: list[Manifest] = []
    damaged_snapshots: dict[SnapshotId, VolcryptError] = {}
    try:
        store = find_local_store(home)
        if store is not None:
            local = list_snapshots(home, LOCAL_STORE)
            manifests, damaged_snapshots = local.manifests, local.damaged
            # The other stores are only asked about what seems to have failed: one may be away.
            jobs = local.jobs + [
                job
                for job in jobs
                if job.record is not None
                and job.record.store_name != LOCAL_STORE
                and (job.is_pending or not is_completed(home, job))
            ]
            check_log_is_whole(home, store)
    except VolcryptError as error:
        damaged.append(error.about())
    damaged += [error.about(snapshot_id) for snapshot_id, error in damaged_snapshots.items()]
    keys: int | None = None
    problems: list[str] = []
    try:
        keys = count_keys(home)
    except (FormatError, IntegrityError) as error:
        damaged.append(str(error))
    except AccessDeniedError:
        problems.append("you may not list the keys")
    except VolcryptError as error:
        problems.append(f"the keys cannot be counted: {error}")
    troubled: list[TroubledKey] = []
    try:
        troubled = troubled_keys(home, records, now=host_time())
    except (FormatError, IntegrityError) as error:
        damaged += [str(error)] if str(error) not in damaged else []
    except VolcryptError as error:
        problems += [f"the keys of volumes cannot be looked at: {error}"] if not problems else []
    settings: SettingsView | None = None
    try:
        settings = view_settings(home)
    except VolcryptError as error:
        damaged += [str(error)] if str(error) not in damaged else []
    unfinished, unreadable = _unfinished(home, {each.volume_id: each.name for each in records})
    damaged += unreadable
    in_use = uses_of(home, records)
    space = os.statvfs(home.path)
    warnings = damaged + problems + freeze_warnings(home.runtime)
    warnings += space_warnings(home, records)
    warnings += budget_warnings(home, records)
    warnings += [
        f"the data of {device_name(record)} is not there: {path}"
        for record in records
        for path in [nominal_data_path(home, record)]
        if not os.path.lexists(path)
    ]
    mounted = mounts()
    for record in records:
        point = private_mount_point(home, record.volume_id)
        if point.exists() and owner_of(home, record.volume_id) is None:
            name = device_name(record)
            warnings.append(
                f"{name} was attached and its process is gone; run 'volcrypt detach {name}'"
            )
            continue
        if owner_of(home, record.volume_id) is not None:
            continue
        mount = left_mount_of(home, record.volume_id, mounted)
        if mount is not None:
            place = mount.mount_point
            warnings.append(
                f"{device_name(record)} was mounted at {place} and its process is gone; run "
                f"'volcrypt unmount {place}', or mount it again"
            )
    return Status(
        home=str(home.path),
        account=home.account,
        region=home.region,
        settings=settings,
        keys=keys,
        troubled_keys=troubled,
        volumes=len(found),
        unencrypted_volumes=sum(not record.is_encrypted for record in records),
        damaged=damaged,
        snapshots=len(manifests) + len(damaged_snapshots),
        unencrypted_snapshots=sum(not manifest.is_encrypted for manifest in manifests),
        in_use=in_use,
        workflows=unfinished,
        imports=[
            (volume_id, None, None)
            if isinstance(cursor, VolcryptError)
            else (volume_id, cursor.source.path, cursor.step.value)
            for volume_id, cursor in unfinished_imports(home).items()
        ],
        pending=[job for job in jobs if job.is_pending],
        failed=[job for job in jobs if not job.is_pending],
        free_bytes=space.f_bavail * space.f_frsize,
        warnings=warnings,
    )


def _unfinished(
    home: Home, names: dict[VolumeId, str | None]
) -> tuple[list[UnfinishedEncryption], list[str]]:
    """Encryptions that were begun, and what is wrong with others."""
    found: list[UnfinishedEncryption] = []
    damaged: list[str] = []
    for kind, load in ((WORKFLOWS, load_workflow), (MIGRATIONS, load_migration)):
        for entry in home.register.entries(kind):
            volume_id = VolumeId(entry.id)
            try:
                each = load(home, volume_id)
            except (FormatError, IntegrityError) as error:
                damaged.append(error.about())
                continue
            if each is None:
                continue
            owner = owner_of(home, volume_id)
            migration = each if isinstance(each, Migration) else None
            found.append(
                UnfinishedEncryption(
                    volume_id=volume_id,
                    name=names.get(volume_id),
                    step=each.step.value,
                    rekeys=migration is not None and migration.source_key_id is not None,
                    is_running=is_driven(home, volume_id)
                    if migration is not None
                    else owner is not None and owner.purpose == "encrypt",
                    is_paused=migration is not None and migration.paused,
                )
            )
    return found, damaged


def count_keys(home: Home) -> int:
    """How many KMS keys the account has."""
    marker: str | None = None
    count = 0
    while True:
        response = home.kms.perform(home.caller, ListKeysRequest(limit=1000, marker=marker))
        count += len(response.keys)
        if not response.truncated:
            return count
        marker = response.next_marker
