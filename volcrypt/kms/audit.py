"""The audit log: durable records of every request, in the chain of `formats.audit_record`.

    HOME/kms/audit/audit-000001.jsonl, audit-000002.jsonl, ...
    HOME/kms/audit/head                 the sealed end of it (`head_file`)

A record is written and synced (fdatasync) before what it records may happen; then, if rows of the
catalogue change, they are committed with the new head; then the head file takes it, and is synced.
Whoever appends holds the writer lock of the home, and gives the head that is sealed.

So a kill or a power cut may leave something behind the head, and nothing of that has had an effect:

- a torn record (a power cut while it was written): the next append cuts it off;
- whole records (a kill before they were sealed): the next append takes them over. They were not
  sealed, and could have been put there by hand, so that is said in the log: both cases give an
  event `RecoverAuditLog` with the number of records taken over and bytes cut off.

What is taken over is sealed, with its event, before anything is appended behind it. So however many
kills follow each other, behind the head lies at most what one append wrote: the records of one
batch, or one request that changes rows, or one event of the service; and an event `RecoverAuditLog`
for each kill between its record and its seal. A kill between the writing of the head file and its
sync, with a power cut in the next request, may undo the last head too and add a second batch. A
longer tail, or one with two allowed requests that change rows, is not a crash's: the head was put
back to an older one (`freshness`), and nothing is appended.

A log that ends before the head was cut by somebody, and one whose last record is not the head's was
changed: nothing is appended, and so nothing happens, until it is restored. The first append of a
process looks at that record alone; `verify` looks at all of them.

After a failed sync nothing is appended until the log is opened anew: a later sync may succeed
without the data of the failed one.
"""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from volcrypt.durable import (
    make_directory_durably,
    no_space_named,
    open_regular,
    read_fully,
    sync_directory,
)
from volcrypt.errors import (
    AuditChainError,
    FormatError,
    KmsInternalError,
    MalformedError,
    UnsupportedVersionError,
)
from volcrypt.formats.audit_record import (
    GENESIS_HASH,
    MAX_LINE_BYTES,
    AuditEvent,
    AuditHead,
    AuditPoint,
    AuditRecord,
    check_chain,
    encode_record,
    hash_line,
)
from volcrypt.kms.record_filter import RecordFilter

MAX_FILE_BYTES: Final = 64 * 2**20
"""A file that has reached this size is continued in the next one."""

_FILE_NAME: Final = re.compile(r"audit-[0-9]{6,}\.jsonl")
_USUAL_LINE_BYTES: Final = 2**14

MAX_BATCH: Final = 64
"""So many requests share an append at most: more would not be faster, and make others wait."""
_MAX_TAIL_RECORDS: Final = 2 * MAX_BATCH
RECOVERY: Final = "RecoverAuditLog"

RecoveryEvent = Callable[[int, int], AuditEvent]
"""Makes the event for (records taken over, bytes cut off)."""
SealHead = Callable[[AuditHead], None]
"""Stores the head, durably."""


