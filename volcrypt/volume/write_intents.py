"""WriteIntents: says durably where the two sides of a migrated volume may differ.

The promise: before either side of a region is written to, its bit is on the medium, and it is clear
again only when all writes to the region are on the medium on both sides. So after a kill or a power
cut the sides are equal wherever a bit is clear, as far as they had been copied at all.

Theory of operation. A write that finds its bits set costs two steps under a lock. One that does not
writes the sectors and syncs; whoever comes meanwhile waits for that and goes with the next one. A
bit is cleared by who *settles*: he notes the time (`begin_settle`), syncs both sides, and then
(`end_settle`) may clear regions whose last write had *ended* before that time, with none under way.
Times are *ticks* of some seconds, and a region keeps its bit for a whole tick after its last write,
so that one in use is not set and cleared all the time. Clearing needs no sync: a bit that is set
too long costs a copy of the region after a crash, and nothing else.

Safe for several threads at once. After a failed sync of the file nothing more is set (`DataFile`),
and who needs a bit gets ReadOnlyError.
"""

import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from itertools import groupby
from typing import TYPE_CHECKING, Final, Protocol, Self

from typing_extensions import Buffer

from volcrypt.errors import FormatError, IntegrityError
from volcrypt.formats.bit_sectors import SECTOR_BITMAP_BYTES, SECTOR_BITS
from volcrypt.formats.write_intents import (
    IntentsHeader,
    decode_header,
    decode_sectors,
    encode_header,
    encode_sector,
    sector_offset,
)
from volcrypt.geometry import SECTOR_BYTES, ByteRange

if TYPE_CHECKING:
    from volcrypt.volume.datafile import DataFile

INTENTS_FILE: Final = "intents"
"""Beside the volume's record."""

TICK_SECONDS: Final = 5.0


class IntentStorage(Protocol):
    """Where the bits outlive the process, `header.file_bytes` long; `DataFile` has it."""

    def read_into(self, offset: int, buffer: Buffer) -> None: ...
    def write(self, offset: int, data: Buffer) -> None: ...
    def sync(self) -> None: ...


