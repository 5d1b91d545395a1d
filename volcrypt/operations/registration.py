"""Opening a volume in another home: its data, and the second copy of its record, are all that this
home gets; the KMS says whether it may have the data key.

What is believed, and why:

- the copy, when its seal holds under a key derived from the data key that the KMS releases for this
  volume's id. So nobody can have made it who could not read the volume anyway.
- the KMS key in it, when it is the one that the caller names, or one of the account of his default
  key. Somebody else's KMS may release a "data key" that he knows too, and what is written under
  that would be his to read.
- a data key that opens under the customer-provided key that the caller gives.
- not that it is the newest: who can write to storage can put back an older copy. A home that knows
  the volume already refuses a lower counter; one that does not says that it cannot tell.
"""

import os
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import msgspec

from volcrypt.durable import read_file, remove_durably, write_durably
from volcrypt.errors import (
    AccessDeniedError,
    FormatError,
    IntegrityError,
    InvalidArgumentError,
    ObjectNotFoundError,
    RecordCopyNotFoundError,
    RollbackError,
    StoreNotFoundError,
)
from volcrypt.formats.document import MAX_DOCUMENT_BYTES, MacSeal
from volcrypt.formats.record_copy import RecordCopy, decode_record_copy, portable
from volcrypt.formats.volume_record import VolumeRecord
from volcrypt.names import VolumeId
from volcrypt.operations.home import Home
from volcrypt.operations.keys import check_source_key, resolve_key, volume_context
from volcrypt.operations.leftovers import remove_leftovers
from volcrypt.operations.migrations import check_not_elsewhere
from volcrypt.operations.placement import Placement, check_unused
from volcrypt.operations.record_copies import copy_beside, copy_place, copy_seal
from volcrypt.operations.records import KIND, adopt_record, data_path, load_record
from volcrypt.operations.stores import open_store, store_names
from volcrypt.operations.volumes import check_name_is_free
from volcrypt.operations.workflows import check_none_running
from volcrypt.snapshot.layout import record_name
from volcrypt.volume.block_device import identity_of, is_block_device
from volcrypt.volume.datafile import DataFile
from volcrypt.volume.directory import CHANGE_MAP_FILE, KEEP_DATA_FILE
from volcrypt.volume.owner import hold_volume


@dataclass(frozen=True, slots=True, kw_only=True)
class CopySource:
    """Where the copy is looked for: the file `record`, or the store `store` under `volume_id`; else
    beside the data."""

    record: Path | None = None
    store: str | None = None
    volume_id: VolumeId | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Registered:
    """A volume that this home can open now. `known_counter`: of the record that it had before; None
    for a volume that it did not know, of which no older copy could have been told."""

    record: VolumeRecord
    known_counter: int | None


def register_volume(
    home: Home,
    data: Path,
    source: CopySource,
    *,
    name: str | None = None,
    kms_key: str | None = None,
    force: bool = False,
) -> Registered:
    """Take a volume into this home, or a newer record of one that is in it, with its data at
    `data`. `kms_key`: only if its data key is under this KMS key. `force`: on a block device that
    says of itself that it is another than the one that the volume was made on.

    Raises InvalidArgumentError, VolumeNotFoundError, IntegrityError, FormatError, KmsError,
    NameTakenError, VolumeInUseError.
    """
    copy, what = _read_copy(home, data, source)
    claimed = copy.claimed
    if source.volume_id is not None and claimed.volume_id != source.volume_id:
        raise IntegrityError(f"{what}: it is of volume {claimed.volume_id}")
    if claimed.region != home.region:
        raise InvalidArgumentError(
            f"volume {claimed.volume_id} belongs to region {claimed.region}, and this home to "
            f"{home.region}",
            hint="take a snapshot of it into a store, and copy that across",
        )
    _check_key(home, claimed, what, kms_key)
    with copy_seal(home, claimed) as seal:
        copied = _newest(home, copy.checked(seal), seal)
    if copied.source is not None:
        raise InvalidArgumentError(
            f"chunks of volume {copied.volume_id} are still in snapshot "
            f"{copied.source.snapshot_id}, and only the home that made it knows which",
            hint="mount it there until 'volcrypt status' says that all are fetched",
        )
    entry = home.register.get(KIND, copied.volume_id)
    if entry is None:
        return Registered(record=_register_new(home, copied, data, name, force), known_counter=None)
    try:
        known = load_record(home, copied.volume_id)
    except (IntegrityError, FormatError):
        if copied.counter < entry.counter:
            raise
        # Damaged here, and this is the one that it was, or newer.
        known = msgspec.structs.replace(copied, counter=entry.counter, name=entry.name)
    if portable(copied) != portable(known) and copied.counter <= known.counter:
        raise RollbackError(
            what, hint=f"volume {known.name or known.volume_id} is registered here, and newer"
        )
    return Registered(
        record=_register_again(home, copied, known, data, name, force),
        known_counter=known.counter,
    )


