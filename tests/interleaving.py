"""Several hosts on one object store, one operation at a time, in an order that the test chooses.

Each host runs the real engine in a thread of its own; before each of its calls to the store it
waits until it is told to go on. So only one thread runs at any moment, and the same orders give the
same run. A host can be killed before or after any call: whatever it does then has no effect.

A listing takes two steps, and what is put or deleted in between is in it or not. Time stands still
unless the test lets it pass.
"""

import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import pytest
import trio
from typing_extensions import Buffer

from tests.fakes.objects import MemoryObjects
from volcrypt.snapshot import read_ahead
from volcrypt.snapshot.objects import ObjectStore

PAUSE: Final = "pause"


class Killed(BaseException):
    """The process of a host ended here."""


@dataclass(frozen=True)
class Call:
    """What a host is about to do."""

    method: str
    name: str

    def __str__(self) -> str:
        return f"{self.method} {self.name}"


@dataclass
class World:
    """The store as it is, and what has happened: `watch` is told of each call that took effect."""

    objects: MemoryObjects = field(default_factory=MemoryObjects)
    seconds: float = 0.0
    watch: Callable[[str, Call, bytes], None] = lambda _host, _call, _data: None
    tasks: list["Task"] = field(default_factory=list)
    trace: list[str] = field(default_factory=list)

    def run(self, host: str, work: Callable[[], object]) -> "Task":
        """Begin something on a host; nothing has happened yet."""
        task = Task(self, host, work)
        self.tasks.append(task)
        task.begin()
        return task

    def pass_time(self, seconds: float, *, resting: "Task | None" = None) -> None:
        """Let time pass for all. Deletions of a sweep that are under way take seconds, not hours
        (`snapshot.sweep_mark`); everybody else may sleep for as long."""
        end = self.seconds + seconds
        while self.seconds < end:
            self.seconds = min(end, self.seconds + 15)
            for task in list(self.tasks):
                if task is resting or task.is_over or not task.is_deleting:
                    continue
                if task.call.method != PAUSE:
                    task.step()

    def close(self) -> None:
        """End all that is still under way."""
        for task in self.tasks:
            task.kill()
        self.tasks.clear()


class Task:
    """What a host does now."""

    def __init__(self, world: World, host: str, work: Callable[[], object]) -> None:
        self._world = world
        self._host = host
        self._work = work
        self._go = threading.Semaphore(0)
        self._stopped = threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._call: Call | None = None
        self._kill: str | None = None
        self.is_dead = False
        self.result: object = None
        self.error: BaseException | None = None
        self.is_deleting = False
        """It has looked, and deletes what it saw to be garbage."""

    # ------------------------------------------------------------ for tests

    @property
    def is_over(self) -> bool:
        return self._call is None

    @property
    def call(self) -> Call:
        """What comes next."""
        assert self._call is not None, f"{self._host} has done all"
        return self._call

    def step(self) -> None:
        """Let the next call happen."""
        call = self.call
        if call.method == PAUSE:
            self._world.pass_time(float(call.name), resting=self)
        self._world.trace.append(f"{self._host} {call}")
        self._continue()

    def until(self, method: str, prefix: str = "") -> None:
        """Go on until such a call comes next."""
        while not self.is_over:
            if self.call.method == method and self.call.name.startswith(prefix):
                return
            self.step()
        raise AssertionError(f"{self._host} ended without {method} {prefix}: {self.error!r}")

    def finish(self) -> Any:
        """Go on to the end; answers, or raises, what the work did."""
        while not self.is_over:
            self.step()
        if self.error is not None:
            raise self.error
        return self.result

    def kill(self, *, after: bool = False) -> None:
        """End the host before, or after, its next call."""
        if not self.is_over:
            self._kill = "after" if after else "before"
            self._world.trace.append(f"{self._host} killed {self._kill} {self.call}")
            while not self.is_over:
                self._continue()
        self._thread.join()

    # ------------------------------------------------------------ the host's side

    def begin(self) -> None:
        self._call = Call("begin", "")
        self._thread.start()
        self._stopped.acquire()

    def _continue(self) -> None:
        self._go.release()
        self._stopped.acquire()

    def _run(self) -> None:
        _LOCAL.task = self
        try:
            self.result = self._work()
        except BaseException as error:
            self.error = error
        self._call = None
        self._stopped.release()

    def gate(self, call: Call, effect: Callable[[], Any], data: bytes = b"") -> Any:
        """One call of this host: it waits here, and has its effect, or none."""
        if self.is_dead:
            raise Killed
        self._call = call
        self._stopped.release()
        self._go.acquire()
        if self._kill == "before":
            self.is_dead = True
            raise Killed
        answer = effect()
        if call.method in ("delete", "replace") or (call.method == "put_if_absent" and answer):
            self._world.watch(self._host, call, data)
        if self._kill == "after":
            self.is_dead = True
            raise Killed
        return answer


