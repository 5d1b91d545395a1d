"""Documents of volumes, and of their uses."""

from typing import Any

import msgspec

from volcrypt.cli.documents.shape import Shape, Time


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
    file_systems: list[str] = msgspec.field(default_factory=list)
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
