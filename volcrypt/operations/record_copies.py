"""The second copy of a volume's record, by which other homes open it (`formats.record_copy`).

Encrypted volumes whose data lies outside of the home have one:

    data in the file PATH          PATH.volcrypt
    on a device, with a lease      records/VOLUME-ID in the store of the lease
    on another device              volumes/VOLUME-ID/record.copy in the home, to be taken along

It follows the record: written when the volume is made, when it grows, and by each mount that finds
another one. Its counter is the record's, so a home whose record is older than the copy knows that
another home has changed the volume since, and does not touch it before it has the newer record.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Protocol

from volcrypt.crypto.data_key import DataKey
from volcrypt.durable import read_file, remove_durably, write_durably
from volcrypt.errors import (
    FormatError,
    IntegrityError,
    NoSpaceError,
    ObjectNotFoundError,
    ObjectStoreError,
    SealError,
)
from volcrypt.formats.document import MAX_DOCUMENT_BYTES, MacSeal
from volcrypt.formats.record_copy import (
    RecordCopy,
    copy_seal_key,
    decode_record_copy,
    encode_record_copy,
    portable,
)
from volcrypt.formats.volume_record import VolumeRecord
from volcrypt.names import StoreId, VolumeId
from volcrypt.operations.home import Home
from volcrypt.operations.keys import unwrap_key
from volcrypt.operations.stores import store_names, store_of
from volcrypt.snapshot.layout import record_name
from volcrypt.snapshot.store import SnapshotStore

SUFFIX: Final = ".volcrypt"
COPY_FILE: Final = "record.copy"


class CopyPlace(Protocol):
    """Where the copy of one record lies. `read` answers None when there is none; all may raise
    OSError, NoSpaceError and ObjectStoreError, and `read` MalformedError for what is no copy."""

    @property
    def location(self) -> str: ...
    def read(self) -> bytes | None: ...
    def write(self, data: bytes) -> None: ...
    def remove(self) -> None: ...


class FileCopy:
    """In a file of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def location(self) -> str:
        return str(self.path)

    def read(self) -> bytes | None:
        try:
            return read_file(self.path, limit_bytes=MAX_DOCUMENT_BYTES, follow=True)
        except FileNotFoundError:
            return None

    def write(self, data: bytes) -> None:
        write_durably(self.path, data, follow=True)

    def remove(self) -> None:
        remove_durably(self.path, follow=True)


class StoreCopy:
    """In a snapshot store."""

    def __init__(self, store: SnapshotStore, volume_id: VolumeId) -> None:
        self._objects = store.objects
        self._name = record_name(volume_id)

    @property
    def location(self) -> str:
        return f"{self._objects.location}/{self._name}"

    def read(self) -> bytes | None:
        try:
            return self._objects.get(self._name)
        except ObjectNotFoundError:
            return None

    def write(self, data: bytes) -> None:
        self._objects.replace(self._name, data)

    def remove(self) -> None:
        self._objects.delete(self._name)
        self._objects.sync()


def copy_beside(data_path: Path) -> Path:
    """Where the copy lies of a volume whose data is in a file outside of the home."""
    return data_path.with_name(data_path.name + SUFFIX)


def copy_place(home: Home, record: VolumeRecord) -> CopyPlace | None:
    """None for a volume that has no copy. Raises as `store_of`."""
    if (path := copy_file(home, record)) is not None:
        return FileCopy(path)
    if (lease := _lease_with_copy(record)) is not None:
        return StoreCopy(store_of(home, lease), record.volume_id)
    return None


def copy_location(home: Home, record: VolumeRecord) -> str | None:
    """Where the copy lies, for people; no store is asked."""
    if (path := copy_file(home, record)) is not None:
        return str(path)
    if (lease := _lease_with_copy(record)) is not None:
        name = store_names(home).get(lease, lease)
        return f"{record_name(record.volume_id)} in snapshot store {name}"
    return None


def copy_file(home: Home, record: VolumeRecord) -> Path | None:
    """Where the copy lies that is a file; None for a volume that has none such."""
    if not _has_copy(record) or _lease_with_copy(record) is not None:
        return None
    if record.device is None:
        assert record.data_path is not None, "internal error: it has a copy"
        return copy_beside(Path(record.data_path))
    return home.volumes.path_of(record.volume_id) / COPY_FILE


