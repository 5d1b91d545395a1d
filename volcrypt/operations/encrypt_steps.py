"""The steps of an encryption up to the swap, each from a durable state to the next; `encrypt` has
the theory. The caller holds the volume. A step that is repeated after a kill uses what is there.
"""

import heapq
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from itertools import groupby
from pathlib import Path
from typing import Final, Protocol

import msgspec

from volcrypt.crypto.digest import ZERO_DIGEST, DigestAlgorithm
from volcrypt.crypto.xts import is_zero
from volcrypt.errors import VerificationError
from volcrypt.formats.import_log import ContentDigest
from volcrypt.formats.volume_record import VolumeRecord
from volcrypt.formats.workflow import Step, Workflow
from volcrypt.geometry import CHUNK_BYTES, chunk_range
from volcrypt.names import SnapshotId
from volcrypt.operations.copies import copy_into
from volcrypt.operations.home import Home
from volcrypt.operations.placement import Placement
from volcrypt.operations.records import data_path, load_record, stage_record
from volcrypt.operations.recryption import decryption
from volcrypt.operations.restore import fill_from_snapshot
from volcrypt.operations.snapshot_lookup import load_snapshot
from volcrypt.operations.snapshots import store_snapshot
from volcrypt.operations.stages import Stages
from volcrypt.operations.stores import open_local_store
from volcrypt.operations.volumes import new_record, opened_volume
from volcrypt.operations.workflows import save_workflow
from volcrypt.snapshot.table import ChunkTable
from volcrypt.snapshot.transfer import chunk_table
from volcrypt.volume.datafile import DataFile
from volcrypt.volume.volume import Volume

CURSOR_BYTES = 256 * 2**20
"""So much is compared between two changes of the cursor."""
_DIGEST: Final = DigestAlgorithm.BLAKE3
"""That of the local store: digests of an unencrypted snapshot there are those of its content."""


def kept_name(record: VolumeRecord) -> str | None:
    """What the old volume is called when it is kept."""
    return f"{record.name}-unencrypted" if record.name else None


def target_place(workflow: Workflow) -> Path | None:
    """Where the data of the new volume goes; None for its own directory. A file elsewhere stays on
    its file system, under a name that nobody else has; a device is used again."""
    if workflow.old_path is None:
        return None
    path = Path(workflow.old_path)
    return path if workflow.in_place else path.with_name(f"{path.name}.{workflow.target_id}")


def _snapshot(home: Home, workflow: Workflow, stages: Stages) -> Workflow:
    record = load_record(home, workflow.source_id)
    store_snapshot(
        home,
        record,
        snapshot_id=workflow.plain_snapshot_id,
        name=None,
        progress=stages,
        held=True,
    )
    return _done(home, workflow, stages, Step.COPY)


def _copy(home: Home, workflow: Workflow, stages: Stages) -> Workflow:
    plain = load_snapshot(home, workflow.plain_snapshot_id)
    copy_into(
        home,
        plain,
        snapshot_id=workflow.copy_snapshot_id,
        name=None,
        wrapped_key=workflow.copy_key,
        progress=stages,
    )
    table = _table(home, workflow.plain_snapshot_id)
    content, data_bytes = ContentDigest(plain.size_bytes), 0
    for index in table.candidate_chunks():
        content.add(index, table.digest(index))
        data_bytes += chunk_range(index, plain.size_bytes).length
    following = Step.COMPARE if workflow.in_place else Step.RESTORE
    return _done(
        home, workflow, stages, following, content_digest=content.hex(), data_bytes=data_bytes
    )


