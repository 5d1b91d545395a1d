"""What the compiled data plane keeps of keys and plaintext, and what becomes of lanes that are
busy: in a process of its own, whose memory is looked at from here."""

import errno
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.file_system import disposable_file_system
from tests.key_search import found_in_process, traces
from tests.plane_kernel import LANES, KernelEnd, kernel_and_device
from tests.volume.test_data_plane import frozen
from volcrypt.geometry import CHUNK_BYTES, UNIT_BYTES

SIZE = 4 * CHUNK_BYTES
LARGE = 2**20
WRITTEN_AT_ONCE = 256 * 1024
KEY, OTHER_KEY = os.urandom(64), os.urandom(64)
HOST = """
import select, sys
from volcrypt.crypto.xts import XtsKernel
from volcrypt.volume.plane.door import Plane

key, other_key = (bytes.fromhex(sys.stdin.readline()) for _ in range(2))
device, control, data, size_bytes, lanes = map(int, sys.argv[1:])
plane = Plane(device, control, data, size_bytes=size_bytes, key=key, lanes=lanes)
plane.add_budget(2**40)
for chunk in range(size_bytes // 2**19):
    plane.grant(chunk, 3)
plane.start()

def next_request():
    while (request := plane.next_request()) is None:
        select.select([plane.event_descriptor], [], [])
    return request

def switch_error():
    try:
        plane.switch(data, other_key)
    except OSError as error:
        return error.errno

for line in sys.stdin:
    exec(compile(line, "<test>", "single"))  # an expression is printed, unless it is None
    print("done", flush=True)
"""


