"""One run of an import: copies from where the cursor is, and compares; `images` has the theory."""

import heapq
import time
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from itertools import groupby
from pathlib import Path
from typing import Final

from volcrypt.crypto.digest import DigestAlgorithm
from volcrypt.crypto.xts import is_zero
from volcrypt.durable import no_space_named
from volcrypt.errors import VerificationError, VolcryptError
from volcrypt.formats.import_cursor import ImportCursor, ImportStep
from volcrypt.formats.import_log import ContentDigest
from volcrypt.formats.volume_record import VolumeRecord
from volcrypt.geometry import (
    CHUNK_BYTES,
    ByteRange,
    chunk_count,
    chunk_range,
    chunks_of,
)
from volcrypt.operations.home import Home
from volcrypt.operations.image_sources import ImageSource, OpenImage, lasting_path
from volcrypt.operations.import_cursors import finish_import, save_import
from volcrypt.operations.import_logs import ImportLog, read_log
from volcrypt.operations.new_files import data_runs
from volcrypt.operations.progress import Progress
from volcrypt.operations.records import data_path
from volcrypt.operations.volumes import new_record, opened_volume
from volcrypt.volume.datafile import DataFile
from volcrypt.volume.volume import Volume

CURSOR_BYTES: Final = 32 * 2**20
"""At least so much lies between two changes of a cursor, ..."""
CURSOR_PARTS: Final = 64
"""... or the whole divided by this, if that is more."""
CHUNK_DIGEST: Final = DigestAlgorithm.BLAKE3


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportReport:
    """What was imported. `data_bytes` are in data units that are not all zeros; `done_before` of
    the source's bytes were copied by calls that were interrupted. `content_digest` is that of
    `ContentDigest`, `sha256` of the raw image where one was expected."""

    record: VolumeRecord
    source: Path
    source_bytes: int
    data_bytes: int
    read_bytes: int
    was_resumed: bool
    content_digest: str
    sha256: str | None
    seconds: float


