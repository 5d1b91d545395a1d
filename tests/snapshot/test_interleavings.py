"""What one host does is stopped before each of its calls in turn, and another does something whole;
then the first goes on, or is killed. The promises of the store hold whatever the order
(`tests/hosts.py` says which), and whatever the other's clock says."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import count

import pytest

from tests.fakes.snapshots import OTHER_SIGNER, SIGNER, snapshot_id
from tests.hosts import BrokenPromiseError, SimHost, StoreModel, make_hosts, volume_of
from tests.interleaving import Task, World, one_thread_a_host
from volcrypt.errors import SnapshotNotFoundError, TryAgainError
from volcrypt.names import make_volume_id
from volcrypt.snapshot import layout
from volcrypt.snapshot.sweep import sweep
from volcrypt.snapshot.sweep_mark import (
    GIVE_UP_SECONDS,
    PIN_LIFETIME_SECONDS,
    RENEW_SECONDS,
    WATCH_SECONDS,
)
from volcrypt.snapshot.transfer import chunk_table

FIRST, GARBAGE, COPY, NEW, OTHERS = (snapshot_id(number) for number in (1, 2, 3, 10, 20))
LAZY, THEIRS = (make_volume_id(bytes([number] * 9)) for number in (7, 8))
AHEAD = 2 * PIN_LIFETIME_SECONDS
Work = Callable[[SimHost], object]


@dataclass
class Scene:
    """Two hosts; in the store a snapshot, a copy of it, and what a deleted one had."""

    world: World
    model: StoreModel
    one: SimHost
    other: SimHost

    def finish(self, task: Task) -> object:
        """What came of it; None when the host was told to come again, or the snapshot is gone."""
        try:
            return task.finish()
        except (TryAgainError, SnapshotNotFoundError):
            return None
        finally:
            self.model.check()

    def do(self, host: SimHost, work: Work) -> object:
        return self.finish(host.begin(lambda: work(host)))

    def clear_up(self) -> None:
        """Time goes by, clocks are set right, and both sweep: what is left is what is needed."""
        for host in (self.one, self.other):
            host.wrong_by = 0
            host.cursors.clear()
        self.world.pass_time(2 * AHEAD)
        for host in (self.one, self.other, self.one):
            self.do(host, SimHost.sweep)
        self.model.check_end([self.one, self.other])


@pytest.fixture(autouse=True)
def deterministic() -> Iterator[None]:
    with one_thread_a_host():
        yield


def make_scene() -> Scene:
    world, model, (one, other) = make_hosts([SIGNER, OTHER_SIGNER])
    scene = Scene(world, model, one, other)
    if not _BEGINNING:
        scene.do(one, lambda host: host.create(1, volume_of(1, 1)))
        scene.do(one, lambda host: host.create(2, volume_of(2, 2)))
        scene.do(other, lambda host: host.copy_of(3, FIRST))
        scene.do(other, SimHost.sweep)  # the table of the copy's cursor
        scene.do(one, lambda host: host.remove(GARBAGE))
        _BEGINNING.append(scene)
        return make_scene()
    begun = _BEGINNING[0]
    world.objects.objects |= begun.world.objects.objects
    for name in ("needed", "deleted", "logs", "images", "finally_deleted"):
        getattr(model, name).update(getattr(begun.model, name))
    one.head, other.head = begun.one.head, begun.other.head
    return scene


_BEGINNING: list[Scene] = []
"""The scene as it begins, made once: nothing changes it."""


@pytest.fixture
def scene() -> Iterator[Scene]:
    made = make_scene()
    yield made
    made.world.close()


def hold_lazily(host: SimHost) -> None:
    host.hold_lazily(FIRST, LAZY if host.signer is SIGNER else THEIRS)


def delete_all_and_sweep(host: SimHost) -> None:
    for each in (FIRST, COPY):
        host.remove_if_there(each)
    with suppress(TryAgainError):
        host.sweep()


ONE: dict[str, Work] = {
    "create": lambda host: host.create(10, volume_of(2, 2)),
    "create from a parent": lambda host: host.create(10, volume_of(1, 2), FIRST),
    "copy": lambda host: host.copy_of(10, FIRST),
    "copy on a base": lambda host: host.copy_of(10, FIRST, COPY),
    "lazy": hold_lazily,
    "read": lambda host: host.read(FIRST),
    "verify": SimHost.verify,
    "delete": lambda host: host.remove_if_there(FIRST),
    "sweep": SimHost.sweep,
}
OTHER: dict[str, Work] = {
    "sweeps": SimHost.sweep,
    "deletes and sweeps": delete_all_and_sweep,
    "creates": lambda host: host.create(20, volume_of(2, 2)),
    "holds": hold_lazily,
}
PAIRS = [(one, other) for one in ONE for other in OTHER]


def play(one: str, other: str, *, stop: int, ahead: int, ending: str) -> bool:
    """False when `one` makes no so many calls."""
    scene = make_scene()
    try:
        task = scene.one.begin(lambda: ONE[one](scene.one))
        for _ in range(stop):
            if task.is_over:
                return False
            task.step()
        scene.other.wrong_by = ahead
        scene.do(scene.other, OTHER[other])
        if ending == "goes on" or task.is_over:
            scene.finish(task)
        else:
            task.kill(after=ending == "is killed after")
            scene.model.check()
        for host in (scene.one, scene.other):
            for volume in list(host.lazy):
                assert scene.do(host, lambda host: host.read_lazily(volume)) is not None  # noqa: B023 called at once
        scene.do(scene.other, SimHost.verify)
        scene.clear_up()
        return True
    finally:
        scene.world.close()


def every_stop(one: str, other: str, *, ahead: int, ending: str, stride: int = 1) -> int:
    """How many there were."""
    for stop in count(0, stride):
        if not play(one, other, stop=stop, ahead=ahead, ending=ending):
            return stop
    raise AssertionError


SHORT = [
    ("create", "sweeps"),
    ("create from a parent", "deletes and sweeps"),
    ("copy", "deletes and sweeps"),
    ("copy on a base", "deletes and sweeps"),
    ("lazy", "deletes and sweeps"),
    ("read", "deletes and sweeps"),
    ("verify", "deletes and sweeps"),
    ("delete", "deletes and sweeps"),
    ("sweep", "creates"),
    ("sweep", "holds"),
    ("sweep", "sweeps"),
]


@pytest.mark.parametrize(("one", "other"), SHORT)
def test_at_some_calls_another_comes_between(one: str, other: str) -> None:
    assert every_stop(one, other, ahead=AHEAD, ending="goes on", stride=7) > 10


@pytest.mark.soak
@pytest.mark.parametrize("ending", ["goes on", "is killed before", "is killed after"])
@pytest.mark.parametrize("ahead", [0, AHEAD])
@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_at_every_call_another_comes_between(one: str, other: str, ahead: int, ending: str) -> None:
    assert every_stop(one, other, ahead=ahead, ending=ending) > 10


# ---------------------------------------------------------------- the races that have a name


def sweep_beside(scene: Scene, *, ahead: int = AHEAD) -> object:
    scene.other.wrong_by = ahead
    return scene.do(scene.other, SimHost.sweep)


def test_exists_was_answered_then_swept_elsewhere_then_committed(scene: Scene) -> None:
    """The other's clock is ahead, so it takes the maker for dead."""
    task = scene.one.begin(lambda: scene.one.create(10, volume_of(2, 2)))
    task.until("put_if_absent", layout.CHUNKS)
    task.until("replace", layout.pin_name(NEW))
    assert sweep_beside(scene) == 5
    with pytest.raises(TryAgainError, match="lost its hold") as caught:
        task.finish()
    assert caught.value.hint is not None
    assert "clocks" in caught.value.hint
    assert scene.model.visible() == [FIRST, COPY]
    scene.clear_up()


