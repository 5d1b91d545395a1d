"""The log of an import on disk: written while the source is read, read to compare the volume."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from volcrypt.durable import no_space_named, open_regular, write_fully
from volcrypt.errors import MalformedError, RecordMissingError, RollbackError
from volcrypt.formats.import_cursor import ImportCursor
from volcrypt.formats.import_log import ENTRY_BYTES, ImportChain, read_entries
from volcrypt.geometry import chunk_count
from volcrypt.names import VolumeId
from volcrypt.operations.home import Home
from volcrypt.operations.import_cursors import log_path


class ImportLog:
    """Open to go on with it. Close it, or use it as a context manager."""

    def __init__(self, home: Home, cursor: ImportCursor) -> None:
        """At the place that the cursor covers; what was written behind it is cut off. Raises
        MalformedError when it was cut short before."""
        self.entries = cursor.entries
        self._chain = ImportChain(_key(home, cursor.volume_id), chain=cursor.chain)
        self._path = log_path(home, cursor.volume_id)
        self._pending = bytearray()
        with no_space_named(self._path):
            self._descriptor = open_regular(self._path, os.O_RDWR | os.O_CREAT)
        self._size_bytes = self.entries * ENTRY_BYTES
        found = os.fstat(self._descriptor).st_size
        if found < self._size_bytes:
            os.close(self._descriptor)
            raise MalformedError(_what(cursor), "it was cut short")
        if found > self._size_bytes:
            os.ftruncate(self._descriptor, self._size_bytes)

    @property
    def chain(self) -> bytes:
        return self._chain.chain

    def add(self, index: int, digest: bytes) -> None:
        self._pending += self._chain.entry(index, digest)
        self.entries += 1

    def sync(self) -> None:
        """Durable on return, but for its name: writing the cursor syncs the directory."""
        with no_space_named(self._path):
            write_fully(self._descriptor, self._pending, self._size_bytes)
            os.fdatasync(self._descriptor)
        self._size_bytes += len(self._pending)
        self._pending.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)


def read_log(home: Home, cursor: ImportCursor) -> Iterator[tuple[int, bytes]]:
    """Indexes and digests of the chunks that a cursor covers. Raises IntegrityError and FormatError
    for another log, at its end the latest: until then nothing of it may be believed."""
    chain = ImportChain(_key(home, cursor.volume_id))
    yield from _read(chain, cursor, _entries(home, cursor, cursor.entries))
    if chain.chain != cursor.chain:
        raise RollbackError(_what(cursor))


def first_of_log(home: Home, cursor: ImportCursor) -> tuple[int, bytes] | None:
    """Index and digest of the first chunk with data; not believed before the whole log is read."""
    chain = ImportChain(_key(home, cursor.volume_id))
    return next(_read(chain, cursor, _entries(home, cursor, min(cursor.entries, 1))), None)


def _read(
    chain: ImportChain, cursor: ImportCursor, entries: Iterator[bytes]
) -> Iterator[tuple[int, bytes]]:
    return read_entries(chain, entries, chunks=chunk_count(cursor.size_bytes), what=_what(cursor))


def _entries(home: Home, cursor: ImportCursor, count: int) -> Iterator[bytes]:
    if count == 0:
        return
    path: Path = log_path(home, cursor.volume_id)
    try:
        descriptor = open_regular(path, os.O_RDONLY)
    except FileNotFoundError as error:
        raise RecordMissingError(_what(cursor)) from error
    with os.fdopen(descriptor, "rb") as file:
        for _ in range(count):
            yield file.read(ENTRY_BYTES)


def _key(home: Home, volume_id: VolumeId) -> bytearray:
    """What masks the digests."""
    return home.vault.derive_home_key(b"volcrypt import log\0" + volume_id.encode())


def _what(cursor: ImportCursor) -> str:
    return f"log of the import into volume {cursor.volume_id}"
