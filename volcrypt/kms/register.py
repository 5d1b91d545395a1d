"""The register: which records are current. Lives in the catalogue, under its seal.

A record on disk carries its own seal, and an older version of it does too. The register names the
counter and the digest of the current bytes, so that an older or foreign record is refused. All of
an `apply` is one transaction: two volumes can swap names, and a kill leaves the old state or the
new one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import msgspec

from volcrypt.errors import TryAgainError
from volcrypt.kms.catalog import Catalog
from volcrypt.kms.sealing import Item

DIGEST_BYTES: Final = 32
_PREFIX: Final = "register/"
NOTHING: Final[Mapping[tuple[str, str], int | None]] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisterEntry:
    """`counter` grows with each version of the record, `digest` is the SHA-256 of its bytes;
    `name` is unique within `kind`."""

    kind: str
    id: str
    name: str | None
    counter: int
    digest: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class _Body:
    counter: int
    digest: bytes


class Register:
    """Everything raises SealError when the catalogue was changed from outside."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def get(self, kind: str, id: str) -> RegisterEntry | None:  # noqa: A002 the contract's word
        with self._catalog.reading() as view:
            item = view.get(_PREFIX + kind, id)
        return None if item is None else _entry(item)

    def find(self, kind: str, name: str) -> RegisterEntry | None:
        """The entry of that name."""
        with self._catalog.reading() as view:
            item = view.find(_PREFIX + kind, name)
        return None if item is None else _entry(item)

    def entries(self, kind: str) -> list[RegisterEntry]:
        """Ordered by id."""
        with self._catalog.reading() as view:
            return [_entry(item) for item in view.items(_PREFIX + kind)]

    def apply(
        self,
        *,
        put: Sequence[RegisterEntry] = (),
        delete: Sequence[tuple[str, str]] = (),
        expect: Mapping[tuple[str, str], int | None] = NOTHING,
    ) -> None:
        """Put and delete in one durable transaction; `delete` and `expect` name (kind, id).

        `expect` says which counter an entry must have now, None that it must not exist.
        Raises TryAgainError when one has not, NameTakenError, NoSpaceError.
        """
        with self._catalog.changing() as change:
            for (kind, id_), counter in expect.items():
                item = change.get(_PREFIX + kind, id_)
                if (None if item is None else _entry(item).counter) != counter:
                    raise TryAgainError(f"{kind} {id_} was changed by another command")
            for kind, id_ in delete:
                change.delete(_PREFIX + kind, id_)
            for entry in put:
                assert len(entry.digest) == DIGEST_BYTES, "internal error: not a digest"
                body = _Body(counter=entry.counter, digest=entry.digest)
                change.put(
                    Item(
                        kind=_PREFIX + entry.kind,
                        id=entry.id,
                        name=entry.name,
                        body=msgspec.json.encode(body),
                    )
                )


def _entry(item: Item) -> RegisterEntry:
    body = msgspec.json.decode(item.body, type=_Body)
    return RegisterEntry(
        kind=item.kind.removeprefix(_PREFIX),
        id=item.id,
        name=item.name,
        counter=body.counter,
        digest=body.digest,
    )
