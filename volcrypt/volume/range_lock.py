"""RangeLock: who may work on which bytes of a volume now. Knows trio, and nothing of volumes.

Shared holders may overlap each other; an exclusive holder overlaps nobody. Reads share and writes
exclude: a read beside a write of the same data unit could see half of each ciphertext, and two
partial writes of one unit would each merge with bytes that the other is changing.

Theory of operation: `_held` is what was granted, `_waiting` is what was not, in order of arrival.
A range is granted when it conflicts with nothing held and with nothing that waits before it, so a
stream of readers cannot starve a writer. Everything happens on the loop's own thread, and between
two checkpoints nothing else runs: a caller that finds `is_free` true and then works without a
checkpoint needs no grant. There are at most a few dozen entries, so plain lists are fastest.

A point in time needs no pause: `exclusive_extents` says which writers are at work, and
`outlast_writers` waits for just these, while others come and go.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from volcrypt.geometry import ByteRange


@dataclass(slots=True, eq=False)
class _Claim:
    extent: ByteRange
    exclusive: bool
    is_barrier: bool = False
    granted: trio.Event = field(default_factory=trio.Event)
    ended: trio.Event | None = None
    """Made by who waits for the end."""

    def conflicts(self, extent: ByteRange, exclusive: bool) -> bool:
        return (exclusive or self.exclusive) and self.extent.overlaps(extent)


class RangeLock:
    def __init__(self) -> None:
        self._held: list[_Claim] = []
        self._waiting: list[_Claim] = []

    @property
    def is_idle(self) -> bool:
        """Whether every range is free: nobody holds or waits for any."""
        return not self._held and not self._waiting

    def is_free(self, extent: ByteRange, *, exclusive: bool) -> bool:
        """Whether `hold` would be granted at once."""
        return not any(
            claim.conflicts(extent, exclusive)
            for held in (self._held, self._waiting)
            for claim in held
        )

    @property
    def has_barrier(self) -> bool:
        """Whether somebody holds a range to keep others from changing it, who does not himself."""
        return any(claim.is_barrier for claim in self._held)

    @property
    def exclusive_extents(self) -> list[ByteRange]:
        """What is held exclusively now."""
        return [claim.extent for claim in self._held if claim.exclusive]

    async def outlast_writers(self) -> None:
        """Wait until all who hold a range exclusively now have let go; holds up nobody."""
        ends = []
        for claim in self._held:
            if claim.exclusive:
                if claim.ended is None:
                    claim.ended = trio.Event()
                ends.append(claim.ended)
        for end in ends:
            await end.wait()

    def adopt(self, extent: ByteRange, *, exclusive: bool) -> Callable[[], None]:
        """Count a range as held by somebody who did not ask: he is at work there already, and
        conflicts with nobody who holds any. What lets go of it."""
        claim = _Claim(extent, exclusive)
        self._held.append(claim)
        return lambda: self._remove(claim)

    @asynccontextmanager
    async def hold(
        self, extent: ByteRange, *, exclusive: bool, is_barrier: bool = False
    ) -> AsyncIterator[None]:
        """Wait for the range and hold it; may be held across checkpoints. `is_barrier`: see
        `has_barrier`.

        One caller never holds two ranges: that is what makes a deadlock impossible.
        """
        claim = _Claim(extent, exclusive, is_barrier)
        if self.is_free(extent, exclusive=exclusive):
            self._held.append(claim)
        else:
            self._waiting.append(claim)
            try:
                await claim.granted.wait()
            except BaseException:
                # The grant and the cancellation may come in the same turn of the loop.
                self._remove(claim)
                raise
        try:
            yield
        finally:
            self._remove(claim)

    def _remove(self, claim: _Claim) -> None:
        queue = self._held if claim in self._held else self._waiting
        queue.remove(claim)
        if claim.ended is not None:
            claim.ended.set()
        still_waiting: list[_Claim] = []
        for waiter in self._waiting:
            if any(
                other.conflicts(waiter.extent, waiter.exclusive)
                for others in (self._held, still_waiting)
                for other in others
            ):
                still_waiting.append(waiter)
            else:
                self._held.append(waiter)
                waiter.granted.set()
        self._waiting = still_waiting
