"""What has to be done before a chunk may be written now. Pure: tables, no I/O, no lock.

Theory of operation. A chunk may be read or written when nothing stands against it. Conditions are
independent of each other: each has a table of its own, and whoever serves a request sees to them
one after the other, then looks at all of them again.

    condition   read  write  what the request does about it
    held        yes   no     waits: a set of captures begins, and all writers of this volume pause
    captured    yes   no     first keeps the chunk's bytes for the snapshot (`preserve`)

*Captured* is every chunk of a running capture that was not released since. A chunk is released
when the snapshot has read it, does not need it, or can find its old bytes elsewhere, and it is
never captured again by the same capture: a table of bits in which nothing is ever cleared. Each
capture begins with a new table, which costs nothing: memory is taken where bits are set.

All calls come from one thread (the loop of the process that serves the volume); waiting, and
waking those who wait, is `device`'s business.
"""

from collections.abc import Iterator

from volcrypt.chunk_set import ChunkSet
from volcrypt.geometry import chunk_count


class ChunkConditions:
    """The conditions of all chunks of one volume; there are none at first.

    `is_free`: no condition stands against any chunk, as nearly always; `is_held`: all writes wait.
    """

    def __init__(self) -> None:
        self.is_free = True
        self.is_held = False
        self._released: ChunkSet | None = None

    def may_write(self, chunks: range) -> bool:
        return self.is_free or (not self.is_held and not any(map(self.is_captured, chunks)))

    def is_captured(self, chunk: int) -> bool:
        """Whether a running capture still needs the bytes of `chunk`."""
        released = self._released
        # A chunk behind its end came with a growth.
        return released is not None and chunk < released.chunk_count and chunk not in released

    def begin_capture(self, size_bytes: int, *, hold: bool) -> None:
        """All chunks of a volume of this size are captured; with `hold` all writes wait."""
        assert self._released is None, "internal error: a capture is running"
        self._released = ChunkSet(chunk_count(size_bytes))
        self.is_held = hold
        self.is_free = False

    def resume(self) -> None:
        """Writes do not wait any more for the others of a set."""
        self.is_held = False

    def release(self, chunks: range) -> None:
        """The capture does not need `chunks` any more; no capture runs: does nothing."""
        if self._released is not None:
            self._released.add_run(chunks)

    def release_unwanted(self, wanted: bytes) -> Iterator[None]:
        """`release` of what is clear in `wanted`; in steps, see `ChunkSet.add_others`."""
        if self._released is not None:
            yield from self._released.add_others(wanted)

    def end_capture(self) -> None:
        """Nothing is captured or held any more."""
        self._released = None
        self.is_held = False
        self.is_free = True
