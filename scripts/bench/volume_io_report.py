"""What `volume_io` found: medians, ratios, a table, the members of its JSON, and a picture."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any


class Unit(Enum):
    BYTES = "bytes/s"
    OPERATIONS = "IOPS"
    SECONDS = "s"


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """Of one system at one job."""

    unit: Unit
    value: float
    """Bytes or operations a second; or seconds, of which fewer are better."""
    cpu_seconds: float
    """Of the processes that serve, for one byte, for one operation, or for all of the work."""
    resident_bytes: int

    @property
    def text(self) -> str:
        if self.unit is Unit.BYTES:
            return f"{self.value / 1e6:,.0f} MB/s"
        return f"{self.value:,.0f} IOPS" if self.unit is Unit.OPERATIONS else f"{self.value:.2f} s"

    @property
    def cpu_text(self) -> str:
        if self.unit is Unit.BYTES:
            return f"{self.cpu_seconds * 2**30:.2f} s/GiB"
        if self.unit is Unit.OPERATIONS:
            return f"{self.cpu_seconds * 1e6:.1f} us each"
        return f"{self.cpu_seconds:.2f} s"

    def times_as_fast_as(self, other: "Figure") -> float:
        mine, its = self.value, other.value
        return its / mine if self.unit is Unit.SECONDS else mine / its


def median(turns: Sequence[Figure]) -> Figure:
    return Figure(
        unit=turns[0].unit,
        value=statistics.median(turn.value for turn in turns),
        cpu_seconds=statistics.median(turn.cpu_seconds for turn in turns),
        resident_bytes=max(turn.resident_bytes for turn in turns),
    )


Figures = Mapping[str, Mapping[str, Figure]]
"""By job, and then by system; the first system is what the others are compared with."""

HEADER = ["", "system", "rate or time", "of the first", "CPU of the server", "memory"]


def table(figures: Figures, titles: Mapping[str, str]) -> list[list[str]]:
    rows = []
    for job, systems in figures.items():
        first = next(iter(systems.values()))
        for number, (name, figure) in enumerate(systems.items()):
            rows.append(
                [
                    "" if number else titles[job],
                    name,
                    figure.text,
                    f"{figure.times_as_fast_as(first):.2f}",
                    figure.cpu_text,
                    f"{figure.resident_bytes / 2**20:.0f} MiB",
                ]
            )
    return rows


def members(figures: Figures) -> dict[str, Any]:
    """As JSON has it; `ratio` is how many times as fast the first system is."""
    found: dict[str, Any] = {}
    for job, systems in figures.items():
        first = next(iter(systems.values()))
        found[job] = {
            name: {
                "value": round(figure.value, 3),
                "unit": figure.unit.value,
                "ratio": round(first.times_as_fast_as(figure), 3),
                "cpu_seconds": figure.cpu_seconds,
                "resident_bytes": figure.resident_bytes,
            }
            for name, figure in systems.items()
        }
    return found


def panels(figures: Figures, titles: Mapping[str, str]) -> dict[str, dict[str, tuple[float, str]]]:
    """For a picture: to each bar its length, where the longest is the fastest, and its text."""
    found = {}
    for job, systems in figures.items():
        slowest = min(
            systems.values(),
            key=lambda figure: -figure.value if figure.unit is Unit.SECONDS else figure.value,
        )
        found[titles[job]] = {
            name: (figure.times_as_fast_as(slowest), f"{figure.text}, CPU {figure.cpu_text}")
            for name, figure in systems.items()
        }
    return found
