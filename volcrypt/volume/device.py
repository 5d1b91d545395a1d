"""Device: an open volume as many callers at once see it. The one place that decides how a request
is served: now, on the loop's own thread, or in a worker thread.

It knows trio, ranges and the conditions of chunks; it does not know FUSE.

Inline or thread. A hop to a thread and back costs several times what 4 KiB cost, so a small request
is served at once when it does not have to wait for the medium: a read when everything is in the
page cache, a write when it covers whole data units or the partial ones are in the page cache. Large
requests hop, so that cipher and copying run beside the loop. A write goes into the page cache, and
waits there when the kernel throttles writers: after one that took long the next ones hop. It waits
for ever when the storage hangs or is frozen, and the loop with it: so beside a data plane, which
has most of the small ones and goes on, every write hops.

Locking. Every request that hops holds its data units in the range lock, shared for reads, and
exclusively for writes. An inline one checks that it would get them, and then runs to its end
without a checkpoint, which on one thread is as good. Whoever must see no request at all under way
(a growth, the end) holds everything exclusively. What stands against a request
(`volcrypt.volume.admission`) is seen to before the range lock, and looked at again once the range
is held, since a capture may have begun meanwhile. `_changing` keeps growth and the beginning and
end of captures apart, `_sync_lock` keeps flushes in one queue.

Captures (`volcrypt.volume.capture`) hold up nobody but the first write to each chunk that they
still need, while that is copied. A write that finds no room while a capture has taken some gets
it: the capture fails, not the write. So does what a migration has taken (`spare_room`).

Chunks that are not here yet (`volcrypt.volume.lazy`) are fetched before all that, by whoever wants
to read or write them; what is here once stays.

Growing holds everything too, for moments: what it changes is in memory. A capture that runs is one
of the smaller volume, and stays so.

A fence refuses every request from the moment it falls; what is under way ends, and `drained` says
when. Captures, growth and the end need no key, and go on. What hangs with the medium can be
answered all the same (`give_up`): its thread is left behind, and keeps its range until it comes
back.

The data plane, where there is one, serves chunks by itself that are granted to it. Every request
here takes its chunks for as long as it lasts, and whoever holds everything takes all of them first
(`volcrypt.volume.ownership`).

A migration (`volcrypt.volume.migrator`) puts another volume in the place of the one that is served,
of the same content, while it holds off everything; and keeps writers away from what it copies.

Under a lease (`volcrypt.volume.lease_gate`) writes, syncs and fetches wait while nobody can say
that it is held. The data plane looks at the clock itself, before each write, and hands it on when
the gate is closed.

Buffers. What `read` returns is valid until the caller's next checkpoint, and is reused after that:
fuse hands it to the kernel before any. They are taken and given back on the loop's thread only.
"""

import mmap
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Final, TypeVar

import trio
from typing_extensions import Buffer

from volcrypt.errors import (
    FencedError,
    NoSpaceError,
    OutOfRangeError,
    ReadOnlyError,
    VolcryptError,
)
from volcrypt.geometry import (
    CHUNK_BYTES,
    UNIT_BYTES,
    ByteRange,
    align_to_units,
    chunk_range,
    chunks_of,
)
from volcrypt.volume.admission import Admission, Cursor
from volcrypt.volume.capture import Captures, ChunkKeeper, GenerationKeeper
from volcrypt.volume.chunk_conditions import ChunkConditions
from volcrypt.volume.latency import LatencyHistogram
from volcrypt.volume.lease_gate import LeaseGate
from volcrypt.volume.ownership import BudgetKeeper, FastPlane, Ownership, PlaneData
from volcrypt.volume.plaintext import PlaintextVolume
from volcrypt.volume.range_lock import RangeLock
from volcrypt.volume.request_threads import RequestThreads

MAX_REQUEST_BYTES: Final = 1024 * 1024
"""The largest request that FUSE makes."""

