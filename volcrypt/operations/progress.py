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
