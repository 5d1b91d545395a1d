"""What is counted of requests, on both data planes by the same bounds."""

from contextlib import suppress

import pytest

from volcrypt.volume.plane.door import LATENCY_BOUNDS as PLANE_BOUNDS
from volcrypt.volume.request_stats import (
    DISCARD,
    LATENCY_BOUNDS,
    OPERATIONS,
    READ,
    WRITE,
    RequestStats,
)


def test_both_planes_have_the_same_bounds() -> None:
    assert PLANE_BOUNDS == LATENCY_BOUNDS
    assert list(LATENCY_BOUNDS) == sorted(set(LATENCY_BOUNDS))


def test_requests_bytes_and_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0
    monkeypatch.setattr("time.perf_counter_ns", lambda: now)
    stats = RequestStats()
    for taken, size in ((0, 512), (10_000, 4096), (10_001, 1), (10**11, 0)):
        with stats.measuring(READ) as measured:
            now += taken
            measured.moved_bytes = size
    with suppress(OSError), stats.measuring(WRITE) as measured:
        measured.moved_bytes = 4096
        raise OSError("broken")
    counts = {each.operation: each for each in stats.counts()}
    assert tuple(counts) == OPERATIONS
    read = counts[READ]
    assert (read.latencies[0], read.latencies[1], read.latencies[-1]) == (2, 1, 1)
    assert (sum(read.latencies), read.moved_bytes, read.errors) == (4, 4609, 0)
    assert read.nanoseconds == now
    assert (sum(counts[WRITE].latencies), counts[WRITE].moved_bytes, counts[WRITE].errors) == (
        1,
        0,
        1,
    )
    assert sum(counts[DISCARD].latencies) == 0
