"""What is known of a volume from its record, its data file and its owner's."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from volcrypt.errors import VolcryptError
from volcrypt.formats.volume_record import VolumeRecord
from volcrypt.geometry import SECTOR_BYTES, chunk_count
from volcrypt.operations.home import Home
from volcrypt.operations.record_copies import copy_location
from volcrypt.operations.records import data_path, nominal_data_path, present_path
from volcrypt.operations.write_budget import written_bytes
from volcrypt.volume.control_messages import LazyProgress
from volcrypt.volume.owner import OwnerRecord, current_owner
from volcrypt.volume.present_file import count_present


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeView:
    """A volume as `list` and `show` give it."""

    record: VolumeRecord
    owner: OwnerRecord | None
    data_path: Path
    allocated_bytes: int | None
    """Bytes that the data file occupies; None when it cannot be seen."""
    written_bytes: int = 0
    """What was encrypted under its data key, by all that share it; at most."""
    copy_location: str | None = None
    """Where the second copy of the record lies, for a volume that has one."""
    lazy: LazyProgress | None = None
    """While not all chunks are here, as far as the storage knows."""

    @property
    def state(self) -> str:
        """EBS's names: available, in-use, error (the data is not there)."""
        if self.allocated_bytes is None:
            return "error"
        return "in-use" if self.owner else "available"


def view_volume(home: Home, record: VolumeRecord) -> VolumeView:
    """Never fails: what cannot be seen makes the state an error."""
    allocated: int | None = None
    owner: OwnerRecord | None = None
    path = nominal_data_path(home, record)
    with suppress(OSError, VolcryptError):
        owner = current_owner(home.volumes.path_of(record.volume_id))
        if record.device is None:
            allocated = path.lstat().st_blocks * SECTOR_BYTES
        elif data_path(home, record).exists():
            allocated = record.size_bytes
    return VolumeView(
        record=record,
        owner=owner,
        data_path=path,
        allocated_bytes=allocated,
        written_bytes=written_bytes(home, record.wrapped_key),
        copy_location=copy_location(home, record),
        lazy=_lazy_progress(home, record),
    )


def _lazy_progress(home: Home, record: VolumeRecord) -> LazyProgress | None:
    source = record.source
    if source is None:
        return None
    present, problem = 0, None
    try:
        present = count_present(present_path(home, record.volume_id), record.volume_id)
    except (VolcryptError, OSError) as error:
        problem = str(error)
    return LazyProgress(
        store_id=source.store_id,
        present_chunks=present,
        total_chunks=chunk_count(source.size_bytes),
        fill_rate=source.fill_rate,
        problem=problem,
    )
