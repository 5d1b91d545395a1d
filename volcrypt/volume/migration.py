"""MigratingVolume: one volume on two sides, while its data moves from *source* to *target*.

It knows both sides as volumes of plaintext, the cursor and the write intents; it does not know
keys, requests or who decided to migrate.

Theory of operation. The source is complete and right until the switch: reads go there, and giving
the target up loses nothing. Chunks are copied in order; those before the *cursor* are on both
sides, and a write to them goes to both, first to the target. A write behind the cursor goes to the
source alone. Who copies a chunk keeps writers away from it (reads may go on), so each write finds
its chunk on one side of the cursor or the other.

    mode         a flush syncs   a target that fails
    COPYING      the source      is given up until somebody begins again; no request hears of it
    COMMITTING   both            fails the request, before the source was touched

Room. Where writers find none, the target gives its own back (`give_back_room`): it is given up, and
what was copied is void.

COMMITTING begins when everything is copied, and before anybody may decide, durably, that the target
is the volume: from then on either side may be the one that is found after a kill.

What holds after a kill or a power cut. Let the *durable cursor* be one up to which everything was
copied before a `settle`. Chunks before it are equal on both sides, on the medium, except where a
write intent is set (`volcrypt.volume.write_intents`): each write to both sides sets it before it
touches one of them, and it is cleared after a later settle. So who opens the volume again has to
copy, from the source, what is behind the durable cursor and the regions whose intent is set; which
is what a new MigratingVolume does before it goes on. A settle syncs the source too: what was copied
may have been in its page cache alone, and a power cut would bring back what was there before,
unlike the target's.

Zeros. A chunk that reads zeros on both sides is not written, so that what is thin stays thin. That
it is zeros on the source is not enough: when it is copied again the target may hold what once was
there.

Concurrency. Requests may come from several threads at once, for ranges that do not overlap within a
data unit; `work` and `verify` one at a time, while nobody writes to their chunks; `prepare`,
`withdraw`, `abandon` and `close` while nobody reads or writes at all. Once it is decided that the
target is the volume, it is opened as any volume and takes this one's place.
"""

import mmap
import threading
from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING, Final, Protocol

from typing_extensions import Buffer

from volcrypt.crypto.xts import is_zero
from volcrypt.errors import (
    IntegrityError,
    NoSpaceError,
    OutOfRangeError,
    TargetLostError,
    TryAgainError,
    VolcryptError,
)
from volcrypt.geometry import CHUNK_BYTES, ByteRange, chunk_count, chunk_range, is_unit_aligned
from volcrypt.volume.allocation import UNSUPPORTED
from volcrypt.volume.plaintext import PlaintextVolume
from volcrypt.volume.write_intents import WriteIntents

if TYPE_CHECKING:
    from volcrypt.volume.datafile import DataFile
    from volcrypt.volume.volume import Volume

SKIPPED_AT_ONCE: Final = 4096
"""Chunks of a hole that the cursor passes in one step, while nobody writes there."""

_ZEROS: Final = bytes(CHUNK_BYTES)


class Side(PlaintextVolume, Protocol):
    """What this needs of a volume; `Volume` has it."""

    def close(self) -> None: ...


class ComparedSide(Protocol):
    """What is compared with the source; `Medium` has it."""

    def read_into(self, offset: int, buffer: Buffer) -> None: ...


class Mode(Enum):
    COPYING = "copying"
    COMMITTING = "committing"


