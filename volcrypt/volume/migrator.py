"""Migrator: moves a volume that is served to its new place, under its callers.

It knows the device, the migrating volume and trio; what is decided, and where that is written down,
is the business of who calls it (the *driver*). Nothing here is durable but by `settle`.

    driver                              here
    record: migration, cursor 0         begin        writes go to both sides before the cursor
                                        copy_to      chunk by chunk; what it returns is durable
    record: that cursor
                                        verify_to    with a key that was unwrapped afresh
                                        prepare      both sides take whatever is acknowledged
    register: the target is the volume
                                        switch       the target alone is served
    or, before that: record removed     abandon      the source alone is served

Each call may be cancelled, or its driver killed, at any point, and made again later: what was not
done is done then. Between calls all is right, and nothing moves.

Stalls. A write waits for one chunk that is being copied, or compared; for `prepare` and `switch`
all requests wait, for moments. Reads wait for nothing else. `write_times` says what writes took.

Captures are refused from `prepare` to `switch`: who takes a snapshot opens the data file by its
name, which may already be the target's.
"""

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import trio

from volcrypt.errors import FencedError, MountError, TryAgainError
from volcrypt.geometry import CHUNK_BYTES
from volcrypt.volume.device import Device, no_room
from volcrypt.volume.latency import LatencyHistogram
from volcrypt.volume.migration import SKIPPED_AT_ONCE, ComparedSide, MigratingVolume, Mode
from volcrypt.volume.ownership import PlaneData
from volcrypt.volume.plaintext import PlaintextVolume

Result = TypeVar("Result")


