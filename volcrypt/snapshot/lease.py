"""Leases in a store: one host at a time opens a volume whose data several can reach.

    leases/VOLUME/EPOCH              formats.lease: Lease; put if absent, never changed
    leases/VOLUME/EPOCH.released     LeaseRelease, by the same signer

The highest epoch holds, until its release is there. Who takes the lease puts the next number; of
two who try, one is refused by the store. Nothing ends by time: a clock that jumps, a host that
sleeps and a store that is away take the lease from nobody. So a lease whose holder died elsewhere
stays, and only a person knows that he may be overridden (`take` with `take_over`).

A holder asks now and then (`look`). A higher epoch than his, validly signed, is the one thing that
ends his right; a store that does not answer is not. Between the new epoch and his next look he
still writes: whoever takes over waits for that long, or until the old holder's release says that he
has stopped.

Numbers below the last one but one are removed by the next holder. Somebody who listed long ago
could then put an old number that is free again; so every holder looks again after he put his. Who
can write to the store can remove a lease and everything else in it: holders who remember the epoch
that they saw (`known_epoch`) notice that.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from volcrypt.errors import (
    IntegrityError,
    ObjectNotFoundError,
    RollbackError,
    TryAgainError,
    VolumeInUseError,
)
from volcrypt.formats.lease import (
    MAX_EPOCH,
    Lease,
    LeaseRelease,
    decode_lease,
    decode_lease_release,
    encode_lease,
    encode_lease_release,
)
from volcrypt.names import VolumeId
from volcrypt.snapshot import layout
from volcrypt.snapshot.signer import Signer
from volcrypt.snapshot.store import SnapshotStore

KEPT_EPOCHS: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """Who holds leases: a home on a machine."""

    home_id: str
    machine_id: str
    host_name: str


@dataclass(frozen=True, slots=True)
class LeaseState:
    """What a store says of a volume's lease: the highest epoch, None when there never was one."""

    lease: Lease | None
    is_released: bool

    @property
    def holder(self) -> Lease | None:
        """Who has it now."""
        return None if self.is_released else self.lease

    @property
    def epoch(self) -> int:
        return self.lease.epoch if self.lease is not None else 0


