"""Volumes as a user knows them: create, open, check.

A volume exists when the register names it. What is made before that (directory, data file) is a
leftover if the process dies, and the next command that changes the home removes it.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from volcrypt.crypto.data_key import DataKey
from volcrypt.durable import no_space_named
from volcrypt.errors import IntegrityError, NameTakenError
from volcrypt.formats.volume_record import (
    LazySource,
    VolumeRecord,
    WrappedDataKey,
    key_source_of,
)
from volcrypt.geometry import UNIT_BYTES, check_volume_size
from volcrypt.kms.clock import host_time
from volcrypt.names import SnapshotId, VolumeId, make_volume_id, parse_name
from volcrypt.operations.home import Home
from volcrypt.operations.keys import (
    KeyChoice,
    check_encryption,
    check_source_key,
    choose_key,
    unwrap_key,
    volume_context,
)
from volcrypt.operations.lazy_volumes import make_whole
from volcrypt.operations.leftovers import remove_leftovers
from volcrypt.operations.placement import (
    THIN,
    Placement,
    check_placement,
    lease_of_placement,
    make_data,
    remove_data,
)
from volcrypt.operations.progress import SILENT, Progress
from volcrypt.operations.record_copies import copy_place, record_copies
from volcrypt.operations.records import (
    KIND,
    data_path,
    load_record,
    nominal_data_path,
    present_path,
    save_records,
    stage_record,
)
from volcrypt.operations.write_budget import write_counter
from volcrypt.volume.datafile import DataFile
from volcrypt.volume.owner import hold_volume
from volcrypt.volume.present_file import count_present
from volcrypt.volume.volume import Volume


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
    source: LazySource | None = None,
) -> VolumeRecord:
    """The first record of a volume."""
    return VolumeRecord(
        volume_id=volume_id,
        counter=1,
        name=name,
        size_bytes=size_bytes,
        unit_bytes=UNIT_BYTES,
        key_source=key_source_of(wrapped_key),
        wrapped_key=wrapped_key,
        data_path=placement.recorded_path,
        device=placement.device_identity,
        account=home.account,
        region=home.region,
        created_at=int(host_time()),
        snapshot_id=snapshot_id,
        preallocated=placement.preallocate,
        lease=lease_of_placement(home, placement),
        source=source,
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
    progress: Progress = SILENT,
    source: LazySource | None = None,
) -> Iterator[VolumeRecord]:
    """A volume being made: its directory and its empty data are there, and owned by us, while
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
        source=source,
    )
    directory = home.volumes.path_of(volume_id)
    with ExitStack() as stack:
        copies = stack.enter_context(record_copies(home, record))
        with home.exclusive():
            remove_leftovers(home)
            check_placement(home, placement, size_bytes, encrypted=record.is_encrypted)
            home.volumes.make(volume_id)
            stack.enter_context(hold_volume(directory, purpose="create"))
        is_made = False
        try:
            with no_space_named(nominal_data_path(home, record)):
                if placement.data is not None:
                    # Says, under seal, whose the file is, should we be killed.
                    stage_record(home, record)
                make_data(home, record, placement, progress)
                is_made = True
                yield record
                save_records(home, put=[record])
                # Not before: what is not registered must not look as if it could be opened.
                with _undone_by_failure(home, record):
                    copies.write(record)
        except BaseException:
            if record.data_path is not None:
                remove_data(home, volume_id, is_made=is_made)
            home.volumes.remove(volume_id)
            raise


@contextmanager
def _undone_by_failure(home: Home, record: VolumeRecord) -> Iterator[None]:
    """The new volume is forgotten again when the block fails."""
    try:
        yield
    except BaseException:
        entry = (KIND, record.volume_id)
        home.register.apply(delete=[entry], expect={entry: record.counter})
        raise


def create_volume(
    home: Home,
    *,
    size_bytes: int,
    name: str | None,
    choice: KeyChoice,
    placement: Placement = THIN,
    progress: Progress = SILENT,
) -> VolumeRecord:
    """An empty volume; the KMS is asked first, so a key problem leaves nothing behind."""
    check_encryption(home, choice)
    check_volume_size(size_bytes)
    check_name_is_free(home, name)
    check_placement(home, placement, size_bytes, encrypted=choice.encrypted)
    volume_id = make_volume_id(home.random_id_bytes())
    with new_volume(
        home,
        size_bytes=size_bytes,
        name=name,
        wrapped_key=choose_key(home, choice, volume_context(volume_id)),
        volume_id=volume_id,
        placement=placement,
        progress=progress,
    ) as record:
        return record


@contextmanager
def opened_volume(
    home: Home,
    record: VolumeRecord,
    *,
    read_only: bool,
    progress: Progress = SILENT,
    as_it_is: bool = False,
) -> Iterator[tuple[Volume, DataFile]]:
    """A volume's plaintext in this process, for work on a volume that nobody has mounted; the
    caller holds its owner lock. The data key is unwrapped afresh and wiped at the end. What a lazy
    volume lacks is fetched first, or reads zeros (`as_it_is`)."""
    if not as_it_is:
        record = make_whole(home, record, progress)
    with ExitStack() as stack:
        data_key: DataKey | None = None
        if record.wrapped_key is not None:
            data_key = stack.enter_context(unwrap_key(home, record.wrapped_key))
        data = DataFile.open(data_path(home, record), record.size_bytes, read_only=read_only)
        stack.callback(data.close)
        written = None if read_only else write_counter(home, record.wrapped_key)
        if written is not None:
            stack.callback(written.close)
        volume = Volume(
            data,
            size_bytes=record.size_bytes,
            data_key=data_key,
            changes=None,
            written=written,
            read_only=read_only,
        )
        stack.callback(volume.close)
        yield volume, data


def check_volume(home: Home, volume: str) -> VolumeRecord:
    """Check what can be checked without knowing what the data should be: record, register, data
    file, key, and the present map of a lazy volume. Raises the error that tells what is wrong."""
    record = load_record(home, volume)
    if not home.volumes.has_spare(record.volume_id):
        raise IntegrityError(
            f"the spare record of volume {volume} cannot be written",
            hint=f"look whether {home.volumes.path_of(record.volume_id)} has room, and can be "
            "written to",
        )
    check_source_key(home, record.wrapped_key, f"volume {volume}")
    DataFile.open(data_path(home, record), record.size_bytes, read_only=True).close()
    if record.wrapped_key is not None:
        with unwrap_key(home, record.wrapped_key) as data_key:
            check_copy(home, record, data_key)
    if record.source is not None:
        count_present(present_path(home, volume_id := record.volume_id), volume_id)
    return record


def check_copy(home: Home, record: VolumeRecord, data_key: DataKey) -> None:
    """Raises IntegrityError when the second copy of a record does not say what the record does."""
    with record_copies(home, record, data_key) as copies:
        if not copies.check(record):
            place = copy_place(home, record)
            assert place is not None, "internal error: what has no place is right"
            raise IntegrityError(
                f"the copy of the record of volume {record.name or record.volume_id}, "
                f"{place.location}, is missing, damaged or old",
                hint="the next 'volcrypt mount' or 'attach' writes it again",
            )
