"""How long work says how far it is; what is done with that is the caller's business."""

from typing import Protocol


class Progress(Protocol):
    """Called with steps in order, and within a step with bytes that only grow."""

    def begin(self, step: str, total_bytes: int | None) -> None:
        """A step starts; None when its size is not known."""

    def advance(self, done_bytes: int) -> None:
        """So many bytes of the current step are done by now."""


class Silent:
    """Nobody watches."""

    def begin(self, step: str, total_bytes: int | None) -> None:
        pass

    def advance(self, done_bytes: int) -> None:
        pass
