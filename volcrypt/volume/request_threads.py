"""RequestThreads: the threads in which requests are served, and the end of waiting for them.

A thread that hangs in a system call cannot be interrupted. Whoever waits for it, or behind it, can
be told that nothing will come of it; the thread is left behind then, and keeps what it may still
touch, as its work's range, until it comes back. Knows trio, and nothing of volumes.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

import trio

from volcrypt.errors import VolcryptError
from volcrypt.volume.thread_start import in_thread

Result = TypeVar("Result")


class RequestThreads:
    def __init__(self, limiter: trio.CapacityLimiter) -> None:
        self._limiter = limiter
        self._waits: set[trio.CancelScope] = set()
        self._reason: VolcryptError | None = None
        self._idle = trio.Event()
        # Between the loop and a thread: whether the thread works, and who lets go when it ends.
        self._lock = threading.Lock()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """For a request, around all that it waits for: raises the reason when that was given up."""
        with self._scope(shield=False):
            yield

    async def run(
        self, work: Callable[[], Result], *, keep: Callable[[], Callable[[], None]] | None = None
    ) -> Result:
        """Do `work` in a thread; cancelled only by `give_up`.

        The thread is left behind then. If it works, `keep` is called at once, and what that
        returns when the thread has ended, both on the loop's thread.
        """
        token = trio.lowlevel.current_trio_token()
        let_go: list[Callable[[], None]] = []
        is_left = is_working = False

        def counted() -> Result:
            nonlocal is_working
            with self._lock:
                if is_left:
                    raise RuntimeError("nobody waits for it any more")  # and nobody hears this
                is_working = True
            try:
                return work()
            finally:
                with self._lock:
                    is_working = False
                for end in let_go:
                    with suppress(trio.RunFinishedError):
                        token.run_sync_soon(end)

        with self._scope(shield=True):
            try:
                return await in_thread(counted, abandon_on_cancel=True, limiter=self._limiter)
            except trio.Cancelled:
                with self._lock:
                    is_left = True
                    if is_working and keep is not None:
                        let_go.append(keep())
                raise
        raise AssertionError("internal error: neither done nor given up")

    async def idle(self) -> None:
        """Wait until nobody waits for anything."""
        while self._waits:
            self._idle = trio.Event()
            await self._idle.wait()

    def give_up(self, reason: VolcryptError) -> None:
        """Have everybody who waits now get `reason`."""
        self._reason = reason
        for scope in self._waits:
            scope.cancel()

    @contextmanager
    def _scope(self, *, shield: bool) -> Iterator[None]:
        scope = trio.CancelScope(shield=shield)
        self._waits.add(scope)
        try:
            with scope:
                yield
        finally:
            self._waits.discard(scope)
            if not self._waits:
                self._idle.set()
        if scope.cancelled_caught:
            assert self._reason is not None, "internal error: given up without a reason"
            raise self._reason
