"""Documents of `encrypt` and `rekey`."""

from volcrypt.cli.documents.shape import Shape


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