class VolumeLease:
    """The lease of one volume in one store, as one host sees it. `label` names the volume in
    errors; `clock` counts seconds since 1970-01-01 UTC."""

    def __init__(
        self,
        store: SnapshotStore,
        volume_id: VolumeId,
        *,
        label: str,
        host: Host,
        signer: Signer,
        clock: Callable[[], int],
    ) -> None:
        self.store = store
        self.volume_id = volume_id
        self._label = label
        self._host = host
        self._signer = signer
        self._clock = clock

    def look(self) -> LeaseState:
        """Raises IntegrityError and FormatError when what is there is not validly signed,
        ObjectStoreError."""
        while True:
            epochs, released = self._listed()
            if not epochs:
                return LeaseState(None, False)
            epoch = max(epochs)
            try:
                lease = self._read(epoch)
            except ObjectNotFoundError:
                continue  # two others had it since we listed, and the second removed it
            return LeaseState(lease, epoch in released and self._is_released(lease))

    def is_ours(self, lease: Lease) -> bool:
        """Whether it is this home's, on this machine."""
        return (
            lease.signer == self._signer.id
            and lease.home_id == self._host.home_id
            and lease.machine_id == self._host.machine_id
        )

    def take(self, *, known_epoch: int = 0, take_over: bool = False) -> tuple[Lease, LeaseState]:
        """Take the lease when it is free, or was this host's own, whose process is gone then (the
        caller holds the volume in its home); from somebody else only with `take_over`.

        The new lease, and what was found; if the new one is `taken_over`, its holder may still be
        writing. Raises VolumeInUseError, TryAgainError when somebody was faster, RollbackError when
        the highest epoch is below `known_epoch`, and what `look` raises.
        """
        found = self.look()
        if found.epoch < known_epoch:
            raise RollbackError(f"lease of volume {self._label}")
        other = found.holder
        if other is not None and self.is_ours(other):
            other = None
        if other is not None and not take_over:
            raise self.in_use(other)
        epoch = found.epoch + 1
        if epoch > MAX_EPOCH:
            raise IntegrityError(f"lease of volume {self._label}: its numbers are used up")
        lease = Lease(
            store_id=self.store.store_id,
            signer=self._signer.id,
            volume_id=self.volume_id,
            epoch=epoch,
            home_id=self._host.home_id,
            machine_id=self._host.machine_id,
            host_name=self._host.host_name,
            taken_over=other is not None,
            taken_at=self._clock(),
        )
        name = layout.lease_name(self.volume_id, epoch)
        data = encode_lease(lease, self._signer.seal)
        objects = self.store.objects
        # False may be the answer to our own first try.
        if not objects.put_if_absent(name, data) and objects.get(name) != data:
            raise self._outrun()
        if self.look() != LeaseState(lease, False):
            raise self._outrun()
        self._remove_old(epoch)
        return lease, found

    def in_use(self, holder: Lease) -> VolumeInUseError:
        """What to tell who may not have it."""
        if holder.machine_id == self._host.machine_id:
            who = f"home {holder.home_id} on this host, by its lease {holder.epoch}"
        else:
            who = f"host {holder.host_name}, by its lease {holder.epoch}"
        return VolumeInUseError(
            self._label,
            who,
            hint=f"detach it there; only if that host is gone or can reach the data no more: "
            f"volcrypt attach {self._label} --take-over",
        )

    def release(self, epoch: int) -> None:
        """Say that this host, if it is the holder of this epoch, writes no more. Durable."""
        try:
            if not self.is_ours(self._read(epoch)):
                return
        except ObjectNotFoundError:
            return  # others had it since, and removed it
        release = LeaseRelease(
            store_id=self.store.store_id,
            signer=self._signer.id,
            volume_id=self.volume_id,
            epoch=epoch,
            released_at=self._clock(),
        )
        name = layout.lease_release_name(self.volume_id, epoch)
        self.store.objects.put_if_absent(name, encode_lease_release(release, self._signer.seal))

    def is_released(self, epoch: int) -> bool:
        """Whether the holder of an epoch, which may not be the highest, says that he stopped."""
        try:
            return self._is_released(self._read(epoch))
        except ObjectNotFoundError:
            return False

    def _outrun(self) -> TryAgainError:
        return TryAgainError(f"somebody else took the lease of volume {self._label} just now")

    def _listed(self) -> tuple[set[int], set[int]]:
        epochs: set[int] = set()
        released: set[int] = set()
        for name in self.store.objects.list(layout.lease_prefix(self.volume_id)):
            found = layout.parse_lease_name(self.volume_id, name)
            if found is not None:
                (released if found.is_release else epochs).add(found.epoch)
        return epochs, released

    def _read(self, epoch: int) -> Lease:
        what = f"lease {epoch} of volume {self.volume_id}"
        data = self.store.objects.get(layout.lease_name(self.volume_id, epoch))
        lease = decode_lease(data, self.store.verifier_of, what=what)
        self._check_named(lease, epoch, what)
        return lease

    def _is_released(self, lease: Lease) -> bool:
        what = f"release of lease {lease.epoch} of volume {self.volume_id}"
        try:
            data = self.store.objects.get(layout.lease_release_name(self.volume_id, lease.epoch))
        except ObjectNotFoundError:
            return False
        release = decode_lease_release(data, self.store.verifier_of, what=what)
        self._check_named(release, lease.epoch, what)
        if release.signer != lease.signer:
            raise IntegrityError(f"{what}: it is not its holder's")
        return True

    def _check_named(self, body: Lease | LeaseRelease, epoch: int, what: str) -> None:
        if (body.store_id, body.volume_id, body.epoch) != (
            self.store.store_id,
            self.volume_id,
            epoch,
        ):
            raise IntegrityError(f"{what}: another one was put in its place")

    def _remove_old(self, epoch: int) -> None:
        epochs, released = self._listed()
        for old in epochs | released:
            if old <= epoch - KEPT_EPOCHS:
                self.store.objects.delete(layout.lease_release_name(self.volume_id, old))
                self.store.objects.delete(layout.lease_name(self.volume_id, old))
