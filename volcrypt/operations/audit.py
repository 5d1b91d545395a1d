"""Reading the audit log, and checking it."""

import os
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from volcrypt.errors import FormatError, IntegrityError
from volcrypt.formats.audit_record import AuditRecord, decode_record, parse_point
from volcrypt.kms.audit import AuditLog
from volcrypt.kms.record_filter import RecordFilter
from volcrypt.kms.reference import is_key_id
from volcrypt.names import is_snapshot_id, is_volume_id
from volcrypt.operations.home import Home
from volcrypt.operations.keys import resolve_key
from volcrypt.operations.records import find_entry


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditReport:
    """What a check of the log found. `head` is the text that `expected` takes, to be kept where
    nobody who can write to the home can change it; `unsealed` records follow it: none, or what
    another command writes this moment, or an interrupted one left."""

    head: str
    records: int
    unsealed: int


def list_audit(
    home: Home,
    *,
    key: str | None = None,
    principal: str | None = None,
    operation: str | None = None,
    outcome: str | None = None,
    since: str | None = None,
    until: str | None = None,
    volume: str | None = None,
    last: int | None = None,
) -> list[AuditRecord]:
    """The records that match, oldest first; keys may be named by alias, volumes and principals by
    name; `since` and `until` are UTC times in the form of `eventTime`.

    An id of what is gone is fine, a name that nothing has is not: an empty answer would say that
    nobody used it. Raises KeyNotFoundError, VolumeNotFoundError, AuditChainError, FormatError.
    """
    if key is not None and not is_key_id(key.rpartition("/")[2]):
        key = resolve_key(home, key)
    if volume is not None and not (is_volume_id(volume) or is_snapshot_id(volume)):
        volume = find_entry(home, volume).id
    if principal is not None and not principal.startswith("arn:"):
        kind = "root" if principal == "root" else f"user/{principal}"
        principal = f"arn:aws:iam::{home.access.account or home.account}:{kind}"
    record_filter = RecordFilter(
        key=key,
        principal=principal,
        operation=operation,
        outcome=outcome,
        since=since,
        until=until,
        volume=volume,
    )
    # Looked at as a whole first: an edited or shortened log must not be read as the truth.
    verify_audit(home)
    return list(deque(_log(home).read_records(record_filter), maxlen=last))


def verify_audit(home: Home, *, expected: str | None = None) -> AuditReport:
    """Check the whole log against its sealed head, and that it goes on from `expected`, which
    somebody kept elsewhere. Raises InvalidArgumentError for what is no head, AuditChainError,
    FormatError."""
    point = parse_point(expected) if expected is not None else None
    head = home.vault.audit_head()
    unsealed = _log(home).verify(head, expected=point)
    return AuditReport(head=str(head.point), records=head.sequence, unsealed=unsealed)


def verified_records(home: Home) -> Iterator[AuditRecord]:
    """All records up to the sealed head, in one pass, for who can throw away what he made of them
    when this raises: AuditChainError, FormatError."""
    head = home.vault.audit_head()
    for record in _log(home).verified_records(head):
        if record.sequence <= head.sequence:
            yield record


def _log(home: Home) -> AuditLog:
    return AuditLog(home.path / "kms" / "audit")


_TAIL_BYTES: Final = 2**20
"""More than the longest record has."""


def last_record_time(home: Path) -> float | None:
    """When the last record of a home's audit log was written, in seconds since 1970, as the log
    says and nobody has checked; None where there is none. Opens no key. Raises OSError."""
    for path in sorted((home / "kms" / "audit").glob("audit-*.jsonl"), reverse=True):
        with open(path, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            lines = file.read().split(b"\n")[:-1]  # behind the last newline nothing is finished
        for line in reversed(lines):
            with suppress(FormatError, IntegrityError, ValueError):
                return datetime.fromisoformat(decode_record(line).event_time).timestamp()
    return None
