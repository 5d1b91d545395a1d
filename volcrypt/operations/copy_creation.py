"""Copies of snapshots as they are asked for: announced as jobs, made, continued when they were not
finished.

The command may wait for them or not. `begun` is the moment from which the copy needs nothing of its
command any more: the keys are there, and its cursor is durable. What fails before is the command's
error and leaves nothing; what fails later is a snapshot in state error, which the same copy, asked
for again, continues under the same id. A copy that has no data to move never gets there: it is
completed at once.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial

from volcrypt.errors import InvalidArgumentError, VolcryptError
from volcrypt.formats.copy_cursor import CopyCursor
from volcrypt.formats.job import JobRecord
from volcrypt.formats.manifest import Manifest, Origin
from volcrypt.formats.volume_record import WrappedDataKey, key_arn_of
from volcrypt.names import SnapshotId, make_snapshot_id, parse_name
from volcrypt.operations.background import describe
from volcrypt.operations.copies import copy_into
from volcrypt.operations.copy_bases import copy_at, previous_copy
from volcrypt.operations.copy_cursors import copies_of_workflows, cursor_file
from volcrypt.operations.copy_targets import target_store
from volcrypt.operations.held_jobs import hold_jobs
from volcrypt.operations.home import Home
from volcrypt.operations.job_progress import JobReporter
from volcrypt.operations.jobs import find_job
from volcrypt.operations.keys import (
    KeyChoice,
    check_encryption,
    check_source_key,
    choose_key,
    rebind_key,
    resolve_key,
    snapshot_context,
)
from volcrypt.operations.leftovers import forget_jobs, is_decided, remove_leftovers
from volcrypt.operations.progress import BothProgress, Progress
from volcrypt.operations.snapshot_deletion import make_up_for_sweep
from volcrypt.operations.snapshot_lookup import (
    check_name_in_stores,
    check_snapshot_name,
    load_snapshot,
)
from volcrypt.operations.snapshots import now
from volcrypt.operations.stores import check_may_sign, store_names, store_of
from volcrypt.operations.workflows import copy_cursor_path, resumable_copies
from volcrypt.snapshot.store import SnapshotStore
from volcrypt.volume.owner import boot_id


def copy_snapshot(
    home: Home,
    snapshot: str,
    *,
    choice: KeyChoice,
    name: str | None,
    store: str | None,
    region: str | None,
    progress: Progress,
    begun: Callable[[JobRecord], None] | None = None,
) -> Manifest:
    """A copy under the key that `choice` names, in the store or region that is asked for, else in
    the store of the snapshot; completed, and durable, on return. Continues an unfinished one of the
    same kind that nobody is at work on.

    Raises InvalidArgumentError when it would turn encryption off, or take it to a region that its
    key is not of.
    """
    with home.exclusive():
        remove_leftovers(home)
    source = load_snapshot(home, snapshot)
    target = target_store(home, source, store, region)
    check_may_sign(home, target)
    check_snapshot_name(home, name, target)
    if not choice.encrypted and source.is_encrypted:
        raise InvalidArgumentError("a copy of an encrypted snapshot is always encrypted")
    check_encryption(home, choice, region=target.document.region)
    check_source_key(home, source.wrapped_key, f"snapshot {snapshot}", choice=choice)
    arn = None
    if choice.encrypted and choice.customer_key is None:
        arn = resolve_key(home, choice.kms_key)
        _check_region(home, target, arn)
    forget_jobs(home)
    unfinished = _unfinished_copy(home, source, partial(_is_under, choice, arn), target, name)
    if unfinished is not None:
        snapshot_id, wrapped = unfinished.target_snapshot_id, unfinished.wrapped_key
        previous = copy_at(target, unfinished.base)
    else:
        snapshot_id = make_snapshot_id(home.random_id_bytes())
        wrapped, previous = _copy_key(home, source, choice, arn, snapshot_id, target)
    job = _announcement(home, source, target, snapshot_id, name, wrapped)
    manifest = _copy_as_job(
        home, source, job, target, wrapped, previous, progress=progress, begun=begun
    )
    make_up_for_sweep(home, target)
    if source.store_id != target.store_id:
        with suppress(VolcryptError):
            make_up_for_sweep(home, store_of(home, source.store_id))
    return manifest


def _copy_as_job(
    home: Home,
    source: Manifest,
    job: JobRecord,
    target: SnapshotStore,
    wrapped_key: WrappedDataKey | None,
    previous: Manifest | None,
    *,
    progress: Progress,
    begun: Callable[[JobRecord], None] | None,
) -> Manifest:
    with hold_jobs(home, [job]) as (held,):
        try:
            # The name is announced, so whoever looks after us finds it taken.
            check_name_in_stores(home, job.name, target)
            manifest = copy_into(
                home,
                source,
                target=target,
                snapshot_id=job.snapshot_id,
                name=job.name,
                wrapped_key=wrapped_key,
                previous=previous,
                progress=BothProgress(JobReporter(home, job.snapshot_id), progress),
                begun=None if begun is None else lambda: begun(held.record),
            )
        except BaseException as error:
            if copy_cursor_path(home, job.snapshot_id).exists():
                held.fail(describe(error))
            else:
                held.remove()
            raise
        held.remove()
    return manifest


def _announcement(
    home: Home,
    source: Manifest,
    target: SnapshotStore,
    snapshot_id: SnapshotId,
    name: str | None,
    wrapped_key: WrappedDataKey | None,
) -> JobRecord:
    return JobRecord(
        snapshot_id=snapshot_id,
        name=None if name is None else parse_name(name),
        volume_id=source.volume_id,
        size_bytes=source.size_bytes,
        store_id=target.store_id,
        store_name=store_names(home)[target.store_id],
        region=target.document.region,
        kms_key_arn=key_arn_of(wrapped_key),
        data_key_id=None if wrapped_key is None else wrapped_key.data_key_id,
        together=(),
        consistency=source.consistency,
        rate=None,
        started_at=now(),
        captured_at=source.captured_at,
        barrier_us=None,
        pid=os.getpid(),
        boot_id=boot_id(),
        reason=None,
        origin=Origin(store_id=source.store_id, snapshot_id=source.snapshot_id, root=source.root),
    )


def _check_region(home: Home, target: SnapshotStore, arn: str) -> None:
    """The keys of what is in the home's own region are those of the profile, whose KMS may be
    somewhere else; in another region they are of that one. Raises InvalidArgumentError."""
    region = target.document.region
    needed = home.key_region if region == home.region else region
    if arn.split(":")[3] != needed:
        raise InvalidArgumentError(
            f"a snapshot in region {region} is encrypted under a key of region {needed}, and "
            f"{arn} is not",
            hint="name one with --kms-key-id",
        )


def _copy_key(
    home: Home,
    source: Manifest,
    choice: KeyChoice,
    arn: str | None,
    snapshot_id: SnapshotId,
    target: SnapshotStore,
) -> tuple[WrappedDataKey | None, Manifest | None]:
    """The data key of the source where it is under the key that is asked for; else that of the
    previous copy, which is the second of the answer; else a new one."""
    context = snapshot_context(snapshot_id)
    if source.wrapped_key is not None and _is_under(choice, arn, source.wrapped_key):
        return rebind_key(home, source.wrapped_key, context), None
    if choice.encrypted:
        previous = previous_copy(home, source, target, partial(_is_under, choice, arn))
        if previous is not None and previous.wrapped_key is not None:
            return rebind_key(home, previous.wrapped_key, context), previous
    choice = replace(choice, kms_key=arn)
    return choose_key(home, choice, context, region=target.document.region), None


def _is_under(choice: KeyChoice, arn: str | None, wrapped: WrappedDataKey | None) -> bool:
    """Whether a data key is under what was chosen; `arn` is the KMS key of the choice, if any."""
    if choice.customer_key is not None:
        return choice.is_customer_key_of(wrapped)
    return (arn is None) == (wrapped is None) and (wrapped is None or wrapped.kms_key_arn == arn)


def _unfinished_copy(
    home: Home,
    source: Manifest,
    is_under: Callable[[WrappedDataKey | None], bool],
    target: SnapshotStore,
    name: str | None,
) -> CopyCursor | None:
    """The cursor of an unfinished copy of this snapshot to this store under this key that no
    workflow owns and no process is at work on; of several, one that was to have this name."""
    owned = copies_of_workflows(home)
    found: list[tuple[bool, CopyCursor]] = []
    for snapshot_id in resumable_copies(home):
        job = find_job(home, snapshot_id)
        if snapshot_id in owned or (job is not None and job.is_pending):
            continue
        with suppress(VolcryptError):
            cursor = cursor_file(home, snapshot_id).read()
            if (
                cursor is not None
                and cursor.target_snapshot_id == snapshot_id
                and cursor.target_store_id == target.store_id
                and cursor.source_snapshot_id == source.snapshot_id
                and cursor.source_root == source.root
                and is_under(cursor.wrapped_key)
            ):
                if is_decided(target, snapshot_id):
                    cursor_file(home, snapshot_id).remove()
                    continue
                is_other = job is None or job.record is None or job.record.name != name
                found.append((is_other, cursor))
    return min(found, key=lambda each: each[0], default=(True, None))[1]
