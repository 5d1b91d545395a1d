"""Several steps as one piece of work: how far all of it is, and how long it takes."""

import time
from collections.abc import Callable, Mapping
from typing import Final, Protocol, runtime_checkable

from volcrypt.formats.workflow import Workflow
from volcrypt.geometry import CHUNK_BYTES
from volcrypt.operations.progress import Progress
from volcrypt.snapshot.pace import Bucket

_KNOWN_AT: Final = 0.02
"""Above this part the time that was taken tells more than the expectation."""


@runtime_checkable
class ShowsWhole(Protocol):
    """A progress that also shows how far all steps together are."""

    def whole(self, fraction: float, seconds_left: float) -> None:
        """Of all steps, in seconds by the rate so far."""


class Stages:
    """The progress of work in steps whose times are expected; each step may begin several times.
    With a `rate`, in bytes a second, whoever moves data waits here."""

    def __init__(
        self,
        progress: Progress,
        expected: Mapping[str, float],
        *,
        rate: int | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`expected`: seconds by step, of those that are left."""
        self._progress = progress
        self._expected = dict(expected)
        self._bucket = None if rate is None else Bucket(rate)
        self._clock = clock
        self._sleep = sleep
        self._started = self._entered = clock()
        self._passed = 0.0
        self._share = 0.0
        self._part = 0.0
        self._total: int | None = None
        self._done = 0

    def enter(self, step: str) -> None:
        """A step begins, and the one before it has ended."""
        self._passed += self._share
        self._share = self._expected.get(step, 0.0)
        self._part = 0.0
        self._entered = self._clock()

    def seconds(self, workflow: Workflow) -> dict[str, float]:
        """What the steps took, with the one that is at work, of all runs."""
        took = workflow.seconds.get(workflow.step.value, 0.0) + self._clock() - self._entered
        return {**workflow.seconds, workflow.step.value: round(took, 3)}

    def begin(self, step: str, total_bytes: int | None) -> None:
        self._total, self._done = total_bytes, 0
        self._progress.begin(step, total_bytes)

    def advance(self, done_bytes: int) -> None:
        if self._bucket is not None:
            # What an interrupted run did is told at once.
            moved = min(done_bytes - self._done, 8 * CHUNK_BYTES)
            self._sleep(self._bucket.take(max(moved, 0), now=self._clock()))
        self._done = done_bytes
        self._progress.advance(done_bytes)
        if self._total:
            self._part = max(self._part, min(1.0, done_bytes / self._total))
        if isinstance(self._progress, ShowsWhole):
            self._progress.whole(*self._whole())

    def _whole(self) -> tuple[float, float]:
        expected = sum(self._expected.values()) or 1.0
        fraction = min(1.0, (self._passed + self._share * self._part) / expected)
        elapsed = self._clock() - self._started
        total = elapsed / fraction if fraction > _KNOWN_AT else max(expected, elapsed)
        return fraction, max(0.0, total - elapsed)
