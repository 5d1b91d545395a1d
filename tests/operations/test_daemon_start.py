"""Who comes while `kms serve` starts waits a moment; each pause of the wait is the test's event."""

import os
import socket
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import cast

import pytest

from volcrypt.errors import TryAgainError
from volcrypt.kms.lock import SERVING, held_home
from volcrypt.operations import daemon_start
from volcrypt.operations.home import Home
from volcrypt.operations.vault import Vault

CLIENT = cast(Vault, object())


@pytest.fixture
def serving(home: Home) -> ExitStack:
    """A process that has taken the home to serve it, until this is closed."""
    home.runtime.mkdir(parents=True, exist_ok=True, mode=0o700)
    taken = ExitStack()
    taken.enter_context(held_home(home.path / "kms" / SERVING, exclusive=True))
    return taken


def at_the_first_pause(patch: pytest.MonkeyPatch, deed: Callable[[], object]) -> list[float]:
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 1:
            deed()

    patch.setattr(daemon_start, "sleep", pause)
    return pauses


def client_of(home: Home) -> list[Path]:
    """Where a client was made for."""
    asked: list[Path] = []

    def connect(path: Path, _account: str, _region: str) -> Vault:
        asked.append(path)
        return CLIENT

    home._daemon = connect
    return asked


@pytest.mark.parametrize("is_stale", [False, True])
def test_it_begins_to_listen(
    home: Home, serving: ExitStack, monkeypatch: pytest.MonkeyPatch, is_stale: bool
) -> None:
    """Also where a killed one left its socket."""
    path = home.runtime / "kms.sock"
    if is_stale:
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(os.fspath(path))

    def listen() -> None:
        path.unlink(missing_ok=True)
        listener = serving.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(os.fspath(path))
        listener.listen()

    asked = client_of(home)
    with serving:
        pauses = at_the_first_pause(monkeypatch, listen)
        assert home.vault is CLIENT
    assert (len(pauses), asked) == (1, [path])


def test_it_ends_instead(home: Home, serving: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = client_of(home)
    with serving:
        pauses = at_the_first_pause(monkeypatch, serving.close)
        assert home.register.entries("volume") == []
    assert (len(pauses), asked) == (1, [])


def test_it_begins_between_two_looks(
    home: Home, serving: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody had the home when it was looked at, and somebody has when it is opened."""
    asked = client_of(home)
    listener = serving.enter_context(socket.socket(socket.AF_UNIX))
    listener.bind(os.fspath(home.runtime / "kms.sock"))
    listener.listen()
    looks = iter([None])
    look = home._daemon_socket
    with serving:
        monkeypatch.setattr(home, "_daemon_socket", lambda: next(looks, look()))
        assert home.vault is CLIENT
    assert asked == [home.runtime / "kms.sock"]


def test_one_that_hangs_is_not_waited_for_for_ever(
    home: Home, serving: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon_start, "START_SECONDS", 0.0)
    with serving, pytest.raises(TryAgainError):
        _ = home.vault


def test_one_that_hangs_with_a_full_queue_is_the_clients_to_complain_of(tmp_path: Path) -> None:
    path = tmp_path / "kms.sock"
    with ExitStack() as queue:
        listener = queue.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(os.fspath(path))
        listener.listen(0)
        with suppress(BlockingIOError):
            while True:
                waiting = queue.enter_context(socket.socket(socket.AF_UNIX))
                waiting.setblocking(False)
                waiting.connect(os.fspath(path))
        # Where the probe waits, the end of the queue ends it, after this test has failed.
        looker = threading.Thread(target=daemon_start.daemon_that_listens, args=[lambda: path])
        looker.start()
        looker.join(20)
        was_quick = not looker.is_alive()
    looker.join()
    assert was_quick
