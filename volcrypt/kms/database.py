"""The catalogue's file: the one door to SQLite. Knows tables and rows; believes nothing of them.

    PRAGMA application_id = 0x766f6c63 ("volc"), user_version = 2, journal_mode = PERSIST
    item(kind, bucket, id, name, owner, body, mac)      PRIMARY KEY (kind, bucket, id)
    bucket(kind, number, hash)                          PRIMARY KEY (kind, number)
    seal(id, body, mac)                                 one row, id = 1

What the columns mean and how they are sealed stands in `catalog`. A transaction is durable when
`commit` returns (rollback journal, synchronous=FULL). The journal stays allocated (PERSIST), and
readers need no file beside the database, as they would with a WAL: so on a full disk everything can
still be read, and things can be deleted.

The schema must be ours to the letter. Whoever can write to the file could put a view in the place
of a table, which never ends or runs what he likes; so the file is looked at before any row is.
"""

import os
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import quote

from volcrypt.durable import no_space_named, overwrite, sync_directory
from volcrypt.errors import (
    BadMagicError,
    IntegrityError,
    KmsInternalError,
    MalformedError,
    NoSpaceError,
    PrivilegeError,
    TryAgainError,
    UnsupportedVersionError,
    VolcryptError,
)

APPLICATION_ID: Final = 0x766F6C63
VERSION: Final = 2
_BUSY_SECONDS: Final = 30.0
_MAX_VALUE_BYTES: Final = 16 * 2**20
_TABLES: Final = {
    "bucket": "CREATE TABLE bucket (kind TEXT NOT NULL, number INTEGER NOT NULL, "
    "hash BLOB NOT NULL, PRIMARY KEY (kind, number)) WITHOUT ROWID",
    "item": "CREATE TABLE item (kind TEXT NOT NULL, bucket INTEGER NOT NULL, id TEXT NOT NULL, "
    "name TEXT, owner TEXT, body BLOB NOT NULL, mac BLOB NOT NULL, "
    "PRIMARY KEY (kind, bucket, id)) WITHOUT ROWID",
    "seal": "CREATE TABLE seal (id INTEGER PRIMARY KEY CHECK (id = 1), body BLOB NOT NULL, "
    "mac BLOB NOT NULL)",
}
_SCHEMA: Final = [("table", name, name, sql) for name, sql in _TABLES.items()]

Row = tuple[Any, ...]


