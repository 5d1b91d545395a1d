"""The count of what is encrypted under a data key: never too low, whoever is killed, and exact
after orderly ends."""

import fcntl
import logging
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.fakes.datafile import MemoryDataFile
from tests.syncs import recorded_syncs
from volcrypt.crypto.data_key import DataKey
from volcrypt.formats.write_count import WriteCount, encode_write_count
from volcrypt.names import DataKeyId
from volcrypt.volume.volume import Volume
from volcrypt.volume.write_counter import (
    BUDGET_BYTES,
    STEP_BYTES,
    WriteCounter,
    add_to_count,
    raise_count,
    read_count,
)

KEY_ID = DataKeyId("dk-0123456789abcdef0")
STEP = 1000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / KEY_ID


def test_the_count_is_ahead_of_every_write(path: Path) -> None:
    counter, spent = WriteCounter(path, step_bytes=STEP), 0
    for size in (1, 998, 1, 1, 5000, 3, 999, 1, 0, 2500):
        counter.spend(size)
        spent += size
        assert spent <= read_count(path) <= spent + 2 * STEP
        counter.renew()
        assert spent <= read_count(path) <= spent + 2 * STEP
    counter.close()
    counter.close()
    assert read_count(path) == spent


def test_flushes_take_room_before_it_is_used_up(path: Path) -> None:
    counter = WriteCounter(path, step_bytes=STEP)
    counter.renew()
    assert not path.exists()
    counter.spend(1)
    assert read_count(path) == STEP + 1
    counter.spend(400)
    counter.renew()
    assert read_count(path) == STEP + 1
    counter.spend(200)
    counter.renew()
    assert read_count(path) == 2 * STEP + 1
    counter.spend(1100)  # no need to wait here
    assert read_count(path) == 2 * STEP + 1


def test_who_never_writes_leaves_nothing(path: Path) -> None:
    counter = WriteCounter(path)
    counter.renew()
    counter.close()
    assert not path.exists()
    assert read_count(path) == 0


def test_volumes_that_share_a_data_key_share_the_count(path: Path) -> None:
    first, second = WriteCounter(path, step_bytes=STEP), WriteCounter(path, step_bytes=STEP)
    for number in range(100):
        first.spend(70)
        second.spend(30)
        assert read_count(path) >= (number + 1) * 100
    first.close()
    second.spend(1)
    assert read_count(path) >= 10_001
    second.close()
    assert read_count(path) == 10_001


def test_threads(path: Path) -> None:
    counter = WriteCounter(path, step_bytes=10_000)

    def spend() -> None:
        for number in range(5000):
            counter.spend(3)
            if not number % 100:
                counter.renew()

    threads = [threading.Thread(target=spend) for _ in range(8)]
    previous = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(previous)
    assert read_count(path) >= 8 * 15_000
    counter.close()
    assert read_count(path) == 8 * 15_000


def test_a_count_is_raised_and_never_lowered(path: Path) -> None:
    raise_count(path, 500)
    raise_count(path, 400)
    assert read_count(path) == 500
    assert add_to_count(path, 100) == 600


@pytest.mark.parametrize("damage", ["cut", "flipped", "another key's", "a pipe", "a directory"])
def test_what_is_not_known_counts_as_used_up(path: Path, damage: str) -> None:
    data = encode_write_count(WriteCount(data_key_id=KEY_ID, written_bytes=5))
    match damage:
        case "cut":
            path.write_bytes(data[:100])
        case "flipped":
            path.write_bytes(data.replace(b":5}", b":4}"))
        case "another key's":
            other = WriteCount(data_key_id=DataKeyId("dk-00000000000000000"), written_bytes=5)
            path.write_bytes(encode_write_count(other))
        case "a pipe":
            os.mkfifo(path)
        case "a directory":
            path.mkdir()
    assert read_count(path) == BUDGET_BYTES
    if path.is_file():
        assert add_to_count(path, 7) == BUDGET_BYTES + 7
        assert read_count(path) == BUDGET_BYTES + 7


def test_processes_take_turns(path: Path) -> None:
    add_to_count(path, 1)
    with path.open("rb+") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        inode = os.fstat(other.fileno()).st_ino
        adding = threading.Thread(target=add_to_count, args=(path, 5))
        adding.start()
        waits = re.compile(rf"-> FLOCK .*:{inode} ")
        while adding.is_alive() and not waits.search(Path("/proc/locks").read_text()):
            pass
        other.write(encode_write_count(WriteCount(data_key_id=KEY_ID, written_bytes=100)))
        other.flush()
        fcntl.flock(other, fcntl.LOCK_UN)
        adding.join()
    assert read_count(path) == 105


def test_the_count_is_durable_and_at_first_its_name(path: Path) -> None:
    with recorded_syncs() as synced:
        add_to_count(path, 1)
        add_to_count(path, 1)
        raise_count(path, 3)
        raise_count(path, 3)
    assert synced == [path.parent, path, path, path]


