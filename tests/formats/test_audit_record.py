"""The format and the chain of audit records."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from volcrypt.errors import (
    AuditChainError,
    FormatError,
    MalformedError,
    UnsupportedVersionError,
)
from volcrypt.formats.audit_record import (
    GENESIS_HASH,
    AuditEvent,
    Resource,
    UserIdentity,
    check_chain,
    decode_record,
    encode_record,
    hash_line,
)

EVENT = AuditEvent(
    user_identity=UserIdentity(
        type="Root", arn="arn:aws:iam::000000000000:root", account_id="000000000000"
    ),
    event_time="2026-01-02T03:04:05Z",
    event_name="Decrypt",
    aws_region="us-east-1",
    source_ip_address="localhost",
    user_agent="volcrypt",
    request_parameters={"encryptionContext": {"volcrypt:volume-id": "vol-0"}},
    response_elements=None,
    request_id="r",
    event_id="e",
    read_only=True,
    resources=[Resource(arn="arn:aws:kms:us-east-1:000000000000:key/k", account_id="000000000000")],
    recipient_account_id="000000000000",
)


def lines(count: int) -> list[bytes]:
    result: list[bytes] = []
    previous = GENESIS_HASH
    for sequence in range(1, count + 1):
        result.append(encode_record(EVENT, sequence=sequence, previous_hash=previous))
        previous = hash_line(result[-1])
    return result


def test_members_are_those_of_cloudtrail() -> None:
    members = json.loads(lines(1)[0])
    assert list(members)[:3] == ["formatVersion", "sequence", "previousHash"]
    assert members["eventVersion"] == "1.08"
    assert members["eventSource"] == "kms.amazonaws.com"
    assert members["sourceIPAddress"] == "localhost"
    assert members["requestID"] == "r"
    assert members["eventID"] == "e"
    assert members["responseElements"] is None
    assert members["resources"] == [
        {
            "ARN": "arn:aws:kms:us-east-1:000000000000:key/k",
            "accountId": "000000000000",
            "type": "AWS::KMS::Key",
        }
    ]
    assert "errorCode" not in members
    assert "serviceEventDetails" not in members


def test_a_record_reads_back() -> None:
    record = decode_record(lines(1)[0])
    assert (record.sequence, record.previous_hash) == (1, GENESIS_HASH)
    assert record.event_name == EVENT.event_name
    assert record.request_parameters == EVENT.request_parameters
    assert record.resources == EVENT.resources


def test_a_whole_chain_holds() -> None:
    assert [record.sequence for record, _ in check_chain(lines(4))] == [1, 2, 3, 4]


def test_a_chain_may_start_at_a_known_head() -> None:
    whole = lines(4)
    rest = check_chain(whole[2:], sequence=2, previous_hash=hash_line(whole[1]))
    assert [record.sequence for record, _ in rest] == [3, 4]


@pytest.mark.parametrize("index", range(3))
def test_an_edited_record_breaks_the_chain(index: int) -> None:
    edited = lines(4)
    edited[index] = edited[index].replace(b"Decrypt", b"Encrypt")
    with pytest.raises(AuditChainError, match=f"record {index + 1} was changed"):
        list(check_chain(edited))


@pytest.mark.parametrize("index", range(3))
def test_a_missing_record_breaks_the_chain(index: int) -> None:
    with pytest.raises(AuditChainError, match=f"record {index + 1} is missing"):
        list(check_chain(lines(4)[:index] + lines(4)[index + 1 :]))


def test_an_unknown_version_is_refused() -> None:
    with pytest.raises(UnsupportedVersionError):
        decode_record(lines(1)[0].replace(b'"formatVersion":1', b'"formatVersion":2'))


@given(st.binary(max_size=100))
def test_junk_is_a_format_error(data: bytes) -> None:
    with pytest.raises(FormatError):
        decode_record(data)


@pytest.mark.parametrize("line", [b"", b"{}", b"[" * 100_000, b'{"formatVersion":1}'])
def test_json_of_another_shape_is_malformed(line: bytes) -> None:
    with pytest.raises(MalformedError):
        decode_record(line)
