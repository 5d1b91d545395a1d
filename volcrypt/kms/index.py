"""The index of one kind of items: which there are, in what order, whose, and under which MAC. Pure.

Buckets are loaded when they are asked for: `get` needs one, the ordered lists need all of them.
Each is checked against its hash, and the hashes against the root that the seal names, so an index
that says something is right about it. What it costs does not grow with the number of items, except
for the first question that needs all of them.
"""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Mapping, Sequence
from typing import Final, Protocol

from volcrypt.kms.sealing import BUCKETS, EMPTY_BUCKET, Entry, bucket_of, root_of

Entries = dict[str, Entry]
_LAST_CODE_POINT: Final = 0x10FFFF


class Loader(Protocol):
    """Where an index has its buckets from; raises SealError when they do not have these hashes."""

    def load_bucket(self, kind: str, number: int, digest: bytes) -> Entries: ...

    def load_buckets(self, kind: str, hashes: Sequence[bytes]) -> list[Entries]: ...


class Index:
    """Changes in place; not for two threads at once."""

    def __init__(self, kind: str, loader: Loader, hashes: Sequence[bytes]) -> None:
        self._kind = kind
        self._loader = loader
        self.hashes = list(hashes)
        self.root = root_of(hashes)
        self._buckets: list[Entries | None] = [None] * BUCKETS
        self._is_complete = False
        self._ids: list[str] = []
        self._owned: dict[str, list[str]] = {}
        self._named: dict[str, str] = {}

    def entry(self, id_: str) -> Entry | None:
        return self.bucket(bucket_of(id_)).get(id_)

    def bucket(self, number: int) -> Entries:
        """The entries of a bucket, not to be changed."""
        entries = self._buckets[number]
        if entries is None:
            digest = self.hashes[number]
            if digest == EMPTY_BUCKET:
                entries = {}
            else:
                entries = self._loader.load_bucket(self._kind, number, digest)
            self._buckets[number] = entries
        return entries

    def id_of(self, name: str) -> str | None:
        """The id of the item of that name."""
        self._complete()
        return self._named.get(name)

    def count(self, *, owner: str | None, prefix: str) -> int:
        ids = self._ids_of(owner)
        return _end_of(ids, prefix) - bisect_left(ids, prefix)

    def ids(self, *, owner: str | None, prefix: str, after: str, limit: int | None) -> list[str]:
        """In ascending order, behind `after`."""
        ids = self._ids_of(owner)
        start = max(bisect_left(ids, prefix), bisect_right(ids, after))
        end = _end_of(ids, prefix)
        return ids[start : end if limit is None else min(end, start + limit)]

    def with_buckets(self, changed: Mapping[int, bytes]) -> list[bytes]:
        """The hashes as they will be when these buckets have these hashes."""
        hashes = list(self.hashes)
        for number, digest in changed.items():
            hashes[number] = digest
        return hashes

    def replace(self, hashes: Sequence[bytes], buckets: Mapping[int, Entries]) -> None:
        """Have these hashes from now on, and for the buckets that differ these entries."""
        for number, entries in buckets.items():
            if self._is_complete:
                self._reorder(self.bucket(number), entries)
            self._buckets[number] = entries
        self.hashes = list(hashes)
        self.root = root_of(hashes)

    def refresh(self, hashes: Sequence[bytes]) -> None:
        """Have these hashes from now on, which another process made; what differs is loaded anew,
        at once where the order depends on it."""
        changed = [n for n, digest in enumerate(hashes) if digest != self.hashes[n]]
        if self._is_complete:
            loaded = {
                n: (
                    {}
                    if hashes[n] == EMPTY_BUCKET
                    else self._loader.load_bucket(self._kind, n, hashes[n])
                )
                for n in changed
            }
            self.replace(hashes, loaded)
            return
        for number in changed:
            self._buckets[number] = None
        self.hashes = list(hashes)
        self.root = root_of(hashes)

    def _ids_of(self, owner: str | None) -> list[str]:
        self._complete()
        return self._ids if owner is None else self._owned.get(owner, [])

    def _complete(self) -> None:
        """Load what is not loaded yet, and put it in order."""
        if self._is_complete:
            return
        buckets = self._loader.load_buckets(self._kind, self.hashes)
        self._buckets = list(buckets)
        entries = {id_: entry for bucket in buckets for id_, entry in bucket.items()}
        self._ids = sorted(entries)
        self._owned, self._named = {}, {}
        for id_ in self._ids:
            self._register(id_, entries[id_], in_order=True)
        self._is_complete = True

    def _register(self, id_: str, entry: Entry, *, in_order: bool) -> None:
        if entry.name is not None:
            self._named[entry.name] = id_
        if entry.owner is not None:
            owned = self._owned.setdefault(entry.owner, [])
            if in_order:
                owned.append(id_)
            else:
                insort(owned, id_)

    def _reorder(self, old: Entries, new: Entries) -> None:
        """Take what is in `old` and not in `new` out of the lists, and the reverse in."""
        for id_, entry in old.items():
            if new.get(id_) == entry:
                continue
            if id_ not in new:
                del self._ids[bisect_left(self._ids, id_)]
            # Another item may have taken the name over in this very change.
            if entry.name is not None and self._named.get(entry.name) == id_:
                del self._named[entry.name]
            if entry.owner is not None:
                owned = self._owned[entry.owner]
                del owned[bisect_left(owned, id_)]
                if not owned:
                    del self._owned[entry.owner]
        for id_, entry in new.items():
            if old.get(id_) == entry:
                continue
            if id_ not in old:
                insort(self._ids, id_)
            self._register(id_, entry, in_order=False)


def _end_of(ids: list[str], prefix: str) -> int:
    """The place behind the last id that begins with `prefix`."""
    last = prefix.rstrip(chr(_LAST_CODE_POINT))
    if not last:
        return len(ids)
    return bisect_left(ids, last[:-1] + chr(ord(last[-1]) + 1))
