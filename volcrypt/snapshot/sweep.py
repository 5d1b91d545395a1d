"""Sweep: delete chunks and pages that no snapshot and no pin refers to.

Theory of operation. What is garbage is decided by reading: all manifests, the tables and pages
below their roots, and the roots that pins name. One that cannot be read stops the sweep, since what
it refers to is not known, until that snapshot is deleted. The danger is a snapshot that is being
made meanwhile: it refers to objects that it put or found, and no manifest says so yet. So:

- A snapshot in the making holds a pin, put before it looks for its first object.
- `sweep` is for a caller who holds the store alone (a local store, under the host's lock): nobody
  is making a snapshot now. Pins named in `resumable` keep what they name; others are leftovers of
  killed processes and are removed.
- With several hosts on one store it takes two phases. `condemn` lists what is garbage now.
  `delete_condemned`, a while later, puts a mark, looks for pins, reads everything again, deletes
  what is condemned and still garbage, and takes the mark away. A pin that is alive puts it off.
  A maker puts his pin and then looks for the mark; the sweep puts its mark and then looks for
  pins: one of the two sees the other and gives way, whatever the order.
- A lasting pin (of a lazy volume, or of a mounted snapshot) puts nobody off, and is never dead:
  what is under it counts as referenced until its holder releases it. It is put as the others are,
  and gives way to a mark. A caller who holds the store alone names those whose holders are there.
- A pin that was not renewed for an hour is taken for dead and removed; its maker, should he live,
  misses it when he commits, and fails. A mark that old is removed by the next maker; its sweep,
  should it live, misses it before its next deletions, and stops.

Deleting twice is harmless, so a sweep that was killed is simply run again.
"""

from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Final

from volcrypt.crypto.digest import ZERO_DIGEST
from volcrypt.errors import (
    ChunkMissingError,
    FormatError,
    IntegrityError,
    ObjectNotFoundError,
    SnapshotNotFoundError,
    SweepBlockedError,
    TryAgainError,
    UnsupportedVersionError,
)
from volcrypt.formats.condemned import (
    MAX_NAMES,
    CondemnedList,
    SweepingMark,
    decode_condemned,
    encode_condemned,
    encode_sweeping,
)
from volcrypt.formats.pin import PinBody, decode_pin
from volcrypt.names import SnapshotId, VolumeId
from volcrypt.snapshot import layout
from volcrypt.snapshot.pin import PIN_LIFETIME_SECONDS, lasting_pins
from volcrypt.snapshot.plan import LiveDigests
from volcrypt.snapshot.signer import Signer
from volcrypt.snapshot.store import SnapshotStore
from volcrypt.snapshot.table import ChunkTable