INLINE_BYTES: Final = 128 * 1024
WORKER_THREADS: Final = 12
POOLED_BUFFERS: Final = 8

Result = TypeVar("Result")

# Longer than another process may keep the processor, shorter than the kernel lets a throttled
# writer wait (up to 0.2 s).
_SLOW_SECONDS: Final = 0.03
_HOPS_AFTER_SLOW: Final = 64


class Device:
    def __init__(
        self,
        volume: PlaintextVolume,
        *,
        changes: GenerationKeeper,
        open_keeper: Callable[[], ChunkKeeper],
    ) -> None:
        """`open_keeper` makes what keeps the chunks of a capture (`Captures`)."""
        self.size_bytes = volume.size_bytes
        self.read_only = volume.read_only
        self._volume = volume
        self._everything = ByteRange(0, volume.size_bytes)
        self._ranges = RangeLock()
        self._sync_lock = trio.Lock()
        self._changing = trio.Lock()
        self._threads = trio.CapacityLimiter(WORKER_THREADS)
        self._requests = RequestThreads(self._threads)
        conditions = ChunkConditions()
        self.captures = Captures(
            changes,
            conditions,
            self._ranges,
            open_keeper=open_keeper,
            changing=self._changing,
            take_writes=self._take_writes,
        )
        self.admission = Admission(conditions, self._ranges, self.captures)
        self.sync_failed = False
        """Whether writes were lost; then there are no more until the volume is opened again."""
        self.read_bytes = 0
        self.written_bytes = 0
        """What was answered here; a data plane counts for itself."""
        self.write_times: LatencyHistogram | None = None
        """How long writes take that come here; None when nobody wants to know."""
        self.spare_room: Callable[[], Awaitable[bool]] = no_room
        """Asked by a write that found no room, when no capture had taken some: whether there may be
        some now."""
        self._ownership: Ownership | None = None
        self._is_marked: Callable[[int], bool] = lambda _: False
        self._inline_buffer = memoryview(mmap.mmap(-1, INLINE_BYTES))
        self._buffers: list[memoryview] = []
        self._hops_left = 0

    def use_plane(
        self,
        plane: FastPlane,
        *,
        is_marked: Callable[[int], bool],
        budget: BudgetKeeper | None,
    ) -> None:
        """Let a data plane serve chunks, from now to the end. `is_marked` says whether a chunk
        needs no changed-bit any more, `budget` counts what is encrypted."""
        self._is_marked = is_marked
        self._ownership = Ownership(
            plane, self._ranges, permitted=self._may_be_granted, budget=budget
        )
        if self.admission.lease is not None:
            self.use_lease(self.admission.lease)

    def use_lease(self, gate: LeaseGate) -> None:
        """Write only while `gate` is open."""
        self.admission.lease = gate
        if self._ownership is not None:
            gate.prolonged = self._ownership.write_until
            gate.prolonged(gate.until)

    def reap(self) -> None:
        """The data plane has ended something that was waited for."""
        if self._ownership is not None:
            self._ownership.reap()

    async def read(self, offset: int, size: int) -> memoryview:
        """Plaintext from `offset`, less than `size` bytes at the end of the volume.

        Raises what the volume raises, FencedError, and MountError when the device is closing.
        """
        self.admission.check_serving()
        assert size <= MAX_REQUEST_BYTES, "internal error: a request beyond the limit"
        offset = min(offset, self.size_bytes)
        size = min(size, self.size_bytes - offset)
        if self._ownership is None or size == 0:
            return await self._read(offset, size)
        chunks = chunks_of(ByteRange(offset, size))
        self._ownership.take(chunks, exclusive=False)
        try:
            return await self._read(offset, size)
        finally:
            self._ownership.give_back(chunks, exclusive=False)

    async def _read(self, offset: int, size: int) -> memoryview:
        if size <= INLINE_BYTES and self.admission.is_idle(offset, size, exclusive=False):
            view = self._inline_buffer[:size]
            if self._volume.try_read_into(offset, view):
                self.read_bytes += size
                return view
        buffer = self._take_buffer()
        view = buffer[:size]
        await self._in_thread(
            ByteRange(offset, size), lambda: self._volume.read_into(offset, view), exclusive=False
        )
        # Not when it failed: a thread that was left behind may still write into it.
        self._buffers.append(buffer)
        del self._buffers[POOLED_BUFFERS:]
        self.admission.check_serving()  # plaintext is not handed out behind a fence
        self.read_bytes += size
        return view

    async def write(self, offset: int, data: Buffer) -> int:
        """Write plaintext at `offset`; how much was written, less than all at the end of the
        volume.

        Raises OutOfRangeError when it starts at the end or behind it, what the volume raises,
        FencedError, and MountError when the device is closing.
        """
        self.admission.check_serving()
        if self.read_only:
            raise ReadOnlyError("the volume is mounted read-only")
        room = self.size_bytes - offset
        piece = memoryview(data)[: max(room, 0)]
        size = len(piece)
        if room <= 0 and len(memoryview(data)):
            raise OutOfRangeError(f"offset {offset} is not before the end of the volume")
        started = time.perf_counter_ns()
        try:
            if self._ownership is None or size == 0:
                return await self._write(offset, piece)
            chunks = chunks_of(ByteRange(offset, size))
            self._ownership.take(chunks, exclusive=True)
            try:
                return await self._write(offset, piece)
            finally:
                self._ownership.give_back(chunks, exclusive=True)
        finally:
            if self.write_times is not None:
                self.write_times.add(time.perf_counter_ns() - started)

    async def change(self, extent: ByteRange, work: Callable[[], None]) -> None:
        """Do `work`, which changes `extent` by other means than writing to it, in a thread; what a
        write waits for is waited for, and it raises the same."""
        self.admission.check_serving()
        if self._ownership is None:
            await self._change(extent, work)
            return
        chunks = chunks_of(extent)
        self._ownership.take(chunks, exclusive=True)
        try:
            await self._change(extent, work)
        finally:
            self._ownership.give_back(chunks, exclusive=True, grants=False)

    async def replace_absent(self, extent: ByteRange, work: Callable[[int], None]) -> None:
        """Do `work`, which replaces all of a chunk, to those in `extent` that are not here yet and
        need not be fetched before it. Raises as `change`."""
        chunks = range(-(-extent.offset // CHUNK_BYTES), extent.end // CHUNK_BYTES)
        if self.is_whole or not chunks:
            return
        # The data plane has none of them, and is granted none while they are held.
        whole = ByteRange(chunks.start * CHUNK_BYTES, len(chunks) * CHUNK_BYTES)
        with self._requests.waiting():
            async with self._ranges.hold(whole, exclusive=True):
                await self.admission.replace_absent(chunks, work)

    async def look(self, extent: ByteRange, work: Callable[[], int]) -> int:
        """Do `work`, which looks at the storage of `extent` and changes nothing, in a thread.
        Others may be changing it. Raises as `change`."""
        self.admission.check_serving()
        return await self._requests.run(
            work, keep=lambda: self._ranges.adopt(extent, exclusive=False)
        )

    @property
    def volume(self) -> PlaintextVolume:
        """What is served now; for work that holds its range, since `serve` changes it."""
        return self._volume

    @property
    def is_whole(self) -> bool:
        """Whether every chunk is here."""
        return self.admission.absent is None

    async def _write(self, offset: int, piece: memoryview) -> int:
        size = len(piece)
        if (
            self._ownership is None
            and size <= INLINE_BYTES
            and self._hops_left == 0
            and self.admission.is_idle(offset, size, exclusive=True)
            and self._is_cached_where_partial(offset, size)
            and not self._volume.drops(offset, piece)
        ):
            started = time.perf_counter()
            try:
                self._volume.write(offset, piece)
            except NoSpaceError:
                pass  # in a thread there may be some
            else:
                if time.perf_counter() - started > _SLOW_SECONDS:
                    self._hops_left = _HOPS_AFTER_SLOW
                self.written_bytes += size
                return size
        self._hops_left = max(0, self._hops_left - 1)
        await self._change(ByteRange(offset, size), lambda: self._volume.write(offset, piece))
        self.written_bytes += size
        return size

    async def _change(self, extent: ByteRange, work: Callable[[], None]) -> None:
        ways = iter((self.captures.make_room, self.spare_room))
        while True:
            try:
                await self._in_thread(extent, work, exclusive=True)
            except NoSpaceError:
                if not await _made_room(ways):
                    raise
            else:
                return

    async def flush(self) -> None:
        """Make every write that returned before durable; raises what the volume raises, and
        FencedError."""
        self.admission.check_fence()
        with self._requests.waiting():
            await self.admission.lease_held()
            async with self._sync_lock:
                await self._requests.run(self.sync)

    def sync(self) -> None:
        """As `flush`, for who is in a thread; also behind a fence."""
        try:
            self._volume.flush()
        except (VolcryptError, OSError):
            self.sync_failed = True
            if self._ownership is not None:
                self._ownership.refuse_writes()  # before anybody hears of it
            raise

    def fence(self, error: FencedError) -> None:
        """Answer every request with `error` from now on, also those that wait."""
        self.admission.fence(error)
        if self._ownership is not None:
            self._ownership.fence()

    async def drained(self) -> None:
        """Wait until the last request that was under way when the fence fell has ended, and wipe
        the buffers, which hold plaintext."""
        async with self._hold_everything():
            for buffer in (self._inline_buffer, *self._buffers):
                buffer[:] = bytes(len(buffer))

    async def answered(self) -> None:
        """Wait until no request is under way that hops or, behind a fence, is the data plane's,
        nor a flush."""
        await self._requests.idle()
        if self._ownership is not None:
            await self._ownership.idle()

    def give_up(self, error: FencedError) -> None:
        """Answer what is still under way with `error`, though it may hang for ever. What it does in
        its thread goes on, and is waited for by `drained` and `close`."""
        self._requests.give_up(error)
        if self._ownership is not None:
            self._ownership.give_up()

    async def settle(self) -> None:
        """Have what was written before a fence on the medium, so that nothing is written later,
        when another host may write there. Raises what the volume raises."""
        if not self.read_only:
            await self._flush()

    async def quiesce(self) -> None:
        """As `settle`, behind the writes that are under way."""
        async with self._hold_everything():
            pass
        await self.settle()

    async def grow(self, size_bytes: int) -> None:
        """Serve more of the data file, which is as long already. Does nothing for a size that is
        not larger. Raises what the volume raises, and MountError when closing."""
        async with self._changing, self._hold_everything():
            self.admission.check_open()
            if size_bytes <= self.size_bytes:
                return
            await self._run(lambda: self._volume.grow(size_bytes))
            self._everything = ByteRange(0, size_bytes)
            self.size_bytes = size_bytes
            if self._ownership is not None:
                self._ownership.set_size(size_bytes)

    @asynccontextmanager
    async def without_writers(self, chunks: range) -> AsyncIterator[None]:
        """Keep writers away from `chunks`; who reads there is not held up. Raises FencedError,
        MountError when closing, and ReadOnlyError after a failed sync."""
        extent = ByteRange(chunks.start * CHUNK_BYTES, len(chunks) * CHUNK_BYTES)
        if self._ownership is not None:
            # What is granted from here on is not to write, since somebody waits for the range.
            self._ownership.take_writes_to(chunks)
        async with self._ranges.hold(extent, exclusive=False):
            self.admission.check_serving()
            if self.sync_failed:
                raise ReadOnlyError("writes to the volume were lost")
            yield

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Hold off every request, flush, growth, and beginning and end of a capture. Raises
        FencedError, and MountError when closing."""
        async with self._changing, self._hold_everything(), self._sync_lock:
            self.admission.check_serving()
            yield

    def serve(
        self, volume: PlaintextVolume, *, cursor: Cursor | None, data: PlaneData | None = None
    ) -> None:
        """Serve `volume`, of the same size and content, from now on; within `alone`. `cursor` says
        which writes go to more than one place, `data` is what the data plane is to serve, if that
        changes. Raises OSError, with nothing changed."""
        if self._ownership is not None and data is not None:
            self._ownership.serve(data)
        self._volume = volume
        self.admission.cursor = cursor

    async def close(self) -> None:
        """Refuse what comes from now on, finish what is under way, end a capture, and flush.

        A write that waits for a capture is refused too. Raises what the flush raises. May
        be called twice.
        """
        self.admission.close()
        await self.captures.close()
        async with self._hold_everything():
            if self._ownership is not None:
                self._ownership.close()
        if not self.read_only:
            await self._flush()

    @asynccontextmanager
    async def _hold_everything(self) -> AsyncIterator[None]:
        if self._ownership is not None:
            # What is granted from here on is nothing, since somebody waits for all of it.
            self._ownership.take_all()
        async with self._ranges.hold(self._everything, exclusive=True, is_barrier=True):
            yield

    def _take_writes(self) -> None:
        if self._ownership is not None:
            self._ownership.take_writes()

    def _may_be_granted(self, chunk: int, exclusive: bool) -> bool:
        """Whether the data plane may read, or write, a chunk by itself now."""
        if not self.admission.is_serving:
            return False
        extent = chunk_range(chunk, self.size_bytes)
        # First: who holds everything may be changing what is looked at next.
        if not self._ranges.is_free(align_to_units(extent), exclusive=exclusive):
            return False
        if exclusive and (self.read_only or self.sync_failed or not self._is_marked(chunk)):
            return False
        if exclusive and not self.admission.is_written_once(chunk):
            return False
        return self.admission.is_permitted(extent, exclusive=exclusive)

    async def _flush(self) -> None:
        async with self._sync_lock:
            await self._run(self.sync)

    def _is_cached_where_partial(self, offset: int, size: int) -> bool:
        """Whether the units that a write would have to merge with can be read without waiting."""
        if not (offset | size) % UNIT_BYTES:
            return True
        units = align_to_units(ByteRange(offset, size))
        return units.length <= INLINE_BYTES and self._volume.try_read_into(
            units.offset, self._inline_buffer[: units.length]
        )

    # Work looks up what is served when it runs: `serve` may have changed it since.
    async def _in_thread(
        self, extent: ByteRange, work: Callable[[], None], *, exclusive: bool
    ) -> None:
        with self._requests.waiting():
            await self._in_thread_or_given_up(extent, work, exclusive=exclusive)

    async def _in_thread_or_given_up(
        self, extent: ByteRange, work: Callable[[], None], *, exclusive: bool
    ) -> None:
        while True:
            if exclusive:
                await self.admission.ready_to_write(extent)
            else:
                await self.admission.ready_to_read(extent)
            async with self._ranges.hold(align_to_units(extent), exclusive=exclusive):
                self.admission.check_fence()
                if self.admission.is_permitted(extent, exclusive=exclusive):
                    await self._requests.run(
                        work,
                        keep=lambda: self._ranges.adopt(
                            align_to_units(extent), exclusive=exclusive
                        ),
                    )
                    return

    async def _run(self, work: Callable[[], Result]) -> Result:
        return await trio.to_thread.run_sync(work, limiter=self._threads)

    def _take_buffer(self) -> memoryview:
        if self._buffers:
            return self._buffers.pop()
        return memoryview(mmap.mmap(-1, MAX_REQUEST_BYTES))


async def no_room() -> bool:
    """Nobody has any to spare."""
    return False


async def _made_room(ways: Iterator[Callable[[], Awaitable[bool]]]) -> bool:
    """Whether one of the ways that are left has made some."""
    for way in ways:
        if await way():
            return True
    return False
