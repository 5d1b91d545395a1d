"""The compiled data plane's threads, descriptors, clock and bounds."""

import ctypes
import errno
import os
import select
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.file_system import disposable_file_system
from tests.plane_kernel import (
    FILE,
    GETATTR,
    IN_HEAD,
    INIT,
    LANES,
    OUT_HEAD,
    WRITE,
    WRITE_IN,
    PlaneBed,
    plane_bed,
)
from tests.volume.test_data_plane import frozen
from volcrypt.geometry import CHUNK_BYTES, UNIT_BYTES
from volcrypt.volume.plane.door import MAX_LANES, READ, Plane, Request
from volcrypt.volume.plane.door import WRITE as WRITE_RIGHT

ROOT = Path(__file__).parents[2]
BOTH = READ | WRITE_RIGHT
SIZE = 4 * CHUNK_BYTES
LARGE = 2**20
DATA = os.urandom(2 * UNIT_BYTES)
INVALIDATE_INODE = 2


@pytest.fixture
def bed(tmp_path: Path) -> Iterator[PlaneBed]:
    with plane_bed(tmp_path, size_bytes=SIZE) as bed:
        bed.plane.add_budget(2**40)
        for chunk in range(SIZE // CHUNK_BYTES):
            bed.plane.grant(chunk, BOTH)
        yield bed


def handed_on(bed: PlaneBed) -> Request:
    while (request := bed.plane.next_request()) is None:
        bed.await_event()
    return request


def threads() -> set[int]:
    return {int(name) for name in os.listdir("/proc/self/task")}


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def ask_libfuse(bed: PlaneBed) -> None:
    unique = bed.send(GETATTR, b"")
    assert IN_HEAD.unpack_from(bed.libfuse.recv(2**16))[2] == unique
    bed.libfuse.send(OUT_HEAD.pack(OUT_HEAD.size, 0, unique))
    assert bed.reply_to(unique).error == 0


# ---------------------------------------------------------------- threads


def threads_of(directory: Path, lanes: int) -> int:
    before = threads()
    with plane_bed(directory, lanes=lanes) as bed:
        for _ in range(2 * MAX_LANES):
            ask_libfuse(bed)
        return len(threads() - before)


def test_there_are_as_many_lanes_as_there_is_room_for(tmp_path: Path) -> None:
    one = threads_of(tmp_path, 1)
    more = {lanes: threads_of(tmp_path, lanes) - one for lanes in (0, 2, 7, 8, 9, 100)}
    assert more == {0: 0, 2: 1, 7: 6, 8: 6, 9: 6, 100: 6}


def test_threads_take_no_signals_of_the_process_and_leave_it_its_own(tmp_path: Path) -> None:
    numbers = {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGPIPE}
    before = threads()
    with plane_bed(tmp_path):
        assert not numbers & signal.pthread_sigmask(signal.SIG_BLOCK, ())
        for thread in threads() - before:
            status = Path(f"/proc/self/task/{thread}/status").read_text()
            blocked = int(status.partition("SigBlk:")[2].split()[0], 16)
            assert all(blocked & 1 << number - 1 for number in numbers)


def test_a_call_that_is_interrupted_is_made_again(tmp_path: Path) -> None:
    before = threads()
    with plane_bed(tmp_path) as bed:
        mine = threads() - before
        for _ in range(10):
            for thread in mine:
                ctypes.CDLL(None).tgkill(os.getpid(), thread, signal.SIGURG)
            ask_libfuse(bed)
        asked = [bed.send_read(0, UNIT_BYTES) for _ in range(LANES)]
        for unique in asked:
            bed.plane.answer_error(handed_on(bed).entry, errno.EIO)
            bed.reply_to(unique)
        assert threads() - before == mine
        assert not bed.plane.has_ended


def test_a_piece_that_the_helper_cannot_read_is_missed(bed: PlaneBed) -> None:
    """Whoever comes to the last piece, which is behind the end of the file."""
    bed.write(0, os.urandom(LARGE))
    os.truncate(bed.data, LARGE - UNIT_BYTES)
    for _ in range(100):
        unique = bed.send_read(0, LARGE)
        event = bed.plane.event_descriptor
        assert select.select([event, bed.kernel.fileno()], [], [], 5)[0] == [event]
        bed.plane.answer_error(handed_on(bed).entry, errno.EIO)
        assert bed.reply_to(unique).error == errno.EIO
        while select.select([event], [], [], 0)[0]:
            os.eventfd_read(event)


def test_no_write_begins_where_a_lane_is_reading(bed: PlaneBed) -> None:
    """Sooner or later one comes in the middle of a read, and is Python's."""
    bed.write(0, os.urandom(LARGE))
    event, kinds = bed.plane.event_descriptor, set[int]()
    deadline = time.monotonic() + 20
    while WRITE_RIGHT not in kinds:
        assert time.monotonic() < deadline
        asked = [bed.send_read(0, LARGE), bed.send_write(LARGE - len(DATA), DATA)]
        answered: list[int] = []
        while len(answered) < len(asked):
            ready = select.select([event, bed.kernel.fileno()], [], [], 5)[0]
            assert ready
            if event in ready:
                os.eventfd_read(event)
                while (request := bed.plane.next_request()) is not None:
                    kinds.add(request.kind)
                    bed.plane.answer_error(request.entry, errno.EAGAIN)
            else:
                answered.append(bed.reply().unique)
        assert sorted(answered) == asked


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with disposable_file_system(tmp_path_factory.mktemp("disk")) as made:
        yield made.directory


def kept_write(bed: PlaneBed, offset: int) -> int:
    """A write that the one lane has begun and the medium keeps. The relief, where it waits for a
    request since the one before, gives that to Python."""
    unique = bed.send_write(offset, DATA)
    deadline = time.monotonic() + 5
    while not bed.plane.is_held_up():
        assert time.monotonic() < deadline
        if (request := bed.plane.next_request()) is not None:
            bed.plane.answer_error(request.entry, errno.EAGAIN)
            bed.reply_to(unique)
            unique = bed.send_write(offset, DATA)
        time.sleep(0.001)
    return unique


def test_work_is_over_though_its_lane_is_at_other_work(disk: Path) -> None:
    with plane_bed(disk, lanes=1) as bed:
        bed.plane.add_budget(2**40)
        works = []
        for chunk in range(2):
            bed.plane.grant(chunk, BOTH)
            with frozen(disk) as let_go:
                unique = kept_write(bed, chunk * CHUNK_BYTES)
                works += bed.plane.revoke(range(chunk, chunk + 1), BOTH)
                over = [bed.plane.is_over(work) for work in works]
                let_go()
                bed.reply_to(unique)
        assert over == [True, False]


# ---------------------------------------------------------------- bounds


def test_requests_in_hand_are_bounded_by_their_bytes(bed: PlaneBed) -> None:
    """A lane that takes one at the bound goes beyond it once."""
    bed.plane.revoke_all(BOTH)
    asked = [bed.send_read(0, LARGE) for _ in range(30)]
    answered: list[int] = []
    while len(answered) < len(asked):
        waiting = []
        while select.select([bed.plane.event_descriptor], [], [], 0.1)[0]:
            os.eventfd_read(bed.plane.event_descriptor)
            while (request := bed.plane.next_request()) is not None:
                waiting.append(request.entry)
        assert 0 < len(waiting) <= 16 + LANES - 1
        for entry in waiting:
            bed.plane.answer_error(entry, errno.EIO)
        answered += [bed.reply().unique for _ in waiting]
    assert sorted(answered) == asked


def test_a_request_has_nothing_of_the_one_before_it(bed: PlaneBed) -> None:
    """Not that it is to be durable: then it would be Python's."""
    head = WRITE_IN.pack(2, 0, len(DATA), 0, 0, os.O_DSYNC, 0)
    for turn in range(8):
        unique = bed.send(WRITE, head + DATA)
        bed.plane.answer_write(handed_on(bed).entry, len(DATA))
        bed.reply_to(unique)
        for _ in range(LANES):
            assert bed.read(UNIT_BYTES, UNIT_BYTES) == bytes(UNIT_BYTES)
        assert bed.plane.counts[:2] == (LANES * (turn + 1), turn + 1)


def test_requests_in_hand_are_whole_in_every_buffer(bed: PlaneBed) -> None:
    bed.plane.revoke_all(BOTH)
    sent = {number * UNIT_BYTES: os.urandom(UNIT_BYTES) for number in range(32)}
    asked = [bed.send_write(offset, data) for offset, data in sent.items()]
    requests = [handed_on(bed) for _ in asked]
    assert {request.offset: bytes(request.data or b"") for request in requests} == sent
    for request in requests:
        bed.plane.answer_write(request.entry, UNIT_BYTES)
    assert sorted(bed.reply().unique for _ in asked) == asked


def test_libfuse_answers_no_request_of_pythons(bed: PlaneBed) -> None:
    unique = bed.send_read(0, 700)
    request = handed_on(bed)
    bed.libfuse.send(OUT_HEAD.pack(OUT_HEAD.size, 0, unique))
    ask_libfuse(bed)
    bed.plane.answer_read(request.entry, b"right")
    assert bed.reply_to(unique).body == b"right"


def test_of_a_long_agreement_the_beginning_is_kept(bed: PlaneBed) -> None:
    """And nothing else is written over."""
    asked, answer = b"\xff" * 500, b"\xee" * 600
    unique = bed.send(INIT, asked, node=0)
    bed.libfuse.recv(2**16)
    bed.libfuse.send(OUT_HEAD.pack(OUT_HEAD.size + len(answer), 0, unique) + answer)
    told = bed.reply_to(unique).body
    assert bed.plane.agreement == (asked[:64], told[:64])
    assert bed.read(0, len(DATA)) == bytes(len(DATA))
    assert bed.plane.counts[:2] == (1, 1)


def test_the_kernel_is_to_forget_the_size_and_no_data(bed: PlaneBed) -> None:
    """To forget data would wait for reads that are under way."""
    bed.plane.invalidate_attributes()
    message = bed.kernel.recv(2**16)
    length, what, unique = OUT_HEAD.unpack_from(message)
    assert (length, what, unique) == (len(message), INVALIDATE_INODE, 0)
    assert struct.unpack_from("<Qqq", message, OUT_HEAD.size) == (FILE, -1, 0)


# ---------------------------------------------------------------- what is given back


def test_descriptors_are_closed_at_the_end(tmp_path: Path) -> None:
    before = descriptors()
    for start in (True, False):
        with plane_bed(tmp_path, start=start):
            assert descriptors() > before
        assert descriptors() == before
    with pytest.raises(ValueError, match="64 bytes"):
        Plane(0, 0, 0, size_bytes=SIZE, key=bytes(32), lanes=1)
    assert descriptors() == before


def test_no_buffer_of_the_callers_is_kept(tmp_path: Path) -> None:
    """A key could not be wiped, nor memory be given back; a buffer that is kept keeps its size."""
    key, data = bytearray(range(64)), bytearray(UNIT_BYTES)
    with plane_bed(tmp_path, key=key) as bed:
        unique = bed.send_read(0, UNIT_BYTES)
        bed.plane.answer_read(handed_on(bed).entry, data)
        bed.reply_to(unique)
        descriptor = os.open(bed.data, os.O_RDWR)
        bed.plane.switch(descriptor, key)
        os.close(descriptor)
    data.clear()
    key.append(0)
    key.clear()


IN_ANOTHER_TIME = """
import sys, tempfile, time
from pathlib import Path
from tests.plane_kernel import plane_bed
with tempfile.TemporaryDirectory() as directory, plane_bed(Path(directory)) as bed:
    bed.plane.add_budget(2**40)
    bed.plane.grant(0, 3)
    assert time.clock_gettime(time.CLOCK_BOOTTIME) > time.monotonic() + 90_000
    now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    bed.plane.write_until(now + 60 * 10**9)
    bed.write(0, bytes(4096))
    bed.plane.write_until(now)
    bed.send_write(0, bytes(4096))
    bed.await_event()
    print(*bed.plane.counts[:2])
"""


def test_a_lease_runs_out_while_the_machine_is_suspended() -> None:
    """As if that had been for a day: the two clocks differ by it."""
    apart = ["unshare", "--time", "--boottime", "100000", "--fork"]
    command = [*apart, sys.executable, "-c", IN_ANOTHER_TIME]
    done = subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout == "1 1\n"
