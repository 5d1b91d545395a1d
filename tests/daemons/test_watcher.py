"""The supervision of the watcher: what each answer, silence and end of the process lead to."""

import socket
from collections.abc import Callable

import msgspec
import pytest
import trio
import trio.testing

from volcrypt.daemons.watcher import PATIENCE_SECONDS, Watcher, WatchProcess
from volcrypt.errors import TryAgainError
from volcrypt.settings import MAX_KEY_CHECK_SECONDS
from volcrypt.volume.fence import (
    Held,
    KeyCheckOrder,
    LeaseCheckOrder,
    Lost,
    Unanswered,
    WatchAnswer,
    WatchOrder,
    encode,
)
from volcrypt.volume.lease_gate import LeaseGate
from volcrypt.volume.lease_time import TRUST_SECONDS

INTERVAL = 20.0
ORDER = WatchOrder(
    home="/home",
    profile="default",
    region=None,
    interval_seconds=INTERVAL,
    checks=[
        KeyCheckOrder(
            kms_key_arn="arn", ciphertext=b"", encryption_context={}, principal="p", account="a"
        )
    ],
)
HELD, NONE = Held(check="key"), Unanswered(check="key", reason="nobody there")


class ScriptedProcess(WatchProcess):
    """Says what the test has it say."""

    def __init__(self) -> None:
        self.channel, self._mouth = socket.socketpair()
        self.ended = self.took_leave = False

    @property
    def pid(self) -> int:
        return id(self)

    def say(self, *answers: WatchAnswer | bytes) -> None:
        for answer in answers:
            self._mouth.sendall(answer if isinstance(answer, bytes) else encode(answer))

    def die(self) -> None:
        self._mouth.close()

    def kill(self) -> None:
        self._mouth.close()

    def take_leave(self) -> None:
        self.took_leave = True
        assert not self.ended, "it is let to say so before it is killed"

    def end(self) -> None:
        self.ended = True
        self.channel.close()
        self._mouth.close()


class Stage:
    """A watcher, its processes, and what it was told to fence for."""

    def __init__(self) -> None:
        self.processes: list[ScriptedProcess] = []
        self.lost: list[str] = []
        self.fails = 0
        self.watcher = Watcher(ORDER, lost=self._note, start=self._start)

    @property
    def process(self) -> ScriptedProcess:
        return self.processes[-1]

    async def _note(self, reason: str) -> None:
        self.lost.append(reason)

    def _start(self, order: WatchOrder) -> ScriptedProcess:
        self.order = order
        if self.fails:
            self.fails -= 1
            raise OSError(11, "no more processes")
        self.processes.append(ScriptedProcess())
        return self.process

    async def until(self, condition: Callable[[], bool]) -> None:
        """By a clock that jumps: for a minute and a half."""
        for _ in range(900):
            if condition():
                return
            await trio.sleep(0.1)
        raise AssertionError("it did not happen")


@pytest.fixture
def stage() -> Stage:
    made = Stage()
    made.watcher.start_process()
    return made


async def test_an_answer_is_noted_and_the_end_ends_the_process(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stage.watcher.run)
        stage.process.say(HELD)
        await stage.watcher.first_round()
        [state] = stage.watcher.states()
        assert state.answered_at is not None
        assert (state.unanswered_since, state.problem) == (None, None)
        nursery.cancel_scope.cancel()
    assert stage.process.ended


