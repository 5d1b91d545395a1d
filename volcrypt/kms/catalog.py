"""The catalogue: what the KMS must not lose, in SQLite. Knows items, seals, transactions; not keys.

    PRAGMA application_id = 0x766f6c63 ("volc"), user_version = 1, journal_mode = PERSIST
    item(kind, id, name, owner, body, mac)      PRIMARY KEY (kind, id), UNIQUE (kind, name)
    seal(body, mac)                             one row

An *item* is one key, alias, register entry, lease, ... `name` is unique within its kind, `owner`
groups items (the aliases of a key), `body` is JSON that the item's module knows. Every item has a
MAC, computed in the HSM, over all of its columns: a body cannot be changed, nor put in the place
of another. `seal` holds a counter, the audit head and for every kind its *root*: SHA-256 over the
ids and MACs of all items of the kind, in the order of their ids. The seal has a MAC as well, so an
item cannot be removed, added, or replaced by an older version of itself. Only the whole catalogue
can be rolled back unseen.

Every change is one transaction (rollback journal, synchronous=FULL): items, roots, audit head and
seal together, durable when `changing` returns, or not at all. Writers of all processes take turns
by the lock file; readers see the last committed state, and wait at most for one commit. The journal
stays allocated (PERSIST), and readers need no file beside the database, as they would with a WAL:
so on a full disk everything can still be read, and things can be deleted.

An item is looked at only after the seal, its kind's root and its own MAC hold; what was verified
once is remembered by the MAC's value.
"""

import hmac
import os
import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import msgspec

from volcrypt.durable import no_space_named, overwrite, sync_directory
from volcrypt.errors import (
    BadMagicError,
    IntegrityError,
    KmsInternalError,
    MalformedError,
    NameTakenError,
    NoSpaceError,
    PrivilegeError,
    SealError,
    TryAgainError,
    UnsupportedVersionError,
)
from volcrypt.formats.audit_record import AuditHead
from volcrypt.kms.lock import WriterLock
from volcrypt.kms.sealing import EMPTY, Entry, Index, Item, Macs, Seal, item_text, seal_text
from volcrypt.kms.view import Change, View

APPLICATION_ID: Final = 0x766F6C63
VERSION: Final = 1
CACHED_ITEMS: Final = 4096
_BUSY_SECONDS: Final = 30.0
_SCHEMA: Final = """
CREATE TABLE item (
    kind TEXT NOT NULL, id TEXT NOT NULL, name TEXT, owner TEXT, body BLOB NOT NULL,
    mac BLOB NOT NULL, PRIMARY KEY (kind, id), UNIQUE (kind, name)
) WITHOUT ROWID;
CREATE TABLE seal (id INTEGER PRIMARY KEY CHECK (id = 1), body BLOB NOT NULL, mac BLOB NOT NULL);
"""


