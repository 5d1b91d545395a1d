"""Device: an open volume as many callers at once see it. The one place that decides how a request
is served: now, on the loop's own thread, or in a worker thread.

It knows trio, ranges, chunk ownership and captures; it does not know FUSE.

Inline or thread. A hop to a thread and back costs several times what 4 KiB cost, so a small request
is served at once when it does not have to wait for the medium: a read when everything is in the
page cache, a write when it covers whole data units or the partial ones are in the page cache. Large
requests hop, so that cipher and copying run beside the loop. A write goes into the page cache, and
waits there only when the kernel throttles writers: after one that took long the next ones hop.

Locking. Every request that hops holds its data units in the range lock, shared for reads, and
exclusively for writes. An inline one checks that it would get them, and then runs to its end
without a checkpoint, which on one thread is as good. Whoever must see no request at all under way
(a capture, the end) holds everything exclusively. Waiting for a chunk that somebody has taken comes
before the range lock, and what was seen there is looked at again once the range is held, since
chunks are only taken by a holder of everything. `_sync_lock` keeps flushes and changes of the
map's state apart and is taken before the range lock.

A capture. `begin_capture` waits for the writes under way, swaps the change map's generations and
takes all chunks: from then on the bytes of each stay as they are until `chunks_captured` gives it
back. Nothing that is served here needs the snapshot to make progress, only writes wait for it.

Growing holds everything too, for moments: what it changes is in memory. A capture that runs is one
of the smaller volume, and stays so; what is new belongs to the engine at once.

Buffers. What `read` returns is valid until the caller's next checkpoint, and is reused after that:
fuse hands it to the kernel before any. They are taken and given back on the loop's thread only.
"""

import mmap
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

import trio
from typing_extensions import Buffer

from volcrypt.errors import MountError, OutOfRangeError, ReadOnlyError, TryAgainError, VolcryptError
from volcrypt.geometry import UNIT_BYTES, ByteRange, align_to_units, chunk_count, chunks_of
from volcrypt.volume.change_map import Capture
from volcrypt.volume.ownership import ChunkOwnership, Owner
from volcrypt.volume.range_lock import RangeLock

if TYPE_CHECKING:
    from volcrypt.formats.change_map import ParentPoint
    from volcrypt.volume.change_map import ChangeMap
    from volcrypt.volume.volume import Volume

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


class PlaintextVolume(Protocol):
    """What a device needs of a volume; `Volume` has it."""

    size_bytes: int
    read_only: bool

    def read_into(self, offset: int, buffer: Buffer) -> None: ...
    def try_read_into(self, offset: int, buffer: Buffer) -> bool: ...
    def write(self, offset: int, data: Buffer) -> None: ...
    def flush(self) -> None: ...
    def grow(self, size_bytes: int) -> None: ...


class CaptureKeeper(Protocol):
    """What a device needs of a change map; `ChangeMap` has it."""

    def begin_capture(self) -> Capture: ...
    def commit_capture(self, capture: Capture, parent: "ParentPoint") -> None: ...
    def abort_capture(self, capture: Capture) -> None: ...


