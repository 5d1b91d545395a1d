"""How long work says how far it is; what is done with that is the caller's business."""

from typing import Final, Protocol


class Progress(Protocol):
    """Called with steps in order, and within a step with bytes that only grow."""

    def begin(self, step: str, total_bytes: int | None) -> None:
        """A step starts; None when its size is not known."""

    def advance(self, done_bytes: int) -> None:
        """So many bytes of the current step are done by now."""


class _Silent:
    def begin(self, step: str, total_bytes: int | None) -> None:
        pass

    def advance(self, done_bytes: int) -> None:
        pass


SILENT: Final[Progress] = _Silent()
"""For what is soon done."""


class ChunkCounter:
    """Turns what a transfer reports, chunk by chunk in any order, into bytes that grow."""

    def __init__(self, progress: Progress, *, done_bytes: int = 0) -> None:
        self._progress = progress
        self._done_bytes = done_bytes

    def __call__(self, _index: int, size_bytes: int) -> None:
        self._done_bytes += size_bytes
        self._progress.advance(self._done_bytes)


class BothProgress:
    """Tells two."""

    def __init__(self, one: Progress, other: Progress) -> None:
        self._one, self._other = one, other

    def begin(self, step: str, total_bytes: int | None) -> None:
        self._one.begin(step, total_bytes)
        self._other.begin(step, total_bytes)

    def advance(self, done_bytes: int) -> None:
        self._one.advance(done_bytes)
        self._other.advance(done_bytes)


class JoinedProgress:
    """Several that go on beside each other, as one step of one progress; each begins once."""

    def __init__(self, progress: Progress, count: int, *, step: str) -> None:
        """`step` names more than one, given their number."""
        self._progress = progress
        self._count = count
        self._step = step
        self._totals: dict[str, int] = {}
        self._done: dict[str, int] = {}

    def part(self, key: str) -> Progress:
        """The progress of one of them."""
        return _Part(self, key)

    def begin(self, key: str, step: str, total_bytes: int | None) -> None:
        self._totals[key] = total_bytes or 0
        if len(self._totals) == self._count:
            step = step if self._count == 1 else self._step.format(self._count)
            self._progress.begin(step, sum(self._totals.values()))

    def advance(self, key: str, done_bytes: int) -> None:
        self._done[key] = done_bytes
        self._progress.advance(sum(self._done.values()))


class _Part:
    def __init__(self, whole: JoinedProgress, key: str) -> None:
        self._whole, self._key = whole, key

    def begin(self, step: str, total_bytes: int | None) -> None:
        self._whole.begin(self._key, step, total_bytes)

    def advance(self, done_bytes: int) -> None:
        self._whole.advance(self._key, done_bytes)
