"""Volume: plaintext byte ranges over ciphertext storage.

It knows the cipher, the rule of holes and partial data units; it does not know files, FUSE or
snapshots. An unencrypted volume runs the same code with a cipher that does nothing.

Holes. A 512-byte sector of storage that is all zero was never written and reads as zeros, for
encrypted and unencrypted volumes alike (`XtsKernel.decrypt_sparse_units`).

Discards. What is discarded becomes holes, as far as it is whole data units; a part of one is
written with zeros. With `drops_zeros` so does a write of zeros. Whoever can see the storage sees
which units that are.

Torn writes. Storage is written in whole data units; a partial unit is read, decrypted, merged,
encrypted and written back. In XTS a 16-byte block of ciphertext depends on nothing but its own
plaintext and place, so rewriting a unit changes only the sectors that the write touched (and
holes beside them, which become encrypted zeros): after a power cut each 512-byte sector holds
the old or the new plaintext.

Order. The changed-bits of all chunks of a write are set before the first byte of any changes, and
what it encrypts, whole units, is counted. When a sync fails the change map is distrusted before the
caller hears of it.

Concurrency. Safe for several threads at once, as far as their ranges touch different data units;
keeping those apart is the caller's duty (the device's range lock). A cipher context is not
reentrant, so each call runs in a *lane* of its own, a kernel and a page-aligned buffer, taken
from a stack: lists push and pop atomically, and the last lane used is the one warm in the cache.
"""

import mmap
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, Protocol

from typing_extensions import Buffer

from volcrypt.crypto.data_key import DataKey
from volcrypt.errors import OutOfRangeError, ReadOnlyError
from volcrypt.geometry import UNIT_BYTES, ByteRange, align_to_units, chunks_of
from volcrypt.volume.allocation import UNSUPPORTED
from volcrypt.volume.zero_runs import zero_runs

if TYPE_CHECKING:
    from volcrypt.crypto.xts import XtsKernel
    from volcrypt.volume.change_map import ChangeMap
    from volcrypt.volume.datafile import DataFile
    from volcrypt.volume.write_counter import WriteCounter

LANE_BYTES: Final = 1024 * 1024
_ZEROS: Final = bytes(UNIT_BYTES)
"""The largest piece that is encrypted and written at once; what FUSE sends at most."""


class DataStorage(Protocol):
    """What a volume needs of its storage; `DataFile` has it."""

    def read_into(self, offset: int, buffer: Buffer) -> None: ...
    def try_read_into(self, offset: int, buffer: Buffer) -> bool: ...
    def write(self, offset: int, data: Buffer) -> None: ...
    def deallocate(self, offset: int, length: int) -> None: ...
    def next_data(self, offset: int, end: int) -> int: ...
    def sync(self) -> None: ...
    def grow(self, size_bytes: int) -> None: ...


class ChangeRecorder(Protocol):
    """What a volume needs of its change map; `ChangeMap` has it."""

    def mark(self, chunks: range) -> None: ...
    def distrust(self) -> None: ...
    def grow(self, size_bytes: int) -> None: ...


class WriteRecorder(Protocol):
    """Who counts what is encrypted; `WriteCounter` does."""

    def spend(self, size_bytes: int) -> None: ...
    def renew(self) -> None: ...


class Cipher(Protocol):
    """What a lane does to whole data units, in place or to another buffer; `XtsKernel` has it."""

    def encrypt_units(self, first_unit: int, source: Buffer, destination: Buffer) -> None: ...
    def decrypt_sparse_units(
        self, first_unit: int, source: Buffer, destination: Buffer
    ) -> None: ...
    def wipe(self) -> None: ...


class NoCipher:
    """The cipher of an unencrypted volume. Holes are zeros already."""

    def encrypt_units(self, first_unit: int, source: Buffer, destination: Buffer) -> None:
        if source is not destination:
            memoryview(destination)[:] = memoryview(source)

    def decrypt_sparse_units(self, first_unit: int, source: Buffer, destination: Buffer) -> None:
        assert source is destination, "internal error: units are transformed in place"

    def wipe(self) -> None:
        pass


class Lane:
    """What one call needs for itself: a cipher, and a buffer whose pages are reused."""

    __slots__ = ("buffer", "cipher")

    def __init__(self, cipher: Cipher) -> None:
        self.cipher = cipher
        self.buffer = memoryview(mmap.mmap(-1, LANE_BYTES))


