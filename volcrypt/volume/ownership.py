"""Ownership: which chunks the compiled data plane may serve, and how they are taken back.

It knows the data plane's grants and the range lock; it does not know requests or conditions.

    granted     the plane reads, or reads and writes, whole units of the chunk by itself
    taken       requests of Python's are at work on it, and the plane keeps away: from all of it
                while one of them writes, from writing while they read

A chunk that is neither is nobody's: the next request for it comes to Python, which takes it, serves
the request, gives it back, and then grants what nothing stands against.

*Taking* revokes the grant. What the plane is at in the chunk just then is *adopted*: it counts in
the range lock as held, until the plane says that it is over. So whoever wants these bytes waits for
it as for any other request, a barrier counts it among the writes under way, and who must see
nothing under way holds everything, as always. Nothing blocks, and nobody waits here.

Why that is enough. Revoking and beginning happen under one mutex of the plane (`plane.h`), so what
it does with a chunk either began before, and is adopted before the taker's next step, or never
begins. Granting happens on the loop's thread, at the end of the last request of Python's on the
chunk, and only when nobody holds or awaits a range in it. Hence a request of the plane's and a
conflicting one of Python's never overlap; among themselves the plane's lanes keep apart, and so do
Python's requests, by the range lock.

A right to write is given only for a chunk that is marked in the current generation of the change
map, and all such rights end with the barrier that begins another one. The plane spends from a
*budget* for what it encrypts, which is counted before it is given.

All calls come from the loop's thread, except `refuse_writes`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import trio
from typing_extensions import Buffer

from volcrypt.crypto.data_key import DataKey
from volcrypt.geometry import ByteRange
from volcrypt.volume.lease_time import whole_nanoseconds
from volcrypt.volume.plane.door import READ, WRITE, Work
from volcrypt.volume.range_lock import RangeLock

if TYPE_CHECKING:
    from volcrypt.volume.plane.door import Plane

BUDGET_STEP_BYTES: Final = 64 * 2**20
UNLIMITED_BYTES: Final = 2**62


class FastPlane(Protocol):
    """What this needs of the data plane; `Plane` has it."""

    def grant(self, chunk: int, rights: int) -> None: ...
    def revoke(self, chunks: range, rights: int) -> list[Work]: ...
    def revoke_all(self, rights: int) -> list[Work]: ...
    def is_over(self, work: Work) -> bool: ...
    def refuse_writes(self) -> None: ...
    def write_until(self, nanoseconds: int) -> None: ...
    def switch(self, data: int, key: Buffer | None) -> None: ...
    def fence(self) -> None: ...
    def give_up(self) -> None: ...
    def set_size(self, size_bytes: int) -> None: ...
    def add_budget(self, size_bytes: int) -> int: ...


class BudgetKeeper(Protocol):
    """Who counts what is encrypted; `WriteCounter` does."""

    def spend(self, size_bytes: int) -> None: ...
    def give_back(self, size_bytes: int) -> None: ...


@dataclass(frozen=True, slots=True)
class PlaneData:
    """What a data plane serves: a file, the key that it is encrypted under (None: it is not), and
    who counts what is encrypted."""

    descriptor: int
    key: DataKey | None
    budget: BudgetKeeper | None


class Ownership:
    def __init__(
        self,
        plane: FastPlane,
        ranges: RangeLock,
        *,
        permitted: Callable[[int, bool], bool],
        budget: BudgetKeeper | None,
    ) -> None:
        """`permitted` says whether nothing stands against reading, or writing (True), a chunk;
        without a `budget` nobody counts."""
        self._plane = plane
        self._ranges = ranges
        self._permitted = permitted
        self._budget = budget
        self._takers: dict[int, int] = {}
        self._writers: dict[int, int] = {}
        self._adopted: dict[Work, Callable[[], None]] = {}
        self._over = trio.Event()
        if budget is None:
            plane.add_budget(UNLIMITED_BYTES)

    def take(self, chunks: range, *, exclusive: bool) -> None:
        """A request of Python's begins on `chunks`; `exclusive`: it writes. To be given back."""
        for chunk in chunks:
            self._takers[chunk] = self._takers.get(chunk, 0) + 1
            if exclusive:
                self._writers[chunk] = self._writers.get(chunk, 0) + 1
        self._adopt(self._plane.revoke(chunks, READ | WRITE if exclusive else WRITE))

    def give_back(self, chunks: range, *, exclusive: bool, grants: bool = True) -> None:
        """It has ended; what nothing stands against is granted, unless not `grants`: nobody is
        expected there soon, or they are too many."""
        if exclusive:
            self._top_up()
        for chunk in chunks:
            _count_down(self._takers, chunk)
            if exclusive:
                _count_down(self._writers, chunk)
            if not grants or chunk in self._writers or not self._permitted(chunk, False):
                continue
            may_write = chunk not in self._takers and self._permitted(chunk, True)
            self._plane.grant(chunk, READ | WRITE if may_write else READ)

    def take_writes(self) -> None:
        """The plane writes nothing before something is granted again."""
        self._adopt(self._plane.revoke_all(WRITE))

    def take_writes_to(self, chunks: range) -> None:
        """The plane writes nothing to `chunks` before that is granted again."""
        self._adopt(self._plane.revoke(chunks, WRITE))

    def take_all(self) -> None:
        """The plane does nothing before something is granted again."""
        self._adopt(self._plane.revoke_all(READ | WRITE))

    def fence(self) -> None:
        """The plane does nothing any more."""
        self._plane.fence()
        self.take_all()

    def give_up(self) -> None:
        """Behind a fence: answer what the medium keeps. It stays adopted."""
        self._plane.give_up()

    async def idle(self) -> None:
        """Wait until all that was adopted is over."""
        while self._adopted:
            self._over = trio.Event()
            await self._over.wait()

    def refuse_writes(self) -> None:
        """The plane writes nothing any more; from any thread."""
        self._plane.refuse_writes()

    def write_until(self, boot_seconds: float) -> None:
        """The plane begins no write then or later (`volcrypt.volume.lease_time`)."""
        self._plane.write_until(whole_nanoseconds(boot_seconds))

    def set_size(self, size_bytes: int) -> None:
        self._plane.set_size(size_bytes)

    def serve(self, data: PlaneData) -> None:
        """The plane serves another file, under another key, from now on. Everything was taken, and
        is over. Raises OSError, with nothing changed."""
        self._plane.switch(data.descriptor, None if data.key is None else data.key.view())
        self._end_budget()
        self._budget = data.budget
        if data.budget is None:
            self._plane.add_budget(UNLIMITED_BYTES)

    def reap(self) -> None:
        """Let go of what was adopted and is over."""
        for work in [work for work in self._adopted if self._plane.is_over(work)]:
            self._adopted.pop(work)()
        if not self._adopted:
            self._over.set()

    def close(self) -> None:
        """Give back what of the budget was not used; nothing is written fast any more."""
        self._plane.refuse_writes()
        self._end_budget()

    def _adopt(self, works: list[Work]) -> None:
        for work in works:
            if work not in self._adopted:
                extent = ByteRange(work.offset, work.size)
                self._adopted[work] = self._ranges.adopt(extent, exclusive=work.is_write)

    def _end_budget(self) -> None:
        left = self._plane.add_budget(0)
        self._plane.add_budget(-left)
        if self._budget is not None:
            self._budget.give_back(left)

    def _top_up(self) -> None:
        if self._budget is not None and self._plane.add_budget(0) < BUDGET_STEP_BYTES // 2:
            self._budget.spend(BUDGET_STEP_BYTES)
            self._plane.add_budget(BUDGET_STEP_BYTES)


def _count_down(counts: dict[int, int], chunk: int) -> None:
    counts[chunk] -= 1
    if not counts[chunk]:
        del counts[chunk]


if TYPE_CHECKING:

    def _conformance(plane: Plane) -> FastPlane:
        return plane
