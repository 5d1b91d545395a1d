"""What a stream of audit records says of one key: when, how often, by whom and for what it was
used. Pure; what it keeps grows with the number of principals and volumes, not with that of records.

A use is a cryptographic operation that was carried out. One that was refused, or failed, is none,
and counted apart; so is one that was only tried (DryRun), as the fence of a mounted volume does
every 20 seconds. An effect that failed has a second record under the same request id, which takes
the first one back.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from volcrypt.formats.audit_record import AuditRecord
from volcrypt.kms.record_filter import RecordFilter, volumes_of
from volcrypt.names import NOBODYS_VOLUME

OPERATIONS: Final = frozenset(
    {"Encrypt", "Decrypt", "ReEncrypt", "GenerateDataKey", "GenerateDataKeyWithoutPlaintext"}
)
BACKUP_CONTEXT: Final = "volcrypt:backup-of"
NO_VOLUME: Final = ""
_TRIED: Final = "DryRunOperationException"
_REMEMBERED: Final = 1024
"""Requests of which a second record may come; the next batch has it."""


@dataclass(slots=True)
class Count:
    """Times are in the form of `eventTime`; those of uses alone."""

    uses: int = 0
    tried: int = 0
    refused: int = 0
    first: str | None = None
    last: str | None = None

    def add(self, time: str) -> None:
        self.uses += 1
        self.first = self.first or time
        self.last = time

    def take_back(self) -> None:
        self.uses -= 1
        if not self.uses:
            self.first = self.last = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Deed:
    """Something that is on record of the key once: by whom, and of what (a volume, or the id of the
    home that was backed up)."""

    time: str
    principal: str
    subject: str


@dataclass(slots=True)
class KeyUsage:
    """Of one key, as far as the log tells. `volumes` counts under `NO_VOLUME` what names none."""

    total: Count = field(default_factory=Count)
    operations: dict[str, Count] = field(default_factory=dict)
    principals: dict[str, Count] = field(default_factory=dict)
    volumes: dict[str, Count] = field(default_factory=dict)
    exported_headers: list[Deed] = field(default_factory=list)
    backups: list[Deed] = field(default_factory=list)
    created_at: str | None = None
    deleted_at: str | None = None
    is_known: bool = False
    """Whether any record is about it."""


class UsageReader:
    """Takes the records of a log in their order."""

    def __init__(self, key: str) -> None:
        """`key` is a key id or ARN."""
        self.usage = KeyUsage()
        self._filter = RecordFilter(key=key)
        self._done: dict[str, tuple[Count, ...]] = {}

    def read(self, record: AuditRecord) -> None:
        if not self._filter.matches(record):
            return
        usage = self.usage
        usage.is_known = True
        name, error = record.event_name, record.error_code
        if name in OPERATIONS:
            self._count(record)
        elif error is not None:
            return
        elif name == "CreateKey":
            usage.created_at = usage.created_at or record.event_time
        elif name == "DeleteKey":
            usage.deleted_at = record.event_time
        elif name == "ExportHeader":
            usage.exported_headers += (_deed(record, volume) for volume in volumes_of(record))

    def _count(self, record: AuditRecord) -> None:
        usage = self.usage
        counts = (
            usage.total,
            usage.operations.setdefault(record.event_name, Count()),
            usage.principals.setdefault(_principal(record), Count()),
            *(
                usage.volumes.setdefault(volume, Count())
                for volume in sorted(volumes_of(record) - {NOBODYS_VOLUME}) or [NO_VOLUME]
            ),
        )
        if record.error_code == _TRIED:
            for count in counts:
                count.tried += 1
            return
        if record.error_code is not None:
            for count in counts:
                count.refused += 1
            for count in self._done.pop(record.request_id, ()):
                count.take_back()
            return
        for count in counts:
            count.add(record.event_time)
        if len(self._done) == _REMEMBERED:
            del self._done[next(iter(self._done))]
        self._done[record.request_id] = counts
        usage.backups += (_deed(record, home) for home in _backups(record))


def _deed(record: AuditRecord, subject: str) -> Deed:
    return Deed(time=record.event_time, principal=_principal(record), subject=subject)


def _principal(record: AuditRecord) -> str:
    return record.user_identity.arn or record.user_identity.type


def _backups(record: AuditRecord) -> Iterator[str]:
    """The homes whose backup is sealed by what the request made."""
    if not record.event_name.startswith("GenerateDataKey"):
        return
    context = (record.request_parameters or {}).get("encryptionContext")
    if isinstance(context, dict) and isinstance(context.get(BACKUP_CONTEXT), str):
        yield context[BACKUP_CONTEXT]
