"""The catalogue: what the KMS must not lose, sealed. Knows items, transactions, and the one head.

An *item* is one key, alias, grant, register entry, ... `name` is unique within its kind, `owner`
groups items (the aliases of a key), `body` is JSON that the item's module knows. Every item has a
MAC, computed in the HSM, over all of its columns: a body cannot be changed, nor put in the place of
another.

The items of a kind are spread over 1024 *buckets* by the hash of their id. A bucket's hash covers
ids, names, owners and MACs of its items; the kind's *root* covers the hashes of all its buckets.
The *seal* holds a counter, the audit head and the root of every kind, and has a MAC itself. So an
item cannot be removed, added, or replaced by an older version of itself, and a change hashes its
own buckets and 32 KiB, however many items there are.

Every change is one transaction: items, buckets, audit head and seal together, durable when
`changing` returns, or not at all. Writers of all processes take turns by the lock file; readers see
the last committed state, and wait at most for one commit. An item is looked at only after the seal,
its kind's root, its bucket's hash and its own MAC hold; what was verified once is remembered.

Somebody could put back the whole file as it was last week. So the head of the audit log, a file
that every request changes, knows the catalogue's counter; `freshness` says how the two go together.
"""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from volcrypt.errors import NameTakenError
from volcrypt.formats.audit_record import AuditHead
from volcrypt.kms.database import Database
from volcrypt.kms.freshness import current_audit_head, is_ahead
from volcrypt.kms.head_file import HeadFile
from volcrypt.kms.index import Entries, Index
from volcrypt.kms.lock import WriterLock
from volcrypt.kms.rows import Rows
from volcrypt.kms.sealing import (
    BUCKETS,
    EMPTY_BUCKET,
    EMPTY_ROOT,
    Entry,
    Item,
    Macs,
    Seal,
    bucket_hash,
    bucket_of,
    root_of,
)
from volcrypt.kms.view import Change, View

FIRST_COUNTER: Final = 1
_Pending = Mapping[str, Item | None]


