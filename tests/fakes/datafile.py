"""MemoryDataFile: the storage port of a volume in memory, with a page cache that can be lost."""

import errno
import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from typing_extensions import Buffer

from volcrypt.errors import ReadOnlyError
from volcrypt.geometry import SECTOR_BYTES, UNIT_BYTES

if TYPE_CHECKING:
    from volcrypt.volume.volume import DataStorage


class MemoryDataFile:
    """`content` is what reads see; a power cut leaves any mix of what was written since a sync.

    `calls` records (operation, offset, length). Set `is_cached` to False to make reads that must
    not block fail, `fail_sync` and `fail_deallocate` to an errno, or `fail_write_at` to an
    offset, to make calls fail.
    """

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.content = bytearray(size_bytes)
        self.calls: list[tuple[str, int, int]] = []
        self.is_cached = True
        self.fail_sync: int | None = None
        self.fail_write_at: int | None = None
        self.fail_deallocate: int | None = None
        self._failed = False
        self._lock = threading.Lock()
        # Per sector written since the last sync: what the medium may hold, oldest first.
        self._versions: dict[int, list[bytes]] = {}

    def read_into(self, offset: int, buffer: Buffer) -> None:
        view = memoryview(buffer)
        self.calls.append(("read", offset, view.nbytes))
        assert offset + view.nbytes <= self.size_bytes
        view[:] = self.content[offset : offset + view.nbytes]

    def try_read_into(self, offset: int, buffer: Buffer) -> bool:
        if not self.is_cached:
            return False
        self.read_into(offset, buffer)
        return True

    def write(self, offset: int, data: Buffer) -> None:
        if self._failed:
            raise ReadOnlyError("an earlier sync failed")
        view = memoryview(data)
        self.calls.append(("write", offset, view.nbytes))
        if self.fail_write_at is not None and offset <= self.fail_write_at < offset + view.nbytes:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        end = offset + view.nbytes
        assert end <= self.size_bytes
        sectors = range(offset // SECTOR_BYTES, -(-end // SECTOR_BYTES))
        with self._lock:  # a sync comes before or after, never between
            for sector in sectors:
                self._versions.setdefault(sector, [self._sector(sector)])
            self.content[offset:end] = view
            for sector in sectors:
                self._versions[sector].append(self._sector(sector))

    def deallocate(self, offset: int, length: int) -> None:
        if self.fail_deallocate is not None:
            raise OSError(self.fail_deallocate, os.strerror(self.fail_deallocate))
        assert not (offset | length) % UNIT_BYTES, "not whole data units"
        before = len(self.calls)
        self.write(offset, bytes(length))
        self.calls[before] = ("deallocate", offset, length)

    def next_data(self, offset: int, end: int) -> int:
        found = bytes(self.content[offset:end]).lstrip(b"\0")
        return end - len(found)

    def sync(self) -> None:
        self.calls.append(("sync", 0, 0))
        if self._failed:
            raise ReadOnlyError("an earlier sync failed")
        if self.fail_sync is not None:
            self._failed = True
            raise OSError(self.fail_sync, os.strerror(self.fail_sync))
        with self._lock:
            self._versions.clear()

    def grow(self, size_bytes: int) -> None:
        self.content += bytes(size_bytes - self.size_bytes)
        self.size_bytes = size_bytes

    def lose_power(self, choose: Callable[[int], int]) -> None:
        """Each unsynced sector becomes one of its `n` versions, number `choose(n)`."""
        for sector, versions in sorted(self._versions.items()):
            start = sector * SECTOR_BYTES
            self.content[start : start + SECTOR_BYTES] = versions[choose(len(versions))]
        self._versions.clear()

    def _sector(self, sector: int) -> bytes:
        return bytes(self.content[sector * SECTOR_BYTES : (sector + 1) * SECTOR_BYTES])


if TYPE_CHECKING:

    def _conformance(data: MemoryDataFile) -> DataStorage:
        return data
