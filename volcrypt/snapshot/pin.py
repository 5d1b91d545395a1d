"""Pin: the hold of a snapshot in the making on what it stands on; see `snapshot.sweep` for why.

The pin lies in the store under the id of the snapshot to be, so it outlives a kill: a copy that
resumes finds it, and knows that what it had stored was kept. It is two objects:

    pins/SNAPSHOT         what the snapshot stands on, and when that was renewed: replaced at will
    pins/SNAPSHOT.hold    put once, and never again: who takes the pin for dead removes it first

So a pin that was taken for dead, rightly or because somebody's clock was wrong, does not come back
when it is renewed. And a snapshot is committed in three steps, none of which asks a clock:

    maker       1  the pin names the root of what will be committed, as lasting (`snapshot.log`)
                2  is the hold there?   if not, the snapshot failed
                3  the manifest
    sweep       1  the hold is removed
                2  does the pin last?   if so, what it names is kept
                3  manifests are read, and what none of them needs is deleted

Either the maker misses his hold, or the sweep finds the root, however long one of them sleeps in
between. The price: a host that is killed between steps 1 and 3, and never sweeps again itself,
leaves that snapshot's chunks behind.

A lasting pin is also the hold of a lazy volume on the snapshot that its chunks still come from, or
of a mounted snapshot on its own: under the id of the volume, and there until it is released.
"""

import secrets
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress

from volcrypt.errors import (
    FormatError,
    IntegrityError,
    ObjectLostError,
    ObjectNotFoundError,
    UnsupportedVersionError,
)
from volcrypt.formats.certificate import SignerId
from volcrypt.formats.manifest import Manifest
from volcrypt.formats.pin import PinBody, decode_pin, encode_pin
from volcrypt.formats.volume_record import LazySource
from volcrypt.names import SnapshotId, VolumeId
from volcrypt.snapshot import layout
from volcrypt.snapshot.signer import Signer
from volcrypt.snapshot.store import SnapshotStore
from volcrypt.snapshot.sweep_mark import being_swept, is_swept


class Pin:
    """A pin of one snapshot in one store. `clock` counts seconds since 1970-01-01 UTC; `pause`
    waits for so many seconds."""

    def __init__(
        self,
        store: SnapshotStore,
        *,
        snapshot_id: SnapshotId,
        size_bytes: int,
        signer: Signer,
        clock: Callable[[], int],
        pause: Callable[[float], object] = time.sleep,
    ) -> None:
        self.store = store
        self.snapshot_id = snapshot_id
        self.size_bytes = size_bytes
        self._signer = signer
        self._clock = clock
        self._pause = pause
        self._roots: list[bytes] = []

    def hold(self, roots: Sequence[bytes] = (), *, size_bytes: int | None = None) -> bool:
        """Take hold, durably: everything under `roots`, and all that is put from now on, stays.
        `size_bytes`: of the snapshots that the roots are of, where they are smaller.

        True when this snapshot had a pin already: then nothing that was put under it was swept, and
        what it names is kept, instead of `roots`, until `renew` says what is needed now.
        Raises TryAgainError while a sweep of another host deletes objects; one that seems dead is
        watched for some minutes. What `roots` came from must be looked up again after this: a sweep
        may have taken it just before.
        """
        before = self._read()
        self._roots = list(roots) if before is None else before.roots
        self.size_bytes = (size_bytes or self.size_bytes) if before is None else before.size_bytes
        name, data = layout.pin_name(self.snapshot_id), self._encode()
        if not self.store.objects.put_if_absent(name, data):
            self.store.objects.replace(name, data)
        was_held = self._put_hold() and before is not None
        # Pin first, look second; a sweep marks first and looks for pins second.
        try:
            swept = is_swept(self.store, now=self._clock(), pause=self._pause)
        except BaseException:
            if not was_held:
                self.release()
            raise
        if swept:
            if not was_held:
                self.release()
            raise being_swept(self.store)
        return was_held

    def renew(
        self,
        roots: Sequence[bytes] | None = None,
        *,
        size_bytes: int | None = None,
        batched: bool = False,
    ) -> None:
        """Say that the snapshot is still being made, and what it stands on now; with `batched`
        durable with the store's next sync."""
        if roots is not None:
            self._roots = list(roots)
            self.size_bytes = size_bytes or self.size_bytes
        name = layout.pin_name(self.snapshot_id)
        self.store.objects.replace(name, self._encode(), batched=batched)

    def release(self) -> None:
        """Give up the hold: the snapshot was committed, or will not be."""
        release_pin(self.store, self.snapshot_id)

    def _read(self) -> PinBody | None:
        """The pin that an earlier attempt left, if it is of use."""
        try:
            return _decoded(self.store, self.snapshot_id)
        except UnsupportedVersionError:
            raise
        except (ObjectNotFoundError, FormatError, IntegrityError):
            # Without it a sweep did not know what to keep.
            self.store.objects.delete(layout.hold_name(self.snapshot_id))
            return None

    def _put_hold(self) -> bool:
        """Whether it was there."""
        name = layout.hold_name(self.snapshot_id)
        # Of its own for each try: False may be the answer to an earlier one, and not to be trusted.
        data = secrets.token_hex(16).encode()
        while not self.store.objects.put_if_absent(name, data):
            with suppress(ObjectNotFoundError):
                return self.store.objects.get(name) != data
        return False

    def _encode(self) -> bytes:
        body = PinBody(
            store_id=self.store.store_id,
            signer=self._signer.id,
            snapshot_id=self.snapshot_id,
            size_bytes=self.size_bytes,
            roots=self._roots,
            renewed_at=self._clock(),
        )
        return encode_pin(body, self._signer.seal)


