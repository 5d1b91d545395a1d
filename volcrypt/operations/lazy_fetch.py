"""What a command does with a lazy volume itself: look at its present map, and fetch the rest."""

from contextlib import closing
from functools import partial

import trio

from volcrypt.formats.volume_record import LazySource, VolumeRecord
from volcrypt.names import VolumeId
from volcrypt.operations.home import Home
from volcrypt.operations.progress import Progress
from volcrypt.operations.records import data_path, present_path
from volcrypt.operations.recryption import recryption
from volcrypt.operations.stores import store_of
from volcrypt.snapshot.origin import SnapshotOrigin
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


def fetch_rest(home: Home, record: VolumeRecord, source: LazySource, progress: Progress) -> None:
    """Fetch every chunk that a lazy volume lacks; durable on return. The caller owns the volume.

    Raises why a chunk cannot be had, KmsError, NoSpaceError.
    """
    present = open_present(home, record.volume_id, source)
    store = store_of(home, source.store_id)
    begun = False

    def report(done_bytes: int, total_bytes: int) -> None:
        nonlocal begun
        if not begun:
            progress.begin(f"fetching the rest of {record.name or record.volume_id}", total_bytes)
            begun = True
        progress.advance(done_bytes)

    with (
        closing(present),
        recryption(home, source.wrapped_key, record.wrapped_key) as step,
        DataFile.open(data_path(home, record), record.size_bytes) as data,
    ):
        chunks = LazyChunks(
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
        trio.run(partial(chunks.fetch_all, report))