class AuditLog:
    """The log of one home."""

    def __init__(self, directory: Path, *, max_file_bytes: int = MAX_FILE_BYTES) -> None:
        self._directory = directory
        self._max_file_bytes = max_file_bytes
        self._own_head: AuditHead | None = None
        self._is_checked = False
        self._has_failed = False
        self._open_file: tuple[int, int] | None = None
        """Number and descriptor of the file that was appended to last."""

    def close(self) -> None:
        if self._open_file is not None:
            os.close(self._open_file[1])
            self._open_file = None

    @property
    def has_failed(self) -> bool:
        """Whether an error of the disk has ended its use."""
        return self._has_failed

    def reopen(self) -> None:
        """Begin anew after such an error: the next record is written behind what is on the medium,
        as by a process that has just begun."""
        self.close()
        self._own_head = None
        self._is_checked = False
        self._has_failed = False

    @staticmethod
    def create(directory: Path) -> None:
        """Make the directory of the log, durably."""
        make_directory_durably(directory)

    def append(
        self,
        head: AuditHead,
        events: Sequence[AuditEvent],
        *,
        recovery: RecoveryEvent,
        seal: SealHead,
    ) -> AuditHead:
        """Write the events behind `head`, durable when this returns; the head that is then due.

        The caller holds the writer lock and stores the head; `seal` stores one that must be stored
        before. Raises NoSpaceError (the events were not written), AuditChainError when the log was
        cut, replaced, or goes on behind the head as no crash leaves it, KmsInternalError.
        """
        if self._has_failed:
            raise KmsInternalError(f"the audit log {self._directory} failed earlier, open it again")
        try:
            with no_space_named(self._directory):
                return self._append(head, events, recovery, seal)
        except OSError as error:
            self._has_failed = True
            raise KmsInternalError(f"the audit log {self._directory} cannot be written") from error

    def read_records(self, record_filter: RecordFilter | None = None) -> Iterator[AuditRecord]:
        """The records that match, oldest first; the chain is checked on the way.

        What a writer has not finished at the end is left out. Raises AuditChainError, FormatError.
        """
        for record, _ in self._chain():
            if record_filter is None or record_filter.matches(record):
                yield record

    def verify(self, head: AuditHead, *, expected: AuditPoint | None = None) -> int:
        """Check the whole chain against the sealed head, and that it contains `expected`, a point
        that somebody kept elsewhere; how many records follow the head: none, or what an interrupted
        process left, or what others append this moment. Raises AuditChainError, FormatError."""
        sequence = 0
        for record in self.verified_records(head, expected=expected):
            sequence = record.sequence
        return sequence - head.sequence

    def verified_records(
        self, head: AuditHead, *, expected: AuditPoint | None = None
    ) -> Iterator[AuditRecord]:
        """All records in one pass, for who makes something of them that is thrown away when this
        raises at the end: then some of them were not what was written. Raises as `verify`."""
        if expected is not None and expected.sequence > head.sequence:
            raise AuditChainError(
                f"the audit log ends at record {head.sequence}, record {expected.sequence} is "
                "expected: it was rolled back"
            )
        hashes = {0: GENESIS_HASH}
        sequence = 0
        wanted = {head.sequence, head.sequence if expected is None else expected.sequence}
        for record, hash_ in self._chain():
            sequence = record.sequence
            if sequence in wanted:
                hashes[sequence] = hash_
            yield record
        if sequence < head.sequence:
            raise AuditChainError(
                f"the audit log ends at record {sequence}, the last one was {head.sequence}"
            )
        for point in (expected, head.point):
            if point is not None and hashes[point.sequence] != point.hash:
                raise AuditChainError(
                    f"audit record {point.sequence} or one before it was changed after it was "
                    "written"
                )

    def _append(
        self,
        head: AuditHead,
        events: Sequence[AuditEvent],
        recovery: RecoveryEvent,
        seal: SealHead,
    ) -> AuditHead:
        descriptor = self._open(head)
        found, recovered = self._recover(descriptor, head, recovery)
        if recovered:
            found = self._write(descriptor, found, recovered)
        if found != head:
            seal(found)
        if found.end >= self._max_file_bytes:
            found = AuditHead(sequence=found.sequence, hash=found.hash, file=found.file + 1, end=0)
            return self._append(found, events, recovery, seal)
        return self._write(descriptor, found, events)

    def _open(self, head: AuditHead) -> int:
        """The file that the head is in, for appending."""
        path = self._path(head.file)
        if self._open_file is not None:
            number, descriptor = self._open_file
            if number == head.file:
                _check_in_place(path, descriptor)
                return descriptor
            self.close()
        if head.end and not os.path.lexists(path):
            raise AuditChainError(f"{path}, a file of the audit log, is missing")
        descriptor = _open_file(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        self._open_file = head.file, descriptor
        if head.end == 0:
            # Also where a process that made the file was killed before it did this.
            sync_directory(self._directory)
        return descriptor

    def _check_last_record(self, descriptor: int, head: AuditHead) -> None:
        """Raises AuditChainError unless the record before the head is the one that it names."""
        data = line = b""
        for window in (_USUAL_LINE_BYTES, MAX_LINE_BYTES + 1):
            start = max(0, head.end - window)
            # It must come from the medium, not from pages that a failed sync left.
            os.posix_fadvise(descriptor, start, 0, os.POSIX_FADV_DONTNEED)
            data = read_fully(descriptor, head.end - start, start)
            _, newline, line = data.removesuffix(b"\n").rpartition(b"\n")
            if newline or start == 0:
                break
        if not data.endswith(b"\n") or hash_line(line) != head.hash:
            raise AuditChainError(
                f"audit record {head.sequence} or one before it was changed after it was written"
            )

    def _recover(
        self, descriptor: int, head: AuditHead, recovery: RecoveryEvent
    ) -> tuple[AuditHead, tuple[AuditEvent, ...]]:
        """Deal with what lies behind `head` in its file; the new head, and what to say about it."""
        size = os.fstat(descriptor).st_size
        if size < head.end:
            raise AuditChainError(
                f"the audit log was cut before record {head.sequence}: "
                f"{self._path(head.file)} has {size} bytes, {head.end} were written"
            )
        if not self._is_checked:
            os.posix_fadvise(descriptor, head.end, 0, os.POSIX_FADV_DONTNEED)
            if head.end:
                self._check_last_record(descriptor, head)
            self._is_checked = True
        if size == head.end:
            return head, ()
        tail = read_fully(descriptor, size - head.end, head.end)
        found, end = head, head.end
        records: list[AuditRecord] = []
        lines = tail.split(b"\n")[:-1]
        try:
            for record, line in _and_ends(lines, head):
                records.append(record)
                found = line
                end = line.end
        except (AuditChainError, FormatError):
            pass
        if end == size and found == self._own_head:
            # Written by this very process, for a change that failed afterwards.
            return found, ()
        if self._path(head.file + 1).exists() or not _may_be_a_crash(records):
            raise AuditChainError(
                f"the audit log goes on behind record {head.sequence}, the last one that is "
                "sealed, with more than a crash leaves: catalogue and audit head are older ones",
                hint="put back the newest catalog.sqlite3 and audit/head, or restore a backup",
            )
        if end < size:
            os.ftruncate(descriptor, end)
        return found, (recovery(found.sequence - head.sequence, size - end),)

    def _write(self, descriptor: int, head: AuditHead, events: Sequence[AuditEvent]) -> AuditHead:
        lines: list[bytes] = []
        sequence, hash_ = head.sequence, head.hash
        for event in events:
            sequence += 1
            line = encode_record(event, sequence=sequence, previous_hash=hash_)
            hash_ = hash_line(line)
            lines.append(line + b"\n")
        data = b"".join(lines)
        written = 0
        try:
            while written < len(data):
                written += os.write(descriptor, data[written:])
            os.fdatasync(descriptor)
        except OSError:
            # Best effort: what stays is unsealed, and the next append cuts it off or reports it.
            with suppress(OSError):
                os.ftruncate(descriptor, head.end)
            raise
        head = AuditHead(sequence=sequence, hash=hash_, file=head.file, end=head.end + len(data))
        self._own_head = head
        return head

    def _path(self, number: int) -> Path:
        return self._directory / f"audit-{number:06}.jsonl"

    def _chain(self) -> Iterator[tuple[AuditRecord, str]]:
        """All records with their hashes; an error says where in which file it is."""
        place = "audit record"

        def lines() -> Iterator[bytes]:
            nonlocal place
            for path, number, line in self._lines():
                place = f"audit record in {path}, line {number}"
                yield line

        try:
            yield from check_chain(lines())
        except UnsupportedVersionError as error:
            raise UnsupportedVersionError(place, error.version, error.known) from error
        except MalformedError as error:
            raise AuditChainError(f"{place}: {error.problem}") from error

    def _lines(self) -> Iterator[tuple[Path, int, bytes]]:
        """All whole lines of all files, with file and number. A line without newline is one only at
        the very end."""
        paths = sorted(self._directory.glob("*.jsonl"))
        for path in paths:
            if not _FILE_NAME.fullmatch(path.name):
                raise AuditChainError(
                    f"{path} is no file of the audit log", hint="move it to another directory"
                )
        for path in paths:
            with os.fdopen(_open_file(path, os.O_RDONLY), "rb") as file:
                for number, line in enumerate(file, 1):
                    if line.endswith(b"\n"):
                        yield path, number, line[:-1]
                    elif path != paths[-1]:
                        raise AuditChainError(f"{path} was cut")


def _open_file(path: Path, flags: int) -> int:
    try:
        return open_regular(path, flags)
    except MalformedError as error:
        raise AuditChainError(f"{path}, a file of the audit log, is no regular file") from error


def _check_in_place(path: Path, descriptor: int) -> None:
    """Raises AuditChainError unless the open file is the one that has the name."""
    try:
        named = path.lstat()
    except FileNotFoundError as error:
        raise AuditChainError(f"{path}, a file of the audit log, is missing") from error
    ours = os.fstat(descriptor)
    if (named.st_dev, named.st_ino) != (ours.st_dev, ours.st_ino):
        raise AuditChainError(f"{path}, a file of the audit log, was replaced while it is in use")


def _and_ends(lines: Sequence[bytes], head: AuditHead) -> Iterator[tuple[AuditRecord, AuditHead]]:
    """Each record with the head behind it, as long as the chain from `head` on holds."""
    end = head.end
    chain = check_chain(lines, sequence=head.sequence, previous_hash=head.hash)
    for line, (record, hash_) in zip(lines, chain, strict=True):
        end += len(line) + 1
        yield record, AuditHead(sequence=record.sequence, hash=hash_, file=head.file, end=end)


def _may_be_a_crash(tail: Sequence[AuditRecord]) -> bool:
    """Whether a crash can leave these whole records behind the head."""
    tail = [record for record in tail if record.event_name != RECOVERY]
    allowed = [r for r in tail if not r.read_only and r.error_code is None]
    requests = sum(record.event_type == "AwsApiCall" for record in allowed)
    return len(tail) <= _MAX_TAIL_RECORDS and requests <= 1 and len(allowed) - requests <= 1
