"""The catalogue: what the KMS must not lose, in SQLite. Knows items, seals, transactions; not keys.

    PRAGMA application_id = 0x766f6c63 ("volc"), user_version = 1, journal_mode = WAL
    item(kind, id, name, owner, body, mac)      PRIMARY KEY (kind, id), UNIQUE (kind, name)
    seal(body, mac)                             one row

An *item* is one key, alias, register entry, lease, ... `name` is unique within its kind, `owner`
groups items (the aliases of a key), `body` is JSON that the item's module knows. Every item has a
MAC, computed in the HSM, over all of its columns: a body cannot be changed, nor put in the place
of another. `seal` holds a counter, the audit head and for every kind its *root*: SHA-256 over the
ids and MACs of all items of the kind, in the order of their ids. The seal has a MAC as well, so an
item cannot be removed, added, or replaced by an older version of itself. Only the whole catalogue
can be rolled back unseen.

Every change is one transaction (WAL, synchronous=FULL): items, roots, audit head and seal together,
durable when `changing` returns, or not at all. Writers of all processes take turns by the lock
file; readers see the last committed state and are not held up.

An item is looked at only after the seal, its kind's root and its own MAC hold; what was verified
once is remembered by the MAC's value.
"""

import hashlib
import hmac
import os
import sqlite3
import struct
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import quote

import msgspec

from volcrypt.durable import no_space_named, sync_directory
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
_LENGTH: Final = struct.Struct(">I")


