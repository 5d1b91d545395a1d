"""The steps of an encryption up to the swap, each from a durable state to the next; `encrypt` has
the theory. The caller holds the volume. A step that is repeated after a kill uses what is there.
"""

import heapq
from collections.abc import Callable, Iterator
from itertools import groupby
from typing import Final

import msgspec

from volcrypt.errors import (
    VerificationError,
)
from volcrypt.formats.volume_record import VolumeRecord
from volcrypt.formats.workflow import Step, Workflow
from volcrypt.geometry import CHUNK_BYTES, chunk_range
from volcrypt.operations.copies import copy_into
from volcrypt.operations.home import Home
from volcrypt.operations.placement import Placement
from volcrypt.operations.progress import Progress
from volcrypt.operations.records import data_path, load_record
from volcrypt.operations.restore import fill_from_snapshot
from volcrypt.operations.snapshots import (
    load_snapshot,
    store_snapshot,
)
from volcrypt.operations.volumes import new_record, opened_volume
from volcrypt.operations.workflows import (
    save_workflow,
)
from volcrypt.volume.datafile import DataFile

CURSOR_BYTES = 256 * 2**20
"""So much is compared between two changes of the cursor."""


def kept_name(record: VolumeRecord) -> str | None:
    """What the old volume is called when it is kept."""
    return f"{record.name}-unencrypted" if record.name else None


def _snapshot(home: Home, workflow: Workflow, progress: Progress) -> Workflow:
    record = load_record(home, workflow.source_id)
    store_snapshot(
        home,
        record,
        snapshot_id=workflow.plain_snapshot_id,
        name=None,
        progress=progress,
        held=True,
    )
    return save_workflow(home, workflow, step=Step.COPY)


def _copy(home: Home, workflow: Workflow, progress: Progress) -> Workflow:
    copy_into(
        home,
        load_snapshot(home, workflow.plain_snapshot_id),
        snapshot_id=workflow.copy_snapshot_id,
        name=None,
        wrapped_key=workflow.copy_key,
        progress=progress,
    )
    return save_workflow(home, workflow, step=Step.RESTORE)


def _restore(home: Home, workflow: Workflow, progress: Progress) -> Workflow:
    manifest = load_snapshot(home, workflow.copy_snapshot_id)
    target = _target_record(home, workflow, name=None)
    home.volumes.make(target.volume_id)
    path = data_path(home, target)
    if path.exists() and path.stat().st_size != target.size_bytes:
        path.unlink()  # a kill came between making the file and giving it its size
    if not path.exists():
        DataFile.create(path, target.size_bytes, preallocate=target.preallocated).close()
    with DataFile.open(path, target.size_bytes) as data:
        fill_from_snapshot(home, manifest, data, wrapped_key=workflow.target_key, progress=progress)
    return save_workflow(home, workflow, step=Step.VERIFY)


def _verify(home: Home, workflow: Workflow, progress: Progress) -> Workflow:
    """Compare every data unit of both volumes; the new one is read from the medium and decrypted
    under a key that is unwrapped for this and was in no process that wrote."""
    source = load_record(home, workflow.source_id)
    target = _target_record(home, workflow, name=None)
    with (
        opened_volume(home, source, read_only=True) as (old, old_data),
        opened_volume(home, target, read_only=True) as (new, new_data),
    ):
        new_data.drop_cache()
        count = sum(1 for _ in _chunks_with_data(old_data, new_data))
        progress.begin("comparing with the original", count * CHUNK_BYTES)
        old_bytes, new_bytes = bytearray(CHUNK_BYTES), bytearray(CHUNK_BYTES)
        for done, index in enumerate(_chunks_with_data(old_data, new_data), start=1):
            extent = chunk_range(index, source.size_bytes)
            if extent.end <= workflow.verified_bytes:
                continue
            if extent.length < CHUNK_BYTES:
                old_bytes, new_bytes = bytearray(extent.length), bytearray(extent.length)
            old.read_into(extent.offset, old_bytes)
            new.read_into(extent.offset, new_bytes)
            if old_bytes != new_bytes:
                raise VerificationError(
                    f"the encrypted volume differs from the original between bytes "
                    f"{extent.offset} and {extent.end}",
                    hint="the original is untouched; look at the medium before you try again",
                )
            progress.advance(done * CHUNK_BYTES)
            if extent.end - workflow.verified_bytes >= CURSOR_BYTES:
                workflow = save_workflow(home, workflow, verified_bytes=extent.end)
    return save_workflow(home, workflow, step=Step.SWAP, verified_bytes=source.size_bytes)


def _chunks_with_data(old: DataFile, new: DataFile) -> Iterator[int]:
    """Ascending chunks that may hold data on either side; a hole on both is zeros on both."""
    merged = heapq.merge(old.candidate_chunks(), new.candidate_chunks())
    return (index for index, _ in groupby(merged))


def _swap(home: Home, workflow: Workflow, _progress: Progress) -> Workflow:
    """The name changes hands, and the workflow reaches its point of no return, in one
    transaction."""
    source = load_record(home, workflow.source_id)
    target = _target_record(home, workflow, name=source.name)
    if workflow.keep_old:
        renamed = msgspec.structs.replace(
            source, counter=source.counter + 1, name=kept_name(source)
        )
        return save_workflow(home, workflow, put=[renamed, target], step=Step.DESTROY)
    return save_workflow(home, workflow, put=[target], delete=[source], step=Step.DESTROY)


def _target_record(home: Home, workflow: Workflow, *, name: str | None) -> VolumeRecord:
    manifest = load_snapshot(home, workflow.copy_snapshot_id)
    return new_record(
        home,
        volume_id=workflow.target_id,
        size_bytes=manifest.size_bytes,
        name=name,
        wrapped_key=workflow.target_key,
        snapshot_id=workflow.copy_snapshot_id,
        placement=Placement(preallocate=load_record(home, workflow.source_id).preallocated),
    )


STEPS: Final[dict[Step, Callable[[Home, Workflow, Progress], Workflow]]] = {
    Step.SNAPSHOT: _snapshot,
    Step.COPY: _copy,
    Step.RESTORE: _restore,
    Step.VERIFY: _verify,
    Step.SWAP: _swap,
}
