"""The lease of a volume that several hosts can reach: held by whoever uses its data in this home.

A volume whose record names a store has its lease there (`snapshot.lease`). It is taken after the
volume's owner lock, which decides between processes of one home, and given back before that:

    a command that reads or writes the data      for as long as it does (`held_volume`)
    mount, attach                                until unmount, detach; in between the process that
                                                 serves asks whether it still has it (`lease_loss`)

`volumes/ID/lease` says, from before the lease is taken until after its release, that this home
may have it. Closing a volume must not need the token's PIN, so where that cannot be had the next
command that has it gives the lease back (`release_abandoned_leases`), as it does for killed
processes. Until then another host needs `--take-over`.

The register keeps the highest epoch that this home saw: an older lease that is put in its place is
a rollback.
"""

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from volcrypt.durable import remove_durably, write_durably
from volcrypt.errors import (
    InvalidArgumentError,
    RollbackError,
    TryAgainError,
    VolcryptError,
    VolumeInUseError,
)
from volcrypt.formats.lease import Lease
from volcrypt.formats.volume_record import VolumeRecord
from volcrypt.kms.clock import host_time
from volcrypt.kms.register import RegisterEntry
from volcrypt.names import StoreId, VolumeId
from volcrypt.operations.home import Home
from volcrypt.operations.keys import data_key_id, unwrap_key
from volcrypt.operations.migrations import check_not_elsewhere, settle_rename
from volcrypt.operations.records import data_path, load_record
from volcrypt.operations.stores import (
    LOCAL_STORE,
    check_may_sign,
    home_signer,
    open_store,
    store_of,
)
from volcrypt.snapshot.lease import Host, VolumeLease
from volcrypt.volume.datafile import DataFile
from volcrypt.volume.lease_time import TRUST_SECONDS
from volcrypt.volume.mountpoint import check_not_served
from volcrypt.volume.owner import current_owner, hold_volume, machine_id

LEASE_FILE: Final = "lease"
KIND: Final = "lease"
LOOK_SECONDS: Final = 20
"""So often a process that serves looks whether it still has its lease."""
TAKE_OVER_SECONDS: Final = 1.5 * TRUST_SECONDS
"""So long after it was overridden a holder has stopped, whatever it could ask: it writes for
`TRUST_SECONDS` after it last saw the lease, and has the rest of this to end what is under way and
to sync it."""
_STEP_SECONDS: Final = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class TakenOver:
    """A lease that was somebody else's. `stopped`: he said that he writes no more."""

    lease: Lease
    stopped: bool


@contextmanager
def held_volume(home: Home, record: VolumeRecord, *, purpose: str) -> Iterator[None]:
    """Own a volume that nobody has mounted, on this host and, where several see it, among them.

    Raises VolumeInUseError, TryAgainError, StoreNotFoundError, ObjectStoreError.
    """
    directory = home.volumes.path_of(record.volume_id)
    with hold_volume(directory, purpose=purpose), _taken_lease(home, record) as lease:
        settle_rename(home, record.volume_id)
        current = load_record(home, record.volume_id)
        if data_key_id(current.wrapped_key) != data_key_id(record.wrapped_key):
            raise TryAgainError(
                f"volume {record.name or record.volume_id} was just encrypted under a new data key"
            )
        check_not_elsewhere(home, current)
        yield
        if lease is not None:
            _try_to_give_back(home, record, lease)


@contextmanager
def serving_lease(home: Home, record: VolumeRecord) -> Iterator[None]:
    """Take the lease for a process that is about to serve the volume; the caller has the owner
    lock. Given back when the block fails, and kept otherwise. Raises as `held_volume`."""
    with _taken_lease(home, record):
        yield


def check_lease_stayed(home: Home, record: VolumeRecord, epoch: int | None) -> str | None:
    """Why a mount that was made under lease `epoch` must not be gone on with: somebody else may
    have written since. None when it may; nothing is taken or given back. Raises as `lease_loss`."""
    if record.lease is None:
        return None
    found = _lease_of(home, record).look()
    if found.epoch == epoch and found.holder is not None:
        return None
    return lease_loss(home, record.volume_id) or "its lease was given back since"


