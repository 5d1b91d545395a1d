"""The audit record: one line of JSON per request, shaped as in AWS CloudTrail, in a hash chain.

A log is a sequence of files `audit-000001.jsonl`, `audit-000002.jsonl`, ...; a file is lines, each
one record in JSON (UTF-8) and a newline. The members are those of a CloudTrail record of the AWS
KMS, event version 1.08, and in front of them three of our own:

    formatVersion   1
    sequence        1 for the first record of the log, then one more per record, through all files
    previousHash    SHA-256 of the previous line without its newline, 64 hexadecimal digits; 64
                    zeros in the first record

So the hash of the last line stands for the whole log; that hash with its sequence number is the
*head*. The chain alone does not stop somebody who rewrites the log from some record on: the head
that the KMS keeps sealed in its catalogue does.

`requestParameters` never holds a plaintext or a ciphertext blob. A request whose effect failed has
two records with one `requestID`: the decision, then the failure.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from volcrypt.errors import AuditChainError, MalformedError, UnsupportedVersionError

FORMAT_VERSION: Final = 1
EVENT_VERSION: Final = "1.08"
GENESIS_HASH: Final = "0" * 64
MAX_LINE_BYTES: Final = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditHead:
    """The end of a log: sequence number and hash of its last record, and the place behind it.

    `file` is the number in the file's name, `end` the offset in it behind the record's newline.
    """

    sequence: int = 0
    hash: str = GENESIS_HASH
    file: int = 1
    end: int = 0


class UserIdentity(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Who asked. `type` is Root, IAMUser, AssumedRole or AWSService."""

    type: str
    arn: str | None = None
    account_id: str
    access_key_id: str | None = None
    invoked_by: str | None = None


class Resource(msgspec.Struct, frozen=True, kw_only=True):
    """A KMS key that the request was about."""

    arn: str = msgspec.field(name="ARN")
    account_id: str = msgspec.field(name="accountId")
    type: str = "AWS::KMS::Key"


class AuditEvent(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What happened, before it has its place in the chain. Times are UTC, whole seconds."""

    event_version: str = EVENT_VERSION
    user_identity: UserIdentity
    event_time: str
    event_source: str = "kms.amazonaws.com"
    event_name: str
    aws_region: str
    source_ip_address: str = msgspec.field(name="sourceIPAddress")
    user_agent: str
    error_code: str | None = None
    error_message: str | None = None
    request_parameters: dict[str, Any] | None
    response_elements: dict[str, Any] | None
    request_id: str = msgspec.field(name="requestID")
    event_id: str = msgspec.field(name="eventID")
    read_only: bool
    resources: list[Resource]
    event_type: str = "AwsApiCall"
    management_event: bool = True
    recipient_account_id: str
    event_category: str = "Management"
    service_event_details: dict[str, Any] | None = None


class AuditRecord(AuditEvent, frozen=True, kw_only=True, rename="camel"):
    """An event at its place in the chain."""

    format_version: int
    sequence: int
    previous_hash: str


class _Version(msgspec.Struct, rename="camel"):
    format_version: int


_ENCODER: Final = msgspec.json.Encoder()
_DECODER: Final = msgspec.json.Decoder(AuditRecord)
_VERSION_DECODER: Final = msgspec.json.Decoder(_Version)
_WHAT: Final = "audit record"


def encode_record(event: AuditEvent, *, sequence: int, previous_hash: str) -> bytes:
    """The line of a record, without its newline; members of our own first, absent ones left out."""
    chain = {
        "formatVersion": FORMAT_VERSION,
        "sequence": sequence,
        "previousHash": previous_hash,
    }
    members = msgspec.to_builtins(event)
    optional = ("errorCode", "errorMessage", "serviceEventDetails")
    present = {k: v for k, v in members.items() if v is not None or k not in optional}
    return _ENCODER.encode(chain | present)


def decode_record(line: bytes) -> AuditRecord:
    """Raises UnsupportedVersionError and MalformedError; says nothing about the chain."""
    try:
        version = _VERSION_DECODER.decode(line).format_version
        if version != FORMAT_VERSION:
            raise UnsupportedVersionError(_WHAT, version, FORMAT_VERSION)
        return _DECODER.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedError(_WHAT, "it does not parse") from error


def hash_line(line: bytes) -> str:
    """What the next record names as `previousHash`."""
    return hashlib.sha256(line).hexdigest()


def check_chain(
    lines: Iterable[bytes], *, sequence: int = 0, previous_hash: str = GENESIS_HASH
) -> Iterator[tuple[AuditRecord, str]]:
    """Each record with the hash of its line, as long as the chain holds.

    `sequence` and `previous_hash` are those of the record before the first of `lines`.
    Raises AuditChainError where it does not hold, and what `decode_record` raises.
    """
    for line in lines:
        record = decode_record(line)
        sequence += 1
        if record.sequence != sequence:
            raise AuditChainError(
                f"audit record {sequence} is missing, record {record.sequence} is in its place"
            )
        if record.previous_hash != previous_hash:
            raise AuditChainError(f"audit record {sequence - 1} was changed after it was written")
        previous_hash = hash_line(line)
        yield record, previous_hash
