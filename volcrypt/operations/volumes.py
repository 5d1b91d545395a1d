"""Volumes as a user knows them: create, import, export, show, check, delete.

A volume exists when the register names it. What is made before that (directory, data file) is a
leftover if the process dies, and the next command that changes the home removes it.
"""

import errno
import io
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from volcrypt.crypto.data_key import DataKey
from volcrypt.crypto.xts import is_zero
from volcrypt.durable import no_space_named, sync_directory
from volcrypt.errors import (
    FormatError,
    InvalidArgumentError,
    NameTakenError,
    VolcryptError,
    VolumeInUseError,
)
from volcrypt.formats.volume_record import KeySource, VolumeRecord, WrappedDataKey
from volcrypt.geometry import CHUNK_BYTES, SECTOR_BYTES, UNIT_BYTES, check_volume_size, chunk_range
from volcrypt.names import SnapshotId, VolumeId, make_volume_id, parse_name
from volcrypt.operations import workflows
from volcrypt.operations.home import Home
from volcrypt.operations.keys import KeyChoice, choose_key, unwrap_key, volume_context
from volcrypt.operations.leftovers import remove_leftovers
from volcrypt.operations.placement import THIN, Placement
from volcrypt.operations.progress import Progress
from volcrypt.operations.records import KIND, data_path, find_entry, load_record, save_records
from volcrypt.volume.datafile import DataFile
from volcrypt.volume.mountpoint import remove_dead_mounts_of
from volcrypt.volume.owner import OwnerRecord, current_owner, hold_volume
from volcrypt.volume.volume import Volume


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeView:
    """A volume as `list` and `show` give it."""

    record: VolumeRecord
    owner: OwnerRecord | None
    data_path: Path
    allocated_bytes: int | None
    """Bytes that the data file occupies; None when it cannot be seen."""

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
    path = data_path(home, record)
    with suppress(OSError, FormatError):
        owner = current_owner(home.volumes.path_of(record.volume_id))
        allocated = path.lstat().st_blocks * SECTOR_BYTES
    return VolumeView(record=record, owner=owner, data_path=path, allocated_bytes=allocated)


def check_name_is_free(home: Home, name: str | None) -> None:
    """Early and friendly; the register's transaction is what decides in the end."""
    if name is not None:
        parse_name(name)
        if home.register.find(KIND, name) is not None:
            raise NameTakenError("volume", name)


def new_record(
    home: Home,
    *,
    volume_id: VolumeId,
    size_bytes: int,
    name: str | None,
    wrapped_key: WrappedDataKey | None,
    snapshot_id: SnapshotId | None = None,
    placement: Placement = THIN,
) -> VolumeRecord:
    """The first record of a volume whose data lies in its own directory."""
    return VolumeRecord(
        volume_id=volume_id,
        counter=1,
        name=name,
        size_bytes=size_bytes,
        unit_bytes=UNIT_BYTES,
        key_source=KeySource.KMS if wrapped_key else KeySource.NONE,
        wrapped_key=wrapped_key,
        data_path=None,
        account=home.account,
        region=home.region,
        created_at=int(time.time()),
        snapshot_id=snapshot_id,
        preallocated=placement.preallocate,
    )


@contextmanager
def new_volume(
    home: Home,
    *,
    size_bytes: int,
    name: str | None,
    wrapped_key: WrappedDataKey | None,
    volume_id: VolumeId,
    snapshot_id: SnapshotId | None = None,
    placement: Placement = THIN,
) -> Iterator[VolumeRecord]:
    """A volume being made: its directory and empty data file are there, and owned by us, while
    the block fills it; it begins to exist when the block ends, and is gone when the block fails.
    """
    record = new_record(
        home,
        volume_id=volume_id,
        size_bytes=size_bytes,
        name=name,
        wrapped_key=wrapped_key,
        snapshot_id=snapshot_id,
        placement=placement,
    )
    directory = home.volumes.path_of(volume_id)
    with ExitStack() as stack:
        with home.exclusive():
            remove_leftovers(home)
            home.volumes.make(volume_id)
            stack.enter_context(hold_volume(directory, purpose="create"))
        try:
            with no_space_named(data_path(home, record)):
                DataFile.create(
                    data_path(home, record), size_bytes, preallocate=placement.preallocate
                ).close()
                yield record
                save_records(home, put=[record])
        except BaseException:
            home.volumes.remove(volume_id)
            raise


def create_volume(
    home: Home,
    *,
    size_bytes: int,
    name: str | None,
    choice: KeyChoice,
    placement: Placement = THIN,
) -> VolumeRecord:
    """An empty volume; the KMS is asked first, so a key problem leaves nothing behind."""
    check_volume_size(size_bytes)
    check_name_is_free(home, name)
    volume_id = make_volume_id(home.random_id_bytes())
    with new_volume(
        home,
        size_bytes=size_bytes,
        name=name,
        wrapped_key=choose_key(home, choice, volume_context(volume_id)),
        volume_id=volume_id,
        placement=placement,
    ) as record:
        return record


@contextmanager
def opened_volume(
    home: Home, record: VolumeRecord, *, read_only: bool
) -> Iterator[tuple[Volume, DataFile]]:
    """A volume's plaintext in this process, for work on a volume that nobody has mounted; the
    caller holds its owner lock. The data key is unwrapped afresh and wiped at the end."""
    with ExitStack() as stack:
        data_key: DataKey | None = None
        if record.wrapped_key is not None:
            data_key = stack.enter_context(unwrap_key(home, record.wrapped_key))
        data = DataFile.open(data_path(home, record), record.size_bytes, read_only=read_only)
        stack.callback(data.close)
        volume = Volume(
            data,
            size_bytes=record.size_bytes,
            data_key=data_key,
            changes=None,
            read_only=read_only,
        )
        stack.callback(volume.close)
        yield volume, data


