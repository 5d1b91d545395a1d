"""What the catalogue's seals cover: items, buckets, the seal itself. Pure.

The rules stand in `catalog`; here are the values and the exact bytes under each MAC and hash.
"""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Final, Protocol, TypeVar

import msgspec

from volcrypt.formats.audit_record import AuditHead

T = TypeVar("T")
BUCKETS: Final = 1024
"""Parts of a kind that are hashed one by one; fixed, because the seal's roots depend on it."""
MAC_BYTES: Final = 32
HASH_BYTES: Final = 32
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
    _value: Any = field(default=None, init=False, repr=False, compare=False)

    def decoded(self, type_: type[T]) -> T:
        """The body, which is JSON, as a value of `type_`; decoded once. Not to be changed."""
        if type(self._value) is not type_:
            # Two threads may both do it, and one of two equal values stays.
            object.__setattr__(self, "_value", msgspec.json.decode(self.body, type=type_))
        value: T = self._value
        return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Seal:
    """Body of the seal. `roots` holds 64 hexadecimal digits for every kind that has items;
    `audit` is the head of the audit log when the catalogue changed last."""

    counter: int
    roots: dict[str, str]
    audit: AuditHead


@dataclass(frozen=True, slots=True)
class Entry:
    """What a bucket's hash covers of one item, beside its id."""

    mac: bytes
    name: str | None
    owner: str | None


def bucket_of(id_: str) -> int:
    """The bucket of the item of that id."""
    return int.from_bytes(sha256(id_.encode(errors="surrogatepass")).digest()[:2]) % BUCKETS


def bucket_hash(entries: Mapping[str, Entry]) -> bytes:
    """Over all items of a bucket, in the order of their ids."""
    parts: list[bytes] = []
    for id_ in sorted(entries):
        entry = entries[id_]
        parts += (_fields(id_, entry.name, entry.owner), entry.mac)
    return sha256(b"".join(parts)).digest()


EMPTY_BUCKET: Final = bucket_hash({})


def root_of(hashes: Sequence[bytes]) -> str:
    """Over the hashes of all buckets of a kind."""
    return sha256(b"".join(hashes)).hexdigest()


EMPTY_ROOT: Final = root_of([EMPTY_BUCKET] * BUCKETS)


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
    return _fields("volcrypt catalogue seal 2") + body
