"""Snapshots as `volcrypt snapshot` shows them: completed by their manifest, others by their job."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from volcrypt.cli.session import JsonValue, Session
from volcrypt.cli.text import format_time, iso_time
from volcrypt.cli.volume_view import key_text
from volcrypt.formats.volume_record import key_arn_of
from volcrypt.geometry import format_size

if TYPE_CHECKING:
    from volcrypt.formats.job import JobRecord
    from volcrypt.formats.manifest import Manifest
    from volcrypt.names import StoreId
    from volcrypt.operations.jobs import Job

COLUMNS = [
    "SNAPSHOT",
    "NAME",
    "STATE",
    "STORE",
    "VOLUME",
    "SIZE",
    "STORED",
    "ENCRYPTED",
    "KEY",
    "COMPLETED",
]


def snapshot_document(manifest: "Manifest", names: Mapping["StoreId", str]) -> dict[str, JsonValue]:
    """EBS's DescribeSnapshots, plus our own members."""
    key = manifest.wrapped_key
    return {
        "SnapshotId": manifest.snapshot_id,
        "Name": manifest.name,
        "State": "completed",
        "Progress": "100%",
        "StoreName": names.get(manifest.store_id),
        "StoreId": manifest.store_id,
        "Region": manifest.region,
        "VolumeId": manifest.volume_id,
        "VolumeSize": manifest.size_bytes,
        "StartTime": iso_time(manifest.captured_at),
        "CompletionTime": iso_time(manifest.completed_at),
        "Encrypted": key is not None,
        "KeySource": manifest.key_source.value,
        "KmsKeyId": key_arn_of(key),
        "DataEncryptionKeyId": key.data_key_id if key else None,
        "ParentSnapshotId": manifest.parent.snapshot_id if manifest.parent else None,
        "SourceSnapshotId": manifest.origin.snapshot_id if manifest.origin else None,
        "Root": manifest.root.hex(),
        "StoredChunks": manifest.stored_chunks,
        "StoredBytes": manifest.stored_bytes,
        "WrittenBytes": manifest.written_bytes if key else None,
        "Consistency": manifest.consistency.value,
    }


def snapshot_fields(manifest: "Manifest", names: Mapping["StoreId", str]) -> dict[str, str]:
    key = manifest.wrapped_key
    return {
        "snapshot": manifest.snapshot_id,
        "name": manifest.name or "",
        "state": "completed",
        "store": names.get(manifest.store_id, manifest.store_id),
        "of volume": manifest.volume_id,
        "volume size": format_size(manifest.size_bytes),
        "newly stored": f"{format_size(manifest.stored_bytes)} in {manifest.stored_chunks} chunks",
        "encrypted": "yes" if key else "no",
        "key": key_text(manifest),
        "data key": key.data_key_id if key else "",
        "parent": manifest.parent.snapshot_id if manifest.parent else "",
        "copy of": manifest.origin.snapshot_id if manifest.origin else "",
        "consistency": manifest.consistency.value,
        "captured": format_time(manifest.captured_at),
        "completed": format_time(manifest.completed_at),
    }


def snapshot_row(manifest: "Manifest", names: Mapping["StoreId", str]) -> list[str]:
    """The line of a table with COLUMNS."""
    return [
        manifest.snapshot_id,
        manifest.name or "",
        "completed",
        names.get(manifest.store_id, manifest.store_id),
        manifest.volume_id,
        format_size(manifest.size_bytes),
        format_size(manifest.stored_bytes),
        "yes" if manifest.wrapped_key else "no",
        key_text(manifest).rpartition("/")[2],
        format_time(manifest.completed_at),
    ]


def begun_document(record: "JobRecord") -> dict[str, JsonValue]:
    """What the snapshot or copy will be. StartTime is when its point in time was fixed, if it was:
    that of a copy is its original's."""
    return {
        "SnapshotId": record.snapshot_id,
        "Name": record.name,
        "State": "pending",
        "Progress": "0%",
        "StoreName": record.store_name,
        "StoreId": record.store_id,
        "Region": record.region,
        "VolumeId": record.volume_id,
        "VolumeSize": record.size_bytes,
        "StartTime": iso_time(record.captured_at or record.started_at),
        "Encrypted": record.is_encrypted,
        "KmsKeyId": record.kms_key_arn,
        "DataEncryptionKeyId": record.data_key_id,
        "SourceSnapshotId": record.origin.snapshot_id if record.origin else None,
        "Consistency": record.consistency.value,
        "SnapshotSet": list(record.together),
        "BytesPerSecondLimit": record.rate,
        "BarrierMicroseconds": record.barrier_us,
    }


