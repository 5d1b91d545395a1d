"""The compiled data plane, between a test that is the kernel and libfuse to it."""

import errno
import os
import resource
import select
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.plane_kernel import (
    FALLOCATE,
    FALLOCATE_IN,
    GETATTR,
    IN_HEAD,
    INIT,
    INTERRUPT,
    KEEP_SIZE,
    LANES,
    OPEN,
    OUT_HEAD,
    PUNCH_HOLE,
    READ_IN,
    WRITE,
    WRITE_IN,
    ZERO_RANGE,
    PlaneBed,
    plane_bed,
)
from tests.plane_kernel import READ as READ_REQUEST
from volcrypt.crypto.xts import XtsKernel
from volcrypt.geometry import CHUNK_BYTES, SECTOR_BYTES, UNIT_BYTES
from volcrypt.volume.plane.door import DISCARD, READ, Plane, Request
from volcrypt.volume.plane.door import WRITE as WRITE_RIGHT

BOTH = READ | WRITE_RIGHT
SIZE = 4 * 2**20
DATA = os.urandom(2 * UNIT_BYTES)


@pytest.fixture
def bed(tmp_path: Path) -> Iterator[PlaneBed]:
    with plane_bed(tmp_path, size_bytes=SIZE) as bed:
        bed.plane.add_budget(2**40)
        yield bed


def handed_on(bed: PlaneBed) -> Request:
    """What comes to Python next."""
    while (request := bed.plane.next_request()) is None:
        bed.await_event()
    return request


def file_beside(bed: PlaneBed, content: bytes | bytearray) -> int:
    path = bed.data.with_name("data.next")
    path.write_bytes(content)
    return os.open(path, os.O_RDWR)


def is_open(path: Path) -> bool:
    links = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
    return str(path) in map(os.path.realpath, links)


@pytest.mark.parametrize("key", [None, bytes(range(1, 65))], ids=["clear", "encrypted"])
def test_it_goes_over_to_another_file_and_key(bed: PlaneBed, key: bytes | None) -> None:
    bed.plane.grant(0, BOTH)
    bed.write(0, DATA)
    assert is_open(bed.data)
    stored = bytearray(DATA + bytes(SIZE - len(DATA)))
    if key is not None:
        used = memoryview(stored)[: len(DATA)]
        XtsKernel(key).encrypt_units(0, used, used)
    descriptor = file_beside(bed, stored)
    before = bed.data.read_bytes()
    bed.plane.switch(descriptor, key)
    os.close(descriptor)
    assert not is_open(bed.data)
    assert not bed.plane.rights(0)
    bed.plane.grant(0, BOTH)
    assert bed.read(0, len(DATA)) == DATA
    bed.write(UNIT_BYTES, DATA)
    written = bytearray(DATA)
    if key is not None:
        XtsKernel(key).encrypt_units(1, written, written)
    found = bed.data.with_name("data.next").read_bytes()
    assert found[UNIT_BYTES : UNIT_BYTES + len(DATA)] == written
    assert bed.data.read_bytes() == before
    assert (bed.plane.counts.fast, bed.plane.counts.handed_on) == (3, 0)


def test_behind_a_fence_it_goes_over_to_nothing(bed: PlaneBed) -> None:
    descriptor = file_beside(bed, bytes(SIZE))
    with pytest.raises(OSError, match="Invalid argument"):
        bed.plane.switch(descriptor, bytes(63))
    bed.plane.fence()
    with pytest.raises(OSError, match="not permitted"):
        bed.plane.switch(descriptor, None)
    os.close(descriptor)
    assert is_open(bed.data)
    assert not is_open(bed.data.with_name("data.next"))


# ---------------------------------------------------------------- fast