def test_a_renewal_does_not_bring_back_what_was_taken_for_dead(scene: Scene) -> None:
    task = scene.one.begin(lambda: scene.one.create(10, volume_of(2, 2)))
    task.until("replace", layout.pin_name(NEW))
    sweep_beside(scene)
    task.step()
    assert layout.pin_name(NEW) in scene.world.objects.objects
    with pytest.raises(TryAgainError, match="lost its hold"):
        task.finish()
    scene.clear_up()


def test_whoever_has_looked_and_not_yet_committed_is_waited_for(scene: Scene) -> None:
    """However long he sleeps between his look at the hold and his manifest."""
    task = scene.one.begin(lambda: scene.one.create(10, volume_of(2, 2)))
    task.until("put_if_absent", layout.MANIFESTS)
    for _ in range(3):
        assert sweep_beside(scene) == 0
        scene.world.pass_time(AHEAD)
    task.finish()
    assert scene.model.visible() == [FIRST, COPY, NEW]
    scene.clear_up()


def test_whoever_dies_there_leaves_what_his_own_next_sweep_takes(scene: Scene) -> None:
    task = scene.one.begin(lambda: scene.one.create(10, volume_of(2, 2)))
    task.until("put_if_absent", layout.MANIFESTS)
    task.kill()
    scene.world.pass_time(2 * AHEAD)
    assert sweep_beside(scene) == 0
    assert scene.do(scene.one, SimHost.sweep) == 5
    scene.clear_up()


def test_a_pin_of_a_clock_that_was_wrong_does_not_hold_up_sweeps_for_years(scene: Scene) -> None:
    scene.one.wrong_by = 10**9
    task = scene.one.begin(lambda: scene.one.create(10, volume_of(2, 2)))
    task.until("put_if_absent", layout.CHUNKS)
    task.kill()
    assert sweep_beside(scene, ahead=0) == 5
    scene.clear_up()