def known_epoch(home: Home, record: VolumeRecord) -> int | None:
    """Of the lease that the caller has just taken; None for a volume without."""
    return None if record.lease is None else _known_epoch(home, record.volume_id)


@contextmanager
def _taken_lease(home: Home, record: VolumeRecord) -> Iterator[VolumeLease | None]:
    """The lease, for a volume that has one; given back when the block fails."""
    if record.lease is None:
        _forget_changes(home, record)
        yield None
        return
    lease = _lease_of(home, record)
    _take(home, record, lease)
    try:
        yield lease
    except BaseException:
        _try_to_give_back(home, record, lease)
        raise


def _try_to_give_back(home: Home, record: VolumeRecord, lease: VolumeLease) -> None:
    # Somebody who does not get it sees a lease that needs --take-over, and no wrong data.
    with suppress(VolcryptError, OSError):
        _give_back(home, record.volume_id, lease)


def take_over_lease(
    home: Home, volume: str, *, sleep: Callable[[float], None] = time.sleep
) -> TakenOver | None:
    """Make the lease of a volume this host's, whoever has it; None when nobody else had it.

    Waits until who had it says that he has stopped, or must have noticed. What is to be done with
    the volume comes after this; if nothing is, the lease is given back as an abandoned one. Raises
    InvalidArgumentError for a volume without a lease, VolumeInUseError when it is in use here,
    KmsError, ObjectStoreError.
    """
    record = load_record(home, volume)
    if record.lease is None:
        raise InvalidArgumentError(f"volume {volume} has no lease that could be taken over")
    with hold_volume(home.volumes.path_of(record.volume_id), purpose="take over"):
        if record.wrapped_key is not None:
            unwrap_key(home, record.wrapped_key).wipe()  # nobody is stopped for a key problem
        lease = _lease_of(home, record)
        other = _take(home, record, lease, take_over=True)
        return None if other is None else _wait_for(lease, other, sleep)


def check_not_used_here(home: Home, volume: str) -> None:
    """Raises VolumeInUseError when another home of this very host uses the volume: its lease could
    be taken over, and the data not be had, or not be mounted."""
    record = load_record(home, volume)
    check_not_served(record.volume_id, name=volume)
    try:
        DataFile.open(data_path(home, record), record.size_bytes).close()
    except VolumeInUseError as error:
        raise VolumeInUseError(
            volume, error.holder, hint="detach or unmount it there: it is on this host"
        ) from error


def lease_loss(home: Home, volume_id: VolumeId) -> str | None:
    """For whoever watches over a volume that is served: who has its lease instead of this home;
    None while it has it, and for a volume without.

    Raises VolcryptError when that cannot be told now, which is no loss.
    """
    record = load_record(home, volume_id)
    if record.lease is None:
        return None
    lease = _lease_of(home, record)
    found = lease.look()
    if found.lease is None or found.epoch < _known_epoch(home, volume_id):
        raise RollbackError(f"lease of volume {_label(record)}")
    if lease.is_ours(found.lease):
        return None
    return f"host {found.lease.host_name} has taken it over, by lease {found.epoch}"


def confirm_stopped(home: Home, volume_id: VolumeId) -> None:
    """Tell who has taken over the lease of a volume that it is not written to here any more; the
    process that serves it, in whose place this is asked, has been fenced. Raises VolcryptError."""
    record = load_record(home, volume_id)
    if record.lease is not None:
        _lease_of(home, record).release(_known_epoch(home, volume_id))


def release_lease(home: Home, volume_id: VolumeId) -> None:
    """Give back the lease of a volume that is no more served, if that takes no PIN from a person
    and nobody uses it. Never fails: what stays is ended by a later command."""
    with suppress(VolcryptError, OSError):
        if not _note_path(home, volume_id).exists() or not home.opens_quietly:
            return
        with hold_volume(home.volumes.path_of(volume_id), purpose="unmount"):
            record = load_record(home, volume_id)
            if record.lease is None:
                remove_durably(_note_path(home, volume_id))
            else:
                _give_back(home, volume_id, _lease_of(home, record))