def release_pin(store: SnapshotStore, snapshot_id: SnapshotId) -> None:
    """Remove the pin of a snapshot that nobody is making. Again is fine."""
    # In this order: a pin that lasts must not be left alone by a kill.
    store.objects.delete(layout.pin_name(snapshot_id))
    store.objects.delete(layout.hold_name(snapshot_id))


# ---------------------------------------------------------------- as a sweep sees them


def unfinished_pins(store: SnapshotStore) -> Iterator[tuple[SnapshotId, PinBody]]:
    """The pins of snapshots that are not there yet; those of completed ones are removed.

    So is one that cannot be read: a power cut may leave one that was just renewed so. Its maker,
    should he live, misses his hold when he commits.
    """
    names = list(store.objects.list(layout.PINS))
    ids = {layout.pinned_snapshot(name) for name in names} - {None}
    for snapshot_id in sorted(each for each in ids if each is not None):
        if (
            next(store.manifest_names(snapshot_id), None) is not None
            # Deleted again, before its maker had released the pin.
            or next(store.tombstone_names(snapshot_id), None) is not None
        ):
            release_pin(store, snapshot_id)
            continue
        try:
            pin = _decoded(store, snapshot_id)
        except UnsupportedVersionError:
            raise
        except (ObjectNotFoundError, FormatError, IntegrityError):
            bury_pin(store, snapshot_id)
            continue
        yield snapshot_id, pin


def bury_pin(store: SnapshotStore, snapshot_id: SnapshotId) -> PinBody | None:
    """Take the maker of a snapshot for dead; should he live, he fails. The answer is what has to be
    kept nevertheless: he may be committing it just now."""
    store.objects.delete(layout.hold_name(snapshot_id))
    store.objects.sync()
    try:
        pin = _decoded(store, snapshot_id)
    except UnsupportedVersionError:
        raise
    except (ObjectNotFoundError, FormatError, IntegrityError):
        pin = None
    if pin is not None and pin.lasting:
        return pin
    store.objects.delete(layout.pin_name(snapshot_id))
    return None


def release_own_pins(
    store: SnapshotStore, signer: SignerId, *, but: Collection[SnapshotId]
) -> None:
    """Remove what killed processes of this signer left, when none is at work, `but` for snapshots
    that will be continued. Raises UnsupportedVersionError, ObjectStoreError."""
    for snapshot_id, pin in unfinished_pins(store):
        if pin.signer == signer and snapshot_id not in but:
            release_pin(store, snapshot_id)


def _decoded(store: SnapshotStore, snapshot_id: SnapshotId) -> PinBody:
    data = store.objects.get(layout.pin_name(snapshot_id))
    return decode_pin(data, store.verifier_of, what=f"pin of snapshot {snapshot_id}")


# ---------------------------------------------------------------- lazy volumes


def hold_lastingly(
    store: SnapshotStore,
    volume: VolumeId,
    source: Manifest | LazySource,
    *,
    signer: Signer,
    now: int,
    pause: Callable[[float], object] = time.sleep,
) -> None:
    """Keep the chunks of a snapshot for a volume, durably, also when the snapshot is deleted.

    Raises TryAgainError while a sweep of another host deletes objects, and ObjectLostError. The
    snapshot must be looked up again after this: a sweep may have taken it just before.
    """
    name = layout.lasting_pin_name(volume)
    body = PinBody(
        store_id=store.store_id,
        signer=signer.id,
        snapshot_id=source.snapshot_id,
        size_bytes=source.size_bytes,
        roots=[source.root],
        renewed_at=now,
        lasting=True,
    )
    data = encode_pin(body, signer.seal)
    store.objects.replace(name, data)
    # Nobody asks for it again before its chunks are gone.
    try:
        found = store.objects.get(name)
    except ObjectNotFoundError as error:
        raise ObjectLostError(store.objects.location, name, None) from error
    if found != data:
        raise ObjectLostError(store.objects.location, name, len(found))
    if is_swept(store, now=now, pause=pause):
        store.objects.delete(name)
        raise being_swept(store)


def is_held_lastingly(store: SnapshotStore, volume: VolumeId, source: LazySource) -> bool:
    """Whether the chunks are kept for the volume: its pin is there, and says so. Raises
    UnsupportedVersionError and ObjectStoreError."""
    try:
        data = store.objects.get(layout.lasting_pin_name(volume))
        pin = decode_pin(data, store.verifier_of, what=f"pin of volume {volume}")
    except UnsupportedVersionError:
        raise
    except (ObjectNotFoundError, FormatError, IntegrityError):
        return False
    return pin.lasting and source.root in pin.roots


def release_lasting(store: SnapshotStore, volume: VolumeId) -> None:
    """The volume needs the snapshot no more. Again is fine."""
    store.objects.delete(layout.lasting_pin_name(volume))


def lasting_pins(store: SnapshotStore) -> Iterator[tuple[VolumeId, PinBody]]:
    """All of lazy volumes. Raises FormatError and IntegrityError."""
    for name in list(store.objects.list(f"{layout.PINS}vol-")):
        if (volume := layout.pinning_volume(name)) is not None:
            with suppress(ObjectNotFoundError):
                what = f"pin of volume {volume}"
                yield volume, decode_pin(store.objects.get(name), store.verifier_of, what=what)