class WriteIntents:
    def __init__(
        self,
        storage: IntentStorage,
        header: IntentsHeader,
        bits: bytearray,
        *,
        clock: Callable[[], float],
    ) -> None:
        """Internal: use `create` or `open`."""
        self.header = header
        self._storage = storage
        # What the file says, or will say before anybody relies on it.
        self._bits = bits
        self._clock = clock
        self._lock = threading.Lock()
        # Held while sectors are written; taken before `_lock`.
        self._writing = threading.Lock()
        self._wanted: set[int] = set()
        self._under_way: dict[int, int] = {}
        # The tick in which the last write to a region ended; long ago for those not in it.
        self._ended: dict[int, int] = {}
        self._is_void = False
        self._tick = 1
        self._ticked_at = clock()

    @classmethod
    def create(
        cls,
        storage: IntentStorage,
        header: IntentsHeader,
        *,
        all_set: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> Self:
        """Bits that are all clear, or all set; durable on return."""
        bits = bytearray((b"\xff" if all_set else b"\0") * SECTOR_BITMAP_BYTES)
        bits *= header.sector_count
        intents = cls(storage, header, bits, clock=clock)
        intents._write_sectors(range(header.sector_count))
        # What is believed is the header, and it comes last.
        storage.sync()
        storage.write(0, encode_header(header))
        storage.sync()
        return intents

    @classmethod
    def open(
        cls,
        storage: IntentStorage,
        header: IntentsHeader,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> Self:
        """What was left; all bits are set where it is damaged, or another's."""
        data = bytearray(header.file_bytes)
        storage.read_into(0, data)
        try:
            found = decode_header(bytes(data[:SECTOR_BYTES]), what="write intents")
        except (FormatError, IntegrityError):
            found = None
        if found != header:
            return cls.create(storage, header, all_set=True, clock=clock)
        bits = decode_sectors(header, bytes(data[SECTOR_BYTES:]))
        return cls(storage, header, bits, clock=clock)

    @property
    def is_void(self) -> bool:
        """Whether nothing is believed of them any more, also by who opens them next."""
        return self._is_void

    def regions_of(self, extent: ByteRange) -> range:
        if not extent.length:
            return range(0)
        size = self.header.region_bytes
        return range(extent.offset // size, (extent.end - 1) // size + 1)

    def are_set(self, extent: ByteRange) -> bool:
        """Whether a write to `extent` needs nothing written here."""
        return all(map(self.is_set, self.regions_of(extent)))

    def is_set(self, region: int) -> bool:
        # Sectors hold whole bytes of bits, so there is no gap between them.
        return bool(self._bits[region >> 3] & 1 << (region & 7))

    def set_regions(self) -> list[int]:
        """All whose bit is set, ascending."""
        return [
            8 * place + bit
            for place, byte in enumerate(self._bits)
            if byte
            for bit in range(8)
            if byte >> bit & 1 and 8 * place + bit < self.header.region_count
        ]

    @contextmanager
    def writing(self, extent: ByteRange) -> Iterator[None]:
        """Hold the bits of `extent` set, on the medium, for a write to it.

        Raises NoSpaceError, OSError, and ReadOnlyError after an error, with nothing begun.
        """
        regions = self.regions_of(extent)
        with self._lock:
            for region in regions:
                self._under_way[region] = self._under_way.get(region, 0) + 1
        try:
            if not self.are_set(extent):
                self._set(regions)
            yield
        finally:
            with self._lock:
                for region in regions:
                    self._ended[region] = self._tick
                    self._under_way[region] -= 1
                    if not self._under_way[region]:
                        del self._under_way[region]

    def begin_settle(self, *, final: bool = False) -> int:
        """Before both sides are synced; for `end_settle`. `final`: nobody writes any more."""
        with self._lock:
            now = self._clock()
            if final or now - self._ticked_at >= TICK_SECONDS:
                self._tick += 1
                self._ticked_at = now
            return self._tick if final else self._tick - 1

    def end_settle(self, before: int, *, keep: Collection[int] = ()) -> None:
        """Both sides were synced since `begin_settle` gave `before`: clear what had ended then, but
        for the regions to `keep`. Raises as `writing`."""
        with self._writing:
            if self._is_void:
                return
            with self._lock:
                cleared = [
                    region
                    for region in self.set_regions()
                    if self._ended.get(region, 0) < before
                    and region not in self._under_way
                    and region not in keep
                ]
                for region in cleared:
                    self._bits[region >> 3] &= ~(1 << (region & 7))
                    self._ended.pop(region, None)
            self._write_sectors(_sectors_of(cleared))

    def void(self) -> None:
        """Nothing that these bits say is true any more; durable on return. They are all set from
        here on, whoever asks. Raises as `writing`."""
        with self._writing:
            self._storage.write(0, bytes(SECTOR_BYTES))
            self._storage.sync()
            with self._lock:
                self._is_void = True
                self._bits[:] = b"\xff" * len(self._bits)

    def _set(self, regions: range) -> None:
        with self._lock:
            self._wanted.update(regions)
        with self._writing:
            with self._lock:
                # Nothing, when who wrote just before took ours along.
                taken, self._wanted = self._wanted, set()
                missing = [region for region in taken if not self.is_set(region)]
            if missing:
                self._write_sectors(_sectors_of(missing), and_set=missing)
                self._storage.sync()
                with self._lock:
                    for region in missing:
                        self._bits[region >> 3] |= 1 << (region & 7)
        if not all(map(self.is_set, regions)):
            # Who took them along failed; the storage says why.
            self._set(regions)

    def _write_sectors(self, sectors: Collection[int], *, and_set: Collection[int] = ()) -> None:
        for _, run in groupby(enumerate(sorted(sectors)), key=lambda each: each[1] - each[0]):
            numbers = [number for _, number in run]
            data = b"".join(self._encoded(number, and_set) for number in numbers)
            self._storage.write(sector_offset(numbers[0]), data)

    def _encoded(self, sector: int, and_set: Collection[int]) -> bytes:
        start = sector * SECTOR_BITMAP_BYTES
        bits = self._bits[start : start + SECTOR_BITMAP_BYTES]
        for region in and_set:
            if region // SECTOR_BITS == sector:
                bits[region % SECTOR_BITS >> 3] |= 1 << (region & 7)
        return encode_sector(self.header, sector, bytes(bits))


def _sectors_of(regions: Collection[int]) -> set[int]:
    return {region // SECTOR_BITS for region in regions}


if TYPE_CHECKING:

    def _conformance(file: DataFile) -> IntentStorage:
        return file
