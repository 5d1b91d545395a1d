"""A file system whose reads and writes are answered in part, as POSIX allows for any of them.

A directory is passed through by FUSE, past the page cache: of each file that is opened the first
request gets a part of the bytes, and so does every second one, so that whoever asks has to go on.
It has no files without names, no holes to punch and no extended attributes. Its process says how
many requests it cut short:

    python -m tests.partial_file_system BACKING DIR COUNTS    serves DIR until it is unmounted
"""

import errno
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar

import pyfuse3
import trio

from tests.file_system import run

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

_ABOVE_ROOT: Final = 1000
"""Inodes are those of the backing file system and this, since the root has to be 1."""


@dataclass(frozen=True, slots=True)
class PartialFileSystem:
    """Mounted at `directory`."""

    directory: Path
    counts: Path

    def cut_short(self) -> dict[str, int]:
        """How many requests were answered in part, by "read" or "write" and the first two names of
        the path below the root; after the unmount."""
        return dict(json.loads(self.counts.read_text()))


@contextmanager
def partial_file_system(directory: Path) -> Iterator[PartialFileSystem]:
    """One in `directory`, mounted until the end."""
    backing, mounted, counts = directory / "backing", directory / "mounted", directory / "counts"
    for each in (backing, mounted):
        each.mkdir()
    program = [sys.executable, "-m", "tests.partial_file_system"]
    paths = map(os.fspath, (backing, mounted, counts))
    with subprocess.Popen([*program, *paths], stdin=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 30
            while not os.path.ismount(mounted):
                assert process.poll() is None, "the file system's process has ended"
                assert time.monotonic() < deadline, "the file system does not come up"
                time.sleep(0.01)
            yield PartialFileSystem(mounted, counts)
            run("umount", mounted)
        except BaseException:
            process.kill()
            subprocess.run(["umount", "--lazy", mounted], check=False, capture_output=True)
            raise
        assert process.wait(30) == 0


def _failing(
    handler: Callable[Arguments, Coroutine[Any, Any, Result]],
) -> Callable[Arguments, Coroutine[Any, Any, Result]]:
    """A handler whose OSError is the caller's; pyfuse3 would end."""

    @wraps(handler)
    async def answer(*arguments: Arguments.args, **named: Arguments.kwargs) -> Result:
        try:
            return await handler(*arguments, **named)
        except OSError as error:
            raise pyfuse3.FUSEError(error.errno or errno.EIO) from error

    return answer


class _Partial(pyfuse3.Operations):
    """Every path is looked up by its inode, which a file keeps for all its names."""

    def __init__(self, backing: str) -> None:
        super().__init__()
        self._paths: dict[int, set[str]] = {pyfuse3.ROOT_INODE: {backing}}
        self._open: dict[int, list[int]] = {}
        # Opened files of which the next request is answered in full.
        self._due: set[int] = set()
        self._dice = random.Random(1)
        self._backing = backing
        self.counts: dict[str, int] = {}

    def _path(self, inode: int, name: bytes | None = None) -> str:
        paths = self._paths.get(inode, set())
        found = next((path for path in sorted(paths) if os.path.lexists(path)), None)
        if found is None:
            raise FileNotFoundError(errno.ENOENT, "no such inode")
        return found if name is None else f"{found}/{os.fsdecode(name)}"

    def _entry(self, path: str | int) -> pyfuse3.EntryAttributes:
        found = os.lstat(path) if isinstance(path, str) else os.fstat(path)
        entry = pyfuse3.EntryAttributes()
        for name in ("mode", "nlink", "uid", "gid", "rdev", "size", "blocks"):
            setattr(entry, f"st_{name}", getattr(found, f"st_{name}"))
        for name in ("atime", "mtime", "ctime"):
            setattr(entry, f"st_{name}_ns", getattr(found, f"st_{name}_ns"))
        is_root = path == self._backing
        entry.st_ino = pyfuse3.InodeT(pyfuse3.ROOT_INODE if is_root else found.st_ino + _ABOVE_ROOT)
        entry.st_blksize = 4096
        entry.entry_timeout = entry.attr_timeout = 0
        if isinstance(path, str):
            self._paths.setdefault(entry.st_ino, set()).add(path)
        return entry

    # ------------------------------------------------------------ names

    @_failing
    async def lookup(self, parent_inode: Any, name: Any, ctx: Any) -> pyfuse3.EntryAttributes:
        return self._entry(self._path(parent_inode, name))

    @_failing
    async def getattr(self, inode: Any, ctx: Any = None) -> pyfuse3.EntryAttributes:
        if self._open.get(inode):
            return self._entry(self._open[inode][-1])
        return self._entry(self._path(inode))

    @_failing
    async def setattr(
        self, inode: Any, attr: Any, fields: Any, fh: Any, ctx: Any
    ) -> pyfuse3.EntryAttributes:
        opened = self._open.get(inode)
        target: Any = opened[-1] if opened else self._path(inode)
        if fields.update_size:
            os.truncate(target, attr.st_size)
        if fields.update_mode:
            os.chmod(target, attr.st_mode & 0o7777)
        if fields.update_uid or fields.update_gid:
            uid = attr.st_uid if fields.update_uid else -1
            os.chown(target, uid, attr.st_gid if fields.update_gid else -1)
        if fields.update_mtime:
            os.utime(target, ns=(attr.st_mtime_ns, attr.st_mtime_ns))
        return self._entry(target)

    @_failing
    async def mkdir(
        self, parent_inode: Any, name: Any, mode: int, ctx: Any
    ) -> pyfuse3.EntryAttributes:
        path = self._path(parent_inode, name)
        os.mkdir(path, mode & ~ctx.umask)
        return self._entry(path)

    @_failing
    async def unlink(self, parent_inode: Any, name: Any, ctx: Any) -> None:
        self._gone(self._path(parent_inode, name), os.unlink)

    @_failing
    async def rmdir(self, parent_inode: Any, name: Any, ctx: Any) -> None:
        self._gone(self._path(parent_inode, name), os.rmdir)

    def _gone(self, path: str, remove: Callable[[str], None]) -> None:
        inode = os.lstat(path).st_ino + _ABOVE_ROOT
        remove(path)
        self._paths.get(inode, set()).discard(path)

    @_failing
    async def rename(
        self, old_parent: Any, old_name: Any, new_parent: Any, new_name: Any, flags: int, ctx: Any
    ) -> None:
        if flags:
            raise OSError(errno.EINVAL, "no such renaming")
        old, new = self._path(old_parent, old_name), self._path(new_parent, new_name)
        with suppress(FileNotFoundError):
            self._paths.get(os.lstat(new).st_ino + _ABOVE_ROOT, set()).discard(new)
        os.rename(old, new)
        for paths in self._paths.values():
            for path in [each for each in paths if each == old or each.startswith(f"{old}/")]:
                paths.remove(path)
                paths.add(new + path[len(old) :])

    @_failing
    async def link(
        self, inode: Any, new_parent_inode: Any, new_name: Any, ctx: Any
    ) -> pyfuse3.EntryAttributes:
        path = self._path(new_parent_inode, new_name)
        os.link(self._path(inode), path)
        return self._entry(path)

    @_failing
    async def opendir(self, inode: Any, ctx: Any) -> pyfuse3.FileHandleT:
        return pyfuse3.FileHandleT(inode)

    @_failing
    async def readdir(self, fh: Any, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        path = self._path(fh)
        for number, name in enumerate(sorted(os.listdir(path)), 1):
            if number <= start_id:
                continue
            entry = self._entry(f"{path}/{name}")
            if not pyfuse3.readdir_reply(
                token, pyfuse3.FileNameT(os.fsencode(name)), entry, number
            ):
                return

    @_failing
    async def statfs(self, ctx: Any) -> pyfuse3.StatvfsData:
        found = os.statvfs(self._backing)
        answer = pyfuse3.StatvfsData()
        for name in ("bsize", "frsize", "blocks", "bfree", "bavail", "files", "ffree", "favail"):
            setattr(answer, f"f_{name}", getattr(found, f"f_{name}"))
        answer.f_namemax = 255
        return answer

    # ------------------------------------------------------------ content

    def _opened(self, descriptor: int, inode: int) -> pyfuse3.FileInfo:
        self._open.setdefault(inode, []).append(descriptor)
        return pyfuse3.FileInfo(fh=pyfuse3.FileHandleT(descriptor), direct_io=True)

    @_failing
    async def open(self, inode: Any, flags: int, ctx: Any) -> pyfuse3.FileInfo:
        # The kernel says where an append goes.
        return self._opened(os.open(self._path(inode), flags & ~(os.O_APPEND | os.O_EXCL)), inode)

    @_failing
    async def create(
        self, parent_inode: Any, name: Any, mode: int, flags: int, ctx: Any
    ) -> tuple[pyfuse3.FileInfo, pyfuse3.EntryAttributes]:
        path = self._path(parent_inode, name)
        descriptor = os.open(path, (flags & ~os.O_APPEND) | os.O_CREAT, mode & ~ctx.umask)
        entry = self._entry(path)
        return self._opened(descriptor, entry.st_ino), entry

    @_failing
    async def release(self, fh: Any) -> None:
        for descriptors in self._open.values():
            if fh in descriptors:
                descriptors.remove(fh)
        self._due.discard(fh)
        os.close(fh)

    @_failing
    async def flush(self, fh: Any) -> None:
        pass

    @_failing
    async def fsync(self, fh: Any, datasync: bool) -> None:
        pass

    @_failing
    async def fsyncdir(self, fh: Any, datasync: bool) -> None:
        pass

    @_failing
    async def read(self, fh: Any, off: int, size: int) -> bytes:
        left = max(0, min(size, os.fstat(fh).st_size - off))
        return os.pread(fh, self._part("read", fh, left), off)

    @_failing
    async def write(self, fh: Any, off: int, buf: bytes) -> int:
        return os.pwrite(fh, buf[: self._part("write", fh, len(buf))], off)

    def _part(self, what: str, descriptor: int, length: int) -> int:
        if length < 2 or descriptor in self._due:
            self._due.discard(descriptor)
            return length
        self._due.add(descriptor)
        part = self._dice.randint(1, length - 1)
        name = os.readlink(f"/proc/self/fd/{descriptor}").removeprefix(f"{self._backing}/")
        key = "/".join([what, *name.split("/")[:2]])
        self.counts[key] = self.counts.get(key, 0) + 1
        return part


def main(arguments: Sequence[str]) -> None:
    backing, directory, counts = arguments
    options = {*pyfuse3.default_options, "fsname=partial"}
    served = _Partial(backing)
    pyfuse3.init(served, directory, options)
    try:
        trio.run(pyfuse3.main)
    finally:
        pyfuse3.close(unmount=True)
        Path(counts).write_text(json.dumps(served.counts))


if __name__ == "__main__":
    main(sys.argv[1:])
