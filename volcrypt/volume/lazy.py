"""LazyChunks: the chunks of a volume that are still in a snapshot, fetched when they are touched.

It knows trio, which chunks are where, and in what order things become durable; it does not know
snapshots or keys: an `Origin` gives ciphertext as the volume's own storage is to have it, checked.

What may be done with a chunk:

    absent      nothing; whoever touches it has it fetched first, all at once by one fetch
    fetched     read: its data is in the data file, though perhaps not on the medium
    present     read and write: its data, and then its bit, are durable (`volume.present`)

A fetch gets the chunk, checked by its digest, into a buffer, and only whole and right does it go
into the data file; so what cannot be had is an error for who asked for it, never zeros and never
unchecked bytes, and the next touch tries again. Nobody else touches the bytes of an absent chunk,
so a fetch needs no range lock. A hole of the snapshot is present as soon as that is known. Who is
about to replace all of a chunk need not have it fetched: that takes the place of a fetch.

Group commit. Whoever wants to write waits for one lock; its holder makes all that was fetched
durable, so of many who wait the first does the work of all.

Filling fetches what is absent in order, and ends with the last chunk. It waits while the store is
away, longer each time, and goes around chunks that are damaged, to come back to them. Those who
touch never wait for it.

The end. Fetches under way are given up: who waits for a store that hangs must not keep a volume
from being closed. What the store sends later is thrown away.
"""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, Protocol

import trio

from volcrypt.errors import IntegrityError, MountError, VolcryptError
from volcrypt.formats.pages import page_range
from volcrypt.geometry import CHUNK_BYTES, chunk_count, chunk_range
from volcrypt.volume.chunk_fetcher import ChunkFetcher, ChunkFile, Origin
from volcrypt.volume.present import PresentMap

FIRST_PAUSE_SECONDS: Final = 1.0
LONGEST_PAUSE_SECONDS: Final = 60.0
COMMIT_CHUNKS: Final = 128
"""So many fetched chunks (64 MiB) are made durable together by the filling."""


class Rate(Protocol):
    """Holds back the filling; `snapshot.pace.Pace` has it."""

    async def wait(self, size_bytes: int) -> None: ...