def _read_copy(home: Home, data: Path, source: CopySource) -> tuple[RecordCopy, str]:
    if source.store is not None:
        if source.volume_id is None or source.record is not None:
            raise InvalidArgumentError("--store needs --volume-id, and no --record")
        what = f"copy of the record of volume {source.volume_id} in snapshot store {source.store}"
        try:
            found = open_store(home, source.store).objects.get(record_name(source.volume_id))
        except ObjectNotFoundError as error:
            raise RecordCopyNotFoundError(
                source.volume_id,
                what,
                hint=None
                if is_block_device(data)
                else "that of a volume whose data is a file lies beside the data, as "
                f"{copy_beside(data)}: leave out --store, or name it with --record",
            ) from error
        return RecordCopy(found, what=what), what
    path = source.record
    if path is None:
        if is_block_device(data):
            raise InvalidArgumentError(
                f"{data} is a block device, beside which no copy of a record lies",
                hint="say where it is: --store STORE --volume-id V, or --record FILE",
            )
        path = copy_beside(data)
    what = f"copy of a record {path}"
    try:
        return RecordCopy(
            read_file(path, limit_bytes=MAX_DOCUMENT_BYTES, follow=True), what=what
        ), what
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InvalidArgumentError(
            f"there is no copy of a volume record at {path}",
            hint=f"of an unencrypted volume there is none: 'volcrypt volume import {data}' makes a "
            "volume of its data",
        ) from error


def _check_key(home: Home, claimed: VolumeRecord, what: str, kms_key: str | None) -> None:
    wrapped = claimed.wrapped_key
    assert wrapped is not None, "internal error: copies are of encrypted volumes"
    check_source_key(home, wrapped, f"volume {claimed.volume_id}")
    if wrapped.kms_key_arn is None:
        # What opens under the caller's own key was wrapped by somebody who has it.
        if kms_key is not None:
            raise AccessDeniedError(
                f"the volume is under a customer-provided key, not under {kms_key}"
            )
        return
    if wrapped.encryption_context != volume_context(claimed.volume_id):
        raise IntegrityError(f"{what}: its data key is bound to something else than this volume")
    arn = wrapped.kms_key_arn
    if kms_key is not None:
        expected = kms_key if kms_key.startswith("arn:") and ":key/" in kms_key else None
        if (expected or resolve_key(home, kms_key)) != arn:
            raise AccessDeniedError(f"the volume is under KMS key {arn}, not under {kms_key}")
    elif _account_of(arn) != _account_of(resolve_key(home, None)):
        raise AccessDeniedError(
            f"the volume is under KMS key {arn}, which belongs to another account",
            hint=f"if that is right: --kms-key-id {arn}",
        )


def _account_of(arn: str) -> str:
    return arn.split(":")[4]


def _newest(home: Home, copied: VolumeRecord, seal: MacSeal) -> VolumeRecord:
    """Of a volume with a lease the copy in the store of the lease, if that is newer than a file
    that somebody kept. Raises StoreNotFoundError when this home does not know the store."""
    if copied.lease is None:
        return copied
    if copied.lease not in store_names(home):
        error = StoreNotFoundError(copied.lease)
        error.hint = (
            "the lease of the volume is there; make it known to this home with "
            "'volcrypt store trust NAME --url URL'"
        )
        raise error
    place = copy_place(home, copied)
    found = None if place is None or copied.device is None else place.read()
    if found is None:
        return copied
    other = decode_record_copy(found, seal, what="copy of the record in the store of the lease")
    return other if other.counter > copied.counter else copied


def _located(home: Home, copied: VolumeRecord, data: Path, *, force: bool) -> VolumeRecord:
    """The record with the place where the data is here, which is looked at."""
    check_unused(home, data, but=copied.volume_id)
    placement = Placement(data=data)
    if copied.device and placement.is_device and not force:
        found = identity_of(data)
        if found and found != copied.device:
            raise IntegrityError(
                f"{data} says {found!r} of itself, and the volume was made on {copied.device!r}",
                hint="--force if the data has moved there",
            )
    located = msgspec.structs.replace(
        copied,
        data_path=placement.recorded_path,
        device=placement.device_identity,
        account=home.account,
    )
    check_not_elsewhere(home, located)
    DataFile.open(data_path(home, located), located.size_bytes, read_only=True).close()
    return located


def _register_new(
    home: Home, copied: VolumeRecord, data: Path, name: str | None, force: bool
) -> VolumeRecord:
    with ExitStack() as stack:
        stack.enter_context(home.exclusive())
        remove_leftovers(home)
        record = msgspec.structs.replace(
            _located(home, copied, data, force=force), name=name or copied.name
        )
        check_name_is_free(home, record.name)
        home.volumes.make(record.volume_id)
        directory = home.volumes.path_of(record.volume_id)
        stack.enter_context(hold_volume(directory, purpose="register"))
        # Should we be killed, the data is not ours to clear up.
        write_durably(directory / KEEP_DATA_FILE, b"")
        try:
            adopt_record(home, record, known_counter=None)
        except BaseException:
            if home.register.get(KIND, record.volume_id) is None:
                home.volumes.remove(record.volume_id)
            raise
        remove_durably(directory / KEEP_DATA_FILE)
        return record


def _register_again(
    home: Home,
    copied: VolumeRecord,
    known: VolumeRecord,
    data: Path,
    name: str | None,
    force: bool,
) -> VolumeRecord:
    directory = home.volumes.path_of(known.volume_id)
    with home.exclusive(), hold_volume(directory, purpose="register"):
        check_none_running(home, known.volume_id, known.name or known.volume_id)
        record = msgspec.structs.replace(
            _located(home, copied, data, force=force), name=name or known.name
        )
        if record.name != known.name:
            check_name_is_free(home, record.name)
        # Somebody else may have written since: what had changed before then is not all.
        home.live_map_path(known.volume_id).unlink(missing_ok=True)
        if os.path.lexists(directory / CHANGE_MAP_FILE):
            remove_durably(directory / CHANGE_MAP_FILE)
        adopt_record(home, record, known_counter=known.counter)
        return record