async def test_a_loss_is_told_once_and_ends_the_watching(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    stage.process.say(HELD, Lost(check="key", reason="disabled"), Lost(check="key", reason="again"))
    await stage.watcher.run()
    assert stage.lost == ["disabled"]
    assert stage.process.took_leave  # it may have something to do about it
    assert stage.process.ended
    assert stage.watcher.pid is None
    assert len(stage.processes) == 1


async def test_no_answer_is_no_loss_and_keeps_its_beginning(
    stage: Stage, autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    nursery.start_soon(stage.watcher.run)
    stage.process.say(HELD, NONE)
    await stage.until(lambda: stage.watcher.states()[0].problem is not None)
    [first] = stage.watcher.states()
    assert first.problem == "nobody there"
    assert first.answered_at is not None
    stage.process.say(Unanswered(check="key", reason="still nobody"))
    await stage.until(lambda: stage.watcher.states()[0].problem == "still nobody")
    assert stage.watcher.states()[0].unanswered_since == first.unanswered_since
    stage.process.say(HELD)
    await stage.until(lambda: stage.watcher.states()[0].problem is None)
    assert stage.watcher.states()[0].unanswered_since is None
    assert stage.lost == []
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("end", ["death", "rubbish", "a flood", "no start"])
async def test_a_process_that_fails_is_started_again(
    stage: Stage, autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, end: str
) -> None:
    nursery.start_soon(stage.watcher.run)
    stage.process.say(HELD)
    await stage.watcher.first_round()
    match end:
        case "death":
            stage.process.die()
        case "rubbish":
            stage.process.say(b'{"type": "fine"}\n')
        case "a flood":
            stage.process.say(b"x" * 70_000)
        case _:
            stage.fails = 3
            stage.process.die()
    await stage.until(lambda: len(stage.processes) == 2)
    assert stage.processes[0].ended
    [state] = stage.watcher.states()
    assert state.problem is not None
    assert state.unanswered_since is not None
    stage.process.say(HELD)
    await stage.until(lambda: stage.watcher.states()[0].problem is None)
    stage.process.say(Lost(check="key", reason="disabled"))
    await stage.until(lambda: stage.lost == ["disabled"])
    # Who waits for the end of the service hears of it before the process is killed.
    await stage.until(lambda: stage.process.ended)
    assert stage.process.took_leave


async def test_a_silent_process_is_ended_within_the_promise(
    stage: Stage, autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    nursery.start_soon(stage.watcher.run)
    stage.process.say(HELD)
    await stage.watcher.first_round()
    began = trio.current_time()
    await stage.until(lambda: len(stage.processes) == 2)
    assert trio.current_time() - began < INTERVAL + PATIENCE_SECONDS + 2
    assert stage.processes[0].ended
    assert "does not answer" in str(stage.watcher.states()[0].problem)
    nursery.cancel_scope.cancel()


def test_the_promise_holds_for_every_interval_that_is_allowed() -> None:
    one_start = 4
    assert MAX_KEY_CHECK_SECONDS + PATIENCE_SECONDS + one_start < 60


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (NONE, "nobody there"),
        (Lost(check="key", reason="disabled"), "disabled"),
        (None, "does not answer"),
    ],
)
async def test_a_volume_is_not_served_before_the_first_answer(
    stage: Stage,
    autojump_clock: trio.testing.MockClock,
    nursery: trio.Nursery,
    answer: WatchAnswer | None,
    words: str,
) -> None:
    nursery.start_soon(stage.watcher.run)
    if answer is not None:
        stage.process.say(answer)
    with pytest.raises(TryAgainError) as caught:
        await stage.watcher.first_round()
    assert words in str(caught.value)
    nursery.cancel_scope.cancel()


async def test_answers_to_checks_that_nobody_ordered_are_ignored(
    stage: Stage, autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    nursery.start_soon(stage.watcher.run)
    stage.process.say(Lost(check="another", reason="what"), HELD)
    await stage.watcher.first_round()
    assert stage.lost == []
    nursery.cancel_scope.cancel()


async def test_that_the_lease_is_held_opens_the_gate_for_as_long_as_the_question_allows(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    gate = LeaseGate(clock=lambda: 1000.0)
    checks = [*ORDER.checks, LeaseCheckOrder(volume_id="v")]
    order = msgspec.structs.replace(ORDER, checks=checks)
    stage = Stage()
    watcher = Watcher(order, lost=stage._note, gate=gate, start=stage._start)
    watcher.start_process()
    nursery.start_soon(watcher.run)
    stage.process.say(Held(check="key", asked_at=1000.0), Unanswered(check="lease", reason="away"))
    await stage.until(lambda: watcher.states()[1].problem is not None)
    assert not gate.is_open
    stage.process.say(Held(check="lease", asked_at=990.0))
    await stage.until(lambda: gate.is_open)
    assert gate.left_seconds == TRUST_SECONDS - 10
    nursery.cancel_scope.cancel()


async def test_another_key_is_asked_for_from_now_on(
    stage: Stage, autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    """What the process before still says of the old one is no loss."""
    nursery.start_soon(stage.watcher.run)
    stage.process.say(HELD)
    await stage.watcher.first_round()
    first = stage.process
    first.say(Lost(check="key", reason="of the key before"))
    order = msgspec.structs.replace(ORDER, profile="another")
    stage.watcher.replace(order)
    await stage.until(lambda: len(stage.processes) == 2)
    assert (first.ended, stage.order) == (True, order)
    stage.process.say(HELD)
    await stage.until(lambda: stage.watcher.states()[0].answered_at is not None)
    assert stage.lost == []
    stage.process.say(Lost(check="key", reason="disabled"))
    await stage.until(lambda: stage.lost == ["disabled"])
