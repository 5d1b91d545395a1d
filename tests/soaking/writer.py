"""A thread that reads, writes, syncs and discards on a volume, and checks what it reads."""

import mmap
import os
import random
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.soaking.ledger import UNIT_BYTES, Ledger
from volcrypt.volume.allocation import deallocate

MOST_UNITS: Final = 64
PAUSE_SECONDS: Final = 0.01


class Writer:
    """Works on the file or device at `path` while it is not paused; the first thing that is wrong
    ends it, and comes out of `check`."""

    def __init__(self, path: Path, ledger: Ledger, *, seed: int, discards: bool = False) -> None:
        self.ledger = ledger
        self.operations = 0
        self._path = path
        self._dice = random.Random(seed)
        self._discards = discards
        self._is_ending = False
        self._turn = threading.Lock()
        self._waits = threading.Lock()
        self._problem: BaseException | None = None
        self._latencies: defaultdict[str, list[float]] = defaultdict(list)
        # Aligned, as O_DIRECT wants it.
        self._buffer = mmap.mmap(-1, MOST_UNITS * UNIT_BYTES)
        self._descriptor = -1
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._open()
        self._thread.start()

    def end(self) -> None:
        self._is_ending = True
        self._thread.join(120)
        self.check()
        assert not self._thread.is_alive(), "a request never came back"
        self._close()

    def check(self) -> None:
        if self._problem is not None:
            raise self._problem

    def latencies(self) -> dict[str, list[float]]:
        """Since the last time, by operation; seconds."""
        taken, self._latencies = self._latencies, defaultdict(list)
        return dict(taken)

    @contextmanager
    def paused(self, *, closed: bool = False) -> Iterator[Ledger]:
        """Between two operations; with `closed` its file is closed meanwhile, and opened anew."""
        with self._waits, self._turn:
            self.check()
            if closed:
                self._close()
            yield self.ledger
            if closed:
                self._open()

    def verify(self) -> None:
        """Read and compare all of it, while paused."""
        with self.paused() as ledger:
            for first in range(0, ledger.units, MOST_UNITS):
                self._read(first, min(MOST_UNITS, ledger.units - first))

    def _open(self) -> None:
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_DIRECT | os.O_CLOEXEC)

    def _close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _run(self) -> None:
        try:
            while not self._is_ending:
                with self._waits:
                    pass  # whoever pauses goes first
                with self._turn:
                    self._work()
                self.operations += 1
                time.sleep(PAUSE_SECONDS)
        except BaseException as error:
            self._problem = error

    def _work(self) -> None:
        units = self.ledger.units
        count = self._dice.choice([1, 1, 1, 2, 4, 16, MOST_UNITS])
        first = self._dice.randrange(units - count + 1)
        kind = self._dice.random()
        started = time.monotonic()
        if kind < 0.5:
            name = "write"
            self._write(first, count)
        elif kind < 0.85:
            name = "read"
            self._read(first, count)
        elif kind < 0.95 or not self._discards:
            name = "sync"
            os.fsync(self._descriptor)
        else:
            name = "discard"
            deallocate(self._descriptor, first * UNIT_BYTES, count * UNIT_BYTES, keeps_room=False)
            self.ledger.discard(first, count)
        self._latencies[name].append(time.monotonic() - started)

    def _write(self, first: int, count: int) -> None:
        data = self.ledger.write(first, count)
        self._buffer[: len(data)] = data
        view = memoryview(self._buffer)[: len(data)]
        assert os.pwrite(self._descriptor, view, first * UNIT_BYTES) == len(data), "short write"

    def _read(self, first: int, count: int) -> None:
        size = count * UNIT_BYTES
        view = memoryview(self._buffer)[:size]
        assert os.preadv(self._descriptor, [view], first * UNIT_BYTES) == size, "short read"
        self.ledger.check(self._buffer[:size], first)
