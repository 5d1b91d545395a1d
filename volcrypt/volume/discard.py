"""Discards: ranges of a volume that hold nothing any more, made to read zeros and their room given
back.

It knows pieces and their order, and where storage holds data; what a piece has to wait for is the
device's business, as for a write, and what becomes of it the volume's.

A discard may be of many TiB. It goes in pieces, each of which is a change of its own: waits for
what stands against it, holds its range, and works in a thread. Between them a fence, the end and
other requests come in; what was done then stays done, as of a write that failed.

Where storage holds nothing reads are zeros already, and there is nothing to be done or marked; so a
discard of an empty volume of 64 TiB is one look at it. An absent chunk of a lazy volume holds
nothing here and is not zeros: while there are any nothing is passed over. One that is discarded as
a whole becomes zeros, durably, and then present, without being fetched, unless a snapshot is made:
that may need it. All others are made present first, as before a write.

Durability is a write's too: what a discard leaves after a power cut is old or zeros, sector by
sector, until a flush that began after it has returned.
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

import trio

from volcrypt.errors import OutOfRangeError, ReadOnlyError
from volcrypt.geometry import CHUNK_BYTES, UNIT_BYTES, ByteRange

if TYPE_CHECKING:
    from volcrypt.volume.device import Device
    from volcrypt.volume.volume import Volume

PIECE_BYTES: Final = 64 * 2**20
"""What others wait for at most, and what a snapshot keeps of at once before it changes."""

Result = TypeVar("Result")


class DiscardingVolume(Protocol):
    """What discards need of a volume; `Volume` has it."""

    def discard(self, offset: int, length: int) -> None: ...
    def next_data(self, offset: int, end: int) -> int: ...


class ChangingDevice(Protocol):
    """What discards need of a device; `Device` has it."""

    size_bytes: int
    read_only: bool

    @property
    def volume(self) -> DiscardingVolume: ...
    @property
    def is_whole(self) -> bool: ...
    async def change(self, extent: ByteRange, work: Callable[[], None]) -> None: ...
    async def replace_absent(self, extent: ByteRange, work: Callable[[int], None]) -> None: ...
    async def look(self, extent: ByteRange, work: Callable[[], int]) -> int: ...


class Discards:
    def __init__(self, device: ChangingDevice) -> None:
        self._device = device

    async def discard(self, offset: int, length: int, *, keeps_size: bool) -> None:
        """Make a range read zeros. Of what is behind the end nothing is done if `keeps_size`.

        Raises OutOfRangeError else, and what `Device.write` raises; OSError with EOPNOTSUPP where
        the storage cannot.
        """
        if self._device.read_only:
            raise ReadOnlyError("the volume is mounted read-only")
        end = offset + length
        if end > self._device.size_bytes:
            if not keeps_size:
                raise OutOfRangeError(f"{length} bytes at {offset} are beyond the volume's end")
            end = self._device.size_bytes
        while offset < end:
            # What a piece does in a thread cannot be cancelled.
            await trio.lowlevel.checkpoint()
            offset = await self._next_data(offset, end)
            piece = ByteRange(offset, min((offset // PIECE_BYTES + 1) * PIECE_BYTES, end) - offset)
            if piece.length > 0:
                await self._device.replace_absent(piece, self._discard_chunk)
                await self._device.change(piece, partial(self._discard, piece))
            offset = piece.end

    async def _next_data(self, offset: int, end: int) -> int:
        """Where the next piece begins; not inside a data unit before which nothing is done."""
        if not self._device.is_whole:
            return offset
        found = await self._device.look(
            ByteRange(offset, end - offset), lambda: self._device.volume.next_data(offset, end)
        )
        return max(offset, found // UNIT_BYTES * UNIT_BYTES) if found < end else end

    # Which volume is served, is asked when the range is held: it may have changed meanwhile.
    def _discard(self, piece: ByteRange) -> None:
        self._device.volume.discard(piece.offset, piece.length)

    def _discard_chunk(self, chunk: int) -> None:
        self._device.volume.discard(chunk * CHUNK_BYTES, CHUNK_BYTES)


if TYPE_CHECKING:

    def _conformance(device: Device, volume: Volume) -> tuple[ChangingDevice, DiscardingVolume]:
        return device, volume
