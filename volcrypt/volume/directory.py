"""VolumeDirectory: where volumes lie on disk, and how their records change.

    volumes/vol-0a1b.../record          the current record
                        record.next     a record on its way to become that
                        record.spare    the record once more, should a disk damage it
                        data, change-map, owner, ...

It moves records as bytes; it knows neither their seals nor the register that says which record is
the current one, except for the digest that a caller brings from there.

Changing records, of one or several volumes at once, takes three steps: `stage_record` for each;
one transaction in the register that names the digests of the new ones; `promote_record` for each.
The register decides: before its transaction the old records are current and a `record.next` is
nothing; after it the staged ones are, wherever they lie, and `read_record` finishes what a power
cut kept from being promoted. Stage only what follows the record that `read_record` gave: staging
replaces `record.next`, and that call has moved away what was worth keeping.

The spare has the bytes of the record, and follows it: `promote_record` writes it, and each
`read_record` that finds another one, or none. A record that is missing, or is not the one that the
register names, is replaced by the spare if that is; so an older spare is as worthless as an older
record. That a spare cannot be written is no failure of anything.

A lock on the volume's directory (`flock`, for the time of one call) keeps a reader that promotes
apart from a writer that stages; it does not replace the lock under which the three steps run.
"""

import errno
import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
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
from volcrypt.errors import (
    FormatError,
    IntegrityError,
    MalformedError,
    RecordMissingError,
    RollbackError,
    VolcryptError,
)
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
_SPARE: Final = "record.spare"
_DAMAGED: Final = (errno.EIO, errno.EBADMSG, errno.EUCLEAN)
"""What a file system answers for a sector that is lost, or has another checksum."""


def log_warning(text: str) -> None:
    import logging  # here, since no other command needs these ten milliseconds

    logging.getLogger(__name__).warning("%s", text)


class VolumeDirectory:
    """The directory that holds all volumes of a home; it must exist. `warn` is told of records and
    spares that were damaged, a line each."""

    def __init__(self, path: Path, *, warn: Callable[[str], None] = log_warning) -> None:
        self.path = path
        self._warn = warn

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

    def promote_record(self, volume_id: VolumeId, record: bytes) -> None:
        """Make the staged record, which is `record`, the current one, durably; then its spare.

        None staged: somebody who read it was quicker. Raises RecordMissingError when there is
        no record either.
        """
        directory = self.path_of(volume_id)
        try:
            with _locked(directory) as held:
                if _promote(held):
                    _write_spare(directory, record)
        except FileNotFoundError as error:
            raise RecordMissingError(f"the record of {volume_id}") from error

    def read_record(self, volume_id: VolumeId, *, digest: bytes) -> bytes:
        """The record whose SHA-256 is `digest`; promoted first when it was only staged, and put
        back when only the spare is left of it.

        Raises RollbackError when what is there is another one, RecordMissingError when nothing is;
        MalformedError, IntegrityError and OSError when the record cannot be read.
        """
        directory = self.path_of(volume_id)
        try:
            with _locked(directory) as held:
                found = {name: _found(directory / name) for name in (*RECORD_FILES, _SPARE)}
                for name, data in found.items():
                    if isinstance(data, bytes) and hashlib.sha256(data).digest() == digest:
                        if name == _STAGED:
                            _promote(held)
                            _write_spare(directory, data)
                        elif name == _SPARE:
                            self._replace(volume_id, data)
                        elif found[_SPARE] != data:
                            self._mend_spare(volume_id, data, was=found[_SPARE])
                        return data
        except FileNotFoundError as error:
            raise RecordMissingError(f"volume {volume_id}") from error
        record = found[_RECORD]
        if isinstance(record, Exception):
            raise record
        if record is None and found[_STAGED] is None:
            raise RecordMissingError(f"the record of {volume_id}")
        raise RollbackError(f"the record of {volume_id}")

    def put_back(self, volume_id: VolumeId, record: bytes) -> None:
        """Put the current record, which was kept elsewhere, in the place of a damaged one."""
        with _locked(self.path_of(volume_id)):
            self._replace(volume_id, record)
            _write_spare(self.path_of(volume_id), record)

    def has_spare(self, volume_id: VolumeId) -> bool:
        """Whether the record has a spare that says the same."""
        directory = self.path_of(volume_id)
        with suppress(FileNotFoundError), _locked(directory):
            record, spare = _found(directory / _RECORD), _found(directory / _SPARE)
            return isinstance(record, bytes) and record == spare
        return False

    def _replace(self, volume_id: VolumeId, record: bytes) -> None:
        problem = _written(self.path_of(volume_id) / _RECORD, record)
        self._warn(
            f"the record of volume {volume_id} was missing, damaged or old, and was put back from "
            "a copy"
            if problem is None
            else f"the record of volume {volume_id} is missing, damaged or old; a copy is used, "
            f"which cannot be put back: {problem}"
        )

    def _mend_spare(
        self, volume_id: VolumeId, record: bytes, *, was: bytes | Exception | None
    ) -> None:
        """None is what homes of earlier releases have, and nothing to warn of."""
        if _write_spare(self.path_of(volume_id), record) and was is not None:
            self._warn(
                f"the spare record of volume {volume_id} was damaged or old, and was written again"
            )

    def remove(self, volume_id: VolumeId) -> None:
        """Remove the volume's directory with all that is in it, its data file first, durably.

        Stopped anywhere, it can be called again; nothing there is no error.
        """
        try:
            with held_directory(self.path_of(volume_id)) as directory:
                with suppress(FileNotFoundError):
                    os.unlink(DATA_FILE, dir_fd=directory)
                os.fsync(directory)
                # No reader puts a file back between these and the directory.
                fcntl.flock(directory, fcntl.LOCK_EX)
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


def _promote(directory: int) -> bool:
    """Whether one was staged."""
    try:
        os.replace(_STAGED, _RECORD, src_dir_fd=directory, dst_dir_fd=directory)
    except FileNotFoundError:
        os.stat(_RECORD, dir_fd=directory)
        return False
    os.fsync(directory)
    return True


def _write_spare(directory: Path, record: bytes) -> bool:
    return _written(directory / _SPARE, record) is None


def _written(path: Path, data: bytes) -> Exception | None:
    """What kept `data` from being written durably."""
    try:
        write_durably(path, data)
    except (OSError, VolcryptError) as error:
        return error
    return None


def _found(path: Path) -> bytes | Exception | None:
    """What is there; the error, where it is no file of ours or cannot be read."""
    try:
        return read_file(path, limit_bytes=MAX_DOCUMENT_BYTES)
    except FileNotFoundError:
        return None
    except MalformedError as error:
        return error
    except OSError as error:
        if error.errno not in _DAMAGED:
            return error
        return IntegrityError(f"{path} cannot be read: {error.strerror}")


@contextmanager
def _locked(path: Path) -> Iterator[int]:
    """The directory, held. Raises MalformedError for a link in its place."""
    with held_directory(path) as descriptor:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
