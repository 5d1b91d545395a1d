"""Reading the audit log."""

from collections import deque

from volcrypt.formats.audit_record import AuditRecord
from volcrypt.kms.audit import RecordFilter
from volcrypt.operations.home import Home


def list_audit(
    home: Home,
    *,
    key: str | None,
    operation: str | None,
    denied: bool,
    volume: str | None,
    last: int | None,
) -> list[AuditRecord]:
    """The records that match, oldest first. Raises AuditChainError and FormatError."""
    record_filter = RecordFilter(key=key, operation=operation, outcome="failed" if denied else None)
    records = home.kms.audit_log.read_records(record_filter)
    if volume is not None:
        records = (record for record in records if _concerns(record, volume))
    return list(deque(records, maxlen=last))


def _concerns(record: AuditRecord, volume: str) -> bool:
    parameters = record.request_parameters or {}
    return any(
        volume in context.values()
        for name, context in parameters.items()
        if name.lower().endswith("encryptioncontext") and isinstance(context, dict)
    )