class Catalog:
    """One connection to the catalogue of a home. For several threads, which take turns."""

    def __init__(self, path: Path, *, lock: WriterLock, macs: Macs, heads: HeadFile) -> None:
        """Open. Raises FormatError for what is no catalogue of ours, IntegrityError for one that is
        damaged or rolled back, NoSpaceError, TryAgainError."""
        self._what = f"catalogue {path}"
        self._lock = lock
        self._heads = heads
        self._mutex = threading.RLock()
        self._indexes: dict[str, Index] = {}
        self._database = Database(path)
        self._rows = Rows(self._database, macs=macs, what=self._what)
        try:
            with self.reading():
                pass
        except BaseException:
            self._database.close()
            raise

    def close(self) -> None:
        with self._mutex:
            self._database.close()

    @property
    def has_failed(self) -> bool:
        """Whether an error of the disk has ended the use of the catalogue or its head file."""
        return self._database.has_failed or self._heads.has_failed

    def reopen(self) -> None:
        """Begin anew after such an error, with what is on the medium; nothing that was read before
        is believed. Raises as the constructor does."""
        with self._mutex:
            self._heads.reopen()
            self._indexes.clear()
            self._database.reopen()
            self._rows.forget()
            with self.reading():
                pass

    @staticmethod
    def create(path: Path, *, macs: Macs, items: Sequence[Item]) -> None:
        """Make a catalogue with these items and FIRST_COUNTER; it appears at `path` whole and
        durable, or not. Its head file is the caller's to make, before."""
        with Database.creating(path) as database:
            rows = Rows(database, macs=macs, what=f"catalogue {path}")
            roots: dict[str, str] = {}
            for kind, pending in _by_kind({(item.kind, item.id): item for item in items}).items():
                index = Index(kind, rows, [EMPTY_BUCKET] * BUCKETS)
                hashes, _ = _write_kind(rows, index, kind, pending)
                roots[kind] = root_of(hashes)
            rows.put_seal(Seal(counter=FIRST_COUNTER, roots=roots, audit=AuditHead()))

    @contextmanager
    def reading(self) -> Iterator[View]:
        """A view of the last committed state; does not wait for writers of other processes."""
        with self._mutex:
            # The head first: a catalogue that is looked at later cannot be behind it.
            head = self._heads.read()
            self._database.begin(write=False)
            try:
                seal = self._rows.seal()
                if is_ahead(seal, head):
                    # Others went on in between. From here on no commit ends: SQLite waits for us.
                    head = self._heads.read()
                audit_head = current_audit_head(seal, head, catalogue=self._what)
                yield View(self, seal, audit_head=audit_head)
            finally:
                self._database.roll_back()

    @contextmanager
    def changing(self) -> Iterator[Change]:
        """One transaction: durable when this returns without an error, without trace otherwise.

        Holds the writer lock of the home. Raises TryAgainError, NoSpaceError, NameTakenError.
        An error of the head file after the commit leaves a change that happened and was not
        confirmed, as a kill at that moment would.
        """
        with self._mutex, self._lock.held():
            self._database.begin(write=True)
            try:
                seal, head = self._rows.seal(), self._heads.read()
                audit_head = current_audit_head(seal, head, catalogue=self._what)
                change = Change(self, seal, audit_head=audit_head)
                yield change
                if change.pending:
                    if self._heads.read().catalogue < seal.counter:
                        # Left by a process that was killed between its commit and its head.
                        self._heads.write(audit_head, catalogue=seal.counter)
                    counter = self._commit(seal, change)
                else:
                    counter = seal.counter
                    self._database.roll_back()
            except BaseException:
                self._database.roll_back()
                raise
            if change.pending or change.has_new_audit_head:
                self._heads.write(change.audit_head, catalogue=counter)
            for call in change.when_durable:
                call()

    def verified_index(self, kind: str, seal: Seal) -> Index:
        """The index of a kind as the seal of the open transaction names it; for View."""
        root = seal.roots.get(kind, EMPTY_ROOT)
        index = self._indexes.get(kind)
        if index is not None and index.root == root:
            return index
        hashes = self._rows.hashes(kind, root)
        if index is None:
            index = self._indexes[kind] = Index(kind, self._rows, hashes)
        else:
            index.refresh(hashes)
        return index

    def seal_audit_head(self, head: AuditHead, seal: Seal) -> None:
        """Store the head that the log has before the open transaction ends; for Change."""
        self._heads.write(head, catalogue=seal.counter)

    def scrub(self) -> None:
        """Overwrite what the journal keeps of earlier transactions, and forget what is cached.

        Only inside `changing`: the lock keeps others from the journal, and SQLite itself writes to
        it when the change ends, not before.
        """
        self._database.overwrite_journal()
        self._rows.forget()

    def verified_item(self, kind: str, id_: str, entry: Entry) -> Item:
        """The item that a verified index names; for View."""
        return self._rows.item(kind, id_, entry)

    def _commit(self, seal: Seal, change: Change) -> int:
        """Rows, buckets, roots and seal of a change, durably; then in memory. The new counter."""
        roots = dict(seal.roots)
        written: list[tuple[Index, list[bytes], dict[int, Entries]]] = []
        for kind, pending in _by_kind(change.pending).items():
            index = self.verified_index(kind, seal)
            _check_names(index, kind, pending)
            hashes, buckets = _write_kind(self._rows, index, kind, pending)
            roots[kind] = root_of(hashes)
            written.append((index, hashes, buckets))
        new = Seal(counter=seal.counter + 1, roots=roots, audit=change.audit_head)
        self._rows.put_seal(new)
        self._database.commit()
        for index, hashes, buckets in written:
            index.replace(hashes, buckets)
        return new.counter


def _by_kind(pending: Mapping[tuple[str, str], Item | None]) -> dict[str, _Pending]:
    kinds: dict[str, dict[str, Item | None]] = {}
    for (kind, id_), item in pending.items():
        kinds.setdefault(kind, {})[id_] = item
    return dict(kinds)


def _check_names(index: Index, kind: str, pending: _Pending) -> None:
    """Raises NameTakenError when two items of the kind would have one name."""
    taken: set[str] = set()
    for item in pending.values():
        if item is None or item.name is None:
            continue
        holder = index.id_of(item.name)
        if item.name in taken or (holder is not None and holder not in pending):
            raise NameTakenError(kind.rpartition("/")[2], item.name)
        taken.add(item.name)


def _write_kind(
    rows: Rows, index: Index, kind: str, pending: _Pending
) -> tuple[list[bytes], dict[int, Entries]]:
    """Write rows and hashes of one kind; the hashes of all its buckets, and the entries of those
    that changed. The index stays as it is: the transaction may fail."""
    buckets: dict[int, Entries] = {}
    for id_, item in pending.items():
        number = bucket_of(id_)
        if number not in buckets:
            buckets[number] = dict(index.bucket(number))
        if item is None:
            rows.delete_item(kind, id_)
            buckets[number].pop(id_, None)
        else:
            buckets[number][id_] = rows.put_item(item)
    digests = {number: bucket_hash(entries) for number, entries in buckets.items()}
    for number, digest in digests.items():
        rows.put_bucket(kind, number, digest)
    return index.with_buckets(digests), buckets