def release_abandoned_leases(home: Home) -> None:
    """Give back the leases of processes that were killed, or were stopped without the KMS."""
    for path in sorted(home.volumes.path.glob(f"vol-*/{LEASE_FILE}")):
        with suppress(VolcryptError):
            if current_owner(path.parent) is None:
                release_lease(home, VolumeId(path.parent.name))


def lease_store(home: Home, name: str) -> StoreId:
    """The store in which the leases of a new volume are to lie.

    Raises InvalidArgumentError for the home's own, StoreAccessError when this home may not write
    there, and as `open_store`.
    """
    if name == LOCAL_STORE:
        raise InvalidArgumentError(
            "no other host can see the store 'local'",
            hint="make one with 'volcrypt store create NAME --url s3://BUCKET/PREFIX'",
        )
    store = open_store(home, name)
    check_may_sign(home, store)
    return store.store_id


def _lease_of(home: Home, record: VolumeRecord) -> VolumeLease:
    assert record.lease is not None, "internal error: the volume needs no lease"
    store = store_of(home, record.lease)
    return VolumeLease(
        store,
        record.volume_id,
        label=_label(record),
        host=Host(home_id=home.home_id, machine_id=machine_id(), host_name=os.uname().nodename),
        signer=home_signer(home),
        clock=lambda: int(host_time()),
    )


def _take(
    home: Home, record: VolumeRecord, lease: VolumeLease, *, take_over: bool = False
) -> Lease | None:
    """Who had it until now, if that was somebody else."""
    check_may_sign(home, lease.store)
    note = _note_path(home, record.volume_id)
    was_noted = note.exists()
    write_durably(note, lease.store.store_id.encode())
    try:
        taken, before = lease.take(
            known_epoch=_known_epoch(home, record.volume_id), take_over=take_over
        )
    except VolumeInUseError:
        if not was_noted:
            remove_durably(note)
        raise
    if before.holder is None or not lease.is_ours(before.holder):
        _forget_changes(home, record)
    entry = RegisterEntry(
        kind=KIND,
        id=record.volume_id,
        name=None,
        counter=taken.epoch,
        digest=hashlib.sha256(repr(taken).encode()).digest(),
    )
    home.register.apply(put=[entry])
    return before.holder if taken.taken_over else None


def _forget_changes(home: Home, record: VolumeRecord) -> None:
    """Another home may have written to data outside of this one since: of what a killed process
    knew to have changed nothing may be believed. (The clean copy of a change map is believed only
    for a file with the size and time that it had.)"""
    if record.data_path is not None:
        home.live_map_path(record.volume_id).unlink(missing_ok=True)


def _give_back(home: Home, volume_id: VolumeId, lease: VolumeLease) -> None:
    # Also the one that somebody has taken over: he waits to hear that we have stopped. The register
    # does not know of one that was taken in the moment of a kill.
    for epoch in {_known_epoch(home, volume_id), lease.look().epoch} - {0}:
        lease.release(epoch)
    remove_durably(_note_path(home, volume_id))


def _wait_for(lease: VolumeLease, other: Lease, sleep: Callable[[float], None]) -> TakenOver:
    waited = 0.0
    while waited < TAKE_OVER_SECONDS:
        if lease.is_released(other.epoch):
            return TakenOver(lease=other, stopped=True)
        sleep(_STEP_SECONDS)
        waited += _STEP_SECONDS
    return TakenOver(lease=other, stopped=False)


def _known_epoch(home: Home, volume_id: VolumeId) -> int:
    entry = home.register.get(KIND, volume_id)
    return 0 if entry is None else entry.counter


def _note_path(home: Home, volume_id: VolumeId) -> Path:
    return home.volumes.path_of(volume_id) / LEASE_FILE


def _label(record: VolumeRecord) -> str:
    return record.name or record.volume_id
