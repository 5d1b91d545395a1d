"""Documents of snapshots."""

import msgspec

from volcrypt.cli.documents.shape import Shape, Time
from volcrypt.cli.documents.volumes import Skipped


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
    snapshot_set: list[str] = msgspec.field(default_factory=list)
    bytes_per_second_limit: int | None = None
    barrier_microseconds: int | None = None
    pid: int | None = None
    bytes_per_second: int | None = None
    seconds_left: int | None = None


class Snapshots(Shape, frozen=True):
    snapshots: list[Snapshot]
    stores_not_read: dict[str, str] = msgspec.field(default_factory=dict)


class SnapshotOrSet(Snapshot, frozen=True):
    """A snapshot, or of several volumes `snapshots` alone."""

    snapshot_id: str = ""
    state: str = ""
    snapshots: list[Snapshot] = msgspec.field(default_factory=list)


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
