"""What a process takes, over time, and whether that stays the same.

The trend of a series is the median of the slopes between all its pairs of points (Theil and Sen):
a third of the points may be anything. What a process needs to get going is not looked at.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

WARM_UP: Final = 0.3
"""This part of a series is not looked at."""
FEWEST: Final = 8
"""Points that are needed to say anything."""
_MIB: Final = 2**20


@dataclass(frozen=True)
class Limit:
    """How much a figure may grow from the end of the warm-up to the end: so much, or so much of
    what it was at first, whatever is more."""

    absolute: float
    share: float
    shortest_seconds: float = 0.0
    """Of a shorter steady part nothing is said: other work on the host comes and goes."""


LIMITS: Final = {
    "resident": Limit(4 * _MIB, 0.08),
    "descriptors": Limit(2, 0.1),
    "threads": Limit(2, 0.1),
    "files": Limit(3, 0.1),
    "median": Limit(0.001, 0.5, 600.0),
    "99th": Limit(0.05, 1.0, 600.0),
}
"""By kind of figure: bytes, numbers, files of a directory, seconds of a request."""


@dataclass
class Series:
    """A figure over time: `(seconds, value)`."""

    kind: str
    points: list[tuple[float, float]] = field(default_factory=list)

    @property
    def steady(self) -> list[tuple[float, float]]:
        return self.points[int(len(self.points) * WARM_UP) :]

    @property
    def growth(self) -> float | None:
        """By how much it grew in its steady part; None where that is too short to say."""
        if len(self.steady) < FEWEST:
            return None
        return trend(self.steady) * self.seconds

    @property
    def seconds(self) -> float:
        return self.steady[-1][0] - self.steady[0][0]

    @property
    def problem(self) -> str | None:
        growth = self.growth
        limit = LIMITS[self.kind]
        if growth is None or self.seconds < limit.shortest_seconds:
            return None
        early = self.steady[: max(FEWEST // 2, len(self.steady) // 5)]
        first = float(np.median([value for _, value in early]))
        allowed = max(limit.absolute, limit.share * first)
        return f"grew by {growth:.6g} from about {first:.6g}" if growth > allowed else None


def trend(points: Sequence[tuple[float, float]]) -> float:
    """The median of the slopes between all pairs of points, a second."""
    array = np.array(points)
    if len(array) > 500:
        array = array[np.linspace(0, len(array) - 1, 500).astype(int)]
    first, second = np.triu_indices(len(array), 1)
    apart = array[second, 0] - array[first, 0]
    slopes = (array[second, 1] - array[first, 1])[apart > 0] / apart[apart > 0]
    return float(np.median(slopes))


class Register:
    """All series of a run, by name."""

    def __init__(self) -> None:
        self.series: dict[str, Series] = {}
        self._started = time.monotonic()

    def note(self, name: str, kind: str, value: float) -> None:
        series = self.series.setdefault(f"{name}: {kind}", Series(kind))
        series.points.append((time.monotonic() - self._started, value))

    def note_process(self, name: str, pid: int) -> None:
        """Of one process, which `name` names; one that is gone has nothing any more."""
        try:
            status = Path(f"/proc/{pid}/status").read_text()
            descriptors = len(list(Path(f"/proc/{pid}/fd").iterdir()))
        except OSError:
            return
        fields = dict(line.split(":", 1) for line in status.splitlines())
        if "VmRSS" not in fields:
            return
        self.note(name, "resident", int(fields["VmRSS"].split()[0]) * 1024)
        self.note(name, "threads", int(fields["Threads"]))
        self.note(name, "descriptors", descriptors)

    def note_latencies(self, name: str, seconds: Sequence[float]) -> None:
        if len(seconds) >= FEWEST:
            self.note(name, "median", float(np.percentile(seconds, 50)))
            self.note(name, "99th", float(np.percentile(seconds, 99)))

    def problems(self) -> list[str]:
        found = ((name, series.problem) for name, series in self.series.items())
        return [f"{name} {problem}" for name, problem in found if problem is not None]

    def table(self) -> list[str]:
        """A line for each series that says something: first, middle, last and growth."""
        lines = []
        for name, series in sorted(self.series.items()):
            values = [value for _, value in series.steady]
            if series.growth is not None:
                low, middle, high = np.percentile(values, [0, 50, 100])
                figures = f"{low:14.6g} {middle:14.6g} {high:14.6g} {series.growth:+14.6g}"
                lines.append(f"{name:44} {len(values):5} {figures}")
        return lines
