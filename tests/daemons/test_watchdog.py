"""Signs of life for systemd: reads, what they say, and that they are out of the way."""

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from volcrypt.daemons import watchdog
from volcrypt.daemons.watchdog import Watchdog, watchdog_seconds


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """Its end of the notification socket; it wants to hear something every 30 ms."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notes:
        notes.bind(str(tmp_path / "notify"))
        notes.settimeout(30)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "30000")
        yield notes


def test_nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    assert watchdog_seconds() is None
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/notify")
    assert watchdog_seconds() == 30
    for nothing in ("", "0", "soon"):
        monkeypatch.setenv("WATCHDOG_USEC", nothing)
        assert watchdog_seconds() is None


@pytest.mark.parametrize("error", [None, OSError(5, "Input/output error")])
async def test_every_answer_is_a_sign_of_life(
    systemd: socket.socket, error: OSError | None
) -> None:
    reads = []

    def read() -> None:
        reads.append(1)
        if error is not None:
            raise error

    async with trio.open_nursery() as nursery:
        nursery.start_soon(Watchdog(read).run)
        for _ in range(3):
            assert await trio.to_thread.run_sync(systemd.recv, 100) == b"WATCHDOG=1"
        nursery.cancel_scope.cancel()
    assert len(reads) >= 3


async def test_a_read_that_hangs_is_none(
    systemd: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdog, "_PATIENCE_SECONDS", 0.05)
    going_on, begun = threading.Event(), threading.Event()

    def hang() -> None:
        begun.set()
        going_on.wait(30)

    hanging = Watchdog(hang)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hanging.run)
            await trio.to_thread.run_sync(begun.wait, 30)
            async with hanging.paused():  # gives up waiting, and the end can go on
                systemd.setblocking(False)
                with pytest.raises(BlockingIOError):
                    systemd.recv(100)
            nursery.cancel_scope.cancel()
    finally:
        going_on.set()


async def test_there_is_no_read_while_it_is_paused(systemd: socket.socket) -> None:
    reading = 0
    seen = []

    def read() -> None:
        nonlocal reading
        reading += 1

    dog = Watchdog(read)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(dog.run)
        await trio.to_thread.run_sync(systemd.recv, 100)
        async with dog.paused():
            seen.append(reading)
            await trio.sleep(0.1)
            seen.append(reading)
        for _ in range(2):
            await trio.to_thread.run_sync(systemd.recv, 100)
        nursery.cancel_scope.cancel()
    assert seen[0] == seen[1] < reading
