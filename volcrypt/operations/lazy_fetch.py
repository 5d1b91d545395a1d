"""What a command does with a lazy volume itself: look at its present map, fetch the rest, or take
the user's word that there is none."""

import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial

import trio

from volcrypt.crypto.xts import is_zero
from volcrypt.errors import (
    IntegrityError,
    InvalidArgumentError,
    ObjectStoreError,
    StoreAccessError,
    StoreNotFoundError,
)
from volcrypt.formats.volume_record import LazySource, VolumeRecord
from volcrypt.geometry import CHUNK_BYTES, chunk_range
from volcrypt.names import VolumeId
from volcrypt.operations.home import Home
from volcrypt.operations.keys import check_source_key
from volcrypt.operations.lazy_volumes import clear_source
from volcrypt.operations.leases import held_volume
from volcrypt.operations.progress import Progress
from volcrypt.operations.records import data_path, load_record, present_path
from volcrypt.operations.recryption import recryption
from volcrypt.operations.stores import store_of
from volcrypt.snapshot.origin import SnapshotOrigin
from volcrypt.snapshot.table import ChunkTable
from volcrypt.volume.datafile import DataFile
from volcrypt.volume.lazy import LazyChunks
from volcrypt.volume.present import PresentMap, open_present_map


def open_present(home: Home, volume_id: VolumeId, source: LazySource) -> PresentMap:
    """The caller owns the volume, or only looks. Raises IntegrityError and FormatError."""
    return open_present_map(
        present_path(home, volume_id),
        volume_id=volume_id,
        size_bytes=source.size_bytes,
        root=source.root,
    )


def assume_whole(home: Home, volume: str) -> VolumeRecord:
    """Take the user's word that a lazy volume without a present map has all its chunks: its data
    file comes from a home in which it was filled after the backup that this home was made from.

    Raises InvalidArgumentError when there is a map, which knows better, IntegrityError when a chunk
    of the snapshot is nowhere in the data, as far as the snapshot is still there to tell.
    """
    record = load_record(home, volume)
    if record.source is None:
        return record
    check_source_key(home, record.wrapped_key, f"volume {volume}")
    with held_volume(home, record, purpose="check"):
        if os.path.lexists(present_path(home, record.volume_id)):
            raise InvalidArgumentError(
                f"volume {volume} has its present map, which says what is missing",
                hint=f"volcrypt volume show {volume} tells how much",
            )
        _check_for_holes(home, record, record.source)
        return clear_source(home, record, is_assumed=True)


def _check_for_holes(home: Home, record: VolumeRecord, source: LazySource) -> None:
    wanted: list[int] = []
    missing: list[int] = []
    # Whoever filled the volume gave its hold on the snapshot up, so that may be gone.
    with suppress(IntegrityError, ObjectStoreError, StoreAccessError, StoreNotFoundError):
        table = ChunkTable(
            store_of(home, source.store_id), source.root, size_bytes=source.size_bytes
        )
        wanted = list(table.candidate_chunks())
    with DataFile.open(data_path(home, record), record.size_bytes, read_only=True) as data:
        # Zeros may be written out: not every program keeps holes when it copies.
        buffer = memoryview(bytearray(CHUNK_BYTES))
        for index in wanted:
            chunk = chunk_range(index, record.size_bytes)
            data.read_chunk(index, buffer[: chunk.length])
            if is_zero(buffer[: chunk.length]):
                missing.append(index)
    if missing:
        raise IntegrityError(
            f"the data of volume {record.name or record.volume_id} is not whole: {len(missing)} "
            f"chunks of {source.snapshot_id} are not in it, the first at byte "
            f"{missing[0] * CHUNK_BYTES}"
        )


def fetch_rest(home: Home, record: VolumeRecord, source: LazySource, progress: Progress) -> None:
    """Fetch every chunk that a lazy volume lacks; durable on return. The caller owns the volume.

    Raises why a chunk cannot be had, KmsError, NoSpaceError.
    """
    with _absent_chunks(home, record, source) as chunks:
        trio.run(partial(chunks.fetch_all, _report(record, progress)))


def fetch_possible(
    home: Home, record: VolumeRecord, source: LazySource, progress: Progress
) -> dict[int, str]:
    """The same, but for what cannot be had: those chunks, each with a reason. The caller owns the
    volume. Raises KmsError, NoSpaceError; IntegrityError and FormatError for its present map."""
    try:
        with _absent_chunks(home, record, source) as chunks:
            return trio.run(partial(chunks.fetch_possible, _report(record, progress)))
    except (ObjectStoreError, StoreAccessError, StoreNotFoundError) as error:
        with closing(open_present(home, record.volume_id, source)) as present:
            absent = present.absent_in(range(present.chunk_count))
        return dict.fromkeys(absent, str(error))


def _report(record: VolumeRecord, progress: Progress) -> Callable[[int, int], None]:
    begun = False

    def report(done_bytes: int, total_bytes: int) -> None:
        nonlocal begun
        if not begun:
            progress.begin(f"fetching the rest of {record.name or record.volume_id}", total_bytes)
            begun = True
        progress.advance(done_bytes)

    return report


@contextmanager
def _absent_chunks(home: Home, record: VolumeRecord, source: LazySource) -> Iterator[LazyChunks]:
    present = open_present(home, record.volume_id, source)
    with closing(present):
        store = store_of(home, source.store_id)
        with (
            recryption(home, source.wrapped_key, record.wrapped_key) as step,
            DataFile.open(data_path(home, record), record.size_bytes) as data,
        ):
            yield LazyChunks(
                SnapshotOrigin(
                    lambda: store,
                    snapshot_id=source.snapshot_id,
                    root=source.root,
                    size_bytes=source.size_bytes,
                    step=step,
                ),
                present,
                size_bytes=source.size_bytes,
                data=data,
                sync=data.sync,
                in_flight=store.objects.in_flight,
            )
