"""The watcher seen from the process that serves: starts it, takes its answers, starts it again.

An answer `Lost` goes to `lost`, once, and ends the watching: the channel is closed when `lost` is
done, and the process that asks has `FAREWELL_SECONDS` to pass on that the volume is served no more
(the next holder of a lease waits for that). What a watcher does not say within its
interval and `PATIENCE_SECONDS` it will not say any more: it is killed, and another one started. So
a definite refusal is known one interval, the patience and one start after it happened at the
latest: less than the 60 s that are promised, for intervals up to `MAX_KEY_CHECK_SECONDS`.

A watcher that died is no loss of the key: its checks are unanswered until the next one answers.
It keeps no more privileges than one needs that is started after this process gave its own up.
"""

import logging
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

import trio

from volcrypt.errors import MalformedError, MountError, TryAgainError
from volcrypt.volume.fence import (
    LEASE_CHECK,
    CheckState,
    Held,
    Lost,
    Unanswered,
    WatchAnswer,
    WatchOrder,
    check_name,
    decode_answer,
    encode,
)
from volcrypt.volume.lease_gate import LeaseGate

WATCH_MODULE: Final = "volcrypt.daemons.watch"
PATIENCE_SECONDS: Final = 25.0
FAREWELL_SECONDS: Final = 20.0
_BACKOFF_SECONDS: Final = (0.0, 1.0, 2.0, 5.0)
_CHANNEL_FD_ARGUMENT: Final = "--channel-fd"
_PIECE_BYTES: Final = 4096
_MAX_LINE_BYTES: Final = 64 * 1024

_log: Final = logging.getLogger(__name__)


class WatchProcess:
    """One process that asks, and the channel to it."""

    def __init__(self, order: WatchOrder) -> None:
        """Raises OSError when it cannot be started."""
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                # In a process group of its own: Ctrl-C at our terminal is for us. By vfork, so that
                # no copy of our memory is made; it inherits nothing but its channel and the log.
                self._process = subprocess.Popen(
                    [
                        sys.executable,
                        "-I",
                        "-m",
                        WATCH_MODULE,
                        f"{_CHANNEL_FD_ARGUMENT}={theirs.fileno()}",
                    ],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    process_group=0,
                )
            except BaseException:
                ours.close()
                raise
        self.channel = ours
        with suppress(OSError):  # it is gone already, which is found out when it says nothing
            ours.sendall(encode(order))

    @property
    def pid(self) -> int:
        return self._process.pid

    def take_leave(self) -> None:
        """Let it do what it does at the end; returns when it has ended, or after a while."""
        self.channel.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(FAREWELL_SECONDS)

    def kill(self) -> None:
        """Its channel says that it has ended."""
        self._process.kill()

    def end(self) -> None:
        """Kill it, if it is still there."""
        self.channel.close()
        self._process.kill()
        self._process.wait()


