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
    VolumeInUseError,
    VolumeNotFoundError,
    WorkNotFoundError,
)
from volcrypt.formats.workflow import Step, Workflow
from volcrypt.kms.clock import host_time
from volcrypt.names import DataKeyId, SnapshotId, VolumeId, make_snapshot_id, make_volume_id
from volcrypt.operations.destruction import DISCARDED, UNLINKED, OldData, discard_file
from volcrypt.operations.encrypt_plan import EncryptionPlan, destroyed_data, plan_encryption
from volcrypt.operations.encrypt_steps import STEPS, kept_name
from volcrypt.operations.home import Home
from volcrypt.operations.keys import (
    KeyChoice,
    check_source_key,
    choose_key,
    rebind_key,
    resolve_key,
    snapshot_context,
    try_key,
    unwrap_key,
    volume_context,
)
from volcrypt.operations.leftovers import remove_leftovers
from volcrypt.operations.mounts import check_free
from volcrypt.operations.placement import remove_data
from volcrypt.operations.progress import Progress
from volcrypt.operations.record_copies import record_copies
from volcrypt.operations.records import data_path, load_record
from volcrypt.operations.snapshot_deletion import purge_snapshots
from volcrypt.operations.snapshot_lookup import snapshots_of_volume
from volcrypt.operations.stages import Stages
from volcrypt.operations.stores import LOCAL_STORE, open_local_store
from volcrypt.operations.volumes import check_name_is_free
from volcrypt.operations.workflows import (
    check_none_running,
    copy_cursor_path,
    forget_workflow,
    load_workflow,
    load_workflows,
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
    workflow, source_id = _find(
        home,
        volume,
        choice=choice,
        keep_old=keep_old,
        delete_plain_snapshots=delete_plain_snapshots,
        only_resume=only_resume,
    )
    source_directory = home.volumes.path_of(source_id)
    with ExitStack() as held:
        if source_directory.exists():
            held.enter_context(hold_volume(source_directory, purpose="encrypt"))
        expected: dict[str, float] = {}
        if workflow is None:
            # The volume is held before the cursor is made: nobody can have mounted it in between.
            plan = _plan(
                home,
                source_id,
                None,
                choice,
                keep_old,
                delete_plain_snapshots=delete_plain_snapshots,
            ).held_to(rate)
            plan.check_room()
            announce(plan)
            workflow = _begin(
                home,
                source_id,
                choice=choice,
                keep_old=keep_old,
                delete_plain_snapshots=delete_plain_snapshots,
            )
            expected = {each.step: each.seconds for each in plan.steps}
        elif not _is_swapped(workflow):
            plan = _plan(
                home,
                source_id,
                workflow,
                choice,
                workflow.keep_old,
                delete_plain_snapshots=workflow.delete_plain_snapshots,
            ).held_to(rate)
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
    workflow, source_id = _find(
        home,
        volume,
        choice=choice,
        keep_old=keep_old,
        delete_plain_snapshots=delete_plain_snapshots,
        only_resume=only_resume,
    )
    if workflow is not None and _is_swapped(workflow):
        raise InvalidArgumentError(
            f"{volume} is encrypted; only the removal of the old data is left",
            hint=f"'volcrypt encrypt {volume}' finishes it",
        )
    if workflow is not None:
        keep_old, delete_plain_snapshots = workflow.keep_old, workflow.delete_plain_snapshots
    else:
        try_key(home, choice, volume_context(source_id))
    return _plan(
        home, source_id, workflow, choice, keep_old, delete_plain_snapshots=delete_plain_snapshots
    )


def _is_swapped(workflow: Workflow) -> bool:
    """Whether the name is the new volume's."""
    return workflow.step is Step.DESTROY


def _find(
    home: Home,
    volume: str,
    *,
    choice: KeyChoice,
    keep_old: bool,
    delete_plain_snapshots: bool,
    only_resume: bool,
) -> tuple[Workflow | None, VolumeId]:
    """The unfinished encryption of a volume, if there is one, and the unencrypted volume. Raises as
    `encrypt_volume`."""
    workflow = _unfinished(home, volume)
    if workflow is not None:
        _check_same_wishes(
            home,
            workflow,
            volume,
            choice=choice,
            keep_old=keep_old,
            delete_plain_snapshots=delete_plain_snapshots,
        )
        return workflow, workflow.source_id
    record = load_record(home, volume)
    if only_resume:
        raise WorkNotFoundError(f"there is no unfinished encryption of {volume}")
    if record.is_encrypted:
        raise InvalidArgumentError(
            f"volume {volume} is encrypted already",
            hint=f"'volcrypt rekey {volume}' gives it another key",
        )
    try:
        check_free(home, record.volume_id, volume)
    except VolumeInUseError as error:
        if error.hint is not None and error.hint.startswith(
            ("volcrypt unmount", "volcrypt detach")
        ):
            error.hint = f"'{error.hint}' first"
            if record.device is None:
                error.hint += f", or 'volcrypt encrypt {volume} --online' while it is in use"
        raise
    if record.device is not None and keep_old:
        raise InvalidArgumentError(
            f"the data of volume {volume} is on the device {record.data_path}, which the encrypted "
            "volume needs",
            hint="without --keep-old; a snapshot that you take first keeps the old state",
        )
    return None, record.volume_id


def _plan(
    home: Home,
    source_id: VolumeId,
    workflow: Workflow | None,
    choice: KeyChoice,
    keep_old: bool,
    *,
    delete_plain_snapshots: bool,
) -> EncryptionPlan:
    record = load_record(home, source_id)
    if workflow is not None:
        key = workflow.copy_key.kms_key_arn
    else:
        key = None if choice.customer_key is not None else choice.kms_key or home.default_kms_key
    return plan_encryption(
        home,
        record,
        kms_key=key,
        keep_old=keep_old,
        delete_plain_snapshots=delete_plain_snapshots,
        plain_snapshot=None if workflow is None else workflow.plain_snapshot_id,
        step=None if workflow is None else workflow.step,
    )


def abort_encryption(home: Home, volume: str) -> VolumeId:
    """Give an unfinished encryption up: the volume is as it was, what was made of it is removed.

    Raises WorkNotFoundError when there is none, InvalidArgumentError when it is past the swap: then
    it can only be finished.
    """
    workflow = _unfinished(home, volume)
    if workflow is None:
        raise WorkNotFoundError(f"there is no unfinished encryption of {volume}")
    if workflow.step is Step.DESTROY:
        raise InvalidArgumentError(
            f"{volume} is encrypted; only the removal of the old data is left",
            hint=f"'volcrypt encrypt {volume}' finishes it",
        )
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


def _unfinished(home: Home, volume: str) -> Workflow | None:
    """The workflow on a volume named by its name or by the id of the old or the new volume. After
    the swap the name is the new volume's."""
    workflows = load_workflows(home)
    identity = volume
    with suppress(VolumeNotFoundError):
        identity = load_record(home, volume).volume_id
    for workflow in workflows:
        if identity in (workflow.source_id, workflow.target_id):
            return workflow
    return None


def _check_same_wishes(
    home: Home,
    workflow: Workflow,
    volume: str,
    *,
    choice: KeyChoice,
    keep_old: bool,
    delete_plain_snapshots: bool,
) -> None:
    """What was begun goes on as it was begun: whoever says nothing now agrees, and whoever asks for
    something else is told. Raises InvalidArgumentError."""
    arn = workflow.copy_key.kms_key_arn
    other_key = (choice.kms_key is not None and resolve_key(home, choice.kms_key) != arn) or (
        choice.customer_key is not None and arn is not None
    )
    if workflow.step is not Step.DESTROY:
        # A customer-provided key is needed again for what is left.
        check_source_key(
            home, workflow.copy_key, f"the unfinished encryption of {volume}", choice=choice
        )
    if (
        other_key
        or (keep_old and not workflow.keep_old)
        or (delete_plain_snapshots and not workflow.delete_plain_snapshots)
    ):
        key = f"key {arn}" if arn is not None else "a customer-provided key"
        wishes = [key, "the old volume " + ("kept" if workflow.keep_old else "removed")]
        if workflow.delete_plain_snapshots:
            wishes.append("plain snapshots deleted")
        raise InvalidArgumentError(
            f"the unfinished encryption of {volume} was begun with other options: "
            f"{', '.join(wishes)}",
            hint=f"'volcrypt encrypt {volume}' finishes it as it was begun",
        )


def _begin(
    home: Home,
    source_id: VolumeId,
    *,
    choice: KeyChoice,
    keep_old: bool,
    delete_plain_snapshots: bool,
) -> Workflow:
    """Decide everything, ask the KMS for everything, and only then make the cursor. The caller
    holds the volume."""
    record = load_record(home, source_id)
    check_none_running(home, source_id, record.name or source_id)
    open_local_store(home)  # gone with the disk it was on: then the cursor could not be given up
    if keep_old:
        check_name_is_free(home, kept_name(record))
    copy_id = make_snapshot_id(home.random_id_bytes())
    target_id = make_volume_id(home.random_id_bytes())
    copy_key = choose_key(home, choice, snapshot_context(copy_id))
    assert copy_key is not None, "internal error: an encryption without a key"
    target_key = rebind_key(home, copy_key, volume_context(target_id))
    # Whoever may not decrypt with the key learns it now and not after hours of copying.
    unwrap_key(home, target_key).wipe()
    workflow = Workflow(
        source_id=record.volume_id,
        generation=0,
        step=Step.SNAPSHOT,
        store=LOCAL_STORE,
        plain_snapshot_id=make_snapshot_id(home.random_id_bytes()),
        copy_snapshot_id=copy_id,
        copy_key=copy_key,
        target_id=target_id,
        target_key=target_key,
        keep_old=keep_old,
        delete_plain_snapshots=delete_plain_snapshots,
        started_at=int(host_time()),
        old_path=record.data_path,
        in_place=record.device is not None,
    )
    return save_workflow(home, workflow)


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
