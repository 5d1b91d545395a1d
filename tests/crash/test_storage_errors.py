"""Storage that fails, and kills at single system calls, under the real process of a volume.

strace makes the calls of the process fail (nothing is written or synced then, as if the disk had
refused), or kills it right before the call. What the process was to do is done on its mount.
"""

import errno
import os
import signal
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.command import disposable_home
from tests.file_system import run
from tests.served_volume import ServedVolume, served_volume
from tests.strace import injection, strace
from volcrypt.errors import MountError, ReadOnlyError
from volcrypt.formats.change_map import ParentPoint
from volcrypt.geometry import CHUNK_BYTES, SECTOR_BYTES, UNIT_BYTES
from volcrypt.names import SnapshotId, StoreId
from volcrypt.volume.loop import attach_loop, detach_loop

CHUNKS = 16
SIZE = CHUNKS * CHUNK_BYTES
PARENT = ParentPoint(
    store_id=StoreId("store-00000000000000001"),
    snapshot_id=SnapshotId("snap-00000000000000001"),
    root=bytes(32),
)

WRITING, SYNCING = "pwrite64", "fdatasync"
READING = "preadv,preadv2"


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[ServedVolume]:
    """Mounted; it has a parent, and nothing has changed since."""
    with served_volume(tmp_path, size_bytes=SIZE) as made:
        made.mount()
        with made.control() as client:
            client.begin_capture()
            client.commit_capture(PARENT)
        yield made