def _has_copy(record: VolumeRecord) -> bool:
    return record.wrapped_key is not None and record.data_path is not None


def _lease_with_copy(record: VolumeRecord) -> StoreId | None:
    """The lease in whose store the copy is, where it is in one."""
    return record.lease if _has_copy(record) and record.device is not None else None


class RecordCopies:
    """The copy of one volume's record, for whoever has its data key; without one, nothing."""

    def __init__(self, place: CopyPlace | None, seal: MacSeal | None) -> None:
        self._place = place
        self._seal = seal

    def check(self, record: VolumeRecord) -> bool:
        """Whether the copy is there and says what the record does; one that is damaged, another's
        or older counts as none. Raises IntegrityError when it is the record that is older."""
        if self._place is None or self._seal is None:
            return True
        what = f"copy of the record of volume {record.volume_id}"
        data = None
        try:
            data = self._place.read()
            if data is None:
                return False
            copy = decode_record_copy(data, self._seal, what=what)
        except FormatError:
            return False
        except SealError:
            if data is not None:
                _check_claim(data, record, what, self._place.location)
            return False
        if portable(copy) == portable(record):
            return True
        if copy.counter < record.counter or copy.volume_id != record.volume_id:
            return False
        raise _changed_elsewhere(record, copy, self._place.location)

    def write(self, record: VolumeRecord) -> None:
        """Durable on return."""
        if self._place is not None and self._seal is not None:
            self._place.write(encode_record_copy(record, self._seal))

    def refresh(self, record: VolumeRecord) -> None:
        """Write the copy if it is not there or older. Raises as `check`; where it cannot be written
        now a later mount does."""
        if not self.check(record):
            with suppress(OSError, NoSpaceError, ObjectStoreError):
                self.write(record)


def _check_claim(data: bytes, record: VolumeRecord, what: str, location: str) -> None:
    """One that another data key sealed is damaged, or of a home that gave the volume a new one: who
    went on here would write under the old one. Only the claim tells; `register` finds out."""
    try:
        claimed = RecordCopy(data, what=what).claimed
    except FormatError:
        return
    key, other = record.wrapped_key, claimed.wrapped_key
    if (
        claimed.volume_id == record.volume_id
        and claimed.counter > record.counter
        and key is not None
        and other is not None
        and key.data_key_id != other.data_key_id
    ):
        raise _changed_elsewhere(record, claimed, location)


def _changed_elsewhere(record: VolumeRecord, copy: VolumeRecord, location: str) -> IntegrityError:
    return IntegrityError(
        f"another home has changed volume {record.name or record.volume_id}: its record there "
        f"has number {copy.counter}, here {record.counter}",
        hint=f"'volcrypt volume register' takes the newer record from {location}",
    )


@contextmanager
def record_copies(
    home: Home, record: VolumeRecord, data_key: DataKey | None = None
) -> Iterator[RecordCopies]:
    """The copy of a volume's record; its data key is unwrapped for it where the caller has not got
    it. Raises KmsError."""
    place = copy_place(home, record)
    if place is None:
        yield RecordCopies(None, None)
        return
    with copy_seal(home, record, data_key) as seal:
        yield RecordCopies(place, seal)


@contextmanager
def copy_seal(
    home: Home, record: VolumeRecord, data_key: DataKey | None = None
) -> Iterator[MacSeal]:
    """What the copy of the record of an encrypted volume is sealed with; as `record_copies`."""
    if data_key is not None:
        key = copy_seal_key(data_key.view(), record.volume_id)
    else:
        assert record.wrapped_key is not None, "internal error: copies are of encrypted volumes"
        with unwrap_key(home, record.wrapped_key) as unwrapped:
            key = copy_seal_key(unwrapped.view(), record.volume_id)
    try:
        yield MacSeal(key)
    finally:
        key[:] = bytes(len(key))


def remove_copy(home: Home, record: VolumeRecord) -> None:
    """With a volume that is deleted. Leaves what is no copy of this volume's record."""
    place = copy_place(home, record)
    if place is None:
        return
    with suppress(FormatError):
        data = place.read()
        if data is None:
            return
        if RecordCopy(data, what=place.location).claimed.volume_id == record.volume_id:
            place.remove()
