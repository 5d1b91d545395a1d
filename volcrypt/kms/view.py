"""What a transaction on the catalogue sees, and what it is going to change. Knows no SQL."""

import sys
from bisect import bisect_left, bisect_right
from itertools import islice
from typing import Protocol

from volcrypt.formats.audit_record import AuditHead
from volcrypt.kms.sealing import Entry, Index, Item, Seal


class Source(Protocol):
    """Where a view has its items from: the catalogue, which verifies them."""

    def verified_index(self, kind: str, root: str | None) -> Index: ...

    def verified_item(self, kind: str, id_: str, entry: Entry) -> Item: ...


class View:
    """What the catalogue holds, as of one moment. Only inside `Catalog.reading` or
    `Catalog.changing`.

    Everything raises SealError when something was changed from outside.
    """

    def __init__(self, source: Source, seal: Seal) -> None:
        self._source = source
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
        return None if entry is None else self._source.verified_item(kind, id_, entry)

    def find(self, kind: str, name: str) -> Item | None:
        """The item of that name."""
        id_ = self._index(kind).names.get(name)
        return None if id_ is None else self.get(kind, id_)

    def count(self, kind: str, *, owner: str | None = None, prefix: str = "") -> int:
        """How many items there are, of this owner and with this prefix only if they are given."""
        index = self._index(kind)
        ids = index.ids[_from(index.ids, prefix) : _behind(index.ids, prefix)]
        if owner is None:
            return len(ids)
        return sum(index.entries[id_].owner == owner for id_ in ids)

    def items(
        self,
        kind: str,
        *,
        owner: str | None = None,
        prefix: str = "",
        after: str = "",
        limit: int | None = None,
    ) -> list[Item]:
        """The items whose ids begin with `prefix`, in the order of their ids, behind `after`, at
        most `limit`."""
        index = self._index(kind)
        start = max(_from(index.ids, prefix), bisect_right(index.ids, after))
        ids = index.ids[start : _behind(index.ids, prefix)]
        mine = (id_ for id_ in ids if owner is None or index.entries[id_].owner == owner)
        return [
            self._source.verified_item(kind, id_, index.entries[id_]) for id_ in islice(mine, limit)
        ]

    def _index(self, kind: str) -> Index:
        return self._source.verified_index(kind, self._seal.roots.get(kind))


def _from(ids: list[str], prefix: str) -> int:
    return bisect_left(ids, prefix)


def _behind(ids: list[str], prefix: str) -> int:
    return bisect_left(ids, prefix + chr(sys.maxunicode)) if prefix else len(ids)


class Change(View):
    """A view that is going to be another. `get` sees what was put; the lists do not."""

    def __init__(self, source: Source, seal: Seal) -> None:
        super().__init__(source, seal)
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