@contextmanager
def opened(volume: ServedVolume) -> Iterator[int]:
    descriptor = os.open(volume.file, os.O_RDWR | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        with suppress(OSError):  # of a dead mount; the descriptor is closed all the same
            os.close(descriptor)


def changed_chunks(volume: ServedVolume) -> set[int] | None:
    """Those that the next snapshot would look at; None for all."""
    with volume.control() as client:
        changed = client.begin_capture().changed
        client.abort_capture()
    return None if changed is None else set(changed)


def errno_of_sync(descriptor: int) -> int | None:
    try:
        os.fsync(descriptor)
    except OSError as error:
        return error.errno
    return None


# ---------------------------------------------------------------- syncs that fail


@pytest.mark.parametrize(
    ("number", "told", "ends"),
    [
        (errno.EIO, errno.EIO, "kill"),
        (errno.ENOSPC, errno.ENOSPC, "unmount"),
        # Told this, the kernel would never ask again, and say that all is well.
        (errno.ENOSYS, errno.EIO, "unmount"),
    ],
)
def test_a_failed_sync_is_never_forgotten(
    volume: ServedVolume, number: int, told: int, ends: str
) -> None:
    """By nobody: not by other openings, other processes, the unmount, or the next snapshot."""
    with opened(volume) as first, opened(volume) as second:
        os.pwrite(first, b"kept", 0)
        assert errno_of_sync(second) is None
        os.pwrite(first, b"lost", CHUNK_BYTES)
        with strace(volume.pid, *injection(SYNCING, f"error={errno.errorcode[number]}:when=1")):
            assert errno_of_sync(first) == told
            # The disk would sync again, and claim success for what it has dropped.
            assert [errno_of_sync(first), errno_of_sync(second)] == [errno.EIO] * 2
        for _ in range(3):
            assert [errno_of_sync(first), errno_of_sync(second)] == [errno.EIO] * 2
        with pytest.raises(OSError, match="Read-only") as refused:
            os.pwrite(first, b"more", 0)
        assert refused.value.errno == errno.EROFS
        assert os.pread(second, 4, 0) == b"kept"
        done = subprocess.run(["sync", volume.file], check=False, capture_output=True, text=True)
        assert "Input/output error" in done.stderr
    assert changed_chunks(volume) is None
    assert "fsync answered" in volume.log.read_text()
    if ends == "kill":
        volume.signal(signal.SIGKILL)
    else:
        with volume.control() as client, pytest.raises(ReadOnlyError, match="an earlier sync"):
            client.unmount()
        assert volume.reap() == 1

    volume.mount()
    assert changed_chunks(volume) is None
    with opened(volume) as descriptor:
        os.pwrite(descriptor, b"works again", 0)
        assert errno_of_sync(descriptor) is None
    volume.unmount()


def test_status_says_that_writes_were_lost(tmp_path: Path) -> None:
    point = tmp_path / "point"
    point.mkdir()
    with disposable_home(tmp_path / "home") as command:
        command.run("init")
        command.run("volume", "create", "--size", "1MiB", "--name", "ledger")
        pid = command.json("mount", "ledger", point)["Pid"]
        (used,) = command.json("status")["InUse"]
        assert used["SyncFailed"] is False
        descriptor = os.open(point / "volume", os.O_RDWR)
        os.pwrite(descriptor, b"lost", 0)
        with strace(pid, *injection(SYNCING, "error=EIO:when=1")):
            assert errno_of_sync(descriptor) == errno.EIO
        os.close(descriptor)
        found = command.json("status")
        assert found["InUse"][0]["SyncFailed"] is True
        assert any("ledger lost writes when a sync" in warning for warning in found["Warnings"])
        assert "an earlier sync of data file" in command.fails(1, "unmount", "ledger")
        assert command.json("status")["InUse"] == []
        command.run("mount", "ledger", point)
        assert command.json("status")["InUse"][0]["SyncFailed"] is False
        command.run("unmount", "ledger")


def test_a_failed_sync_reaches_the_file_system_above(volume: ServedVolume, tmp_path: Path) -> None:
    """Whoever syncs in ext4 hears of it, and nothing later is acknowledged either."""
    point = tmp_path / "point"
    point.mkdir()
    run("mkfs.ext4", "-q", "-b", "4096", volume.file)
    device = attach_loop(volume.file, sector_size=4096, read_only=False)
    try:
        run("mount", "-o", "errors=continue", device, point)
        try:
            descriptor = os.open(point / "file", os.O_RDWR | os.O_CREAT)
            try:
                os.write(descriptor, b"first")
                assert errno_of_sync(descriptor) is None
                with strace(volume.pid, *injection(SYNCING, "error=EIO:when=1")):
                    os.write(descriptor, b"second")
                    assert errno_of_sync(descriptor) is not None
                for _ in range(2):
                    try:
                        os.write(descriptor, b"third")
                    except OSError:
                        continue
                    assert errno_of_sync(descriptor) is not None
            finally:
                os.close(descriptor)
        finally:
            run("umount", point)
    finally:
        with suppress(MountError):  # says that the last data is lost, if any was left
            detach_loop(device, volume="books")
    with volume.control() as client, pytest.raises(ReadOnlyError):
        client.unmount()
    volume.reap()


def test_a_sync_that_fails_when_a_snapshot_is_committed(volume: ServedVolume) -> None:
    """The snapshot is good, but what has changed since is not known any more."""
    with opened(volume) as descriptor:
        os.pwrite(descriptor, b"x", 0)
    with strace(volume.pid, *injection("fsync", "error=EIO:when=1")), volume.control() as client:
        client.begin_capture()
        client.commit_capture(PARENT)
    assert changed_chunks(volume) is None
    volume.unmount()
    volume.mount()
    assert changed_chunks(volume) is None
    volume.unmount()


# ---------------------------------------------------------------- writes and reads that fail


def tagged(number: int, length: int) -> bytes:
    return struct.pack("<Q", number) * (length // 8)


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("nth", [1, 7])
def test_a_write_that_fails_is_told_to_its_writer_alone(
    volume: ServedVolume, number: int, nth: int
) -> None:
    """Partial units among them; the others, and the next try, are as ever."""
    length = UNIT_BYTES + 2 * SECTOR_BYTES
    failing = injection(WRITING, f"error={errno.errorcode[number]}")
    with opened(volume) as descriptor:
        for place in range(12):
            if place == nth - 1:
                with (
                    strace(volume.pid, *failing),
                    pytest.raises(OSError, match=os.strerror(number)),
                ):
                    os.pwrite(descriptor, tagged(place + 1, length), place * length)
            else:
                os.pwrite(descriptor, tagged(place + 1, length), place * length)
        assert errno_of_sync(descriptor) is None
        for place in range(12):
            expected = bytes(length) if place == nth - 1 else tagged(place + 1, length)
            assert os.pread(descriptor, length, place * length) == expected
        os.pwrite(descriptor, tagged(nth, length), (nth - 1) * length)
        assert os.pread(descriptor, length, (nth - 1) * length) == tagged(nth, length)
        os.pwrite(descriptor, b"elsewhere", 9 * CHUNK_BYTES)
    assert changed_chunks(volume) == {0, 9}
    volume.unmount()


def test_a_read_that_fails_is_told_to_its_reader_alone(volume: ServedVolume) -> None:
    with opened(volume) as descriptor:
        os.pwrite(descriptor, tagged(1, 4 * UNIT_BYTES), 0)
        with (
            strace(volume.pid, *injection(READING, "error=EIO")),
            pytest.raises(OSError, match="Input/output error"),
        ):
            os.pread(descriptor, UNIT_BYTES, 0)
        assert os.pread(descriptor, UNIT_BYTES, 0) == tagged(1, UNIT_BYTES)
        # A write that has to merge with what cannot be read changes nothing.
        with strace(volume.pid, *injection(READING, "error=EIO")):
            with pytest.raises(OSError, match="Input/output error"):
                os.pwrite(descriptor, b"x", UNIT_BYTES + 5)
            os.pwrite(descriptor, tagged(2, UNIT_BYTES), 2 * UNIT_BYTES)
        expected = tagged(1, 2 * UNIT_BYTES) + tagged(2, UNIT_BYTES) + tagged(1, UNIT_BYTES)
        assert os.pread(descriptor, 4 * UNIT_BYTES, 0) == expected
    volume.unmount()


@pytest.mark.parametrize("calls", [WRITING, SYNCING, READING])
def test_a_call_that_is_interrupted_is_made_again(volume: ServedVolume, calls: str) -> None:
    with opened(volume) as descriptor:
        with strace(volume.pid, *injection(calls, "error=EINTR:when=1+2")):
            for place in range(6):
                os.pwrite(descriptor, tagged(place, 3 * SECTOR_BYTES), place * 3 * SECTOR_BYTES)
                os.fsync(descriptor)
            content = os.pread(descriptor, 18 * SECTOR_BYTES, 0)
        assert content == b"".join(tagged(place, 3 * SECTOR_BYTES) for place in range(6))
    assert changed_chunks(volume) == {0}
    volume.unmount()


# ---------------------------------------------------------------- kills


def test_the_kernel_keeps_no_plaintext_for_a_dead_process(volume: ServedVolume) -> None:
    """A cache above the file would also answer after a fence, and hide writes from snapshots."""
    with opened(volume) as descriptor:
        os.pwrite(descriptor, tagged(1, UNIT_BYTES), 0)
        os.fsync(descriptor)
        assert os.pread(descriptor, UNIT_BYTES, 0) == tagged(1, UNIT_BYTES)
        volume.signal(signal.SIGKILL)
        with pytest.raises(OSError, match=r"not connected|aborted"):
            os.pread(descriptor, UNIT_BYTES, 0)


QUICK_KILLS = [(WRITING, 1), (WRITING, 6), (SYNCING, 1), (SYNCING, 2), (READING, 3)]
ALL_KILLS = [(calls, nth) for calls in (WRITING, SYNCING, READING) for nth in range(1, 40)]


@pytest.mark.parametrize(
    ("calls", "nth"),
    [
        *QUICK_KILLS,
        *(pytest.param(*kill, marks=pytest.mark.soak) for kill in ALL_KILLS),
    ],
)
def test_killed_before_a_call(volume: ServedVolume, calls: str, nth: int) -> None:
    """Writes in turn: a whole unit, part of one, and one over three chunks; every third is synced.

    What returned is there, what was under way is old or new in each sector, and the map has both.
    """
    sizes = [UNIT_BYTES, 3 * SECTOR_BYTES, CHUNK_BYTES + 5 * SECTOR_BYTES]
    model = bytearray(SIZE)
    attempt = (0, b"")
    written: set[int] = set()
    kill = injection(calls, f"signal=KILL:when={nth}")
    with opened(volume) as descriptor, strace(volume.pid, *kill):
        for number in range(1, 200):
            length = sizes[number % 3]
            offset = number * 37 % ((SIZE - length) // SECTOR_BYTES) * SECTOR_BYTES
            attempt = (offset, tagged(number, length))
            try:
                os.pwrite(descriptor, attempt[1], offset)
                model[offset : offset + length] = attempt[1]
                written |= set(range(offset // CHUNK_BYTES, (offset + length) // CHUNK_BYTES))
                if number % 3 == 0:
                    os.fsync(descriptor)
            except OSError:
                break
        else:
            pytest.fail("nothing killed it")
    assert volume.reap() == -signal.SIGKILL

    volume.mount()
    found = volume.file.read_bytes()
    for start in range(0, SIZE, SECTOR_BYTES):
        sector = found[start : start + SECTOR_BYTES]
        if sector != model[start : start + SECTOR_BYTES]:
            place = start - attempt[0]
            assert 0 <= place < len(attempt[1])
            assert sector == attempt[1][place : place + SECTOR_BYTES]
    marked = changed_chunks(volume)
    assert marked is not None
    different = {
        chunk
        for chunk in range(CHUNKS)
        if any(found[chunk * CHUNK_BYTES : (chunk + 1) * CHUNK_BYTES])
    }
    assert written | different <= marked
    volume.unmount()
