"""Where the data of a new volume goes: its own directory, another file, or a block device.

A block device is taken when nobody uses it, no volume of this home lies on it, and nothing is on
it: no signature that blkid knows, and, since what is encrypted has none, nothing but zeros where it
is looked at. `force` waives the last two. It is zeroed in any case, since whatever is there would
be read as data (never-written blocks read zeros), unless the caller says that it is.

A file elsewhere is always a new one. What a killed command left of it is removed when the sealed
record that lies in the volume's directory says that it is ours (`remove_data`).
"""

import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from volcrypt.durable import read_file, sync_directory
from volcrypt.errors import InvalidArgumentError, VolcryptError, VolumeInUseError
from volcrypt.formats.document import MAX_DOCUMENT_BYTES
from volcrypt.formats.volume_record import VolumeRecord, decode_volume_record
from volcrypt.geometry import UNIT_BYTES
from volcrypt.names import StoreId, VolumeId
from volcrypt.operations.home import Home
from volcrypt.operations.leases import lease_store
from volcrypt.operations.progress import Progress
from volcrypt.operations.record_copies import copy_beside, remove_copy
from volcrypt.operations.records import data_path, load_records, nominal_data_path
from volcrypt.volume import block_device
from volcrypt.volume.allocation import has_data
from volcrypt.volume.datafile import DataFile
from volcrypt.volume.directory import KEEP_DATA_FILE, RECORD_FILES


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """`data`: elsewhere than in the volume's own directory. `preallocate`: take all the room now,
    so that no write meets a full disk. `force`: take a block device whatever is on it.
    `assume_zeroed`: it reads zeros already. `lease`: the store in which whoever opens the volume
    holds its lease. `single_host`: no other host can reach the device, whatever it looks like."""

    preallocate: bool = False
    data: Path | None = None
    force: bool = False
    assume_zeroed: bool = False
    lease: str | None = None
    single_host: bool = False

    @property
    def is_device(self) -> bool:
        return self.data is not None and block_device.is_block_device(self.data)

    @property
    def recorded_path(self) -> str | None:
        """What the record says."""
        if self.data is None:
            return None
        if self.is_device:
            return str(block_device.lasting_name(self.data))
        return str(Path(os.path.realpath(self.data.parent)) / self.data.name)

    @property
    def device_identity(self) -> str | None:
        if self.data is None or not self.is_device:
            return None
        return block_device.identity_of(self.data)


def lease_of_placement(home: Home, placement: Placement) -> StoreId | None:
    """What the record says."""
    return None if placement.lease is None else lease_store(home, placement.lease)


THIN: Final = Placement()
"""A sparse file in the volume's own directory."""


def device_size(placement: Placement) -> int | None:
    """The size of a volume that fills the device; None where the data is in a file."""
    if placement.data is None or not placement.is_device:
        return None
    with open(placement.data, "rb", buffering=0) as device:
        return block_device.size_of(device.fileno()) // UNIT_BYTES * UNIT_BYTES


def check_placement(
    home: Home, placement: Placement, size_bytes: int, *, encrypted: bool = True
) -> None:
    """Refuse, before the KMS is asked, what cannot be the place of a volume.

    Raises InvalidArgumentError, VolumeInUseError, ComponentMissingError, and as `lease_store`.
    """
    path = placement.data
    if path is None:
        if placement.force or placement.assume_zeroed or placement.single_host:
            raise InvalidArgumentError(
                "--force, --assume-zeroed and --single-host are for a block device"
            )
        if placement.lease is not None:
            raise InvalidArgumentError("--lease is for data outside of the home: see --data")
        return
    if placement.lease is not None:
        if not encrypted:
            raise InvalidArgumentError(
                "no other home opens an unencrypted volume, so it needs no lease"
            )
        lease_store(home, placement.lease)
    recorded = Path(placement.recorded_path or "")
    real = Path(os.path.realpath(path))
    check_unused(home, path)
    if placement.is_device:
        _check_reach(placement, real)
        _check_device(placement, real, size_bytes)
    elif placement.force or placement.assume_zeroed or placement.single_host:
        raise InvalidArgumentError(
            f"{path} is no block device, which --force, --assume-zeroed and --single-host are for"
        )
    elif os.path.lexists(copy_beside(recorded)):
        raise InvalidArgumentError(
            f"{copy_beside(recorded)} exists already, where the copy of the record would go"
        )
    elif os.path.lexists(recorded):
        raise InvalidArgumentError(
            f"{path} exists already",
            hint="if it is what an interrupted 'volume create' left, remove it",
        )
    elif not recorded.parent.is_dir():
        raise InvalidArgumentError(f"{recorded.parent} is no directory")


