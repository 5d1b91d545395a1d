"""Snapshots as raw images: the plaintext, in a sparse file.

It has a permission of its own, `volcrypt:ExportSnapshot`, and is on the audit log before a byte is
written. The image appears whole and durable, or not at all (`new_files.new_image`).
"""

import threading
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio
from typing_extensions import Buffer

from volcrypt.crypto.xts import is_zero
from volcrypt.durable import write_fully
from volcrypt.errors import (
    FormatError,
    IntegrityError,
    SnapshotNotFoundError,
    UnsupportedVersionError,
)
from volcrypt.formats.manifest import Manifest
from volcrypt.formats.pages import PAGE_CHUNKS, all_holes, page_range
from volcrypt.formats.volume_record import key_arn_of
from volcrypt.geometry import CHUNK_BYTES, chunk_range
from volcrypt.operations.home import Home
from volcrypt.operations.keys import check_source_key, snapshot_context
from volcrypt.operations.new_files import check_new_file, new_image
from volcrypt.operations.progress import ChunkCounter, Progress
from volcrypt.operations.recryption import decryption
from volcrypt.operations.snapshot_lookup import load_snapshot
from volcrypt.operations.stores import store_in_use, store_of
from volcrypt.operations.volume_export import Skipped
from volcrypt.snapshot.store import SnapshotStore
from volcrypt.snapshot.table import ChunkTable
from volcrypt.snapshot.transfer import ChunkSink, chunk_table, restore_chunks

ACTION: Final = "volcrypt:ExportSnapshot"


def export_snapshot(
    home: Home, snapshot: str, target: Path, *, skip_damaged: bool = False, progress: Progress
) -> tuple[Manifest, list[Skipped]]:
    """Write a snapshot's plaintext to a new sparse file, readable by its owner alone. With
    `skip_damaged`, chunks that are damaged or missing are left out, and are in the answer.

    Raises AccessDeniedError for who may not do `volcrypt:ExportSnapshot`, what `load_snapshot` and
    `unwrap_key` raise, NameTakenError, InvalidArgumentError, NoSpaceError, OSError; IntegrityError
    and FormatError.
    """
    check_new_file(target)
    manifest = load_snapshot(home, snapshot)
    wrapped = manifest.wrapped_key
    check_source_key(home, wrapped, f"snapshot {snapshot}")
    home.vault.authorise(
        home.caller,
        ACTION,
        key_arn=key_arn_of(wrapped),
        context=snapshot_context(manifest.snapshot_id),
    )
    store = store_of(home, manifest.store_id)
    with (
        store_in_use(home, store),
        store.reading(manifest.snapshot_id),
        decryption(home, manifest.wrapped_key) as step,
        new_image(target, manifest.size_bytes) as image,
    ):
        table = _TolerantTable(store, manifest) if skip_damaged else chunk_table(store, manifest)
        progress.begin(f"exporting {snapshot}", manifest.data_chunks * CHUNK_BYTES)
        trio.run(
            partial(
                restore_chunks,
                table,
                _Image(image, manifest.size_bytes),
                step=step,
                progress=ChunkCounter(progress),
            )
        )
        skipped = table.skipped() if isinstance(table, _TolerantTable) else []
        if skipped and store.is_deleted(manifest.snapshot_id):
            raise SnapshotNotFoundError(manifest.snapshot_id)  # by another home, meanwhile
    return manifest, skipped


class _TolerantTable(ChunkTable):
    """Shows what is damaged as holes, and remembers it. Without the table itself there is nothing
    to show."""

    def __init__(self, store: SnapshotStore, manifest: Manifest) -> None:
        self._lock = threading.Lock()
        self._skipped: dict[int, Skipped] = {}
        where = f"snapshot {manifest.snapshot_id}"
        super().__init__(store, manifest.root, size_bytes=manifest.size_bytes, where=where)

    def skipped(self) -> list[Skipped]:
        return [self._skipped[index] for index in sorted(self._skipped)]

    def read_chunk(self, index: int, buffer: Buffer) -> None:
        try:
            super().read_chunk(index, buffer)
        except UnsupportedVersionError:
            raise
        except (IntegrityError, FormatError) as error:
            view = memoryview(buffer)
            view[:] = bytes(view.nbytes)
            self._skip(index, chunk_range(index, self.size_bytes).length, error)

    def _read_page(self, number: int) -> bytes:
        try:
            return super()._read_page(number)
        except UnsupportedVersionError:
            raise
        except (IntegrityError, FormatError) as error:
            chunks = page_range(number, self.size_bytes)
            end = min(chunks.stop * CHUNK_BYTES, self.size_bytes)
            first = number * PAGE_CHUNKS
            self._skip(first, end - first * CHUNK_BYTES, error)
            return bytes(all_holes(len(chunks)))

    def _skip(self, first: int, length: int, error: Exception) -> None:
        with self._lock:
            self._skipped[first] = Skipped(
                offset=first * CHUNK_BYTES, length=length, reason=str(error)
            )


class _Image:
    """A new sparse file as what chunks are written to."""

    def __init__(self, descriptor: int, size_bytes: int) -> None:
        self._descriptor = descriptor
        self.size_bytes = size_bytes

    def write_chunk(self, index: int, data: Buffer) -> None:
        view = memoryview(data)
        if not is_zero(view):
            write_fully(self._descriptor, view, index * CHUNK_BYTES)

    def sync(self) -> None:
        """Who made the image does that."""


if TYPE_CHECKING:

    def _conforms(image: _Image) -> ChunkSink:
        return image
