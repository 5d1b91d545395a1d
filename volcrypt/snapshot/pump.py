"""Work on many chunks at once: one producer, a bounded channel, workers that each keep one buffer,
which lies on a page boundary, as direct I/O wants it.

The first failure cancels all, and is what the caller sees.
"""

import mmap
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Final, TypeVar

import trio

from volcrypt.geometry import CHUNK_BYTES, chunk_range

_LOOK_AHEAD: Final = 64
Item = TypeVar("Item")


async def in_thread(limiter: trio.CapacityLimiter, work: Callable[[], Item]) -> Item:
    return await trio.to_thread.run_sync(work, limiter=limiter)


async def pump(
    indexes: Iterable[int],
    work: Callable[[int, memoryview], Awaitable[None]],
    *,
    size_bytes: int,
    limiter: trio.CapacityLimiter,
    prepare: Callable[[int], Awaitable[None]] | None = None,
) -> int:
    """Do `work` for each chunk, with a buffer of the chunk's length; answers how many there were.

    `prepare` is called for each in order, before its work begins.
    """
    iterator = iter(indexes)
    count = 0
    workers = int(limiter.total_tokens)
    send, receive = trio.open_memory_channel[int](workers)
    with only_failure():
        async with trio.open_nursery() as nursery, send:
            for _ in range(workers):
                nursery.start_soon(_worker, receive.clone(), work, size_bytes)
            receive.close()
            # The iterator may read pages or look for data in a file: in a thread, ahead of need.
            while batch := await in_thread(limiter, lambda: list(islice(iterator, _LOOK_AHEAD))):
                for index in batch:
                    if prepare is not None:
                        await prepare(index)
                    await send.send(index)
                    count += 1
    return count


@contextmanager
def only_failure() -> Iterator[None]:
    """Around a nursery: of what failed in it, raise the one error that is to be reported."""
    try:
        yield
    except BaseExceptionGroup as group:
        failures = group.split(trio.Cancelled)[1]
        if failures is None:
            raise
        raise _first(failures) from None


async def _worker(
    receive: trio.MemoryReceiveChannel[int],
    work: Callable[[int, memoryview], Awaitable[None]],
    size_bytes: int,
) -> None:
    buffer = memoryview(mmap.mmap(-1, CHUNK_BYTES))
    async with receive:
        async for index in receive:
            await work(index, buffer[: chunk_range(index, size_bytes).length])


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The failure to report: the others are its consequences, or came a moment later."""
    failure: BaseException = group
    while isinstance(failure, BaseExceptionGroup):
        failure = failure.exceptions[0]
    return failure
