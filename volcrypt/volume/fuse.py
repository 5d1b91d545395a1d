"""The kernel's door: a FUSE file system of one file, `volume`, which is the plaintext of a volume.

The only module that knows pyfuse3. It translates requests for the device and errors into errno; it
decides nothing about data.

pyfuse3 keeps its state in globals, so a process serves one mount. An exception that escapes one of
its handlers ends the whole mount: `_guarded` is around each of them. It answers a read right after
its handler returns, before anything else runs, which is why a reused buffer may be returned.

Direct I/O: the caches are above (a file system on a loop device) and below (the data file's pages).
A kernel cache on this file would show old bytes, and hide dirty ones from snapshots.
"""

import errno
import functools
import logging
import os
import shutil
import socket
import stat
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NoReturn, TypeVar, cast

import pyfuse3

from volcrypt.errors import (
    ComponentMissingError,
    IntegrityError,
    MountError,
    NoSpaceError,
    ObjectStoreError,
    OutOfRangeError,
    PrivilegeError,
    ReadOnlyError,
    TryAgainError,
    VolcryptError,
)
from volcrypt.geometry import SECTOR_BYTES, UNIT_BYTES
from volcrypt.volume.device import Device
from volcrypt.volume.mountpoint import FS_TYPE, VOLUME_FILE
from volcrypt.volume.request_stats import READ, SYNC, WRITE, RequestStats

MAX_TASKS: Final = 32
"""Requests in work at once; each may hold a request's bytes twice, so this bounds the memory."""

ERRNO_TABLE: Final[Sequence[tuple[type[VolcryptError], int]]] = (
    (ReadOnlyError, errno.EROFS),
    (OutOfRangeError, errno.EFBIG),
    (NoSpaceError, errno.ENOSPC),
    (IntegrityError, errno.EIO),
    # Who reads a lazy volume is told that it failed, not to ask for ever while a store is away.
    (ObjectStoreError, errno.EIO),
    (TryAgainError, errno.EAGAIN),
    (MountError, errno.ESHUTDOWN),
)
"""The first class that fits decides; every other error of volcrypt is EIO."""

# What the kernel would take as "this file system cannot do that at all": it would never ask again,
# and tell the caller of fsync that all is well.
_MISLEADING: Final = frozenset({errno.ENOSYS, errno.EOPNOTSUPP, errno.EINTR})

_VOLUME_INODE: Final = pyfuse3.InodeT(2)
_HANDLE: Final = pyfuse3.FileHandleT(2)
# Of who opened with O_DSYNC or O_SYNC, which the kernel leaves to us. The data plane is told with
# each write; pyfuse3 is too, and does not pass it on.
_SYNCED_HANDLE: Final = pyfuse3.FileHandleT(3)
_ATTRIBUTE_SECONDS: Final = 300
_NAME: Final = VOLUME_FILE.encode()

_log: Final = logging.getLogger(__name__)

Handler = TypeVar("Handler", bound=Callable[..., Coroutine[Any, Any, object]])


def errno_of(error: Exception) -> int:
    """What a caller is told about an error."""
    if isinstance(error, OSError):
        if error.errno is None or error.errno <= 0 or error.errno in _MISLEADING:
            return errno.EIO
        return error.errno
    return next((number for kind, number in ERRNO_TABLE if isinstance(error, kind)), errno.EIO)


def _guarded(handler: Handler) -> Handler:
    """Let nothing out of a handler but its result, an errno, or the end of the process."""

    @functools.wraps(handler)
    async def guard(self: "VolumeFileSystem", *arguments: Any, **options: Any) -> object:
        try:
            return await handler(self, *arguments, **options)
        except pyfuse3.FUSEError:
            raise
        except Exception as error:
            number = errno_of(error)
            self.report(handler.__name__, error, number)
            raise pyfuse3.FUSEError(number) from None

    return cast(Handler, guard)