def check_unused(home: Home, path: Path, *, but: VolumeId | None = None) -> None:
    """Raises VolumeInUseError when a volume of this home, `but` that one, lies at `path`, and
    InvalidArgumentError for what is in the home."""
    real = Path(os.path.realpath(path))
    for volume_id, record in load_records(home).items():
        if volume_id != but and isinstance(record, VolumeRecord) and _is_at(home, record, real):
            raise VolumeInUseError(str(path), f"volume {record.name or volume_id}", kind="path")
    if real.is_relative_to(home.path):
        raise InvalidArgumentError(f"{path} is in the home, whose files are volcrypt's own")


def _check_reach(placement: Placement, real: Path) -> None:
    """Raises InvalidArgumentError for a device that other hosts may write to, without a lease."""
    kind = block_device.shared_kind(real)
    if placement.lease is not None or placement.single_host or kind is None:
        return
    raise InvalidArgumentError(
        f"{placement.data} is {kind}, which several hosts can reach",
        hint="--lease STORE keeps all but one of them from opening the volume; --single-host says "
        "that there is only this one",
    )


def _is_at(home: Home, record: VolumeRecord, real: Path) -> bool:
    with suppress(OSError):
        return os.path.samefile(nominal_data_path(home, record), real)
    return False


def _check_device(placement: Placement, real: Path, size_bytes: int) -> None:
    if placement.preallocate:
        raise InvalidArgumentError("--preallocate is for files: a block device has all its room")
    descriptor = block_device.open_alone(real)
    try:
        block_device.check_room(descriptor, real, size_bytes)
        block_device.check_aligned(real)
        if placement.force:
            return
        hint = "--force takes it all the same, and destroys that"
        if (found := block_device.signature_on(real)) is not None:
            raise InvalidArgumentError(f"{placement.data} is not empty: it has {found}", hint=hint)
        if (offset := block_device.find_data(descriptor, size_bytes)) is not None:
            raise InvalidArgumentError(
                f"{placement.data} is not empty: byte {offset} is not zero", hint=hint
            )
    finally:
        os.close(descriptor)


def make_data(home: Home, record: VolumeRecord, placement: Placement, progress: Progress) -> None:
    """Make the empty data of a new volume, durably; the caller owns the volume."""
    path = data_path(home, record)
    if record.device is None:
        DataFile.create(path, record.size_bytes, preallocate=placement.preallocate).close()
    elif not placement.assume_zeroed:
        descriptor = block_device.open_alone(path)
        try:
            progress.begin(f"zeroing {placement.data}", record.size_bytes)
            block_device.zero_out(descriptor, 0, record.size_bytes, progress.advance)
        finally:
            os.close(descriptor)


def remove_data(home: Home, volume_id: VolumeId, *, is_made: bool = False) -> None:
    """Unlink the data file of a volume that does not exist any more, or does not yet, when it lies
    elsewhere; what is in the volume's directory is removed with that, and a block device stays.

    Believes only a record that is sealed, and not when another volume has the file now, or the
    directory says that it is kept (`KEEP_DATA_FILE`). Of a
    volume that was never finished only an empty file goes, since it could be somebody else's,
    unless the caller knows that it made it.
    """
    directory = home.volumes.path_of(volume_id)
    if os.path.lexists(directory / KEEP_DATA_FILE):
        return
    for name in RECORD_FILES:
        try:
            data = read_file(directory / name, limit_bytes=MAX_DOCUMENT_BYTES)
            record = decode_volume_record(data, home.record_seal(volume_id), what=name)
        except (OSError, VolcryptError):
            continue
        if record.data_path is None or record.device is not None:
            continue
        path = Path(record.data_path)
        others = load_records(home).values()
        if any(isinstance(other, VolumeRecord) and _is_at(home, other, path) for other in others):
            continue
        with suppress(OSError):
            status = path.lstat() if os.path.lexists(path) else None
            if status is not None and not (stat.S_ISREG(status.st_mode) and status.st_nlink == 1):
                continue
            if status is None or is_made or name == RECORD_FILES[0] or not has_data(path):
                with suppress(VolcryptError):
                    remove_copy(home, record)
                path.unlink(missing_ok=True)
                sync_directory(path.parent)
