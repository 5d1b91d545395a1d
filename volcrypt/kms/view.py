"""What a transaction on the catalogue sees, and what it is going to change. Knows no SQL."""

from collections.abc import Callable
from typing import Protocol

from volcrypt.formats.audit_record import AuditHead
from volcrypt.kms.index import Index
from volcrypt.kms.sealing import Entry, Item, Seal


class Source(Protocol):
    """Where a view has its items from: the catalogue, which verifies them."""

    def verified_index(self, kind: str, seal: Seal) -> Index: ...

    def verified_item(self, kind: str, id_: str, entry: Entry) -> Item: ...

    def seal_audit_head(self, head: AuditHead, seal: Seal) -> None: ...


class View:
    """What the catalogue holds, as of one moment. Only inside `Catalog.reading` or
    `Catalog.changing`.

    Every question costs what its answer is long, and the logarithm of how many items there are.
    Everything raises SealError when something was changed from outside.
    """

    def __init__(self, source: Source, seal: Seal, *, audit_head: AuditHead) -> None:
        self._source = source
        self._seal = seal
        self._audit_head = audit_head

    @property
    def counter(self) -> int:
        """Grows with every change of the catalogue."""
        return self._seal.counter

    @property
    def audit_head(self) -> AuditHead:
        return self._audit_head

    def get(self, kind: str, id_: str) -> Item | None:
        entry = self._index(kind).entry(id_)
        return None if entry is None else self._source.verified_item(kind, id_, entry)

    def find(self, kind: str, name: str) -> Item | None:
        """The item of that name."""
        id_ = self._index(kind).id_of(name)
        return None if id_ is None else self.get(kind, id_)

    def count(self, kind: str, *, owner: str | None = None, prefix: str = "") -> int:
        """How many items there are whose id begins with `prefix`, of this owner only if one is
        given."""
        return self._index(kind).count(owner=owner, prefix=prefix)

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
        for id_ in index.ids(owner=owner, prefix=prefix, after=after, limit=limit):
            entry = index.entry(id_)
            assert entry is not None, "internal error: an index with an id and no entry"
            found.append(self._source.verified_item(kind, id_, entry))
        return found

    def _index(self, kind: str) -> Index:
        return self._source.verified_index(kind, self._seal)


class Change(View):
    """A view that is going to be another. `get` and `find` see what was put and deleted; `count`
    and `items` do not."""

    def __init__(self, source: Source, seal: Seal, *, audit_head: AuditHead) -> None:
        super().__init__(source, seal, audit_head=audit_head)
        self.pending: dict[tuple[str, str], Item | None] = {}
        self.has_new_audit_head = False
        self.when_durable: list[Callable[[], None]] = []
        """Called in order when the change is durable; not at all when it fails."""

    def set_audit_head(self, head: AuditHead) -> None:
        """Make this the head of the log, durably, when the change ends."""
        self._audit_head = head
        self.has_new_audit_head = True

    def seal_audit_head(self, head: AuditHead) -> None:
        """Make this the head of the log, durably, at once, and whether the change ends or fails."""
        self._source.seal_audit_head(head, self._seal)

    def get(self, kind: str, id_: str) -> Item | None:
        if (kind, id_) in self.pending:
            return self.pending[kind, id_]
        return super().get(kind, id_)

    def find(self, kind: str, name: str) -> Item | None:
        for (of_kind, _), item in self.pending.items():
            if of_kind == kind and item is not None and item.name == name:
                return item
        found = super().find(kind, name)
        # What is pending under its id has another name now, or none.
        return None if found is None or (kind, found.id) in self.pending else found

    def put(self, item: Item) -> None:
        """Add the item, or replace the one of its kind and id.

        A name that another item of the kind has raises NameTakenError when the change ends, so
        that two items can swap names.
        """
        self.pending[item.kind, item.id] = item

    def delete(self, kind: str, id_: str) -> None:
        self.pending[kind, id_] = None
