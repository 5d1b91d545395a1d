"""Whether a volume with a lease may be written to now: a gate that closes by itself.

Who overrides a holder waits for a time and then writes. So the holder has to stop within less, also
when it cannot ask: the store is away, the home or its KMS is busy, the process that asks is
stopped. What opens the gate is that the lease was held at some moment; `TRUST_SECONDS` after that
moment it is closed. The moment is when the question was *begun*, since whoever takes over may do so
as soon as the store has answered. It is looked at before each write, by a clock that goes on while
the machine sleeps (CLOCK_BOOTTIME), so nothing has to run in time for it to close.

Nothing is lost by that: writes wait, and go on when somebody says that the lease is still held.
"""

import math
from collections.abc import Callable

import trio

from volcrypt.volume.lease_time import TRUST_SECONDS, boot_seconds


class LeaseGate:
    """Of one volume that is served; closed until the lease was seen to be held."""

    def __init__(self, *, clock: Callable[[], float] = boot_seconds) -> None:
        self._clock = clock
        self._until = -math.inf
        self._changed = trio.Event()
        self.prolonged: Callable[[float], None] = lambda _: None
        """Is told until when it is open, each time that this is later than before."""

    @property
    def is_open(self) -> bool:
        return self._clock() < self._until

    @property
    def until(self) -> float:
        """When it closes, or has closed, by `boot_seconds`."""
        return self._until

    @property
    def left_seconds(self) -> float:
        """Until it closes; negative when it is closed."""
        return self._until - self._clock()

    def held(self, asked_at: float) -> None:
        """The lease was held when that was asked, at `asked_at` by `boot_seconds`."""
        until = min(asked_at, self._clock()) + TRUST_SECONDS
        if until > self._until:
            self._until = until
            self.prolonged(until)
            self.wake()

    def wake(self) -> None:
        """Have those who wait look again."""
        changed, self._changed = self._changed, trio.Event()
        changed.set()

    async def changed(self) -> None:
        """Wait until it may be open, or until `wake`."""
        await self._changed.wait()
