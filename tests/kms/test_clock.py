"""Observed time: what a clock that jumps does to it, and what not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.kms import MemoryKms
from volcrypt.kms.clock import (
    LARGEST_STEP_SECONDS,
    RECORD_SECONDS,
    Clock,
    _advanced,
    deadline,
    is_over,
    is_to_be_recorded,
    observe,
    observed_time,
)
from volcrypt.kms.model import DAY_SECONDS, Deadline

T = 1_800_000_000.0
YEAR = 365 * DAY_SECONDS


def looks(kms: MemoryKms, *times: float) -> list[float]:
    """What is observed at those times of the host's clock, each recorded."""
    observed = []
    for time in times:
        with kms.catalog.changing() as change:
            observed.append(observe(change, time))
    return observed


@pytest.mark.parametrize(
    ("times", "observed"),
    [
        ([T], [0]),
        ([T, T + 10, T + 30], [0, 10, 30]),
        ([T, T + DAY_SECONDS, T + 2 * DAY_SECONDS], [0, DAY_SECONDS, 2 * DAY_SECONDS]),
        ([T, T + YEAR, T + YEAR + 5], [0, DAY_SECONDS, DAY_SECONDS + 5]),
        ([T, T - YEAR, T - YEAR + 5], [0, 0, 5]),
        ([T, T + YEAR, T + 10, T + 20], [0, DAY_SECONDS, DAY_SECONDS, DAY_SECONDS + 10]),
    ],
)
def test_steps(kms: MemoryKms, times: list[float], observed: list[float]) -> None:
    assert looks(kms, *times) == observed


def test_looking_alone_changes_nothing(kms: MemoryKms) -> None:
    looks(kms, T)
    with kms.catalog.reading() as view:
        assert observed_time(view, T + 100) == observed_time(view, T + 100) == 100
    assert looks(kms, T + 100) == [100]


def test_when_a_look_is_recorded(kms: MemoryKms) -> None:
    looks(kms, T)
    with kms.catalog.reading() as view:
        assert not is_to_be_recorded(view, T)
        assert not is_to_be_recorded(view, T + RECORD_SECONDS - 1)
        assert is_to_be_recorded(view, T + RECORD_SECONDS)
        assert is_to_be_recorded(view, T - 1)


def test_a_deadline_needs_date_and_observed_time(kms: MemoryKms) -> None:
    looks(kms, T - 500)
    with kms.catalog.changing() as change:
        end = deadline(change, date=T + 1000, now=T)
    assert end == Deadline(date=T + 1000, observed_until=1500)
    assert is_over(end, now=T + 1000, observed=1500)
    assert not is_over(end, now=T + 999, observed=1500)
    assert not is_over(end, now=T + 1000, observed=1499)


@given(st.lists(st.floats(min_value=-YEAR, max_value=YEAR), max_size=50))
def test_it_never_runs_faster_than_a_day_a_look_and_never_back(steps: list[float]) -> None:
    clock = Clock(observed=0, seen=T)
    for step in steps:
        after = _advanced(clock, clock.seen + step)
        assert 0 <= after.observed - clock.observed <= max(0, LARGEST_STEP_SECONDS)
        assert after.observed - clock.observed <= max(step, 0) + 1e-3
        clock = after
