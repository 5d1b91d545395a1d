"""Offline encryption of a volume: snapshot, copy under a KMS key, volume from the copy, comparison,
swap of the name, destruction of the old.

Every step can be killed and is repeated or continued by the next call; the cursor says which one is
next, and is written only when the step before it is durable. What a kill leaves, step by step:

    SNAPSHOT, COPY,     the old volume, untouched, under its name; chunks, a snapshot or a
    RESTORE, VERIFY     half-filled data file that the next call uses again
    SWAP                one transaction of the register: either the old volume has the name, or the
                        new one has it and the cursor says DESTROY
    DESTROY             the new volume, complete; the old data, until the next call

Data that lies elsewhere stays there. A file gets a neighbour, PATH.VOLUME-ID. A device is used
again: what RESTORE writes destroys what is there, so COMPARE comes before it:

    COMPARE             the old volume, untouched; its snapshot and the copy of that are what it is
    RESTORE, VERIFY     a device that is partly the old volume and partly the new one, and both
                        snapshots; the next call finishes it, and nothing else can

While a workflow is unfinished the volume cannot be mounted: what would be written after the
snapshot would be lost with the old volume.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from volcrypt.durable import remove_durably
from volcrypt.errors import (
    InvalidArgumentError,
    TryAgainError,
    VolcryptError,
    WorkNotFoundError,
)
from volcrypt.formats.workflow import Step, Workflow
from volcrypt.names import DataKeyId, SnapshotId, VolumeId
from volcrypt.operations.destruction import DISCARDED, UNLINKED, OldData, discard_file
from volcrypt.operations.encrypt_begin import (
    Wishes,
    begin_encryption,
    find_encryption,
    is_swapped,
    unfinished_encryption,
)
from volcrypt.operations.encrypt_plan import EncryptionPlan, destroyed_data, plan_encryption
from volcrypt.operations.encrypt_steps import STEPS
from volcrypt.operations.home import Home
from volcrypt.operations.keys import (
    KeyChoice,
    try_key,
    volume_context,
)
from volcrypt.operations.leftovers import remove_leftovers
from volcrypt.operations.placement import remove_data
from volcrypt.operations.progress import Progress
from volcrypt.operations.record_copies import record_copies
from volcrypt.operations.records import data_path, load_record
from volcrypt.operations.snapshot_deletion import purge_snapshots
from volcrypt.operations.snapshot_lookup import snapshots_of_volume
from volcrypt.operations.stages import Stages
from volcrypt.operations.workflows import (
    copy_cursor_path,
    forget_workflow,
    load_workflow,
    save_workflow,
)
from volcrypt.volume.directory import DATA_FILE
from volcrypt.volume.owner import hold_volume


@dataclass(frozen=True, slots=True, kw_only=True)
class EncryptionReport:
    """What was done. `kms_key_arn` is None under a customer-provided key. `data_bytes` of chunks
    that are not all zeros were converted, and `content_digest` is their `ContentDigest`;
    `step_seconds` by step, and `seconds` of all, are of all runs, but for what a kill ended."""

    volume_id: VolumeId
    name: str | None
    size_bytes: int
    data_bytes: int
    content_digest: str
    data_path: Path
    old_volume_id: VolumeId
    old_volume_kept: bool
    old_volume_name: str | None
    kms_key_arn: str | None
    data_key_id: DataKeyId
    verified_bytes: int
    seconds: float
    step_seconds: dict[str, float]
    old_data: list[OldData]
    plain_snapshots_left: list[SnapshotId]
    plain_snapshots_deleted: list[SnapshotId]
    stores_not_read: list[str]
    """Snapshot stores that did not answer: unencrypted snapshots may be there too."""


def encrypt_volume(
    home: Home,
    volume: str,
    *,
    choice: KeyChoice,
    keep_old: bool,
    delete_plain_snapshots: bool,
    progress: Progress,
    rate: int | None = None,
    only_resume: bool = False,
    announce: Callable[[EncryptionPlan], None] = lambda _: None,
) -> EncryptionReport:
    """Run the workflow, or what is left of it, to its end; `rate` is in bytes a second that each
    step moves. `announce` is told the plan before anything is made, and may raise.

    Raises VolumeInUseError when the volume is open anywhere, InvalidArgumentError when it is
    encrypted already, WorkNotFoundError when with `only_resume` nothing was begun, KmsError before
    anything is made when the key is not usable.
    """
    started = time.monotonic()
    with home.exclusive():
        remove_leftovers(home)
    wishes = Wishes(choice=choice, keep_old=keep_old, delete_plain_snapshots=delete_plain_snapshots)
    workflow, source_id = find_encryption(home, volume, wishes, only_resume=only_resume)
    source_directory = home.volumes.path_of(source_id)
    with ExitStack() as held:
        if source_directory.exists():
            held.enter_context(hold_volume(source_directory, purpose="encrypt"))
        expected: dict[str, float] = {}
        if workflow is None:
            # The volume is held before the cursor is made: nobody can have mounted it in between.
            plan = _plan(home, source_id, None, wishes).held_to(rate)
            plan.check_room()
            announce(plan)
            workflow = begin_encryption(home, source_id, wishes)
            expected = {each.step: each.seconds for each in plan.steps}
        elif not is_swapped(workflow):
            plan = _plan(home, source_id, workflow, wishes).held_to(rate)
            announce(plan)
            expected = {each.step: each.seconds for each in plan.steps}
        stages = Stages(progress, expected, rate=rate)
        before = sum(workflow.seconds.values())
        while workflow.step is not Step.DESTROY:
            stages.enter(workflow.step.value)
            with _counted(home, workflow, stages):
                workflow = STEPS[workflow.step](home, workflow, stages)
        stages.enter(workflow.step.value)
        with _counted(home, workflow, stages):
            return _destroy(home, workflow, stages, started - before)


@contextmanager
def _counted(home: Home, workflow: Workflow, stages: Stages) -> Iterator[None]:
    """What a step takes counts also when it is interrupted, unless by a kill."""
    try:
        yield
    except BaseException:
        with suppress(VolcryptError, OSError):
            current = load_workflow(home, workflow.source_id)
            if current is not None and current.step is workflow.step:
                save_workflow(home, current, seconds=stages.seconds(current))
        raise


def plan_of_encryption(
    home: Home,
    volume: str,
    *,
    choice: KeyChoice,
    keep_old: bool,
    delete_plain_snapshots: bool,
    only_resume: bool = False,
) -> EncryptionPlan:
    """What `encrypt_volume` would do now; makes nothing. Raises as that does, the KMS's refusals
    too, as far as they can be had without a data key."""
    wishes = Wishes(choice=choice, keep_old=keep_old, delete_plain_snapshots=delete_plain_snapshots)
    workflow, source_id = find_encryption(home, volume, wishes, only_resume=only_resume)
    if workflow is not None:
        _check_not_swapped(workflow, volume)
    else:
        try_key(home, choice, volume_context(source_id))
    return _plan(home, source_id, workflow, wishes)


def _plan(
    home: Home, source_id: VolumeId, workflow: Workflow | None, wishes: Wishes
) -> EncryptionPlan:
    record = load_record(home, source_id)
    if workflow is not None:
        return plan_encryption(
            home,
            record,
            kms_key=workflow.copy_key.kms_key_arn,
            keep_old=workflow.keep_old,
            delete_plain_snapshots=workflow.delete_plain_snapshots,
            plain_snapshot=workflow.plain_snapshot_id,
            step=workflow.step,
        )
    choice = wishes.choice
    return plan_encryption(
        home,
        record,
        kms_key=None if choice.customer_key is not None else choice.kms_key or home.default_kms_key,
        keep_old=wishes.keep_old,
        delete_plain_snapshots=wishes.delete_plain_snapshots,
        plain_snapshot=None,
        step=None,
    )


def abort_encryption(home: Home, volume: str) -> VolumeId:
    """Give an unfinished encryption up: the volume is as it was, what was made of it is removed.

    Raises WorkNotFoundError when there is none, InvalidArgumentError when it is past the swap: then
    it can only be finished.
    """
    workflow = unfinished_encryption(home, volume)
    if workflow is None:
        raise WorkNotFoundError.encryption_of(volume)
    _check_not_swapped(workflow, volume)
    if workflow.in_place and workflow.step in (Step.RESTORE, Step.VERIFY, Step.SWAP):
        raise InvalidArgumentError(
            f"the device of {volume} is being overwritten with ciphertext; it can only be finished",
            hint=f"'volcrypt encrypt {volume}' finishes it",
        )
    with hold_volume(home.volumes.path_of(workflow.source_id), purpose="encrypt"):
        remove_durably(copy_cursor_path(home, workflow.copy_snapshot_id))
        purge_snapshots(home, [workflow.plain_snapshot_id, workflow.copy_snapshot_id])
        remove_data(home, workflow.target_id, is_made=True)
        home.volumes.remove(workflow.target_id)
        forget_workflow(home, workflow)
    return workflow.source_id


def _check_not_swapped(workflow: Workflow, volume: str) -> None:
    """Raises InvalidArgumentError."""
    if is_swapped(workflow):
        raise InvalidArgumentError(
            f"{volume} is encrypted; only the removal of the old data is left",
            hint=f"'volcrypt encrypt {volume}' finishes it",
        )


def _destroy(home: Home, workflow: Workflow, stages: Stages, started: float) -> EncryptionReport:
    """Remove the workflow's own snapshots and the old volume; every part may be done already."""
    found, unread = snapshots_of_volume(home, workflow.source_id)
    plain = [
        manifest
        for manifest in found
        if manifest.wrapped_key is None and manifest.snapshot_id != workflow.plain_snapshot_id
    ]
    if unread and workflow.delete_plain_snapshots:
        raise TryAgainError(
            f"unencrypted snapshots cannot be looked for in {', '.join(unread)}",
            hint="the volume is encrypted; the same command removes the old data when they answer",
        )
    stages.begin(
        "removing the snapshots of the way" if workflow.keep_old else "removing the old data", None
    )
    record = load_record(home, workflow.target_id)
    with record_copies(home, record) as copies:
        copies.refresh(record)
    purge_snapshots(
        home,
        [workflow.plain_snapshot_id, workflow.copy_snapshot_id],
        plain if workflow.delete_plain_snapshots else [],
    )
    plain_ids = [manifest.snapshot_id for manifest in plain]
    old_name: str | None = None
    method: str | None = None
    old_path = Path(workflow.old_path or home.volumes.path_of(workflow.source_id) / DATA_FILE)
    if workflow.keep_old:
        old_name = load_record(home, workflow.source_id).name
    else:
        if not workflow.in_place:
            method = DISCARDED if discard_file(old_path) else UNLINKED
        remove_data(home, workflow.source_id)
        home.volumes.remove(workflow.source_id)
    old = destroyed_data(
        home, old_path, in_place=workflow.in_place, keep_old=workflow.keep_old, method=method
    )
    seconds = stages.seconds(workflow)
    forget_workflow(home, workflow)
    return EncryptionReport(
        volume_id=record.volume_id,
        name=record.name,
        size_bytes=record.size_bytes,
        data_bytes=workflow.data_bytes,
        content_digest=workflow.content_digest or "",
        data_path=data_path(home, record),
        old_volume_id=workflow.source_id,
        old_volume_kept=workflow.keep_old,
        old_volume_name=old_name,
        kms_key_arn=workflow.target_key.kms_key_arn,
        data_key_id=workflow.target_key.data_key_id,
        verified_bytes=workflow.verified_bytes,
        seconds=time.monotonic() - started,
        step_seconds=seconds,
        old_data=old,
        plain_snapshots_left=[] if workflow.delete_plain_snapshots else plain_ids,
        plain_snapshots_deleted=plain_ids if workflow.delete_plain_snapshots else [],
        stores_not_read=unread,
    )
