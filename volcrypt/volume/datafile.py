"""DataFile: positional I/O on what holds a volume's ciphertext, a regular file or a block device.

It knows offsets, the kernel's page cache and what the kernel reports; it knows nothing of keys,
of holes as zeros or of who else may write. Byte 0 is byte 0 of the volume: no header.

Lost writes. After a failed fdatasync Linux marks the lost pages clean, and the next fdatasync
succeeds: believing it would acknowledge data that is gone. So the first failure is final for an
open DataFile: every later write and sync raises ReadOnlyError. Opening for writing drops the page
cache, because a page whose write failed may still be there and differ from the medium. Syncs of
one file are serialised: the kernel reports an error once per open file, and of two at a time the
second would be told "success".

Safe for several threads at once: every transfer names its offset.
"""

import errno
import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

from typing_extensions import Buffer

from volcrypt.durable import held_directory, no_space_named, sync_directory
from volcrypt.errors import (
    IntegrityError,
    InvalidArgumentError,
    PrivilegeError,
    ReadOnlyError,
    VolumeInUseError,
)
from volcrypt.geometry import CHUNK_BYTES, ByteRange, chunk_range, chunks_of
from volcrypt.names import is_volume_id
from volcrypt.volume.allocation import (
    begin_write_back,
    check_length,
    deallocate,
    open_data,
    reserve,
    too_large,
)

# The page cache keeps what one call writes in one piece (a large folio), and ext4 goes through all
# blocks of a piece for each later write to any of them: 40 us of 4 KiB in 1 MiB, 11 us here.
_WRITTEN_AT_ONCE: Final = 256 * 1024