def import_volume(
    home: Home, source: Path, *, name: str | None, choice: KeyChoice, progress: Progress
) -> VolumeRecord:
    """A volume that holds the bytes of a raw image or block device, zeros behind its end up to
    the next whole data unit. Holes and zeros of the source stay holes."""
    check_name_is_free(home, name)
    volume_id = make_volume_id(home.random_id_bytes())
    with _open_source(source) as image:
        source_bytes = os.lseek(image.fileno(), 0, os.SEEK_END)
        if source_bytes == 0:
            raise InvalidArgumentError(f"{source} is empty")
        size_bytes = check_volume_size(-(-source_bytes // UNIT_BYTES) * UNIT_BYTES)
        wrapped = choose_key(home, choice, volume_context(volume_id))
        with new_volume(
            home, size_bytes=size_bytes, name=name, wrapped_key=wrapped, volume_id=volume_id
        ) as record:
            with opened_volume(home, record, read_only=False) as (volume, data):
                progress.begin(f"importing {source}", source_bytes)
                _copy_in(image.fileno(), source_bytes, volume, progress)
                data.sync()
            return record


def _open_source(source: Path) -> io.FileIO:
    """Open an image, or a block device that nobody is writing to. Raises OSError."""
    # On a device O_EXCL asks the kernel to refuse while it is mounted or claimed.
    flags = os.O_RDONLY | os.O_CLOEXEC | (os.O_EXCL if source.is_block_device() else 0)
    try:
        return io.FileIO(os.open(source, flags), "rb")
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise VolumeInUseError(
                str(source),
                "the kernel",
                hint="unmount it first: an image of a file system in use is torn",
            ) from error
        raise


def _copy_in(source: int, source_bytes: int, volume: Volume, progress: Progress) -> None:
    buffer = memoryview(bytearray(CHUNK_BYTES))
    offset = 0
    while offset < source_bytes:
        offset = _next_data(source, offset, source_bytes)
        wanted = min(CHUNK_BYTES, source_bytes - offset)
        got = os.preadv(source, [buffer[:wanted]], offset) if wanted else 0
        if wanted and not got:
            raise VolcryptError(f"the source ends at byte {offset} of {source_bytes}")
        if got and not is_zero(buffer[:got]):
            volume.write(offset, buffer[:got])
        offset += got
        progress.advance(offset)


def _next_data(source: int, offset: int, end: int) -> int:
    """The next byte that may hold data; a device, or a file system without holes, has them all."""
    try:
        return min(os.lseek(source, offset, os.SEEK_DATA), end)
    except OSError as error:
        return end if error.errno == errno.ENXIO else offset


def export_volume(home: Home, volume: str, target: Path, *, progress: Progress) -> VolumeRecord:
    """Write a volume's plaintext to a new sparse file, readable by its owner alone."""
    record = load_record(home, volume)
    if target.exists():
        raise InvalidArgumentError(f"{target} exists already")
    with (
        hold_volume(home.volumes.path_of(record.volume_id), purpose="export"),
        opened_volume(home, record, read_only=True) as (opened, data),
        no_space_named(target),
        open(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb", 0) as image,
    ):
        try:
            progress.begin(f"exporting {volume}", record.size_bytes)
            os.ftruncate(image.fileno(), record.size_bytes)
            _copy_out(opened, data, image.fileno(), progress)
            os.fsync(image.fileno())
            sync_directory(target.absolute().parent)
        except BaseException:
            target.unlink()
            raise
    return record


def _copy_out(volume: Volume, data: DataFile, target: int, progress: Progress) -> None:
    buffer = memoryview(bytearray(CHUNK_BYTES))
    for index in data.candidate_chunks():
        extent = chunk_range(index, data.size_bytes)
        piece = buffer[: extent.length]
        volume.read_into(extent.offset, piece)
        if not is_zero(piece):
            write_fully(target, piece, extent.offset)
        progress.advance(extent.end)


def write_fully(descriptor: int, data: memoryview, offset: int) -> None:
    """All of `data` at `offset`; a short write is continued."""
    while data:
        written = os.pwrite(descriptor, data, offset)
        data, offset = data[written:], offset + written


def delete_volume(home: Home, volume: str) -> VolumeId:
    """Forget a volume and remove its data; its snapshots stay. Refused while it is in use.

    A volume whose record is damaged can be deleted too: the register says what it is.
    """
    entry = find_entry(home, volume)
    volume_id = VolumeId(entry.id)
    directory = home.volumes.path_of(volume_id)
    with ExitStack() as held:
        if directory.exists():
            held.enter_context(hold_volume(directory, purpose="delete"))
        workflows.check_none_running(home, volume_id, volume)
        if (home.runtime / f"{volume_id}.mnt").exists():
            raise VolumeInUseError(
                volume, "what a killed process left", hint=f"volcrypt detach {volume}"
            )
        remove_dead_mounts_of(volume_id)
        home.register.apply(delete=[(KIND, volume_id)], expect={(KIND, volume_id): entry.counter})
        home.volumes.remove(volume_id)
    return volume_id


def check_volume(home: Home, volume: str) -> VolumeRecord:
    """Check what can be checked without knowing what the data should be: record, register, data
    file, key. Raises the error that tells what is wrong."""
    record = load_record(home, volume)
    DataFile.open(data_path(home, record), record.size_bytes, read_only=True).close()
    if record.wrapped_key is not None:
        unwrap_key(home, record.wrapped_key).wipe()
    return record
