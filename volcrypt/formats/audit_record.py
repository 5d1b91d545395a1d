"""The audit record: one line of JSON per request, shaped as in AWS CloudTrail, in a hash chain.

A log is a sequence of files `audit-000001.jsonl`, `audit-000002.jsonl`, ...; a file is lines, each
one record in JSON (UTF-8) and a newline. The members are those of a CloudTrail record of the AWS
KMS, event version 1.08, and in front of them three of our own:

    formatVersion   1
    sequence        1 for the first record of the log, then one more per record, through all files
    previousHash    SHA-256 of the previous line without its newline, 64 hexadecimal digits; 64
                    zeros in the first record

So the hash of the last line stands for the whole log; that hash with its sequence number is a
*point* of the log, and the last one is its head. The chain alone does not stop somebody who
rewrites the log from some record on: the head that the KMS keeps sealed beside it (`audit_head`)
does, and a point that somebody wrote down elsewhere, as text `SEQUENCE:HASH`.

`requestParameters` never holds a plaintext or a ciphertext blob, and is null where it would be no
valid text, or make the line longer than 96 KiB. `errorCode` is the AWS KMS's name for the error,
but `AccessDenied` for a request that was not allowed, as in CloudTrail. A request whose effect
failed has two records with one `requestID`: the decision, then the failure.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from volcrypt.errors import (
    AuditChainError,
    InvalidArgumentError,
    MalformedError,
    UnsupportedVersionError,
)

FORMAT_VERSION: Final = 1
EVENT_VERSION: Final = "1.08"
GENESIS_HASH: Final = "0" * 64
MAX_LINE_BYTES: Final = 2**20
_MAX_LINE_WITH_PARAMETERS_BYTES: Final = 96 * 2**10


@dataclass(frozen=True, slots=True)
class AuditPoint:
    """A place in the chain: the sequence number of a record and the hash of its line."""

    sequence: int
    hash: str

    def __str__(self) -> str:
        return f"{self.sequence}:{self.hash}"


_POINT: Final = re.compile(r"(0|[1-9][0-9]{0,18}):([0-9a-f]{64})")


def parse_point(text: str) -> AuditPoint:
    """The point that `str` gave. Raises InvalidArgumentError."""
    match = _POINT.fullmatch(text)
    if match is None:
        raise InvalidArgumentError(
            f"{text!r} is no head of an audit log: SEQUENCE:HASH, the hash in 64 hexadecimal digits"
        )
    return AuditPoint(int(match[1]), match[2])


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditHead:
    """The end of a log: sequence number and hash of its last record, and the place behind it.

    `file` is the number in the file's name, `end` the offset in it behind the record's newline.
    """

    sequence: int = 0
    hash: str = GENESIS_HASH
    file: int = 1
    end: int = 0

    @property
    def point(self) -> AuditPoint:
        return AuditPoint(self.sequence, self.hash)


class UserIdentity(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Who asked. `type` is Root, IAMUser, AssumedRole or AWSService."""

    type: str
    arn: str | None = None
    account_id: str
    access_key_id: str | None = None
    user_name: str | None = None
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


class _Line(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A record in the order of its line. What has a default is left out when it is absent."""

    format_version: int
    sequence: int
    previous_hash: str
    event_version: str
    user_identity: UserIdentity
    event_time: str
    event_source: str
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
    event_type: str
    management_event: bool
    recipient_account_id: str
    event_category: str
    service_event_details: dict[str, Any] | None = None


class _Version(msgspec.Struct, rename="camel"):
    format_version: int


_ENCODER: Final = msgspec.json.Encoder()
_DECODER: Final = msgspec.json.Decoder(AuditRecord)
_VERSION_DECODER: Final = msgspec.json.Decoder(_Version)
_WHAT: Final = "audit record"


def encode_record(event: AuditEvent, *, sequence: int, previous_hash: str) -> bytes:
    """The line of a record, without its newline; members of our own first, absent ones left out."""
    try:
        line = _encode(event, event.request_parameters, sequence, previous_hash)
    except UnicodeEncodeError:
        line = b""
    if line and len(line) <= _MAX_LINE_WITH_PARAMETERS_BYTES:
        return line
    return _encode(event, None, sequence, previous_hash)


def _encode(
    event: AuditEvent, parameters: dict[str, Any] | None, sequence: int, previous_hash: str
) -> bytes:
    return _ENCODER.encode(
        _Line(
            format_version=FORMAT_VERSION,
            sequence=sequence,
            previous_hash=previous_hash,
            event_version=event.event_version,
            user_identity=event.user_identity,
            event_time=event.event_time,
            event_source=event.event_source,
            event_name=event.event_name,
            aws_region=event.aws_region,
            source_ip_address=event.source_ip_address,
            user_agent=event.user_agent,
            error_code=event.error_code,
            error_message=event.error_message,
            request_parameters=parameters,
            response_elements=event.response_elements,
            request_id=event.request_id,
            event_id=event.event_id,
            read_only=event.read_only,
            resources=event.resources,
            event_type=event.event_type,
            management_event=event.management_event,
            recipient_account_id=event.recipient_account_id,
            event_category=event.event_category,
            service_event_details=event.service_event_details,
        )
    )


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