@dataclass(kw_only=True)
class Host(KernelEnd):
    """A process with a plane; the test is the kernel."""

    process: subprocess.Popen[bytes]
    data: Path

    def do(self, line: str) -> str:
        """A line of Python that runs there; what it says."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()
        said = b""
        while not said.endswith(b"done\n"):
            assert select.select([self.process.stdout], [], [], 20)[0], f"it hangs: {line}"
            piece = os.read(self.process.stdout.fileno(), 2**16)
            assert piece, f"it has ended: {line}"
            said += piece
        return said.removesuffix(b"done\n").decode().strip()

    def has_key(self, key: bytes) -> bool:
        """Whether anything of its schedules is there. The beginning is the key itself, which is in
        Python's hand there."""
        wanted = {
            name: trace for name, trace in traces(key).items() if name.endswith((" 7", " 13"))
        }
        return bool(found_in_process(self.process.pid, wanted))

    def has_bytes(self, data: bytes) -> bool:
        """Whether a piece of it is there: from the beginning, the middle or the end."""
        wanted = {str(at): data[at : at + 24] for at in (0, len(data) // 2, len(data) - 24)}
        return bool(found_in_process(self.process.pid, wanted))

    def resident_kib(self) -> int:
        """Of the mapping that has the buffers, which is by far the largest of its kind."""
        maps = Path(f"/proc/{self.process.pid}/smaps").read_text().split("VmFlags:")
        sizes = [
            (int(text.partition("\nSize:")[2].split()[0]), text)
            for text in maps
            if "\nSize:" in text and " 00:00 0 " in text
        ]
        return int(max(sizes)[1].partition("\nRss:")[2].split()[0])


def until(is_so: Callable[[], bool]) -> None:
    """Nobody tells."""
    deadline = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@contextmanager
def hosted(directory: Path, *, lanes: int = LANES) -> Iterator[Host]:
    data = directory / "data"
    data.touch()
    os.truncate(data, SIZE)
    kernel, device = kernel_and_device()
    libfuse, control = kernel_and_device()
    with data.open("r+b") as file, kernel, device, libfuse, control:
        given = (device.fileno(), control.fileno(), file.fileno())
        process = subprocess.Popen(
            [sys.executable, "-c", HOST, *map(str, (*given, SIZE, lanes))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=given,
        )
        host = Host(kernel=kernel, process=process, data=data)
        try:
            assert host.do(f"{KEY.hex()}\n{OTHER_KEY.hex()}\n'it has begun'") == "'it has begun'"
            yield host
        finally:
            process.kill()
            process.communicate()


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    with hosted(tmp_path) as made:
        yield made


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with disposable_file_system(tmp_path_factory.mktemp("disk")) as made:
        yield made.directory


def test_a_key_is_gone_when_another_takes_its_place_and_at_the_end(host: Host) -> None:
    assert host.has_key(KEY)
    assert not host.has_key(OTHER_KEY)
    host.do("plane.switch(data, other_key)")
    assert not host.has_key(KEY)
    assert host.has_key(OTHER_KEY)
    assert host.do("plane.stop()") == "True"
    assert not host.has_key(OTHER_KEY)


def test_a_key_of_the_interpreters_kernel_is_gone_too(host: Host) -> None:
    host.do("kernel = XtsKernel(other_key)")
    assert host.has_key(OTHER_KEY)
    host.do("kernel.wipe()")
    assert not host.has_key(OTHER_KEY)
    host.do("kernel = XtsKernel(other_key)")
    host.do("del kernel")
    assert not host.has_key(OTHER_KEY)


def test_wiping_takes_keys_and_what_was_read(host: Host) -> None:
    data = os.urandom(3 * UNIT_BYTES)
    host.write(0, data)
    assert not host.has_bytes(data)  # it was encrypted in place
    assert host.read(0, len(data)) == data
    assert host.has_bytes(data)
    assert host.do("plane.wipe()") == "0"
    assert not host.has_bytes(data)
    assert not host.has_key(KEY)


def test_a_write_of_pythons_leaves_no_plaintext(host: Host) -> None:
    for answer in ("answer_error(request.entry, 28)", "answer_write(request.entry, 1)"):
        data = os.urandom(3 * UNIT_BYTES)
        host.do("works = plane.revoke_all(3)")
        asked = host.send_write(0, data)
        host.do("request = next_request()")
        assert host.has_bytes(data)
        host.do(f"plane.{answer}")
        assert host.reply_to(asked).unique == asked
        assert not host.has_bytes(data)


def test_behind_a_fence_a_write_goes_no_further_and_its_lane_wipes_itself(disk: Path) -> None:
    """What of it comes after the piece that the medium keeps; it is not even there as plaintext."""
    data = os.urandom(2 * WRITTEN_AT_ONCE)
    with hosted(disk, lanes=1) as host:
        with frozen(disk) as let_go:
            asked = host.send_write(0, data)
            until(lambda: host.do("plane.is_held_up()") == "True")
            host.do("(work,) = plane.revoke_all(3)")
            host.do("plane.fence()")
            host.do("plane.give_up()")
            assert host.reply_to(asked).error
            assert host.do("plane.wipe()") == "1"
            assert host.has_key(KEY)
            let_go()
        until(lambda: host.do("plane.is_over(work)") == "True")
        assert not host.has_key(KEY)
        assert not host.has_bytes(data)
        assert not any(host.data.read_bytes()[WRITTEN_AT_ONCE:])
        assert host.is_silent()


def test_lanes_whose_replies_have_to_wait_are_busy_and_answer_once(host: Host) -> None:
    data = os.urandom(LARGE)
    host.write(0, data)
    asked: list[int] = []
    while int(host.do("plane.counts.fast")) == 1 + len(asked):
        asked.append(host.send_read(0, LARGE))
        # Counted before it is answered, so one that is not is one that no lane has taken.
        deadline = time.monotonic() + 0.3
        while int(host.do("plane.counts.fast")) == len(asked) and time.monotonic() < deadline:
            pass
    later = asked.pop()
    assert host.do("len(plane.revoke_all(1))") == str(LANES)
    assert host.do("switch_error()") == str(errno.EBUSY)
    assert host.do("plane.wipe()") == str(LANES)
    host.do("plane.fence()")
    host.do("plane.give_up()")
    for unique in asked:
        reply = host.reply()
        assert (reply.error, reply.body == data) == (0, True), unique
    host.do(f"plane.answer_error(next_request().entry, {errno.EIO})")
    assert host.reply_to(later).error == errno.EIO
    assert host.is_silent()


def test_buffers_that_requests_are_read_into_stay_in_memory(host: Host) -> None:
    """So that who takes over after a kill finds no request that a page fault has ended."""
    kept_kib = (8 + LANES + 1) * (LARGE + 4096) // 1024
    assert host.resident_kib() >= kept_kib
    host.do("works = plane.revoke_all(3)")
    for _ in range(3):
        asked = host.send_write(0, os.urandom(LARGE))
        host.do("plane.answer_error(next_request().entry, 28)")
        host.reply_to(asked)
    assert host.resident_kib() >= kept_kib
