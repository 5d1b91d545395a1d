"""The one thread that works for all connections, and the queue in front of it.

HSM, catalogue and audit log take one request at a time, so more threads would only wait for each
other. Connections live on the event loop and put their work into a bounded queue; the thread takes
all that waits, up to `MAX_BATCH`, and has it carried out with one sync of the audit log (group
commit). Its answers go back to the loop in one hop. When the queue is full, more work is refused at
once: back-pressure instead of memory.

Only the loop's thread calls `submit`, `perform` and `run`; they return asyncio futures.
"""

import asyncio
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Final, TypeVar

from volcrypt.errors import KmsInternalError, ThrottlingError, VolcryptError
from volcrypt.kms.messages.base import Response
from volcrypt.wire.backend import Backend, Call

T = TypeVar("T")
MAX_BATCH: Final = 64
MAX_WAITING: Final = 1024


Job = Call | Callable[[], Any]
_Waiting = tuple[Job, "asyncio.Future[Any]"]


class Engine:
    """Runs from `start` to `stop`."""

    def __init__(
        self,
        backend: Backend,
        *,
        report: Callable[[Exception], None],
        max_waiting: int = MAX_WAITING,
    ) -> None:
        """`report` is told of bugs; what a caller is told says nothing of them."""
        self._backend = backend
        self._report = report
        self._max_waiting = max_waiting
        self._waiting_count = 0
        self._queue: SimpleQueue[_Waiting | None] = SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._work, name="kms-engine", daemon=True)

    def start(self) -> None:
        """On the loop's thread."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    async def stop(self) -> None:
        """Finish what waits, and end."""
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    def submit(self, job: Job) -> "asyncio.Future[Any]":
        """Raises ThrottlingError when too much waits already."""
        if self._waiting_count >= self._max_waiting:
            raise ThrottlingError("Rate exceeded")
        return self._put(job)

    def perform(self, call: Call) -> "asyncio.Future[Response]":
        """Raises ThrottlingError; the future gives the response or the error."""
        return self.submit(call)

    def run(self, work: Callable[[], T]) -> "asyncio.Future[T]":
        """Something else that needs the KMS, in its turn, whatever waits."""
        return self._put(work)

    def _put(self, job: Job) -> "asyncio.Future[Any]":
        assert self._loop is not None, "internal error: the engine was not started"
        future: asyncio.Future[Any] = self._loop.create_future()
        self._waiting_count += 1
        self._queue.put((job, future))
        return future

    def _work(self) -> None:
        assert self._loop is not None, "internal error: the engine was not started"
        stopping = False
        while not stopping:
            batch: list[_Waiting] = []
            item = self._queue.get()
            while item is not None:
                batch.append(item)
                if len(batch) == MAX_BATCH or self._queue.empty():
                    break
                item = self._queue.get()
            stopping = item is None
            results = self._results([job for job, _ in batch])
            futures = [future for _, future in batch]
            self._loop.call_soon_threadsafe(self._deliver, futures, results)

    def _deliver(self, futures: list["asyncio.Future[Any]"], results: list[Any]) -> None:
        self._waiting_count -= len(futures)
        for future, result in zip(futures, results, strict=True):
            if future.cancelled():
                continue
            if isinstance(result, VolcryptError):
                future.set_exception(result)
            else:
                future.set_result(result)

    def _results(self, jobs: list[Job]) -> list[Any]:
        """In the order of the jobs; neighbouring calls are carried out together."""
        results: list[Any] = []
        calls: list[Call] = []
        for job in jobs:
            if isinstance(job, Call):
                calls.append(job)
                continue
            results += self._perform(calls)
            calls = []
            results.append(self._guarded(job))
        return results + self._perform(calls)

    def _perform(self, calls: list[Call]) -> list[Any]:
        if not calls:
            return []
        refused = [self._guarded(call.check) for call in calls]
        allowed = [call for call, error in zip(calls, refused, strict=True) if error is None]
        done = self._guarded(lambda: self._backend.perform_all(allowed)) if allowed else []
        if isinstance(done, VolcryptError):
            done = [done] * len(allowed)
        for result in done:
            self._report_bug_in(result)
        answers = iter(done)
        return [error if error is not None else next(answers) for error in refused]

    def _report_bug_in(self, result: object) -> None:
        """A request that met a bug was answered like any fault; here it is told apart."""
        cause = result.__cause__ if isinstance(result, KmsInternalError) else None
        if isinstance(cause, Exception) and not isinstance(cause, VolcryptError | OSError):
            self._report(cause)

    def _guarded(self, work: Callable[[], Any]) -> Any:
        """What it returns, or the error that it raises."""
        try:
            return work()
        except VolcryptError as error:
            return error
        except Exception as error:
            self._report(error)
            return KmsInternalError("internal error")
