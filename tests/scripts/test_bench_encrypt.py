"""What the benchmark of encryption computes; how fast anything is, is no test."""

import os
from pathlib import Path

from scripts.bench.encrypt import Latency, Room, Writer, latency


def test_latencies_are_those_of_the_slowest() -> None:
    times = [number / 1000 for number in range(1, 101)]
    assert latency("now", times[::-1]) == Latency(
        when="now", writes=100, p50_us=51_000.0, p99_us=100_000.0, worst_us=100_000.0
    )
    assert latency("now", []).writes == 0


def test_a_writer_says_what_it_did_when(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(8192))
    writer = Writer(tmp_path / "file", 8192)
    with writer.writing():
        while len(writer.times) < 3:
            os.sched_yield()
    first = writer.times[0][0]
    assert len(writer.between(first, first + 3600)) == len(writer.times)
    assert writer.between(first - 10, first) == []


def test_room_is_never_less_than_nothing(tmp_path: Path) -> None:
    assert Room(tmp_path).of(lambda: None) >= 0
