"""kill -9 of the process that serves a volume, all along its migration, under programs that write,
read and sync: what returned is there, also after the switch, and so it goes on."""

import errno
import os
import random
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.migrated_volume import Driver, MigratedVolume, migrated_volume
from tests.served_volume import OpenFile
from volcrypt.errors import MountError
from volcrypt.geometry import SECTOR_BYTES, UNIT_BYTES
from volcrypt.volume.allocation import deallocate
from volcrypt.volume.launch import DataPlaneKind, Discarding
from volcrypt.volume.migration_files import destroy_old

SIZE = 6 * 2**20 + UNIT_BYTES
MARK = b"never to be found in the stored data of an encrypted volume "
RATE = 40 * 2**20
GONE = {errno.ENOTCONN, errno.ECONNABORTED, errno.ENODEV, errno.ENOENT}
"""What a dead mount, and one that is not there yet, says."""


class Program:
    """Uses a part of the volume, and knows what must be there. Waits while nobody serves it."""

    def __init__(self, volume: MigratedVolume, start: int, end: int, seed: int) -> None:
        self.volume = volume
        self.start, self.end = start, end
        self.dice = random.Random(seed)
        self.model = bytearray(end - start)
        self.requests = 0
        self.served = threading.Event()
        self.is_ending = False
        self.failure: BaseException | None = None
        self.in_doubt: tuple[int, bytes] | None = None
        self.thread = threading.Thread(target=self.run, daemon=True)

    def run(self) -> None:
        try:
            while not self.is_ending:
                if not self.served.wait(0.1):
                    continue
                try:
                    with OpenFile(self.volume) as file:
                        self.settle_doubt(file)
                        while self.served.is_set() and not self.is_ending:
                            try:
                                self.step(file)
                            except OSError as error:
                                if error.errno != errno.EIO:
                                    raise
                                self.check_is_dead(file, error)
                except OSError as error:
                    if error.errno not in GONE:
                        with suppress(OSError):
                            error.add_note(self.volume.log.read_text())
                        raise
                    threading.Event().wait(0.005)
        except BaseException as error:
            self.failure = error

    def check_is_dead(self, file: OpenFile, error: OSError) -> None:
        """The kernel says EIO of a request that a thread was reading when it was killed; from here
        on it says that the mount is dead. Raises `error` when it does not."""
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            file.read(self.start, 1)
        raise error

    def step(self, file: OpenFile) -> None:
        offset = self.dice.randrange(self.end - self.start)
        length = min(
            self.dice.choice([100, 512, 4096, 20000, 200000]), self.end - self.start - offset
        )
        what = self.dice.randrange(10)
        if what < 6:
            if self.dice.random() < 0.7:  # as file systems do: what lanes may answer
                offset -= offset % UNIT_BYTES
                length = -(-length // UNIT_BYTES) * UNIT_BYTES
                length = min(length, self.end - self.start - offset)
            data = ((MARK + b"%8d" % self.requests) * (length // len(MARK) + 1))[:length]
            if self.volume.discards.requests and self.dice.random() < 0.2:
                data = bytes(length)
            self.in_doubt = offset, data
            if any(data):
                file.write(self.start + offset, data)
            elif length:
                deallocate(file.descriptor, self.start + offset, length, keeps_room=False)
            self.model[offset : offset + length] = data
            self.in_doubt = None
        elif what < 9:
            found = file.read(self.start + offset, length)
            assert found == self.model[offset : offset + length]
        else:
            file.sync()
        self.requests += 1

    def settle_doubt(self, file: OpenFile) -> None:
        """A write that nobody answered: each sector is old or new, and stays so."""
        if self.in_doubt is None:
            return
        offset, data = self.in_doubt
        found = file.read(self.start + offset, len(data))
        at = 0
        while at < len(data):
            end = min(
                (self.start + offset + at) // SECTOR_BYTES * SECTOR_BYTES
                + SECTOR_BYTES
                - self.start
                - offset,
                len(data),
            )
            old = self.model[offset + at : offset + end]
            assert found[at:end] in (old, data[at:end]), "a sector is neither old nor new"
            at = end
        self.model[offset : offset + len(data)] = found
        self.in_doubt = None


class Run:
    """A volume, the programs that use it, and who drives its migration."""

    def __init__(self, volume: MigratedVolume, seed: int) -> None:
        self.volume = volume
        self.dice = random.Random(seed)
        half = SIZE // 2 // UNIT_BYTES * UNIT_BYTES
        self.programs = [
            Program(volume, 0, half, seed + 1),
            Program(volume, half, SIZE, seed + 2),
        ]

    @property
    def model(self) -> bytes:
        return b"".join(program.model for program in self.programs)

    def mount(self) -> None:
        self.volume.mount()
        for program in self.programs:
            program.served.set()

    def kill(self) -> None:
        for program in self.programs:
            program.served.clear()
        self.volume.signal(signal.SIGKILL)

    def kill_within(self, work: Callable[[Driver], object], seconds: float) -> bool:
        """Whether the process was killed before `work` was done."""
        timer = threading.Timer(seconds, lambda: os.kill(self.volume.pid, signal.SIGKILL))
        with suppress(MountError), self.volume.migration() as driver:
            timer.start()
            work(driver)
        timer.cancel()
        timer.join()
        # It may have come when all was done.
        with open(os.pidfd_open(self.volume.pid)) as process:
            if not select.select([process], [], [], 0.5)[0]:
                return False
        for program in self.programs:
            program.served.clear()
        self.volume.reap()
        return True

    def check(self) -> None:
        for program in self.programs:
            if program.failure is not None:
                raise program.failure
            assert program.requests

    def end(self) -> None:
        for program in self.programs:
            program.is_ending = True
        for program in self.programs:
            if program.thread.is_alive():
                program.thread.join(30)


@contextmanager
def running(volume: MigratedVolume, seed: int) -> Iterator[Run]:
    run = Run(volume, seed)
    run.mount()
    for program in run.programs:
        program.thread.start()
    try:
        yield run
    finally:
        run.end()


def begin_and_copy(driver: Driver) -> None:
    driver.begin()
    while driver.copy(driver.volume.chunks, rate_bytes=RATE).phase == "copy":
        pass


def play(volume: MigratedVolume, seed: int, *, kills: int) -> None:
    with running(volume, seed) as run:
        killed = 0
        for _ in range(kills):
            if run.kill_within(begin_and_copy, run.dice.random() * 0.25):
                killed += 1
                run.mount()
        with volume.migration() as driver:
            begin_and_copy(driver)
        if run.kill_within(lambda driver: driver.verify(), run.dice.random() * 0.02):
            run.mount()
        # Prepared, and killed before anything was decided: it is the source.
        with volume.migration() as driver:
            begin_and_copy(driver)
            driver.calls.prepare(driver.name)
            threading.Event().wait(0.05)
        run.kill()
        run.mount()
        assert not is_target(volume)
        with volume.migration() as driver:
            begin_and_copy(driver)
            driver.verify()
            driver.calls.prepare(driver.name)
            driver.decide()
            threading.Event().wait(0.05)
        if seed % 3 == 0:
            run.kill()
            run.mount()
        elif run.kill_within(lambda driver: driver.switch(), 1.0 if seed % 3 == 1 else 0.002):
            run.mount()
        assert is_target(volume)
        threading.Event().wait(0.05)
        destroy_old(volume.directory)
        run.kill()
        run.mount()
        threading.Event().wait(0.05)
        run.end()
        run.check()
        with OpenFile(volume) as file:
            assert file.read(0, SIZE) == run.model
        volume.unmount()
        assert volume.decrypted() == run.model
        assert MARK in run.model
        assert MARK not in volume.stored()
        assert sorted(path.name for path in volume.directory.glob("data*")) == ["data"]


def is_target(volume: MigratedVolume) -> bool:
    return volume.is_target


@contextmanager
def made(directory: Path, plane: DataPlaneKind, *, encrypted: bool) -> Iterator[MigratedVolume]:
    discards = Discarding(requests=plane == "native")
    with migrated_volume(
        directory, size_bytes=SIZE, data_plane=plane, encrypted=encrypted, discards=discards
    ) as volume:
        yield volume


@pytest.mark.parametrize(
    ("plane", "encrypted", "seed"), [("native", False, 0), ("python", True, 2)]
)
def test_killed_all_along(tmp_path: Path, plane: DataPlaneKind, encrypted: bool, seed: int) -> None:
    """Of an encrypted volume it is a new key that it gets."""
    with made(tmp_path, plane, encrypted=encrypted) as volume:
        play(volume, seed, kills=2)


@pytest.mark.soak
@pytest.mark.parametrize("plane", ["native", "python"])
@pytest.mark.parametrize("seed", range(10, 30))
def test_killed_all_along_for_long(tmp_path: Path, plane: DataPlaneKind, seed: int) -> None:
    with made(tmp_path, plane, encrypted=seed % 2 > 0) as volume:
        play(volume, seed, kills=12)
