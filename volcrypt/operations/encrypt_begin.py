"""Which offline encryption of a volume is meant: the unfinished one, or a new one, which begins
here. `encrypt` has the theory.
"""

from contextlib import suppress
from dataclasses import dataclass

from volcrypt.errors import (
    InvalidArgumentError,
    VolumeInUseError,
    VolumeNotFoundError,
    WorkNotFoundError,
)
from volcrypt.formats.workflow import Step, Workflow
from volcrypt.kms.clock import host_time
from volcrypt.names import VolumeId, make_snapshot_id, make_volume_id
from volcrypt.operations.encrypt_steps import kept_name
from volcrypt.operations.home import Home
from volcrypt.operations.keys import (
    KeyChoice,
    check_source_key,
    choose_key,
    rebind_key,
    resolve_key,
    snapshot_context,
    unwrap_key,
    volume_context,
)
from volcrypt.operations.mounts import check_free
from volcrypt.operations.records import load_record
from volcrypt.operations.stores import LOCAL_STORE, open_local_store
from volcrypt.operations.volumes import check_name_is_free
from volcrypt.operations.workflows import check_none_running, load_workflows, save_workflow


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """How a volume is to be encrypted. `keep_old`: the unencrypted volume stays, under another
    name; `delete_plain_snapshots`: its unencrypted snapshots do not."""

    choice: KeyChoice
    keep_old: bool
    delete_plain_snapshots: bool


def find_encryption(
    home: Home, volume: str, wishes: Wishes, *, only_resume: bool
) -> tuple[Workflow | None, VolumeId]:
    """The unfinished encryption of a volume, if there is one, and the unencrypted volume. Raises as
    `encrypt_volume` (`operations.encrypt`)."""
    workflow = unfinished_encryption(home, volume)
    if workflow is not None:
        _check_same_wishes(home, workflow, volume, wishes)
        return workflow, workflow.source_id
    record = load_record(home, volume)
    if only_resume:
        raise WorkNotFoundError.encryption_of(volume)
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
    if record.device is not None and wishes.keep_old:
        raise InvalidArgumentError(
            f"the data of volume {volume} is on the device {record.data_path}, which the encrypted "
            "volume needs",
            hint="without --keep-old; a snapshot that you take first keeps the old state",
        )
    return None, record.volume_id


def unfinished_encryption(home: Home, volume: str) -> Workflow | None:
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


def is_swapped(workflow: Workflow) -> bool:
    """Whether the name is the new volume's."""
    return workflow.step is Step.DESTROY


def begin_encryption(home: Home, source_id: VolumeId, wishes: Wishes) -> Workflow:
    """Decide everything, ask the KMS for everything, and only then make the cursor. The caller
    holds the volume."""
    record = load_record(home, source_id)
    check_none_running(home, source_id, record.name or source_id)
    open_local_store(home)  # gone with the disk it was on: then the cursor could not be given up
    if wishes.keep_old:
        check_name_is_free(home, kept_name(record))
    copy_id = make_snapshot_id(home.random_id_bytes())
    target_id = make_volume_id(home.random_id_bytes())
    copy_key = choose_key(home, wishes.choice, snapshot_context(copy_id))
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
        keep_old=wishes.keep_old,
        delete_plain_snapshots=wishes.delete_plain_snapshots,
        started_at=int(host_time()),
        old_path=record.data_path,
        in_place=record.device is not None,
    )
    return save_workflow(home, workflow)


def _check_same_wishes(home: Home, workflow: Workflow, volume: str, wishes: Wishes) -> None:
    """What was begun goes on as it was begun: whoever says nothing now agrees, and whoever asks for
    something else is told. Raises InvalidArgumentError."""
    choice = wishes.choice
    arn = workflow.copy_key.kms_key_arn
    other_key = (choice.kms_key is not None and resolve_key(home, choice.kms_key) != arn) or (
        choice.customer_key is not None and arn is not None
    )
    if not is_swapped(workflow):
        # A customer-provided key is needed again for what is left.
        check_source_key(
            home, workflow.copy_key, f"the unfinished encryption of {volume}", choice=choice
        )
    if (
        other_key
        or (wishes.keep_old and not workflow.keep_old)
        or (wishes.delete_plain_snapshots and not workflow.delete_plain_snapshots)
    ):
        key = f"key {arn}" if arn is not None else "a customer-provided key"
        begun = [key, "the old volume " + ("kept" if workflow.keep_old else "removed")]
        if workflow.delete_plain_snapshots:
            begun.append("plain snapshots deleted")
        raise InvalidArgumentError(
            f"the unfinished encryption of {volume} was begun with other options: "
            f"{', '.join(begun)}",
            hint=f"'volcrypt encrypt {volume}' finishes it as it was begun",
        )
