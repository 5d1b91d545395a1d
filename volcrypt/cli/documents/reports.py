"""Documents of reports and of the audit log."""

from typing import Any

from volcrypt.cli.documents.home import DefaultSettings
from volcrypt.cli.documents.shape import Shape, Time
from volcrypt.formats.audit_record import AuditRecord


class ReportFinding(Shape, frozen=True):
    kind: str
    subject: str
    text: str


class EncryptionReport(Shape, frozen=True):
    version: int
    created_at: Time
    account: str
    region: str
    settings: DefaultSettings
    findings: list[ReportFinding]
    notes: list[str]
    volumes: list[dict[str, Any]]
    snapshots: list[dict[str, Any]]
    pending_snapshots: list[dict[str, Any]]
    unfinished_copies: list[dict[str, Any]]
    workflows: list[dict[str, Any]]
    keys: list[dict[str, Any]]
    stores: list[str]
    stores_not_read: dict[str, str]
    not_readable: dict[str, str]


class KeyReport(Shape, frozen=True):
    version: int
    key_arn: str
    key_state: str | None
    problem: str | None
    aliases: list[str]
    key_manager: str | None
    origin: str | None
    creation_date: Time | None
    deletion_date: Time | None
    valid_to: Time | None
    rotation_known: bool
    rotation_period_in_days: int | None
    last_rotation: Time | None
    is_default_key: bool
    dependents: list[dict[str, Any]]
    usage: dict[str, Any] | None
    stores_not_read: dict[str, str]
    not_readable: dict[str, str]


class AuditList(Shape, frozen=True):
    records: list[AuditRecord]


class AuditVerification(Shape, frozen=True):
    head: str
    records: int
    unsealed_records: int
    expected_head: str | None
