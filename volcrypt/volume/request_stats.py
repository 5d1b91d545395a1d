"""RequestStats: how many requests there were, how much they moved, how long they took.

For those that Python answers; the compiled data plane counts its own, by the same bounds
(`plane.door.LATENCY_BOUNDS`). Not for two threads at once.
"""

import time
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import msgspec

LATENCY_BOUNDS: Final = (
    *(10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000),
    *(10_000_000, 25_000_000, 50_000_000, 100_000_000, 250_000_000),
    *(1_000_000_000, 10_000_000_000),
)
"""Nanoseconds."""

READ: Final = "read"
WRITE: Final = "write"
SYNC: Final = "sync"
DISCARD: Final = "discard"
OPERATIONS: Final = (READ, WRITE, SYNC, DISCARD)


class RequestCounts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One kind of requests, of those that one data plane answered since the mount. `latencies`: how
    many kept each of `LATENCY_BOUNDS` and none before, and at last those that kept none. `errors`
    are among them; `moved_bytes` are those of the others."""

    operation: str
    data_plane: str
    latencies: list[int]
    nanoseconds: int
    moved_bytes: int
    errors: int


class Measured:
    """A request under way; `moved_bytes` is set when it is known."""

    __slots__ = ("moved_bytes",)

    def __init__(self) -> None:
        self.moved_bytes = 0


class _Tally:
    def __init__(self) -> None:
        self.latencies = [0] * (len(LATENCY_BOUNDS) + 1)
        self.nanoseconds = 0
        self.moved_bytes = 0
        self.errors = 0


class RequestStats:
    def __init__(self) -> None:
        self._tallies = {operation: _Tally() for operation in OPERATIONS}

    @contextmanager
    def measuring(self, operation: str) -> Iterator[Measured]:
        """Count the request that is carried out inside; an error when it raises."""
        tally = self._tallies[operation]
        measured = Measured()
        begun = time.perf_counter_ns()
        try:
            yield measured
        except BaseException:
            tally.errors += 1
            raise
        else:
            tally.moved_bytes += measured.moved_bytes
        finally:
            taken = time.perf_counter_ns() - begun
            tally.latencies[bisect_left(LATENCY_BOUNDS, taken)] += 1
            tally.nanoseconds += taken

    def counts(self) -> list[RequestCounts]:
        """Of all operations, also those that there were none of."""
        return [
            RequestCounts(
                operation=operation,
                data_plane="python",
                latencies=list(tally.latencies),
                nanoseconds=tally.nanoseconds,
                moved_bytes=tally.moved_bytes,
                errors=tally.errors,
            )
            for operation, tally in self._tallies.items()
        ]
