"""Any number of things that hosts do in one store at once, in any order of their calls, with kills
and clocks that jump, against a model (`tests/hosts.py`).

A failure is printed as a `Play`, made as small as it gets: the programs of the hosts, and the turns
they took. `run(Play(...))` repeats it.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fakes.snapshots import OTHER_SIGNER, SIGNER, snapshot_id
from tests.hosts import SimHost, make_hosts, volume_of
from tests.interleaving import Task, one_thread_a_host
from volcrypt.errors import TryAgainError
from volcrypt.names import VolumeId, make_volume_id
from volcrypt.snapshot import layout
from volcrypt.snapshot.signer import Signer

SIGNERS = [
    SIGNER,
    OTHER_SIGNER,
    Signer(Ed25519PrivateKey.from_private_bytes(b"host three".ljust(32, b"\0"))),
]
HOUR = 3600
KINDS = ("create", "child", "delete", "sweep", "copy", "lazy", "give up", "verify", "read")


@dataclass(frozen=True)
class Act:
    """One thing that a host does; `which` of the snapshots that are there then."""

    kind: str
    which: int = 0
    seeds: tuple[int, int] = (1, 1)


@dataclass(frozen=True)
class Turn:
    """One host goes on for some calls; then `event` happens to it."""

    host: int
    calls: int
    event: str = ""


@dataclass(frozen=True)
class Play:
    """All that happens. After the turns each host does the rest of its program, one by one."""

    programs: tuple[tuple[Act, ...], ...]
    turns: tuple[Turn, ...]


class Player:
    """A host and the rest of its program."""

    def __init__(self, stage: "Stage", host: SimHost, program: tuple[Act, ...]) -> None:
        self.stage = stage
        self.host = host
        self.rest = list(program)
        self.task: Task | None = None

    def go_on(self, calls: int) -> None:
        for _ in range(calls):
            if not self._has_task():
                return
            assert self.task is not None
            self.task.step()
            self.stage.model.check()
            self._look()

    def end(self) -> None:
        """All that is left of the program."""
        while self._has_task():
            self.go_on(1000)

    def kill(self, *, after: bool) -> None:
        if self.task is not None and not self.task.is_over:
            self.task.kill(after=after)
            self.stage.model.check()
            self._look()

    def _has_task(self) -> bool:
        while self.task is None:
            if not self.rest:
                return False
            if (work := self.stage.work(self, self.rest.pop(0))) is not None:
                self.task = self.host.begin(work)
                self._look()
        return True

    def _look(self) -> None:
        """A task that is over: what came of it?"""
        if self.task is None or not self.task.is_over:
            return
        task, self.task = self.task, None
        error = task.error
        if error is None or task.is_dead:
            return
        if isinstance(error, TryAgainError):
            # Nobody is taken for dead whose clock is right, and who lives.
            assert "lost its hold" not in str(error) or not self.stage.nobody_was_late
            return
        raise error


class Stage:
    """The hosts of a play."""

    def __init__(self, play: Play) -> None:
        self.world, self.model, hosts = make_hosts(SIGNERS[: len(play.programs)])
        self.players = [
            Player(self, host, program) for host, program in zip(hosts, play.programs, strict=True)
        ]
        self.count = 2
        self.nobody_was_late = True  # no clock was wrong, and nobody slept
        self._begin(hosts[0])

    def _begin(self, host: SimHost) -> None:
        """A snapshot, garbage that is as good as what will be put, and what a power cut left."""
        host.begin(lambda: host.create(1, volume_of(0, 1))).finish()
        host.begin(lambda: host.create(2, volume_of(1, 2))).finish()
        host.begin(lambda: host.remove(snapshot_id(2))).finish()
        for place, data in volume_of(2, 1).image().items():
            name = layout.chunk_name(self.model.store.digest.digest(data))
            if name not in self.world.objects.objects:
                self.world.objects.objects[name] = data[:place]

    def run(self, turns: tuple[Turn, ...]) -> None:
        try:
            for turn in turns:
                player = self.players[turn.host % len(self.players)]
                player.go_on(turn.calls)
                self.happen(player, turn.event)
            for player in self.players:
                player.end()
            self.clear_up()
            self.model.check_end([player.host for player in self.players])
        finally:
            self.world.close()

    def happen(self, player: Player, event: str) -> None:
        kind, _, amount = event.partition(" ")
        if kind == "kill":
            player.kill(after=amount == "after")
        elif kind == "jump":
            player.host.wrong_by += int(amount)
            self.nobody_was_late = False
        elif kind == "pass":
            self.world.pass_time(int(amount))
            self.nobody_was_late = False
            for each in self.players:
                each._look()
        self.model.check()

    def clear_up(self) -> None:
        """Everybody is back, with a clock that is right, and sweeps until nothing is in the way."""
        for player in self.players:
            player.host.wrong_by = 0
            player.host.cursors.clear()
        self.world.pass_time(2 * HOUR)
        for player in self.players:
            # What another left is dated by a clock that was wrong, and looks alive.
            with suppress(TryAgainError):
                player.host.begin(player.host.sweep).finish()
        for player in self.players:
            player.host.begin(player.host.sweep).finish()

    def work(self, player: Player, act: Act) -> Callable[[], object] | None:
        """What a host does for an act; None when there is nothing to do it with."""
        host, there = player.host, self.model.visible()
        which = there[act.which % len(there)] if there else None
        self.count += 1
        number, volume = self.count, volume_of(*act.seeds)
        if act.kind == "create":
            return lambda: host.create(number, volume)
        if act.kind == "sweep":
            return host.sweep
        if act.kind == "verify":
            return host.verify
        if act.kind == "give up":
            if not host.lazy:
                return None
            lazy = min(host.lazy)
            return lambda: self._give_up(host, lazy)
        if act.kind == "copy" and host.cursors:
            number, cursor = next(iter(host.cursors.items()))
            return lambda: host.copy_of(number, cursor.source_snapshot_id)
        if which is None:
            return None
        if act.kind == "child":
            return lambda: host.create(number, volume, which)
        if act.kind == "copy":
            return lambda: host.copy_of(number, which)
        if act.kind == "lazy":
            name = make_volume_id(number.to_bytes(8, "big") + b"\0")
            return lambda: host.hold_lazily(which, name)
        if act.kind == "read":
            return lambda: host.read(which)
        return lambda: host.remove_if_there(which)

    @staticmethod
    def _give_up(host: SimHost, volume: VolumeId) -> None:
        host.read_lazily(volume)
        host.give_up(volume)


def run(play: Play) -> Stage:
    with one_thread_a_host():
        stage = Stage(play)
        stage.run(play.turns)
        return stage


ACTS = st.builds(
    Act,
    st.sampled_from(KINDS),
    st.integers(0, 3),
    st.tuples(st.integers(0, 2), st.integers(0, 2)),
)
QUIET_EVENTS = ("", "", "", "kill before", "kill after")
TIMES = (f"pass {HOUR // 2}", f"pass {2 * HOUR}")
JUMPS = (f"jump {2 * HOUR}", f"jump {-2 * HOUR}", f"jump {9000 * HOUR}")
EVENTS = st.sampled_from(QUIET_EVENTS + TIMES + JUMPS)
QUIET = st.sampled_from(QUIET_EVENTS)


def plays(events: st.SearchStrategy[str]) -> st.SearchStrategy[Play]:
    return st.builds(
        Play,
        st.tuples(*(st.lists(ACTS, min_size=1, max_size=5).map(tuple) for _ in SIGNERS)),
        st.lists(st.builds(Turn, st.integers(0, 2), st.integers(1, 60), events), max_size=14).map(
            tuple
        ),
    )


CHECKS = [HealthCheck.too_slow, HealthCheck.data_too_large]


@given(plays(EVENTS))
@settings(max_examples=25, deadline=None, suppress_health_check=CHECKS)
def test_whatever_hosts_do_and_their_clocks_say(play: Play) -> None:
    run(play)


@given(plays(QUIET))
@settings(max_examples=25, deadline=None, suppress_health_check=CHECKS)
def test_with_clocks_that_are_right_nobody_loses_his_hold(play: Play) -> None:
    run(play)


@pytest.mark.soak
@given(plays(EVENTS | QUIET))
@settings(max_examples=20_000, deadline=None, suppress_health_check=CHECKS)
def test_for_long(play: Play) -> None:
    run(play)


def test_a_snapshot_is_deleted_before_who_made_it_has_looked_at_it() -> None:
    delete, create = Act("delete", 0, (0, 0)), Act("create", 0, (0, 2))
    run(Play(((delete,), (delete,), (create,)), (Turn(0, 14), Turn(2, 22))))


def test_the_same_play_is_the_same_run() -> None:
    program = (Act("create"), Act("copy"), Act("delete"), Act("sweep"), Act("verify"))
    turns = tuple(Turn(number % 3, 7 * number % 20 + 1) for number in range(30))
    play = Play((program, program, program), turns)
    first, second = run(play), run(play)
    assert first.world.trace == second.world.trace
    assert len(first.world.trace) > 300