class ImportRun:
    """One run, from where the cursor is. The caller owns the volume to be."""

    def __init__(
        self, home: Home, source: Path, image: OpenImage, cursor: ImportCursor, progress: Progress
    ) -> None:
        self.cursor = cursor
        self._home = home
        self._source = source
        self._place = lasting_path(source)
        self._image = image
        self._progress = progress
        self._was_resumed = not self.is_fresh
        self._read_bytes = 0

    @property
    def is_fresh(self) -> bool:
        """Nothing is done yet that would have to be done again."""
        return self.cursor.next_chunk == 0

    def finish(self, name: str | None, expect_sha256: str | None, started: float) -> ImportReport:
        home, cursor = self._home, self.cursor
        record = new_record(
            home,
            volume_id=cursor.volume_id,
            size_bytes=cursor.size_bytes,
            name=name,
            wrapped_key=cursor.wrapped_key,
        )
        path = data_path(home, record)
        with no_space_named(path):
            if cursor.step is ImportStep.COPY:
                if cursor.generation == 0:
                    DataFile.create(path, cursor.size_bytes).close()
                self._copy(record)
            content, whole = self._verify(record, expect_sha256)
            finish_import(home, self.cursor, record)
        return ImportReport(
            record=record,
            source=self._source,
            source_bytes=self._image.content.size_bytes,
            data_bytes=self.cursor.data_bytes,
            read_bytes=self._read_bytes,
            was_resumed=self._was_resumed,
            content_digest=content,
            sha256=whole,
            seconds=time.monotonic() - started,
        )

    def _save(self, **changes: object) -> None:
        self.cursor = save_import(self._home, self._place, self.cursor, **changes)

    def _copy(self, record: VolumeRecord) -> None:
        content, size_bytes = self._image.content, record.size_bytes
        buffer = memoryview(bytearray(CHUNK_BYTES))
        # Opened before there is a cursor: who may not use the key leaves nothing behind.
        with opened_volume(self._home, record, read_only=False) as (volume, _):
            if self.cursor.generation == 0:
                with self._home.exclusive():  # what has no cursor is somebody's leftover
                    self._save()
            first = self.cursor.next_chunk * CHUNK_BYTES
            total = sum(each.length for each in content.data_extents(first, content.size_bytes))
            self._progress.begin(f"importing {self._source}", total)
            step_bytes = max(CURSOR_BYTES, total // CURSOR_PARTS)
            data_bytes, covered = self.cursor.data_bytes, 0
            with ImportLog(self._home, self.cursor) as log:
                for index in _chunks_with_data(content, self.cursor.next_chunk):
                    chunk = chunk_range(index, size_bytes)
                    piece = buffer[: chunk.length]
                    self._read_bytes += self._read(chunk, piece)
                    if not is_zero(piece):
                        log.add(index, CHUNK_DIGEST.digest(piece))
                        data_bytes += _write_data(volume, chunk.offset, piece)
                    self._progress.advance(self._read_bytes)
                    if self._read_bytes - covered >= step_bytes:
                        self._cover(volume, log, next_chunk=index + 1, data_bytes=data_bytes)
                        covered = self._read_bytes
                self._cover(
                    volume,
                    log,
                    next_chunk=chunk_count(size_bytes),
                    data_bytes=data_bytes,
                    step=ImportStep.VERIFY,
                )
            buffer[:] = bytes(CHUNK_BYTES)

    def _read(self, chunk: ByteRange, piece: memoryview) -> int:
        try:
            return read_chunk(self._image.content, chunk, piece)
        except OSError as error:
            raise VolcryptError(
                f"{self._source} cannot be read between bytes {chunk.offset} and {chunk.end}: "
                f"{error.strerror}"
            ) from error

    def _cover(self, volume: Volume, log: ImportLog, **changes: object) -> None:
        """All that was done is durable, and then the cursor says so."""
        self._image.check_unchanged()
        volume.flush()
        log.sync()
        self._save(entries=log.entries, chain=log.chain, **changes)

    def _verify(self, record: VolumeRecord, expect_sha256: str | None) -> tuple[str, str | None]:
        """Compare what is on the medium with what was read; the digest of the content, and that of
        the whole image where one is expected, for which all is read."""
        whole = None if expect_sha256 is None else _WholeDigest(self._image.content.size_bytes)
        skip = self.cursor.verified_entries if whole is None else 0
        total = (self.cursor.entries - skip) * CHUNK_BYTES
        step_bytes = max(CURSOR_BYTES, total // CURSOR_PARTS)
        buffer = memoryview(bytearray(CHUNK_BYTES))
        content = ContentDigest(record.size_bytes)
        with opened_volume(self._home, record, read_only=True) as (volume, data):
            data.drop_cache()
            self._progress.begin("comparing with the medium", total)
            seen = covered = 0
            for index, digest in self._candidates(data):
                chunk = chunk_range(index, record.size_bytes)
                if digest is not None:
                    content.add(index, digest)
                    seen += 1
                if seen < skip or (seen == skip and digest is not None):
                    continue
                piece = buffer[: chunk.length]
                volume.read_into(chunk.offset, piece)
                self._check(chunk, piece, digest)
                if whole is not None:
                    whole.add(chunk.offset, piece)
                done = (seen - skip) * CHUNK_BYTES
                self._progress.advance(done)
                if done - covered >= step_bytes:
                    self._save(verified_entries=seen)
                    covered = done
        buffer[:] = bytes(CHUNK_BYTES)
        found = None if whole is None else whole.hex()
        if found != expect_sha256:
            raise VerificationError(
                f"{self._source} has the SHA-256 {found}, and {expect_sha256} was expected"
            )
        return content.hex(), found

    def _candidates(self, data: DataFile) -> Iterator[tuple[int, bytes | None]]:
        """Ascending chunks with what is expected of them: None for zeros."""
        entries: Iterator[tuple[int, bytes | None]] = iter(read_log(self._home, self.cursor))
        present = ((index, None) for index in data.candidate_chunks())
        merged = heapq.merge(present, entries, key=lambda pair: pair[0])
        for index, group in groupby(merged, key=lambda pair: pair[0]):
            yield index, next((digest for _, digest in group if digest is not None), None)

    def _check(self, chunk: ByteRange, piece: memoryview, digest: bytes | None) -> None:
        if is_zero(piece) if digest is None else CHUNK_DIGEST.digest(piece) == digest:
            return
        raise VerificationError(
            f"what was written of {self._source} between bytes {chunk.offset} and {chunk.end} is "
            "not what the medium gives back",
            hint="the volume is removed; look at the medium before you try again",
        )


def _chunks_with_data(content: ImageSource, first: int) -> Iterator[int]:
    following = first
    for extent in content.data_extents(first * CHUNK_BYTES, content.size_bytes):
        chunks = chunks_of(extent)
        yield from range(max(chunks.start, following), chunks.stop)
        following = max(following, chunks.stop)


def read_chunk(content: ImageSource, chunk: ByteRange, piece: memoryview) -> int:
    """Fill `piece` with what the source has there, and zeros; how much was read."""
    got = 0
    end = chunk.offset
    for extent in content.data_extents(chunk.offset, chunk.end):
        start = extent.offset - chunk.offset
        piece[end - chunk.offset : start] = bytes(extent.offset - end)
        content.read_into(extent.offset, piece[start : start + extent.length])
        end = extent.end
        got += extent.length
    piece[end - chunk.offset :] = bytes(chunk.end - end)
    return got


def _write_data(volume: Volume, offset: int, piece: memoryview) -> int:
    """Zeros stay holes; how much was written."""
    written = 0
    for start, end in data_runs(piece):
        volume.write(offset + start, piece[start:end])
        written += end - start
    return written


class _WholeDigest:
    """SHA-256 of an image of so many bytes, of which the chunks with data are given in order."""

    def __init__(self, size_bytes: int) -> None:
        self._hash = sha256()
        self._size_bytes = size_bytes
        self._done = 0

    def add(self, offset: int, piece: memoryview) -> None:
        self._skip_to(offset)
        self._hash.update(piece[: self._size_bytes - offset])
        self._done = min(offset + len(piece), self._size_bytes)

    def hex(self) -> str:
        self._skip_to(self._size_bytes)
        return self._hash.hexdigest()

    def _skip_to(self, offset: int) -> None:
        zeros = bytes(CHUNK_BYTES)
        while self._done < offset:
            count = min(CHUNK_BYTES, offset - self._done)
            self._hash.update(zeros[:count])
            self._done += count
