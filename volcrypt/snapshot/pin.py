"""Pin: the hold of a snapshot in the making on what it stands on; see `snapshot.sweep` for why.

The pin lies in the store under the id of the snapshot to be, so it outlives a kill: a copy that
resumes finds it, and knows that what it had stored was kept.

A lasting pin is the hold of a lazy volume on the snapshot that its chunks still come from, or of a
mounted snapshot on its own: under the id of the volume, and there until it is released.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

from volcrypt.errors import ObjectNotFoundError, TryAgainError
from volcrypt.formats.condemned import decode_sweeping
from volcrypt.formats.manifest import Manifest
from volcrypt.formats.pin import PinBody, decode_pin, encode_pin
from volcrypt.names import SnapshotId, VolumeId
from volcrypt.snapshot import layout
from volcrypt.snapshot.signer import Signer
from volcrypt.snapshot.store import SnapshotStore

PIN_LIFETIME_SECONDS = 3600
"""A pin, or the mark of a sweep, that was not renewed for so long belongs to a dead process."""


class Pin:
    """A pin of one snapshot in one store. `clock` counts seconds since 1970-01-01 UTC."""

    def __init__(
        self,
        store: SnapshotStore,
        *,
        snapshot_id: SnapshotId,
        size_bytes: int,
        signer: Signer,
        clock: Callable[[], int],
    ) -> None:
        self.store = store
        self.snapshot_id = snapshot_id
        self.size_bytes = size_bytes
        self._signer = signer
        self._clock = clock
        self._roots: list[bytes] = []

    def hold(self, roots: Sequence[bytes] = (), *, size_bytes: int | None = None) -> bool:
        """Take hold, durably: everything under `roots`, and all that is put from now on, stays.
        `size_bytes`: of the snapshots that the roots are of, where they are smaller.

        True when this snapshot had a pin already. Raises TryAgainError while a sweep of another
        host deletes objects. What `roots` came from must be looked up again after this: a sweep
        may have taken it just before.
        """
        name = layout.pin_name(self.snapshot_id)
        self._roots = list(roots)
        self.size_bytes = size_bytes or self.size_bytes
        was_held = not self.store.objects.put_if_absent(name, self._encode())
        if was_held:
            self.store.objects.replace(name, self._encode())
        # Pin first, look second; a sweep marks first and looks for pins second.
        if _is_swept(self.store, self._clock()):
            if not was_held:
                self.release()
            raise _being_swept(self.store)
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
        self.store.objects.delete(layout.pin_name(self.snapshot_id))

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


def hold_lastingly(
    store: SnapshotStore, volume: VolumeId, manifest: Manifest, *, signer: Signer, now: int
) -> None:
    """Keep the chunks of a snapshot for a volume, durably, also when the snapshot is deleted.

    Raises TryAgainError while a sweep of another host deletes objects. The snapshot must be looked
    up again after this: a sweep may have taken it just before.
    """
    name = layout.lasting_pin_name(volume)
    body = PinBody(
        store_id=store.store_id,
        signer=signer.id,
        snapshot_id=manifest.snapshot_id,
        size_bytes=manifest.size_bytes,
        roots=[manifest.root],
        renewed_at=now,
        lasting=True,
    )
    store.objects.replace(name, encode_pin(body, signer.seal))
    if _is_swept(store, now):
        store.objects.delete(name)
        raise _being_swept(store)


def release_lasting(store: SnapshotStore, volume: VolumeId) -> None:
    """The volume needs the snapshot no more. Again is fine."""
    store.objects.delete(layout.lasting_pin_name(volume))


def lasting_pins(store: SnapshotStore) -> Iterator[tuple[VolumeId, PinBody]]:
    """All of a store. Raises FormatError and IntegrityError."""
    for name in list(store.objects.list(f"{layout.PINS}vol-")):
        if (volume := layout.pinning_volume(name)) is not None:
            with suppress(ObjectNotFoundError):
                what = f"pin of volume {volume}"
                yield volume, decode_pin(store.objects.get(name), store.verifier_of, what=what)


def _being_swept(store: SnapshotStore) -> TryAgainError:
    return TryAgainError(f"snapshot store {store.objects.location} is being swept")


def _is_swept(store: SnapshotStore, now: int) -> bool:
    try:
        data = store.objects.get(layout.SWEEPING)
    except ObjectNotFoundError:
        return False
    mark = decode_sweeping(data, store.verifier_of, what="mark of a sweep")
    if now - mark.renewed_at < PIN_LIFETIME_SECONDS:
        return True
    # A dead sweep; should it only have slept, it finds its mark gone and stops.
    store.objects.delete(layout.SWEEPING)
    store.objects.sync()
    return False
