"""The histogram of latencies against sorted lists."""

from hypothesis import given
from hypothesis import strategies as st

from volcrypt.volume.latency import LatencyHistogram

MICROSECONDS = st.integers(0, 100) | st.integers(0, 2**40)


def made_of(microseconds: list[int]) -> LatencyHistogram:
    histogram = LatencyHistogram()
    for each in microseconds:
        histogram.add(each * 1000 + 999)
    return histogram


@given(st.lists(MICROSECONDS, min_size=1), st.sampled_from([0.5, 0.99, 1.0]))
def test_quantiles_are_at_most_an_eighth_too_large(values: list[int], part: float) -> None:
    histogram = made_of(values)
    wanted = next(
        value
        for number, value in enumerate(sorted(values), start=1)
        if number >= part * len(values)
    )
    assert wanted <= histogram.quantile_us(part) <= wanted + wanted // 8
    assert (histogram.count, histogram.worst_us) == (len(values), max(values))


def test_there_may_be_none() -> None:
    histogram = LatencyHistogram()
    assert (histogram.quantile_us(0.5), histogram.worst_us, histogram.count) == (0, 0, 0)


def test_what_takes_longer_than_can_be_counted_is_the_worst() -> None:
    histogram = made_of([1, 2**50])
    assert histogram.quantile_us(1) == 2**42 - 1 < histogram.worst_us == 2**50
