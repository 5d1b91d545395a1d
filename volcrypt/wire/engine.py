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
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import Any, Final, TypeVar

from volcrypt.errors import (
    FormatError,
    HsmUnavailableError,
    IntegrityError,
    KmsError,
    KmsInternalError,
    NoSpaceError,
    ThrottlingError,
    VolcryptError,
)
from volcrypt.kms.messages.base import Response
from volcrypt.kms.protocol import operation_of
from volcrypt.kms.service import Call, KmsService, Refusal
from volcrypt.wire.call_counts import CallCounts

T = TypeVar("T")
MAX_BATCH: Final = 64
MAX_WAITING: Final = 1024
_FAULTS: Final = (FormatError, IntegrityError, KmsInternalError, NoSpaceError)
"""What is wrong with the host or the home, whoever asked for whatever."""


@dataclass(frozen=True, slots=True)
class Checked:
    """A call, and what is asked before it: `check(subject)` raises when the caller may not call any
    more. It is asked once a turn for each subject."""

    call: Call
    check: Callable[[Any], None]
    subject: object


Job = Call | Checked | Callable[[], Any]
_Waiting = tuple[Job, "asyncio.Future[Any]"]


class Engine:
    """Runs from `start` to `stop`."""

    def __init__(
        self,
        service: KmsService,
        *,
        report: Callable[[BaseException], None],
        max_waiting: int = MAX_WAITING,
        counts: CallCounts | None = None,
    ) -> None:
        """`report` is told of bugs and faults; what a caller is told says nothing of them. `counts`
        is told of every call."""
        self._counts = counts
        self._service = service
        self._report = report
        self._max_waiting = max_waiting
        self._waiting_count = 0
        self._gathered: list[_Waiting] = []
        self._queue: SimpleQueue[list[_Waiting] | None] = SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._work, name="kms-engine", daemon=True)

    def start(self) -> None:
        """On the loop's thread."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    async def stop(self) -> None:
        """Finish what waits, and end."""
        self._hand_over()
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    def submit(self, job: Job) -> "asyncio.Future[Any]":
        """Raises ThrottlingError when too much waits already."""
        if self._waiting_count >= self._max_waiting:
            raise ThrottlingError("Rate exceeded")
        return self._put(job)

    def perform(self, call: Call | Checked) -> "asyncio.Future[Response]":
        """Raises ThrottlingError; the future gives the response or the error."""
        if self._counts is None:
            return self.submit(call)
        request = call.call.request if isinstance(call, Checked) else call.request
        operation = (
            request.operation if isinstance(request, Refusal) else operation_of(type(request))
        )
        begun = time.perf_counter_ns()
        try:
            future = self.submit(call)
        except ThrottlingError as error:
            self._counts.note(operation, error, 0)
            raise
        future.add_done_callback(partial(self._note, self._counts, operation, begun))
        return future

    @property
    def waiting_count(self) -> int:
        """How much waits, or is being carried out."""
        return self._waiting_count

    @staticmethod
    def _note(
        counts: CallCounts, operation: str, begun: int, future: "asyncio.Future[Any]"
    ) -> None:
        # Who went away before the answer came: it was carried out, and nobody knows how it ended.
        error = None if future.cancelled() else future.exception()
        counts.note(operation, error, time.perf_counter_ns() - begun)

    def run(self, work: Callable[[], T]) -> "asyncio.Future[T]":
        """Something else that needs the KMS, in its turn, whatever waits."""
        return self._put(work)

    def _put(self, job: Job) -> "asyncio.Future[Any]":
        assert self._loop is not None, "internal error: the engine was not started"
        future: asyncio.Future[Any] = self._loop.create_future()
        self._waiting_count += 1
        if not self._gathered:  # what else this turn of the loop brings goes along
            self._loop.call_soon(self._hand_over)
        self._gathered.append((job, future))
        return future

    def _hand_over(self) -> None:
        if self._gathered:
            self._queue.put(self._gathered)
            self._gathered = []

    def _work(self) -> None:
        assert self._loop is not None, "internal error: the engine was not started"
        stopping = False
        while not stopping:
            waiting: list[_Waiting] = []
            item = self._queue.get()
            while item is not None:
                waiting += item
                if len(waiting) >= MAX_BATCH or self._queue.empty():
                    break
                item = self._queue.get()
            stopping = item is None
            for start in range(0, len(waiting), MAX_BATCH):
                self._carry_out(waiting[start : start + MAX_BATCH])
            del waiting, item  # with plaintexts in them; the next turn may be long in coming

    def _carry_out(self, batch: list[_Waiting]) -> None:
        assert self._loop is not None, "internal error: the engine was not started"
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
        results: list[Any] = [None] * len(jobs)
        calls: list[tuple[int, Call]] = []
        checked: dict[int, Any] = {}
        for number, job in enumerate(jobs):
            if isinstance(job, Call):
                calls.append((number, job))
            elif isinstance(job, Checked):
                who = id(job.subject)
                if who not in checked:
                    checked[who] = self._guarded(partial(job.check, job.subject))
                refused = checked[who]
                if refused is None:
                    calls.append((number, job.call))
                else:
                    results[number] = refused
            else:
                self._perform(calls, results)
                calls = []
                results[number] = self._guarded(job)
        self._perform(calls, results)
        return results

    def _perform(self, calls: list[tuple[int, Call]], results: list[Any]) -> None:
        if not calls:
            return
        done = self._guarded(lambda: self._service.perform_all([call for _, call in calls]))
        if isinstance(done, VolcryptError):
            for number, _ in calls:
                results[number] = done
            return
        for (number, _), result in zip(calls, done, strict=True):
            if isinstance(result, VolcryptError):
                self._report_fault(result)
            results[number] = result

    def _guarded(self, work: Callable[[], Any]) -> Any:
        """What it returns, or the error that it raises."""
        try:
            return work()
        except VolcryptError as error:
            if isinstance(error, _FAULTS):
                self._report_fault(error)
            return error
        except Exception as error:
            self._report(error)
            return KmsInternalError("internal error")

    def _report_fault(self, error: VolcryptError) -> None:
        """Unless it is an answer of the KMS; of a mere internal error, what it comes from."""
        if isinstance(error, HsmUnavailableError) or not isinstance(error, KmsError):
            self._report(error)
        elif isinstance(error, KmsInternalError):
            self._report(error.__cause__ or error)