class Volume:
    """An open volume. `data_key` must outlive it: lanes are made from it as threads need them."""

    def __init__(
        self,
        data: DataStorage,
        *,
        size_bytes: int,
        data_key: DataKey | None,
        changes: ChangeRecorder | None,
        written: WriteRecorder | None = None,
        read_only: bool = False,
        drops_zeros: bool = False,
    ) -> None:
        """`data_key` None: unencrypted. `changes` None: nobody tracks changes. `written` None:
        nobody counts what is encrypted. `drops_zeros`: writes of zeros become holes."""
        self.size_bytes = size_bytes
        self.read_only = read_only
        self._data = data
        self._data_key = data_key
        self._changes = changes
        self._written = written
        self._drops_zeros = drops_zeros
        self._closed = False
        self._lanes = [self._make_lane()]

    def read_into(self, offset: int, buffer: Buffer) -> None:
        """Fill `buffer` with plaintext from `offset`.

        Raises OutOfRangeError, and what the storage raises; `buffer` may then hold ciphertext.
        """
        self._read(offset, memoryview(buffer), wait=True)

    def try_read_into(self, offset: int, buffer: Buffer) -> bool:
        """`read_into` if that needs no waiting for the medium.

        False: it would block, and `buffer` may hold anything.
        """
        return self._read(offset, memoryview(buffer), wait=False)

    def write(self, offset: int, data: Buffer) -> None:
        """Write plaintext at `offset`; `data` is not modified.

        Raises OutOfRangeError, ReadOnlyError, and what the storage raises; after an error any of
        the 512-byte sectors of the range may be old or new.
        """
        view = memoryview(data)
        extent = self._begin_change(offset, view.nbytes)
        if extent.length == 0:
            return
        view = view.cast("B")
        if not self._drops_zeros:
            self._write_extent(extent, view)
            return
        for run, is_zero in zero_runs(extent, view):
            if not is_zero or not self._drop(run):
                start = run.offset - offset
                self._write_extent(run, view[start : start + run.length])

    def discard(self, offset: int, length: int) -> None:
        """Make a range read zeros, and give the room of its whole data units back.

        Raises as `write`, and OSError with EOPNOTSUPP where the storage cannot.
        """
        extent = self._begin_change(offset, length)
        start = -(-extent.offset // UNIT_BYTES) * UNIT_BYTES
        stop = extent.end // UNIT_BYTES * UNIT_BYTES
        edges = [extent]
        if start < stop:
            # Nobody who was left behind may do it later, as with a write.
            self._check_open()
            self._data.deallocate(start, stop - start)
            edges = [ByteRange(offset, start - offset), ByteRange(stop, extent.end - stop)]
        for edge in edges:
            if edge.length:
                self._write_extent(edge, memoryview(bytes(edge.length)))

    def next_data(self, offset: int, end: int) -> int:
        """Where at or after `offset` something may be that does not read zeros; `end` if not before
        that."""
        return self._data.next_data(offset, end)

    def drops(self, offset: int, data: Buffer) -> bool:
        """Whether `write` would make holes of some of it, and perhaps wait for the medium."""
        if not self._drops_zeros:
            return False
        view = memoryview(data).cast("B")
        return any(is_zero for _, is_zero in zero_runs(ByteRange(offset, view.nbytes), view))

    def flush(self) -> None:
        """Make every write that returned before durable.

        Raises what the storage raises when data was lost; the change map is then void.
        """
        try:
            self._data.sync()
        except BaseException:
            if self._changes is not None:
                self._changes.distrust()
            raise
        if self._written is not None:
            self._written.renew()

    def grow(self, size_bytes: int) -> None:
        """Take over that the storage has grown; what is new reads zeros. No write is under way.

        Raises what the storage raises, and then nothing has changed.
        """
        self._data.grow(size_bytes)
        if self._changes is not None:
            self._changes.grow(size_bytes)
        self.size_bytes = size_bytes

    def close(self) -> None:
        """Wipe the kernels; does not flush, and leaves storage and data key to their owners.

        Calls that are running in other threads write no more than what they had encrypted, and wipe
        theirs. May be called twice.
        """
        self._closed = True
        while self._lanes:
            self._wipe(self._lanes.pop())

    def _read(self, offset: int, view: memoryview, *, wait: bool) -> bool:
        extent = self._check_range(offset, view.nbytes)
        if extent.length == 0:
            return True
        view = view.cast("B")
        # Whole units are decrypted where they are wanted, partial ones in the lane.
        start = -(-extent.offset // UNIT_BYTES) * UNIT_BYTES
        stop = extent.end // UNIT_BYTES * UNIT_BYTES
        lane = self._take_lane()
        try:
            if start < stop and not self._read_units(
                lane, start, view[start - offset : stop - offset], wait=wait
            ):
                return False
            for unit in _partial_units(extent):
                whole = lane.buffer[:UNIT_BYTES]
                if not self._read_units(lane, unit, whole, wait=wait):
                    return False
                start, stop = max(unit, extent.offset), min(unit + UNIT_BYTES, extent.end)
                view[start - offset : stop - offset] = whole[start - unit : stop - unit]
        finally:
            self._return_lane(lane)
        return True

    def _read_units(self, lane: Lane, offset: int, view: memoryview, *, wait: bool) -> bool:
        """Fill `view` with the plaintext of whole units; False when that would block."""
        if wait:
            self._data.read_into(offset, view)
        elif not self._data.try_read_into(offset, view):
            return False
        lane.cipher.decrypt_sparse_units(offset // UNIT_BYTES, view, view)
        return True

    def _begin_change(self, offset: int, length: int) -> ByteRange:
        """The range that is about to change; its chunks are marked. Raises OutOfRangeError,
        ReadOnlyError."""
        if self.read_only:
            raise ReadOnlyError("the volume is open for reading only")
        extent = self._check_range(offset, length)
        if extent.length and self._changes is not None:
            self._changes.mark(chunks_of(extent))
        return extent

    def _write_extent(self, extent: ByteRange, data: memoryview) -> None:
        """Write `data`, the bytes of `extent`, whose chunks are marked."""
        hull = align_to_units(extent)
        if self._written is not None:
            self._written.spend(hull.length)
        lane = self._take_lane()
        try:
            for start in range(hull.offset, hull.end, LANE_BYTES):
                stop = min(start + LANE_BYTES, hull.end)
                self._write_units(lane, ByteRange(start, stop - start), extent, data)
        finally:
            self._return_lane(lane)

    def _drop(self, units: ByteRange) -> bool:
        """Make holes of whole units that read zeros then; False where the storage cannot."""
        self._check_open()
        try:
            self._data.deallocate(units.offset, units.length)
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise
            self._drops_zeros = False
            return False
        return True

    def _write_units(
        self, lane: Lane, units: ByteRange, extent: ByteRange, data: memoryview
    ) -> None:
        """Write the part of `extent`, whose bytes are `data`, that lies in `units`."""
        buffer = lane.buffer[: units.length]
        for unit in _partial_units(extent):
            if units.offset <= unit < units.end:
                start = unit - units.offset
                self._read_units(lane, unit, buffer[start : start + UNIT_BYTES], wait=True)
        # Whoever gave the data may have been answered since, and use its place again.
        self._check_open()
        start, stop = max(units.offset, extent.offset), min(units.end, extent.end)
        source = data[start - extent.offset : stop - extent.offset]
        if source.nbytes != units.length:
            buffer[start - units.offset : stop - units.offset] = source
            source = buffer
        lane.cipher.encrypt_units(units.offset // UNIT_BYTES, source, buffer)
        self._data.write(units.offset, buffer)

    def _check_range(self, offset: int, length: int) -> ByteRange:
        if offset < 0 or offset + length > self.size_bytes:
            raise OutOfRangeError(
                f"{length} bytes at {offset} are beyond the end of the volume at {self.size_bytes}"
            )
        return ByteRange(offset, length)

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError("the volume was closed")

    def _take_lane(self) -> Lane:
        self._check_open()
        try:
            return self._lanes.pop()
        except IndexError:
            return self._make_lane()

    def _return_lane(self, lane: Lane) -> None:
        self._lanes.append(lane)
        if self._closed:
            # `close` may have emptied the stack just before.
            self.close()

    def _make_lane(self) -> Lane:
        return Lane(NoCipher() if self._data_key is None else self._data_key.kernel())

    @staticmethod
    def _wipe(lane: Lane) -> None:
        lane.cipher.wipe()
        # The buffer holds ciphertext after a write, and plaintext after a partial read.
        # In pieces: where memory is at an end this is what must not fail.
        for start in range(0, LANE_BYTES, UNIT_BYTES):
            lane.buffer[start : start + UNIT_BYTES] = _ZEROS


def _partial_units(extent: ByteRange) -> Iterator[int]:
    """Offsets of the data units that `extent` touches and does not cover: none, one or two."""
    head = extent.offset // UNIT_BYTES * UNIT_BYTES
    if head < extent.offset or extent.end < head + UNIT_BYTES:
        yield head
    tail = extent.end // UNIT_BYTES * UNIT_BYTES
    if tail < extent.end and tail != head:
        yield tail


if TYPE_CHECKING:

    def _conformance(
        kernel: XtsKernel, data: DataFile, changes: ChangeMap, written: WriteCounter
    ) -> tuple[Cipher, DataStorage, ChangeRecorder, WriteRecorder]:
        return kernel, data, changes, written