class Device:
    def __init__(
        self, volume: PlaintextVolume, *, ownership: ChunkOwnership, changes: CaptureKeeper
    ) -> None:
        self.size_bytes = volume.size_bytes
        self.read_only = volume.read_only
        self._volume = volume
        self._ownership = ownership
        self._changes = changes
        self._everything = ByteRange(0, volume.size_bytes)
        self._ranges = RangeLock()
        self._sync_lock = trio.Lock()
        self._given_back = trio.lowlevel.ParkingLot()
        self._threads = trio.CapacityLimiter(WORKER_THREADS)
        self._capture: Capture | None = None
        self._closing = False
        self._inline_buffer = memoryview(mmap.mmap(-1, INLINE_BYTES))
        self._buffers: list[memoryview] = []
        self._hops_left = 0

    @property
    def capture_running(self) -> bool:
        return self._capture is not None

    async def read(self, offset: int, size: int) -> memoryview:
        """Plaintext from `offset`, less than `size` bytes at the end of the volume.

        Raises what the volume raises, and MountError when the device is closing.
        """
        self._check_open()
        assert size <= MAX_REQUEST_BYTES, "internal error: a request beyond the limit"
        offset = min(offset, self.size_bytes)
        size = min(size, self.size_bytes - offset)
        if size <= INLINE_BYTES and self._is_idle(offset, size, exclusive=False):
            view = self._inline_buffer[:size]
            if self._volume.try_read_into(offset, view):
                return view
        buffer = self._take_buffer()
        try:
            view = buffer[:size]
            await self._in_thread(offset, self._volume.read_into, view, exclusive=False)
            return view
        finally:
            self._buffers.append(buffer)
            del self._buffers[POOLED_BUFFERS:]

    async def write(self, offset: int, data: bytes) -> int:
        """Write plaintext at `offset`; how much was written, less than all at the end of the
        volume.

        Raises OutOfRangeError when it starts at the end or behind it, what the volume raises, and
        MountError when the device is closing.
        """
        self._check_open()
        if self.read_only:
            raise ReadOnlyError("the volume is mounted read-only")
        room = self.size_bytes - offset
        if room <= 0 and data:
            raise OutOfRangeError(f"offset {offset} is not before the end of the volume")
        piece = memoryview(data)[:room]
        size = len(piece)
        if (
            size <= INLINE_BYTES
            and self._hops_left == 0
            and self._is_idle(offset, size, exclusive=True)
            and self._is_cached_where_partial(offset, size)
        ):
            started = time.perf_counter()
            self._volume.write(offset, piece)
            if time.perf_counter() - started > _SLOW_SECONDS:
                self._hops_left = _HOPS_AFTER_SLOW
        else:
            self._hops_left = max(0, self._hops_left - 1)
            await self._in_thread(offset, self._volume.write, piece, exclusive=True)
        return size

    async def flush(self) -> None:
        """Make every write that returned before durable; raises what the volume raises."""
        async with self._sync_lock:
            await self._run(self._volume.flush)

    async def grow(self, size_bytes: int) -> None:
        """Serve more of the data file, which is as long already. Does nothing for a size that is
        not larger. Raises what the volume raises, and MountError when closing."""
        async with self._sync_lock, self._ranges.hold(self._everything, exclusive=True):
            self._check_open()
            if size_bytes <= self.size_bytes:
                return
            await self._run(lambda: self._volume.grow(size_bytes))
            self._ownership.grow(chunk_count(size_bytes))
            self._everything = ByteRange(0, size_bytes)
            self.size_bytes = size_bytes

    async def begin_capture(self) -> Capture:
        """A point in time: all writes that returned before, and none that return later.

        Raises TryAgainError when another capture is running, MountError when closing.
        """
        async with self._sync_lock, self._ranges.hold(self._everything, exclusive=True):
            self._check_open()
            if self._capture is not None:
                raise TryAgainError("another snapshot of this volume is being taken")
            self._capture = await self._run(self._changes.begin_capture)
            self._ownership.take_all(Owner.CAPTURE)
            return self._capture

    def chunks_captured(self, chunks: range) -> None:
        """The capture does not need `chunks` to keep still any more."""
        self._ownership.give_back(chunks)
        self._given_back.unpark_all()

    async def commit_capture(self, capture: Capture, parent: "ParentPoint") -> None:
        """The captured point is the snapshot `parent`, complete and durable."""
        # Committing syncs while nothing else runs; most of that is done before, beside the others.
        # A failure is told to those who sync for their own data, and the map voids itself.
        with suppress(VolcryptError, OSError):
            await self.flush()
        await self._end_capture(capture, lambda: self._changes.commit_capture(capture, parent))

    async def abort_capture(self, capture: Capture) -> None:
        """There will be no snapshot of the captured point; does nothing when it has ended."""
        if self._capture is capture:
            await self._end_capture(capture, lambda: self._changes.abort_capture(capture))

    async def close(self) -> None:
        """Refuse what comes from now on, finish what is under way, end a capture, and flush.

        A write that waits for a capture's chunk is refused too. Raises what the flush raises. May
        be called twice.
        """
        self._closing = True
        if self._capture is not None:
            await self.abort_capture(self._capture)
        async with self._ranges.hold(self._everything, exclusive=True):
            pass
        if not self.read_only:
            await self.flush()

    async def _end_capture(self, capture: Capture, end: Callable[[], None]) -> None:
        async with self._sync_lock:
            # Writes that wait for the capture's chunks hold no range, so this is soon granted.
            async with self._ranges.hold(self._everything, exclusive=True):
                assert capture is self._capture, "internal error: not the capture that is running"
                await self._run(end)
                self._capture = None
                self._ownership.give_back_all(Owner.CAPTURE)
            self._given_back.unpark_all()

    def _is_idle(self, offset: int, size: int, *, exclusive: bool) -> bool:
        """Whether nobody keeps the Python path from serving these bytes at once."""
        if self._capture is None and self._ranges.is_idle:
            return True  # nearly always, and several times cheaper to find out
        extent = ByteRange(offset, size)
        return self._is_permitted(extent, exclusive=exclusive) and self._ranges.is_free(
            align_to_units(extent), exclusive=exclusive
        )

    def _is_permitted(self, extent: ByteRange, *, exclusive: bool) -> bool:
        chunks = chunks_of(extent)
        return self._ownership.may_write(chunks) if exclusive else self._ownership.may_read(chunks)

    def _is_cached_where_partial(self, offset: int, size: int) -> bool:
        """Whether the units that a write would have to merge with can be read without waiting."""
        if not (offset | size) % UNIT_BYTES:
            return True
        units = align_to_units(ByteRange(offset, size))
        return units.length <= INLINE_BYTES and self._volume.try_read_into(
            units.offset, self._inline_buffer[: units.length]
        )

    async def _in_thread(
        self,
        offset: int,
        work: Callable[[int, memoryview], None],
        view: memoryview,
        *,
        exclusive: bool,
    ) -> None:
        extent = ByteRange(offset, len(view))
        while True:
            while not self._is_permitted(extent, exclusive=exclusive):
                await self._given_back.park()
                # The end does not wait for those who wait here, and must not be followed by them.
                self._check_open()
            async with self._ranges.hold(align_to_units(extent), exclusive=exclusive):
                if self._is_permitted(extent, exclusive=exclusive):
                    await self._run(lambda: work(offset, view))
                    return

    async def _run(self, work: Callable[[], Result]) -> Result:
        return await trio.to_thread.run_sync(work, limiter=self._threads)

    def _take_buffer(self) -> memoryview:
        if self._buffers:
            return self._buffers.pop()
        return memoryview(mmap.mmap(-1, MAX_REQUEST_BYTES))

    def _check_open(self) -> None:
        if self._closing:
            raise MountError("the volume is being unmounted")


if TYPE_CHECKING:

    def _conformance(volume: Volume, changes: ChangeMap) -> tuple[PlaintextVolume, CaptureKeeper]:
        return volume, changes
