"""LatencyHistogram: how long requests took, kept in a few hundred counters. Pure.

Each power of two of microseconds has eight counters, so a quantile is at most an eighth too large;
the worst is kept as it was. Counting costs less than a microsecond.
"""

from typing import Final

_STEPS_BITS: Final = 3
_STEPS: Final = 1 << _STEPS_BITS
_COUNTERS: Final = 40 * _STEPS
"""Enough for seven weeks."""


class LatencyHistogram:
    """All calls come from one thread."""

    def __init__(self) -> None:
        self.worst_us = 0
        self.count = 0
        self._counters = [0] * _COUNTERS

    def add(self, nanoseconds: int) -> None:
        """One request took so long."""
        microseconds = nanoseconds // 1000
        if microseconds > self.worst_us:
            self.worst_us = microseconds
        self.count += 1
        shift = max(0, microseconds.bit_length() - 1 - _STEPS_BITS)
        self._counters[min((shift << _STEPS_BITS) + (microseconds >> shift), _COUNTERS - 1)] += 1

    def quantile_us(self, part: float) -> int:
        """So long at most took this part of the requests, between 0 and 1; 0 if there were none."""
        wanted = part * self.count
        seen = 0
        for place, count in enumerate(self._counters):
            seen += count
            if count and seen >= wanted:
                return min(_largest(place), self.worst_us)
        return 0


def _largest(place: int) -> int:
    """The largest value that is counted there."""
    shift = max(0, (place >> _STEPS_BITS) - 1)
    return ((place - (shift << _STEPS_BITS) + 1) << shift) - 1
