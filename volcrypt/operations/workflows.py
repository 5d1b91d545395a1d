"""Cursors of workflows: kept in HOME/work, pinned by the register, one for a volume at a time.

As with records, the new cursor is staged beside the old one, the register's transaction makes it
current, and then it takes its place; what else must change in the same moment (the swap of two
volumes) joins that transaction.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from volcrypt.durable import remove_durably, write_durably
from volcrypt.errors import RollbackError, VolumeInUseError
from volcrypt.formats import import_cursor, migration
from volcrypt.formats.document import MacSeal
from volcrypt.formats.volume_record import VolumeRecord
from volcrypt.formats.workflow import Workflow, decode_workflow, encode_workflow
from volcrypt.kms.register import RegisterEntry
from volcrypt.names import ID_DIGITS, SnapshotId, VolumeId, is_snapshot_id, is_volume_id
from volcrypt.operations.home import Home
from volcrypt.operations.pinned_documents import read_pinned, stage_pinned
from volcrypt.operations.records import save_records

KIND: Final = "workflow"
_COPY_SUFFIX: Final = ".copy"
_ID_LENGTH: Final = len("vol-") + ID_DIGITS


def load_workflow(home: Home, source_id: VolumeId) -> Workflow | None:
    """The unfinished workflow of a volume, or None. Raises IntegrityError and FormatError."""
    entry = home.register.get(KIND, source_id)
    if entry is None:
        return None
    what = f"cursor of the workflow on volume {source_id}"
    data = read_pinned(entry, _path(home, source_id), _staged(home, source_id), what=what)
    workflow = decode_workflow(data, _seal(home, source_id), what=what)
    if (workflow.source_id, workflow.generation) != (source_id, entry.counter):
        raise RollbackError(what)
    return workflow


def load_workflows(home: Home) -> list[Workflow]:
    """All unfinished workflows."""
    found = [load_workflow(home, VolumeId(entry.id)) for entry in home.register.entries(KIND)]
    return [workflow for workflow in found if workflow is not None]


def save_workflow(
    home: Home,
    workflow: Workflow,
    *,
    put: Sequence[VolumeRecord] = (),
    delete: Sequence[VolumeRecord] = (),
    **changes: object,
) -> Workflow:
    """Make a changed cursor current, in one transaction with `put` and `delete`, as
    `records.save_records` has them; returns it with its new generation."""
    changed = msgspec.structs.replace(workflow, generation=workflow.generation + 1, **changes)
    data = encode_workflow(changed, _seal(home, workflow.source_id))
    place, staged = _path(home, workflow.source_id), _staged(home, workflow.source_id)
    stage_pinned(home.register.get(KIND, workflow.source_id), place, staged, data)
    row = RegisterEntry(
        kind=KIND,
        id=workflow.source_id,
        name=None,
        counter=changed.generation,
        digest=hashlib.sha256(data).digest(),
    )
    save_records(home, put=put, delete=delete, also=[row])
    write_durably(place, data)
    return changed


def forget_workflow(home: Home, workflow: Workflow) -> None:
    """The workflow is done."""
    home.register.apply(delete=[(KIND, workflow.source_id)])
    remove_durably(_staged(home, workflow.source_id))
    remove_durably(_path(home, workflow.source_id))


def stale_cursors(home: Home) -> list[Path]:
    """Files of cursors that no workflow and no import of the register has any more: they were on
    their way out when their process was killed. The caller holds the home exclusively."""
    return [
        path
        for path in home.work_path.iterdir()
        if is_volume_id(name := path.name.lstrip(".")[:_ID_LENGTH])
        and home.register.get(KIND, name) is None
        and home.register.get(import_cursor.KIND, name) is None
        and home.register.get(migration.KIND, name) is None
    ]


def check_none_running(home: Home, volume_id: VolumeId, name: str) -> None:
    """Raises VolumeInUseError when a workflow on the volume was begun and not finished, or a
    migration (`operations.migrations`)."""
    check_may_be_served(home, volume_id, name)
    if home.register.get(migration.KIND, volume_id) is not None:
        raise VolumeInUseError(
            name,
            "an unfinished run of encrypt or rekey",
            hint=f"'volcrypt encrypt {name} --resume' finishes it, '--abort' there gives it up",
        )


def check_may_be_served(home: Home, volume_id: VolumeId, name: str) -> None:
    """Raises VolumeInUseError when a workflow on the volume, which is none of a volume in use, was
    begun and not finished."""
    if home.register.get(KIND, volume_id) is not None:
        raise VolumeInUseError(
            name,
            "an unfinished encryption",
            hint=f"'volcrypt encrypt {name}' finishes it, '--abort' gives it up",
        )


def copy_cursor_path(home: Home, snapshot_id: SnapshotId) -> Path:
    """Where the cursor of the copy that will be `snapshot_id` lies while it is unfinished."""
    return home.work_path / f"{snapshot_id}{_COPY_SUFFIX}"


def resumable_copies(home: Home) -> list[SnapshotId]:
    """The snapshots to be of copies that were begun and not finished."""
    names = [
        path.name.removesuffix(_COPY_SUFFIX) for path in home.work_path.glob(f"*{_COPY_SUFFIX}")
    ]
    return [SnapshotId(name) for name in sorted(names) if is_snapshot_id(name)]


def _seal(home: Home, source_id: VolumeId) -> MacSeal:
    return MacSeal(home.vault.derive_home_key(b"volcrypt workflow\0" + source_id.encode()))


def _path(home: Home, source_id: VolumeId) -> Path:
    return home.work_path / source_id


def _staged(home: Home, source_id: VolumeId) -> Path:
    return home.work_path / f"{source_id}.next"
