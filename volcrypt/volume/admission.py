"""Admission: what stands against a request of a volume that is served, and how that is seen to.

It knows the fence, the lease, chunks that are absent, the conditions of chunks and where a
migration is; it does not know data, threads or the data plane. Looking never waits; `ready_to_read`
and `ready_to_write` do, and what they saw to is looked at again by whoever holds the range then.

All calls come from the loop's thread.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from volcrypt.errors import FencedError, MountError
from volcrypt.geometry import ByteRange, align_to_units, chunks_of
from volcrypt.volume.capture import Captures
from volcrypt.volume.chunk_conditions import ChunkConditions
from volcrypt.volume.lease_gate import LeaseGate
from volcrypt.volume.range_lock import RangeLock

if TYPE_CHECKING:
    from volcrypt.volume.lazy import LazyChunks
    from volcrypt.volume.migration import MigratingVolume


class AbsentChunks(Protocol):
    """What has to be known of chunks that are not here yet; `LazyChunks` has it."""

    def may_read(self, chunks: range) -> bool: ...
    def may_write(self, chunks: range) -> bool: ...
    async def make_readable(self, chunks: range) -> None: ...
    async def make_writable(self, chunks: range) -> None: ...
    async def replace(self, chunks: range, work: Callable[[int], None]) -> None: ...


class Cursor(Protocol):
    """Where a migration is; `MigratingVolume` has it."""

    cursor: int

    def writes_at_once(self, extent: ByteRange) -> bool: ...


class Admission:
    def __init__(self, conditions: ChunkConditions, ranges: RangeLock, captures: Captures) -> None:
        self._conditions = conditions
        self._ranges = ranges
        self._captures = captures
        self._closing = False
        self._fenced: FencedError | None = None
        self.absent: AbsentChunks | None = None
        """Chunks that have to be fetched before they are served; None as soon as there are none."""
        self.cursor: Cursor | None = None
        """Where a migration is: chunks before it are written to two places."""
        self.lease: LeaseGate | None = None
        """Whether the volume may be written to; None for one without a lease."""

    @property
    def is_fenced(self) -> bool:
        return self._fenced is not None

    @property
    def is_serving(self) -> bool:
        return not self._closing and self._fenced is None

    def fence(self, error: FencedError) -> None:
        """Every request is refused with `error` from now on, also those that wait."""
        self._fenced = error
        self._wake_waiting()

    def close(self) -> None:
        """Every request is refused from now on, also those that wait."""
        self._closing = True
        self._wake_waiting()

    def check_fence(self) -> None:
        if self._fenced is not None:
            raise self._fenced

    def check_open(self) -> None:
        if self._closing:
            raise MountError("the volume is being unmounted")

    def check_serving(self) -> None:
        """Raises FencedError, and MountError when closing."""
        self.check_fence()
        self.check_open()

    def is_idle(self, offset: int, size: int, *, exclusive: bool) -> bool:
        """Whether nothing keeps these bytes from being served at once."""
        if exclusive and not self._may_change:
            return False
        if (
            exclusive
            and self.cursor is not None
            and not self.cursor.writes_at_once(ByteRange(offset, size))
        ):
            return False
        if self._conditions.is_free and self.absent is None and self._ranges.is_idle:
            return True  # nearly always, and several times cheaper to find out
        extent = ByteRange(offset, size)
        return self.is_permitted(extent, exclusive=exclusive) and self._ranges.is_free(
            align_to_units(extent), exclusive=exclusive
        )

    def is_permitted(self, extent: ByteRange, *, exclusive: bool) -> bool:
        """Whether nothing but other requests keeps them from it."""
        chunks = chunks_of(extent)
        if (absent := self.absent) is not None and not (
            absent.may_write(chunks) if exclusive else absent.may_read(chunks)
        ):
            return False
        return not exclusive or (self._may_change and self._conditions.may_write(chunks))

    def is_written_once(self, chunk: int) -> bool:
        """Whether a write to the chunk has one place to go to, and needs nothing written before."""
        return self.cursor is None or chunk >= self.cursor.cursor

    async def ready_to_read(self, extent: ByteRange) -> None:
        """Have what is absent fetched. Raises why it cannot be had, and MountError when closing."""
        if self.absent is not None:
            await self.absent.make_readable(chunks_of(extent))
            self.check_open()

    async def ready_to_write(self, extent: ByteRange) -> None:
        """See to all that stands against a write to `extent`. Raises why something that is absent
        cannot be had, and as `check_serving`."""
        if self.absent is not None:
            # First, since what a capture keeps has to be here.
            await self.absent.make_writable(chunks_of(extent))
        await self._captures.ready_to_write(chunks_of(extent))
        await self.lease_held()
        # The end does not wait for those who wait here, and must not be followed by them.
        self.check_serving()

    async def replace_absent(self, chunks: range, work: Callable[[int], None]) -> None:
        """Have `work` give absent chunks new content, which nobody needs as they are; for who holds
        them. Raises as `check_serving`, and what the work raises.

        Not while there is a capture: what it keeps has to be here. One that begins meanwhile has
        what was replaced, since that is under way.
        """
        self.check_serving()
        if self.absent is not None and self._may_change and self._conditions.is_free:
            await self.absent.replace(chunks, work)

    async def lease_held(self) -> None:
        """Wait until the volume may be written to. Raises as `check_serving` if it has to."""
        while not self._may_change:
            self.check_serving()
            assert self.lease is not None, "internal error: closed without a gate"
            await self.lease.changed()

    @property
    def _may_change(self) -> bool:
        return self.lease is None or self.lease.is_open

    def _wake_waiting(self) -> None:
        if self.lease is not None:
            self.lease.wake()


if TYPE_CHECKING:

    def _conformance(lazy: LazyChunks, volume: MigratingVolume) -> tuple[AbsentChunks, Cursor]:
        return lazy, volume
