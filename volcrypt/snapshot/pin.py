"""Pin: the hold of a snapshot in the making on what it stands on; see `snapshot.sweep` for why.

The pin lies in the store under the id of the snapshot to be, so it outlives a kill: a copy that
resumes finds it, and knows that what it had stored was kept.
"""

from collections.abc import Callable, Sequence

from volcrypt.errors import ObjectNotFoundError, TryAgainError
from volcrypt.formats.condemned import decode_sweeping
from volcrypt.formats.pin import PinBody, encode_pin
from volcrypt.names import SnapshotId
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
        if self._sweep_is_running():
            if not was_held:
                self.release()
            raise TryAgainError(f"snapshot store {self.store.objects.location} is being swept")
        return was_held

    def renew(self, roots: Sequence[bytes] | None = None, *, size_bytes: int | None = None) -> None:
        """Say that the snapshot is still being made, and what it stands on now."""
        if roots is not None:
            self._roots = list(roots)
            self.size_bytes = size_bytes or self.size_bytes
        self.store.objects.replace(layout.pin_name(self.snapshot_id), self._encode())

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

    def _sweep_is_running(self) -> bool:
        what = "mark of a sweep"
        try:
            data = self.store.objects.get(layout.SWEEPING)
        except ObjectNotFoundError:
            return False
        mark = decode_sweeping(data, self.store.verifier_of, what=what)
        if self._clock() - mark.renewed_at < PIN_LIFETIME_SECONDS:
            return True
        # A dead sweep; should it only have slept, it finds its mark gone and stops.
        self.store.objects.delete(layout.SWEEPING)
        self.store.objects.sync()
        return False
