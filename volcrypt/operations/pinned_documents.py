"""Documents of which the register names the current version, by its digest.

A new version is staged beside the one in place, the register's transaction makes it current, and
then it takes that place: so the current one is in one of the two. It is one's at a time to write.
"""

import hashlib
from pathlib import Path

from volcrypt.durable import read_file, write_durably
from volcrypt.errors import RecordMissingError, RollbackError
from volcrypt.formats.document import MAX_DOCUMENT_BYTES
from volcrypt.kms.register import RegisterEntry


def read_pinned(
    entry: RegisterEntry, place: Path, staged: Path, *, what: str, hint: str | None = None
) -> bytes:
    """The version that `entry` names. Raises RecordMissingError when there is none at all,
    RollbackError when there are only others, MalformedError."""
    missing = True
    for path in (place, staged):
        if (data := _read_version(path, entry.digest)) is not None:
            return data
        missing = missing and not path.exists()
    raise RecordMissingError(what, hint=hint) if missing else RollbackError(what, hint=hint)


def stage_pinned(entry: RegisterEntry | None, place: Path, staged: Path, data: bytes) -> None:
    """Stage a new version; `entry` names the current one, if there is one. Raises NoSpaceError."""
    if entry is not None and _read_version(place, entry.digest) is None:
        # A kill came before that one took its place: staging would lose it.
        current = _read_version(staged, entry.digest)
        if current is not None:
            write_durably(place, current)
    write_durably(staged, data)


def _read_version(path: Path, digest: bytes) -> bytes | None:
    try:
        data = read_file(path, limit_bytes=MAX_DOCUMENT_BYTES)
    except FileNotFoundError:
        return None
    return data if hashlib.sha256(data).digest() == digest else None
