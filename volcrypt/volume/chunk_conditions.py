"""Who may serve a chunk now. Pure: one byte a chunk, a table of legal changes, no I/O, no lock.

Theory of operation. Every chunk has exactly one owner, and whoever serves a request asks here
first. ENGINE is the Python path and the state of rest: a chunk is *taken* from the engine by
somebody who needs it to keep still, and *given back* to it. No chunk passes from one taker to
another, so two takers never have to agree on an order; the one who comes second waits until the
engine has the chunk again. What the Python path may do with a chunk that is taken:

    owner       read  write  why
    ENGINE      yes   yes    nobody else is concerned
    PLANE       no    no     compiled threads serve it; it must be given back first
    CAPTURE     yes   no     a snapshot is storing it: its bytes must not change until they are
    FETCH       no    no     its bytes are not here yet
    MIGRATION   yes   no     it is on its way to the other data file

Everything that affects an owner is in this module. All calls come from one thread (the loop of
the process that serves the volume); waiting, and waking those who wait, is `device`'s business.
The array is shared with compiled threads only through functions of theirs that change it
atomically; nothing here may run on a chunk that they can change at the same time.
"""

from enum import IntEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray


class Owner(IntEnum):
    """The byte of a chunk."""

    ENGINE = 0
    PLANE = 1
    CAPTURE = 2
    FETCH = 3
    MIGRATION = 4


LEGAL_CHANGES: Final = frozenset(
    (before, after)
    for before in Owner
    for after in Owner
    if (before is Owner.ENGINE) != (after is Owner.ENGINE)
)
"""(owner before, owner after): always between the engine and one taker."""

READABLE: Final = frozenset({Owner.ENGINE, Owner.CAPTURE, Owner.MIGRATION})
WRITABLE: Final = frozenset({Owner.ENGINE})


class ChunkOwnership:
    """The owners of all chunks of one volume; all belong to the engine at first."""

    def __init__(self, chunk_count: int) -> None:
        self._set(np.zeros(chunk_count, dtype=np.uint8))

    @property
    def chunk_count(self) -> int:
        return len(self._owners)

    def grow(self, chunk_count: int) -> None:
        """There are more chunks, which belong to the engine."""
        more = np.zeros(chunk_count - self.chunk_count, dtype=np.uint8)
        self._set(np.concatenate([self._owners, more]))

    def owner_of(self, chunk: int) -> Owner:
        return Owner(self._bytes[chunk])

    def take(self, chunks: range, owner: Owner) -> None:
        """Give `chunks`, which the engine owns, to `owner`; all or (RuntimeError) none."""
        part = self._part(chunks)
        for holder in Owner:
            if (holder, owner) not in LEGAL_CHANGES and (part == holder).any():
                raise RuntimeError(f"internal error: {owner.name} takes chunks of {holder.name}")
        part[:] = owner

    def take_all(self, owner: Owner) -> None:
        """`take` of every chunk."""
        self.take(range(self.chunk_count), owner)

    def give_back(self, chunks: range) -> None:
        """`chunks` belong to the engine again; those that do already are left alone."""
        self._part(chunks)[:] = Owner.ENGINE

    def give_back_all(self, owner: Owner) -> None:
        """Everything that `owner` still holds belongs to the engine again."""
        self._owners[self._owners == owner] = Owner.ENGINE

    def may_read(self, chunks: range) -> bool:
        """Whether the Python path may serve a read of all of `chunks` now."""
        return all(self._bytes[chunk] in READABLE for chunk in chunks)

    def may_write(self, chunks: range) -> bool:
        """Whether the Python path may serve a write to all of `chunks` now."""
        return all(self._bytes[chunk] in WRITABLE for chunk in chunks)

    def _set(self, owners: NDArray[np.uint8]) -> None:
        self._owners = owners
        # Indexing a memoryview gives an int several times faster than indexing the array.
        self._bytes = memoryview(owners.data)

    def _part(self, chunks: range) -> NDArray[np.uint8]:
        assert chunks.step == 1, "internal error: chunks are a run"
        assert 0 <= chunks.start <= chunks.stop <= self.chunk_count, "internal error: no such chunk"
        return self._owners[chunks.start : chunks.stop]
