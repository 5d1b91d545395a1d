"""The cursor of an `encrypt` workflow: what was decided and what is done. Kind `workflow`.

Sealed under a key that the KMS derives for the volume, so nobody who only writes to storage can
make one up (CVE-2021-4122 is what happens otherwise). `generation` grows with every change and the
register names the current one, so an older one with a valid seal is refused too. It holds no
direction: a workflow can only go towards encrypted. All ids are decided before the first step, so a
step that is repeated after a kill works on the same objects.
"""

from enum import Enum
from typing import Final

import msgspec

from volcrypt.errors import MalformedError
from volcrypt.formats.document import (
    Sealer,
    Verifier,
    decode_document,
    encode_document,
    known_bodies,
)
from volcrypt.formats.volume_record import WrappedDataKey
from volcrypt.names import SnapshotId, VolumeId, is_snapshot_id, is_volume_id

KIND: Final = "workflow"
VERSION: Final = 1


class Step(Enum):
    """What is to be done next, in this order; COMPARE only where the data stays on its device."""

    SNAPSHOT = "snapshot"
    COPY = "copy"
    COMPARE = "compare"
    RESTORE = "restore"
    VERIFY = "verify"
    SWAP = "swap"
    DESTROY = "destroy"


class Workflow(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """Body of version 1.

    `source_id` is the unencrypted volume, `plain_snapshot_id` its snapshot, `copy_snapshot_id` the
    copy under `copy_key`, `target_id` the volume made from that under `target_key` (the same data
    key, bound to the volume). `verified_bytes` of the target were compared in step VERIFY.

    `old_path` is where the old data lies, with `in_place` a block device that the new data goes to
    as well. For the report: `data_bytes` of chunks that are not all zeros were converted,
    `content_digest` is their `ContentDigest`, `seconds` is what each step took, of all runs, but
    for what a kill ended.
    """

    source_id: VolumeId
    generation: int
    step: Step
    store: str
    plain_snapshot_id: SnapshotId
    copy_snapshot_id: SnapshotId
    copy_key: WrappedDataKey
    target_id: VolumeId
    target_key: WrappedDataKey
    keep_old: bool
    delete_plain_snapshots: bool
    started_at: int
    verified_bytes: int = 0
    old_path: str | None = None
    in_place: bool = False
    data_bytes: int = 0
    content_digest: str | None = None
    seconds: dict[str, float] = {}


def encode_workflow(workflow: Workflow, sealer: Sealer) -> bytes:
    return encode_document(KIND, VERSION, workflow, sealer)


_BODIES: Final = known_bodies({VERSION: Workflow})


def decode_workflow(data: bytes, verifier: Verifier, *, what: str) -> Workflow:
    """Raises FormatError and SealError; `what` names the cursor in them."""
    workflow = decode_document(data, KIND, _BODIES, verifier, what=what)
    if not (
        is_volume_id(workflow.source_id)
        and is_volume_id(workflow.target_id)
        and is_snapshot_id(workflow.plain_snapshot_id)
        and is_snapshot_id(workflow.copy_snapshot_id)
        and workflow.generation >= 1
        and workflow.verified_bytes >= 0
        and workflow.data_bytes >= 0
        and not (workflow.in_place and workflow.keep_old)
        and (workflow.in_place or workflow.step is not Step.COMPARE)
        and workflow.copy_key.data_key_id == workflow.target_key.data_key_id
    ):
        raise MalformedError(what, "its values contradict each other")
    return workflow
