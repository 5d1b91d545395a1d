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
- A pin that was not renewed for an hour is taken for dead and buried; its maker, should he live,
  fails, or is found committing and what he needs is kept (`snapshot.pin`): clocks that differ or
  jump cost him his snapshot, and never one that was committed.
- A mark that old is watched, and removed when it does not change; its sweep, should it live, stops
  before its next deletion (`snapshot.sweep_mark`). Here it is time that decides, though no clock
  that anybody sets: a deletion that a sweep began must not take longer than minutes.

Deleting twice is harmless, so a sweep that was killed is simply run again.
"""

import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final

from volcrypt.errors import ObjectNotFoundError, TryAgainError
from volcrypt.formats.condemned import (
    MAX_NAMES,
    CondemnedList,
    decode_condemned,
    encode_condemned,
)
from volcrypt.formats.pin import PinBody
from volcrypt.names import SnapshotId, VolumeId
from volcrypt.snapshot import layout
from volcrypt.snapshot.garbage import (
    find_live,
    garbage,
    garbage_among,
    remove_deleted_manifests,
)
from volcrypt.snapshot.pin import (
    bury_pin,
    lasting_pins,
    release_lasting,
    release_own_pins,
    unfinished_pins,
)
from volcrypt.snapshot.read_ahead import read_ahead, readers
from volcrypt.snapshot.signer import Signer
from volcrypt.snapshot.store import SnapshotStore
from volcrypt.snapshot.sweep_mark import HeldMark, is_recent, steady_seconds

_DELETIONS_PER_LOOK: Final = 256
_DELETIONS_AT_ONCE: Final = 16


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
    remove_deleted_manifests(store)
    for name in list(store.objects.list(layout.PINS)):
        # Junk under the name of a pin is a leftover like any other.
        if (
            layout.pinned_snapshot(name) not in resumable
            and layout.pinning_volume(name) not in lazy
        ):
            store.objects.delete(name)
    count = _delete_all(store, garbage(store, find_live(store, _all_pins(store))))
    for name in [*store.objects.list(layout.CONDEMNED), layout.SWEEPING]:
        store.objects.delete(name)
    store.objects.sync()
    return Swept(count)


def _delete_all(store: SnapshotStore, names: Iterator[str]) -> int:
    """Delete so many at once as the store likes: a file system that discards at once has each
    deletion wait for the device."""

    def delete(some: list[str]) -> int:
        for name in some:
            store.objects.delete(name)
        return len(some)

    parts = iter(lambda: list(islice(names, _DELETIONS_AT_ONCE)), [])
    in_flight = store.objects.in_flight
    with readers(in_flight) as pool:
        begun = read_ahead(pool, delete, parts, count=in_flight)
        return sum(deleted.result() for _, deleted in begun)


def sweep_shared(
    store: SnapshotStore,
    signer: Signer,
    *,
    resumable: Collection[SnapshotId],
    lazy: Collection[VolumeId],
    clock: Callable[[], int],
    steady: Callable[[], float] = steady_seconds,
    pause: Callable[[float], object] = time.sleep,
) -> Swept:
    """Delete all garbage in both phases, for a caller who keeps everything else that this signer
    does in the store from going on meanwhile. Of its own pins those stay that are named, as with
    `sweep`. Raises as `delete_condemned`, of which the arguments are.
    """
    release_own_pins(store, signer.id, but=resumable)
    for volume_id, pin in lasting_pins(store):
        if pin.signer == signer.id and volume_id not in lazy:
            release_lasting(store, volume_id)
    try:
        condemn(store, signer)
        return delete_condemned(store, signer, clock=clock, steady=steady, pause=pause)
    except ObjectNotFoundError as error:
        raise TryAgainError(
            f"another home is sweeping {store.objects.location} at the same time"
        ) from error


def condemn(store: SnapshotStore, signer: Signer) -> int:
    """First phase: write down what is garbage now; answers how many objects.

    Replaces the lists of an earlier sweep. Raises SweepBlockedError, FormatError, IntegrityError,
    ObjectStoreError.
    """
    for name in list(store.objects.list(layout.CONDEMNED)):
        store.objects.delete(name)
    found = garbage(store, find_live(store, _all_pins(store)))
    count = 0
    for number in range(1_000_000_000):
        names = list(islice(found, MAX_NAMES))
        if not names:
            break
        body = CondemnedList(store_id=store.store_id, signer=signer.id, names=names)
        data = encode_condemned(body, signer.seal)
        store.objects.replace(layout.condemned_name(number), data)
        count += len(names)
    store.objects.sync()
    return count


def delete_condemned(
    store: SnapshotStore,
    signer: Signer,
    *,
    clock: Callable[[], int],
    steady: Callable[[], float] = steady_seconds,
    pause: Callable[[float], object] = time.sleep,
) -> Swept:
    """Second phase: delete what was condemned and is still garbage. Durable on return.

    `clock` counts seconds since 1970-01-01 UTC, `steady` from any moment on, and is never set;
    `pause` waits for so many. The caller keeps sweeps of one signer apart. Raises TryAgainError
    when a snapshot is in the making or another sweep at work, SweepBlockedError, FormatError,
    IntegrityError, ObjectStoreError.
    """
    mark = HeldMark(store, signer, clock=clock, steady=steady)
    mark.take(pause)
    try:
        unfinished = list(unfinished_pins(store))
        for snapshot_id, pin in unfinished:
            if is_recent(pin.renewed_at, clock()):
                raise TryAgainError(f"snapshot {snapshot_id} is being made")
        mark.check()
        buried = [bury_pin(store, snapshot_id) for snapshot_id, _ in unfinished]
        kept = [pin for pin in buried if pin is not None]
        store.objects.sync()
        remove_deleted_manifests(store, tick=mark.tick)
        count = 0
        for list_name in list(store.objects.list(layout.CONDEMNED)):
            count += _delete_list(store, list_name, mark, kept)
            store.objects.delete(list_name)
    finally:
        mark.release()
    return Swept(count)


def _delete_list(
    store: SnapshotStore, list_name: str, mark: HeldMark, kept: Collection[PinBody]
) -> int:
    mark.tick()
    condemned = decode_condemned(
        store.objects.get(list_name), store.verifier_of, what=f"sweep list {list_name}"
    )
    held = [*kept, *(pin for _, pin in lasting_pins(store))]
    names = garbage_among(condemned.names, find_live(store, held, tick=mark.tick))
    count = 0
    while some := list(islice(names, _DELETIONS_PER_LOOK)):
        mark.check()
        for name in some:
            mark.tick()
            store.objects.delete(name)
        count += len(some)
    return count


def _all_pins(store: SnapshotStore) -> list[PinBody]:
    return [pin for _, pin in (*unfinished_pins(store), *lasting_pins(store))]
