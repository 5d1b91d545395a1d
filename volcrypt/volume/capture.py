"""Captures: a point in time of an open volume, kept for a snapshot while writers go on.

It knows trio, the conditions of chunks, the change map and the chunks that were preserved; it does
not know requests.

Theory of operation. Beginning is one turn of the loop (the *barrier*): the change map changes its
generation, and every chunk counts as captured. No table is cleared or copied for it, nobody is
waited for, and so it takes as long for 64 TiB as for one. Writes that run in threads at that moment
are part of the captured point, since some of them may have changed bytes already: their chunks are
marked in the generation that the capture looks at, and until they have ended (`settle`) nothing of
the capture is shown to anybody. All other writes come after it: before the first one to a captured
chunk begins, the chunk is *kept* (`volcrypt.volume.preserve`), and then released.

So the captured point holds every write that had returned, none that began later, and of each that
ran at that moment all of it: as if they had returned just before.

A set of several volumes begins with *hold* in each: writes wait from the barrier until `resume`. A
write that anybody saw return before the last volume was held is in its volume's captured point, and
what was begun after that is in none. When `resume` is late, the writers go on and the capture has
failed: nobody who hangs can stop a volume for longer than `HOLD_SECONDS`.

A capture that cannot keep a chunk (no room, an error of the disk) has *failed*: at once everything
is released and the room on disk given back, and the writer goes on. Whoever owns the capture hears
it at his next call. He asks after each chunk that he read: what was answered without an error was
read before it could change.

The end waits for what is being kept, since its files are closed then; it holds nobody up.
"""

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

import trio

from volcrypt.errors import MountError, NoSpaceError, TryAgainError, VolcryptError, VolumeError
from volcrypt.geometry import align_to_units, chunk_range, chunks_of
from volcrypt.volume.chunk_conditions import ChunkConditions
from volcrypt.volume.range_lock import RangeLock

if TYPE_CHECKING:
    from volcrypt.formats.change_map import ParentPoint
    from volcrypt.volume.change_map import Capture, ChangeMap
    from volcrypt.volume.preserve import PreservedChunks

HOLD_SECONDS: Final = 5.0
"""Longer than a set of many volumes takes to begin, shorter than what programs take for a hang."""

KEPT_AT_ONCE: Final = 4
"""Threads, and buffers of a chunk; more would not make a disk faster."""

Result = TypeVar("Result")


class GenerationKeeper(Protocol):
    """What captures need of a change map; `ChangeMap` has it."""

    def begin_capture(self, under_way: Sequence[range]) -> "Capture": ...
    def changed_bits(self, capture: "Capture") -> bytearray | None: ...
    def commit_capture(self, capture: "Capture", parent: "ParentPoint") -> None: ...
    def abort_capture(self, capture: "Capture") -> None: ...


class ChunkKeeper(Protocol):
    """Where chunks are kept; `PreservedChunks` has it."""

    @property
    def descriptors(self) -> Sequence[int]: ...
    @property
    def takes_room_of_data(self) -> bool: ...
    def keep(self, chunk: int) -> None: ...
    def discard(self) -> None: ...
    def close(self) -> None: ...


class RunningCapture:
    """One capture, from its barrier to its end."""

    def __init__(self, point: "Capture", keeper: ChunkKeeper, *, began: float) -> None:
        """Internal: use `Captures.begin`."""
        self.point = point
        self.keeper = keeper
        self.failure: VolcryptError | None = None
        self.barrier_us = 0
        """How long writes paused."""
        self.began = began
        self.deadline = trio.current_time() + HOLD_SECONDS
        self.resumed = trio.Event()
        self.keeping: dict[int, trio.Event] = {}

    @property
    def size_bytes(self) -> int:
        return self.point.size_bytes

    def end_barrier(self) -> None:
        self.barrier_us = round((time.perf_counter() - self.began) * 1e6)
        self.resumed.set()


