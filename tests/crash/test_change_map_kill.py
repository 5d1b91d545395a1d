"""The change map of a process that is killed before any line of its code: never too few chunks."""

import itertools
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any, Final

import pytest

from tests.volume.place import SIZE, Place, begin_and_look, mark, point, volume_place
from volcrypt.geometry import CHUNK_BYTES
from volcrypt.volume import change_map, live_map
from volcrypt.volume.change_map import ChangeMap

MODULES: Final = (change_map.__file__, live_map.__file__)


@pytest.fixture
def place() -> Iterator[Place]:
    """All on tmpfs: a kill loses nothing that was written, and hundreds of syncs cost nothing."""
    with TemporaryDirectory(dir="/dev/shm") as disk, volume_place(Path(disk)) as place:
        yield place


def begin(changes: ChangeMap) -> None:
    mark(changes, 2)
    changes.begin_capture()
    mark(changes, 3)


def commit(changes: ChangeMap) -> None:
    mark(changes, 2)
    capture = changes.begin_capture()
    mark(changes, 3)
    changes.commit_capture(capture, point(2))
    mark(changes, 4)


def abort(changes: ChangeMap) -> None:
    mark(changes, 2)
    capture = changes.begin_capture()
    mark(changes, 3)
    changes.abort_capture(capture)
    mark(changes, 4)


def detach(changes: ChangeMap) -> None:
    mark(changes, 2)
    changes.save_clean()


class NotedMap:
    """Opens the map of a place and notes each mark in a file before the next step.

    As data would that changes then; the note survives the kill.
    """

    def __init__(self, place: Place) -> None:
        self.path = place.disk / "noted"
        self.path.write_bytes(b"")
        self.place = place

    def open(self) -> ChangeMap:
        changes = self.place.open()
        make_mark = changes.mark

        def noting_mark(chunks: range) -> None:
            make_mark(chunks)
            with self.path.open("ab") as file:
                file.write(bytes(chunks))

        changes.mark = noting_mark  # type: ignore[method-assign]
        return changes

    def marked(self) -> set[int]:
        return set(self.path.read_bytes())


def run_until_line(
    count: int, prepare: Callable[[], ChangeMap | None], action: Callable[[ChangeMap | None], None]
) -> bool:
    """In a child: `prepare`, then `action`, killed before its `count`-th line in the modules.

    False when it came to the end before that.
    """
    with warnings.catch_warnings():
        # Later Pythons warn of threads, which numpy has; the child uses none of them.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        lines = 0

        def trace(frame: FrameType, event: str, _: object) -> Any:
            nonlocal lines
            if frame.f_code.co_filename not in MODULES:
                return None
            if event == "line":
                lines += 1
                if lines == count:
                    os.kill(os.getpid(), signal.SIGKILL)
            return trace

        try:
            changes = prepare()
            sys.settrace(trace)
            action(changes)
        except BaseException:
            os._exit(1)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


@pytest.mark.parametrize("step", [begin, commit, abort, detach])
def test_kill_before_any_line_leaves_a_superset(
    place: Place, step: Callable[[ChangeMap], None]
) -> None:
    """Against parent 1: chunk 1 and all that were marked. Against parent 2: marks since capture."""
    parents = set()
    for count in itertools.count(1):
        place.live.unlink(missing_ok=True)
        place.clean.unlink(missing_ok=True)
        place.make_known(1)
        noted = NotedMap(place)

        def action(changes: ChangeMap | None) -> None:
            assert changes is not None
            step(changes)

        was_killed = run_until_line(count, noted.open, action)
        parent, changed = place.state()
        assert parent in (point(1), point(2)), "a kill alone never voids a map on tmpfs"
        assert changed is not None
        assert changed >= ({1} | noted.marked() if parent == point(1) else noted.marked() & {3, 4})
        parents.add(parent)
        if not was_killed:
            break
    assert count > 15
    assert parents == ({point(1), point(2)} if step is commit else {point(1)})


@pytest.mark.parametrize("before", ["killed", "captured", "detached"])
def test_kill_before_any_line_of_an_open(place: Place, before: str) -> None:
    """What was there before is there after it, for the one who opens next."""
    for count in itertools.count(1):
        place.live.unlink(missing_ok=True)
        place.clean.unlink(missing_ok=True)
        if before == "detached":
            place.detach(1, 2)
        else:
            place.make_known(1)
            changes = place.open()
            if before == "captured":
                changes.begin_capture()
            mark(changes, 2)
            changes.close()

        was_killed = run_until_line(count, lambda: None, lambda _: mark(place.open(), 3))
        parent, changed = place.state()
        assert parent == point(1)
        assert changed is not None
        assert changed >= {1, 2}
        if not was_killed:
            assert changed == {1, 2, 3}
            break
    assert count > 30


def test_kill_before_any_line_of_a_growth(place: Place) -> None:
    """The map of before or of after, with all marks; whoever opens it next has the larger one."""
    larger = SIZE + 5000 * CHUNK_BYTES
    for count in itertools.count(1):
        place.live.unlink(missing_ok=True)
        place.make_known(1)

        def prepare() -> ChangeMap:
            changes = place.open()
            changes.begin_capture()
            mark(changes, 2)
            return changes

        def action(changes: ChangeMap | None) -> None:
            assert changes is not None
            changes.grow(larger)
            changes.close()

        was_killed = run_until_line(count, prepare, action)
        changes = place.open(size_bytes=larger)
        assert changes.parent == point(1)
        assert begin_and_look(changes) == {1, 2}
        changes.close()
        if not was_killed:
            break
    assert count > 15
