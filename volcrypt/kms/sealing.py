"""What the catalogue's seals cover: items, the index of a kind, the seal itself. Pure.

The rules stand in `catalog`; here are the values and the exact bytes under each MAC.
"""

import hashlib
import struct
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final, Protocol

from volcrypt.formats.audit_record import AuditHead

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
class Entry:
    """What the root of a kind covers of one item, beside its id."""

    mac: bytes
    name: str | None
    owner: str | None


class Index:
    """All items of one kind, without their bodies; never changed once made."""

    def __init__(self, entries: dict[str, Entry]) -> None:
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


EMPTY: Final = Index({})


def _fields(*texts: str | None) -> bytes:
    """Texts so that no two sequences of them give the same bytes."""
    parts = []
    for text in texts:
        data = b"" if text is None else text.encode()
        parts.append((b"\0" if text is None else b"\1") + _LENGTH.pack(len(data)) + data)
    return b"".join(parts)


def item_text(item: Item) -> bytes:
    head = _fields("volcrypt catalogue item 1", item.kind, item.id, item.name, item.owner)
    return head + item.body


def seal_text(body: bytes) -> bytes:
    return _fields("volcrypt catalogue seal 1") + body
