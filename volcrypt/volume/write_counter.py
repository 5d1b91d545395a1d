"""WriteCounter: counts what is encrypted under a data key, durably ahead of it.

The count of a data key (`volcrypt.formats.write_count`) lies in one file, HOME/written/DATA-KEY-ID,
that all volumes of a home with this data key share. Whoever writes takes room from it first: the
file says so much more, synced, before the first byte of that is encrypted. At an orderly end what
was not used is given back. So a kill or a power cut at any moment leaves a count that is too high
by less than two steps for each process that was killed, and never one that is too low.

Room is taken in steps, when less than half a step is left at a flush, which waits for the medium
anyway; a write waits for it only when all room is used up without a flush. Where the file cannot be
written (a full disk, a failing one), the volume's own writes go on: that is said in the log, and
the next step takes what is missing as well.

A lock on the file (flock, for the moment) keeps processes apart; a lock of the counter's own, the
threads.
"""

import fcntl
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from volcrypt.durable import open_regular, read_fully, sync_directory, write_fully
from volcrypt.errors import FormatError
from volcrypt.formats.write_count import WriteCount, decode_write_count, encode_write_count
from volcrypt.geometry import SECTOR_BYTES, format_size
from volcrypt.names import DataKeyId

BUDGET_BYTES: Final = 2**48
"""What one data key should encrypt at most: 2^44 AES blocks, among which two with the same input to
the cipher are still less likely than 2^-40."""
STEP_BYTES: Final = 4 * 2**30

_log: Final = logging.getLogger(__name__)


def read_count(path: Path) -> int:
    """How much was written, at most; 0 where nothing ever was, all of the budget where the file is
    damaged and it is not known any more."""
    try:
        descriptor = open_regular(path, os.O_RDONLY)
    except FileNotFoundError:
        return 0
    except (OSError, FormatError):
        return BUDGET_BYTES
    try:
        return _read(descriptor, path)
    finally:
        os.close(descriptor)


def add_to_count(path: Path, size_bytes: int) -> int:
    """Count so much more (less, when negative); durable on return. The new count.

    Raises OSError, and MalformedError when something else is in the place of the file.
    """
    with _locked(path) as descriptor:
        return _write(descriptor, path, _read(descriptor, path) + size_bytes)


def raise_count(path: Path, written_bytes: int) -> None:
    """Make sure that the count is not less; durable on return. Raises as `add_to_count`."""
    with _locked(path) as descriptor:
        present = _read(descriptor, path)
        if present < written_bytes:
            _write(descriptor, path, written_bytes)


class WriteCounter:
    """The counter of one process that writes to one volume. Close it when no write is under way."""

    def __init__(self, path: Path, *, step_bytes: int = STEP_BYTES) -> None:
        self._path = path
        self._step_bytes = step_bytes
        self._lock = threading.Lock()
        self._left_bytes = 0
        self._warned_bytes = 0
        self._has_failed = False

    def spend(self, size_bytes: int) -> None:
        """Before so much is encrypted."""
        with self._lock:
            self._left_bytes -= size_bytes
            # After a failure only flushes try again: not every write is to wait for a sick disk.
            if self._left_bytes < 0 and not self._has_failed:
                self._left_bytes += self._take(self._step_bytes - self._left_bytes)

    def give_back(self, size_bytes: int) -> None:
        """So much of what was spent was not encrypted."""
        with self._lock:
            self._left_bytes += size_bytes

    def renew(self) -> None:
        """At a flush: take room for what is coming."""
        left = self._left_bytes
        if left and left * 2 < self._step_bytes:
            # Without the lock: writers have room still, and need not wait.
            taken = self._take(self._step_bytes - min(left, 0))
            with self._lock:
                self._left_bytes += taken

    def close(self) -> None:
        """Give back what was not used. May be called twice."""
        with self._lock:
            left, self._left_bytes = self._left_bytes, 0
            if left:
                self._take(-left)

    def _take(self, size_bytes: int) -> int:
        """What was taken: `size_bytes`, or nothing where the count could not be written."""
        try:
            count = add_to_count(self._path, size_bytes)
        except (OSError, FormatError) as error:
            if not self._has_failed:
                _log.warning("what is written under the data key is not counted: %s", error)
            self._has_failed = True
            return 0
        self._has_failed = False
        self._warn(count)
        return size_bytes

    def _warn(self, count: int) -> None:
        for limit in (BUDGET_BYTES, BUDGET_BYTES // 2):
            if count >= limit > self._warned_bytes:
                self._warned_bytes = limit
                _log.warning(
                    "%s of the %s that one data key should encrypt are written under %s",
                    format_size(count),
                    format_size(BUDGET_BYTES),
                    self._path.name,
                )


@contextmanager
def _locked(path: Path) -> Iterator[int]:
    """The file, made when it is not there."""
    try:
        descriptor = open_regular(path, os.O_RDWR)
    except FileNotFoundError:
        descriptor = open_regular(path, os.O_RDWR | os.O_CREAT)
        sync_directory(path.parent)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


def _read(descriptor: int, path: Path) -> int:
    data = read_fully(descriptor, SECTOR_BYTES + 1, 0)
    if not data:
        return 0  # it was made, and its maker killed before anything was written
    try:
        count = decode_write_count(data, what=str(path))
    except FormatError:
        return BUDGET_BYTES
    return count.written_bytes if count.data_key_id == path.name else BUDGET_BYTES


def _write(descriptor: int, path: Path, written_bytes: int) -> int:
    count = WriteCount(data_key_id=DataKeyId(path.name), written_bytes=max(0, written_bytes))
    write_fully(descriptor, encode_write_count(count), 0)
    os.fdatasync(descriptor)
    return count.written_bytes