def test_condemned_then_put_again_then_not_deleted(scene: Scene) -> None:
    """The lists are made, and the uploader comes before the deletions."""
    sweeper = scene.other.begin(scene.other.sweep)
    sweeper.until("put_if_absent", layout.SWEEPING)
    maker = scene.one.begin(lambda: scene.one.create(10, volume_of(2, 2)))
    maker.until("replace", layout.pin_name(NEW))
    with pytest.raises(TryAgainError, match="is being made"):
        sweeper.finish()
    maker.finish()
    scene.clear_up()


def test_condemned_then_committed_then_not_deleted(scene: Scene) -> None:
    sweeper = scene.other.begin(scene.other.sweep)
    sweeper.until("put_if_absent", layout.SWEEPING)
    scene.do(scene.one, ONE["create"])
    assert sweeper.finish() == 0
    scene.clear_up()


def test_who_comes_during_the_deletions_gives_way(scene: Scene) -> None:
    sweeper = scene.other.begin(scene.other.sweep)
    sweeper.until("delete", layout.CHUNKS)
    with pytest.raises(TryAgainError, match="is being swept"):
        scene.one.begin(lambda: scene.one.create(10, volume_of(2, 2))).finish()
    assert sweeper.finish() == 5
    scene.do(scene.one, ONE["create"])
    scene.clear_up()


def test_a_maker_whose_clock_is_ahead_does_not_take_a_sweep_for_dead(scene: Scene) -> None:
    """He watches its mark, which is renewed, or taken away."""
    sweeper = scene.other.begin(scene.other.sweep)
    sweeper.until("delete", layout.CHUNKS)
    scene.one.wrong_by = AHEAD
    scene.world.pass_time(RENEW_SECONDS)
    with pytest.raises(TryAgainError, match="is being swept"):
        scene.one.begin(lambda: scene.one.create(10, volume_of(2, 2))).finish()
    assert scene.world.seconds >= WATCH_SECONDS
    assert sweeper.finish() == 5
    assert scene.do(scene.one, ONE["create"]) is not None
    scene.clear_up()


def test_a_sweep_that_slept_deletes_nothing_more(scene: Scene) -> None:
    sweeper = scene.other.begin(scene.other.sweep)
    sweeper.until("put_if_absent", layout.SWEEPING)
    sweeper.until("list", layout.CONDEMNED)
    scene.world.seconds += GIVE_UP_SECONDS
    with pytest.raises(TryAgainError, match="took too long"):
        sweeper.finish()
    assert scene.do(scene.other, SimHost.sweep) == 5
    scene.clear_up()


def test_the_mark_of_a_sweep_that_goes_on_is_renewed(scene: Scene) -> None:
    sweeper = scene.other.begin(scene.other.sweep)
    sweeper.until("delete", layout.CHUNKS)
    scene.world.seconds += RENEW_SECONDS
    before = scene.world.objects.objects[layout.SWEEPING]
    sweeper.step()
    sweeper.until("delete")
    assert scene.world.objects.objects[layout.SWEEPING] != before
    assert sweeper.finish() == 5
    scene.clear_up()


@pytest.mark.parametrize("who", ["the same host", "another", "a maker"])
def test_the_mark_of_a_killed_sweep_is_not_in_the_way_for_ever(scene: Scene, who: str) -> None:
    sweeper = scene.other.begin(scene.other.sweep)
    sweeper.until("delete", layout.CHUNKS)
    sweeper.kill(after=True)
    scene.world.pass_time(10)
    if who != "the same host":
        assert scene.do(scene.one, SimHost.sweep) is None  # it may be alive
        scene.world.pass_time(PIN_LIFETIME_SECONDS)
    if who == "a maker":
        assert scene.do(scene.one, ONE["create"]) is not None
    else:
        host = scene.other if who == "the same host" else scene.one
        assert scene.do(host, SimHost.sweep) == 4
    scene.clear_up()


def test_the_first_commits_of_two_new_signers() -> None:
    """Neither has an entry yet; each stops before its manifest."""
    world, model, (one, other) = make_hosts([SIGNER, OTHER_SIGNER])
    fresh = Scene(world, model, one, other)
    tasks = [
        host.begin(partial(host.create, number, volume_of(1, number)))
        for host, number in ((one, 10), (other, 20))
    ]
    for task in tasks:
        task.until("put_if_absent", layout.MANIFESTS)
    for task in tasks:
        task.finish()
    assert model.logs == {SIGNER.id: 1, OTHER_SIGNER.id: 1}
    fresh.clear_up()
    world.close()