def test_a_file_that_was_made_and_not_written_counts_nothing(path: Path) -> None:
    path.touch()
    assert read_count(path) == 0
    assert add_to_count(path, 7) == 7


def test_a_count_that_cannot_be_written_stops_no_write(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path.mkdir()
    counter = WriteCounter(path, step_bytes=STEP)
    with caplog.at_level(logging.WARNING):
        for _ in range(10):
            counter.spend(500)
            counter.renew()
    assert [record.getMessage().split(":")[0] for record in caplog.records] == [
        "what is written under the data key is not counted"
    ]
    path.rmdir()
    counter.renew()
    assert read_count(path) >= 5000
    counter.spend(STEP)
    counter.close()
    assert read_count(path) == 6000


def test_without_a_flush_the_end_makes_up_for_it(path: Path) -> None:
    path.mkdir()
    counter = WriteCounter(path, step_bytes=STEP)
    counter.spend(500)
    counter.spend(500)
    path.rmdir()
    counter.close()
    assert read_count(path) == 1000


def test_the_log_says_once_that_the_budget_is_used_up(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    raise_count(path, BUDGET_BYTES // 2 - 10)
    counter = WriteCounter(path, step_bytes=STEP)
    with caplog.at_level(logging.WARNING):
        for _ in range(5):
            counter.spend(STEP)
        assert [record.getMessage() for record in caplog.records] == [
            f"128 TiB of the 256 TiB that one data key should encrypt are written under {KEY_ID}"
        ]
        raise_count(path, BUDGET_BYTES)
        for _ in range(5):
            counter.spend(STEP)
        assert len(caplog.records) == 2
        assert caplog.records[1].getMessage().startswith("256 TiB of the 256 TiB")


def test_a_volume_counts_whole_units_before_it_writes(path: Path) -> None:
    counter = WriteCounter(path)
    storage = Spy(path)
    key = DataKey(bytearray(range(64)))
    volume = Volume(storage, size_bytes=2**20, data_key=key, changes=None, written=counter)
    volume.write(0, bytes(4096))
    volume.write(4095, b"ab")
    volume.write(100, b"")
    volume.read_into(0, bytearray(4096))
    assert storage.counts == [STEP_BYTES + 4096] * 2
    volume.flush()
    volume.close()
    counter.close()
    assert read_count(path) == 4096 + 8192


class Spy(MemoryDataFile):
    """A data file that looks at the count when it is written to."""

    def __init__(self, path: Path) -> None:
        super().__init__(2**20)
        self._path = path
        self.counts: list[int] = []

    def write(self, offset: int, data: object) -> None:
        self.counts.append(read_count(self._path))
        super().write(offset, data)  # type: ignore[arg-type]


PROGRAM = """
import sys
from pathlib import Path
from volcrypt.volume.write_counter import WriteCounter
counter = WriteCounter(Path(sys.argv[1]), step_bytes=1000)
for number in range(int(sys.argv[2])):
    counter.spend(130)
    sys.stdout.write(".")
    sys.stdout.flush()
    if number % 3 == 0:
        counter.renew()
counter.close()
print("closed")
"""


def run(path: Path, writes: int, prefix: list[str]) -> tuple[int, bool, int]:
    """Bytes that were spent before the end, whether it was orderly, and the exit code."""
    done = subprocess.run(
        [*prefix, sys.executable, "-c", PROGRAM, path, str(writes)],
        capture_output=True,
        check=False,
    )
    return done.stdout.count(b".") * 130, b"closed" in done.stdout, done.returncode


@pytest.mark.parametrize("call", ["pwrite64", "fdatasync", "openat", "fsync"])
def test_killed_at_every_step_the_count_is_never_too_low(path: Path, call: str) -> None:
    """One after the other on the same count, as on one volume that is killed again and again."""
    total = slack = 0
    number = 1
    while True:
        if call == "openat":
            inject = f"inject=openat:signal=KILL:when={number}"
            trace = ["-P", str(path), "-P", path.name]  # its name in its directory, too
        else:
            inject = f"inject={call}:signal=KILL:when={number}"
            trace = []
        log = path.with_suffix(".log")
        prefix = ["strace", "-f", "-o", str(log), *trace, "-e", f"trace={call}", "-e", inject]
        before = read_count(path)
        spent, is_orderly, code = run(path, 16, prefix)
        total += spent
        slack += 0 if is_orderly else 2 * 1000 + 130
        assert before + spent <= read_count(path)
        assert total <= read_count(path) <= total + slack
        if is_orderly:
            break
        assert code in (-signal.SIGKILL, 128 + signal.SIGKILL)
        number += 1
    assert number > (1 if call == "fsync" else 3)
