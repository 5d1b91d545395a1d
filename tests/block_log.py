"""A log of what was written to a disk and when it was flushed, and what it held at any moment.

The format is that of the kernel's dm-log-writes, which QEMU's driver `blklogwrites` writes, too
(Linux drivers/md/dm-log-writes.c and Documentation/admin-guide/device-mapper/log-writes.rst; QEMU
block/blklogwrites.c; xfstests src/log-writes/ is the reader that others use). All numbers are
little endian. The first sector is magic, version, count of entries and bytes a sector. Each entry
begins a sector: where and how many sectors, flags, length of a mark's text. The data follows in
sectors of its own, but of a discard.

As a program it is a disk that writes such a log:

    python -m tests.block_log IMAGE LOG DIR     serves DIR/volume until it is unmounted
"""

import os
import random
import struct
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

SECTOR_BYTES: Final = 512
FLUSH: Final = 1
"""All entries before are durable."""
FUA: Final = 2
"""This one is durable itself."""
DISCARD: Final = 4
MARK: Final = 8

_MAGIC: Final = 0x6A736677736872
_VERSION: Final = 1
_SUPER: Final = struct.Struct("<QQQI")
_ENTRY: Final = struct.Struct("<QQQQ")


@dataclass(frozen=True, slots=True)
class Entry:
    """`length` bytes at `offset` of the disk; the data is at `data_at` of the log."""

    offset: int
    length: int
    flags: int
    data_at: int


class LogWriter:
    """Appends to a new log. The count in the first sector is that of whole entries, at any time."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._end = SECTOR_BYTES
        self._count = 0
        self._save_count()

    def write(self, offset: int, data: bytes) -> None:
        self._append(offset, len(data), 0, data)

    def flush(self) -> None:
        self._append(0, 0, FLUSH, b"")

    def _append(self, offset: int, length: int, flags: int, data: bytes) -> None:
        assert offset % SECTOR_BYTES == length % SECTOR_BYTES == 0
        head = _ENTRY.pack(offset // SECTOR_BYTES, length // SECTOR_BYTES, flags, 0)
        os.pwritev(self._file, [head.ljust(SECTOR_BYTES, b"\0"), data], self._end)
        self._end += SECTOR_BYTES + len(data)
        self._count += 1
        self._save_count()

    def _save_count(self) -> None:
        os.pwrite(self._file, _SUPER.pack(_MAGIC, _VERSION, self._count, SECTOR_BYTES), 0)


def entries_in(path: Path) -> int:
    """How many entries there are by now, while the log is written."""
    with path.open("rb") as file:
        magic, version, count, sector_bytes = _SUPER.unpack(file.read(_SUPER.size))
    assert (magic, version, sector_bytes) == (_MAGIC, _VERSION, SECTOR_BYTES)
    return int(count)


class BlockLog:
    """A log that is complete. A context manager."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.entries = list(self._entries(entries_in(path)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)

    def _entries(self, count: int) -> Iterator[Entry]:
        place = SECTOR_BYTES
        for _ in range(count):
            sector, sectors, flags, mark = _ENTRY.unpack(os.pread(self._file, _ENTRY.size, place))
            place += SECTOR_BYTES
            yield Entry(sector * SECTOR_BYTES, sectors * SECTOR_BYTES, flags, place)
            if flags & MARK:
                place += -(-mark // SECTOR_BYTES) * SECTOR_BYTES
            elif not flags & DISCARD:
                place += sectors * SECTOR_BYTES

    def flushes(self) -> list[int]:
        """How many entries there were at the end of each flush."""
        return [at for at, entry in enumerate(self.entries, 1) if entry.flags & FLUSH]

    def replay(self, image: Path, begin: int, end: int) -> None:
        """Do entries `begin` up to `end` to an image, as a disk that loses nothing."""
        self._apply(image, self.entries[begin:end])

    def replay_unflushed(
        self, image: Path, begin: int, end: int, dice: random.Random | None
    ) -> None:
        """What a disk makes of entries that were not flushed when it loses its power: some of them
        are done, or pieces of 4096 bytes of them; without `dice`, only those that had to be."""
        self._apply(image, self._survivors(self.entries[begin:end], dice))

    def _survivors(self, entries: Iterable[Entry], dice: random.Random | None) -> Iterator[Entry]:
        share = dice.random() if dice else 0.0
        for entry in entries:
            if entry.flags & FUA:
                yield entry
            elif dice is not None:
                for piece in range(0, entry.length, 4096):
                    if dice.random() < share:
                        length = min(4096, entry.length - piece)
                        begin, data_at = entry.offset + piece, entry.data_at + piece
                        yield Entry(begin, length, entry.flags, data_at)

    def _apply(self, image: Path, entries: Iterable[Entry]) -> None:
        with image.open("r+b", buffering=0) as file:
            for entry in entries:
                # What was discarded may read as anything, so also as it was.
                if entry.length and not entry.flags & (DISCARD | MARK):
                    data = os.pread(self._file, entry.length, entry.data_at)
                    assert os.pwrite(file.fileno(), data, entry.offset) == entry.length


def main() -> None:
    import pyfuse3
    import trio

    from scripts.bench.passthrough import PassThrough

    image, log, directory = sys.argv[1:]
    writer = LogWriter(Path(log))

    class LoggedFile(PassThrough):
        async def write(self, fh: pyfuse3.FileHandleT, off: int, buf: bytes) -> int:
            os.pwrite(self.descriptor, buf, off)
            writer.write(off, buf)
            return len(buf)

        async def fsync(self, fh: pyfuse3.FileHandleT, datasync: bool) -> None:
            writer.flush()

    options = {*pyfuse3.default_options, "fsname=block-log"}
    options.discard("default_permissions")
    pyfuse3.init(LoggedFile(image), directory, options)
    try:
        trio.run(pyfuse3.main)
    finally:
        pyfuse3.close(unmount=True)


if __name__ == "__main__":
    main()
