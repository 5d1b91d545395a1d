"""Documents of which the register names the current version, by its digest.

A new version is staged beside the one in place, the register's transaction makes it current, and
then it takes that place: so the current one is in one of the two.
"""

import hashlib
from pathlib import Path

from volcrypt.durable import read_file
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
        try:
            data = read_file(path, limit_bytes=MAX_DOCUMENT_BYTES)
        except FileNotFoundError:
            continue
        missing = False
        if hashlib.sha256(data).digest() == entry.digest:
            return data
    raise RecordMissingError(what, hint=hint) if missing else RollbackError(what, hint=hint)
