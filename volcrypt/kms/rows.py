"""The catalogue's rows, verified: what comes from here has a MAC that holds, or a hash that fits.

The rules stand in `catalog`, the exact bytes under each MAC in `sealing`. What was verified once is
remembered by the MAC's value, so a row is read and its MAC computed once, as long as it is in use.
"""

import hmac
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

import msgspec

from volcrypt.errors import MalformedError, SealError
from volcrypt.kms.database import Database, Row
from volcrypt.kms.index import Entries
from volcrypt.kms.sealing import (
    BUCKETS,
    EMPTY_BUCKET,
    HASH_BYTES,
    MAC_BYTES,
    Entry,
    Item,
    Macs,
    Seal,
    bucket_hash,
    bucket_of,
    item_text,
    root_of,
    seal_text,
)

CACHED_ITEMS: Final = 8192


class Rows:
    """Over one database; not for two threads at once. `what` names it in errors."""

    def __init__(self, database: Database, *, macs: Macs, what: str) -> None:
        self._database = database
        self._macs = macs
        self._what = what
        self._items: OrderedDict[bytes, Item] = OrderedDict()
        self._sealed: tuple[Row, Seal] | None = None

    def forget(self) -> None:
        """Drop what is remembered of rows, which may hold wrapped key material."""
        self._items.clear()

    def seal(self) -> Seal:
        """The seal of the open transaction. Raises MalformedError, SealError."""
        row = self._database.seal()
        if self._sealed is not None and row == self._sealed[0]:
            return self._sealed[1]
        if row is None or not (isinstance(row[0], bytes) and isinstance(row[1], bytes)):
            raise MalformedError(self._what, "its seal is missing")
        if not hmac.compare_digest(self._macs.mac(seal_text(row[0])), row[1]):
            raise SealError(self._what)
        seal = msgspec.json.decode(row[0], type=Seal)
        self._sealed = row, seal
        return seal

    def put_seal(self, seal: Seal) -> None:
        body = msgspec.json.encode(seal)
        mac = self._macs.mac(seal_text(body))
        self._database.put_seal(body, mac)
        # It is known by its bytes: if the transaction fails, they are simply not met again.
        self._sealed = (body, mac), seal

    def hashes(self, kind: str, root: str) -> list[bytes]:
        """The hashes of all buckets of the kind, which have this root."""
        hashes = [EMPTY_BUCKET] * BUCKETS
        for number, digest in self._database.bucket_hashes(kind):
            if number not in range(BUCKETS) or not isinstance(digest, bytes):
                raise self._broken_list(kind)
            if len(digest) != HASH_BYTES:
                raise self._broken_list(kind)
            hashes[number] = digest
        if root_of(hashes) != root:
            raise self._broken_list(kind)
        return hashes

    def put_bucket(self, kind: str, number: int, digest: bytes) -> None:
        if digest == EMPTY_BUCKET:
            self._database.delete_bucket(kind, number)
        else:
            self._database.put_bucket(kind, number, digest)

    def load_bucket(self, kind: str, number: int, digest: bytes) -> Entries:
        """The entries of one bucket; for Index."""
        entries = self._entries(kind, self._database.entries(kind, bucket=number)).get(number, {})
        if bucket_hash(entries) != digest:
            raise self._broken_list(kind)
        return entries

    def load_buckets(self, kind: str, hashes: Sequence[bytes]) -> list[Entries]:
        """The entries of all buckets; for Index."""
        found = self._entries(kind, self._database.entries(kind))
        buckets = [found.get(number, {}) for number in range(BUCKETS)]
        for entries, digest in zip(buckets, hashes, strict=True):
            if (bucket_hash(entries) if entries else EMPTY_BUCKET) != digest:
                raise self._broken_list(kind)
        return buckets

    def item(self, kind: str, id_: str, entry: Entry) -> Item:
        """The item that a verified index names."""
        item = self._items.get(entry.mac)
        if item is not None and (item.kind, item.id) == (kind, id_):
            self._items.move_to_end(entry.mac)
            return item
        row = self._database.item(kind, bucket_of(id_), id_)
        if row is None or not isinstance(row[2], bytes):
            raise self._broken(kind, id_)
        item = Item(kind=kind, id=id_, name=row[0], owner=row[1], body=row[2])
        if (item.name, item.owner, row[3]) != (entry.name, entry.owner, entry.mac):
            raise self._broken(kind, id_)
        if not hmac.compare_digest(self._macs.mac(item_text(item)), entry.mac):
            raise self._broken(kind, id_)
        self._remember(entry.mac, item)
        return item

    def put_item(self, item: Item) -> Entry:
        mac = self._macs.mac(item_text(item))
        number = bucket_of(item.id)
        self._database.put_item(item.kind, number, item.id, item.name, item.owner, item.body, mac)
        self._remember(mac, item)
        return Entry(mac, item.name, item.owner)

    def delete_item(self, kind: str, id_: str) -> None:
        self._database.delete_item(kind, bucket_of(id_), id_)

    def _remember(self, mac: bytes, item: Item) -> None:
        self._items[mac] = item
        if len(self._items) > CACHED_ITEMS:
            self._items.popitem(last=False)

    def _entries(self, kind: str, rows: Sequence[Row]) -> dict[int, Entries]:
        buckets: dict[int, Entries] = {}
        for number, id_, name, owner, mac in rows:
            texts = all(text is None or isinstance(text, str) for text in (id_, name, owner))
            if not texts or id_ is None or not isinstance(mac, bytes) or len(mac) != MAC_BYTES:
                raise self._broken(kind, str(id_))
            if bucket_of(id_) != number:
                raise self._broken_list(kind)
            buckets.setdefault(number, {})[id_] = Entry(mac, name, owner)
        return buckets

    def _broken(self, kind: str, id_: str) -> SealError:
        return SealError(f"{kind} {id_} in {self._what}")

    def _broken_list(self, kind: str) -> SealError:
        return SealError(f"{self._what}, the list of its items of kind {kind}")
