"""Captures of volumes that real processes serve, while writers go on."""

import os
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.file_system import DisposableFileSystem, disposable_file_system
from tests.served_volume import OpenFile, ServedVolume, served_volume
from volcrypt.errors import InvalidArgumentError, NoSpaceError, TryAgainError
from volcrypt.formats.change_map import ParentPoint
from volcrypt.geometry import CHUNK_BYTES, UNIT_BYTES, UNITS_PER_CHUNK
from volcrypt.names import SnapshotId, StoreId
from volcrypt.volume.allocation import extend
from volcrypt.volume.control import CapturedState, ControlClient
from volcrypt.volume.datafile import DataFile

CHUNKS = 16
SIZE = CHUNKS * CHUNK_BYTES
PARENT = ParentPoint(
    store_id=StoreId("store-00000000000000001"),
    snapshot_id=SnapshotId("snap-00000000000000001"),
    root=bytes(32),
)


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[ServedVolume]:
    with served_volume(tmp_path, size_bytes=SIZE) as made:
        made.mount()
        yield made


def test_a_capture_is_one_point_in_time_under_a_writer(mounted: ServedVolume) -> None:
    """Writes are numbered, each goes to the next chunk. What a snapshot reads from the data file
    and from what was kept must be all writes up to some k and none after it; and so again for the
    next snapshot.
    """
    written = 0
    running = True
    size = 3 * UNIT_BYTES
    start = 5 * UNIT_BYTES

    def writer() -> None:
        nonlocal written
        with OpenFile(mounted) as file:
            while running:
                number = written + 1
                chunk = number % CHUNKS
                file.write(chunk * CHUNK_BYTES + start, struct.pack("<Q", number) * (size // 8))
                written = number

    thread = threading.Thread(target=writer)
    thread.start()
    try:
        with mounted.control() as client:
            cuts = []
            for _ in range(4):
                goal = written + 20
                while written < goal:
                    thread.join(0.005)
                before = written
                state = client.begin_capture()
                after = written + 1
                found = {}
                for chunk in range(CHUNKS):
                    thread.join(0.002)
                    found[chunk] = number_in(mounted, state, chunk * CHUNK_BYTES + start, size)
                    client.captured(range(chunk, chunk + 1))
                client.commit_capture(PARENT)
                cut = max(found.values())
                assert before <= cut <= after
                assert found == {
                    chunk: max((n for n in range(1, cut + 1) if n % CHUNKS == chunk), default=0)
                    for chunk in range(CHUNKS)
                }
                cuts.append(cut)
            assert cuts == sorted(set(cuts))
    finally:
        running = False
        thread.join()


def captured_chunk(volume: ServedVolume, state: CapturedState, chunk: int) -> bytes:
    """A chunk as the capture saw it, decrypted."""
    buffer = bytearray(CHUNK_BYTES)
    with DataFile.open(volume.data_path, volume.size_bytes, read_only=True) as data:
        data.read_chunk(chunk, buffer)
    state.preserved.replace(chunk, buffer)
    key = volume.data_key()
    assert key is not None
    key.kernel().decrypt_sparse_units(chunk * UNITS_PER_CHUNK, buffer, buffer)
    return bytes(buffer)


def number_in(volume: ServedVolume, state: CapturedState, offset: int, size: int) -> int:
    """The one number that fills a piece of a chunk as the capture saw it."""
    start = offset % CHUNK_BYTES
    piece = captured_chunk(volume, state, offset // CHUNK_BYTES)[start : start + size]
    numbers = set(struct.unpack(f"<{size // 8}Q", piece))
    assert len(numbers) == 1, "a write is there in part"
    return int(numbers.pop())


def fill(volume: ServedVolume, content: bytes) -> None:
    with OpenFile(volume) as file:
        for chunk in range(CHUNKS):
            file.write(chunk * CHUNK_BYTES, content * (CHUNK_BYTES // len(content)))
        file.sync()


@pytest.fixture
def crowded(tmp_path: Path) -> Iterator[tuple[ServedVolume, DisposableFileSystem]]:
    """A volume with data in all chunks but the last two, on a small disk of its own."""
    with disposable_file_system(tmp_path) as disk:
        home = disk.directory / "home"
        home.mkdir()
        with served_volume(home, size_bytes=SIZE) as made:
            made.mount()
            with OpenFile(made) as file:
                for chunk in range(CHUNKS - 2):
                    file.write(chunk * CHUNK_BYTES, b"old." * (CHUNK_BYTES // 4))
                file.sync()
            yield made, disk


def test_a_full_disk_fails_the_capture_and_not_the_writer(
    crowded: tuple[ServedVolume, DisposableFileSystem],
) -> None:
    volume, disk = crowded
    disk.fill(leave_bytes=5 * CHUNK_BYTES // 2)
    with volume.control() as client, OpenFile(volume) as file:
        state = client.begin_capture()
        file.write(0, b"new")
        assert captured_chunk(volume, state, 0)[:4] == b"old."
        client.captured(range(1))
        for chunk in range(CHUNKS - 2):
            file.write(chunk * CHUNK_BYTES, b"new")
        for _ in range(2):
            with pytest.raises(NoSpaceError, match="no space left"):
                client.captured(range(1, 2))
        file.sync()
        client.abort_capture()
        assert all(file.read(chunk * CHUNK_BYTES, 4) == b"new." for chunk in range(CHUNKS - 2))
        # What it had taken is free again.
        assert disk_room(disk) >= 2 * CHUNK_BYTES
        client.begin_capture()


def test_a_writer_gets_the_room_that_a_capture_had_taken(
    crowded: tuple[ServedVolume, DisposableFileSystem],
) -> None:
    """The disk had room for what is written, before the capture took it."""
    volume, disk = crowded
    disk.fill(leave_bytes=7 * CHUNK_BYTES // 2)
    with volume.control() as client, OpenFile(volume) as file:
        client.begin_capture()
        for chunk in range(2):
            file.write(chunk * CHUNK_BYTES, b"new")
        client.captured(range(CHUNKS))
        assert disk_room(disk) < 2 * CHUNK_BYTES
        for chunk in (CHUNKS - 2, CHUNKS - 1):
            file.write(chunk * CHUNK_BYTES, os.urandom(CHUNK_BYTES))
        file.sync()
        with pytest.raises(NoSpaceError, match="writers need the room"):
            client.captured(range(1))


def disk_room(disk: DisposableFileSystem) -> int:
    status = os.statvfs(disk.directory)
    return status.f_bfree * status.f_frsize


@pytest.mark.parametrize("who", ["daemon", "snapshot"])
def test_a_kill_leaves_nothing_of_what_was_kept(mounted: ServedVolume, who: str) -> None:
    """No names, and so no room; and the changes count again."""
    commit_parent(mounted)
    fill(mounted, b"old.")
    commit_parent(mounted)
    snapshot = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(mounted.runtime / f"{mounted.volume_id}.sock")],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert snapshot.stdout is not None
        assert snapshot.stdout.readline() == "captured\n"
        with OpenFile(mounted) as file:
            file.write(3 * CHUNK_BYTES, b"new")
            file.sync()
        with mounted.control() as client:
            assert client.status().preserve_longest_us > 0
        if who == "daemon":
            mounted.signal(signal.SIGKILL)
            assert snapshot.wait(10) == 0, "it was not told"
            mounted.mount()
        else:
            snapshot.kill()
            snapshot.wait(10)
    finally:
        snapshot.kill()
        snapshot.communicate()
    assert sorted(path.name for path in mounted.directory.iterdir()) == [
        "data",
        "mnt",
        "owner",
    ]
    with mounted.control() as client:
        state = begin_soon(client)
        assert state.changed is not None
        assert list(state.changed) == [3]


HOLDER = """if True:
    import sys, time
    from pathlib import Path
    from volcrypt.errors import MountError
    from volcrypt.volume.control import ControlClient
    client = ControlClient(Path(sys.argv[1]), volume="books")
    state = client.begin_capture()
    print("captured", flush=True)
    try:
        while True:
            client.captured(range(0))
            time.sleep(0.01)
    except MountError:
        sys.exit(0)
"""


def begin_soon(client: ControlClient) -> CapturedState:
    """The process hears of a kill a moment later."""
    while True:
        try:
            return client.begin_capture()
        except TryAgainError:
            time.sleep(0.01)


def commit_parent(volume: ServedVolume) -> None:
    with volume.control() as client:
        client.begin_capture()
        client.commit_capture(PARENT)


def test_writers_go_on_when_a_snapshot_dies_that_holds_them(mounted: ServedVolume) -> None:
    with OpenFile(mounted) as file, mounted.control() as client:
        client.hold_capture()
        thread = threading.Thread(target=lambda: file.write(0, b"new"))
        thread.start()
        thread.join(0.1)
        assert thread.is_alive()
        assert file.read(0, 3) == bytes(3)
        client.close()
        thread.join(10)
        assert not thread.is_alive()


def test_growth_during_a_capture(mounted: ServedVolume) -> None:
    """It stays one of the smaller volume, whose last chunk was short."""
    size, larger = SIZE + UNIT_BYTES, SIZE + 3 * CHUNK_BYTES
    with mounted.control() as client, OpenFile(mounted) as file:
        extend(mounted.data_path, SIZE, size)
        client.grow(size)
        file.write(SIZE, b"old!" * (UNIT_BYTES // 4))
        state = client.begin_capture()
        extend(mounted.data_path, size, larger)
        client.grow(larger)
        file.write(SIZE, b"new." * (CHUNK_BYTES // 2))
        assert file.read(SIZE + 2 * CHUNK_BYTES - 4, 8) == b"new.\0\0\0\0"
        assert state.size_bytes == size
        buffer = bytearray(UNIT_BYTES)
        state.preserved.replace(CHUNKS, buffer)
        key = mounted.data_key()
        assert key is not None
        key.kernel().decrypt_sparse_units(CHUNKS * UNITS_PER_CHUNK, buffer, buffer)
        assert buffer == b"old!" * (UNIT_BYTES // 4)
        client.captured(range(CHUNKS + 1))
        with pytest.raises(InvalidArgumentError, match="no chunks"):
            client.captured(range(CHUNKS + 1, CHUNKS + 2))
        client.commit_capture(PARENT)
        changed = client.begin_capture().changed
        assert changed is not None
        assert list(changed) == [CHUNKS, CHUNKS + 1]


class TestSeveralVolumes:
    @pytest.fixture
    def pair(self, tmp_path: Path) -> Iterator[list[ServedVolume]]:
        with ExitStack() as stack:
            made = []
            for name in ("one", "two"):
                (tmp_path / name).mkdir()
                made.append(stack.enter_context(served_volume(tmp_path / name, size_bytes=SIZE)))
                made[-1].mount()
            yield made

    @pytest.mark.parametrize("is_set", [True, False])
    def test_a_set_is_one_point_in_time(self, pair: list[ServedVolume], is_set: bool) -> None:
        """A writer counts, and writes each number to the volume whose turn it is: a set has a
        number and the one before. Captures that are not held for each other have others."""
        count = 0
        running = True

        def writer() -> None:
            nonlocal count
            with OpenFile(pair[0]) as one, OpenFile(pair[1]) as two:
                while running:
                    (one, two)[count % 2].write(0, struct.pack("<Q", count + 1) * 512)
                    count += 1

        def after_more_writes() -> None:
            goal = count + 10
            while count < goal:
                time.sleep(0.001)

        thread = threading.Thread(target=writer)
        thread.start()
        differences = []
        try:
            for _ in range(10):
                after_more_writes()
                with pair[0].control() as first, pair[1].control() as second:
                    if is_set:
                        first.hold_capture()
                        time.sleep(0.005)
                        second.hold_capture()
                        states = [first.resume_capture(), second.resume_capture()]
                        assert all(state.barrier_us > 0 for state in states)
                        assert states[0].barrier_us > 5000
                    else:
                        states = [first.begin_capture()]
                        after_more_writes()
                        states.append(second.begin_capture())
                    after_more_writes()
                    found = [
                        number_in(volume, state, 0, UNIT_BYTES)
                        for volume, state in zip(pair, states, strict=True)
                    ]
                    first.abort_capture()
                    second.abort_capture()
                differences.append(abs(found[0] - found[1]))
        finally:
            running = False
            thread.join()
        assert (set(differences) == {1}) == is_set