_DELETIONS_PER_LOOK: Final = 256


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep deleted."""

    object_count: int


def sweep(
    store: SnapshotStore,
    *,
    resumable: Collection[SnapshotId] = (),
    lazy: Collection[VolumeId] = (),
) -> Swept:
    """Delete all garbage now, for a caller who holds the store alone.

    `resumable` are snapshots in the making that will be continued, `lazy` the volumes whose lasting
    pins are needed. Durable on return.
    Raises SweepBlockedError, FormatError, IntegrityError, ObjectStoreError.
    """
    _remove_deleted_manifests(store)
    for name in list(store.objects.list(layout.PINS)):
        # Junk under the name of a pin is a leftover like any other.
        if name.removeprefix(layout.PINS) not in {*resumable, *lazy}:
            store.objects.delete(name)
    pins = _all_pins(store)
    count = 0
    for name in _garbage(store, pins):
        store.objects.delete(name)
        count += 1
    for name in [*store.objects.list(layout.CONDEMNED), layout.SWEEPING]:
        store.objects.delete(name)
    store.objects.sync()
    return Swept(count)


def condemn(store: SnapshotStore, signer: Signer) -> int:
    """First phase: write down what is garbage now; answers how many objects.

    Replaces the lists of an earlier sweep. Raises SweepBlockedError, FormatError, IntegrityError,
    ObjectStoreError.
    """
    for name in list(store.objects.list(layout.CONDEMNED)):
        store.objects.delete(name)
    garbage = _garbage(store, _all_pins(store))
    count = 0
    for number in range(1_000_000_000):
        names = list(islice(garbage, MAX_NAMES))
        if not names:
            break
        body = CondemnedList(store_id=store.store_id, signer=signer.id, names=names)
        data = encode_condemned(body, signer.seal)
        store.objects.replace(layout.condemned_name(number), data)
        count += len(names)
    store.objects.sync()
    return count


def delete_condemned(store: SnapshotStore, signer: Signer, *, now: int) -> Swept:
    """Second phase: delete what was condemned and is still garbage. Durable on return.

    `now` counts seconds since 1970-01-01 UTC. Raises TryAgainError when a snapshot is in the making
    or another sweep at work, FormatError, IntegrityError, ObjectStoreError.
    """
    mark = SweepingMark(store_id=store.store_id, signer=signer.id, renewed_at=now)
    data = encode_sweeping(mark, signer.seal)
    if (
        not store.objects.put_if_absent(layout.SWEEPING, data)
        and store.objects.get(layout.SWEEPING) != data
    ):
        raise TryAgainError(f"another sweep of {store.objects.location} is under way")
    try:
        for snapshot_id, pin in _pins(store):
            if now - pin.renewed_at < PIN_LIFETIME_SECONDS:
                raise TryAgainError(f"snapshot {snapshot_id} is being made")
            store.objects.delete(layout.pin_name(snapshot_id))
        store.objects.sync()
        _remove_deleted_manifests(store)
        count = 0
        for list_name in list(store.objects.list(layout.CONDEMNED)):
            count += _delete_list(store, list_name, mark=data)
            store.objects.delete(list_name)
    finally:
        with suppress(ObjectNotFoundError):
            if store.objects.get(layout.SWEEPING) == data:
                store.objects.delete(layout.SWEEPING)
                store.objects.sync()
    return Swept(count)


def _delete_list(store: SnapshotStore, list_name: str, *, mark: bytes) -> int:
    condemned = decode_condemned(
        store.objects.get(list_name), store.verifier_of, what=f"sweep list {list_name}"
    )
    held = [pin for _, pin in lasting_pins(store)]
    names = _garbage_among(store, condemned.names, _live(store, held))
    count = 0
    while some := list(islice(names, _DELETIONS_PER_LOOK)):
        try:
            if store.objects.get(layout.SWEEPING) != mark:
                raise TryAgainError("the sweep was overtaken by another")
        except ObjectNotFoundError as error:
            raise TryAgainError("the sweep was given up, it took too long") from error
        for name in some:
            store.objects.delete(name)
        count += len(some)
    return count


def _pins(store: SnapshotStore) -> Iterator[tuple[SnapshotId, PinBody]]:
    """The pins of snapshots that are not there yet; those of completed ones are removed.

    So is one that cannot be read: a power cut may leave one that was just renewed so. Its maker,
    should he live, misses it when he commits.
    """
    for name in list(store.objects.list(layout.PINS)):
        if layout.pinning_volume(name) is not None:
            continue
        snapshot_id = SnapshotId(name.removeprefix(layout.PINS))
        if next(store.manifest_names(snapshot_id), None) is not None:
            store.objects.delete(name)
            continue
        what = f"pin of snapshot {snapshot_id}"
        try:
            pin = decode_pin(store.objects.get(name), store.verifier_of, what=what)
        except ObjectNotFoundError:
            continue
        except UnsupportedVersionError:
            raise
        except (FormatError, IntegrityError):
            store.objects.delete(name)
            continue
        yield snapshot_id, pin


def _all_pins(store: SnapshotStore) -> list[PinBody]:
    return [pin for _, pin in (*_pins(store), *lasting_pins(store))]


def _remove_deleted_manifests(store: SnapshotStore) -> None:
    """Finish deletions that were killed between tombstone and manifest."""
    for tombstone in list(store.tombstone_names()):
        for manifest in list(store.manifest_names(tombstone.snapshot_id)):
            store.read_tombstone(tombstone)
            store.objects.delete(manifest.text)


def _garbage(store: SnapshotStore, pins: Iterable[PinBody]) -> Iterator[str]:
    live = _live(store, pins)
    for prefix in (layout.CHUNKS, layout.PAGES):
        # Directory by directory, so that a listing of millions is never held at once.
        for first in range(256):
            names = list(store.objects.list(f"{prefix}{first:02x}/"))
            yield from _garbage_among(store, names, live)


def _garbage_among(
    store: SnapshotStore, names: Iterable[str], live: tuple[LiveDigests, LiveDigests]
) -> Iterator[str]:
    chunks, pages = live
    for prefix, digests, name_of in (
        (layout.CHUNKS, chunks, layout.chunk_name),
        (layout.PAGES, pages, layout.page_name),
    ):
        named = (layout.digest_in_name(name) for name in names if name.startswith(prefix))
        for digest in digests.garbage(digest for digest in named if digest is not None):
            yield name_of(digest)


def _live(store: SnapshotStore, pins: Iterable[PinBody]) -> tuple[LiveDigests, LiveDigests]:
    """What is referred to: chunks, and pages with tables."""
    chunks, pages = LiveDigests(), LiveDigests()
    seen: set[bytes] = set()

    def add(root: bytes, size_bytes: int, where: str) -> None:
        if root == ZERO_DIGEST:
            return
        pages.add(root)
        table = ChunkTable(store, root, size_bytes=size_bytes, where=where)
        pages.add(table.page_digests)
        for number in table.stored_pages():
            if table.page_digest(number) not in seen:
                seen.add(table.page_digest(number))
                chunks.add(table.page(number))

    for snapshot_id in store.snapshot_ids():
        try:
            manifest = store.manifest(snapshot_id)
            add(manifest.root, manifest.size_bytes, f"snapshot {snapshot_id}")
        except SnapshotNotFoundError:
            continue  # deleted just now
        except UnsupportedVersionError:
            raise
        except (FormatError, IntegrityError) as error:
            raise SweepBlockedError(store.objects.location, snapshot_id, str(error)) from error
    for pin in pins:
        for root in pin.roots:
            # A maker who was killed early may have pinned what was gone already.
            with suppress(ChunkMissingError):
                add(root, pin.size_bytes, f"pin of snapshot {pin.snapshot_id}")
    return chunks, pages
