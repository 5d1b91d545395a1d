"""Tables of chunk digests: read lazily and checked, or made page by page.

A page is read when one of its chunks is asked for, and the last ones are kept, so memory follows
neither size nor change; the table itself is 4 MiB for the largest volume.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from typing_extensions import Buffer

from volcrypt.crypto.digest import DIGEST_BYTES, ZERO_DIGEST
from volcrypt.formats.pages import (
    PAGE_CHUNKS,
    all_holes,
    decode_page,
    decode_table,
    digest_at,
    encode_page,
    encode_table,
    page_count,
    page_range,
    stored_positions,
)
from volcrypt.geometry import chunk_range
from volcrypt.snapshot.draft import StoredTable
from volcrypt.snapshot.store import SnapshotStore, Stored

KEPT_PAGES: Final = 96
"""Pages of 32 KiB that a table keeps: more than a producer of chunks runs ahead of its workers."""


class ChunkTable:
    """Which object is which chunk, below one root; also a source of those chunks.

    Safe for several threads. Everything that it answers was checked against the root.
    """

    def __init__(
        self,
        store: SnapshotStore,
        root: bytes,
        *,
        size_bytes: int,
        where: str = "snapshot",
        grown_to: int | None = None,
    ) -> None:
        """`where` names the snapshot in errors; `grown_to` shows it as one of a larger volume, with
        holes at the end. Raises FormatError and IntegrityError."""
        self.store = store
        self.root = root
        self.size_bytes = grown_to or size_bytes
        self._stored_size = size_bytes
        self._where = where
        self._kept_page = lru_cache(KEPT_PAGES)(self._read_page)
        if root == ZERO_DIGEST:
            self.page_digests = bytes(all_holes(page_count(self.size_bytes)))
        else:
            where = f"table of {where}"
            data = store.get_page(root, where=where)
            table = decode_table(data, size_bytes=size_bytes, what=where)
            more = page_count(self.size_bytes) - page_count(size_bytes)
            self.page_digests = table + bytes(all_holes(more))

    def page_digest(self, number: int) -> bytes:
        return digest_at(self.page_digests, number)

    def page(self, number: int) -> bytes:
        """The digests of the chunks of one page. Raises FormatError and IntegrityError."""
        return self._kept_page(number)

    def _read_page(self, number: int) -> bytes:
        digest = self.page_digest(number)
        digests = b""
        if digest != ZERO_DIGEST:
            where = f"page {number} of {self._where}"
            data = self.store.get_page(digest, where=where)
            digests = decode_page(data, number=number, size_bytes=self._stored_size, what=where)
        more = len(page_range(number, self.size_bytes)) - len(digests) // DIGEST_BYTES
        return digests + bytes(all_holes(more))

    def is_whole(self, number: int) -> bool:
        """Whether page `number` is stored with all the chunks that it has now."""
        return page_range(number, self._stored_size) == page_range(number, self.size_bytes)

    def has_table(self, page_digests: Buffer) -> bool:
        """Whether these are stored as the root."""
        return (
            page_count(self._stored_size) == page_count(self.size_bytes)
            and self.page_digests == page_digests
        )

    def digest(self, index: int) -> bytes:
        """The digest of one chunk; ZERO_DIGEST for a hole. Raises as `page`."""
        return digest_at(self.page(index // PAGE_CHUNKS), index % PAGE_CHUNKS)

    def stored_pages(self) -> Iterator[int]:
        """Ascending numbers of the pages that hold anything."""
        yield from stored_positions(self.page_digests)

    def candidate_chunks(self, start: int = 0) -> Iterator[int]:
        """Ascending indexes, from `start` on, of the chunks that are no holes. Raises as `page`."""
        for number in self.stored_pages():
            first = number * PAGE_CHUNKS
            if first + PAGE_CHUNKS > start:
                for position in stored_positions(self.page(number)):
                    if first + position >= start:
                        yield first + position

    def read_chunk(self, index: int, buffer: Buffer) -> None:
        """Fill `buffer`, of the chunk's length, with its ciphertext; a hole is zeros.

        Raises ChunkMissingError, ChunkCorruptError, and what `page` raises.
        """
        digest = self.digest(index)
        if digest == ZERO_DIGEST:
            view = memoryview(buffer)
            view[:] = bytes(view.nbytes)
        else:
            self.store.get_chunk(digest, buffer, where=f"chunk {index} of {self._where}")


@dataclass(slots=True)
class _OpenPage:
    """A page in the making."""

    digests: bytearray
    before: int
    """How many chunks it held when it was opened."""
    compare: bytes | None
    known: list[tuple[bytes, bytes]]
    """Pages that are stored already: their digests, and the digest of each."""
    pending: int = 0
    closed: bool = False


@dataclass(slots=True)
class TableWriter:
    """Makes a table from digests that come in any order, while pages are opened in ascending order.

    Starts as `start` (what is not opened stays as there) or as holes. A page is put when it is
    closed and nothing of it is pending. Objects that `compare` names count as stored: they are
    under a pin.

    `open_page` and `put_page` do I/O and may run in worker threads, pages beside each other:
    `open_page` only adds its page, and `put_page` changes nothing here. All other methods belong to
    one thread, which is what keeps the counts right; `freeze` takes a moment, and what it answers
    is stored elsewhere.
    """

    store: SnapshotStore
    size_bytes: int
    start: ChunkTable | None
    compare: ChunkTable | None
    data_chunks: int
    stored_chunks: int = 0
    stored_bytes: int = 0
    repaired: list[str] = field(default_factory=list)
    _table: bytearray = field(init=False)
    _pages: dict[int, _OpenPage] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self._table = (
            all_holes(page_count(self.size_bytes))
            if self.start is None
            else bytearray(self.start.page_digests)
        )

    def open_page(self, number: int) -> None:
        """Read what the page starts from. Raises FormatError and IntegrityError."""
        compare = None if self.compare is None else self.compare.page(number)
        if self.start is None:
            digests = all_holes(len(page_range(number, self.size_bytes)))
        else:
            digests = bytearray(self.start.page(number))
        self._pages[number] = _OpenPage(
            digests=digests,
            before=len(stored_positions(digests)),
            compare=compare,
            known=[
                (table.page(number), table.page_digest(number))
                for table in (self.start, self.compare)
                if table is not None and table.is_whole(number)
            ],
        )

    def expect(self, index: int) -> bytes | None:
        """A digest for this chunk will come; answers the digest that need not be put, if any."""
        page = self._pages[index // PAGE_CHUNKS]
        page.pending += 1
        return None if page.compare is None else digest_at(page.compare, index % PAGE_CHUNKS)

    def record(self, index: int, digest: bytes, stored: Stored) -> int | None:
        """Set a digest; answers the number of its page when that can be put now."""
        number = index // PAGE_CHUNKS
        page = self._pages[number]
        at = index % PAGE_CHUNKS * DIGEST_BYTES
        page.digests[at : at + DIGEST_BYTES] = digest
        page.pending -= 1
        if stored is Stored.NEW:
            self.stored_chunks += 1
            self.stored_bytes += chunk_range(index, self.size_bytes).length
        elif stored is Stored.REPAIRED:
            self.repaired.append(f"chunk {index} ({digest.hex()})")
        return number if page.closed and page.pending == 0 else None

    def close_page(self, number: int) -> bool:
        """No more chunks of this page will be expected; says whether it can be put now."""
        page = self._pages[number]
        page.closed = True
        return page.pending == 0

    def put_page(self, number: int) -> tuple[bytes, list[str]]:
        """Store a page that is closed; the answer goes to `page_put`."""
        page = self._pages[number]
        return _put_digests(self.store, page.digests, page.known)

    def page_put(self, number: int, digest: bytes, repaired: list[str]) -> None:
        """Take over what `put_page` answered, and forget the page."""
        page = self._pages.pop(number)
        at = number * DIGEST_BYTES
        self._table[at : at + DIGEST_BYTES] = digest
        self.data_chunks += len(stored_positions(page.digests)) - page.before
        self.repaired += repaired

    def checkpoint(self) -> StoredTable:
        """Store the table as it is now, with open pages as they are. Does I/O."""
        return self.freeze().put()

    def freeze(self) -> "FrozenTable":
        """The table as it is now, with what was recorded so far in open pages."""
        return FrozenTable(
            store=self.store,
            start=self.start,
            table=bytearray(self._table),
            # In one step: another thread may be opening a page.
            pages=[
                (number, bytes(page.digests), page.known, page.before)
                for number, page in list(self._pages.items())
            ],
            data_chunks=self.data_chunks,
            stored_chunks=self.stored_chunks,
            stored_bytes=self.stored_bytes,
            repaired=list(self.repaired),
        )


@dataclass(slots=True, kw_only=True)
class FrozenTable:
    """A table in the making as it was at one moment; `put` may run in any thread, once."""

    store: SnapshotStore
    start: ChunkTable | None
    table: bytearray
    pages: list[tuple[int, bytes, list[tuple[bytes, bytes]], int]]
    """Open ones: number, digests, what is stored already, how many chunks there were before."""
    data_chunks: int
    stored_chunks: int
    stored_bytes: int
    repaired: list[str]

    def put(self) -> StoredTable:
        """Store pages and table."""
        for number, digests, known, before in self.pages:
            at = number * DIGEST_BYTES
            digest, replaced = _put_digests(self.store, digests, known)
            self.table[at : at + DIGEST_BYTES] = digest
            self.repaired += replaced
            self.data_chunks += len(stored_positions(digests)) - before
        if self.data_chunks == 0:
            root = ZERO_DIGEST
        elif self.start is not None and self.start.has_table(self.table):
            root = self.start.root
        else:
            root, replaced = _put(self.store, encode_table(self.table))
            self.repaired += replaced
        return StoredTable(
            root=root,
            data_chunks=self.data_chunks,
            stored_chunks=self.stored_chunks,
            stored_bytes=self.stored_bytes,
            repaired=tuple(self.repaired),
        )


def _put_digests(
    store: SnapshotStore, digests: Buffer, known: list[tuple[bytes, bytes]]
) -> tuple[bytes, list[str]]:
    """The digest of a page that is stored now, and what was found damaged and replaced."""
    if not stored_positions(digests):
        return ZERO_DIGEST, []
    for others, digest in known:
        if others == digests:
            return digest, []
    return _put(store, encode_page(digests))


def _put(store: SnapshotStore, data: bytes) -> tuple[bytes, list[str]]:
    digest, stored = store.put_page(data)
    return digest, [f"page {digest.hex()}"] if stored is Stored.REPAIRED else []