class LazyChunks:
    def __init__(
        self,
        origin: Origin,
        present: PresentMap,
        *,
        size_bytes: int,
        data: ChunkFile,
        sync: Callable[[], None],
        in_flight: int,
    ) -> None:
        """`size_bytes` is the snapshot's; `sync` makes what was written to `data` durable;
        `in_flight` fetches at once make good use of the origin."""
        assert present.chunk_count == chunk_count(size_bytes), "internal error: another map"
        self._present = present
        self._size_bytes = size_bytes
        self._sync = sync
        self._commit_lock = trio.Lock()
        self._touches = trio.CapacityLimiter(in_flight)
        self._fills = trio.CapacityLimiter(max(1, in_flight // 4))
        self._closed = False
        self.before_write: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint
        """Waits until it may be written, or raises why it will not be."""
        self._fetcher = ChunkFetcher(
            origin,
            present,
            size_bytes=size_bytes,
            data=data,
            before_write=lambda: self.before_write(),
        )

    @property
    def chunk_count(self) -> int:
        """Of the snapshot."""
        return self._present.chunk_count

    @property
    def present_count(self) -> int:
        """Chunks that may be read at once."""
        return self._present.present_count + len(self._fetcher.fetched)

    @property
    def problem(self) -> str | None:
        """Why something cannot be had: what came up last of that which has not come since."""
        return self._fetcher.problem

    @property
    def last_error(self) -> VolcryptError | None:
        """Why the last fetch failed; None after one that did not."""
        return self._fetcher.last_error

    @property
    def is_complete(self) -> bool:
        """Whether every chunk is present, and this is not needed any more."""
        return self._present.absent_count == 0

    def may_read(self, chunks: range) -> bool:
        """Whether all of `chunks` can be read now."""
        return all(self._fetcher.has(chunk) for chunk in chunks)

    def may_write(self, chunks: range) -> bool:
        """Whether all of `chunks` can be written now."""
        return all(self._present.has(chunk) for chunk in chunks)

    def absent_bits(self, size_bytes: int) -> bytes:
        """One bit for each chunk of a volume of this size, as `ChunkSet.packed` has them: 1 where
        the chunk has to be fetched, or may turn out to be a hole."""
        bits = self._present.absent_bits(size_bytes)
        for chunk in self._fetcher.fetched:
            bits[chunk >> 3] &= ~(1 << (chunk & 7))
        return bytes(bits)

    async def make_readable(self, chunks: range) -> None:
        """Fetch what of `chunks` is absent. Raises why one of them cannot be had."""
        missing = [chunk for chunk in chunks if not self._fetcher.has(chunk)]
        errors: list[VolcryptError | OSError] = []

        async def fetch(chunk: int) -> None:
            try:
                await self._fetcher.fetch(chunk, self._touches)
            except (VolcryptError, OSError) as error:
                errors.append(error)

        if len(missing) == 1:
            await self._fetcher.fetch(missing[0], self._touches)
        elif missing:
            async with trio.open_nursery() as nursery:
                for chunk in missing[1:]:
                    nursery.start_soon(fetch, chunk)
                await fetch(missing[0])
        if errors:
            raise errors[0]

    async def make_writable(self, chunks: range) -> None:
        """Fetch what is absent, and make it durable with its bits. Raises as `make_readable`, and
        what keeps it from being durable."""
        await self.make_readable(chunks)
        while not self.may_write(chunks):
            await self._commit(chunks)

    async def replace(self, chunks: range, work: Callable[[int], None]) -> None:
        """Have `work` give what is absent of `chunks` new content, each in a thread, instead of
        fetching it; it is present then, durably. What is being fetched is left alone: nobody who
        holds a range waits for a store.

        Raises what `work` raises, and what keeps it from being durable; what is not is absent.
        """
        replaced: list[int] = []
        try:
            for chunk in chunks:
                if await self._fetcher.replace(chunk, work):
                    replaced.append(chunk)  # noqa: PERF401 - known also when a later one fails
            for chunk in replaced:
                while not self.may_write(range(chunk, chunk + 1)):
                    await self._commit(range(chunk, chunk + 1))
        finally:
            self._fetcher.fetched.difference_update(replaced)

    async def fill(self, rate: Rate) -> None:
        """Fetch all that is absent, in order; returns when every chunk is present, durably, or
        when this was closed.

        Waits and tries again as long as something cannot be had. Raises OSError, and what else
        keeps it from being kept.
        """
        pause = FIRST_PAUSE_SECONDS
        while not self.is_complete:
            before = self.present_count
            error = await self._fetch_absent(rate, self._fills, go_around=True)
            if self._fetcher.ended is not None:
                return
            await self._commit()
            if error is None:
                continue
            if isinstance(error, OSError):
                raise error
            pause = FIRST_PAUSE_SECONDS if self.present_count > before else pause
            await trio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
        async with self._commit_lock:
            if not self._closed:
                await trio.to_thread.run_sync(self._present.finish)

    async def fetch_all(self, progress: Callable[[int, int], None]) -> None:
        """Fetch all that is absent, now; returns when every chunk is present, durably.

        `progress` is called with the bytes that were fetched, and those that are to be, holes among
        them. Raises why a chunk cannot be had, or kept.
        """
        await self._fetcher.learn_table(self._touches)
        error = await self._fetch_and_keep(progress, go_around=False)
        if error is not None:
            raise error
        await trio.to_thread.run_sync(self._present.finish)

    async def fetch_possible(self, progress: Callable[[int, int], None]) -> dict[int, str]:
        """As `fetch_all`, but what cannot be had, one chunk or all of them, does not end it: which
        chunks are still absent, ascending, each with a reason. Raises OSError, and why what was
        fetched cannot be kept."""
        error = await self._fetch_and_keep(progress, go_around=True)
        if error is None:
            await trio.to_thread.run_sync(self._present.finish)
        elif not isinstance(error, VolcryptError):
            raise error
        return {
            chunk: self._fetcher.reason(chunk) or str(error)
            for page in self._present.pages_with_absent()
            for chunk in self._present.absent_in(page_range(page, self._size_bytes))
        }

    async def _fetch_and_keep(
        self, progress: Callable[[int, int], None], *, go_around: bool
    ) -> VolcryptError | OSError | None:
        """`_fetch_absent` with what is counted for `progress`; what was fetched is kept, durably.
        Raises why it cannot be kept."""
        total, done = self._present.absent_count, 0
        progress(0, total * CHUNK_BYTES)

        def count() -> None:
            nonlocal done
            done += 1
            progress(done * CHUNK_BYTES, total * CHUNK_BYTES)

        error = await self._fetch_absent(
            _Unlimited(), self._touches, go_around=go_around, progress=count
        )
        await self._commit()
        return error

    async def close(self, reason: VolcryptError | None = None) -> None:
        """Give up what is being fetched, and keep what was; nothing is fetched from now on, for
        this `reason`. May be called twice."""
        await self._fetcher.end(reason or MountError("the volume is being unmounted"))
        # What is not kept is fetched again.
        with suppress(VolcryptError, OSError):
            await self._commit()
        async with self._commit_lock:
            if not self._closed and self.is_complete:
                with suppress(VolcryptError, OSError):
                    await trio.to_thread.run_sync(self._present.finish)
            self._closed = True
            self._present.close()

    # ------------------------------------------------------------ fetching

    # ------------------------------------------------------------ durability

    async def _commit(self, chunks: range | None = None) -> None:
        """Make all that was fetched by now durable, and what is known of holes; unless `chunks` are
        given, and somebody else just did it for these."""
        async with self._commit_lock:
            if chunks is not None and self.may_write(chunks):
                return
            if self._closed:
                assert self._fetcher.ended is not None, "internal error: closed without a reason"
                raise self._fetcher.ended
            batch = sorted(self._fetcher.fetched)
            await trio.to_thread.run_sync(self._keep, batch)
            self._present.mark(batch)
            self._fetcher.fetched.difference_update(batch)

    def _keep(self, batch: list[int]) -> None:
        if batch:
            self._sync()
        self._present.write(batch)

    # ------------------------------------------------------------ all of them

    async def _fetch_absent(
        self,
        rate: Rate,
        limiter: trio.CapacityLimiter,
        *,
        go_around: bool,
        progress: Callable[[], None] | None = None,
    ) -> VolcryptError | OSError | None:
        """Fetch all that is absent, once; the first error that was met.

        `go_around`: damage keeps only that chunk, or page, from being fetched; else, and with any
        other error, nothing more is begun.
        """
        errors: list[VolcryptError | OSError] = []
        stopped = False

        def note(error: VolcryptError | OSError) -> None:
            nonlocal stopped
            errors.append(error)
            stopped = stopped or not (go_around and isinstance(error, IntegrityError))

        async def work(chunks: trio.MemoryReceiveChannel[int]) -> None:
            async with chunks:
                async for chunk in chunks:
                    try:
                        await rate.wait(chunk_range(chunk, self._size_bytes).length)
                        if not stopped:
                            await self._fetcher.fetch(chunk, limiter)
                            if len(self._fetcher.fetched) >= COMMIT_CHUNKS:
                                await self._commit()
                    except (VolcryptError, OSError) as error:
                        note(error)
                    if progress is not None:
                        progress()

        send, receive = trio.open_memory_channel[int](0)
        async with trio.open_nursery() as nursery:
            for _ in range(int(limiter.total_tokens)):
                nursery.start_soon(work, receive.clone())
            receive.close()
            async with send:
                try:
                    await self._fetcher.learn_table(limiter)
                except (VolcryptError, OSError) as error:
                    note(error)
                    return error
                for page in self._present.pages_with_absent():
                    try:
                        await self._fetcher.learn(page, limiter)
                    except (VolcryptError, OSError) as error:
                        note(error)
                        if stopped:
                            break
                        continue
                    for chunk in self._present.absent_in(page_range(page, self._size_bytes)):
                        if stopped:
                            break
                        if chunk not in self._fetcher.fetched:
                            await send.send(chunk)
        return errors[0] if errors else None


class _Unlimited:
    async def wait(self, size_bytes: int) -> None:
        pass