@pytest.mark.parametrize("offset", [0, 3 * UNIT_BYTES, CHUNK_BYTES - UNIT_BYTES, SIZE - len(DATA)])
def test_what_is_granted_is_answered_without_python(bed: PlaneBed, offset: int) -> None:
    for chunk in range(SIZE // CHUNK_BYTES):
        bed.plane.grant(chunk, BOTH)
    bed.write(offset, DATA)
    assert bed.stored(offset, len(DATA)) == DATA
    assert bed.read(offset, len(DATA)) == DATA
    assert bed.plane.counts == (2, 0, len(DATA), len(DATA))
    for kind in (READ, WRITE_RIGHT):
        assert sum(bed.plane.latencies(kind).requests) == 1


def test_large_requests_are_one_whoever_works_on_them(bed: PlaneBed) -> None:
    for chunk in range(SIZE // CHUNK_BYTES):
        bed.plane.grant(chunk, BOTH)
    for size in (2**18 - UNIT_BYTES, 2**18, 2**19 + UNIT_BYTES, 2**20):
        for turn in range(8):
            offset, data = turn * 5 * UNIT_BYTES, os.urandom(size)
            bed.write(offset, data)
            assert bed.stored(offset, size) == data
            assert bed.read(offset, size) == data
    assert bed.plane.counts[:2] == (64, 0)


def test_holes_read_zeros_sector_by_sector(bed: PlaneBed) -> None:
    bed.plane.grant(0, BOTH)
    bed.write(0, DATA)
    with bed.data.open("r+b") as file:
        file.seek(SECTOR_BYTES)
        file.write(bytes(SECTOR_BYTES))
    expected = DATA[:SECTOR_BYTES] + bytes(SECTOR_BYTES) + DATA[2 * SECTOR_BYTES :]
    assert bed.read(0, len(DATA)) == expected
    assert bed.read(len(DATA), UNIT_BYTES) == bytes(UNIT_BYTES)


def test_an_unencrypted_volume(tmp_path: Path) -> None:
    with plane_bed(tmp_path, encrypted=False) as bed:
        bed.plane.add_budget(2**40)
        bed.plane.grant(0, BOTH)
        bed.write(UNIT_BYTES, DATA)
        assert bed.data.read_bytes()[UNIT_BYTES:][: len(DATA)] == DATA
        assert bed.read(UNIT_BYTES, len(DATA)) == DATA


# ---------------------------------------------------------------- what is handed on


def write_ungranted(bed: PlaneBed) -> int:
    bed.plane.grant(0, READ)
    return bed.send_write(0, DATA)


def read_ungranted(bed: PlaneBed) -> int:
    bed.plane.grant(0, WRITE_RIGHT)
    return bed.send_read(0, UNIT_BYTES)


def read_half_granted(bed: PlaneBed) -> int:
    bed.plane.grant(0, BOTH)
    return bed.send_read(CHUNK_BYTES - UNIT_BYTES, 2 * UNIT_BYTES)


def read_of_another_chunk_in_the_same_place(bed: PlaneBed) -> int:
    bed.plane.grant(2**20, BOTH)
    return bed.send_read(0, UNIT_BYTES)


def read_a_part_of_a_unit(bed: PlaneBed) -> int:
    bed.plane.grant(0, BOTH)
    return bed.send_read(0, SECTOR_BYTES)


def read_from_inside_a_unit(bed: PlaneBed) -> int:
    bed.plane.grant(0, BOTH)
    return bed.send_read(SECTOR_BYTES, UNIT_BYTES)


def read_nothing(bed: PlaneBed) -> int:
    bed.plane.grant(0, BOTH)
    return bed.send_read(0, 0)


def read_over_the_end(bed: PlaneBed) -> int:
    for chunk in range(SIZE // CHUNK_BYTES - 1, SIZE // CHUNK_BYTES + 1):
        bed.plane.grant(chunk, BOTH)
    return bed.send_read(SIZE - UNIT_BYTES, 2 * UNIT_BYTES)


def read_far_behind_the_end(bed: PlaneBed) -> int:
    bed.plane.grant((1 << 45) // CHUNK_BYTES, BOTH)
    return bed.send_read(1 << 45, UNIT_BYTES)


def write_behind_the_end(bed: PlaneBed) -> int:
    bed.plane.grant(SIZE // CHUNK_BYTES, BOTH)
    return bed.send_write(SIZE, DATA)


def write_beyond_the_budget(bed: PlaneBed) -> int:
    bed.plane.grant(0, BOTH)
    bed.plane.add_budget(len(DATA) - 1 - bed.plane.add_budget(0))
    return bed.send_write(0, DATA)


def write_when_refused(bed: PlaneBed) -> int:
    bed.plane.grant(0, BOTH)
    bed.plane.refuse_writes()
    bed.plane.grant(0, BOTH)
    return bed.send_write(0, DATA)


def write_at_the_deadline(bed: PlaneBed) -> int:
    bed.plane.grant(0, BOTH)
    bed.plane.write_until(time.clock_gettime_ns(time.CLOCK_BOOTTIME))
    return bed.send_write(0, DATA)


def read_when_fenced(bed: PlaneBed) -> int:
    bed.plane.grant(0, BOTH)
    bed.plane.fence()
    return bed.send_read(0, UNIT_BYTES)


def read_when_wiped(bed: PlaneBed) -> int:
    bed.plane.grant(0, BOTH)
    assert bed.plane.wipe() == 0
    return bed.send_read(0, UNIT_BYTES)


def read_what_was_revoked(bed: PlaneBed) -> int:
    bed.plane.grant(0, BOTH)
    assert bed.plane.revoke(range(1), READ) == []
    assert bed.plane.rights(0) == WRITE_RIGHT
    return bed.send_read(0, UNIT_BYTES)


def read_when_all_was_revoked(bed: PlaneBed) -> int:
    bed.plane.grant(0, BOTH)
    assert bed.plane.revoke_all(BOTH) == []
    assert bed.plane.rights(0) == 0
    return bed.send_read(0, UNIT_BYTES)


HANDED_ON = [
    write_ungranted,
    read_ungranted,
    read_half_granted,
    read_of_another_chunk_in_the_same_place,
    read_a_part_of_a_unit,
    read_from_inside_a_unit,
    read_nothing,
    read_over_the_end,
    read_far_behind_the_end,
    write_behind_the_end,
    write_beyond_the_budget,
    write_when_refused,
    write_at_the_deadline,
    read_when_fenced,
    read_when_wiped,
    read_what_was_revoked,
    read_when_all_was_revoked,
]


@pytest.mark.parametrize("ask", HANDED_ON)
def test_everything_else_is_pythons(bed: PlaneBed, ask: Callable[[PlaneBed], int]) -> None:
    unique = ask(bed)
    request = handed_on(bed)
    if request.data is not None:
        assert bytes(request.data) == DATA
        bed.plane.answer_write(request.entry, 5)
        assert bed.reply_to(unique).body[:4] == struct.pack("<I", 5)
    else:
        bed.plane.answer_read(request.entry, b"x" * min(3, request.size))
        assert bed.reply_to(unique).body == b"x" * min(3, request.size)
    assert bed.plane.counts == (0, 1, 0, 0)
    assert bed.stored(0, UNIT_BYTES) == bytes(UNIT_BYTES)


def test_a_write_of_which_a_part_was_done_is_handed_on_as_it_was(bed: PlaneBed) -> None:
    bed.plane.grant(1, BOTH)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # What lies across the limit is written up to there.
    resource.setrlimit(resource.RLIMIT_FSIZE, (CHUNK_BYTES + UNIT_BYTES, hard))
    try:
        unique = bed.send_write(CHUNK_BYTES, DATA)
        request = handed_on(bed)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert request.data is not None
    assert bytes(request.data) == DATA
    assert bed.plane.counts == (0, 1, 0, 0)
    bed.plane.answer_error(request.entry, errno.ENOSPC)
    assert bed.reply_to(unique).error == errno.ENOSPC


@pytest.mark.parametrize("size", [2 * UNIT_BYTES, CHUNK_BYTES])
def test_a_write_that_fails_is_handed_on_as_it_was(tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    with plane_bed(tmp_path, writable=False) as bed:
        bed.plane.add_budget(2**40)
        bed.plane.grant(0, BOTH)
        unique = bed.send_write(0, data)
        request = handed_on(bed)
        assert request.data is not None
        assert bytes(request.data) == data
        bed.plane.answer_error(request.entry, errno.ENOSPC)
        assert bed.reply_to(unique).error == errno.ENOSPC


@pytest.mark.parametrize("flags", [os.O_DSYNC, os.O_SYNC | os.O_WRONLY])
@pytest.mark.parametrize("handle", [2, 3])
def test_a_write_that_asks_to_be_durable_is_pythons(bed: PlaneBed, flags: int, handle: int) -> None:
    """One that does not is not, whoever else has the file open."""
    bed.plane.grant(0, BOTH)
    head = WRITE_IN.pack(handle, 0, len(DATA), 0, 0, flags, 0)
    unique = bed.send(WRITE, head + DATA)
    request = handed_on(bed)
    assert (request.kind, request.mode) == (WRITE_RIGHT, os.O_DSYNC)
    bed.plane.answer_write(request.entry, len(DATA))
    assert bed.reply_to(unique).error == 0
    unique = bed.send_write(0, DATA, handle=handle)
    assert bed.reply_to(unique).error == 0
    assert bed.plane.counts[:2] == (1, 1)


def test_a_read_of_a_file_that_was_cut_is_handed_on(bed: PlaneBed) -> None:
    bed.plane.grant(0, BOTH)
    os.truncate(bed.data, UNIT_BYTES)
    bed.send_read(0, 2 * UNIT_BYTES)
    bed.plane.answer_error(handed_on(bed).entry, errno.EIO)


def test_two_chunks_in_one_place_displace_each_other(bed: PlaneBed) -> None:
    bed.plane.grant(1, BOTH)
    bed.plane.grant(1 + 2**20, READ)
    assert (bed.plane.rights(1), bed.plane.rights(1 + 2**20)) == (0, READ)
    assert bed.plane.revoke(range(1, 2), BOTH) == []
    assert bed.plane.rights(1 + 2**20) == READ


def test_growth_is_served_when_it_is_published(bed: PlaneBed) -> None:
    os.truncate(bed.data, SIZE + CHUNK_BYTES)
    bed.plane.set_size(SIZE + CHUNK_BYTES)
    bed.plane.grant(SIZE // CHUNK_BYTES, BOTH)
    bed.write(SIZE, DATA)
    assert bed.read(SIZE, len(DATA)) == DATA


def test_the_budget_is_spent(bed: PlaneBed) -> None:
    bed.plane.grant(0, BOTH)
    before = bed.plane.add_budget(0)
    bed.write(0, DATA)
    bed.read(0, len(DATA))
    assert bed.plane.add_budget(0) == before - len(DATA)


def test_a_deadline_is_for_writes_alone_and_may_be_later_again(bed: PlaneBed) -> None:
    bed.plane.grant(0, BOTH)
    bed.plane.write_until(0)
    assert bed.read(0, len(DATA)) == bytes(len(DATA))
    assert bed.plane.counts[:2] == (1, 0)
    bed.plane.write_until(time.clock_gettime_ns(time.CLOCK_BOOTTIME) + 60 * 10**9)
    bed.write(0, DATA)
    assert bed.plane.counts[:2] == (2, 0)


# ---------------------------------------------------------------- discards


@pytest.fixture
def discarding(tmp_path: Path) -> Iterator[PlaneBed]:
    with plane_bed(tmp_path, size_bytes=SIZE, takes_discards=True, drops_zeros=True) as bed:
        bed.plane.add_budget(2**40)
        bed.plane.grant(0, BOTH)
        yield bed


@pytest.mark.parametrize(
    ("offset", "size"),
    [(0, 1), (700, UNIT_BYTES), (SIZE, 1), (0, 2**63 - 1), (2**62, 2**62 - 1), (2**63 - 2, 1)],
)
@pytest.mark.parametrize("mode", [PUNCH_HOLE | KEEP_SIZE, ZERO_RANGE, ZERO_RANGE | KEEP_SIZE])
def test_discards_are_pythons(discarding: PlaneBed, offset: int, size: int, mode: int) -> None:
    bed = discarding
    first = bed.send_discard(offset, size, mode=mode)
    request = handed_on(bed)
    assert request[1:] == (DISCARD, offset, size, None, mode)
    with pytest.raises(ValueError, match="not the answer"):
        bed.plane.answer_read(request.entry, b"x")
    bed.plane.answer_discard(request.entry)
    reply = bed.reply_to(first)
    assert (reply.error, reply.body) == (0, b"")
    second = bed.send_discard(offset, size, mode=mode)
    bed.plane.answer_error(handed_on(bed).entry, errno.ENOSPC)
    assert bed.reply_to(second).error == errno.ENOSPC
    assert bed.plane.counts[:2] == (0, 2)


def test_a_discard_under_way_keeps_nobody_from_anything(discarding: PlaneBed) -> None:
    """Of whatever size: it takes no memory."""
    bed = discarding
    uniques = [bed.send_discard(0, 2**62) for _ in range(3)]
    entries = [handed_on(bed).entry for _ in uniques]
    bed.write(0, DATA)
    assert bed.read(0, len(DATA)) == DATA
    for entry in entries:
        bed.plane.answer_discard(entry)
    assert {bed.reply().unique for _ in uniques} == {*uniques}


PUNCH = PUNCH_HOLE | KEEP_SIZE
BAD_DISCARDS = [
    (FALLOCATE_IN.pack(2, 0, UNIT_BYTES, PUNCH, 0)[:-1], errno.EIO, {}),
    (FALLOCATE_IN.pack(2, 0, UNIT_BYTES, PUNCH, 0) + b"x", errno.EIO, {}),
    (b"", errno.EIO, {}),
    (FALLOCATE_IN.pack(4, 0, UNIT_BYTES, PUNCH, 0), errno.EIO, {}),
    (FALLOCATE_IN.pack(2, 0, UNIT_BYTES, PUNCH, 0), errno.EIO, {"node": 1}),
    (FALLOCATE_IN.pack(2, 0, UNIT_BYTES, PUNCH, 0), errno.EIO, {"length": 41}),
    (FALLOCATE_IN.pack(2, 0, 0, PUNCH, 0), errno.EINVAL, {}),
    (FALLOCATE_IN.pack(2, 2**63 - 1, 1, PUNCH, 0), errno.EFBIG, {}),
    (FALLOCATE_IN.pack(2, 2**63, 1, PUNCH, 0), errno.EFBIG, {}),
    (FALLOCATE_IN.pack(2, 1, 2**63 - 1, PUNCH, 0), errno.EFBIG, {}),
    (FALLOCATE_IN.pack(2, 2**64 - 1, 2**64 - 1, PUNCH, 0), errno.EFBIG, {}),
    (FALLOCATE_IN.pack(2, UNIT_BYTES, 2**64 - UNIT_BYTES, PUNCH, 0), errno.EFBIG, {}),
    *(
        (FALLOCATE_IN.pack(2, 0, UNIT_BYTES, mode, 0), errno.EOPNOTSUPP, {})
        for mode in (0, KEEP_SIZE, PUNCH_HOLE, PUNCH | ZERO_RANGE, PUNCH | 8, 8, 32, 2**31 | PUNCH)
    ),
]


@pytest.mark.parametrize(("body", "number", "options"), BAD_DISCARDS)
def test_what_is_no_discard_is_refused(
    discarding: PlaneBed, body: bytes, number: int, options: dict[str, int]
) -> None:
    """Never with ENOSYS, after which the kernel would ask for no other."""
    bed = discarding
    assert bed.reply_to(bed.send(FALLOCATE, body, **options)).error == number
    assert bed.plane.next_request() is None
    assert bed.plane.counts[:2] == (0, 0)
    bed.write(0, DATA)


def test_who_takes_no_discards_leaves_them_to_libfuse(bed: PlaneBed) -> None:
    """It has none, and says ENOSYS."""
    unique = bed.send_discard(0, UNIT_BYTES)
    assert IN_HEAD.unpack_from(bed.libfuse.recv(2**16))[1:3] == (FALLOCATE, unique)
    assert bed.plane.next_request() is None


ZEROS, ONE = bytes(UNIT_BYTES), bytes(UNIT_BYTES - 1) + b"x"


@pytest.mark.parametrize("data", [ZEROS, ZEROS + ONE, ONE + ZEROS, ONE + ZEROS + ONE])
def test_a_unit_of_zeros_is_never_written_fast_where_they_are_dropped(
    discarding: PlaneBed, data: bytes
) -> None:
    bed = discarding
    unique = bed.send_write(0, data)
    request = handed_on(bed)
    assert request.data is not None
    assert bytes(request.data) == data
    bed.plane.answer_write(request.entry, len(data))
    bed.reply_to(unique)
    assert bed.plane.counts[:2] == (0, 1)


def test_other_writes_are_fast_there_and_zeros_elsewhere(bed: PlaneBed, tmp_path: Path) -> None:
    bed.plane.grant(0, BOTH)
    bed.write(0, ZEROS)
    assert bed.plane.counts[:2] == (1, 0)
    other = tmp_path / "other"
    other.mkdir()
    with plane_bed(other, size_bytes=SIZE, drops_zeros=True) as dropping:
        dropping.plane.add_budget(2**40)
        dropping.plane.grant(0, BOTH)
        dropping.write(0, ONE + ONE)
        assert dropping.plane.counts[:2] == (1, 0)


# ---------------------------------------------------------------- one reply for each request


MALFORMED = [
    (READ_REQUEST, READ_IN.pack(2, 0, UNIT_BYTES, 0, 0, 0, 0)[:-1], {}),
    (READ_REQUEST, READ_IN.pack(2, 0, UNIT_BYTES, 0, 0, 0, 0) + b"x", {}),
    (READ_REQUEST, READ_IN.pack(2, 0, UNIT_BYTES, 0, 0, 0, 0), {"node": 1}),
    (READ_REQUEST, READ_IN.pack(4, 0, UNIT_BYTES, 0, 0, 0, 0), {}),
    (READ_REQUEST, READ_IN.pack(2, 0, 2**20 + UNIT_BYTES, 0, 0, 0, 0), {}),
    (READ_REQUEST, READ_IN.pack(2, 0, 2**32 - UNIT_BYTES, 0, 0, 0, 0), {}),
    (READ_REQUEST, READ_IN.pack(2, 2**64 - UNIT_BYTES, 2 * UNIT_BYTES, 0, 0, 0, 0), {}),
    (READ_REQUEST, READ_IN.pack(2, 2**63 - UNIT_BYTES, UNIT_BYTES, 0, 0, 0, 0), {}),
    (READ_REQUEST, READ_IN.pack(2, 0, UNIT_BYTES, 0, 0, 0, 0), {"length": 41}),
    (READ_REQUEST, b"", {}),
    (WRITE, WRITE_IN.pack(2, 0, UNIT_BYTES, 0, 0, 0, 0), {}),
    (WRITE, WRITE_IN.pack(2, 0, 3, 0, 0, 0, 0) + b"four", {}),
    (WRITE, WRITE_IN.pack(2, 0, 2**32 - 1, 0, 0, 0, 0) + DATA, {}),
    (WRITE, WRITE_IN.pack(9, 0, len(DATA), 0, 0, 0, 0) + DATA, {}),
    (WRITE, WRITE_IN.pack(2, 0, 0, 0, 0, 0, 0)[:-1], {}),
    (WRITE, b"", {}),
    (GETATTR, bytes(16), {"length": 2**32 - 1}),
    (GETATTR, bytes(16), {"length": 0}),
]


@pytest.mark.parametrize(("opcode", "body", "options"), MALFORMED)
def test_what_no_kernel_sends_is_an_error_and_not_the_end(
    bed: PlaneBed, opcode: int, body: bytes, options: dict[str, int]
) -> None:
    bed.plane.grant(0, BOTH)
    unique = bed.send(opcode, body, **options)
    assert bed.reply_to(unique).error == errno.EIO
    bed.kernel.send(b"less than a header")
    assert bed.read(0, UNIT_BYTES) == bytes(UNIT_BYTES)
    assert bed.plane.counts == (1, 0, UNIT_BYTES, 0)
    assert bed.is_silent()


def test_other_requests_go_to_libfuse_and_its_replies_back(bed: PlaneBed) -> None:
    unique = bed.send(GETATTR, b"body")
    message = bed.libfuse.recv(2**16)
    assert IN_HEAD.unpack_from(message)[:3] == (IN_HEAD.size + 4, GETATTR, unique)
    assert message[IN_HEAD.size :] == b"body"
    reply(bed, unique, b"reply")
    assert bed.reply_to(unique).body == b"reply"


def reply(bed: PlaneBed, unique: int, body: bytes, *, length: int | None = None) -> None:
    length = OUT_HEAD.size + len(body) if length is None else length
    bed.libfuse.send(OUT_HEAD.pack(length, 0, unique) + body)


def test_replies_to_nobody_and_notifications_go_nowhere(bed: PlaneBed) -> None:
    unique = bed.send(GETATTR, b"")
    bed.libfuse.recv(2**16)
    reply(bed, unique + 2, b"of another request")
    reply(bed, 0, b"a notification")
    bed.libfuse.send(b"short")
    reply(bed, unique, b"right")
    reply(bed, unique, b"again")
    assert bed.reply_to(unique).body == b"right"
    answer_getattr(bed)
    assert bed.is_silent()


def answer_getattr(bed: PlaneBed) -> None:
    unique = bed.send(GETATTR, b"")
    bed.libfuse.recv(2**16)
    reply(bed, unique, b"")
    bed.reply_to(unique)


def test_a_reply_that_lies_about_its_length_is_an_error(bed: PlaneBed) -> None:
    unique = bed.send(GETATTR, b"")
    bed.libfuse.recv(2**16)
    reply(bed, unique, b"1234", length=17)
    assert bed.reply_to(unique).error == errno.EIO


def test_a_reply_beyond_the_buffer_is_an_error(bed: PlaneBed) -> None:
    unique = bed.send(GETATTR, b"")
    bed.libfuse.recv(2**16)
    reply(bed, unique, bytes(2**17))
    assert bed.reply_to(unique).error == errno.EIO


def test_a_reply_that_the_kernel_refuses_is_an_error(bed: PlaneBed) -> None:
    # A message for which the socket that is the kernel here has no room.
    bed.shrink_device()
    unique = bed.send(GETATTR, b"")
    bed.libfuse.recv(2**16)
    reply(bed, unique, bytes(60_000))
    assert bed.reply_to(unique).error == errno.EIO
    unique = bed.send_read(0, 2**16)
    bed.plane.answer_read(handed_on(bed).entry, bytes(60_000))
    assert bed.reply_to(unique).error == errno.EIO
    bed.plane.grant(0, BOTH)
    assert bed.reply_to(bed.send_read(0, 2**16)).error == errno.EIO


def test_what_libfuse_does_not_take_is_an_error(bed: PlaneBed) -> None:
    """A message beyond its socket, one too many for it, and all after it has gone."""
    assert bed.reply_to(bed.send(GETATTR, bytes(500_000))).error == errno.EIO
    sent = [bed.send(GETATTR, bytes(30_000)) for _ in range(20)]
    first = bed.reply()
    assert first.error == errno.EIO
    bed.libfuse.close()
    assert sorted([first.unique, *(bed.reply().unique for _ in sent[1:])]) == sent
    assert bed.reply_to(bed.send(GETATTR, b"")).error == errno.EIO


def test_interrupts_and_forgets_get_no_reply(bed: PlaneBed) -> None:
    waiting = bed.send_read(0, UNIT_BYTES)
    request = handed_on(bed)
    for opcode in (INTERRUPT, 2, 42):
        bed.send(opcode, struct.pack("<Q", waiting))
    bed.plane.answer_error(request.entry, errno.EAGAIN)
    assert bed.reply_to(waiting).error == errno.EAGAIN
    answer_getattr(bed)
    assert bed.is_silent()


def test_no_more_are_read_than_can_be_kept_and_all_are_answered(bed: PlaneBed) -> None:
    asked = [bed.send_read(index * UNIT_BYTES, UNIT_BYTES) for index in range(100)]
    answered: list[int] = []
    while len(answered) < len(asked):
        waiting = []
        while select.select([bed.plane.event_descriptor], [], [], 0.05)[0]:
            os.eventfd_read(bed.plane.event_descriptor)
            while (request := bed.plane.next_request()) is not None:
                waiting.append(request)
        assert 0 < len(waiting) <= 40
        for request in waiting:
            bed.plane.answer_error(request.entry, errno.ENOSPC)
        answered += [bed.reply().unique for _ in waiting]
    assert sorted(answered) == asked


def test_an_answer_is_given_once_and_fits(bed: PlaneBed) -> None:
    bed.send_read(0, UNIT_BYTES)
    request = handed_on(bed)
    with pytest.raises(ValueError, match="not the answer"):
        bed.plane.answer_read(request.entry, bytes(UNIT_BYTES + 1))
    bed.plane.answer_read(request.entry, b"")
    with pytest.raises(KeyError):
        bed.plane.answer_error(request.entry, errno.EIO)
    with pytest.raises(KeyError):
        bed.plane.answer_write(39, 0)


def test_what_libfuse_says_of_sizes_and_writers_is_amended(bed: PlaneBed) -> None:
    unique = bed.send(INIT, bytes(64))
    bed.libfuse.recv(2**16)
    fields = [7, 38, 2**17, 0, 12, 9, 2**31, 1, 65535, 0, 0]
    layout = struct.Struct("<IIIIHHIIHHI28x")
    reply(bed, unique, layout.pack(*fields))
    amended = list(layout.unpack(bed.reply_to(unique).body))
    assert amended == [*fields[:4], 32, 24, 2**20, 1, 256, 0, 0]
    for flags, expected in ((1, 1 | 64), (0, 0)):
        unique = bed.send(OPEN, bytes(8))
        bed.libfuse.recv(2**16)
        reply(bed, unique, struct.pack("<QII", 2, flags, 0))
        assert struct.unpack("<QII", bed.reply_to(unique).body) == (2, expected, 0)


# ---------------------------------------------------------------- the end


def test_the_end_of_the_connection_is_told(bed: PlaneBed) -> None:
    assert not bed.plane.has_ended
    bed.kernel.close()
    bed.await_event()
    assert bed.plane.has_ended


def test_it_stops_with_requests_that_nobody_answered(tmp_path: Path) -> None:
    with plane_bed(tmp_path) as bed:
        for index in range(60):
            bed.send_read(index * UNIT_BYTES, UNIT_BYTES)
        bed.send(GETATTR, b"")
        handed_on(bed)
        assert bed.plane.stop()
        assert bed.plane.has_ended
        assert bed.plane.stop()
        with pytest.raises(ValueError, match="stopped"):
            bed.plane.grant(0, READ)
        assert bed.plane.wipe() == 0


def test_it_stops_without_having_begun(tmp_path: Path) -> None:
    with plane_bed(tmp_path, start=False) as bed:
        assert bed.plane.stop()


def test_a_key_of_another_length_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="64 bytes"):
        Plane(0, 0, 0, size_bytes=SIZE, key=bytes(32), lanes=1)


# ---------------------------------------------------------------- handing over


def left(bed: PlaneBed) -> bool:
    """Whether the plane has left, within a while."""
    deadline = time.monotonic() + 5
    while not bed.plane.leave():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.001)
    return True


def lanes_end(bed: PlaneBed) -> None:
    """Until then one that is told to leave may still take what comes, and answers it."""
    others = threads() - LANES
    deadline = time.monotonic() + 30
    while not bed.plane.leave() and threads() > others:
        assert time.monotonic() < deadline
        time.sleep(0.001)


def threads() -> int:
    return len(os.listdir("/proc/self/task"))


def test_who_leaves_answers_what_he_took_and_takes_no_more(bed: PlaneBed) -> None:
    unique = bed.send_read(0, UNIT_BYTES)
    request = handed_on(bed)
    lanes_end(bed)
    assert not bed.plane.leave()
    later = bed.send_read(0, UNIT_BYTES)
    assert not bed.plane.leave()
    bed.plane.answer_read(request.entry, bytes(UNIT_BYTES))
    assert bed.reply_to(unique).body == bytes(UNIT_BYTES)
    assert left(bed)
    assert not bed.plane.has_ended
    assert bed.is_silent()
    head = IN_HEAD.unpack_from(bed.device.recv(2**20))  # it waits for who takes over
    assert head[2] == later


def test_a_request_that_is_sent_again_is_answered_by_its_new_number(bed: PlaneBed) -> None:
    resent = 2**63 | 42
    body = READ_IN.pack(2, 0, UNIT_BYTES, 0, 0, 0, 0)
    head = IN_HEAD.pack(IN_HEAD.size + len(body), READ_REQUEST, resent, 2, 0, 0, 1, 0, 0)
    bed.kernel.send(head + body)
    bed.plane.answer_read(handed_on(bed).entry, b"")
    assert bed.reply().unique == resent


def test_the_agreement_is_what_the_kernel_was_told(bed: PlaneBed) -> None:
    assert bed.plane.agreement is None
    asked = struct.pack("<IIIII", 7, 45, 131072, 0xFFFF, 1 << 7).ljust(64, b"\0")
    unique = bed.send(INIT, asked, node=0)
    assert bed.libfuse.recv(2**20)[IN_HEAD.size :] == asked
    answer = struct.pack("<IIIIHHIIHHI", 7, 38, 131072, 1, 12, 9, 2**24, 1, 9999, 0, 0)
    answer = answer.ljust(64, b"\0")
    bed.libfuse.send(OUT_HEAD.pack(OUT_HEAD.size + len(answer), 0, unique) + answer)
    told = bed.reply_to(unique).body
    assert bed.plane.agreement == (asked, told)


def test_closing_is_asked_about_once(bed: PlaneBed) -> None:
    flush = 25
    assert bed.reply_to(bed.send(flush, bytes(24))).error == errno.ENOSYS
