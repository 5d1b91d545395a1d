"""The log of a process that stays: lines on standard error, and records in systemd's journal.

Under systemd (JOURNAL_STREAM is set) each message goes to the journal's own socket, with what it is
about as fields of their own: `journalctl VOLCRYPT_VOLUME=vol-...`, or VOLCRYPT_KEY=,
VOLCRYPT_NAME=, VOLCRYPT_SNAPSHOT=; and PRIORITY, CODE_FILE, CODE_LINE, CODE_FUNC. Standard error
gets the same messages as plain lines, from warnings on, unless that is the journal itself.

The journal is never waited for: its files may lie on the very volume that the process serves. What
it does not take at once is lost, and the next message says how many were, as VOLCRYPT_LOST.
"""

import logging
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from volcrypt.formats.job import JobRecord
from volcrypt.volume.launch import Assignment

JOURNAL_SOCKET: Final = Path("/run/systemd/journal/socket")
KEY_FIELD: Final = "VOLCRYPT_KEY"
PLAIN_FORMAT: Final = "%(asctime)s %(levelname)s %(message)s"
_PRIORITIES: Final = (
    (logging.CRITICAL, 2),
    (logging.ERROR, 3),
    (logging.WARNING, 4),
    (logging.INFO, 6),
)
_DEBUG: Final = 7
_STDERR: Final = 2
_KEY_ARN: Final = re.compile(r"arn:[a-z-]+:kms:[a-z0-9-]*:\d{12}:key/[\w-]{1,64}", re.ASCII)


class JournalHandler(logging.Handler):
    """Sends records to the journal. `fields` go with each of them, and so do `several`, of which
    there may be more with one name."""

    def __init__(self, identifier: str, *, socket_path: Path = JOURNAL_SOCKET) -> None:
        """Raises OSError where there is no journal."""
        from logging_journald import JournaldTransport

        super().__init__()
        socket_path.stat()
        self.fields: dict[str, str] = {}
        self.several: list[tuple[str, str]] = []
        self._identifier = identifier
        # Not connected: a journal that was started anew is found again.
        self._transport = JournaldTransport(socket_path, connected=False)
        self._transport.socket.setblocking(False)
        self._lost = 0

    def emit(self, record: logging.LogRecord) -> None:
        try:
            pairs = self._pairs(record)
        except Exception:
            self.handleError(record)
            return
        try:
            self._transport.send(pairs)
            self._lost = 0
        except (OSError, ValueError):
            self._lost += 1

    def close(self) -> None:
        self._transport.socket.close()
        super().close()

    def _pairs(self, record: logging.LogRecord) -> list[tuple[str, str | int]]:
        message = self.format(record)
        pairs: dict[str, str | int] = {
            "MESSAGE": message.encode(errors="backslashreplace").decode(),
            "PRIORITY": next((p for at, p in _PRIORITIES if record.levelno >= at), _DEBUG),
            "SYSLOG_IDENTIFIER": self._identifier,
            "CODE_FILE": record.pathname,
            "CODE_LINE": record.lineno,
            "CODE_FUNC": record.funcName or "",
            **self.fields,
        }
        named = _KEY_ARN.search(message)
        if named is not None:
            pairs[KEY_FIELD] = named[0]  # the one that it is about, whatever the volume's is
        if self._lost:
            pairs["VOLCRYPT_LOST"] = self._lost
        return [*pairs.items(), *self.several]


def log_to_journal(
    identifier: str,
    *,
    plain_format: str = PLAIN_FORMAT,
    socket_path: Path = JOURNAL_SOCKET,
) -> JournalHandler | None:
    """Have all loggers of this process write where they should; the journal's handler, None outside
    of systemd. To be called once."""
    journal: JournalHandler | None = None
    if os.environ.get("JOURNAL_STREAM"):
        with suppress(OSError):
            journal = JournalHandler(identifier, socket_path=socket_path)
    root = logging.getLogger()
    if journal is not None:
        root.addHandler(journal)
        # What is no complaint goes there alone: a log on tmpfs that is not empty is one.
        logging.getLogger("volcrypt").setLevel(logging.INFO)
    if journal is None or not is_journal(_STDERR):
        plain = logging.StreamHandler()
        plain.setLevel(logging.WARNING)
        plain.setFormatter(logging.Formatter(plain_format))
        root.addHandler(plain)
    return journal


def fields_of_jobs(jobs: Sequence[JobRecord]) -> list[tuple[str, str]]:
    """What the messages of a process are about that makes snapshots, or a copy."""
    found = {
        (name, value): None
        for job in jobs
        for name, value in (
            ("VOLCRYPT_SNAPSHOT", job.snapshot_id),
            ("VOLCRYPT_VOLUME", job.volume_id),
            ("VOLCRYPT_NAME", job.name),
            (KEY_FIELD, job.kms_key_arn),
        )
        if value is not None
    }
    return list(found)


def now_under(kms_key_arn: str | None) -> None:
    """What this process serves is under another key from now on: messages say so."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, JournalHandler):
            if kms_key_arn is None:
                handler.fields.pop(KEY_FIELD, None)
            else:
                handler.fields[KEY_FIELD] = kms_key_arn


def is_journal(descriptor: int) -> bool:
    """Whether the descriptor is the stream that systemd connected with the journal."""
    status = os.fstat(descriptor)
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def fields_of(assignment: Assignment) -> dict[str, str]:
    """What the messages of a volume's process are about."""
    found = {
        "VOLCRYPT_VOLUME": assignment.volume_id if assignment.snapshot_id is None else None,
        "VOLCRYPT_SNAPSHOT": assignment.snapshot_id,
        "VOLCRYPT_NAME": assignment.name,
        KEY_FIELD: assignment.kms_key_arn,
    }
    return {name: value for name, value in found.items() if value is not None}