class DataFile:
    """An open data file. Close it, or use it as a context manager."""

    def __init__(
        self,
        descriptor: int,
        path: Path,
        size_bytes: int,
        *,
        is_device: bool,
        read_only: bool,
        keeps_room: bool = False,
    ) -> None:
        """Internal: use `create` or `open`. Takes the descriptor over."""
        self._keeps_room = keeps_room
        self.path = path
        self.size_bytes = size_bytes
        self.is_device = is_device
        self.read_only = read_only
        self._descriptor = descriptor
        self._sync_lock = threading.Lock()
        self._failed = False

    @classmethod
    def create(cls, path: Path, size_bytes: int, *, preallocate: bool = False) -> Self:
        """Make a file of `size_bytes`, mode 0600, durably, and open it; sparse, or with all its
        room taken at once.

        Raises InvalidArgumentError when something is at `path` or the file system cannot hold so
        large a file, NoSpaceError; after an error nothing is left.
        """
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
            follow = not is_volume_id(path.parent.name)
            with no_space_named(path), held_directory(path.parent, follow=follow) as place:
                descriptor = os.open(path.name, flags, 0o600, dir_fd=place)
        except FileExistsError as error:
            raise InvalidArgumentError(f"{path} exists already") from error
        except PermissionError as error:
            raise PrivilegeError(f"no permission to create {path}") from error
        try:
            with no_space_named(path):
                os.ftruncate(descriptor, size_bytes)
                if preallocate:
                    reserve(descriptor, path, 0, size_bytes)
                os.fsync(descriptor)
                sync_directory(path.parent)
        except BaseException as error:
            os.close(descriptor)
            path.unlink(missing_ok=True)
            if isinstance(error, OSError) and error.errno in (errno.EFBIG, errno.EINVAL):
                raise too_large(path, size_bytes) from error
            raise
        return cls(descriptor, path, size_bytes, is_device=False, read_only=False)

    @classmethod
    def open(
        cls, path: Path, size_bytes: int, *, read_only: bool = False, keeps_room: bool = False
    ) -> Self:
        """Open the data file of a volume of `size_bytes`; `keeps_room`: none of it is given back.

        Raises RecordMissingError when nothing is there, IntegrityError when it is shorter than
        the volume, InvalidArgumentError when it is neither a file nor a block device,
        VolumeInUseError when the kernel uses the device, or another home writes to the file,
        PrivilegeError.
        """
        # On a device O_EXCL asks the kernel to refuse while it is mounted or claimed; a file that
        # is there already does not care.
        flags = os.O_RDONLY if read_only else os.O_RDWR | os.O_EXCL
        descriptor, is_device = open_data(path, flags)
        try:
            check_length(descriptor, path, size_bytes)
            if not read_only:
                if not is_device:
                    _claim(descriptor, path)
                _forget_pages(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        return cls(
            descriptor,
            path,
            size_bytes,
            is_device=is_device,
            read_only=read_only,
            keeps_room=keeps_room,
        )

    def fileno(self) -> int:
        return self._descriptor

    def close(self) -> None:
        """Does not sync. May be called twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read_into(self, offset: int, buffer: Buffer) -> None:
        """Fill `buffer` from `offset`. Raises OSError as the kernel reports it."""
        view = memoryview(buffer)
        while True:
            count = os.preadv(self._descriptor, [view], offset)
            if count == view.nbytes:
                return
            if count == 0:
                raise IntegrityError(f"data file {self.path} ends at {offset}, it was cut short")
            view = view[count:]
            offset += count

    def try_read_into(self, offset: int, buffer: Buffer) -> bool:
        """Fill `buffer` if that needs no waiting for the medium.

        False: it would block (or the file system cannot tell), and `buffer` may hold anything.
        """
        view = memoryview(buffer)
        try:
            # A short count means that only the first part is in the page cache.
            return os.preadv(self._descriptor, [view], offset, os.RWF_NOWAIT) == view.nbytes
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EOPNOTSUPP):
                return False
            raise

    def write(self, offset: int, data: Buffer) -> None:
        """Write `data` at `offset`, into the page cache.

        Raises ReadOnlyError, NoSpaceError (some of `data` may be written), OSError.
        """
        self._check_writable()
        view = memoryview(data)
        with no_space_named(self.path):
            while True:
                room = _WRITTEN_AT_ONCE - offset % _WRITTEN_AT_ONCE
                count = os.pwrite(self._descriptor, view[:room], offset)
                if count == view.nbytes:
                    return
                view = view[count:]
                offset += count

    def deallocate(self, offset: int, length: int) -> None:
        """Make a range of whole data units read zeros, and give its room back unless that is kept.

        Raises ReadOnlyError, NoSpaceError (to cut an extent in two takes some), OSError; any of the
        range may then read zeros.
        """
        self._check_writable()
        with no_space_named(self.path):
            deallocate(self._descriptor, offset, length, keeps_room=self._keeps_room)

    def next_data(self, offset: int, end: int) -> int:
        """Where at or after `offset` something may be that is not zeros; `end` if not before."""
        return next((extent.offset for extent in self.data_extents(offset, end)), end)

    def sync(self) -> None:
        """Make everything written before durable (fdatasync; with it the file's size).

        Raises NoSpaceError or OSError when something written was lost, and from then on
        ReadOnlyError, since nothing later may claim success for it.
        """
        with self._sync_lock:
            self._check_not_failed()
            try:
                with no_space_named(self.path):
                    os.fdatasync(self._descriptor)
            except BaseException:
                self._failed = True
                raise

    def begin_write_back(self, offset: int, length: int) -> None:
        """For who writes a lot and syncs later: the medium need not wait until then."""
        begin_write_back(self._descriptor, offset, length)

    def grow(self, size_bytes: int) -> None:
        """Serve more of what is there, since it was extended. Raises IntegrityError."""
        check_length(self._descriptor, self.path, size_bytes)
        self.size_bytes = size_bytes

    def drop_cache(self) -> None:
        """Sync, then forget the cached pages: the next read comes from the medium."""
        self.sync()
        _forget_pages(self._descriptor)

    def data_extents(self, start: int, end: int) -> Iterator[ByteRange]:
        """Where between `start` and `end` data may be, ascending; what lies between is holes."""
        if self.is_device:
            if start < end:
                yield ByteRange(start, end - start)
            return
        while start < end:
            try:
                start = os.lseek(self._descriptor, start, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    return
                raise
            if start >= end:
                return
            hole = min(os.lseek(self._descriptor, start, os.SEEK_HOLE), end)
            yield ByteRange(start, hole - start)
            start = hole

    def candidate_chunks(self, first: int = 0) -> Iterator[int]:
        """Indexes of the chunks from `first` on that may hold data, ascending."""
        following = first
        for extent in self.data_extents(first * CHUNK_BYTES, self.size_bytes):
            chunks = chunks_of(extent)
            yield from range(max(chunks.start, following), chunks.stop)
            following = chunks.stop

    def candidate_bytes(self, first: int = 0, stop: int | None = None) -> int:
        """How many bytes the chunks from `first` on, before `stop`, have that may hold data."""
        end = self.size_bytes if stop is None else min(stop * CHUNK_BYTES, self.size_bytes)
        count = 0
        following = first
        for extent in self.data_extents(first * CHUNK_BYTES, end):
            chunks = chunks_of(extent)
            begin = max(chunks.start, following) * CHUNK_BYTES
            count += max(0, min(chunks.stop * CHUNK_BYTES, self.size_bytes) - begin)
            following = chunks.stop
        return count

    def read_chunk(self, index: int, buffer: Buffer) -> None:
        """Ciphertext of chunk `index`; `buffer` has the length of that chunk."""
        self.read_into(self._chunk_offset(index, buffer), buffer)

    def write_chunk(self, index: int, data: Buffer) -> None:
        """Replace the ciphertext of chunk `index` by `data`, which has the chunk's length."""
        self.write(self._chunk_offset(index, data), data)

    def _chunk_offset(self, index: int, buffer: Buffer) -> int:
        chunk = chunk_range(index, self.size_bytes)
        assert 0 < chunk.length == memoryview(buffer).nbytes, "internal error: not a whole chunk"
        return chunk.offset

    def _check_writable(self) -> None:
        if self.read_only:
            raise ReadOnlyError(f"data file {self.path} is open for reading only")
        self._check_not_failed()

    def _check_not_failed(self) -> None:
        if self._failed:
            raise ReadOnlyError(
                f"an earlier sync of data file {self.path} failed",
                hint="check the storage, then close and open the volume again",
            )


def _claim(descriptor: int, path: Path) -> None:
    """Be the only one who has the file open for writing: two homes may have the same volume."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise VolumeInUseError(
            str(path), "another process, perhaps of another home", kind="file"
        ) from error
    except OSError as error:
        # Some network file systems have no locks.
        if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
            raise


def _forget_pages(descriptor: int) -> None:
    # Only clean pages go; not every file system can, and then there is no cache to distrust.
    with suppress(OSError):
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
