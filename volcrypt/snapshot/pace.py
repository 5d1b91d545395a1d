"""Pace: how fast work that nobody waits for may move data.

A token bucket. What is moved in any time is at most `rate` bytes a second, one second's worth that
was saved up by a pause, and one request more: a request waits until the ones before it are paid
for, and not for itself, so that one larger than the bucket gets through as well.
"""

from collections.abc import Callable
from typing import Final

import trio

from volcrypt.errors import InvalidArgumentError
from volcrypt.geometry import parse_size

_SAVED_SECONDS: Final = 1.0


class Bucket:
    """Says when requests may go on. Pure: the time, in seconds from any beginning, is an argument.

    One at a time: `take` belongs to one thread.
    """

    def __init__(self, rate: int) -> None:
        """`rate` is in bytes a second, more than 0."""
        assert rate > 0, "internal error: a bucket that nothing gets out of"
        self.rate: Final = rate
        self._paid_at: float | None = None

    def take(self, size_bytes: int, *, now: float) -> float:
        """Take so many bytes; answers for how many seconds to wait before moving them."""
        earliest = now - _SAVED_SECONDS
        paid_at = earliest if self._paid_at is None else max(self._paid_at, earliest)
        self._paid_at = paid_at + size_bytes / self.rate
        return max(0.0, paid_at - now)


class Pace:
    """A bucket that several tasks of one trio loop share; without a rate nobody waits."""

    def __init__(self, rate: int | None, *, clock: Callable[[], float] = trio.current_time) -> None:
        """`rate` is in bytes a second, None for as fast as it goes."""
        self._bucket = None if rate is None else Bucket(rate)
        self._clock = clock

    @property
    def rate(self) -> int | None:
        return None if self._bucket is None else self._bucket.rate

    async def wait(self, size_bytes: int) -> None:
        """To be awaited before `size_bytes` are moved. A checkpoint only where it has to wait."""
        if self._bucket is None:
            return
        seconds = self._bucket.take(size_bytes, now=self._clock())
        if seconds > 0:
            await trio.sleep(seconds)


def parse_rate(text: str) -> int:
    """Bytes a second from `50MiB`, `50MiB/s`, `500K`. Raises InvalidArgumentError."""
    try:
        rate = parse_size(text.removesuffix("/s"))
    except InvalidArgumentError as error:
        raise InvalidArgumentError(f"{text!r} is not a rate", hint="write it like 50MiB") from error
    if rate <= 0:
        raise InvalidArgumentError("a rate must be more than nothing")
    return rate
