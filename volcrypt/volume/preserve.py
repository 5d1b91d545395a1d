"""Copy before write: the ciphertext of chunks that are written to while a snapshot still needs it.

The process that serves the volume keeps a chunk before it lets the first write to it begin
(`PreservedChunks`); the process that stores the snapshot reads a chunk from the data file, and then
looks whether it was kept meanwhile (`PreservedReader`). Looking afterwards is what makes it right:
a chunk that is not marked as kept now had no write before now, so what was read is what it held.

Two kinds of files, handed from one process to the other as descriptors, since they have no name: so
nothing is left of them, whoever is killed.

    segments    on disk, sparse, 8 TiB of the volume each (ext4 holds files of 16 TiB, a volume may
                have 64): a chunk that was kept, at its own offset. A chunk of zeros stays a hole.
    marks       in memory, 8 bytes a chunk: zeros, or the first 8 bytes of the BLAKE3 digest of the
                kept chunk, the lowest bit set; written after the chunk is.

Rationale. The segments are never synced: they mean nothing after a crash. But a disk may lose pages
and say so only to who syncs, and zeros or older bytes would be read in their place; a chunk that
does not fit its mark is refused. A mark that is being written while it is read may be seen in part,
so who finds that it does not fit reads it once more.
"""

import errno
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, Protocol, Self

from typing_extensions import Buffer

from volcrypt.crypto.digest import DigestAlgorithm
from volcrypt.crypto.xts import is_zero
from volcrypt.durable import no_space_named, read_fully, write_fully
from volcrypt.errors import IntegrityError
from volcrypt.geometry import CHUNK_BYTES, ByteRange, chunk_count, chunk_range

SEGMENT_BYTES: Final = 8 * 2**40
MARK_BYTES: Final = 8
_NAME: Final = ".preserved"
_NO_MARK: Final = bytes(MARK_BYTES)


class Ciphertext(Protocol):
    """What chunks are kept from; `DataFile` has it."""

    @property
    def path(self) -> Path: ...
    @property
    def size_bytes(self) -> int: ...
    def read_into(self, offset: int, buffer: Buffer) -> None: ...
    def data_extents(self, start: int, end: int) -> Iterator[ByteRange]: ...


class PreservedChunks:
    """The chunks that one capture kept. Safe for several threads, for different chunks."""

    def __init__(self, data: Ciphertext, directory: Path) -> None:
        """For `data` as large as it is now; the segments lie in the file system of `directory`.

        Raises NoSpaceError and OSError.
        """
        self._data = data
        self._directory = directory
        self._size_bytes = size_bytes = data.size_bytes
        self._buffers: list[memoryview] = []
        self._descriptors: list[int] = []
        try:
            self._descriptors.append(os.memfd_create("preserved-marks", os.MFD_CLOEXEC))
            os.ftruncate(self._descriptors[0], MARK_BYTES * chunk_count(size_bytes))
            for _ in range(-(-size_bytes // SEGMENT_BYTES)):
                self._descriptors.append(_nameless_file(directory))
        except BaseException:
            self.close()
            raise

    @property
    def descriptors(self) -> Sequence[int]:
        """What a `PreservedReader` is made from; they are closed by `close`."""
        return self._descriptors

    @property
    def takes_room_of_data(self) -> bool:
        """Whether what is kept takes room in the file system that the data lies in."""
        kept = [os.fstat(descriptor) for descriptor in self._descriptors[1:]]
        return (
            any(status.st_blocks for status in kept)
            and kept[0].st_dev == self._data.path.stat().st_dev
        )

    def keep(self, chunk: int) -> None:
        """Copy a chunk, to which nobody writes meanwhile. Raises NoSpaceError, OSError."""
        extent = chunk_range(chunk, self._size_bytes)
        buffer = self._buffers.pop() if self._buffers else memoryview(bytearray(CHUNK_BYTES))
        try:
            view = buffer[: extent.length]
            # The kernel would fill its page cache with the zeros of a hole.
            if any(self._data.data_extents(extent.offset, extent.end)):
                self._data.read_into(extent.offset, view)
            else:
                view[:] = bytes(extent.length)
            mark = _mark_of(view)
            if not is_zero(view):
                self._write(extent.offset, view)
            write_fully(self._descriptors[0], mark, chunk * MARK_BYTES)
        finally:
            self._buffers.append(buffer)

    def discard(self) -> None:
        """Give the room on disk back, though somebody may still read: there will be no snapshot."""
        for descriptor in self._descriptors[1:]:
            os.ftruncate(descriptor, 0)

    def close(self) -> None:
        """What was kept is gone, also for readers. May be called twice."""
        self.discard()
        while self._descriptors:
            os.close(self._descriptors.pop())

    def _write(self, offset: int, view: memoryview) -> None:
        segment, offset = divmod(offset, SEGMENT_BYTES)
        with no_space_named(self._directory):
            write_fully(self._descriptors[1 + segment], view, offset)


class PreservedReader:
    """The other side, in the process that stores the snapshot. Safe for several threads."""

    def __init__(self, descriptors: Sequence[int]) -> None:
        """Takes them over."""
        self._descriptors = list(descriptors)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """May be called twice."""
        while self._descriptors:
            os.close(self._descriptors.pop())

    def replace(self, chunk: int, buffer: Buffer) -> None:
        """If `chunk` was kept, fill `buffer`, which has its length, with what it held.

        Raises IntegrityError when that was lost.
        """
        mark = self._mark(chunk)
        while mark != _NO_MARK:
            self._read(chunk * CHUNK_BYTES, memoryview(buffer))
            if _mark_of(buffer) == mark:
                return
            seen, mark = mark, self._mark(chunk)
            if seen == mark:
                raise IntegrityError(f"what chunk {chunk} held before it was written to is lost")

    def _mark(self, chunk: int) -> bytes:
        return read_fully(self._descriptors[0], MARK_BYTES, chunk * MARK_BYTES)

    def _read(self, offset: int, view: memoryview) -> None:
        """Holes read zeros, and so does what is behind the end of a segment."""
        segment, offset = divmod(offset, SEGMENT_BYTES)
        while view:
            count = os.preadv(self._descriptors[1 + segment], [view], offset)
            if count == 0:
                view[:] = bytes(len(view))
                return
            view, offset = view[count:], offset + count


def _mark_of(chunk: Buffer) -> bytes:
    digest = DigestAlgorithm.BLAKE3.digest(chunk)
    return bytes([digest[0] | 1]) + digest[1:MARK_BYTES]


def _nameless_file(directory: Path) -> int:
    try:
        return os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        # What a file system says that cannot do it (and a kernel that does not know the flag).
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT):
            with no_space_named(directory):
                raise
    path = directory / _NAME
    path.unlink(missing_ok=True)  # of one that was killed between the next two
    with no_space_named(directory):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    path.unlink()
    return descriptor
