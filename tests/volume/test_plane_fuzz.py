"""Whatever comes from the kernel, or from libfuse: the plane answers what is due, and goes on."""

import errno
import os
import select
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.plane_kernel import (
    GETATTR,
    IN_HEAD,
    INIT,
    INTERRUPT,
    OPEN,
    OUT_HEAD,
    READ,
    READ_IN,
    WRITE,
    WRITE_IN,
    PlaneBed,
    plane_bed,
)
from volcrypt.geometry import CHUNK_BYTES, UNIT_BYTES

SIZE = 4 * CHUNK_BYTES
FORGET, BATCH_FORGET, FALLOCATE = 2, 42, 43
SILENT = {INTERRUPT, FORGET, BATCH_FORGET}
WAITING = 32

PLACES = [0, 1, 2, 511, 512, UNIT_BYTES, CHUNK_BYTES, SIZE - UNIT_BYTES, SIZE, 2**20, 2**20 + 1]
NUMBERS = st.sampled_from([*PLACES, 2**31, 2**32 - 1]) | st.integers(0, 2**32 - 1)
LARGE = NUMBERS | st.sampled_from([2**45, 2**63 - UNIT_BYTES, 2**63, 2**64 - 1])


@dataclass(frozen=True)
class Message:
    opcode: int
    node: int
    body: bytes
    claims: int | None
    """What the header says of its length, if not the truth."""

    def encode(self, unique: int) -> bytes:
        size = IN_HEAD.size + len(self.body)
        claims = size if self.claims is None else self.claims
        return IN_HEAD.pack(claims, self.opcode, unique, self.node, 0, 0, 1, 0, 0) + self.body

    @property
    def replies(self) -> int:
        tells_truth = self.claims in {None, IN_HEAD.size + len(self.body)}
        return 0 if tells_truth and self.opcode in SILENT else 1


TRANSFERS = st.builds(
    lambda handle, offset, size, data: READ_IN.pack(handle, offset, size, 0, 0, 0, 0) + data,
    st.sampled_from([2, 2, 2, 1, 2**64 - 1]),
    LARGE,
    NUMBERS,
    st.binary(max_size=3),
)
WRITES = st.builds(
    lambda offset, count: WRITE_IN.pack(2, offset, count, 0, 0, 0, 0) + b"w" * count,
    LARGE,
    st.sampled_from([0, 1, 512, UNIT_BYTES, 2 * UNIT_BYTES]),
)
MESSAGES = st.lists(
    st.builds(
        Message,
        st.sampled_from([READ, WRITE, GETATTR, OPEN, INIT, FALLOCATE, *sorted(SILENT)])
        | st.integers(0, 2**32 - 1),
        st.sampled_from([2, 2, 2, 1, 2**64 - 1]),
        st.binary(max_size=100) | TRANSFERS | WRITES,
        st.none() | st.none() | NUMBERS,
    )
    | st.binary(min_size=1, max_size=IN_HEAD.size - 1),
    min_size=1,
    max_size=20,
)


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlaneBed]:
    directory: Path = tmp_path_factory.mktemp("plane")
    with plane_bed(directory, size_bytes=SIZE) as made:
        made.plane.add_budget(2**40)
        made.libfuse.setblocking(False)
        yield made


def serve(bed: PlaneBed, due: int, bodies: bytes) -> list[int]:
    """Be Python and libfuse until so many replies have come: to which requests."""
    replies: list[int] = []
    while len(replies) < due:
        event = bed.plane.event_descriptor
        ends = [bed.kernel.fileno(), bed.libfuse.fileno(), event]
        ready = select.select(ends, [], [], 5)[0]
        assert ready, "no reply"
        if event in ready:
            os.eventfd_read(event)
            while (request := bed.plane.next_request()) is not None:
                bed.plane.answer_error(request.entry, errno.ENOSPC)
        if bed.libfuse.fileno() in ready:
            unique = IN_HEAD.unpack_from(bed.libfuse.recv(2**20))[2]
            head = OUT_HEAD.pack(OUT_HEAD.size + len(bodies), 0, unique)
            bed.libfuse.send(head + bodies)
        if bed.kernel.fileno() in ready:
            replies.append(bed.reply().unique)
    return replies


def check_entries(bed: PlaneBed) -> None:
    """All of them are free: so many requests wait at once."""
    bed.plane.revoke_all(3)
    asked = [bed.send_read(0, UNIT_BYTES) for _ in range(WAITING)]
    waiting: list[int] = []
    while len(waiting) < WAITING:
        bed.await_event()
        while (request := bed.plane.next_request()) is not None:
            waiting.append(request.entry)
    assert bed.is_silent()
    for entry in waiting:
        bed.plane.answer_error(entry, errno.ENOSPC)
    assert sorted(bed.reply().unique for _ in asked) == asked


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(messages=MESSAGES, bodies=st.binary(max_size=100))
def test_any_messages(bed: PlaneBed, messages: list[Message | bytes], bodies: bytes) -> None:
    bed.plane.grant(0, 3)
    due = []
    for message in messages:
        if isinstance(message, bytes):
            bed.kernel.send(message)  # too short to have a number
        else:
            unique = next(bed.numbers)
            bed.kernel.send(message.encode(unique))
            due += [unique] * message.replies
    assert sorted(serve(bed, len(due), bodies)) == due
    check_entries(bed)
    assert bed.is_silent()
    assert not bed.plane.has_ended


def test_a_reply_is_missed(bed: PlaneBed) -> None:
    """The control: of a request that nobody answers, and of an entry that is kept."""
    unique = bed.send_read(0, UNIT_BYTES)
    while (request := bed.plane.next_request()) is None:
        bed.await_event()
    assert bed.is_silent()
    bed.plane.answer_error(request.entry, errno.EIO)
    assert bed.reply_to(unique).error == errno.EIO
