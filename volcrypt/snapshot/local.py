"""LocalObjects: an object store in a directory, which survives kills and power cuts.

An object is a file: written without a name, then linked to it, which fails when the name is taken;
where a file system has no files without names (O_TMPFILE) it is written under `tmp/`, as is what
replaces another. Objects that are put one by one are synced before they are linked, and their
directory after it, so a document is there whole or not at all. Batched objects are linked at once
and made durable together by one syncfs: fsync for each chunk costs half of the throughput. They go
past the page cache where the file system lets them: nobody is about to read them, and what they
would push out of it is of more use. Until the syncfs a power cut can leave an empty or short file
under a final name, so an object that exists counts as stored only after its content was checked.

syncfs reports every failed write-back since its descriptor was opened. After a failure the kernel
holds lost pages for clean, and later syncs would succeed: so the names put since the last good sync
are removed, and nothing can be written through this object any more.

`tmp/XXXX/` belongs to one LocalObjects, which holds a lock on it; those without a holder are the
leftovers of killed ones, and the next writer removes them.
"""

import ctypes
import errno
import fcntl
import itertools
import os
import re
import shutil
import stat
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from typing_extensions import Buffer

from volcrypt.durable import make_directory_durably, no_space_named, read_file, sync_directory
from volcrypt.errors import (
    InvalidArgumentError,
    MalformedError,
    ObjectNotFoundError,
    ObjectStoreError,
    StoreNotFoundError,
)
from volcrypt.formats.document import MAX_DOCUMENT_BYTES
from volcrypt.snapshot.objects import ObjectStore

STAGING: Final = "tmp"
_NAME = re.compile(r"(?:[A-Za-z0-9_-][A-Za-z0-9._-]*/)*[A-Za-z0-9_-][A-Za-z0-9._-]*")
# Directories of names; ours have at most two.
_MAX_DEPTH: Final = 4
_DIRECT_BYTES: Final = 4096
"""What is a multiple of this is written directly; where that is not enough, the system says so."""
_LIBC = ctypes.CDLL(None, use_errno=True)


