"""Acknowledged: objects that a service says it stored, until somebody has asked whether it has.

An answer is no proof: a cache, a gateway or a full disk behind it may have lost the object. Asking
costs one request without a body for each, many of them at once. It shows that there is an object of
the length that was put; that its bytes are right too is what `snapshot.verify` finds out.
"""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from volcrypt.errors import ObjectLostError

_ASKED_AT_ONCE: Final = 64
"""They carry next to nothing, so more than chunks at once."""


class Acknowledged:
    """Names and lengths. Safe for several threads at once."""

    def __init__(self, location: str) -> None:
        self._location = location
        self._lock = threading.Lock()
        self._checking = threading.Lock()
        self._lengths: dict[str, int] = {}

    def add(self, name: str, length: int) -> None:
        with self._lock:
            self._lengths[name] = length

    def forget(self, name: str) -> None:
        """It was deleted."""
        with self._lock:
            self._lengths.pop(name, None)

    def check(self, length_of: Callable[[str], int | None]) -> None:
        """Ask for all that were added since the last check that succeeded.

        `length_of` is called in several threads: None for what is not there. Raises ObjectLostError
        for the first, by name, that is not as it should be, and what `length_of` raises.
        """
        # One at a time: nobody may take what another is still asking for as found.
        with self._checking:
            with self._lock:
                lengths, self._lengths = self._lengths, {}
            try:
                self._check(sorted(lengths), lengths, length_of)
            except BaseException:
                with self._lock:
                    self._lengths = lengths | self._lengths
                raise

    def _check(
        self, names: list[str], lengths: dict[str, int], length_of: Callable[[str], int | None]
    ) -> None:
        if not names:
            return
        pool = ThreadPoolExecutor(min(_ASKED_AT_ONCE, len(names)))
        try:
            for name, length in zip(names, pool.map(length_of, names), strict=True):
                if length != lengths[name]:
                    raise ObjectLostError(self._location, name, length)
        finally:
            pool.shutdown(cancel_futures=True)
