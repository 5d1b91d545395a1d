"""The write budget of data keys: how much was encrypted under each, and when that is too much.

XTS under one key should not encrypt without end (`write_counter.BUDGET_BYTES`). The key belongs to
a lineage: a volume, its snapshots, their copies under the same KMS key, volumes made of those. In
one home they have one count (HOME/written/DATA-KEY-ID), which stays when a volume is deleted, since
its snapshots do. To other homes it goes with the manifests: what is made from a snapshot there
starts at the count that the snapshot has.
"""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from volcrypt.durable import make_directory_durably
from volcrypt.errors import MalformedError
from volcrypt.formats.volume_record import VolumeRecord, WrappedDataKey
from volcrypt.geometry import format_size
from volcrypt.names import DataKeyId, is_data_key_id
from volcrypt.operations.home import Home
from volcrypt.volume.write_counter import BUDGET_BYTES, WriteCounter, raise_count, read_count


def written_bytes(home: Home, wrapped: WrappedDataKey | None) -> int:
    """How much was encrypted under a data key, at most, for all that this home knows."""
    return read_count(_count_path(home, wrapped.data_key_id)) if wrapped is not None else 0


def note_written(home: Home, wrapped: WrappedDataKey | None, size_bytes: int) -> None:
    """So much was encrypted under the data key, at least: it came with a snapshot, or is about to
    be encrypted at once. Durable on return."""
    if wrapped is not None and size_bytes:
        raise_count(count_path(home, wrapped), size_bytes)


def forget_count(home: Home, wrapped: WrappedDataKey | None) -> None:
    """The only volume under a data key was never made, or is given up."""
    if wrapped is not None:
        _count_path(home, wrapped.data_key_id).unlink(missing_ok=True)


def write_counter(home: Home, wrapped: WrappedDataKey | None) -> WriteCounter | None:
    """Counts what this process encrypts under a data key; None for no encryption."""
    return WriteCounter(count_path(home, wrapped)) if wrapped is not None else None


def count_path(home: Home, wrapped: WrappedDataKey) -> Path:
    """Where the count of a data key lies, in a directory that is there."""
    path = _count_path(home, wrapped.data_key_id)
    if not path.parent.is_dir():
        make_directory_durably(path.parent)
    return path


def _count_path(home: Home, data_key_id: DataKeyId) -> Path:
    # It may come from another home's manifest, and is part of a path here.
    if not is_data_key_id(data_key_id):
        raise MalformedError(f"data key id {data_key_id!r}", "it is none")
    return home.path / "written" / data_key_id


def budget_warnings(home: Home, records: Iterable[VolumeRecord]) -> list[str]:
    """One for each data key of these volumes under which more than half of the budget is used."""
    volumes: defaultdict[DataKeyId, list[str]] = defaultdict(list)
    for record in records:
        if record.wrapped_key is not None:
            volumes[record.wrapped_key.data_key_id].append(record.name or record.volume_id)
    found = [
        budget_warning(key, read_count(_count_path(home, key)), names)
        for key, names in volumes.items()
    ]
    return [warning for warning in found if warning is not None]


def budget_warning(key: DataKeyId, count: int, volumes: list[str]) -> str | None:
    """What is to be said of a data key under which `count` bytes were encrypted."""
    if count < BUDGET_BYTES // 2:
        return None
    how_much = "all" if count >= BUDGET_BYTES else "more than half"
    urgency = "now" if count >= BUDGET_BYTES else "in time"
    return (
        f"{how_much} of the {format_size(BUDGET_BYTES)} that one data key should encrypt are used "
        f"up under {key} ({', '.join(volumes)}); give the data a new one {urgency}: snapshot it, "
        "and make a volume of the snapshot with --kms-key-id or another --customer-key-file"
    )