def test_two_deletions_of_one_snapshot(scene: Scene) -> None:
    """Both tombstones are true; nobody fails for what the other did."""
    tasks = [host.begin(partial(host.remove, FIRST)) for host in (scene.one, scene.other)]
    for task in tasks:
        task.until("put_if_absent", layout.TOMBSTONES)
    for task in tasks:
        scene.finish(task)
    scene.clear_up()


def test_deleted_by_another_just_before_it_is_read(scene: Scene) -> None:
    task = scene.one.begin(lambda: scene.one.remove(FIRST))
    task.until("get", layout.MANIFESTS + FIRST)
    scene.do(scene.other, lambda host: host.remove_if_there(FIRST))
    with pytest.raises(SnapshotNotFoundError):
        task.finish()
    scene.clear_up()


def test_a_sweep_beside_a_deletion_that_was_swept_elsewhere_is_not_blocked(scene: Scene) -> None:
    """It has read the manifest, and its pages are gone when it comes to them."""
    sweeper = scene.one.begin(scene.one.sweep)
    sweeper.until("get", layout.PAGES)
    scene.do(scene.other, delete_all_and_sweep)
    sweeper.finish()
    scene.clear_up()


def test_a_copy_whose_source_is_deleted_says_so(scene: Scene) -> None:
    """No damage: it is copied to another store, and has no pin in this one."""
    manifest = scene.model.store.manifest(FIRST)

    def read(host: SimHost) -> None:
        with host.store.reading(FIRST):
            chunk_table(host.store, manifest).read_chunk(1024, bytearray(8192))

    task = scene.one.begin(lambda: read(scene.one))
    task.until("get", layout.CHUNKS)
    scene.do(scene.other, delete_all_and_sweep)
    with pytest.raises(SnapshotNotFoundError):
        task.finish()


def test_a_copy_that_lost_its_pin_begins_again(scene: Scene) -> None:
    """Killed, taken for dead, swept; then the same copy is continued."""
    task = scene.one.begin(lambda: scene.one.copy_of(10, FIRST))
    task.until("put_if_absent", layout.MANIFESTS)
    task.kill()
    assert list(scene.one.cursors) == [10]
    del scene.world.objects.objects[layout.pin_name(NEW)]  # not even what he may be committing
    sweep_beside(scene)
    assert scene.do(scene.one, lambda host: host.copy_of(10, FIRST)) is not None
    assert scene.model.visible() == [FIRST, COPY, NEW]
    scene.clear_up()


def test_a_lazy_volume_keeps_what_is_deleted_and_swept(scene: Scene) -> None:
    task = scene.one.begin(lambda: scene.one.hold_lazily(FIRST, LAZY))
    task.until("get", layout.SWEEPING)
    scene.do(scene.other, delete_all_and_sweep)
    assert scene.finish(task) is False  # the pin was there in time, and the snapshot is gone
    again = scene.one.begin(lambda: scene.one.hold_lazily(FIRST, LAZY))
    assert scene.finish(again) is None or again.result is False
    scene.clear_up()


def test_a_lazy_volume_that_came_between_the_phases(scene: Scene) -> None:
    task = scene.one.begin(lambda: scene.one.hold_lazily(FIRST, LAZY))
    task.until("replace", layout.PINS)
    task.finish()
    scene.do(scene.other, delete_all_and_sweep)
    assert scene.do(scene.one, lambda host: host.read_lazily(LAZY)) == volume_of(1, 1).image()
    scene.do(scene.one, lambda host: host.give_up(LAZY))
    scene.clear_up()
    assert scene.model.visible() == []


def test_killed_twice_a_copy_still_has_what_its_cursor_says(scene: Scene) -> None:
    """A copy goes on, and is killed before it writes a new cursor; a sweep alone; it goes on."""
    source = snapshot_id(5)
    scene.do(scene.one, lambda host: host.create(5, volume_of(3, 4)))
    task = scene.one.begin(lambda: scene.one.copy_of(10, source))
    while 10 not in scene.one.cursors or scene.one.cursors[10].next_chunk == 0:
        task.step()
    task.kill()
    again = scene.one.begin(lambda: scene.one.copy_of(10, source))
    again.until("get", layout.CHUNKS)
    again.kill()
    sweep(scene.model.store, resumable=[NEW])
    before = scene.world.objects.count("put_if_absent", layout.CHUNKS)
    assert scene.do(scene.one, lambda host: host.copy_of(10, source)) is not None
    assert scene.world.objects.count("put_if_absent", layout.CHUNKS) == before + 1
    scene.clear_up()


def test_the_control_a_removal_of_what_is_needed_is_noticed(scene: Scene) -> None:
    name = min(scene.model.needed[FIRST])
    task = scene.other.begin(lambda: scene.other.store.objects.delete(name))
    with pytest.raises(BrokenPromiseError, match="need"):
        scene.finish(task)
