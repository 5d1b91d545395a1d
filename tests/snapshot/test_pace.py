"""The token bucket: what may be moved when, as told by a clock of the test."""

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from volcrypt.errors import InvalidArgumentError
from volcrypt.snapshot.pace import Bucket, Pace, parse_rate

MIB = 2**20


def test_requests_wait_for_those_before_them() -> None:
    bucket = Bucket(MIB)
    waits = [bucket.take(MIB // 2, now=100.0) for _ in range(5)]
    # A second's worth is there from the start; from then on half a second each.
    assert waits == [0.0, 0.0, 0.0, 0.5, 1.0]


def test_a_pause_saves_up_one_second_and_no_more() -> None:
    bucket = Bucket(MIB)
    for _ in range(4):
        bucket.take(MIB, now=0.0)
    assert [bucket.take(MIB, now=3600.0) for _ in range(3)] == [0.0, 0.0, 1.0]


def test_a_request_larger_than_the_bucket_gets_through() -> None:
    bucket = Bucket(1)
    assert bucket.take(10, now=0.0) == 0.0
    assert bucket.take(10, now=0.0) == 9.0


@given(
    st.integers(1, 1000),
    st.lists(st.tuples(st.floats(0, 5), st.integers(1, 3000)), min_size=1, max_size=40),
)
def test_no_time_sees_more_than_the_rate_allows(
    rate: int, requests: list[tuple[float, int]]
) -> None:
    bucket = Bucket(rate)
    now = 0.0
    moved: list[tuple[float, int]] = []
    for pause, size_bytes in requests:
        now += pause
        moved.append((now + bucket.take(size_bytes, now=now), size_bytes))
    largest = max(size for _, size in moved)
    for first, (begin, _) in enumerate(moved):
        for last in range(first, len(moved)):
            inside = sum(size for _, size in moved[first : last + 1])
            allowed = rate * (moved[last][0] - begin) + rate + largest
            assert inside <= allowed * (1 + 1e-9) + 1e-6


async def test_tasks_share_one_pace(autojump_clock: MockClock) -> None:
    pace = Pace(4 * MIB)
    done: list[float] = []

    async def move() -> None:
        for _ in range(10):
            await pace.wait(MIB)
            done.append(trio.current_time())

    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(move)
    assert len(done) == 40
    # 40 MiB at 4 MiB/s, of which one second's worth and one request more come at once.
    assert trio.current_time() - start == pytest.approx((40 - 4 - 1) / 4)


async def test_without_a_rate_nobody_waits(autojump_clock: MockClock) -> None:
    pace = Pace(None)
    start = trio.current_time()
    for _ in range(100):
        await pace.wait(10**12)
    assert (pace.rate, trio.current_time() - start) == (None, 0.0)


def test_rates_are_read_as_people_write_them() -> None:
    assert parse_rate("50MiB") == parse_rate("50MiB/s") == 50 * MIB
    assert parse_rate("500K") == 500 * 1024
    for wrong in ("", "fast", "-1", "1.5M", "50MiB/h", "0", "0MiB/s"):
        with pytest.raises(InvalidArgumentError):
            parse_rate(wrong)
