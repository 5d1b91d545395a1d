"""The file of the audit log's head: read by everybody, overwritten under the home's writer lock.

Its bytes are those of `formats.audit_head`. `write` is one write in place and one fdatasync.

After a failed sync nothing is believed until the file is opened anew: the page cache may hold a
slot that the medium does not, and a later sync may succeed without it. Opening drops those pages.
"""

import errno
import os
import stat
import threading
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.constant_time import bytes_eq

from volcrypt.durable import no_space_named, read_fully, write_durably, write_fully
from volcrypt.errors import (
    FormatError,
    IntegrityError,
    KmsInternalError,
    MalformedError,
    PrivilegeError,
    RecordMissingError,
)
from volcrypt.formats.audit_head import (
    FILE_BYTES,
    SLOT_BYTES,
    SealedHead,
    decode_file,
    encode_file,
    encode_slot,
)
from volcrypt.formats.audit_record import AuditHead
from volcrypt.kms.sealing import Macs

NAME: Final = "head"
_READ_TRIES: Final = 8


class _HsmSeal:
    """The seal of the head's slots: a MAC made in the HSM."""

    def __init__(self, macs: Macs) -> None:
        self._macs = macs

    def seal(self, covered: bytes) -> bytes:
        return self._macs.mac(covered)

    def verify(self, covered: bytes, seal: bytes) -> None:
        if not bytes_eq(self.seal(covered), seal):
            raise InvalidSignature


class HeadFile:
    """Opened once per process, at its first use."""

    def __init__(self, path: Path, *, macs: Macs) -> None:
        self._path = path
        self._seal = _HsmSeal(macs)
        self._descriptor: int | None = None
        self._mutex = threading.Lock()
        self._known: tuple[bytes, SealedHead] | None = None
        self._has_failed = False

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    @property
    def has_failed(self) -> bool:
        """Whether an error of the disk has ended its use."""
        return self._has_failed

    def reopen(self) -> None:
        """Begin anew after such an error, with what is on the medium."""
        with self._mutex:
            self.close()
            self._known = None
            self._has_failed = False

    @staticmethod
    def create(path: Path, *, macs: Macs, catalogue: int) -> None:
        """Make the head of a log without records, durably; replaces what an unfinished attempt
        left."""
        head = SealedHead(number=0, audit=AuditHead(), catalogue=catalogue)
        write_durably(path, encode_file(head, _HsmSeal(macs)))

    def read(self) -> SealedHead:
        """The head as it was written last, by whichever process.

        Raises RecordMissingError, FormatError, IntegrityError, KmsInternalError.
        """
        self._check_usable()
        with self._mutex:
            problem: FormatError | IntegrityError | None = None
            # A slot that is being overwritten this moment is no damage: look again.
            for _ in range(_READ_TRIES):
                data = self._read_bytes()
                if self._known is not None and self._known[0] == data:
                    return self._known[1]
                try:
                    head = decode_file(data, self._seal, what=f"audit head {self._path}")
                except (FormatError, IntegrityError) as error:
                    problem = error
                    continue
                self._known = data, head
                return head
            assert problem is not None, "internal error: neither a head nor a problem"
            raise problem

    def write(self, audit: AuditHead, *, catalogue: int) -> None:
        """Make this the head, durably. The caller holds the writer lock and has called `read`
        under it. Raises NoSpaceError, after which the old head holds, and KmsInternalError."""
        self._check_usable()
        with self._mutex:
            assert self._known is not None, "internal error: a head is written that was not read"
            data, old = self._known
            head = SealedHead(number=old.number + 1, audit=audit, catalogue=catalogue)
            slot = encode_slot(head, self._seal)
            try:
                with no_space_named(self._path):
                    write_fully(self._open(), slot, head.offset)
                os.fdatasync(self._open())
            except OSError as error:
                self._has_failed = True
                raise KmsInternalError(f"audit head {self._path} cannot be written") from error
            new = data[: head.offset] + slot + data[head.offset + SLOT_BYTES :]
            self._known = new, head

    def _read_bytes(self) -> bytes:
        try:
            # One byte more than there should be, so that a longer file is noticed.
            return read_fully(self._open(), FILE_BYTES + 1, 0)
        except OSError as error:
            self._has_failed = True
            raise KmsInternalError(f"audit head {self._path} cannot be read") from error

    def _open(self) -> int:
        if self._descriptor is None:
            what = f"audit head {self._path}"
            flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
            try:
                descriptor = os.open(self._path, flags)
            except FileNotFoundError as error:
                raise RecordMissingError(what) from error
            except PermissionError as error:
                raise PrivilegeError(f"{what} cannot be opened for writing") from error
            except OSError as error:
                if error.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
                    raise MalformedError(what, "not a regular file") from error
                raise
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                os.close(descriptor)
                raise MalformedError(what, "not a regular file")
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            self._descriptor = descriptor
        return self._descriptor

    def _check_usable(self) -> None:
        if self._has_failed:
            raise KmsInternalError(f"audit head {self._path} failed earlier, open it again")
