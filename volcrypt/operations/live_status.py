"""The state of a home second by second, for who watches it.

What the KMS and the stores say costs records in the audit log, and locks out `kms serve` while it
is asked: that is looked at once a minute, and when volumes were made or deleted. All else comes
from the processes that serve volumes and make snapshots, and opens no key.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from volcrypt.errors import VolcryptError
from volcrypt.formats.volume_record import VolumeRecord
from volcrypt.geometry import CHUNK_BYTES
from volcrypt.operations.home import Home
from volcrypt.operations.jobs import load_jobs
from volcrypt.operations.records import load_records
from volcrypt.operations.status import Status, read_status
from volcrypt.operations.uses import InUse, uses_of

OVERVIEW_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """Bytes a second, of the last while; `migrated` since the step of its migration was first seen,
    None where there is none or it does not move."""

    read: float
    written: float
    migrated: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveStatus:
    """`status` has what is in use, and which snapshots are being made, as of now; the rest of it is
    `age_seconds` old, and `problem` says why it could not be looked at anew. `rates` are by id, of
    volumes and mounted snapshots that were there a look ago."""

    status: Status
    records: Sequence[VolumeRecord]
    rates: Mapping[str, Rate]
    age_seconds: float
    problem: str | None = None


class Rates:
    """Makes rates of counters."""

    def __init__(self) -> None:
        self._before: dict[str, tuple[float, InUse]] = {}
        self._steps: dict[tuple[str, bytes, str], tuple[float, int]] = {}

    def look(self, in_use: Sequence[InUse], now: float) -> dict[str, Rate]:
        """`now` in seconds from any beginning. Another process counts from the start."""
        seen = {use_id(each): (now, each) for each in in_use}
        found = {}
        for key, (_, use) in seen.items():
            at, before = self._before.get(key, (now, use))
            if at < now and before.pid == use.pid and before.read_bytes is not None:
                found[key] = Rate(
                    read=max(0, (use.read_bytes or 0) - before.read_bytes) / (now - at),
                    written=max(0, (use.written_bytes or 0) - (before.written_bytes or 0))
                    / (now - at),
                    migrated=self._migrated(key, use, now),
                )
        self._before = seen
        return found

    def _migrated(self, key: str, use: InUse, now: float) -> float | None:
        state = use.migration
        if state is None:
            return None
        step, done = (key, state.migration, state.phase), state.step_chunks
        began, before = self._steps.setdefault(step, (now, done))
        return (done - before) * CHUNK_BYTES / (now - began) if done > before else None


def use_id(use: InUse) -> str:
    """Of the volume, or of the snapshot that is mounted."""
    return use.volume_id or use.snapshot_id or str(use.pid)


class LiveLook:
    """Looks again and again. The first look may ask for the PIN, and none later does."""

    def __init__(
        self,
        open_home: Callable[[], Home],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._open_home = open_home
        self._clock = clock
        self._rates = Rates()
        self._status: Status | None = None
        self._records: Sequence[VolumeRecord] = ()
        self._looked_at = 0.0
        self._tried_at = 0.0
        self._directory_time = 0
        self._problem: str | None = None

    def look(self) -> LiveStatus:
        """Raises VolcryptError at the first look only."""
        with self._open_home() as home:
            status = self._overview(home)
            # Read here: who is in the records and gone by now is in use by nobody.
            in_use = uses_of(home, self._records)
            pending = [job for job in load_jobs(home) if job.is_pending]
        now = self._clock()
        return LiveStatus(
            status=replace(status, in_use=in_use, pending=pending),
            records=self._records,
            rates=self._rates.look(in_use, now),
            age_seconds=now - self._looked_at,
            problem=self._problem,
        )

    def _overview(self, home: Home) -> Status:
        now = self._clock()
        changed_at = home.volumes.path.stat().st_mtime_ns
        is_due = changed_at != self._directory_time or now - self._tried_at >= OVERVIEW_SECONDS
        if self._status is not None and not is_due:
            return self._status
        self._tried_at, self._directory_time = now, changed_at
        try:
            if self._status is not None and not home.opens_quietly:
                self._problem = "that takes the PIN"
                return self._status
            status = read_status(home)
            found = load_records(home).values()
        except VolcryptError as error:
            if self._status is None:
                raise
            self._problem = str(error)
            return self._status
        self._records = [each for each in found if isinstance(each, VolumeRecord)]
        self._status, self._looked_at, self._problem = status, now, None
        return status
