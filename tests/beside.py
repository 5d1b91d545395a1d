"""Work in a thread beside a test."""

import threading
from abc import ABC, abstractmethod
from typing import Self

_END_SECONDS = 60


class Beside(ABC):
    """Works from the beginning of the context to its end, which raises what went wrong."""

    def __init__(self) -> None:
        self._is_done = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run)

    @abstractmethod
    def _work(self) -> None:
        """Ends soon when `_is_done` is set."""

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as failure:
            self._failure = failure

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_done.set()
        self._thread.join(_END_SECONDS)
        assert not self._thread.is_alive()
        if self._failure is not None:
            raise self._failure