class Database:
    """One connection. Not for two threads at once; the rows that come back may be anything."""

    def __init__(self, path: Path) -> None:
        """Open. Raises FormatError for what is no catalogue of ours, IntegrityError for a damaged
        one, NoSpaceError, PrivilegeError, TryAgainError."""
        self._path = path
        self._open()

    def _open(self) -> None:
        path = self._path
        self._has_failed = False
        # SQLite follows symlinks, and waits for pipes.
        for part in (path, path.with_name(f"{path.name}-journal")):
            if not _is_regular_or_absent(part):
                raise IntegrityError(f"catalogue {path}: {part.name} is not a regular file")
        self._connection = _connect(path)
        try:
            self._check_header()
            self._check_schema()
        except BaseException:
            self._connection.close()
            raise

    def close(self) -> None:
        with suppress(sqlite3.Error):
            self._connection.close()

    @property
    def has_failed(self) -> bool:
        """Whether an error of the disk has ended its use."""
        return self._has_failed

    def reopen(self) -> None:
        """Begin anew after a failure, outside of a transaction. Raises as the constructor does."""
        self.close()
        try:
            self._open()
        except BaseException:
            self._has_failed = True
            raise

    @classmethod
    @contextmanager
    def creating(cls, path: Path) -> Iterator[Self]:
        """A new database in a transaction; when the block ends without an error, it appears at
        `path` whole and durable."""
        temporary = path.with_name(f"{path.name}.new")
        with no_space_named(path):
            for suffix in ("", "-journal", "-wal", "-shm"):
                temporary.with_name(temporary.name + suffix).unlink(missing_ok=True)
            os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        _make_tables(temporary)
        database = cls(temporary)
        try:
            # A journal that stays would have to be renamed with it.
            database._execute("PRAGMA journal_mode = DELETE")
            database.begin(write=True)
            yield database
            database.commit()
        finally:
            database.close()
        with no_space_named(path):
            descriptor = os.open(temporary, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            temporary.replace(path)
            sync_directory(path.parent)

    def begin(self, *, write: bool) -> None:
        """Begin a transaction; one that writes waits for another's commit."""
        self._execute("BEGIN IMMEDIATE" if write else "BEGIN")

    def commit(self) -> None:
        self._execute("COMMIT")

    def roll_back(self) -> None:
        """Forget the transaction; there need not be one any more."""
        with suppress(sqlite3.Error):
            self._connection.execute("ROLLBACK")

    def overwrite_journal(self) -> None:
        """Destroy what the journal keeps of earlier transactions. Raises NoSpaceError."""
        overwrite(self._path.with_name(f"{self._path.name}-journal"))

    def seal(self) -> Row | None:
        """(body, mac)"""
        return self._first("SELECT body, mac FROM seal")

    def put_seal(self, body: bytes, mac: bytes) -> None:
        self._execute("INSERT OR REPLACE INTO seal (id, body, mac) VALUES (1, ?, ?)", body, mac)

    def bucket_hashes(self, kind: str) -> list[Row]:
        """(number, hash) of every bucket of the kind that is not empty."""
        return self._all("SELECT number, hash FROM bucket WHERE kind = ?", kind)

    def put_bucket(self, kind: str, number: int, digest: bytes) -> None:
        self._execute(
            "INSERT OR REPLACE INTO bucket (kind, number, hash) VALUES (?, ?, ?)",
            kind,
            number,
            digest,
        )

    def delete_bucket(self, kind: str, number: int) -> None:
        self._execute("DELETE FROM bucket WHERE kind = ? AND number = ?", kind, number)

    def entries(self, kind: str, *, bucket: int | None = None) -> list[Row]:
        """(bucket, id, name, owner, mac) of all items of the kind, or of one of its buckets."""
        columns = "SELECT bucket, id, name, owner, mac FROM item WHERE kind = ?"
        if bucket is None:
            return self._all(columns, kind)
        return self._all(f"{columns} AND bucket = ?", kind, bucket)

    def item(self, kind: str, bucket: int, id_: str) -> Row | None:
        """(name, owner, body, mac)"""
        return self._first(
            "SELECT name, owner, body, mac FROM item WHERE kind = ? AND bucket = ? AND id = ?",
            kind,
            bucket,
            id_,
        )

    def put_item(self, *columns: str | int | bytes | None) -> None:
        """kind, bucket, id, name, owner, body, mac"""
        self._execute("INSERT OR REPLACE INTO item VALUES (?, ?, ?, ?, ?, ?, ?)", *columns)

    def delete_item(self, kind: str, bucket: int, id_: str) -> None:
        self._execute(
            "DELETE FROM item WHERE kind = ? AND bucket = ? AND id = ?", kind, bucket, id_
        )

    def _check_header(self) -> None:
        what = f"catalogue {self._path}"
        application_id = self._first("PRAGMA application_id")
        version = self._first("PRAGMA user_version")
        assert application_id is not None, "internal error: a pragma without an answer"
        assert version is not None, "internal error: a pragma without an answer"
        if application_id == version == (0,):
            raise MalformedError(what, "truncated or empty")
        if application_id != (APPLICATION_ID,):
            raise BadMagicError(what)
        if version != (VERSION,):
            raise UnsupportedVersionError(what, version[0], VERSION)

    def _check_schema(self) -> None:
        # None of these is kept in the file, so they are said anew on each connection.
        self._execute("PRAGMA trusted_schema = OFF")
        self._execute("PRAGMA cell_size_check = ON")
        found = self._all("SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY name")
        if found != _SCHEMA:
            raise IntegrityError(f"catalogue {self._path} has other tables than volcrypt made")
        self._execute("PRAGMA journal_mode = PERSIST")
        self._execute("PRAGMA synchronous = FULL")
        self._execute("PRAGMA secure_delete = ON")

    def _execute(self, sql: str, *values: object) -> None:
        self._all(sql, *values)

    def _first(self, sql: str, *values: object) -> Row | None:
        rows = self._all(sql, *values)
        return rows[0] if rows else None

    def _all(self, sql: str, *values: object) -> list[Row]:
        """Run a statement. After an I/O error nothing is believed until the file is opened anew: a
        sync that failed once may succeed the next time without the data."""
        if self._has_failed:
            raise KmsInternalError(f"catalogue {self._path} failed earlier, open it again")
        try:
            return self._connection.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            translated = _translated(error, self._path)
            self._has_failed = isinstance(translated, KmsInternalError)
            raise translated from error


def _is_regular_or_absent(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except FileNotFoundError:
        return True


def _connect(path: Path) -> sqlite3.Connection:
    try:
        connection = sqlite3.connect(
            f"file:{quote(os.fspath(path))}?mode=rw",
            uri=True,
            timeout=_BUSY_SECONDS,
            isolation_level=None,
            check_same_thread=False,
        )
    except sqlite3.Error as error:
        raise _translated(error, path) from error
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _MAX_VALUE_BYTES)
    return connection


def _make_tables(path: Path) -> None:
    connection = _connect(path)
    try:
        connection.execute("PRAGMA synchronous = FULL")
        for sql in _TABLES.values():
            connection.execute(sql)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {VERSION}")
    except sqlite3.Error as error:
        raise _translated(error, path) from error
    finally:
        connection.close()


_NO_SPACE: Final = ("SQLITE_FULL", "SQLITE_IOERR_SHMSIZE")
_ELSEWHERE: Final = ("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_PROTOCOL")
_FORBIDDEN: Final = ("SQLITE_CANTOPEN", "SQLITE_READONLY", "SQLITE_PERM", "SQLITE_AUTH")


def _translated(error: sqlite3.Error, path: Path) -> VolcryptError:
    """The one table from SQLite's errors to ours."""
    name: str = getattr(error, "sqlite_errorname", "") or ""
    what = f"catalogue {path}"
    if name.startswith(_NO_SPACE):
        return NoSpaceError(f"no space left for {what}")
    if name.startswith(_ELSEWHERE):
        return TryAgainError(f"{what} is busy")
    if name.startswith(_FORBIDDEN):
        return PrivilegeError(f"{what} cannot be opened for writing")
    if name == "SQLITE_NOTADB":
        return BadMagicError(what)
    if name.startswith(("SQLITE_IOERR", "SQLITE_NOMEM")):
        return KmsInternalError(f"{what} cannot be read or written")
    # Corrupt pages, missing tables, columns of another type: all of them damage.
    return IntegrityError(f"{what} is damaged")


def unverified_ids(path: Path, kind: str, *, limit: int) -> list[str]:
    """Ids of a kind as the file has them, whoever wrote them: to suggest, and for nothing else.
    Waits for nobody. Raises OSError for what cannot be read."""
    return _unverified(path, "SELECT id FROM item WHERE kind = ? LIMIT ?", (kind, limit))


def has_unverified(path: Path, kind: str, id_: str) -> bool:
    """Whether the file has such an item, whoever wrote it: to warn, and for nothing else. Waits for
    nobody. Raises OSError for what cannot be read."""
    return bool(_unverified(path, "SELECT id FROM item WHERE kind = ? AND id = ?", (kind, id_)))


def _unverified(path: Path, query: str, values: tuple[str | int, ...]) -> list[str]:
    if not _is_regular_or_absent(path):
        raise OSError(f"{path} is not a regular file")
    try:
        connection = sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=0)
        try:
            # As everywhere here: rows of a table, or of nothing.
            schema = connection.execute("SELECT type FROM sqlite_master WHERE name = 'item'")
            if schema.fetchall() != [("table",)]:
                return []
            return [str(row[0]) for row in connection.execute(query, values)]
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise OSError(str(error)) from error