_LOCAL = threading.local()


def pause(seconds: float) -> None:
    """For hosts: wait, as their clocks have it."""
    _LOCAL.task.gate(Call(PAUSE, str(seconds)), lambda: None)


class GatedObjects:
    """The store as one host sees it."""

    location = "memory"
    in_flight = 1

    def __init__(self, world: World) -> None:
        self._world = world
        self._objects = world.objects

    def _gate(self, method: str, name: str, effect: Callable[[], Any], data: Buffer = b"") -> Any:
        task: Task = _LOCAL.task
        if name == "sweeping":
            # Who has put his mark and not yet taken it away deletes; so does who looks at it.
            task.is_deleting = task.is_deleting or method == "put_if_absent"
            if method == "delete":
                task.is_deleting = False
        return task.gate(Call(method, name), effect, bytes(data))

    def put_if_absent(self, name: str, data: Buffer, *, batched: bool = False) -> bool:
        put = self._objects.put_if_absent
        answer: bool = self._gate(
            "put_if_absent", name, lambda: put(name, data, batched=batched), data
        )
        return answer

    def replace(self, name: str, data: Buffer, *, batched: bool = False) -> None:
        replace = self._objects.replace
        self._gate("replace", name, lambda: replace(name, data, batched=batched), data)

    def get(self, name: str) -> bytes:
        answer: bytes = self._gate("get", name, lambda: self._objects.get(name))
        return answer

    def get_into(self, name: str, buffer: Buffer) -> int:
        answer: int = self._gate("get", name, lambda: self._objects.get_into(name, buffer))
        return answer

    def list(self, prefix: str) -> Iterator[str]:
        def names() -> list[str]:
            return sorted(each for each in self._objects.objects if each.startswith(prefix))

        early: list[str] = self._gate("list", prefix, names)
        middle = early[len(early) // 2] if early else prefix
        late: list[str] = self._gate("list on", prefix, names) if early else []
        yield from (name for name in early if name < middle)
        yield from (name for name in late if name >= middle)

    def delete(self, name: str) -> None:
        self._gate("delete", name, lambda: self._objects.delete(name))

    def sync(self) -> None:
        self._objects.sync()


class _Here:
    """In the place of a pool of threads: what is begun is done at once."""

    def __init__(self, count: int) -> None:
        pass

    def submit(self, work: Callable[..., Any], *arguments: Any) -> Future[Any]:
        done: Future[Any] = Future()
        try:
            done.set_result(work(*arguments))
        except BaseException as error:
            done.set_exception(error)
        return done

    def shutdown(self, *, cancel_futures: bool) -> None:
        pass


@contextmanager
def one_thread_a_host() -> Iterator[None]:
    """What the engine does in worker threads is done in the host's own, in an order that does not
    change from run to run."""

    async def here(work: Callable[..., Any], *arguments: Any, **_: Any) -> Any:
        return work(*arguments)

    run: Any = trio._core._run
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trio.to_thread, "run_sync", here)
        patch.setattr(read_ahead, "ThreadPoolExecutor", _Here)
        patch.setattr(run, "_ALLOW_DETERMINISTIC_SCHEDULING", True)
        patch.setattr(run, "_r", random.Random(0))
        yield


if TYPE_CHECKING:

    def _conforms(objects: GatedObjects) -> ObjectStore:
        return objects
