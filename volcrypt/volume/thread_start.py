"""`in_thread`: trio's threads for who has to go on when the system starts no more of them."""

import errno
from collections.abc import Callable
from typing import TypeVar

import trio

Result = TypeVar("Result")


async def in_thread(
    work: Callable[[], Result],
    *,
    abandon_on_cancel: bool = False,
    limiter: trio.CapacityLimiter | None = None,
) -> Result:
    """As `trio.to_thread.run_sync`. Raises OSError (ENOMEM), too, where Python has a RuntimeError:
    memory or the number of threads is at an end, and somebody else may let go of some soon."""
    has_begun = False

    def begin() -> Result:
        nonlocal has_begun
        has_begun = True
        return work()

    try:
        return await trio.to_thread.run_sync(
            begin, abandon_on_cancel=abandon_on_cancel, limiter=limiter
        )
    except RuntimeError as error:
        if has_begun:
            raise
        raise OSError(errno.ENOMEM, "the system starts no more threads") from error
