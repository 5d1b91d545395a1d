"""Reading the audit log."""

from collections import deque

from volcrypt.formats.audit_record import AuditRecord
from volcrypt.kms.audit import AuditLog
from volcrypt.kms.record_filter import RecordFilter
from volcrypt.kms.reference import is_key_id
from volcrypt.names import is_volume_id
from volcrypt.operations.home import Home
from volcrypt.operations.keys import resolve_key
from volcrypt.operations.records import find_entry


def list_audit(
    home: Home,
    *,
    key: str | None,
    operation: str | None,
    denied: bool,
    volume: str | None,
    last: int | None,
) -> list[AuditRecord]:
    """The records that match, oldest first; keys may be named by alias, volumes by name.

    An id of what is gone is fine, a name that nothing has is not: an empty answer would say that
    nobody used it. Raises KeyNotFoundError, VolumeNotFoundError, AuditChainError, FormatError.
    """
    if key is not None and not is_key_id(key.rpartition("/")[2]):
        key = resolve_key(home, key)
    if volume is not None and not is_volume_id(volume):
        volume = find_entry(home, volume).id
    record_filter = RecordFilter(key=key, operation=operation, outcome="failed" if denied else None)
    # Looked at as a whole first: an edited or shortened log must not be read as the truth.
    log = AuditLog(home.path / "kms" / "audit")
    log.verify(home.vault.audit_head())
    records = log.read_records(record_filter)
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
