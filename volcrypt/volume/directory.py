"""VolumeDirectory: where volumes lie on disk, and how their records change.

    volumes/vol-0a1b.../record          the current record
                        record.next     a record on its way to become that
                        data, change-map, owner, ...

It moves records as bytes; it knows neither their seals nor the register that says which record is
the current one, except for the digest that a caller brings from there.

Changing records, of one or several volumes at once, takes three steps: `stage_record` for each;
one transaction in the register that names the digests of the new ones; `promote_record` for each.
The register decides: before its transaction the old records are current and a `record.next` is
nothing; after it the staged ones are, wherever they lie, and `read_record` finishes what a power
cut kept from being promoted. Stage only what follows the record that `read_record` gave: staging
replaces `record.next`, and that call has moved away what was worth keeping.

A lock on the volume's directory (`flock`, for the time of one call) keeps a reader that promotes
apart from a writer that stages; it does not replace the lock under which the three steps run.
"""

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from volcrypt.durable import (
    held_directory,
    make_directory_durably,
    read_file,
    sync_directory,
    write_durably,
)
from volcrypt.errors import FormatError, RecordMissingError, RollbackError
from volcrypt.formats.document import MAX_DOCUMENT_BYTES
from volcrypt.names import VolumeId, is_volume_id
from volcrypt.volume.owner import OWNER_FILE, current_owner

DATA_FILE: Final = "data"
CHANGE_MAP_FILE: Final = "change-map"
KEEP_DATA_FILE: Final = "keep-data"
"""While it is there, data outside of the directory is not removed with it: it is another home's as
well."""
_RECORD: Final = "record"
_STAGED: Final = "record.next"
RECORD_FILES: Final = (_RECORD, _STAGED)
"""The current record, and one that may become it."""


class VolumeDirectory:
    """The directory that holds all volumes of a home; it must exist."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def path_of(self, volume_id: VolumeId) -> Path:
        """The directory of one volume, whether it exists or not."""
        return self.path / volume_id

    def ids(self) -> list[VolumeId]:
        """The volumes that have a directory, in order; not all have to be registered."""
        with os.scandir(self.path) as entries:
            return sorted(
                VolumeId(entry.name)
                for entry in entries
                if is_volume_id(entry.name) and entry.is_dir(follow_symlinks=False)
            )

    def make(self, volume_id: VolumeId) -> None:
        """Make the directory of a new volume, durably, so that its maker can hold the owner lock.

        Raises NoSpaceError.
        """
        make_directory_durably(self.path_of(volume_id))

    def stage_record(self, volume_id: VolumeId, data: bytes) -> None:
        """Lay `data` ready as the next record, durably; makes the directory of a new volume.

        Raises NoSpaceError.
        """
        self.make(volume_id)
        with _locked(self.path_of(volume_id)):
            write_durably(self.path_of(volume_id) / _STAGED, data)

    def promote_record(self, volume_id: VolumeId) -> None:
        """Make the staged record the record, durably.

        None staged: somebody who read it was quicker. Raises RecordMissingError when there is
        no record either.
        """
        try:
            with _locked(self.path_of(volume_id)) as directory:
                _promote(directory)
        except FileNotFoundError as error:
            raise RecordMissingError(f"the record of {volume_id}") from error

    def read_record(self, volume_id: VolumeId, *, digest: bytes) -> bytes:
        """The record whose SHA-256 is `digest`; promoted first when it was only staged.

        Raises RollbackError when what is there is another one, RecordMissingError when nothing is.
        """
        directory = self.path_of(volume_id)
        try:
            with _locked(directory) as held:
                record = _read_if_there(directory / _RECORD)
                if record is not None and hashlib.sha256(record).digest() == digest:
                    return record
                staged = _read_if_there(directory / _STAGED)
                if staged is not None and hashlib.sha256(staged).digest() == digest:
                    _promote(held)
                    return staged
        except FileNotFoundError as error:
            raise RecordMissingError(f"volume {volume_id}") from error
        if record is None and staged is None:
            raise RecordMissingError(f"the record of {volume_id}")
        raise RollbackError(f"the record of {volume_id}")

    def remove(self, volume_id: VolumeId) -> None:
        """Remove the volume's directory with all that is in it, its data file first, durably.

        Stopped anywhere, it can be called again; nothing there is no error.
        """
        try:
            with held_directory(self.path_of(volume_id)) as directory:
                _empty(directory)
        except FileNotFoundError:
            return
        self.path_of(volume_id).rmdir()
        sync_directory(self.path)

    def leftovers(self, known: set[VolumeId]) -> list[VolumeId]:
        """Volumes with a directory that are not in `known` (the register) and that nobody holds.

        A volume that is being made looks the same unless its maker holds its owner lock.
        """
        return [
            volume_id
            for volume_id in self.ids()
            if volume_id not in known and _is_free(self.path_of(volume_id))
        ]


def _empty(directory: int) -> None:
    """Remove all that is in the directory of a volume."""
    with suppress(FileNotFoundError):
        os.unlink(DATA_FILE, dir_fd=directory)
    os.fsync(directory)
    # The owner file last: until then the lock of whoever removes keeps others away. Before it
    # what says to keep the data: a record without it would have somebody remove that.
    last = {KEEP_DATA_FILE: 1, OWNER_FILE: 2}
    for name in sorted(os.listdir(directory), key=lambda name: last.get(name, 0)):
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=directory)


def _is_free(directory: Path) -> bool:
    try:
        return current_owner(directory) is None
    except FormatError:
        return False


def _promote(directory: int) -> None:
    try:
        os.replace(_STAGED, _RECORD, src_dir_fd=directory, dst_dir_fd=directory)
    except FileNotFoundError:
        os.stat(_RECORD, dir_fd=directory)
        return
    os.fsync(directory)


def _read_if_there(path: Path) -> bytes | None:
    try:
        return read_file(path, limit_bytes=MAX_DOCUMENT_BYTES)
    except FileNotFoundError:
        return None


@contextmanager
def _locked(path: Path) -> Iterator[int]:
    """The directory, held. Raises MalformedError for a link in its place."""
    with held_directory(path) as descriptor:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
