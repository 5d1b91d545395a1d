"""A program that writes to a volume that is killed, or loses its power."""

import os
import random
import threading
import time
from pathlib import Path
from typing import Final

from tests.beside import Beside
from tests.file_system import DisposableFileSystem

SECTOR: Final = 512


class Writer(Beside):
    """Writes at random places of a file, and syncs now and then, until it is told to stop or meets
    an error; knows what each sector may be after that."""

    def __init__(self, path: Path, content: bytes) -> None:
        super().__init__()
        self.settled = bytearray(content)
        self.syncs = 0
        self.error: OSError | None = None
        self._path = path
        self._is_cut = threading.Event()
        self._size = len(content)
        self._open: dict[int, set[bytes]] = {}

    def await_syncs(self, count: int) -> None:
        deadline = time.monotonic() + 60
        while self.syncs < count:
            assert self._thread.is_alive(), self.error
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def cut_power(self, disk: DisposableFileSystem) -> None:
        """Shut the disk down; what is synced from now on counts for nothing."""
        self._is_cut.set()
        disk.shut_down()

    def _work(self) -> None:
        dice = random.Random()
        # What it writes was never there before.
        run, writes = os.urandom(4).hex(), 0
        current = bytearray(self.settled)
        try:
            with open(self._path, "r+b", buffering=0) as file:
                while not self._is_done.is_set():
                    count = dice.choice([1, 8, 8, 8, 40])
                    first = dice.randrange(self._size // SECTOR - count)
                    if count % 8 == 0:  # as file systems do: what the data plane takes
                        first -= first % 8
                    writes += 1
                    data = f"{run}{writes:7}\n".encode() * 32
                    for sector in range(first, first + count):
                        at = sector * SECTOR
                        before = bytes(current[at : at + SECTOR])
                        self._open.setdefault(sector, {before}).add(data)
                        current[at : at + SECTOR] = data
                    os.pwrite(file.fileno(), data * count, first * SECTOR)
                    if dice.random() < 0.2:
                        os.fsync(file.fileno())
                        if self._is_cut.is_set():
                            continue
                        self.settled[:] = current
                        self._open.clear()
                        self.syncs += 1
        except OSError as error:
            self.error = error

    def check(self, found: bytes) -> None:
        for sector in range(self._size // SECTOR):
            at = sector * SECTOR
            allowed = self._open.get(sector, {bytes(self.settled[at : at + SECTOR])})
            assert found[at : at + SECTOR] in allowed, f"sector {sector}"
