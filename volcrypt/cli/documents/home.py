"""Documents of the home, and of the program itself."""

from typing import Any

import msgspec

from volcrypt.cli.documents.shape import Shape, Time
from volcrypt.cli.documents.snapshots import Snapshot
from volcrypt.cli.documents.volumes import Use


class Started(Shape, frozen=True):
    urls: list[str]
    pid: int


class Init(Shape, frozen=True):
    home: str
    created: bool
    account: str
    region: str
    warning: str


class DefaultSettings(Shape, frozen=True):
    account: str
    region: str
    encryption_by_default: bool | None
    default_kms_key_id: str | None
    default_kms_key_source: str


class TroubledKey(Shape, frozen=True):
    key_arn: str
    key_state: str
    until: Time | None
    volumes: list[str]


class VolumeCounts(Shape, frozen=True):
    total: int
    in_use: int
    unencrypted: int
    damaged: list[str]


class SnapshotCounts(Shape, frozen=True):
    total: int
    unencrypted: int


class NextStep(Shape, frozen=True):
    volume_id: str
    name: str | None
    rekeys: bool
    next_step: str
    running: bool
    paused: bool


class UnfinishedImport(Shape, frozen=True):
    volume_id: str
    source: str | None
    next_step: str | None


class Status(Shape, frozen=True):
    home: str
    account: str
    region: str
    settings: DefaultSettings | None
    keys: int | None
    troubled_keys: list[TroubledKey]
    volumes: VolumeCounts
    snapshots: SnapshotCounts
    in_use: list[Use]
    workflows: list[NextStep]
    imports: list[UnfinishedImport]
    pending_snapshots: list[Snapshot]
    failed_snapshots: list[Snapshot]
    free_bytes: int
    warnings: list[str]


class Backup(Shape, frozen=True):
    file: str
    size: int
    files: int
    audit_head: str
    has_pin: bool


class Restored(Shape, frozen=True):
    home: str
    home_id: str
    account: str
    region: str
    files: int


class ConfigurationFile(Shape, frozen=True):
    file: str
    exists: bool
    profiles: list[str]
    notes: list[str]


class Page(Shape, frozen=True):
    """`schema` is the JSON Schema (2020-12) of what the command prints with --json; `directory`
    and `pages` are of `--write`."""

    page: str = ""
    roff: str = ""
    document_version: int | None = None
    schema: Any = None
    directory: str = ""
    pages: list[str] = msgspec.field(default_factory=list)


class Completion(Shape, frozen=True):
    shell: str
    script: str


class DoctorFinding(Shape, frozen=True):
    check: str
    state: str
    text: str
    mend: str | None


class Doctor(Shape, frozen=True):
    version: int
    home: str
    problems: int
    notes: int
    findings: list[DoctorFinding]
