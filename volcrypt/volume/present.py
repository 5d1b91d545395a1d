"""PresentMap: which chunks of a lazy volume are on its own storage, through kills and power cuts.

The promise: a chunk whose bit is on disk has all its data on disk. So the caller makes the data
durable, then calls `write`, which returns when the bits are; only then may he `mark` the chunks.
And only a marked chunk may be written to: with an absent bit a power cut would bring the snapshot's
chunk back in place of what was acknowledged.

Holes. A chunk that is a hole in the snapshot needs no data, so `mark_holes` needs no order: a lost
bit is found out again. Such bits are written with the next call of `write`.

After a write or a sync of the map failed nothing more is written to it (see `volume.datafile`).

All calls but `write` belong to one thread; one `write` at a time, in any thread.
"""

import os
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from volcrypt.errors import IntegrityError, ReadOnlyError
from volcrypt.formats.bit_sectors import SECTOR_BITMAP_BYTES
from volcrypt.formats.pages import PAGE_CHUNKS
from volcrypt.formats.present_map import SECTOR_CHUNKS
from volcrypt.geometry import chunk_count
from volcrypt.names import VolumeId
from volcrypt.volume.present_file import PresentFile, open_checked, read_bits


class MapKeeper(Protocol):
    """Where a present map outlives the process."""

    def write(self, sectors: Iterable[tuple[int, bytes]]) -> None:
        """Replace the bits of these sectors, ascending; durable on return."""
        ...

    def finish(self) -> None:
        """Every chunk is present; durable on return."""
        ...

    def close(self) -> None: ...