class Watcher:
    """The checks of one volume, for as long as it is served."""

    def __init__(
        self,
        order: WatchOrder,
        *,
        lost: Callable[[str], Awaitable[None]],
        gate: LeaseGate | None = None,
        start: Callable[[WatchOrder], WatchProcess] = WatchProcess,
    ) -> None:
        """`lost` is awaited with the reason, once. `gate` hears that the lease is held."""
        self._order = order
        self._lost = lost
        self._gate = gate
        self._start = start
        self._states = {check_name(c): CheckState(check=check_name(c)) for c in order.checks}
        self._failures = 0
        self._first_round = trio.Event()
        self._process: WatchProcess | None = None
        self._dismissed: WatchProcess | None = None
        self._reason: str | None = None
        self._lost_check = ""

    @property
    def pid(self) -> int | None:
        """The process that asks now."""
        return None if self._process is None else self._process.pid

    def states(self) -> list[CheckState]:
        return list(self._states.values())

    def start_process(self) -> None:
        """The first one, before privileges are given up. Raises MountError."""
        try:
            self._process = self._start(self._order)
        except OSError as error:
            raise MountError(f"cannot start {sys.executable}: {error.strerror}") from error

    def end(self) -> None:
        """End the process. May be called at any time, also when `run` was cancelled."""
        if self._process is not None:
            process, self._process = self._process, None
            process.end()

    def replace(self, order: WatchOrder) -> None:
        """Ask something else from now on: the volume has gone over to another key."""
        self._order = order
        self._states = {check_name(c): CheckState(check=check_name(c)) for c in order.checks}
        if self._process is not None:
            # `run` starts the next one. What this one still says is of the key before.
            self._dismissed = self._process
            self._process.kill()

    async def first_round(self) -> None:
        """Return when every check has held once: only then a volume is served under this promise.

        Raises TryAgainError with what stood in the way.
        """
        await self._first_round.wait()
        if self._reason is not None:
            raise TryAgainError(f"the {self._lost_check} was lost just now: {self._reason}")
        for state in self._states.values():
            if state.problem is not None and state.check == LEASE_CHECK:
                raise TryAgainError(
                    f"whether this host keeps the volume's lease cannot be watched: {state.problem}"
                )
            if state.problem is not None:
                raise TryAgainError(
                    f"whether the volume keeps its key cannot be watched: {state.problem}",
                    hint="without --on-key-loss fence nobody asks while it is in use",
                )

    async def run(self) -> None:
        """Watch until something is lost."""
        try:
            while self._reason is None:
                if self._process is None:
                    await trio.sleep(
                        _BACKOFF_SECONDS[min(self._failures, len(_BACKOFF_SECONDS) - 1)]
                    )
                    self._process = await self._start_again()
                if self._process is not None:
                    problem = await self._listen(self._process)
                    if problem is None:
                        await trio.to_thread.run_sync(
                            self._process.take_leave, abandon_on_cancel=True
                        )
                    self.end()
                    if problem:
                        self._failed(problem)
        finally:
            self.end()

    async def _start_again(self) -> WatchProcess | None:
        try:
            return self._start(self._order)
        except OSError as error:
            self._failed(f"the process that asks cannot be started: {error.strerror}")
            return None

    async def _listen(self, process: WatchProcess) -> str | None:
        """Take answers; why there will be no more, or None after a loss. Nothing is said of one
        that was dismissed."""
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(process.channel))
        pending = bytearray()
        while True:
            received = b""
            with trio.move_on_after(self._silence_seconds) as silence:
                try:
                    received = await stream.receive_some(_PIECE_BYTES)
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    received = b""
            if process is self._dismissed:
                return ""
            if silence.cancelled_caught:
                return "the process that asks does not answer"
            if not received:
                return "the process that asks has ended"
            pending += received
            if len(pending) > _MAX_LINE_BYTES:
                return "the process that asks says too much"
            *lines, rest = bytes(pending).split(b"\n")
            pending[:] = rest
            for line in lines:
                try:
                    answer = decode_answer(line)
                except MalformedError as error:
                    return str(error)
                self._failures = 0
                await self._take(answer)
            if self._reason is not None:
                return None

    async def _take(self, answer: WatchAnswer) -> None:
        state = self._states.get(answer.check)
        if state is None or self._reason is not None:
            return
        new = self._states[answer.check] = state.after(answer, time.time())
        if new.problem is not None and state.problem is None:
            _log.warning("check %r has no answer: %s", new.check, new.problem)
        if new.problem is None and state.problem is not None:
            _log.warning("check %r is answered again", new.check)
        if isinstance(answer, Held) and answer.check == LEASE_CHECK and self._gate is not None:
            self._gate.held(answer.asked_at)
        if isinstance(answer, Lost):
            self._reason, self._lost_check = answer.reason, answer.check
            self._first_round.set()
            await self._lost(answer.reason)
        elif all(each.answered_at or each.problem for each in self._states.values()):
            self._first_round.set()

    def _failed(self, problem: str) -> None:
        self._failures += 1
        if self._failures == 1:
            _log.warning("%s; it is started again", problem)
        now = time.time()
        for name, state in self._states.items():
            self._states[name] = state.after(Unanswered(check=name, reason=problem), now)
        self._first_round.set()

    @property
    def _silence_seconds(self) -> float:
        return self._order.interval_seconds + PATIENCE_SECONDS
