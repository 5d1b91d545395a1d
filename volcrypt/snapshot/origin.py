"""SnapshotOrigin: the chunks of a snapshot as a lazy volume takes them: one by one, in any order.

Everything that it answers was checked against the root. Table and pages are read when they are
needed; the pages that were used last are kept, so that one is read once while its chunks are
touched, and memory does not grow with the snapshot.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from volcrypt.crypto.digest import DIGEST_BYTES, ZERO_DIGEST
from volcrypt.formats.pages import (
    PAGE_CHUNKS,
    all_holes,
    decode_page,
    decode_table,
    digest_at,
    page_count,
    page_range,
    stored_positions,
)
from volcrypt.geometry import chunk_range
from volcrypt.names import SnapshotId
from volcrypt.snapshot.checked_objects import CheckedObjects

KEPT_PAGES: Final = 128
"""4 MiB of digests, for 64 GiB of chunks."""


class SnapshotOrigin:
    """One snapshot. Safe for several threads at once."""

    def __init__(
        self,
        open_store: Callable[[], CheckedObjects],
        *,
        snapshot_id: SnapshotId,
        root: bytes,
        size_bytes: int,
        step: Callable[[int, memoryview], None] | None,
    ) -> None:
        """`open_store` is called when something is needed, until it does not raise; `step`
        re-encrypts a chunk, given its index, in place."""
        self._open_store = open_store
        self._opened: CheckedObjects | None = None
        self._where = f"snapshot {snapshot_id}"
        self._root = root
        self._size_bytes = size_bytes
        self._step = step
        self._lock = threading.Lock()
        self._table: bytes | None = None
        self._pages: OrderedDict[int, bytes] = OrderedDict()

    def hole_pages(self) -> NDArray[np.bool_]:
        """Raises ObjectStoreError, FormatError and IntegrityError, as all here, and what
        `open_store` raises."""
        return _is_hole(self._open_table(), page_count(self._size_bytes))

    def holes(self, page: int) -> NDArray[np.bool_]:
        digests = self._page(page)
        return _is_hole(digests, len(digests) // DIGEST_BYTES)

    def read_chunk(self, index: int, buffer: memoryview) -> None:
        digest = digest_at(self._page(index // PAGE_CHUNKS), index % PAGE_CHUNKS)
        assert digest != ZERO_DIGEST, "internal error: a hole is not read"
        assert len(buffer) == chunk_range(index, self._size_bytes).length, "internal error: length"
        self._store.get_chunk(digest, buffer, where=f"chunk {index} of {self._where}")
        if self._step is not None:
            self._step(index, buffer)

    @property
    def _store(self) -> CheckedObjects:
        with self._lock:
            if self._opened is None:
                self._opened = self._open_store()
            return self._opened

    def _open_table(self) -> bytes:
        """The digests of all pages."""
        # Whoever calls this makes sure that it is not many at once, so a second read is rare.
        if self._table is None:
            if self._root == ZERO_DIGEST:
                self._table = bytes(all_holes(page_count(self._size_bytes)))
            else:
                where = f"table of {self._where}"
                data = self._store.get_page(self._root, where=where)
                self._table = decode_table(data, size_bytes=self._size_bytes, what=where)
        return self._table

    def _page(self, number: int) -> bytes:
        """The digests of the chunks of one page."""
        with self._lock:
            if (digests := self._pages.get(number)) is not None:
                self._pages.move_to_end(number)
                return digests
        digest = digest_at(self._open_table(), number)
        if digest == ZERO_DIGEST:
            return bytes(all_holes(len(page_range(number, self._size_bytes))))
        where = f"page {number} of {self._where}"
        data = self._store.get_page(digest, where=where)
        digests = decode_page(data, number=number, size_bytes=self._size_bytes, what=where)
        with self._lock:
            self._pages[number] = digests
            while len(self._pages) > KEPT_PAGES:
                self._pages.popitem(last=False)
        return digests


def _is_hole(digests: bytes, count: int) -> NDArray[np.bool_]:
    holes = np.ones(count, dtype=np.bool_)
    holes[stored_positions(digests)] = False
    return holes
