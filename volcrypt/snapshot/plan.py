"""Which chunks to read, copy and delete. Pure.

The rule that everything here is held to: for any history of writes, the snapshot made from the
changed chunks alone has the same root as the one made by reading all.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from volcrypt.chunk_set import ChunkSet
from volcrypt.crypto.digest import DIGEST_BYTES
from volcrypt.formats.manifest import Manifest, SnapshotPoint
from volcrypt.geometry import CHUNK_BYTES, chunk_count
from volcrypt.names import DataKeyId, VolumeId

MAX_BATCH_CHUNKS: Final = 4096
"""Chunks (2 GiB) between two syncs: bounds what is lost by a kill, and what waits for the disk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StorePlan:
    """How to make a snapshot. Ascending `chunks` are read.

    `incremental`: all others are those of `base`. Otherwise all others are holes, and `base`, where
    there is one, only spares putting again what is the same.
    """

    chunks: Iterable[int]
    base: Manifest | None
    incremental: bool


def is_parent(
    manifest: Manifest,
    point: SnapshotPoint,
    *,
    volume_id: VolumeId,
    size_bytes: int,
    data_key_id: DataKeyId | None,
) -> bool:
    """Whether this snapshot is the `point` that changes were recorded since, of the same data, when
    that was as large as it is now, or smaller."""
    wrapped_key = manifest.wrapped_key
    return (
        manifest.point == point
        and manifest.volume_id == volume_id
        and manifest.size_bytes <= size_bytes
        and (wrapped_key.data_key_id if wrapped_key is not None else None) == data_key_id
    )


def plan_store(
    *,
    size_bytes: int,
    parent: Manifest | None,
    changed: ChunkSet | None,
    candidates: Iterable[int],
) -> StorePlan:
    """Read the changed chunks when parent and changes are both known, else all candidates.

    `parent` passed `is_parent`, and its pages were found sound (`transfer.find_parent`); `changed`
    is None where the change map is void; `candidates` are the chunks that may hold data, ascending,
    and are not looked at when they are not needed.
    """
    if parent is None or changed is None or changed.chunk_count != chunk_count(size_bytes):
        return StorePlan(chunks=candidates, base=parent, incremental=False)
    return StorePlan(chunks=changed, base=parent, incremental=True)


def mark_grown(
    changed: ChunkSet, parent_bytes: int, candidates: Callable[[int], Iterable[int]]
) -> None:
    """Mark what a parent of `parent_bytes`, smaller than the volume is now, cannot have: its last
    chunk, when that was short, and what is behind it. There `candidates`, given the first chunk,
    says what may hold data, and nothing is taken from the change map, which may be older than the
    growth. That first chunk is always marked: the page that it is in has become longer.
    """
    first = parent_bytes // CHUNK_BYTES
    changed.remove_from(first)
    for index in candidates(first):
        changed.add(index)
    changed.add(first)


def unsaved_chunks(total: int) -> int:
    """How many chunks of a copy of so many may be under way or done without a durable cursor that
    says so: at most 2 %, since so many a kill brings back."""
    return max(1, min(MAX_BATCH_CHUNKS, total // 50))


class LiveDigests:
    """Which digests are referred to, in 8 bytes each: enough to tell what is garbage.

    Only the first 64 bits are kept. Two digests that share them keep each other alive, which is
    safe; nothing that is referred to is ever taken for garbage.
    """

    _PENDING_LIMIT: Final = 2**20

    def __init__(self) -> None:
        self._sorted = np.empty(0, dtype=np.uint64)
        self._pending: list[npt.NDArray[np.uint64]] = []
        self._pending_count = 0

    def add(self, digests: bytes) -> None:
        """Concatenated digests, as pages and tables hold them."""
        words = np.frombuffer(digests, dtype=np.uint64)[:: DIGEST_BYTES // 8]
        self._pending.append(words)
        self._pending_count += len(words)
        if self._pending_count > self._PENDING_LIMIT:
            self._merge()

    def garbage(self, digests: Iterable[bytes]) -> Iterator[bytes]:
        """Those of `digests` that nothing refers to."""
        self._merge()
        for digest in digests:
            word = np.frombuffer(digest, dtype=np.uint64)[0]
            at = int(np.searchsorted(self._sorted, word))
            if at == len(self._sorted) or self._sorted[at] != word:
                yield digest

    def _merge(self) -> None:
        if self._pending:
            self._sorted = np.unique(np.concatenate([self._sorted, *self._pending]))
            self._pending = []
            self._pending_count = 0
