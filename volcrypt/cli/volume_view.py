"""A volume as `volcrypt volume` shows it: as a JSON document, and as lines for people."""

from typing import TYPE_CHECKING

from volcrypt.cli.session import JsonValue, Session
from volcrypt.cli.status_view import fence_document, place_text
from volcrypt.cli.text import format_time, iso_time
from volcrypt.formats.volume_record import key_arn_of
from volcrypt.geometry import format_size

if TYPE_CHECKING:
    from collections.abc import Iterable

    from volcrypt.formats.manifest import Manifest
    from volcrypt.formats.volume_record import VolumeRecord
    from volcrypt.operations.home import Home
    from volcrypt.operations.uses import InUse
    from volcrypt.operations.volume_views import VolumeView
    from volcrypt.volume.control_messages import LazyProgress


def volume_document(view: "VolumeView", use: "InUse | None" = None) -> dict[str, JsonValue]:
    """EBS's DescribeVolumes, plus our own members. `use` is asked of the process that serves it."""
    from volcrypt.volume.write_counter import BUDGET_BYTES

    record = view.record
    return {
        "VolumeId": record.volume_id,
        "Name": record.name,
        "State": view.state,
        "Size": record.size_bytes,
        "AllocatedBytes": view.allocated_bytes,
        "Preallocated": record.preallocated,
        "Encrypted": record.is_encrypted,
        "KeySource": record.key_source.value,
        "KmsKeyId": key_arn_of(record.wrapped_key),
        "DataEncryptionKeyId": record.wrapped_key.data_key_id if record.wrapped_key else None,
        "WrittenBytes": view.written_bytes if record.wrapped_key else None,
        "WriteBudgetBytes": BUDGET_BYTES if record.wrapped_key else None,
        "SnapshotId": record.snapshot_id,
        "CreateTime": iso_time(record.created_at),
        "HeaderExportTime": iso_time(record.exported_at) if record.exported_at else None,
        "DataPath": str(view.data_path),
        "DataDevice": record.device,
        "RecordCopy": view.copy_location,
        "LeaseStoreId": record.lease,
        "RecordNumber": record.counter,
        "Initialization": lazy_document(view.lazy) if view.lazy else None,
        "Owner": {"Pid": view.owner.pid, "Purpose": view.owner.purpose} if view.owner else None,
        "MountPoint": use.mount_point if use else None,
        "Device": use.device if use else None,
        "FileSystems": list(use.file_systems) if use else [],
        "Fenced": fence_document(use) if use else None,
    }


def state_text(view: "VolumeView", use: "InUse | None") -> str:
    return view.state if use is None or use.fenced is None else f"{view.state}, FENCED"


def lazy_document(lazy: "LazyProgress") -> dict[str, JsonValue]:
    """How much of a lazy volume is here; `Initialization` is EBS's word for it."""
    return {
        "Progress": f"{_percent(lazy)}%",
        "PresentChunks": lazy.present_chunks,
        "TotalChunks": lazy.total_chunks,
        "Rate": lazy.fill_rate,
        "Problem": lazy.problem,
    }


def filled_text(lazy: "LazyProgress") -> str:
    """For a table: `37 %`, and whether it goes on."""
    rate = {None: "", 0: ", when touched"}.get(lazy.fill_rate)
    if rate is None:
        rate = f", {format_size(lazy.fill_rate or 0)}/s"
    return f"{_percent(lazy)} %{rate}" + (", STUCK" if lazy.problem else "")


def _filled_with_reason(lazy: "LazyProgress | None") -> str:
    if lazy is None:
        return ""
    return filled_text(lazy) + (f": {lazy.problem}" if lazy.problem else "")


def _percent(lazy: "LazyProgress") -> int:
    return lazy.present_chunks * 100 // lazy.total_chunks


def volume_fields(view: "VolumeView", use: "InUse | None" = None) -> dict[str, str]:
    record = view.record
    return {
        "volume": record.volume_id,
        "name": record.name or "",
        "state": state_text(view, use),
        "size": f"{format_size(record.size_bytes)} ({record.size_bytes} bytes)",
        "allocated": _allocated_text(view),
        "encrypted": "yes" if record.is_encrypted else "no",
        "key": key_text(record),
        "data key": record.wrapped_key.data_key_id if record.wrapped_key else "",
        "written": _written_text(view),
        "from snapshot": record.snapshot_id or "",
        "filled": _filled_with_reason(use.lazy if use and use.lazy else view.lazy),
        "created": format_time(record.created_at),
        "header exported": format_time(record.exported_at) if record.exported_at else "",
        "data": _data_text(view),
        "copy of its record": view.copy_location or "",
        "lease in store": record.lease or "",
        "in use by": f"{view.owner.purpose} (process {view.owner.pid})" if view.owner else "",
        **_use_fields(use),
    }


def _use_fields(use: "InUse | None") -> dict[str, str]:
    if use is None:
        return {}
    fields = {"mounted on": place_text(use)}
    if use.device is not None:
        fields["device"] = use.device
    if use.fenced is not None:
        fields["fenced"] = f"since {format_time(use.fenced.fenced_at)}: {use.fenced.reason}"
    return fields


def uses_by_volume(home: "Home", views: "Iterable[VolumeView]") -> "dict[str, InUse]":
    """What the processes that serve volumes say; only asked where there are any."""
    records = [view.record for view in views if view.owner is not None]
    if not records:
        return {}
    from volcrypt.operations.uses import uses_of

    return {use.volume_id: use for use in uses_of(home, records) if use.volume_id is not None}


def key_text(of: "VolumeRecord | Manifest") -> str:
    """What the data key is under."""
    if of.wrapped_key is None:
        return ""
    return of.wrapped_key.kms_key_arn or "customer-provided"


def _written_text(view: "VolumeView") -> str:
    from volcrypt.operations.write_budget import budget_warning
    from volcrypt.volume.write_counter import BUDGET_BYTES

    key = view.record.wrapped_key
    if key is None:
        return ""
    written, budget = format_size(view.written_bytes), format_size(BUDGET_BYTES)
    most = "up to " if view.written_bytes else ""  # it is counted in steps, ahead
    text = f"{most}{written} under its data key, which is good for {budget}"
    warning = budget_warning(key.data_key_id, view.written_bytes, [view.record.volume_id])
    return f"{text}; {warning}" if warning else text


def _data_text(view: "VolumeView") -> str:
    device = view.record.device
    return str(view.data_path) + ("" if device is None else f" (block device {device})".rstrip())


def _allocated_text(view: "VolumeView") -> str:
    if view.allocated_bytes is None:
        return "its data is missing"
    if view.record.device is not None:
        return "a block device"
    kind = "all, in advance" if view.record.preallocated else "thin"
    return f"{format_size(view.allocated_bytes)} ({kind})"


def show_created(session: Session, view: "VolumeView") -> None:
    session.show_created(view.record.volume_id, volume_document(view), volume_fields(view))
