"""The documents of `--json`: which command prints which, and what is in it. In one place, for
`man`, which shows them, and for tests, which hold every output against them.

What a reader may rely on: members that are here are there, with these types, in this version of the
document, which is its member `Version`, or 1 where it has none. Others may come at any time. One
that goes, or means something else, makes a new version. `kms` and `principal` print what the AWS
operation of that name answers, which has no version: AWS adds members, and takes none away.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, get_args, get_origin

import msgspec

from volcrypt.formats.audit_record import AuditRecord
from volcrypt.settings import Settings

Time = str
"""As 2026-01-31T12:00:00Z."""


class Shape(msgspec.Struct, frozen=True, kw_only=True, rename="pascal", forbid_unknown_fields=True):
    """Members of a document, in their order; one with a default may be absent."""


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


class Initialization(Shape, frozen=True):
    """Of a lazy volume; `rate` in bytes a second."""

    progress: str
    present_chunks: int
    total_chunks: int
    rate: int | None
    problem: str | None


class Fenced(Shape, frozen=True):
    reason: str
    time: Time
    key_wiped: bool


class Check(Shape, frozen=True):
    check: str
    answered_at: Time | None
    unanswered_since: Time | None
    problem: str | None


class MigrationProgress(Shape, frozen=True):
    """Of a volume that is encrypted in use or gets another data key; rate and time left are of the
    copying."""

    phase: str
    rekeys: bool
    chunks: int
    copied_chunks: int
    verified_chunks: int
    bytes_per_second: int | None
    seconds_left: int | None
    bytes_per_second_limit: int | None
    paused: bool
    problem: str | None


class Use(Shape, frozen=True):
    """`kept`: a crash of its process leaves it mounted, for the next one to take over."""

    volume_id: str | None
    snapshot_id: str | None
    name: str | None
    purpose: str
    pid: int
    mount_point: str | None
    device: str | None
    file_systems: list[str]
    sync_failed: bool
    read_only: bool
    kept: bool
    writes_wait: bool
    data_plane: str | None
    fast_requests: int
    discard: bool
    discard_zeros: bool
    read_bytes: int | None
    written_bytes: int | None
    on_key_loss: str
    fenced: Fenced | None
    checks: list[Check]
    initialization: Initialization | None
    migration: MigrationProgress | None


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


class Snapshot(Shape, frozen=True):
    """A snapshot in any state; what a state does not have is absent."""

    snapshot_id: str
    state: str
    progress: str = ""
    state_reason: str = ""
    name: str | None = None
    store_name: str | None = None
    store_id: str = ""
    region: str = ""
    volume_id: str = ""
    volume_size: int = 0
    start_time: Time = ""
    completion_time: Time = ""
    encrypted: bool = False
    key_source: str = ""
    kms_key_id: str | None = None
    data_encryption_key_id: str | None = None
    parent_snapshot_id: str | None = None
    source_snapshot_id: str | None = None
    root: str = ""
    stored_chunks: int = 0
    stored_bytes: int = 0
    written_bytes: int | None = None
    consistency: str = ""
    snapshot_set: list[str] = []
    bytes_per_second_limit: int | None = None
    barrier_microseconds: int | None = None
    pid: int | None = None
    bytes_per_second: int | None = None
    seconds_left: int | None = None


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


class Owner(Shape, frozen=True):
    pid: int
    purpose: str


class ImportRun(Shape, frozen=True):
    source: str
    source_size: int
    data_bytes: int
    read_bytes: int
    resumed: bool
    content_digest: str
    seconds: float
    bytes_per_second: int
    sha256: str | None = None


class Volume(Shape, frozen=True):
    """A volume; one whose record is damaged has an id, a state and its reason alone."""

    volume_id: str
    state: str
    state_reason: str = ""
    name: str | None = None
    size: int = 0
    allocated_bytes: int | None = None
    preallocated: bool = False
    encrypted: bool = False
    key_source: str = ""
    kms_key_id: str | None = None
    data_encryption_key_id: str | None = None
    written_bytes: int | None = None
    write_budget_bytes: int | None = None
    snapshot_id: str | None = None
    create_time: Time = ""
    header_export_time: Time | None = None
    data_path: str = ""
    data_device: Any = None
    record_copy: str | None = None
    lease_store_id: str | None = None
    record_number: int = 0
    initialization: Initialization | None = None
    owner: Owner | None = None
    mount_point: str | None = None
    device: str | None = None
    file_systems: list[str] = []
    fenced: Fenced | None = None


class Volumes(Shape, frozen=True):
    volumes: list[Volume]


class ImportedVolume(Volume, frozen=True):
    """Of `--abort` the id alone."""

    state: str = ""
    import_: ImportRun | None = msgspec.field(name="Import", default=None)


class RegisteredVolume(Volume, frozen=True):
    freshness: str = ""


class VolumeId(Shape, frozen=True):
    volume_id: str


class VolumeOrSnapshotId(Shape, frozen=True):
    volume_id: str = ""
    snapshot_id: str = ""


class Checked(Shape, frozen=True):
    volume_id: str
    result: str


class DeletedVolume(Shape, frozen=True):
    volume_id: str
    data_kept: Any


class Grown(Shape, frozen=True):
    volume_id: str
    original_size: int
    target_size: int
    loops: list[str]
    file_system: str | None
    mount_point: str | None


class Skipped(Shape, frozen=True):
    offset: int
    length: int
    reason: str


class ExportedVolume(Shape, frozen=True):
    volume_id: str
    file: str
    size: int
    data_bytes: int
    content_digest: str
    kms_key_id: str | None
    seconds: float
    bytes_per_second: int
    skipped: list[Skipped]


class ExportedHeader(Shape, frozen=True):
    volume_id: str
    file: str
    data_path: str
    data_encryption_key_id: str | None
    filled_bytes: int


class Mounted(Shape, frozen=True):
    volume_id: str | None
    snapshot_id: str | None
    mount_point: str
    file: str
    pid: int
    on_key_loss: str


class Attached(Shape, frozen=True):
    volume_id: str
    device: str
    loop: str
    pid: int
    sector_size: int
    mount_point: str | None
    on_key_loss: str
    partitions: list[str]


class Store(Shape, frozen=True):
    store_name: str
    store_id: str
    url: str
    region: str
    endpoint: str | None
    encryption: str | None
    digest: str
    public_key: str
    made_here: bool
    signer_id: str
    signer_public_key: str
    may_write: bool


class StoreLine(Shape, frozen=True):
    store_name: str
    store_id: str
    url: str


class Stores(Shape, frozen=True):
    stores: list[StoreLine]


class StoreChecks(Shape, frozen=True):
    store_name: str
    checks: dict[str, str]


class StoreKey(Shape, frozen=True):
    store_name: str
    public_key: str


class Snapshots(Shape, frozen=True):
    snapshots: list[Snapshot]
    stores_not_read: dict[str, str] = {}


class SnapshotOrSet(Snapshot, frozen=True):
    """A snapshot, or of several volumes `snapshots` alone."""

    snapshot_id: str = ""
    state: str = ""
    snapshots: list[Snapshot] = []


class DeletedSnapshot(Shape, frozen=True):
    snapshot_id: str
    not_swept: str | None


class ChangedRange(Shape, frozen=True):
    offset: int
    length: int
    first_block: int


class Difference(Shape, frozen=True):
    first_snapshot_id: str
    second_snapshot_id: str
    volume_size: int
    block_size: int
    changed_blocks: int
    changed_ranges: list[ChangedRange]


class ExportedSnapshot(Shape, frozen=True):
    snapshot_id: str
    file: str
    size: int
    skipped: list[Skipped]


class Damage(Shape, frozen=True):
    kind: str
    what: str
    object: str
    snapshots: list[str]


class Verification(Shape, frozen=True):
    snapshots: list[str]
    chunks_read: int
    freshness_checked: bool
    heads: list[str]
    damages: list[Damage]


class OldData(Shape, frozen=True):
    """Where unencrypted data was or is, and what becomes of it."""

    what: str
    path: str
    method: str
    file_system: str | None
    device: str | None
    rotational: bool | None
    discards: bool | None
    notes: list[str]


class StepTime(Shape, frozen=True):
    step: str
    seconds: float


class Encryption(Shape, frozen=True):
    volume_id: str
    name: str | None
    size_bytes: int
    data_bytes: int
    data_chunks: int
    content_digest: str
    data_path: str
    old_volume_id: str
    old_volume_name: str | None
    old_data: list[OldData]
    key_source: str
    kms_key_id: str | None
    data_key_id: str
    verified_bytes: int
    seconds: float
    steps: list[StepTime]
    plain_snapshots_left: list[str]
    plain_snapshots_deleted: list[str]
    stores_not_read: list[str]


class PlannedStep(Shape, frozen=True):
    step: str
    read_bytes: int
    write_bytes: int
    expected_seconds: float


class NeededSpace(Shape, frozen=True):
    path: str
    needed_bytes: int
    free_bytes: int


class EncryptionPlan(Shape, frozen=True):
    """Rates in bytes a second."""

    volume_id: str
    name: str | None
    size_bytes: int
    data_bytes: int
    data_bytes_at_most: bool
    key_source: str
    kms_key_id: str | None
    resumes_at: str | None
    target: str
    steps: list[PlannedStep]
    expected_seconds: float
    read_rate: float | None
    write_rate: float | None
    space: list[NeededSpace]
    old_data: list[OldData]
    plain_snapshots: list[str]
    deletes_plain_snapshots: bool
    stores_not_read: list[str]


class WriteTimes(Shape, frozen=True):
    count: int
    p50_microseconds: float
    p99_microseconds: float
    worst_microseconds: float


class Migration(Shape, frozen=True):
    """A volume that stayed what it is, under a new data key."""

    volume_id: str
    name: str | None
    size_bytes: int
    in_use: bool
    key_source: str
    kms_key_id: str | None
    data_key_id: str
    old_data_key_id: str | None
    copied_bytes: int
    writes: WriteTimes | None
    old_data: list[OldData]
    freed_bytes: int
    runs: int
    started_at: str
    seconds: float
    steps: list[StepTime]
    plain_snapshots_left: list[str]
    plain_snapshots_deleted: list[str]
    stores_not_read: list[str]


class PausedMigration(Shape, frozen=True):
    volume_id: str
    paused: bool


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
    pages: list[str] = []


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


class AuditList(Shape, frozen=True):
    records: list[AuditRecord]


class AuditVerification(Shape, frozen=True):
    head: str
    records: int
    unsealed_records: int
    expected_head: str | None


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


@dataclass(frozen=True, slots=True)
class Document:
    """`shape` of what a command prints, and its version; `others`: what it prints with an option,
    by that option."""

    shape: Any
    version: int = 1
    others: Mapping[str, Any] = field(default_factory=dict)

    @property
    def shapes(self) -> tuple[Any, ...]:
        return (self.shape, *self.others.values())

    @property
    def schema(self) -> dict[str, Any]:
        """As JSON Schema."""
        references, definitions = msgspec.json.schema_components(self.shapes)
        either = {"anyOf": list(references)} if self.others else references[0]
        return {**either, "$defs": definitions}


DOCUMENTS = {
    "init": Document(Init),
    "status": Document(Status),
    "kms serve": Document(Started),
    "volume check": Document(Checked),
    "volume create": Document(Volume),
    "volume delete": Document(DeletedVolume),
    "volume export": Document(ExportedVolume),
    "volume export-header": Document(ExportedHeader),
    "volume grow": Document(Grown),
    "volume import": Document(ImportedVolume),
    "volume list": Document(Volumes),
    "volume register": Document(RegisteredVolume),
    "volume show": Document(Volume),
    "mount": Document(Mounted),
    "unmount": Document(VolumeOrSnapshotId),
    "attach": Document(Attached),
    "detach": Document(VolumeId),
    "store check": Document(StoreChecks),
    "store create": Document(Store),
    "store list": Document(Stores),
    "store public-key": Document(StoreKey),
    "store show": Document(Store),
    "store trust": Document(Store),
    "snapshot copy": Document(Snapshot),
    "snapshot create": Document(SnapshotOrSet),
    "snapshot delete": Document(DeletedSnapshot),
    "snapshot diff": Document(Difference),
    "snapshot export": Document(ExportedSnapshot),
    "snapshot list": Document(Snapshots),
    "snapshot show": Document(Snapshot),
    "snapshot verify": Document(Verification),
    "snapshot wait": Document(SnapshotOrSet),
    "encrypt": Document(
        Encryption,
        others={
            "--dry-run": EncryptionPlan,
            "--online": Migration,
            "--pause": PausedMigration,
            "--abort": VolumeId,
        },
    ),
    "rekey": Document(Migration),
    "settings get": Document(DefaultSettings),
    "settings set": Document(DefaultSettings),
    "report encryption": Document(EncryptionReport),
    "report key": Document(KeyReport),
    "backup": Document(Backup),
    "restore": Document(Restored),
    "config check": Document(ConfigurationFile),
    "config show": Document(Settings),
    "man": Document(Page),
    "completion": Document(Completion),
    "doctor": Document(Doctor),
    "audit list": Document(AuditList),
    "audit verify": Document(AuditVerification),
}
"""By command. Version 1 all of them: none has changed yet what it says."""


def as_aws(command: str) -> bool:
    """Whether the command answers as the AWS operation of its name does."""
    return command.startswith(("kms ", "principal ")) and command not in DOCUMENTS


def members(shape: Any, indent: str = "") -> Iterator[tuple[str, str]]:
    """Names and types for people, what is inside of a member below it."""
    for member in msgspec.structs.fields(shape) if _is_struct(shape) else ():
        absent = "" if member.required else ", may be absent"
        yield f"{indent}{member.encode_name}", _text(member.type) + absent
        for inner in _structs_in(member.type):
            yield from members(inner, indent + "  ")


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def _structs_in(kind: Any) -> Iterator[Any]:
    for each in (kind, *get_args(kind)):
        if _is_struct(each):
            yield each


def _text(kind: Any) -> str:
    names = {bool: "boolean", int: "number", float: "number", str: "text", type(None): "null"}
    if _is_struct(kind):
        return "object"
    if get_origin(kind) is list:
        return f"list of {_text(get_args(kind)[0])}"
    if get_origin(kind) is dict:
        return f"object of {_text(get_args(kind)[1])}"
    if get_args(kind):
        return " or ".join(_text(each) for each in get_args(kind))
    return names.get(kind, "any")
