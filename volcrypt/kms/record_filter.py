"""Which audit records somebody wants to see. Pure."""

from dataclasses import dataclass
from typing import Final

from volcrypt.formats.audit_record import AuditRecord

ALLOWED: Final = "allowed"
FAILED: Final = "failed"
_CONTEXT_NAMES: Final = frozenset({"volcrypt:volume-id", "volcrypt:snapshot-id", "aws:ebs:id"})


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordFilter:
    """Which records to list; what is None matches all.

    `key` is a key id or ARN; `outcome` is "allowed", or an AWS error code, or "failed" for any of
    them; `since` and `until` are UTC times in the form of `eventTime`, both included; `volume` is
    the id of a volume or snapshot that an encryption context names.
    """

    key: str | None = None
    operation: str | None = None
    principal: str | None = None
    outcome: str | None = None
    since: str | None = None
    until: str | None = None
    volume: str | None = None

    def matches(self, record: AuditRecord) -> bool:
        return (
            self.operation in (None, record.event_name)
            and self.principal in (None, record.user_identity.arn)
            and (self.since is None or record.event_time >= self.since)
            and (self.until is None or record.event_time <= self.until)
            and (self.key is None or _is_about(record, self.key))
            and (self.outcome is None or _ended_in(record, self.outcome))
            and (self.volume is None or self.volume in volumes_of(record))
        )


def _is_about(record: AuditRecord, key: str) -> bool:
    return any(
        key in (resource.arn, resource.arn.rpartition("/")[2]) for resource in record.resources
    )


def _ended_in(record: AuditRecord, outcome: str) -> bool:
    code = record.error_code
    if outcome == ALLOWED:
        return code is None
    if outcome == FAILED:
        return code is not None
    # The wire says AccessDeniedException where the record says AccessDenied.
    return code is not None and outcome in (code, f"{code}Exception")


def volumes_of(record: AuditRecord) -> set[str]:
    """The volumes and snapshots that the request's encryption contexts name; also those of a
    grant's constraints."""
    return set(_context_values(record.request_parameters or {}))


def _context_values(parameters: dict[str, object]) -> list[str]:
    found: list[str] = []
    for name, value in parameters.items():
        if isinstance(value, dict):
            found += _context_values(value)
        elif name in _CONTEXT_NAMES and isinstance(value, str):
            found.append(value)
    return found