def _compare(home: Home, workflow: Workflow, stages: Stages) -> Workflow:
    """The device is about to be overwritten: what was stored of it, in plaintext and under the key,
    must both be what is on it. The copy is decrypted under a key that is unwrapped for this."""
    source = load_record(home, workflow.source_id)
    plain = _table(home, workflow.plain_snapshot_id)
    copy = _table(home, workflow.copy_snapshot_id)
    stages.begin("comparing the copy with the device", source.size_bytes)
    with (
        opened_volume(home, source, read_only=True) as (old, old_data),
        decryption(home, workflow.copy_key) as decrypt,
    ):
        assert decrypt is not None, "internal error: a copy without a key"
        old_data.drop_cache()
        for index in old_data.candidate_chunks():
            extent = chunk_range(index, source.size_bytes)
            piece = memoryview(bytearray(extent.length))
            old.read_into(extent.offset, piece)
            expected = plain.digest(index)
            is_same = _is_chunk(piece, expected)
            if is_same and expected != ZERO_DIGEST:
                copy.read_chunk(index, piece)
                decrypt(index, piece)
                is_same = _is_chunk(piece, expected)
            if not is_same:
                raise VerificationError(
                    f"what was stored of the device differs from it between bytes {extent.offset} "
                    f"and {extent.end}",
                    hint="the device is untouched; 'volcrypt encrypt --abort' gives up",
                )
            stages.advance(extent.end)
    return _done(home, workflow, stages, Step.RESTORE)


def _is_chunk(piece: memoryview, digest: bytes) -> bool:
    """Whether this is the plaintext that a digest of the local store stands for."""
    return is_zero(piece) if digest == ZERO_DIGEST else _DIGEST.digest(piece) == digest


def _table(home: Home, snapshot_id: SnapshotId) -> ChunkTable:
    return chunk_table(open_local_store(home), load_snapshot(home, snapshot_id))


def _restore(home: Home, workflow: Workflow, stages: Stages) -> Workflow:
    """On a device this is what destroys the old data: each chunk of it that is not zeros is
    overwritten with its own ciphertext."""
    manifest = load_snapshot(home, workflow.copy_snapshot_id)
    target = _target_record(home, workflow, name=None)
    home.volumes.make(target.volume_id)
    if target.data_path is not None:
        stage_record(home, target)  # says, under seal, whose the file is
    path = data_path(home, target)
    if not workflow.in_place:
        if path.exists() and path.stat().st_size != target.size_bytes:
            path.unlink()  # a kill came between making the file and giving it its size
        if not path.exists():
            DataFile.create(path, target.size_bytes, preallocate=target.preallocated).close()
    with DataFile.open(path, target.size_bytes) as data:
        fill_from_snapshot(home, manifest, data, wrapped_key=workflow.target_key, progress=stages)
    return _done(home, workflow, stages, Step.VERIFY)


def _verify(home: Home, workflow: Workflow, stages: Stages) -> Workflow:
    """Compare every data unit of the new volume with the original, or, where that was overwritten,
    with its digest; the new one is read from the medium and decrypted under a key that is unwrapped
    for this and was in no process that wrote."""
    target = _target_record(home, workflow, name=None)
    with ExitStack() as stack:
        new, new_data = stack.enter_context(opened_volume(home, target, read_only=True))
        original: _Original
        if workflow.in_place:
            original = _Stored(_table(home, workflow.plain_snapshot_id))
        else:
            source = load_record(home, workflow.source_id)
            original = _OldVolume(*stack.enter_context(opened_volume(home, source, read_only=True)))
        new_data.drop_cache()
        count = sum(1 for _ in _chunks_with_data(original, new_data))
        stages.begin("comparing with the original", count * CHUNK_BYTES)
        # Kept: a new one for each chunk would have its pages made each time.
        buffer = memoryview(bytearray(CHUNK_BYTES))
        for done, index in enumerate(_chunks_with_data(original, new_data), start=1):
            extent = chunk_range(index, target.size_bytes)
            if extent.end <= workflow.verified_bytes:
                continue
            piece = buffer[: extent.length]
            new.read_into(extent.offset, piece)
            if not original.has(index, piece):
                raise VerificationError(
                    f"the encrypted volume differs from the original between bytes "
                    f"{extent.offset} and {extent.end}",
                    hint="the original is in snapshot "
                    f"{workflow.plain_snapshot_id}; look at the medium before you try again"
                    if workflow.in_place
                    else "the original is untouched; look at the medium before you try again",
                )
            stages.advance(done * CHUNK_BYTES)
            if extent.end - workflow.verified_bytes >= CURSOR_BYTES:
                workflow = save_workflow(home, workflow, verified_bytes=extent.end)
    return _done(home, workflow, stages, Step.SWAP, verified_bytes=target.size_bytes)