def _job_key(record: "JobRecord") -> str:
    """What the data key is under."""
    return record.kms_key_arn or ("customer-provided" if record.is_encrypted else "")


def job_document(job: "Job") -> dict[str, JsonValue]:
    document: dict[str, JsonValue] = (
        {"SnapshotId": job.snapshot_id} if job.record is None else begun_document(job.record)
    )
    document["State"] = _state(job)
    document["Progress"] = f"{job.percent}%"
    if job.reason is not None:
        document["StateReason"] = job.reason
    return document


def begun_fields(record: "JobRecord") -> dict[str, str]:
    fields = {
        "snapshot": record.snapshot_id,
        "name": record.name or "",
        "state": "pending",
        "store": record.store_name,
        "of volume": record.volume_id,
        "volume size": format_size(record.size_bytes),
        "encrypted": "yes" if record.is_encrypted else "no",
        "key": _job_key(record),
        "consistency": record.consistency.value,
        "captured": format_time(record.captured_at) if record.captured_at else "",
    }
    if record.origin is not None:
        fields["copy of"] = record.origin.snapshot_id
    if record.together:
        fields["together with"] = ", ".join(
            each for each in record.together if each != record.snapshot_id
        )
    if record.barrier_us is not None:
        fields["writers waited"] = f"{record.barrier_us / 1000:.1f} ms"
    return fields


def original_of(job: "Job") -> str:
    """What a job makes a snapshot of: a volume, or a snapshot."""
    if job.record is None:
        return ""
    origin = job.record.origin
    return job.record.volume_id if origin is None else origin.snapshot_id


def job_fields(job: "Job") -> dict[str, str]:
    fields: dict[str, str] = {"snapshot": job.snapshot_id}
    if job.record is not None:
        fields = begun_fields(job.record)
    fields["state"] = _state(job)
    if job.reason is not None:
        fields["reason"] = job.reason
        fields["then"] = job.error().hint or ""
    else:
        fields |= progress_fields(job)
    return fields


def progress_fields(job: "Job") -> dict[str, str]:
    """How far a pending one is."""
    fields = {"progress": f"{job.percent}%"}
    if job.progress is not None:
        fields["rate"] = f"{format_size(job.progress.bytes_per_second)}/s"
        fields["time left"] = format_duration(job.progress.seconds_left)
        fields["process"] = str(job.progress.pid)
    return fields


def job_row(job: "Job") -> list[str]:
    """The line of a table with COLUMNS."""
    state = f"pending {job.percent}%" if job.is_pending else "error"
    record = job.record
    if record is None:
        return [job.snapshot_id, "", state, *[""] * 6, job.reason or ""]
    return [
        job.snapshot_id,
        record.name or "",
        state,
        record.store_name,
        record.volume_id,
        format_size(record.size_bytes),
        "",
        "yes" if record.is_encrypted else "no",
        _job_key(record).rpartition("/")[2],
        job.reason or "",
    ]


def format_duration(seconds: int | None) -> str:
    """For people: `2 h 05 min`, `40 s`; empty when it is not known."""
    if seconds is None:
        return ""
    if seconds < 60:
        return f"{seconds} s"
    minutes = seconds // 60
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def show_made(session: Session, manifest: "Manifest") -> None:
    """A snapshot that a command made."""
    from volcrypt.operations.stores import store_names

    names = store_names(session.home)
    session.show_created(
        manifest.snapshot_id, snapshot_document(manifest, names), snapshot_fields(manifest, names)
    )


def show_all_made(
    session: Session, identities: Sequence[str], documents: Sequence[JsonValue]
) -> None:
    """Several that a command made or began: the documents together, the ids one a line."""
    session.show({"Snapshots": list(documents)}, lambda: print("\n".join(identities)))


def _state(job: "Job") -> str:
    return "pending" if job.is_pending else "error"