class LocalObjects:
    """Objects below `path`, which exists. Close it to give up its staging directory."""

    in_flight = 4

    def __init__(self, path: Path) -> None:
        """Raises StoreNotFoundError when there is no such directory."""
        self._path = path
        try:
            self._directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise StoreNotFoundError(str(path)) from error
        self._lock = threading.Lock()
        self._staging: str | None = None
        self._staging_lock = -1
        self._staged_count = itertools.count()
        self._unsynced: list[str] = []
        self._failed = False
        self._has_unnamed = True
        self._has_direct = True

    @classmethod
    def create(cls, path: Path) -> Self:
        """Make the directory, durably, unless it is there. Raises InvalidArgumentError where
        something else is."""
        try:
            make_directory_durably(path)
        except (FileExistsError, NotADirectoryError) as error:
            raise InvalidArgumentError(f"{error.filename} is not a directory") from error
        return cls(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def location(self) -> str:
        return str(self._path)

    def close(self) -> None:
        """Give up the staging directory and the descriptors. Not after it was closed."""
        if self._staging is not None:
            shutil.rmtree(self._staging, ignore_errors=True)
            os.close(self._staging_lock)
            self._staging = None
        os.close(self._directory)

    # ------------------------------------------------------------ the port

    def put_if_absent(self, name: str, data: Buffer, *, batched: bool = False) -> bool:
        target = self._path_of(name)
        with self._errors_translated(name):
            if os.path.lexists(target):
                if not batched:
                    self._make_durable(target)
                return False
            try:
                if not self._put_unnamed(data, target, durable=not batched):
                    self._put_staged(data, target, durable=not batched)
            except FileExistsError:
                if not batched:
                    self._make_durable(target)
                return False
            if batched:
                with self._lock:
                    self._unsynced.append(name)
        return True

    def replace(self, name: str, data: Buffer, *, batched: bool = False) -> None:
        target = self._path_of(name)
        with self._errors_translated(name):
            self._make_parents(target, durable=not batched)
            os.replace(self._stage(data, durable=not batched), target)
            if not batched:
                sync_directory(Path(target).parent)

    def get(self, name: str) -> bytes:
        with self._errors_translated(name):
            # Directories may be links, as for all calls here: what an object holds is verified.
            path = Path(self._path_of(name))
            return read_file(path, limit_bytes=MAX_DOCUMENT_BYTES, follow=True)

    def get_into(self, name: str, buffer: Buffer) -> int:
        with self._errors_translated(name):
            flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
            descriptor = os.open(self._path_of(name), flags)
            try:
                status = os.fstat(descriptor)
                if not stat.S_ISREG(status.st_mode):
                    raise MalformedError(f"object {name}", "not a regular file")
                length = status.st_size
                rest = memoryview(buffer).cast("B")
                while rest and (count := os.readv(descriptor, [rest])):
                    rest = rest[count:]
                return length
            finally:
                os.close(descriptor)

    def list(self, prefix: str) -> Iterator[str]:
        directory = prefix.rpartition("/")[0]
        with self._errors_translated(prefix):
            for name in self._names_below(directory):
                if name.startswith(prefix) and not name.startswith(f"{STAGING}/"):
                    yield name

    def delete(self, name: str) -> None:
        with self._errors_translated(name), suppress(FileNotFoundError):
            os.unlink(self._path_of(name))

    def sync(self) -> None:
        with self._lock:
            self._check_usable()
            unsynced, self._unsynced = self._unsynced, []
        try:
            self._sync_file_system()
        except OSError as error:
            self._failed = True
            for name in unsynced:
                with suppress(OSError):
                    os.unlink(self._path_of(name))
            raise ObjectStoreError(
                f"objects could not be made durable in {self._path}: {error.strerror}"
            ) from error

    # ------------------------------------------------------------ files

    def _path_of(self, name: str) -> str:
        assert _NAME.fullmatch(name), f"internal error: {name!r} is no name of an object"
        return f"{self._path}/{name}"

    def _names_below(self, directory: str) -> Iterator[str]:
        try:
            entries = sorted(os.scandir(f"{self._path}/{directory}"), key=lambda entry: entry.name)
        except (FileNotFoundError, NotADirectoryError):
            return
        for entry in entries:
            name = f"{directory}/{entry.name}" if directory else entry.name
            if not _NAME.fullmatch(name):
                continue  # nobody of us made it, and no object could be asked for by it
            if not entry.is_dir(follow_symlinks=False):
                yield name
            elif name.count("/") < _MAX_DEPTH:
                yield from self._names_below(name)

    def _put_unnamed(self, data: Buffer, target: str, *, durable: bool) -> bool:
        """Write a file that has no name until it is whole: no other writer waits for a directory,
        and a kill leaves nothing. False where the file system has no such files.

        Raises FileExistsError.
        """
        self._check_usable()
        if not self._has_unnamed:
            return False
        parent = os.path.dirname(target)
        direct = not durable and memoryview(data).nbytes % _DIRECT_BYTES == 0
        try:
            try:
                descriptor = self._open_unnamed(parent, direct=direct)
            except FileNotFoundError:
                self._make_parents(target, durable=durable)
                descriptor = self._open_unnamed(parent, direct=direct)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
                raise
            self._has_unnamed = False
            return False
        try:
            self._fill(descriptor, data, durable=durable)
            # With a directory it is linkat, which follows; that one is not looked at otherwise.
            source = f"/proc/self/fd/{descriptor}"
            os.link(source, target, src_dir_fd=self._directory, follow_symlinks=True)
        finally:
            os.close(descriptor)
        if durable:
            sync_directory(Path(parent))
        return True

    def _open_unnamed(self, directory: str, *, direct: bool) -> int:
        flags = os.O_WRONLY | os.O_TMPFILE | os.O_CLOEXEC
        if direct and self._has_direct:
            try:
                return os.open(directory, flags | os.O_DIRECT, 0o600)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                self._has_direct = False
        return os.open(directory, flags, 0o600)

    def _put_staged(self, data: Buffer, target: str, *, durable: bool) -> None:
        """Write a file in the staging directory and link it. Raises FileExistsError."""
        staged = self._stage(data, durable=durable)
        try:
            try:
                os.link(staged, target)
            except FileNotFoundError:
                self._make_parents(target, durable=durable)
                os.link(staged, target)
        finally:
            os.unlink(staged)
        if durable:
            sync_directory(Path(target).parent)

    def _stage(self, data: Buffer, *, durable: bool) -> str:
        """Write `data` to a new file in the staging directory; answers its path."""
        with self._lock:
            self._check_usable()
            if self._staging is None:
                self._staging, self._staging_lock = self._open_staging()
        path = f"{self._staging}/{next(self._staged_count)}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(path, flags, 0o600)
        try:
            self._fill(descriptor, data, durable=durable)
        except BaseException:
            os.unlink(path)
            raise
        finally:
            os.close(descriptor)
        return path

    def _fill(self, descriptor: int, data: Buffer, *, durable: bool) -> None:
        rest = memoryview(data).cast("B")
        while rest:
            try:
                rest = rest[os.write(descriptor, rest) :]
            except OSError as error:
                # A buffer that does not lie on a boundary of the memory, or larger blocks.
                if error.errno != errno.EINVAL or not _stop_direct(descriptor):
                    raise
        if durable:
            self._sync_file(descriptor)

    def _make_parents(self, target: str, *, durable: bool) -> None:
        missing = [
            parent
            for parent in Path(target).parents
            if parent.is_relative_to(self._path) and not parent.is_dir()
        ]
        for parent in reversed(missing):
            if durable:
                make_directory_durably(parent)
            else:
                parent.mkdir(mode=0o700, exist_ok=True)

    def _make_durable(self, path: str) -> None:
        """An object that exists may be another writer's who was killed before his sync."""
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._sync_file(descriptor)
        finally:
            os.close(descriptor)
        sync_directory(Path(path).parent)

    def _sync_file(self, descriptor: int) -> None:
        os.fsync(descriptor)

    def _sync_file_system(self) -> None:
        if _LIBC.syncfs(self._directory) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))

    def _open_staging(self) -> tuple[str, int]:
        """A directory of our own below `tmp`, and its lock; leftovers of others are removed."""
        parent = self._path / STAGING
        parent.mkdir(mode=0o700, exist_ok=True)
        for leftover in parent.iterdir():
            if (lock := _lock_directory(str(leftover))) is not None:
                shutil.rmtree(leftover, ignore_errors=True)
                os.close(lock)
        while True:
            path = tempfile.mkdtemp(prefix="", dir=parent)
            # Another writer may take it for a leftover before it is locked.
            if (lock := _lock_directory(path)) is not None:
                return path, lock

    def _check_usable(self) -> None:
        if self._failed:
            raise ObjectStoreError(f"writing to {self._path} failed before; it must be reopened")

    @contextmanager
    def _errors_translated(self, name: str) -> Iterator[None]:
        try:
            with no_space_named(self._path):
                yield
        except FileExistsError:
            raise
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR):
                raise ObjectNotFoundError(name) from error
            if error.errno in (errno.ELOOP, errno.ENXIO):
                raise MalformedError(f"object {name}", "not a regular file") from error
            raise ObjectStoreError(
                f"object {name} in {self._path}: {error.strerror or error}"
            ) from error


def _stop_direct(descriptor: int) -> bool:
    """Write through the page cache from now on; False where that was so already."""
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    if not flags & os.O_DIRECT:
        return False
    fcntl.fcntl(descriptor, fcntl.F_SETFL, flags & ~os.O_DIRECT)
    return True


def _lock_directory(path: str) -> int | None:
    """A descriptor that holds the lock, or None when another has it or the directory is gone."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.exists(path):
            return descriptor
    except OSError:
        pass
    os.close(descriptor)
    return None


if TYPE_CHECKING:

    def _conforms(objects: LocalObjects) -> ObjectStore:
        return objects