class Catalog:
    """One connection to the catalogue of a home. For several threads, which take turns."""

    def __init__(self, path: Path, *, lock: WriterLock, macs: Macs) -> None:
        """Open. Raises FormatError for what is no catalogue of ours, IntegrityError for a damaged
        one, NoSpaceError, TryAgainError."""
        self._path = path
        self._lock = lock
        self._macs = macs
        self._mutex = threading.RLock()
        self._indexes: dict[str, Index] = {}
        self._items: OrderedDict[bytes, Item] = OrderedDict()
        self._sealed: tuple[bytes, bytes, Seal] | None = None
        self._has_failed = False
        self._connection = _connect(path, mode="rw")
        try:
            self._check_header()
            with self.reading():
                pass
        except BaseException:
            self._connection.close()
            raise

    def close(self) -> None:
        with self._mutex, suppress(sqlite3.Error):
            self._connection.close()

    @staticmethod
    def create(path: Path, *, macs: Macs, items: Sequence[Item]) -> None:
        """Make a catalogue with these items; it appears at `path` whole and durable, or not."""
        temporary = path.with_name(f"{path.name}.new")
        with no_space_named(path):
            for suffix in ("", "-journal", "-wal", "-shm"):
                temporary.with_name(temporary.name + suffix).unlink(missing_ok=True)
            os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        with _mapped(path):
            connection = _connect(temporary, mode="rw")
            try:
                connection.execute("PRAGMA synchronous = FULL")
                connection.executescript(_SCHEMA)
                connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                connection.execute(f"PRAGMA user_version = {VERSION}")
                connection.execute("BEGIN IMMEDIATE")
                _insert_all(connection, macs, items)
                connection.execute("COMMIT")
                connection.execute("PRAGMA journal_mode = PERSIST")
            finally:
                connection.close()
        with no_space_named(path):
            descriptor = os.open(temporary, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            temporary.replace(path)
            sync_directory(path.parent)

    @contextmanager
    def reading(self) -> Iterator[View]:
        """A view of the last committed state; does not wait for writers of other processes."""
        with self._mutex:
            with self._guarded():
                self._connection.execute("BEGIN")
            try:
                yield View(self, self._current_seal())
            finally:
                with suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")

    @contextmanager
    def changing(self) -> Iterator[Change]:
        """One transaction: durable when this returns without an error, without trace otherwise.

        Holds the writer lock of the home. Raises TryAgainError, NoSpaceError, NameTakenError.
        """
        with self._mutex, self._lock.held():
            with self._guarded():
                self._connection.execute("BEGIN IMMEDIATE")
            try:
                change = Change(self, self._current_seal())
                yield change
                if change.is_empty:
                    self._connection.execute("ROLLBACK")
                    return
                indexes, sealed = self._write(change)
                with self._guarded():
                    self._connection.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")
                raise
            self._indexes.update(indexes)
            self._sealed = sealed

    def scrub(self) -> None:
        """Overwrite what the journal keeps of earlier transactions, and forget what is cached.

        Only inside `changing`: the lock keeps others from the journal, and SQLite itself writes to
        it when the change ends, not before.
        """
        overwrite(self._path.with_name(f"{self._path.name}-journal"))
        self._items.clear()

    def verified_item(self, kind: str, id_: str, entry: Entry) -> Item:
        """The item that a verified index names; for View."""
        item = self._items.get(entry.mac)
        if item is not None and (item.kind, item.id) == (kind, id_):
            self._items.move_to_end(entry.mac)
            return item
        with self._guarded():
            row = self._connection.execute(
                "SELECT name, owner, body, mac FROM item WHERE kind = ? AND id = ?", (kind, id_)
            ).fetchone()
        if row is None or not isinstance(row[2], bytes):
            raise self._broken(kind, id_)
        item = Item(kind=kind, id=id_, name=row[0], owner=row[1], body=row[2])
        if (item.name, item.owner, row[3]) != (entry.name, entry.owner, entry.mac):
            raise self._broken(kind, id_)
        if not hmac.compare_digest(self._macs.mac(item_text(item)), entry.mac):
            raise self._broken(kind, id_)
        self._remember(entry.mac, item)
        return item

    def verified_index(self, kind: str, root: str | None) -> Index:
        """The index of a kind whose root the seal names; for View."""
        index = self._indexes.get(kind, EMPTY)
        if index.root == (EMPTY.root if root is None else root):
            return index
        with self._guarded():
            rows = self._connection.execute(
                "SELECT id, mac, name, owner FROM item WHERE kind = ?", (kind,)
            ).fetchall()
        for id_, mac, name, owner in rows:
            texts = all(text is None or isinstance(text, str) for text in (id_, name, owner))
            if not texts or id_ is None or not isinstance(mac, bytes):
                raise self._broken(kind, str(id_))
        index = Index({id_: Entry(mac, name, owner) for id_, mac, name, owner in rows})
        if index.root != (EMPTY.root if root is None else root):
            raise SealError(f"catalogue {self._path}, the list of its items of kind {kind}")
        self._indexes[kind] = index
        return index

    def _remember(self, mac: bytes, item: Item) -> None:
        self._items[mac] = item
        if len(self._items) > CACHED_ITEMS:
            self._items.popitem(last=False)

    def _write(self, change: Change) -> tuple[dict[str, Index], tuple[bytes, bytes, Seal]]:
        """Rows, roots and seal of a change, inside its transaction."""
        indexes: dict[str, Index] = {}
        seal = self._current_seal()
        roots = dict(seal.roots)
        for kind in {kind for kind, _ in change.pending}:
            entries = dict(self.verified_index(kind, seal.roots.get(kind)).entries)
            pending = {id_: item for (k, id_), item in change.pending.items() if k == kind}
            with self._guarded():
                for id_ in pending:
                    entries.pop(id_, None)
                    self._connection.execute(
                        "DELETE FROM item WHERE kind = ? AND id = ?", (kind, id_)
                    )
            taken = {entry.name for entry in entries.values()} - {None}
            for item in pending.values():
                if item is None:
                    continue
                if item.name in taken:
                    raise NameTakenError(kind.rpartition("/")[2], str(item.name))
                if item.name is not None:
                    taken.add(item.name)
                with self._guarded():
                    mac = _insert(self._connection, self._macs, item)
                entries[item.id] = Entry(mac, item.name, item.owner)
            indexes[kind] = Index(entries)
            roots[kind] = indexes[kind].root
        new = Seal(counter=seal.counter + 1, roots=roots, audit=change.audit_head)
        with self._guarded():
            sealed = _write_seal(self._connection, self._macs, new)
        return indexes, sealed

    def _current_seal(self) -> Seal:
        with self._guarded():
            row = self._connection.execute("SELECT body, mac FROM seal").fetchone()
        if self._sealed is not None and row == self._sealed[:2]:
            return self._sealed[2]
        if row is None or not (isinstance(row[0], bytes) and isinstance(row[1], bytes)):
            raise MalformedError(f"catalogue {self._path}", "its seal is missing")
        body, mac = row
        if not hmac.compare_digest(self._macs.mac(seal_text(body)), mac):
            raise SealError(f"catalogue {self._path}")
        seal = msgspec.json.decode(body, type=Seal)
        self._sealed = (body, mac, seal)
        return seal

    def _check_header(self) -> None:
        what = f"catalogue {self._path}"
        with self._guarded():
            application_id = self._connection.execute("PRAGMA application_id").fetchone()[0]
            version = self._connection.execute("PRAGMA user_version").fetchone()[0]
        if application_id == 0 and version == 0:
            raise MalformedError(what, "truncated or empty")
        if application_id != APPLICATION_ID:
            raise BadMagicError(what)
        if version != VERSION:
            raise UnsupportedVersionError(what, version, VERSION)
        with self._guarded():
            # Not kept in the file, so said anew on each connection.
            self._connection.execute("PRAGMA journal_mode = PERSIST")
            self._connection.execute("PRAGMA synchronous = FULL")
            self._connection.execute("PRAGMA trusted_schema = OFF")
            self._connection.execute("PRAGMA secure_delete = ON")

    def _broken(self, kind: str, id_: str) -> SealError:
        return SealError(f"{kind} {id_} in catalogue {self._path}")

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """Map SQLite's errors. After an I/O error nothing is believed until it is opened anew:
        a sync that failed once may succeed the next time without the data."""
        if self._has_failed:
            raise KmsInternalError(f"catalogue {self._path} failed earlier, open it again")
        try:
            with _mapped(self._path):
                yield
        except KmsInternalError:
            self._has_failed = True
            raise


def _connect(path: Path, *, mode: str) -> sqlite3.Connection:
    with _mapped(path):
        return sqlite3.connect(
            f"file:{quote(os.fspath(path))}?mode={mode}",
            uri=True,
            timeout=_BUSY_SECONDS,
            isolation_level=None,
            check_same_thread=False,
        )


def _insert(connection: sqlite3.Connection, macs: Macs, item: Item) -> bytes:
    mac = macs.mac(item_text(item))
    connection.execute(
        "INSERT INTO item (kind, id, name, owner, body, mac) VALUES (?, ?, ?, ?, ?, ?)",
        (item.kind, item.id, item.name, item.owner, item.body, mac),
    )
    return mac


def _write_seal(
    connection: sqlite3.Connection, macs: Macs, seal: Seal
) -> tuple[bytes, bytes, Seal]:
    body = msgspec.json.encode(seal)
    mac = macs.mac(seal_text(body))
    connection.execute("INSERT OR REPLACE INTO seal (id, body, mac) VALUES (1, ?, ?)", (body, mac))
    return body, mac, seal


def _insert_all(connection: sqlite3.Connection, macs: Macs, items: Sequence[Item]) -> None:
    entries: dict[str, dict[str, Entry]] = {}
    for item in items:
        mac = _insert(connection, macs, item)
        entries.setdefault(item.kind, {})[item.id] = Entry(mac, item.name, item.owner)
    roots = {kind: Index(of_kind).root for kind, of_kind in entries.items()}
    _write_seal(connection, macs, Seal(counter=1, roots=roots, audit=AuditHead()))


_NO_SPACE: Final = ("SQLITE_FULL", "SQLITE_IOERR_SHMSIZE")
_ELSEWHERE: Final = ("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_PROTOCOL")
_FORBIDDEN: Final = ("SQLITE_CANTOPEN", "SQLITE_READONLY", "SQLITE_PERM", "SQLITE_AUTH")


@contextmanager
def _mapped(path: Path) -> Iterator[None]:
    """The one table from SQLite's errors to ours."""
    try:
        yield
    except sqlite3.Error as error:
        name: Any = getattr(error, "sqlite_errorname", "") or ""
        what = f"catalogue {path}"
        if name.startswith(_NO_SPACE):
            raise NoSpaceError(f"no space left for {what}") from error
        if name.startswith(_ELSEWHERE):
            raise TryAgainError(f"{what} is busy") from error
        if name.startswith(_FORBIDDEN):
            raise PrivilegeError(f"{what} cannot be opened for writing") from error
        if name == "SQLITE_NOTADB":
            raise BadMagicError(what) from error
        if name.startswith(("SQLITE_IOERR", "SQLITE_NOMEM")):
            raise KmsInternalError(f"{what} cannot be read or written") from error
        # Corrupt pages, missing tables, columns of another type: all of them damage.
        raise IntegrityError(f"{what} is damaged") from error
