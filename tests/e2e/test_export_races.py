"""Commands that make a file at the user's word, while somebody makes, links, replaces and removes a
file of that name all the time: nothing of his is overwritten or followed, and what appears under
the name is whole."""

import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.beside import Beside
from tests.command import Command, disposable_home
from tests.intruder import intruding

SIZE = 2**20
TAKEN = 4


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Command]:
    (tmp_path / "image").write_bytes(os.urandom(SIZE))
    (tmp_path / "word").write_bytes(b"correct horse")
    (tmp_path / "word").chmod(0o600)
    with disposable_home(tmp_path / "home") as made:
        made.run("init")
        made.run("volume", "import", tmp_path / "image", "--name", "data")
        made.run("snapshot", "create", "--wait", "data", "--name", "first")
        yield made


def exports(directory: Path) -> dict[str, tuple[str | Path, ...]]:
    target, word = directory / "race" / "target", ("--passphrase-file", directory / "word")
    return {
        "volume": ("volume", "export", "--yes", "data", target),
        "snapshot": ("snapshot", "export", "--yes", "first", target),
        "header": ("volume", "export-header", "data", target, *word),
        "backup": ("backup", target, *word),
    }


@pytest.mark.usefixtures("cheap_keyslots")
@pytest.mark.parametrize("rounds", [1, pytest.param(100, marks=pytest.mark.soak)])
def test_somebody_has_the_name_at_any_moment(command: Command, tmp_path: Path, rounds: int) -> None:
    (tmp_path / "race").mkdir()
    codes = []
    with intruding(tmp_path / "race" / "target", tmp_path / "victim") as seen:
        for _ in range(rounds):
            for words in exports(tmp_path).values():
                done = command.try_run(*words)
                assert "Traceback" not in done.stderr, (words, done.stderr)
                assert "internal error" not in done.stderr, (words, done.stderr)
                codes.append(done.returncode)
    assert set(codes) <= {0, TAKEN, 2}, "made, or the name was taken, or is a directory"
    assert (seen.harmed, seen.unfinished) == ([], [])
    assert seen.made > 0
    assert rounds == 1 or (seen.made > len(codes) and seen.theirs > 0 and {0, TAKEN} <= set(codes))
    assert list((tmp_path / "race").iterdir()) == []
    # And where nobody is in the way it appears.
    for name, words in exports(tmp_path).items():
        command.run(*words)
        command.fails(TAKEN, *words)
        content = (tmp_path / "race" / "target").read_bytes()
        if name in {"volume", "snapshot"}:
            assert content == (tmp_path / "image").read_bytes()
        (tmp_path / "race" / "target").unlink()


class Careless(Beside):
    """Makes files as programs do: it looks, and then it writes."""

    def __init__(self, target: Path, count: int) -> None:
        super().__init__()
        self._target, self._left = target, count
        self.has_made = threading.Event()

    def _work(self) -> None:
        while self._left and not self._is_done.is_set():
            with suppress(OSError):  # a directory by now
                if not os.path.lexists(self._target):
                    self._left -= 1
                    with self._target.open("wb", buffering=0) as file:
                        for _ in range(20):
                            file.write(os.urandom(SIZE // 20))
        self.has_made.set()


def test_control_a_careless_program_is_found_out(tmp_path: Path) -> None:
    """Within some tries: it is a race."""
    target, victim = tmp_path / "target", tmp_path / "victim"
    found = set()
    for _ in range(50):
        with intruding(target, victim) as seen, Careless(target, 20) as careless:
            assert careless.has_made.wait(60)
        target.unlink(missing_ok=True)
        found |= {name for name in ("harmed", "unfinished") if getattr(seen, name)}
        if len(found) == 2:
            return
    raise AssertionError(found)