class PresentMap:
    """The bits in memory, and where they are kept: nowhere, for what ends with the process."""

    def __init__(self, chunk_count: int, *, bits: bytearray, keeper: MapKeeper | None) -> None:
        """Internal: use `open_present_map` or `in_memory`."""
        self.chunk_count = chunk_count
        self._bits = bits
        self._keeper = keeper
        self._failed = False
        # Sectors with bits of holes that are not written yet.
        self._unwritten: set[int] = set()
        self.present_count = int(np.bitwise_count(np.frombuffer(bits, dtype=np.uint8)).sum())

    @classmethod
    def in_memory(cls, chunk_count: int) -> Self:
        """An empty one, forgotten with the process."""
        sectors = -(-chunk_count // SECTOR_CHUNKS)
        return cls(chunk_count, bits=bytearray(sectors * SECTOR_BITMAP_BYTES), keeper=None)

    @property
    def absent_count(self) -> int:
        return self.chunk_count - self.present_count

    def has(self, chunk: int) -> bool:
        """Whether the chunk is present, durably; those behind the snapshot's end always are."""
        return chunk >= self.chunk_count or bool(self._bits[chunk >> 3] & 1 << (chunk & 7))

    def absent_in(self, chunks: range) -> list[int]:
        """Those of `chunks`, a run that starts at a multiple of 8, that are not present."""
        stop = min(chunks.stop, self.chunk_count)
        if stop <= chunks.start:
            return []
        part = np.frombuffer(self._bits, dtype=np.uint8)[chunks.start >> 3 : (stop + 7) >> 3]
        flags = np.unpackbits(part, count=stop - chunks.start, bitorder="little")
        absent: list[int] = (np.flatnonzero(flags == 0) + chunks.start).tolist()
        return absent

    def pages_with_absent(self) -> list[int]:
        """Ascending numbers of the pages of chunks that are not all present."""
        length = -(-self.chunk_count // 8)
        pages = -(-self.chunk_count // PAGE_CHUNKS)
        bits = np.full(pages * PAGE_CHUNKS // 8, 0xFF, dtype=np.uint8)
        bits[:length] = np.frombuffer(self._bits, dtype=np.uint8)[:length]
        if rest := self.chunk_count % 8:
            bits[length - 1] |= 0xFF & 0xFF << rest
        whole = (bits.reshape(pages, -1) == 0xFF).all(axis=1)
        numbers: list[int] = np.flatnonzero(~whole).tolist()
        return numbers

    def absent_bits(self, size_bytes: int) -> bytearray:
        """One bit for each chunk of a volume of this size, 1 where it is not present."""
        whole, rest = divmod(self.chunk_count, 8)
        absent = ~np.frombuffer(self._bits, dtype=np.uint8)[: whole + bool(rest)]
        if rest:
            absent[-1] &= (1 << rest) - 1
        # What is behind the snapshot's end is present.
        return bytearray(absent.tobytes().ljust(-(-chunk_count(size_bytes) // 8), b"\0"))

    def write(self, chunks: Collection[int]) -> None:
        """Write the bits of `chunks`, whose data is durable, and of all holes; durable on return.

        May run beside `mark_holes`. Raises NoSpaceError, OSError, and ReadOnlyError after an error.
        """
        if self._keeper is None:
            return
        if self._failed:
            raise ReadOnlyError(
                "an earlier change of the volume's present map failed",
                hint="check the storage, then close and open the volume again",
            )
        holes = list(self._unwritten)
        # Before the bits are copied: what is learned meanwhile is for the next call.
        self._unwritten.difference_update(holes)
        added: dict[int, bytearray] = {}
        for sector in holes:
            added[sector] = bytearray(SECTOR_BITMAP_BYTES)
        for chunk in chunks:
            sector, place = divmod(chunk, SECTOR_CHUNKS)
            bits = added.setdefault(sector, bytearray(SECTOR_BITMAP_BYTES))
            bits[place >> 3] |= 1 << (place & 7)
        if not added:
            return
        try:
            self._keeper.write(
                (sector, self._merged(sector, added[sector])) for sector in sorted(added)
            )
        except BaseException:
            # What of it is on disk is not known, and a later sync would not tell.
            self._failed = True
            raise

    def mark(self, chunks: Iterable[int]) -> None:
        """`chunks` are present from now on: `write` of them returned."""
        for chunk in chunks:
            if not self.has(chunk):
                self._bits[chunk >> 3] |= 1 << (chunk & 7)
                self.present_count += 1

    def mark_holes(self, first: int, holes: NDArray[np.bool_]) -> None:
        """Chunks from `first`, a multiple of 8, on are present where `holes` says so."""
        stop = min(first + len(holes), self.chunk_count)
        packed = np.packbits(holes[: stop - first], bitorder="little")
        part = np.frombuffer(self._bits, dtype=np.uint8)[first >> 3 : (stop + 7) >> 3]
        more = int(np.bitwise_count(packed & ~part).sum())
        if not more:
            return
        part |= packed
        self.present_count += more
        self._unwritten.update(range(first // SECTOR_CHUNKS, (stop - 1) // SECTOR_CHUNKS + 1))

    def finish(self) -> None:
        """Every chunk is marked: the map is not needed any more. Durable on return."""
        assert self.absent_count == 0, "internal error: chunks are absent"
        if self._keeper is not None and not self._failed:
            self._keeper.finish()

    def close(self) -> None:
        """May be called twice."""
        if self._keeper is not None:
            self._keeper.close()

    def _merged(self, sector: int, added: bytearray) -> bytes:
        start = sector * SECTOR_BITMAP_BYTES
        present = self._bits[start : start + SECTOR_BITMAP_BYTES]
        both = int.from_bytes(present, "little") | int.from_bytes(added, "little")
        return both.to_bytes(SECTOR_BITMAP_BYTES, "little")


def open_present_map(
    path: Path, *, volume_id: VolumeId, size_bytes: int, root: bytes
) -> PresentMap:
    """The map of the volume with that id, made from the snapshot with that root.

    Raises RecordMissingError when there is none, IntegrityError and FormatError when it is damaged
    or another's: then nobody knows what of the volume is there.
    """
    what = f"present map of volume {volume_id}"
    descriptor, header = open_checked(path, what, os.O_RDWR)
    keeper = PresentFile(descriptor, path, header)
    try:
        if (header.volume_id, header.size_bytes, header.root) != (volume_id, size_bytes, root):
            raise IntegrityError(f"{what}: it is of another volume or snapshot")
        bits = read_bits(descriptor, header, what=what)
    except BaseException:
        keeper.close()
        raise
    return PresentMap(header.chunk_count, bits=bits, keeper=keeper)


if TYPE_CHECKING:

    def _conformance(file: PresentFile) -> MapKeeper:
        return file
