"""What a transaction on the catalogue sees, and what it is going to change. Knows no SQL."""

from bisect import bisect_left, bisect_right
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
        """How many items there are whose id begins with `prefix`, of this owner only if one is
        given."""
        entries = self._index(kind).entries
        return sum(
            id_.startswith(prefix) and (owner is None or entry.owner == owner)
            for id_, entry in entries.items()
        )

    def items(
        self,
        kind: str,
        *,
        owner: str | None = None,
        prefix: str = "",
        after: str = "",
        limit: int | None = None,
    ) -> list[Item]:
        """The items in the order of their ids, which begin with `prefix`: those behind the id
        `after`, at most `limit`."""
        index = self._index(kind)
        found: list[Item] = []
        start = max(bisect_left(index.ids, prefix), bisect_right(index.ids, after))
        for id_ in index.ids[start:]:
            if not id_.startswith(prefix) or (limit is not None and len(found) >= limit):
                break
            entry = index.entries[id_]
            if owner is None or entry.owner == owner:
                found.append(self._source.verified_item(kind, id_, entry))
        return found

    def _index(self, kind: str) -> Index:
        return self._source.verified_index(kind, self._seal.roots.get(kind))


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
