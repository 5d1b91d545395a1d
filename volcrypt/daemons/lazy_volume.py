"""A lazy volume in the process that serves it: what fetches its absent chunks, and from where.

The store is opened when the first chunk is needed, and again at the next touch when it is away: a
volume can be mounted without its store as long as nothing is read that is not there yet.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final

from volcrypt.crypto.data_key import DataKey
from volcrypt.errors import MountError, VolcryptError
from volcrypt.geometry import chunk_count
from volcrypt.names import VolumeId
from volcrypt.operations.store_places import open_objects
from volcrypt.snapshot.checked_objects import CheckedObjects
from volcrypt.snapshot.local import LocalObjects
from volcrypt.snapshot.origin import SnapshotOrigin
from volcrypt.snapshot.pace import Pace
from volcrypt.snapshot.recryptor import Recryptor
from volcrypt.volume.control_messages import LazyProgress
from volcrypt.volume.datafile import DataFile
from volcrypt.volume.launch import LazyAssignment
from volcrypt.volume.lazy import LazyChunks
from volcrypt.volume.present import PresentMap, open_present_map

IN_FLIGHT_NEAR: Final = 4
IN_FLIGHT_FAR: Final = 16
"""Fetches at once, from a directory and from a service."""

_log: Final = logging.getLogger(__name__)


class LazyVolume:
    """The chunks that a volume lacks, from first to last."""

    def __init__(
        self,
        assignment: LazyAssignment,
        *,
        volume_id: VolumeId,
        data: DataFile,
        sync: Callable[[], None],
        data_key: DataKey | None,
        source_key: DataKey | None,
    ) -> None:
        """Reaches for nothing yet. Raises IntegrityError and FormatError for a present map that is
        missing or damaged."""
        source = assignment.source
        self._assignment = assignment
        self._source_key = source_key
        self._recryptor: Recryptor | None = None
        if assignment.recrypts:
            assert data_key is not None, "internal error: encrypted never becomes unencrypted"
            self._recryptor = Recryptor(source_key, data_key)
        if assignment.present_path is None:
            present = PresentMap.in_memory(chunk_count(source.size_bytes))
        else:
            present = open_present_map(
                Path(assignment.present_path),
                volume_id=volume_id,
                size_bytes=source.size_bytes,
                root=source.root,
            )
        self.chunks = LazyChunks(
            SnapshotOrigin(
                lambda: _open_store(assignment),
                snapshot_id=source.snapshot_id,
                root=source.root,
                size_bytes=source.size_bytes,
                step=self._recryptor,
            ),
            present,
            size_bytes=source.size_bytes,
            data=data,
            sync=sync,
            in_flight=IN_FLIGHT_NEAR if _is_near(assignment) else IN_FLIGHT_FAR,
        )

    def progress(self) -> LazyProgress:
        source, chunks = self._assignment.source, self.chunks
        return LazyProgress(
            store_id=source.store_id,
            present_chunks=chunks.present_count,
            total_chunks=chunks.chunk_count,
            fill_rate=source.fill_rate,
            problem=chunks.problem,
        )

    async def fill(self) -> bool:
        """Fetch what is absent, at the rate of the assignment; whether every chunk is present now.
        What keeps it from going on is logged."""
        rate = self._assignment.source.fill_rate
        if rate == 0 and not self.chunks.is_complete:
            return False
        try:
            await self.chunks.fill(Pace(rate or None))
        except MountError:
            return False  # it is being unmounted
        except (VolcryptError, OSError) as error:
            _log.error("the volume is not filled any more until it is mounted again: %s", error)
            return False
        if not self.chunks.is_complete:
            return False
        await self.chunks.close()
        self.wipe()
        return True

    def wipe(self) -> None:
        """Forget what decrypts the snapshot. May be called twice."""
        if self._recryptor is not None:
            self._recryptor.wipe()
        if self._source_key is not None:
            self._source_key.wipe()


def _is_near(assignment: LazyAssignment) -> bool:
    return assignment.place is None or assignment.place.url.startswith("file:")


def _open_store(assignment: LazyAssignment) -> CheckedObjects:
    """Raises StoreNotFoundError, and ConfigurationError without credentials."""
    if assignment.place is None:
        assert assignment.store_directory is not None, "internal error: a store without a place"
        objects = LocalObjects(Path(assignment.store_directory))
        return CheckedObjects(objects, assignment.source.digest)
    if _is_near(assignment):
        return CheckedObjects(open_objects(assignment.place), assignment.source.digest)
    from volcrypt.snapshot.s3 import Patience

    # Somebody waits for an answer to his read, be it an error.
    patience = Patience(connect_seconds=5, request_seconds=20, retry_seconds=10, retries=3)
    return CheckedObjects(
        open_objects(assignment.place, patience=patience), assignment.source.digest
    )
