"""The head of the audit log: its bytes, every damage to them, and which slot counts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.golden import golden_bytes
from volcrypt.errors import (
    BadMagicError,
    FormatError,
    IntegrityError,
    MalformedError,
    SealError,
    UnsupportedVersionError,
)
from volcrypt.formats.audit_head import (
    FILE_BYTES,
    SLOT_BYTES,
    SLOT_OFFSETS,
    SealedHead,
    decode_file,
    encode_file,
    encode_slot,
)
from volcrypt.formats.audit_record import GENESIS_HASH, AuditHead
from volcrypt.formats.document import MacSeal

SEAL = MacSeal(bytes(32))
HEAD = SealedHead(
    number=7,
    audit=AuditHead(sequence=12, hash="ab" * 32, file=2, end=4321),
    catalogue=5,
)
OLDER = SealedHead(
    number=6,
    audit=AuditHead(sequence=11, hash="cd" * 32, file=2, end=4000),
    catalogue=5,
)


def decode(data: bytes) -> SealedHead:
    return decode_file(data, SEAL, what="the head")


def both(older: SealedHead = OLDER, newer: SealedHead = HEAD) -> bytes:
    data = bytearray(encode_file(older, SEAL))
    data[newer.offset : newer.offset + SLOT_BYTES] = encode_slot(newer, SEAL)
    return bytes(data)


def test_the_worked_example() -> None:
    assert both() == golden_bytes("v1", "audit-head")


def test_version_1_stays_readable() -> None:
    assert decode(golden_bytes("v1", "audit-head")) == HEAD


@pytest.mark.parametrize("number", [0, 1, 2, 2**63 - 1])
def test_a_new_file_has_one_slot(number: int) -> None:
    head = SealedHead(number=number, audit=AuditHead(), catalogue=1)
    data = encode_file(head, SEAL)
    assert len(data) == FILE_BYTES
    assert decode(data) == head
    assert head.offset == SLOT_OFFSETS[number % 2]


numbers = st.integers(0, 2**63 - 1)


@given(numbers, st.integers(1, 2**63 - 1), numbers, numbers, st.binary(min_size=32, max_size=32))
def test_decode_gives_what_was_encoded(
    number: int, sequence: int, end: int, catalogue: int, digest: bytes
) -> None:
    audit = AuditHead(sequence=sequence, hash=digest.hex(), file=sequence, end=end)
    if audit.hash == GENESIS_HASH:
        return
    head = SealedHead(number=number, audit=audit, catalogue=catalogue)
    assert decode(encode_file(head, SEAL)) == head


def test_the_newer_slot_counts_wherever_it_lies() -> None:
    assert decode(both()) == HEAD
    following = SealedHead(number=8, audit=HEAD.audit, catalogue=6)
    assert decode(both(HEAD, following)) == following


def test_a_torn_slot_leaves_the_one_before() -> None:
    """Whatever part of a slot was written over the slot before the last: the last one holds."""
    before = both()
    following = SealedHead(number=8, audit=HEAD.audit, catalogue=6)
    slot = encode_slot(following, SEAL)
    for written in range(SLOT_BYTES + 1):
        data = bytearray(before)
        data[following.offset : following.offset + written] = slot[:written]
        whole = bytes(data[following.offset : following.offset + SLOT_BYTES]) == slot
        assert decode(bytes(data)) == (following if whole else HEAD)


def test_every_flipped_bit_is_found() -> None:
    data = encode_file(HEAD, SEAL)
    for place in range(HEAD.offset, HEAD.offset + len(data[HEAD.offset :].rstrip(b"\0"))):
        for bit in range(8):
            damaged = bytearray(data)
            damaged[place] ^= 1 << bit
            with pytest.raises((FormatError, IntegrityError)):
                decode(bytes(damaged))


@pytest.mark.parametrize("size", [0, 1, SLOT_BYTES, FILE_BYTES - 1, FILE_BYTES + 1])
def test_a_file_of_another_size_is_none(size: int) -> None:
    with pytest.raises(MalformedError, match=f"it has {size} bytes"):
        decode(both()[:size].ljust(size, b"\0"))


@given(st.binary(max_size=SLOT_BYTES))
def test_junk_is_a_format_error(junk: bytes) -> None:
    with pytest.raises(FormatError):
        decode(junk.ljust(FILE_BYTES, b"\0"))


def test_another_seal_is_refused() -> None:
    with pytest.raises(SealError):
        decode_file(encode_file(OLDER, SEAL), MacSeal(b"\1" * 32), what="the head")


def test_an_unknown_version_is_refused_even_beside_a_known_one() -> None:
    data = both().replace(b"audit-head 1\n", b"audit-head 2\n", 1)
    with pytest.raises(UnsupportedVersionError):
        decode(data)


def test_another_document_is_refused() -> None:
    with pytest.raises(BadMagicError):
        decode(both().replace(b"audit-head", b"workflow--"))


@pytest.mark.parametrize(
    "members",
    [
        {"sequence": 0},
        {"sequence": -1},
        {"hash": GENESIS_HASH},
        {"hash": "ab"},
        {"file": 0},
        {"end": -1},
    ],
)
def test_values_that_contradict_each_other_are_refused(members: dict[str, int | str]) -> None:
    audit = {"sequence": 12, "hash": "ab" * 32, "file": 2, "end": 4321} | members
    head = SealedHead(number=0, audit=AuditHead(**audit), catalogue=1)  # type: ignore[arg-type]
    with pytest.raises(MalformedError, match="contradict"):
        decode(encode_file(head, SEAL))


def test_a_slot_in_the_place_of_the_other_is_refused() -> None:
    slot = encode_slot(HEAD, SEAL)
    with pytest.raises(MalformedError, match="contradict"):
        decode(slot.ljust(FILE_BYTES, b"\0"))