class Migrator:
    """One session of the migration of `device`, which serves the source of `volume`, or `volume`
    itself if that has begun."""

    def __init__(self, device: Device, volume: MigratingVolume) -> None:
        self._device = device
        self._volume = volume
        self._threads = trio.CapacityLimiter(1)
        self._pausing = trio.Event()
        self.busy_seconds = 0.0
        """How long copying took."""

    @property
    def write_times(self) -> LatencyHistogram:
        """What writes took since `begin`; of those that the data plane answered, nothing."""
        times = self._device.write_times
        assert times is not None, "internal error: not begun"
        return times

    async def begin(self) -> None:
        """Writes go to both sides, from now on, before the cursor. Raises FencedError, and
        MountError when closing."""
        async with self._device.alone():
            self.begin_unserved()

    def begin_unserved(self) -> None:
        """`begin` for a device that nobody has made a request to."""
        self._device.serve(self._volume, cursor=self._volume)
        self._device.write_times = self._device.write_times or LatencyHistogram()
        self._device.spare_room = self._give_back_room

    async def copy_to(self, stop: int, *, rate_bytes: int | None = None) -> int:
        """Copy again what may differ, and then up to chunk `stop`, or less when paused; the cursor
        that is durable then. At most `rate_bytes` a second.

        Raises what reading the source raises, TargetLostError and what the target raised when it
        was lost, ReadOnlyError when the volume lost writes, FencedError, and MountError when
        closing.
        """
        pace = _Pace(rate_bytes, self._pausing)
        started = trio.current_time()
        try:
            while not self._pausing.is_set():
                chunks = self._volume.next_work()
                if not chunks or chunks.start >= max(stop, self._volume.cursor):
                    break
                before = self._volume.copied_bytes
                async with self._device.without_writers(chunks):
                    await self._run(partial(self._volume.work, chunks))
                await pace.spend(self._volume.copied_bytes - before)
            return await self.settle()
        finally:
            self.busy_seconds += trio.current_time() - started

    @property
    def is_paused(self) -> bool:
        return self._pausing.is_set()

    def pause(self) -> None:
        """Have `copy_to` and `verify_to` return soon, and do nothing until `resume`."""
        self._pausing.set()

    def resume(self) -> None:
        """For who calls `copy_to` or `verify_to` from now on."""
        self._pausing = trio.Event()

    async def settle(self) -> int:
        """Both sides on the medium; the cursor that is durable now. Raises as `copy_to`, and what a
        flush raises."""
        token = self._volume.begin_settle()
        await self._device.flush()
        return await self._run(lambda: self._volume.end_settle(token))

    async def verify_to(
        self, first: int, stop: int, medium: ComparedSide, *, rate_bytes: int | None = None
    ) -> int:
        """Compare chunks from `first` on to `stop` with what `medium` reads, the target opened anew
        and under a key of its own; where it stopped, less when paused. At most `rate_bytes` a
        second.

        Raises IntegrityError for one that differs, TryAgainError when something has to be copied
        first, and as `copy_to`.
        """
        pace = _Pace(rate_bytes, self._pausing)
        while first < stop and not self._pausing.is_set():
            run = range(first, min(first + SKIPPED_AT_ONCE, stop))
            async with self._device.without_writers(run[:1]):
                if not self._volume.is_copied:
                    raise TryAgainError("there is something left to be copied")
                # While nobody writes there; what is written later has been on both sides.
                chunk = await self._run(partial(self._compare, first, medium))
            if chunk == first:
                await pace.spend(CHUNK_BYTES)
            first = min(max(chunk, first + 1), run.stop)
        return first

    def _compare(self, first: int, medium: ComparedSide) -> int:
        """The first chunk from `first` on that holds anything; if that is `first`, it was compared.
        In one thread's turn: for a small chunk another one costs as much as the comparison."""
        chunk = self._volume.next_compared(first)
        if chunk == first:
            self._volume.verify(chunk, medium)
        return chunk

    async def prepare(self) -> None:
        """Have both sides take whatever is acknowledged from now on, and what was before.

        Raises TryAgainError while a snapshot is taken, or when something is left to be copied, and
        as `settle`; then nothing has changed.
        """
        captures = self._device.captures
        async with self._device.alone():
            if captures.is_running:
                raise TryAgainError("a snapshot of the volume is being taken")
            self._volume.prepare()
            captures.refusal = TryAgainError("the volume is about to go over to its new data")
        try:
            await self.settle()
        except BaseException:
            # Behind a fence, and at the end, nobody goes on.
            with trio.CancelScope(shield=True), suppress(FencedError, MountError):
                await self.withdraw()
            raise

    async def withdraw(self) -> None:
        """It is known that the target was not made the volume: go on as before `prepare`."""
        async with self._device.alone():
            self._volume.withdraw()
            self._device.captures.refusal = None

    async def switch(
        self, served: PlaintextVolume, *, data: PlaneData, follow: Callable[[], None]
    ) -> None:
        """It is decided that the target is the volume: serve `served`, which is it, alone.

        `data` is what `served` lies in, `follow` makes its change map a void one of that. Raises
        OSError, FencedError and MountError, and may be called again then. What the migration had
        open is the caller's to close afterwards.
        """
        assert self._volume.mode is Mode.COMMITTING, "internal error: the target was not prepared"
        async with self._device.alone():
            await self._run(follow)
            self._device.serve(served, cursor=None, data=data)
            self._volume.close()
            self._end()

    async def abandon(self) -> None:
        """It is decided that the target will never be the volume: serve the source alone. Raises
        OSError, FencedError and MountError, and may be called again then."""
        async with self._device.alone():
            source = await self._run(self._volume.abandon)
            self._device.serve(source, cursor=None)
            self._end()

    async def close(self) -> None:
        """After the device was closed: leave no intent set without need. Raises as `settle`."""
        token = self._volume.begin_settle(final=True)
        await self._device.settle()
        await self._run(lambda: self._volume.end_settle(token))

    async def _give_back_room(self) -> bool:
        return await self._run(self._volume.give_back_room)

    def _end(self) -> None:
        self._device.captures.refusal = None
        self._device.spare_room = no_room

    async def _run(self, work: Callable[[], Result]) -> Result:
        return await trio.to_thread.run_sync(work, limiter=self._threads)


class _Pace:
    """So many bytes a second."""

    def __init__(self, rate_bytes: int | None, pausing: trio.Event) -> None:
        self._rate = rate_bytes
        self._pausing = pausing
        self._next = trio.current_time()

    async def spend(self, size_bytes: int) -> None:
        """So many were done: wait until more may be, or who waits is to pause."""
        if not self._rate:
            return
        self._next = max(self._next, trio.current_time() - 1.0) + size_bytes / self._rate
        with trio.move_on_at(self._next):
            await self._pausing.wait()


if TYPE_CHECKING:

    def _conformance(volume: MigratingVolume) -> PlaintextVolume:
        return volume
