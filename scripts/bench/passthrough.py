"""A FUSE file system of one file that is passed through to another: what FUSE from Python costs.

    python -m scripts.bench.passthrough BACKING DIR     serves DIR/volume until it is unmounted

Every request is answered on the loop's own thread with one system call, and without a cipher.
"""

import os
import stat
import sys
from typing import Final

import pyfuse3
import trio

FILE_INODE: Final = pyfuse3.ROOT_INODE + 1
FILE_NAME: Final = b"volume"


class PassThrough(pyfuse3.Operations):
    def __init__(self, backing: str) -> None:
        super().__init__()
        self.descriptor = os.open(backing, os.O_RDWR | os.O_CLOEXEC)

    async def getattr(
        self, inode: pyfuse3.InodeT, ctx: pyfuse3.RequestContext | None = None
    ) -> pyfuse3.EntryAttributes:
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = inode
        if inode == pyfuse3.ROOT_INODE:
            entry.st_mode = pyfuse3.ModeT(stat.S_IFDIR | 0o700)
        else:
            entry.st_mode = pyfuse3.ModeT(stat.S_IFREG | 0o600)
            entry.st_size = os.fstat(self.descriptor).st_size
        return entry

    async def lookup(
        self,
        parent_inode: pyfuse3.InodeT,
        name: pyfuse3.FileNameT,
        ctx: pyfuse3.RequestContext,
    ) -> pyfuse3.EntryAttributes:
        if name != FILE_NAME:
            raise pyfuse3.FUSEError(2)
        return await self.getattr(pyfuse3.InodeT(FILE_INODE))

    async def open(
        self, inode: pyfuse3.InodeT, flags: pyfuse3.FlagT, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.FileInfo:
        return pyfuse3.FileInfo(fh=pyfuse3.FileHandleT(inode), direct_io=True)

    async def read(self, fh: pyfuse3.FileHandleT, off: int, size: int) -> bytes:
        return os.pread(self.descriptor, size, off)

    async def write(self, fh: pyfuse3.FileHandleT, off: int, buf: bytes) -> int:
        return os.pwrite(self.descriptor, buf, off)

    async def fsync(self, fh: pyfuse3.FileHandleT, datasync: bool) -> None:
        os.fdatasync(self.descriptor)


def main() -> None:
    backing, directory = sys.argv[1:]
    options = {*pyfuse3.default_options, "fsname=passthrough"}
    options.discard("default_permissions")
    pyfuse3.init(PassThrough(backing), directory, options)
    try:
        trio.run(pyfuse3.main)
    finally:
        pyfuse3.close(unmount=True)


if __name__ == "__main__":
    main()