class VolumeFileSystem(pyfuse3.Operations):
    enable_writeback_cache = False

    def __init__(self, device: Device) -> None:
        super().__init__()
        self._device = device
        self.invalidate: Callable[[], None] = _invalidate
        """Has the kernel ask again how large the file is. With a data plane that is its business:
        what we send from here it takes for replies."""
        self.stats = RequestStats()
        """Of what is answered here, or by `DataPlane`."""
        self._reported: set[tuple[str, type[Exception], int]] = set()
        self._root = self._make_attributes(
            pyfuse3.ROOT_INODE, stat.S_IFDIR | (0o500 if device.read_only else 0o700), 0
        )
        self._file = self._make_attributes(
            _VOLUME_INODE,
            stat.S_IFREG | (0o400 if device.read_only else 0o600),
            device.size_bytes,
        )

    @_guarded
    async def read(self, fh: pyfuse3.FileHandleT, off: int, size: int) -> bytes:
        # A memoryview: pyfuse3 takes any buffer, though it declares bytes.
        with self.stats.measuring(READ) as measured:
            data = await self._device.read(off, size)
            measured.moved_bytes = len(data)
        return data  # type: ignore[return-value]

    @_guarded
    async def write(self, fh: pyfuse3.FileHandleT, off: int, buf: bytes) -> int:
        with self.stats.measuring(WRITE) as measured:
            size = await self._device.write(off, buf)
            if fh == _SYNCED_HANDLE:
                await self._device.flush()
            measured.moved_bytes = size
        return size

    @_guarded
    async def fsync(self, fh: pyfuse3.FileHandleT, datasync: bool) -> None:
        try:
            with self.stats.measuring(SYNC):
                await self._device.flush()
        except ReadOnlyError as error:
            # Programs take EROFS from fsync as "nothing to sync here".
            raise OSError(errno.EIO, str(error)) from error

    async def flush(self, fh: pyfuse3.FileHandleT) -> None:
        """close(2) promises nothing about durability."""

    async def release(self, fh: pyfuse3.FileHandleT) -> None:
        """Handles have no state."""

    async def fsyncdir(self, fh: pyfuse3.FileHandleT, datasync: bool) -> None:
        """The directory never changes."""

    @_guarded
    async def lookup(
        self, parent_inode: pyfuse3.InodeT, name: pyfuse3.FileNameT, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        if name != _NAME:
            raise pyfuse3.FUSEError(errno.ENOENT)
        return self._file

    @_guarded
    async def getattr(
        self, inode: pyfuse3.InodeT, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        return self._root if inode == pyfuse3.ROOT_INODE else self._file

    @_guarded
    async def setattr(
        self,
        inode: pyfuse3.InodeT,
        attr: pyfuse3.EntryAttributes,
        fields: pyfuse3.SetattrFields,
        fh: pyfuse3.FileHandleT | None,
        ctx: pyfuse3.RequestContext,
    ) -> pyfuse3.EntryAttributes:
        """A volume has one size, owner and mode; times may be set, and are not kept."""
        attributes = self._root if inode == pyfuse3.ROOT_INODE else self._file
        resized = fields.update_size and attr.st_size != attributes.st_size
        if resized or fields.update_mode or fields.update_uid or fields.update_gid:
            raise pyfuse3.FUSEError(errno.EROFS if self._device.read_only else errno.EPERM)
        return attributes

    @_guarded
    async def open(
        self, inode: pyfuse3.InodeT, flags: pyfuse3.FlagT, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.FileInfo:
        if self._device.read_only and flags & os.O_ACCMODE != os.O_RDONLY:
            raise pyfuse3.FUSEError(errno.EROFS)
        handle = _SYNCED_HANDLE if flags & os.O_DSYNC else _HANDLE
        return pyfuse3.FileInfo(fh=handle, direct_io=True)

    @_guarded
    async def opendir(
        self, inode: pyfuse3.InodeT, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.FileHandleT:
        return _HANDLE

    @_guarded
    async def readdir(
        self, fh: pyfuse3.FileHandleT, start_id: int, token: pyfuse3.ReaddirToken
    ) -> None:
        if start_id == 0:
            pyfuse3.readdir_reply(token, pyfuse3.FileNameT(_NAME), self._file, 1)

    async def releasedir(self, fh: pyfuse3.FileHandleT) -> None:
        """Handles have no state."""

    @_guarded
    async def statfs(self, ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        figures = pyfuse3.StatvfsData()
        figures.f_bsize = figures.f_frsize = UNIT_BYTES
        figures.f_blocks = self._device.size_bytes // UNIT_BYTES
        figures.f_bfree = figures.f_bavail = 0
        figures.f_files = 1
        figures.f_ffree = figures.f_favail = 0
        figures.f_namemax = 255
        return figures

    async def _refuse(self, *_arguments: Any, **_options: Any) -> NoReturn:
        raise pyfuse3.FUSEError(errno.EROFS if self._device.read_only else errno.EPERM)

    create = mknod = mkdir = unlink = rmdir = symlink = rename = link = _refuse

    def size_changed(self) -> None:
        """Tell the kernel, which keeps the size of the file in mind."""
        size_bytes = self._device.size_bytes
        self._file.st_size, self._file.st_blocks = size_bytes, size_bytes // SECTOR_BYTES
        self.invalidate()

    def report(self, handler: str, error: Exception, number: int) -> None:
        """Log an error, once for each of its kind: a broken disk must not fill the log too."""
        kind = (handler, type(error), number)
        if kind in self._reported:
            return
        self._reported.add(kind)
        is_known = isinstance(error, VolcryptError | OSError)
        _log.error(
            "%s answered %s: %s (later ones like it are not logged)",
            handler,
            errno.errorcode.get(number, number),
            error,
            exc_info=None if is_known else error,
        )

    @staticmethod
    def _make_attributes(
        inode: pyfuse3.InodeT, mode: int, size_bytes: int
    ) -> pyfuse3.EntryAttributes:
        attributes = pyfuse3.EntryAttributes()
        attributes.st_ino = inode
        attributes.st_mode = pyfuse3.ModeT(mode)
        attributes.st_nlink = 1
        attributes.st_uid, attributes.st_gid = os.geteuid(), os.getegid()
        attributes.st_size = size_bytes
        attributes.st_blksize = UNIT_BYTES
        attributes.st_blocks = size_bytes // SECTOR_BYTES
        attributes.entry_timeout = attributes.attr_timeout = _ATTRIBUTE_SECONDS
        now = time.time_ns()
        attributes.st_atime_ns = attributes.st_mtime_ns = attributes.st_ctime_ns = now
        return attributes


def check_fuse() -> None:
    """Raises ComponentMissingError or PrivilegeError when this process cannot mount at all."""
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC))
    except PermissionError as error:
        raise PrivilegeError("this user may not open /dev/fuse") from error
    except OSError as error:
        raise ComponentMissingError("/dev/fuse", package="fuse3") from error
    # Root mounts by itself; for others a set-user-id program does it.
    if os.geteuid() != 0 and shutil.which("fusermount3") is None:
        raise ComponentMissingError("fusermount3", package="fuse3")


def mount(file_system: VolumeFileSystem, directory: Path, *, source: str, read_only: bool) -> None:
    """Mount at a directory that `check_mount_point` accepted; `source` is what mount(8) shows.

    Nothing is answered before `serve` runs. Raises MountError with the reason.
    """
    options = {
        "default_permissions",
        f"fsname={source}",
        f"subtype={FS_TYPE.removeprefix('fuse.')}",
    }
    if read_only:
        options.add("ro")
    # libfuse prints its reasons, and pyfuse3 does not know them.
    said = os.memfd_create("libfuse-messages", os.MFD_CLOEXEC)
    stderr = os.dup(2)
    os.dup2(said, 2)
    try:
        pyfuse3.init(file_system, str(directory), options)
    except RuntimeError as error:
        reason = os.pread(said, 4096, 0).decode(errors="replace").strip().rpartition("\n")[2]
        raise MountError(f"cannot mount at {directory}: {reason or error}") from error
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(said)


def connect(file_system: VolumeFileSystem) -> socket.socket:
    """Serve requests that come over a socket instead, one in each message; its other end.

    It is mounted already. Nothing is answered before `serve` runs. Raises MountError.
    """
    # Both ends block: replies are small and are taken at once, and none may get lost.
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        # The session closes its end, or this process ends.
        pyfuse3.init(file_system, f"/dev/fd/{theirs.fileno()}", {"fsname=volcrypt"})
    except RuntimeError as error:
        ours.close()
        theirs.close()
        raise MountError(f"libfuse refused its socket: {error}") from error
    theirs.detach()
    return ours


def _invalidate() -> None:
    with suppress(FileNotFoundError):  # it does not know the file, then, and will ask
        pyfuse3.invalidate_inode(_VOLUME_INODE, attr_only=True)


async def serve() -> None:
    """Answer requests until the mount is taken away or `leave` is called."""
    await pyfuse3.main(max_tasks=MAX_TASKS)


def leave() -> None:
    """Make `serve` return; requests in work are finished first."""
    pyfuse3.terminate()


def close() -> None:
    """Give the connection up, after `serve`: whoever still has the file open gets ENOTCONN."""
    pyfuse3.close(unmount=False)