class Captures:
    """The captures of one device, one at a time. All calls come from the loop's thread."""

    def __init__(
        self,
        changes: GenerationKeeper,
        conditions: ChunkConditions,
        ranges: RangeLock,
        *,
        open_keeper: Callable[[], ChunkKeeper],
        changing: trio.Lock,
        take_writes: Callable[[], None] = lambda: None,
    ) -> None:
        """`open_keeper` is for the volume as large as it is then; `changing` is held by whoever
        changes its size; `take_writes` ends writing by others than the callers of this, and has
        what of that is under way counted in `ranges`."""
        self._changes = changes
        self._conditions = conditions
        self._ranges = ranges
        self._open_keeper = open_keeper
        self._changing = changing
        self._take_writes = take_writes
        self._threads = trio.CapacityLimiter(KEPT_AT_ONCE)
        self._running: RunningCapture | None = None
        self._closed = False
        self.refusal: VolcryptError | None = None
        """Why none may begin now."""
        self.longest_keep_us = 0
        """The longest that a write waited for its chunk to be kept."""

    @property
    def is_running(self) -> bool:
        return self._running is not None

    async def begin(self, *, hold: bool = False) -> RunningCapture:
        """A point in time: all writes that returned before, and none that begin later.

        Raises `refusal`, TryAgainError when another capture is running, MountError when closing,
        and what keeps a keeper from being opened.
        """
        async with self._changing:
            self._check_open()
            if self.refusal is not None:
                raise self.refusal
            if self._running is not None:
                raise TryAgainError("another snapshot of this volume is being taken")
            keeper = await self._run(self._open_keeper)
            while self._ranges.has_barrier:
                await self._ranges.outlast_writers()
            # From here to the end of the barrier there is no checkpoint.
            began = time.perf_counter()
            self._take_writes()
            under_way = [chunks_of(extent) for extent in self._ranges.exclusive_extents]
            point = self._changes.begin_capture(under_way)
            self._conditions.begin_capture(point.size_bytes, hold=hold)
            self._running = RunningCapture(point, keeper, began=began)
            if not hold:
                self._running.end_barrier()
            return self._running

    def resume(self, capture: RunningCapture) -> None:
        """Writes go on, after `begin` with hold. Raises TryAgainError when they did already."""
        self.check(capture)
        if trio.current_time() > capture.deadline:
            self._fail_late(capture)
            self.check(capture)
        self._conditions.resume()
        capture.end_barrier()

    async def settle(self, capture: RunningCapture) -> bytearray | None:
        """Wait until the captured point stands still; what changed since its parent, None when it
        has none (see `ChangeMap.changed_bits`). Raises what `check` raises."""
        await self._ranges.outlast_writers()
        self.check(capture)
        changed = await self._run(lambda: self._changes.changed_bits(capture.point))
        self.check(capture)
        return changed

    def release(self, capture: RunningCapture, chunks: range) -> None:
        """`chunks` were read, or are not needed. Raises what `check` raises: what was read since
        the last call may then be anything."""
        self.check(capture)
        self._conditions.release(chunks)

    async def release_unwanted(self, capture: RunningCapture, wanted: bytes) -> None:
        """Release all that is clear in `wanted`, which has one bit a chunk. Raises as `release`."""
        self.check(capture)
        for _ in self._conditions.release_unwanted(wanted):
            await trio.lowlevel.checkpoint()
        self.check(capture)

    def check(self, capture: RunningCapture) -> None:
        """Raises what made the capture fail, MountError when it was ended by the end of all."""
        if capture.failure is not None:
            raise capture.failure
        if capture is not self._running:
            raise MountError("the volume is being unmounted")

    async def commit(self, capture: RunningCapture, parent: "ParentPoint") -> None:
        """The captured point is the snapshot `parent`, complete and durable. Raises as `check`."""
        async with self._changing:
            self.check(capture)
            await self._end(capture, lambda: self._changes.commit_capture(capture.point, parent))

    async def abort(self, capture: RunningCapture) -> None:
        """There will be no snapshot of the captured point; does nothing when it has ended."""
        async with self._changing:
            if capture is self._running:
                await self._end(capture, lambda: self._changes.abort_capture(capture.point))

    async def close(self) -> None:
        """Abort what is running; nothing is begun afterwards."""
        self._closed = True
        async with self._changing:
            if (capture := self._running) is not None:
                await self._end(capture, lambda: self._changes.abort_capture(capture.point))

    async def ready_to_write(self, chunks: range) -> None:
        """Wait until nothing of a capture stands against a write to `chunks`, and keep what it
        still needs. Looked at again by who then holds the range: a capture may have begun."""
        while not self._conditions.may_write(chunks):
            capture = self._running
            assert capture is not None, "internal error: conditions of no capture"
            if self._conditions.is_held:
                await self._outlast_hold(capture)
            else:
                for chunk in filter(self._conditions.is_captured, chunks):
                    await self._keep(capture, chunk)

    async def make_room(self) -> bool:
        """A write found no room: whether there may be some now, since a capture gave up its own."""
        capture = self._running
        if capture is None or not capture.keeper.takes_room_of_data:
            return False
        self._fail(
            capture, NoSpaceError("the snapshot was given up: writers need the room it had taken")
        )
        await self._run(capture.keeper.discard)
        return True

    async def _outlast_hold(self, capture: RunningCapture) -> None:
        with trio.move_on_at(capture.deadline):
            await capture.resumed.wait()
        if not capture.resumed.is_set():
            self._fail_late(capture)

    async def _keep(self, capture: RunningCapture, chunk: int) -> None:
        """Keep and release a chunk; whoever comes second waits for the first."""
        if (ended := capture.keeping.get(chunk)) is not None:
            await ended.wait()
            return
        ended = capture.keeping[chunk] = trio.Event()
        started = time.perf_counter()
        extent = align_to_units(chunk_range(chunk, capture.size_bytes))
        try:
            # Writes that were under way at the barrier come first.
            async with self._ranges.hold(extent, exclusive=False):
                if self._needs(capture, chunk):
                    await self._run(lambda: capture.keeper.keep(chunk))
                    if self._needs(capture, chunk):
                        self._conditions.release(range(chunk, chunk + 1))
        except (OSError, VolcryptError) as error:
            if self._needs(capture, chunk):
                self._fail(capture, _failure(error))
                await self._run(capture.keeper.discard)
        finally:
            del capture.keeping[chunk]
            ended.set()
            waited_us = round((time.perf_counter() - started) * 1e6)
            self.longest_keep_us = max(self.longest_keep_us, waited_us)

    def _needs(self, capture: RunningCapture, chunk: int) -> bool:
        """Whether nobody released the chunk, and the capture goes on."""
        return capture is self._running and self._conditions.is_captured(chunk)

    def _fail_late(self, capture: RunningCapture) -> None:
        self._fail(
            capture,
            TryAgainError(f"writers were held for {HOLD_SECONDS:.0f} s and went on without it"),
        )

    def _fail(self, capture: RunningCapture, error: VolcryptError) -> None:
        if capture is self._running and capture.failure is None:
            capture.failure = error
            self._conditions.end_capture()
            capture.resumed.set()

    async def _end(self, capture: RunningCapture, end: Callable[[], None]) -> None:
        self._conditions.end_capture()
        capture.resumed.set()
        while capture.keeping:
            await next(iter(capture.keeping.values())).wait()
        # One that ran at the barrier may still have the older marks in hand.
        await self._ranges.outlast_writers()
        try:
            await self._run(end)
        finally:
            self._running = None
            with trio.CancelScope(shield=True):
                await self._run(capture.keeper.close)

    async def _run(self, work: Callable[[], Result]) -> Result:
        return await trio.to_thread.run_sync(work, limiter=self._threads)

    def _check_open(self) -> None:
        if self._closed:
            raise MountError("the volume is being unmounted")


def _failure(error: OSError | VolcryptError) -> VolcryptError:
    if isinstance(error, VolcryptError):
        return error
    return VolumeError(f"what writers replace cannot be kept for the snapshot: {error.strerror}")


if TYPE_CHECKING:

    def _conformance(
        changes: ChangeMap, preserved: PreservedChunks
    ) -> tuple[GenerationKeeper, ChunkKeeper]:
        return changes, preserved
