"""Damage to every kind of file: it is named, or does no harm, and nothing wrong passes for right.

`damage_places.py` has the table. The quick test does one or two actions at a place, the other all.
"""

import re
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.command import disposable_home
from tests.damage_places import ACTIONS, ELSEWHERE, FORMATS, HARMLESS, LAYOUT, PLACES, UNSEEN, Place
from tests.damage_scene import Scene
from volcrypt.snapshot import layout

UNIT = 4096
ROOT = Path(__file__).parents[2]
INTEGRITY = 6


@pytest.fixture(scope="module")
def built() -> Iterator[Scene]:
    with TemporaryDirectory(dir="/dev/shm") as path:
        directory = Path(path)
        with disposable_home(directory / "foreign"), disposable_home(directory / "place/home"):
            yield Scene(directory)


@pytest.fixture
def scene(built: Scene) -> Iterator[Scene]:
    yield built
    built.restore()


class Damage:
    """One action at one place."""

    def __init__(self, scene: Scene, place: Place, action: str) -> None:
        self._scene, self._place, self._action = scene, place, action
        self.expected = place.actions.get(action, place.outcome)

    def do(self) -> bool:
        """False when the files there have nothing to be swapped with, or were never other ones."""
        patterns = self._place.damaged or self._place.patterns
        paths = [self._scene.find(pattern) for pattern in patterns]
        changed = {path: self._changed(path, path.read_bytes()) for path in paths if path.exists()}
        assert changed, patterns
        if all(content == path.read_bytes() for path, content in changed.items()):
            return False
        for path, content in changed.items():
            path.unlink() if content is None else path.write_bytes(content)
        return True

    def _changed(self, path: Path, right: bytes) -> bytes | None:
        match self._action:
            case "flip":
                near = self._place.near
                places = (
                    [match.end() for match in re.finditer(re.escape(near), right)] if near else []
                )
                return flipped(right, places or [len(right) // 2]) if right else b"\4"
            case "cut":
                return right[:-7]
            case "delete":
                return None
            case "swap":
                return next((o for o in self._others(path) if o != right), right)
        early = self._scene.early / path.relative_to(self._scene.place)
        return early.read_bytes() if early.exists() else right

    def _others(self, path: Path) -> Iterator[bytes]:
        """Sound files of the same kind, of another volume, moment or home."""
        for root in (self._scene.place, self._scene.foreign.home.parent):
            for each in self._scene.files(root):
                if self._place.holds(each.replace("foreign/", "home/", 1)):
                    other = root / each
                    if other.suffix == path.suffix and other != path:
                        yield other.read_bytes()

    def check(self) -> None:
        done = self._scene.probe(self._place.probes)
        said = done.stderr + done.stdout
        assert "Traceback" not in said
        assert "internal error" not in said
        if self.expected in {HARMLESS, UNSEEN}:
            assert done.returncode == 0, said
            out = self._scene.out
            if out.exists():
                right = out.read_bytes() == self._scene.right[self._place.content]
                assert right == (self.expected == HARMLESS)
            else:
                assert not self._place.content, "a probe is to show the content"
            return
        code, _, says = (
            self.expected.rpartition(": ") if self.expected[1:2] == ":" else ("", "", "")
        )
        says = says or self.expected
        assert done.returncode == int(code or INTEGRITY), (self.expected, said)
        assert re.search(says, said), said
        assert not self._scene.out.exists()


def flipped(right: bytes, places: list[int]) -> bytes:
    wrong = bytearray(right)
    for place in places:
        wrong[place] ^= 4
    return bytes(wrong)


def quick(name: str) -> tuple[str, ...]:
    """Over the places, each action comes about as often; where damage is to be named, two."""
    number = list(PLACES).index(name)
    if PLACES[name].outcome == HARMLESS:
        return (ACTIONS[number % len(ACTIONS)],)
    return ACTIONS[0], ACTIONS[1 + number % (len(ACTIONS) - 1)]


@pytest.mark.parametrize("name", PLACES)
def test_damage_is_named_or_does_no_harm(scene: Scene, name: str) -> None:
    damage_it(scene, name, quick(name))


@pytest.mark.soak
@pytest.mark.parametrize("name", PLACES)
def test_all_damage_is_named_or_does_no_harm(scene: Scene, name: str) -> None:
    damage_it(scene, name, ACTIONS)


def damage_it(scene: Scene, name: str, actions: tuple[str, ...]) -> None:
    for action in actions:
        damage = Damage(scene, PLACES[name], action)
        if damage.do():
            try:
                damage.check()
            except AssertionError as error:
                raise AssertionError(f"{action} of {name}: {error}") from error
            scene.restore()


@pytest.mark.soak
def test_control_the_probes_work_where_nothing_is_damaged(scene: Scene) -> None:
    for probes, content in {(each.probes, each.content) for each in PLACES.values()}:
        done = scene.probe(probes)
        assert done.returncode == 0, (probes, done.stderr)
        if content and scene.out.exists():
            assert scene.out.read_bytes() == scene.right[content]
        scene.restore()


def test_what_xts_does_not_see(scene: Scene) -> None:
    """Whoever writes to the data file has these ways, and no other: what he puts there in all other
    ways is noise to the reader, of a whole cipher block at least."""
    path = scene.find("home/volumes/{secret}/data")
    early = (scene.early / path.relative_to(scene.place)).read_bytes()
    data, right = bytearray(path.read_bytes()), scene.right["secret"]
    older = 600_000 // UNIT * UNIT  # written to since
    swapped = [40 * UNIT, 41 * UNIT]
    units = {at: bytes(data[at : at + UNIT]) for at in swapped}

    data[20 * UNIT + 100] ^= 1
    data[older : older + UNIT] = early[older : older + UNIT]
    data[30 * UNIT + 512 : 30 * UNIT + 1024] = bytes(512)
    for at, other in zip(swapped, reversed(swapped), strict=True):
        data[at : at + UNIT] = units[other]
    path.write_bytes(data)
    read = scene.exported("secret")

    expected = bytearray(right)
    garbled = 20 * UNIT + 96
    expected[garbled : garbled + 16] = read[garbled : garbled + 16]
    assert read[garbled : garbled + 16] != right[garbled : garbled + 16]
    expected[older : older + UNIT] = scene.content[older : older + UNIT]
    assert right[older : older + UNIT] != scene.content[older : older + UNIT]
    expected[30 * UNIT + 512 : 30 * UNIT + 1024] = bytes(512)
    for at in swapped:
        expected[at : at + UNIT] = read[at : at + UNIT]
        blocks = {read[i : i + 16] for i in range(at, at + UNIT, 16)}
        assert not any(block in right for block in blocks)
    assert read == expected
    # Nor does anything that reads the volume; a snapshot of before is as it was.
    scene.command.run("volume", "check", "secret")
    assert scene.exported("first") == scene.right["first"]


# ---------------------------------------------------------------- nothing is forgotten


def test_each_file_is_of_a_kind_that_is_damaged(scene: Scene) -> None:
    """A new kind of file wants a place in the table."""
    files = scene.files()
    assert [each for each in files if not any(p.holds(each) for p in PLACES.values())] == []
    patterns = [pattern for place in PLACES.values() for pattern in place.patterns]
    unseen = [each for each in patterns if not any(fnmatch(path, each) for path in files)]
    assert set(unseen) <= {"home/volumes/*/record.next"}


def test_each_format_is_damaged_somewhere() -> None:
    modules = {path.stem for path in (ROOT / "volcrypt/formats").glob("[!_]*.py")}
    assert set(FORMATS) == modules
    assert {*FORMATS.values(), *LAYOUT.values()} <= {*PLACES, *ELSEWHERE}
    names = {
        value
        for name, value in vars(layout).items()
        if name.isupper() and not name.startswith("_") and isinstance(value, str)
    }
    assert set(LAYOUT) == names
    for test in ELSEWHERE.values():
        path, _, name = test.partition("::")
        assert re.search(rf"(?m)^ *(async )?def {name}\b", (ROOT / "tests" / path).read_text()), (
            test
        )