class _Original(Protocol):
    """What the new volume has to be; for one thread."""

    def candidate_chunks(self) -> Iterable[int]: ...
    def has(self, index: int, piece: memoryview) -> bool: ...


class _OldVolume:
    """The old volume itself."""

    def __init__(self, volume: Volume, data: DataFile) -> None:
        self._volume = volume
        self._data = data
        # A bytearray is compared at memory's speed, a memoryview byte by byte.
        self._found = bytearray(CHUNK_BYTES)
        self.candidate_chunks = data.candidate_chunks

    def has(self, index: int, piece: memoryview) -> bool:
        if len(piece) != len(self._found):
            self._found = bytearray(len(piece))
        self._volume.read_into(chunk_range(index, self._data.size_bytes).offset, self._found)
        return self._found == piece


class _Stored:
    """The digests of a snapshot of it."""

    def __init__(self, table: ChunkTable) -> None:
        self._table = table
        self.candidate_chunks = table.candidate_chunks

    def has(self, index: int, piece: memoryview) -> bool:
        return _is_chunk(piece, self._table.digest(index))


def _chunks_with_data(old: _Original, new: DataFile) -> Iterator[int]:
    """Ascending chunks that may hold data on either side; a hole on both is zeros on both."""
    merged = heapq.merge(old.candidate_chunks(), new.candidate_chunks())
    return (index for index, _ in groupby(merged))


def _swap(home: Home, workflow: Workflow, stages: Stages) -> Workflow:
    """The name changes hands, and the workflow reaches its point of no return, in one
    transaction."""
    source = load_record(home, workflow.source_id)
    target = _target_record(home, workflow, name=source.name)
    seconds = stages.seconds(workflow)
    if workflow.keep_old:
        renamed = msgspec.structs.replace(
            source, counter=source.counter + 1, name=kept_name(source)
        )
        put, delete = [renamed, target], []
    else:
        put, delete = [target], [source]
    return save_workflow(home, workflow, put=put, delete=delete, step=Step.DESTROY, seconds=seconds)


def _done(
    home: Home, workflow: Workflow, stages: Stages, following: Step, **changes: object
) -> Workflow:
    """The step is done, and what it found out is kept."""
    seconds = stages.seconds(workflow)
    changed = msgspec.structs.replace(workflow, **changes)
    return save_workflow(home, changed, step=following, seconds=seconds)


def _target_record(home: Home, workflow: Workflow, *, name: str | None) -> VolumeRecord:
    manifest = load_snapshot(home, workflow.copy_snapshot_id)
    source = load_record(home, workflow.source_id)
    record = new_record(
        home,
        volume_id=workflow.target_id,
        size_bytes=manifest.size_bytes,
        name=name,
        wrapped_key=workflow.target_key,
        snapshot_id=workflow.copy_snapshot_id,
        placement=Placement(
            preallocate=source.preallocated,
            data=None if workflow.in_place else target_place(workflow),
        ),
    )
    if not workflow.in_place:
        return record
    # As it is there: the device has its name and identity already.
    return msgspec.structs.replace(record, data_path=source.data_path, device=source.device)


STEPS: Final[dict[Step, Callable[[Home, Workflow, Stages], Workflow]]] = {
    Step.SNAPSHOT: _snapshot,
    Step.COPY: _copy,
    Step.COMPARE: _compare,
    Step.RESTORE: _restore,
    Step.VERIFY: _verify,
    Step.SWAP: _swap,
}
