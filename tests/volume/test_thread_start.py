"""Threads that the system does not start: an error of the moment, and not the end of who serves."""

import threading
from pathlib import Path

import pytest
import trio

from volcrypt.daemons import space_watch
from volcrypt.volume.request_threads import RequestThreads
from volcrypt.volume.thread_start import in_thread


@pytest.fixture
def no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """None that waits for work is used, and no new one starts."""
    monkeypatch.setattr(threading.Thread, "start", _refuse)
    monkeypatch.setattr(trio._core._thread_cache.THREAD_CACHE, "_idle_workers", {})


async def test_it_is_an_error_of_the_system(no_threads: None) -> None:
    with pytest.raises(OSError, match="no more threads"):
        await in_thread(lambda: None)
    limiter = trio.CapacityLimiter(1)
    threads = RequestThreads(limiter)
    for _ in range(3):
        with pytest.raises(OSError, match="no more threads"):
            await threads.run(lambda: None)
    assert limiter.borrowed_tokens == 0


async def test_errors_of_the_work_are_its_own() -> None:
    def fail() -> None:
        raise RuntimeError("ours")

    with pytest.raises(RuntimeError, match="ours"):
        await in_thread(fail)
    assert await in_thread(lambda: 7) == 7


async def test_a_look_that_gets_no_thread_is_made_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").touch()
    monkeypatch.setattr(space_watch, "space_warning", lambda *_: "nearly full")
    monkeypatch.setattr(space_watch, "_LOOK_SECONDS", 0.01)
    told = trio.Event()
    monkeypatch.setattr(space_watch._log, "warning", lambda *_: told.set())
    async with trio.open_nursery() as nursery:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(threading.Thread, "start", _refuse)
            patch.setattr(trio._core._thread_cache.THREAD_CACHE, "_idle_workers", {})
            nursery.start_soon(space_watch.watch_space, tmp_path / "data", lambda: 2**20)
            await trio.sleep(0.05)
            assert not told.is_set()
        with trio.fail_after(30):
            await told.wait()
        nursery.cancel_scope.cancel()


def _refuse(*_: object) -> None:
    raise RuntimeError("can't start new thread")
