"""Reading the audit log, and checking it."""

from collections import deque
from dataclasses import dataclass

from volcrypt.formats.audit_record import AuditRecord, parse_point
from volcrypt.kms.record_filter import FAILED, RecordFilter
from volcrypt.kms.reference import is_key_id
from volcrypt.names import is_snapshot_id, is_volume_id
from volcrypt.operations.home import Home
from volcrypt.operations.keys import resolve_key
from volcrypt.operations.records import find_entry


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditReport:
    """What a check of the log found. `head` is the text that `expected` takes, to be kept where
    nobody who can write to the home can change it; `unsealed` records follow it, which is none or
    what an interrupted process left."""

    head: str
    records: int
    unsealed: int


def list_audit(
    home: Home,
    *,
    key: str | None = None,
    operation: str | None = None,
    principal: str | None = None,
    denied: bool = False,
    volume: str | None = None,
    since: str | None = None,
    until: str | None = None,
    last: int | None = None,
) -> list[AuditRecord]:
    """The records that match, oldest first; keys may be named by alias, volumes by name. `since`
    and `until` are UTC times in the form of `eventTime`.

    An id of what is gone is fine, a name that nothing has is not: an empty answer would say that
    nobody used it. Raises KeyNotFoundError, VolumeNotFoundError, AuditChainError, FormatError.
    """
    if key is not None and not is_key_id(key.rpartition("/")[2]):
        key = resolve_key(home, key)
    if volume is not None and not (is_volume_id(volume) or is_snapshot_id(volume)):
        volume = find_entry(home, volume).id
    record_filter = RecordFilter(
        key=key,
        operation=operation,
        principal=principal,
        outcome=FAILED if denied else None,
        volume=volume,
        since=since,
        until=until,
    )
    # Looked at as a whole first: an edited or shortened log must not be read as the truth.
    home.kms.audit_log.verify(home.kms.audit_head())
    return list(deque(home.kms.audit_log.read_records(record_filter), maxlen=last))


def verify_audit(home: Home, *, expected: str | None = None) -> AuditReport:
    """Check every record of the log against its sealed head, and that it goes on from `expected`,
    the head that an earlier check gave: else the whole home may have been rolled back.

    Raises InvalidArgumentError, AuditChainError, FormatError.
    """
    point = None if expected is None else parse_point(expected)
    head = home.kms.audit_head()
    unsealed = home.kms.audit_log.verify(head, expected=point)
    return AuditReport(head=str(head.point), records=head.sequence, unsealed=unsealed)
