"""One point in time under a writer at full speed, which numbers its writes: there is a number up to
which all of them are in a snapshot, and none after it. While a volume goes over to another key, and
through file systems that are frozen for it.

A volume that stays as it is, and several without file systems: `test_captures.py`.
"""

import os
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.command import Command, disposable_home
from tests.e2e.test_captures import PARENT, SIZE, number_in
from tests.file_system import run
from tests.migrated_volume import MigratedVolume, migrated_volume
from tests.served_volume import ServedVolume
from volcrypt.errors import TryAgainError
from volcrypt.geometry import CHUNK_BYTES, UNIT_BYTES

CHUNKS = SIZE // CHUNK_BYTES
START = 5 * UNIT_BYTES
LENGTH = 3 * UNIT_BYTES
SLOTS = 64


class NumberedWriter:
    """Writes the numbers 1, 2, 3, ... one after the other, each to a place of `places` in turn, a
    file and an offset, filling `LENGTH` bytes; `written` is the last that returned."""

    def __init__(self, places: list[tuple[Path, int]]) -> None:
        self.written = 0
        self._places = places
        self._is_done = threading.Event()
        self._problem: BaseException | None = None
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        paths = {path for path, _ in self._places}
        files = {path: os.open(path, os.O_RDWR | os.O_CREAT) for path in paths}
        try:
            while not self._is_done.is_set():
                number = self.written + 1
                path, offset = self._places[number % len(self._places)]
                piece = struct.pack("<Q", number) * (LENGTH // 8)
                assert os.pwrite(files[path], piece, offset) == LENGTH
                self.written = number
        except BaseException as error:
            self._problem = error
        finally:
            for descriptor in files.values():
                os.close(descriptor)

    @contextmanager
    def running(self) -> Iterator[None]:
        self._thread.start()
        try:
            yield
        finally:
            self._is_done.set()
            self._thread.join()
        if self._problem is not None:
            raise self._problem

    def wait_for_more(self, count: int) -> None:
        goal, deadline = self.written + count, time.monotonic() + 60
        while self.written < goal:
            assert self._problem is None, self._problem
            assert time.monotonic() < deadline, f"it is at {self.written}, not {goal}"
            time.sleep(0.002)

    def check(self, found: list[int], before: int, after: int) -> None:
        """That what was `found`, place by place, is all up to some number and none after it; the
        snapshot was asked for when `before` had returned, and was there before `after` had."""
        cut = max(found)
        assert before <= cut <= after
        count = len(self._places)
        assert found == [max(0, cut - (cut - place) % count) for place in range(count)]


def check_captures(volume: ServedVolume, writer: NumberedWriter, count: int) -> None:
    with volume.control() as client:
        for _ in range(count):
            writer.wait_for_more(20)
            before = writer.written
            state = client.begin_capture()
            after = writer.written + 1
            found = []
            for chunk in range(CHUNKS):
                found.append(number_in(volume, state, chunk * CHUNK_BYTES + START, LENGTH))
                client.captured(range(chunk, chunk + 1))
            client.commit_capture(PARENT)
            writer.check(found, before, after)


@pytest.mark.parametrize("data_plane", ["native", "python"])
def test_while_a_volume_gets_another_key(tmp_path: Path, data_plane: str) -> None:
    """Before, on each side of the cursor, when all is copied, and under the new key."""
    with migrated_volume(
        tmp_path, size_bytes=SIZE, encrypted=True, data_plane=data_plane
    ) as volume:
        volume.mount()
        writer = NumberedWriter(
            [(volume.file, chunk * CHUNK_BYTES + START) for chunk in range(CHUNKS)]
        )
        with writer.running(), volume.migration() as driver:
            check_captures(volume, writer, 1)
            driver.begin()
            for stop in (CHUNKS // 3, CHUNKS - 1, CHUNKS):
                driver.copy(stop)
                check_captures(volume, writer, 1)
            finish(volume, writer)
            check_captures(volume, writer, 2)
        volume.unmount()


def finish(volume: MigratedVolume, writer: NumberedWriter) -> None:
    """The rest of the migration, while the writer goes on: it is ready when nothing is left."""
    with volume.migration() as driver:
        deadline = time.monotonic() + 60
        while True:
            driver.copy()
            driver.verify()
            with suppress(TryAgainError):
                driver.calls.prepare(driver.name)
                break
            assert time.monotonic() < deadline, f"never ready; {writer.written} writes"
        driver.decide()
        driver.switch()
        driver.destroy()


@pytest.mark.soak
@pytest.mark.parametrize("is_online", [False, True])
def test_through_frozen_file_systems(tmp_path: Path, is_online: bool) -> None:
    """Two volumes with ext4 in one set, with --freeze; also while one of them is encrypted."""
    points = [tmp_path / name for name in ("one", "two")]
    with disposable_home(tmp_path / "home") as command:
        command.run("init")
        for point in points:
            point.mkdir()
            command.run(
                "volume", "create", "--size", "64MiB", "--unencrypted", "--name", point.name
            )
            command.run("attach", point.name, "--mkfs", "ext4", "--mount", point)
        places = [(points[slot % 2] / "file", slot // 2 * LENGTH) for slot in range(2 * SLOTS)]
        writer = NumberedWriter(places)
        moments: list[tuple[int, int]] = []
        with writer.running():
            writer.wait_for_more(500)
            migration = None
            if is_online:
                migration = command.start("encrypt", "one", "--online", "--rate", "2MiB")
            for number in range(4):
                writer.wait_for_more(200)
                moments.append(take(command, points, writer, f"s{number}"))
            if migration is not None:
                assert migration.wait_for(120) == 0
        for point in points:
            command.run("detach", point.name)
        for number, (before, after) in enumerate(moments):
            for point in points:
                name = f"s{number}-{point.name}"
                command.run("volume", "create", "--snapshot-id", name, "--name", name)
                device = command.json("attach", name)["Device"]
                run("e2fsck", "-fn", device)
                run("mount", "-o", "ro,noload", device, point)
            contents = {point: (point / "file").read_bytes() for point in points}
            found = []
            for path, offset in places:
                piece = contents[path.parent][offset : offset + LENGTH].ljust(LENGTH, b"\0")
                numbers = set(struct.unpack(f"<{LENGTH // 8}Q", piece))
                assert len(numbers) == 1, "a write is there in part"
                found.append(numbers.pop())
            for point in points:
                run("umount", point)
                command.run("detach", f"s{number}-{point.name}")
            writer.check(found, before, after)


def take(
    command: Command, points: list[Path], writer: NumberedWriter, name: str
) -> tuple[int, int]:
    """A set; what had been written before and after it was asked for. Once more when the volume is
    just about to go over to its new data."""
    freeze = [word for point in points for word in ("--freeze", str(point))]
    deadline = time.monotonic() + 60
    while True:
        before = writer.written
        done = command.try_run(
            "snapshot", "create", "--name", name, *freeze, *(point.name for point in points)
        )
        if done.returncode == 0:
            break
        assert done.returncode == 7, done.stderr
        assert time.monotonic() < deadline, done.stderr
    after = writer.written + 1
    for point in points:
        command.run("snapshot", "wait", f"{name}-{point.name}")
    return before, after
