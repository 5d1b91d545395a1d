"""How far several steps are together, and at which rate they may move data."""

import pytest

from volcrypt.operations.progress import SILENT
from volcrypt.operations.stages import Stages

MIB = 2**20


class Clock:
    """Time that passes when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Whole:
    """A progress that notes how far all steps are."""

    def __init__(self) -> None:
        self.said: list[tuple[float, float]] = []

    def begin(self, step: str, total_bytes: int | None) -> None:
        """Steps are somebody else's."""

    def advance(self, done_bytes: int) -> None:
        """As are their bytes."""

    def whole(self, fraction: float, seconds_left: float) -> None:
        self.said.append((round(fraction, 3), round(seconds_left, 3)))


def test_all_steps_are_one_piece_of_work() -> None:
    clock, whole = Clock(), Whole()
    stages = Stages(whole, {"one": 30.0, "two": 10.0}, clock=clock)
    stages.enter("one")
    stages.begin("reading", 100)
    stages.advance(0)
    assert whole.said[-1] == (0.0, 40.0), "nothing is known but what was expected"
    clock.sleep(60)
    stages.advance(50)
    assert whole.said[-1] == (0.375, 100.0)
    stages.begin("something small", 10)
    stages.advance(1)
    assert whole.said[-1][0] == 0.375, "a step that begins again goes not back"
    stages.enter("two")
    stages.begin("writing", None)
    stages.advance(7)
    assert whole.said[-1] == (0.75, 20.0)
    stages.begin("writing", 10)
    stages.advance(20)
    assert whole.said[-1] == (1.0, 0.0)


def test_nothing_was_expected() -> None:
    whole = Whole()
    stages = Stages(whole, {})
    stages.enter("removing")
    stages.begin("removing", 1)
    stages.advance(1)
    assert whole.said[-1][0] == 0.0


@pytest.mark.parametrize("resumed_at", [0, 50 * MIB])
def test_a_rate_is_kept_and_what_was_done_before_costs_nothing(resumed_at: int) -> None:
    clock = Clock()
    stages = Stages(SILENT, {"one": 1.0}, rate=2 * MIB, clock=clock, sleep=clock.sleep)
    stages.enter("one")
    stages.begin("copying", 100 * MIB)
    stages.advance(resumed_at)
    began = clock.now
    for done in range(20):
        stages.advance(resumed_at + (done + 1) * MIB)
    assert clock.now - began == pytest.approx(10.0, abs=2.5)