class MigratingVolume:
    """`source` is served, and is becoming `target`. Both are this one's to close."""

    def __init__(
        self,
        source: Side,
        target: Side,
        intents: WriteIntents,
        *,
        cursor: int,
        next_data: Callable[[int], int] = lambda chunk: chunk,
        has_room_to_give: bool = True,
        begin_write_back: Callable[[int, int], None] = lambda _offset, _length: None,
    ) -> None:
        """`cursor`: up to which chunk everything was copied and settled before. `next_data` gives
        the first chunk from a given one on that may hold something on either side, at most how
        many there are. `has_room_to_give`: the target takes room as it is written.
        `begin_write_back` is told of bytes at an offset of the target that were copied, so that a
        settle has less to wait for."""
        assert source.size_bytes == target.size_bytes, "internal error: sides of different sizes"
        self.size_bytes = source.size_bytes
        self.read_only = source.read_only
        self.source = source
        self.target = target
        self.chunk_count = chunk_count(source.size_bytes)
        self.cursor = cursor
        """The first chunk that is not copied yet: the working cursor."""
        self.mode = Mode.COPYING
        self.failure: Exception | None = None
        """Why the target was given up."""
        self.copied_bytes = 0
        """How much was written to the target by copying."""
        self._intents = intents
        self._next_data = next_data
        self._has_room_to_give = has_room_to_give
        self._begin_write_back = begin_write_back
        self._lock = threading.Lock()
        self._closed = False
        # Regions to be copied again, and what is left of the one that is being copied.
        self._stale = set(
            intents.regions_of(ByteRange(0, min(cursor * CHUNK_BYTES, self.size_bytes)))
        ).intersection(intents.set_regions())
        self._repairing: range = range(0)
        # A bytearray is compared at memory's speed, a memoryview byte by byte (5 ms a chunk); what
        # is read past the page cache lies on a page boundary.
        self._bytes = bytearray(CHUNK_BYTES)
        self._buffer = memoryview(self._bytes)
        self._compared = memoryview(mmap.mmap(-1, CHUNK_BYTES))

    @property
    def repeats(self) -> int:
        """How many regions have to be copied again first."""
        with self._lock:
            return len(self._stale) + bool(self._repairing)

    @property
    def is_copied(self) -> bool:
        """Whether nothing is left to copy."""
        return self.cursor == self.chunk_count and not self._repairing and not self._stale_chunks()

    # ------------------------------------------------------------ requests

    def read_into(self, offset: int, buffer: Buffer) -> None:
        """As `Volume.read_into`."""
        self.source.read_into(offset, buffer)

    def try_read_into(self, offset: int, buffer: Buffer) -> bool:
        """As `Volume.try_read_into`."""
        return self.source.try_read_into(offset, buffer)

    def write(self, offset: int, data: Buffer) -> None:
        """As `Volume.write`; also raises what keeps write intents from being set, with nothing
        written, and in COMMITTING what the target raises."""
        view = memoryview(data).cast("B")
        self._change(
            ByteRange(offset, view.nbytes),
            lambda side, part: side.write(offset, view[: part.length]),
        )

    def discard(self, offset: int, length: int) -> None:
        """As `Volume.discard`, and as `write`."""
        self._change(
            ByteRange(offset, length), lambda side, part: side.discard(offset, part.length)
        )

    def next_data(self, offset: int, end: int) -> int:
        """As `Volume.next_data`."""
        return self.source.next_data(offset, end)

    def drops(self, offset: int, data: Buffer) -> bool:
        """As `Volume.drops`."""
        return self.source.drops(offset, data)

    def writes_at_once(self, extent: ByteRange) -> bool:
        """Whether a write to `extent` waits for nothing that a write to the source would not."""
        both = self._part_on_both(extent)
        return not both.length or (is_unit_aligned(both) and self._intents.are_set(both))

    def flush(self) -> None:
        """As `Volume.flush`."""
        self.source.flush()
        if self.mode is Mode.COMMITTING:
            self.target.flush()

    def grow(self, size_bytes: int) -> None:
        """Raises TryAgainError."""
        raise TryAgainError("the volume is being encrypted; it can grow when that has ended")

    # ------------------------------------------------------------ copying

    def next_work(self) -> range:
        """The chunks to be copied, one, or to be skipped, several, next; none when all is done.

        Raises what the target was given up for.
        """
        self._check_target()
        if not self._repairing:
            with self._lock:
                if stale := self._stale_chunks():
                    self._stale.difference_update(self._intents.regions_of(self._extent(stale)))
                    self._repairing = stale
        if self._repairing:
            return self._repairing[:1]
        if self.cursor == self.chunk_count:
            return range(0)
        hole = min(self._next_data(self.cursor), self.cursor + SKIPPED_AT_ONCE, self.chunk_count)
        return range(self.cursor, max(hole, self.cursor + 1))

    def work(self, chunks: range) -> None:
        """Do what `next_work` gave, while nobody writes to `chunks`.

        Raises what reading the source raises, and then nothing has changed; and, from then on
        always, what the target raises, which is given up.
        """
        self._check_target()
        if len(chunks) > 1:
            # Somebody may have written there before he was kept away.
            self.cursor = min(self._next_data(chunks.start), chunks.stop)
            return
        try:
            self._work(chunks)
        finally:
            self._wipe_if_closed()

    def _work(self, chunks: range) -> None:
        if self._repairing:
            with self._intents.writing(self._extent(chunks)):
                self._copy(chunks.start)
            self._repairing = self._repairing[1:]
        else:
            self._copy(chunks.start)
            self.cursor += 1

    def begin_settle(self, *, final: bool = False) -> tuple[int, int]:
        """Before the source is synced: for `end_settle`. `final`: nobody writes any more."""
        return self.cursor, self._intents.begin_settle(final=final)

    def end_settle(self, token: tuple[int, int]) -> int:
        """The source was synced since `begin_settle`: sync the target, and clear intents.

        The cursor that is durable now: what was copied before the settle began. Raises what the
        target raises, which is then given up, and what the file of the intents raises.
        """
        self._check_target()
        cursor, before = token
        try:
            self.target.flush()
        except Exception as error:
            self._give_up(error)
            raise
        with self._lock:
            keep = set(self._stale)
        keep.update(self._intents.regions_of(self._extent(self._repairing)))
        self._intents.end_settle(before, keep=keep)
        return cursor

    def settle(self, *, final: bool = False) -> int:
        """Both sides on the medium; the cursor that is durable now. Raises as `flush` does and as
        `end_settle`."""
        token = self.begin_settle(final=final)
        self.source.flush()
        return self.end_settle(token)

    def next_compared(self, chunk: int) -> int:
        """The first chunk from `chunk` on that has to be compared: others are holes on both sides.
        Raises OSError."""
        return self._next_data(chunk)

    def verify(self, chunk: int, medium: ComparedSide) -> None:
        """Compare a chunk that was copied with what `medium`, the target opened anew, reads there.

        Raises IntegrityError when they differ, and what reading raises.
        """
        extent = chunk_range(chunk, self.size_bytes)
        expected, found = self._buffer[: extent.length], self._compared[: extent.length]
        try:
            self.source.read_into(extent.offset, expected)
            medium.read_into(extent.offset, found)
            # What lies behind a short chunk is the same.
            self._buffer[extent.length :] = self._compared[extent.length :]
            if self._bytes != self._compared:
                raise IntegrityError(
                    f"chunk {chunk} of the encrypted data is not what it should be"
                )
        finally:
            self._wipe_if_closed()

    # ------------------------------------------------------------ the end

    def prepare(self) -> None:
        """From now on both sides take everything that is acknowledged; to be followed by `settle`
        before anybody relies on that. Everything is copied."""
        self._check_target()
        if not self.is_copied:
            raise TryAgainError("there is something left to be copied")
        self.mode = Mode.COMMITTING

    def give_back_room(self) -> bool:
        """A write found no room: whether there may be some now, since the target gave up what it
        had taken. Then nothing is copied any more, and nothing of it is believed. Requests may be
        under way."""
        if self.mode is Mode.COMMITTING or not self._has_room_to_give:
            return False
        self._has_room_to_give = False
        with self._lock:
            self.failure = NoSpaceError("writers need the room that it had taken")
        try:
            # First what says that it is gone, for good; then it goes.
            self._intents.void()
            self.target.discard(0, self.size_bytes)
        except (OSError, VolcryptError):
            return False
        return True

    def withdraw(self) -> None:
        """The target will not be the volume for now."""
        self.mode = Mode.COPYING

    def abandon(self) -> Side:
        """It is decided that the target will never be the volume: the source, which is all that is
        left to close. Raises what keeps the intents from being made void, and may be called again.
        """
        self._intents.void()
        self._closed = True
        self._wipe_buffers()
        self.target.close()
        return self.source

    def close(self) -> None:
        """As `Volume.close`."""
        self._closed = True
        self._wipe_buffers()
        self.source.close()
        self.target.close()

    # ------------------------------------------------------------ within

    def _part_on_both(self, extent: ByteRange) -> ByteRange:
        end = min(extent.end, self.cursor * CHUNK_BYTES)
        return ByteRange(extent.offset, max(0, end - extent.offset))

    def _change(self, extent: ByteRange, change: Callable[[Side, ByteRange], None]) -> None:
        """`change` of `extent`: what is before the cursor of it on both sides."""
        if extent.offset < 0 or extent.end > self.size_bytes:
            raise OutOfRangeError(
                f"{extent.length} bytes at {extent.offset} are beyond the volume's end"
            )
        both = self._part_on_both(extent)
        if not both.length:
            change(self.source, extent)
            return
        with self._intents.writing(both):
            try:
                self._change_target(lambda: change(self.target, both))
                change(self.source, extent)
            except BaseException:
                # Of the two sides each may have it or not; the source is right.
                with self._lock:
                    self._stale.update(self._intents.regions_of(both))
                raise

    def _change_target(self, change: Callable[[], None]) -> None:
        if self.failure is not None and self.mode is Mode.COPYING:
            return
        try:
            change()
        except Exception as error:
            if self.mode is Mode.COMMITTING or _is_unsupported(error):
                raise
            self._give_up(error)

    def _copy(self, chunk: int) -> None:
        extent = chunk_range(chunk, self.size_bytes)
        data = self._buffer[: extent.length]
        self.source.read_into(extent.offset, data)
        try:
            if is_zero(data) and self._reads_zeros(extent):
                return
            self.target.write(extent.offset, data)
            self._begin_write_back(extent.offset, extent.length)
        except Exception as error:
            self._give_up(error)
            raise
        self.copied_bytes += extent.length

    def _reads_zeros(self, extent: ByteRange) -> bool:
        found = self._compared[: extent.length]
        self.target.read_into(extent.offset, found)
        return is_zero(found)

    def _give_up(self, error: Exception) -> None:
        with self._lock:
            self.failure = self.failure or error

    def _check_target(self) -> None:
        if self.failure is not None:
            raise TargetLostError(self.failure) from self.failure

    def _stale_chunks(self) -> range:
        """The first stale region, as far as it was copied."""
        per_region = self._intents.header.region_bytes // CHUNK_BYTES
        for region in sorted(self._stale):
            first = region * per_region
            if first < self.cursor:
                return range(first, min(first + per_region, self.cursor))
        return range(0)

    def _extent(self, chunks: range) -> ByteRange:
        return ByteRange(chunks.start * CHUNK_BYTES, len(chunks) * CHUNK_BYTES)

    def _wipe_if_closed(self) -> None:
        """What hung in a thread while others closed this may have filled them again."""
        if self._closed:
            self._wipe_buffers()

    def _wipe_buffers(self) -> None:
        for buffer in (self._buffer, self._compared):
            buffer[:] = _ZEROS


def first_data(*files: "DataFile") -> Callable[[int], int]:
    """`next_data` of a MigratingVolume whose sides lie in `files`."""
    count = chunk_count(files[0].size_bytes)
    return lambda chunk: min(next(file.candidate_chunks(chunk), count) for file in files)


def _is_unsupported(error: Exception) -> bool:
    """Whether storage cannot do it at all, which harms nobody."""
    return isinstance(error, OSError) and error.errno in UNSUPPORTED


if TYPE_CHECKING:

    def _conformance(volume: Volume) -> Side:
        return volume
