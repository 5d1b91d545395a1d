"""Garbage: the chunks and pages that no snapshot and no pin refers to, found by reading all that
does. What cannot be read stops it, since what that refers to is not known."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import islice
from typing import Final

from volcrypt.crypto.digest import ZERO_DIGEST
from volcrypt.errors import (
    ChunkMissingError,
    FormatError,
    IntegrityError,
    SnapshotNotFoundError,
    SweepBlockedError,
    UnsupportedVersionError,
)
from volcrypt.formats.pin import PinBody
from volcrypt.names import SnapshotId
from volcrypt.snapshot import layout
from volcrypt.snapshot.plan import LiveDigests
from volcrypt.snapshot.store import SnapshotStore
from volcrypt.snapshot.table import ChunkTable

_NAMES_AT_ONCE: Final = 10_000

Live = tuple[LiveDigests, LiveDigests]
"""What is referred to: chunks, and pages with tables."""


def nothing() -> None:
    """For a caller who need not be told how it goes on."""


def garbage(store: SnapshotStore, live: Live) -> Iterator[str]:
    """The names of all garbage. Raises ObjectStoreError."""
    for prefix in (layout.CHUNKS, layout.PAGES):
        names = store.objects.list(prefix)
        while some := list(islice(names, _NAMES_AT_ONCE)):
            yield from garbage_among(some, live)


def garbage_among(names: Iterable[str], live: Live) -> Iterator[str]:
    """Those of the names that are garbage's, and all of chunks and pages."""
    chunks, pages = live
    for prefix, digests, name_of in (
        (layout.CHUNKS, chunks, layout.chunk_name),
        (layout.PAGES, pages, layout.page_name),
    ):
        named = (layout.digest_in_name(name) for name in names if name.startswith(prefix))
        for digest in digests.garbage(digest for digest in named if digest is not None):
            yield name_of(digest)


def find_live(
    store: SnapshotStore, pins: Iterable[PinBody], *, tick: Callable[[], None] = nothing
) -> Live:
    """What snapshots and pins refer to. `tick` is called after each object that was read.

    Raises SweepBlockedError, UnsupportedVersionError, ObjectStoreError.
    """
    chunks, pages = LiveDigests(), LiveDigests()
    seen: set[bytes] = set()

    def add(root: bytes, size_bytes: int, where: str) -> None:
        tick()
        if root == ZERO_DIGEST:
            return
        pages.add(root)
        table = ChunkTable(store, root, size_bytes=size_bytes, where=where)
        pages.add(table.page_digests)
        for number in table.stored_pages():
            tick()
            if table.page_digest(number) not in seen:
                chunks.add(table.page(number))
                seen.add(table.page_digest(number))

    for snapshot_id in store.snapshot_ids():
        tick()
        try:
            manifest = store.manifest(snapshot_id)
            add(manifest.root, manifest.size_bytes, f"snapshot {snapshot_id}")
        except UnsupportedVersionError:
            raise
        except (SnapshotNotFoundError, FormatError, IntegrityError) as error:
            # Deleted just now, and swept elsewhere? A manifest that is only gone is a loss.
            if not store.is_deleted(snapshot_id):
                raise SweepBlockedError(store.objects.location, snapshot_id, str(error)) from error
    for pin in pins:
        for root in pin.roots:
            # A maker who was killed early may have pinned what was gone already.
            with suppress(ChunkMissingError):
                add(root, pin.size_bytes, f"pin of snapshot {pin.snapshot_id}")
    return chunks, pages


def remove_deleted_manifests(store: SnapshotStore, *, tick: Callable[[], None] = nothing) -> None:
    """Finish deletions that were killed between tombstone and manifest. Raises FormatError and
    IntegrityError for a tombstone that nobody signed."""
    present: dict[SnapshotId, list[str]] = {}
    for name in store.manifest_names():
        present.setdefault(name.snapshot_id, []).append(name.text)
    for tombstone in list(store.tombstone_names()):
        tick()
        for manifest in present.get(tombstone.snapshot_id, ()):
            store.read_tombstone(tombstone)
            store.objects.delete(manifest)
