"""How far a job is: RUNTIME/SNAP-ID.progress, JSON on tmpfs, replaced about once a second."""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

import msgspec

from volcrypt.names import SnapshotId
from volcrypt.operations.home import Home
from volcrypt.volume.owner import start_ticks

_INTERVAL_SECONDS: Final = 1.0
_SMOOTHING: Final = 0.3
_MAX_BYTES: Final = 64 * 1024


class JobProgress(msgspec.Struct, frozen=True, kw_only=True):
    """`pid` and `start_ticks` name the process (`volume.owner`). `total_bytes` is None until it is
    known what has to be read. `bytes_per_second` is that of the last while. `reason` is set when
    the job failed and there was no room on the disk to say so."""

    pid: int
    start_ticks: int
    total_bytes: int | None = None
    done_bytes: int = 0
    bytes_per_second: int = 0
    reason: str | None = None

    @property
    def seconds_left(self) -> int | None:
        if self.total_bytes is None or not self.bytes_per_second:
            return None
        return max(0, self.total_bytes - self.done_bytes) // self.bytes_per_second

    @classmethod
    def own(cls, **members: object) -> Self:
        """Of this process."""
        ticks = start_ticks(os.getpid())
        assert ticks is not None, "internal error: this process is not in /proc"
        return msgspec.structs.replace(cls(pid=os.getpid(), start_ticks=ticks), **members)

    def write(self, path: Path) -> None:
        """Does nothing where tmpfs is full: the work is more important than what is told of it."""
        temporary = path.with_name(f".{path.name}.new")
        with suppress(OSError):
            temporary.write_bytes(msgspec.json.encode(self))
            temporary.replace(path)

    @classmethod
    def write_reason(cls, path: Path, reason: str) -> None:
        cls.own(reason=reason).write(path)


def progress_path(home: Home, snapshot_id: SnapshotId) -> Path:
    return home.runtime / f"{snapshot_id}.progress"


def remove_runtime_files(home: Home, snapshot_id: SnapshotId) -> None:
    """What a job has on tmpfs, the log of a failure included."""
    progress_path(home, snapshot_id).unlink(missing_ok=True)
    log_path(home, snapshot_id).unlink(missing_ok=True)


def log_path(home: Home, snapshot_id: SnapshotId) -> Path:
    """Where the process that makes a snapshot in the background complains of what nobody expected;
    of a set, under the id of the first."""
    return home.runtime / f"{snapshot_id}.log"


def read_progress(home: Home, snapshot_id: SnapshotId) -> JobProgress | None:
    """What the process says; None when it said nothing yet, or what it said is gone."""
    try:
        with open(progress_path(home, snapshot_id), "rb") as file:
            return msgspec.json.decode(file.read(_MAX_BYTES), type=JobProgress)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


class JobReporter:
    """A `Progress` for the other processes of the home; the first report names the process."""

    def __init__(
        self, home: Home, snapshot_id: SnapshotId, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._path = progress_path(home, snapshot_id)
        self._clock = clock
        self._written_at = clock()
        self._now = JobProgress.own()
        self._now.write(self._path)

    def begin(self, step: str, total_bytes: int | None) -> None:
        self._report(done_bytes=0, bytes_per_second=0, total_bytes=total_bytes)

    def advance(self, done_bytes: int) -> None:
        seconds = self._clock() - self._written_at
        if not self._now.done_bytes:
            self._report(done_bytes=done_bytes)  # at once: the next one may take long
            return
        if seconds < _INTERVAL_SECONDS:
            return
        rate = (done_bytes - self._now.done_bytes) / seconds
        if self._now.bytes_per_second:
            rate = _SMOOTHING * rate + (1 - _SMOOTHING) * self._now.bytes_per_second
        self._report(done_bytes=done_bytes, bytes_per_second=int(rate))

    def _report(self, **changes: object) -> None:
        self._now = msgspec.structs.replace(self._now, **changes)
        self._written_at = self._clock()
        self._now.write(self._path)