class Macs(Protocol):
    """The part of a key store that the catalogue needs."""

    def mac(self, data: bytes) -> bytes: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One row. Bodies may hold wrapped key material, so they are not shown."""

    kind: str
    id: str
    body: bytes = field(repr=False)
    name: str | None = None
    owner: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Seal:
    """Body of the seal. `roots` holds 64 hexadecimal digits for every kind that has items."""

    counter: int
    roots: dict[str, str]
    audit: AuditHead


@dataclass(frozen=True, slots=True)
class _Entry:
    """What the root of a kind covers of one item, beside its id."""

    mac: bytes
    name: str | None
    owner: str | None


class _Index:
    """All items of one kind, without their bodies; never changed once made."""

    def __init__(self, entries: dict[str, _Entry]) -> None:
        self.entries = entries

    @cached_property
    def ids(self) -> list[str]:
        return sorted(self.entries)

    @cached_property
    def names(self) -> dict[str, str]:
        return {e.name: id_ for id_, e in self.entries.items() if e.name is not None}

    @cached_property
    def root(self) -> str:
        digest = hashlib.sha256()
        for id_ in self.ids:
            entry = self.entries[id_]
            digest.update(_fields(id_, entry.name, entry.owner) + entry.mac)
        return digest.hexdigest()


_EMPTY: Final = _Index({})


def _fields(*texts: str | None) -> bytes:
    """Texts so that no two sequences of them give the same bytes."""
    parts = []
    for text in texts:
        data = b"" if text is None else text.encode()
        parts.append((b"\0" if text is None else b"\1") + _LENGTH.pack(len(data)) + data)
    return b"".join(parts)


def _item_text(item: Item) -> bytes:
    head = _fields("volcrypt catalogue item 1", item.kind, item.id, item.name, item.owner)
    return head + item.body


def _seal_text(body: bytes) -> bytes:
    return _fields("volcrypt catalogue seal 1") + body


class View:
    """What the catalogue holds, as of one moment. Only inside `reading` or `changing`.

    Everything raises SealError when something was changed from outside.
    """

    def __init__(self, catalog: "Catalog", seal: Seal) -> None:
        self._catalog = catalog
        self._seal = seal

    @property
    def counter(self) -> int:
        """Grows with every change of the catalogue."""
        return self._seal.counter

    @property
    def audit_head(self) -> AuditHead:
        return self._seal.audit

    def get(self, kind: str, id_: str) -> Item | None:
        entry = self._index(kind).entries.get(id_)
        return None if entry is None else self._catalog.verified_item(kind, id_, entry)

    def find(self, kind: str, name: str) -> Item | None:
        """The item of that name."""
        id_ = self._index(kind).names.get(name)
        return None if id_ is None else self.get(kind, id_)

    def count(self, kind: str, *, owner: str | None = None) -> int:
        """How many items there are, of this owner only if one is given."""
        entries = self._index(kind).entries
        if owner is None:
            return len(entries)
        return sum(entry.owner == owner for entry in entries.values())

    def items(
        self, kind: str, *, owner: str | None = None, after: str = "", limit: int | None = None
    ) -> list[Item]:
        """The items in the order of their ids, behind `after`, at most `limit`."""
        index = self._index(kind)
        found: list[Item] = []
        for id_ in index.ids[bisect_right(index.ids, after) :]:
            if limit is not None and len(found) >= limit:
                break
            entry = index.entries[id_]
            if owner is None or entry.owner == owner:
                found.append(self._catalog.verified_item(kind, id_, entry))
        return found

    def _index(self, kind: str) -> _Index:
        return self._catalog.verified_index(kind, self._seal.roots.get(kind))


class Change(View):
    """A view that is going to be another. `get` sees what was put; the lists do not."""

    def __init__(self, catalog: "Catalog", seal: Seal) -> None:
        super().__init__(catalog, seal)
        self._audit_head = seal.audit
        self.pending: dict[tuple[str, str], Item | None] = {}

    @property
    def audit_head(self) -> AuditHead:
        return self._audit_head

    def set_audit_head(self, head: AuditHead) -> None:
        self._audit_head = head

    def get(self, kind: str, id_: str) -> Item | None:
        if (kind, id_) in self.pending:
            return self.pending[kind, id_]
        return super().get(kind, id_)

    def put(self, item: Item) -> None:
        """Add the item, or replace the one of its kind and id.

        A name that another item of the kind has raises NameTakenError when the change ends, so
        that two items can swap names.
        """
        self.pending[item.kind, item.id] = item

    def delete(self, kind: str, id_: str) -> None:
        self.pending[kind, id_] = None

    @property
    def has_new_audit_head(self) -> bool:
        return self._audit_head != self._seal.audit

    @property
    def is_empty(self) -> bool:
        return not (self.pending or self.has_new_audit_head)


class Catalog:
    """One connection to the catalogue of a home. For several threads, which take turns."""

    def __init__(self, path: Path, *, lock: WriterLock, macs: Macs) -> None:
        """Open. Raises FormatError for what is no catalogue of ours, IntegrityError for a damaged
        one, NoSpaceError, TryAgainError."""
        self._path = path
        self._lock = lock
        self._macs = macs
        self._mutex = threading.RLock()
        self._indexes: dict[str, _Index] = {}
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
                connection.execute("PRAGMA journal_mode = WAL")
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

    def verified_item(self, kind: str, id_: str, entry: _Entry) -> Item:
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
        if not hmac.compare_digest(self._macs.mac(_item_text(item)), entry.mac):
            raise self._broken(kind, id_)
        self._remember(entry.mac, item)
        return item

    def verified_index(self, kind: str, root: str | None) -> _Index:
        """The index of a kind whose root the seal names; for View."""
        index = self._indexes.get(kind, _EMPTY)
        if index.root == (_EMPTY.root if root is None else root):
            return index
        with self._guarded():
            rows = self._connection.execute(
                "SELECT id, mac, name, owner FROM item WHERE kind = ?", (kind,)
            ).fetchall()
        for id_, mac, name, owner in rows:
            texts = all(text is None or isinstance(text, str) for text in (id_, name, owner))
            if not texts or id_ is None or not isinstance(mac, bytes):
                raise self._broken(kind, str(id_))
        index = _Index({id_: _Entry(mac, name, owner) for id_, mac, name, owner in rows})
        if index.root != (_EMPTY.root if root is None else root):
            raise SealError(f"catalogue {self._path}, the list of its items of kind {kind}")
        self._indexes[kind] = index
        return index

    def _remember(self, mac: bytes, item: Item) -> None:
        self._items[mac] = item
        if len(self._items) > CACHED_ITEMS:
            self._items.popitem(last=False)

    def _write(self, change: Change) -> tuple[dict[str, _Index], tuple[bytes, bytes, Seal]]:
        """Rows, roots and seal of a change, inside its transaction."""
        indexes: dict[str, _Index] = {}
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
                entries[item.id] = _Entry(mac, item.name, item.owner)
            indexes[kind] = _Index(entries)
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
        if not hmac.compare_digest(self._macs.mac(_seal_text(body)), mac):
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
            self._connection.execute("PRAGMA synchronous = FULL")
            self._connection.execute("PRAGMA trusted_schema = OFF")

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
    mac = macs.mac(_item_text(item))
    connection.execute(
        "INSERT INTO item (kind, id, name, owner, body, mac) VALUES (?, ?, ?, ?, ?, ?)",
        (item.kind, item.id, item.name, item.owner, item.body, mac),
    )
    return mac


def _write_seal(
    connection: sqlite3.Connection, macs: Macs, seal: Seal
) -> tuple[bytes, bytes, Seal]:
    body = msgspec.json.encode(seal)
    mac = macs.mac(_seal_text(body))
    connection.execute("INSERT OR REPLACE INTO seal (id, body, mac) VALUES (1, ?, ?)", (body, mac))
    return body, mac, seal


def _insert_all(connection: sqlite3.Connection, macs: Macs, items: Sequence[Item]) -> None:
    entries: dict[str, dict[str, _Entry]] = {}
    for item in items:
        mac = _insert(connection, macs, item)
        entries.setdefault(item.kind, {})[item.id] = _Entry(mac, item.name, item.owner)
    roots = {kind: _Index(of_kind).root for kind, of_kind in entries.items()}
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
