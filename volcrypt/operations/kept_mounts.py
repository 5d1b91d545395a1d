"""Taking over a mount that outlived the process that served it (`volcrypt.volume.kept_mount`).

What may be different since: nothing of the volume, since its owner lock was kept, too. What may
have been decided since: that it must not be served here any more, by a fence or by the next holder
of its lease. Then the mount is lost, for good: what the file system above still has in memory must
not be written under somebody else's.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from volcrypt.errors import LostMountError
from volcrypt.formats.volume_record import VolumeRecord
from volcrypt.names import VolumeId
from volcrypt.operations.home import Home
from volcrypt.operations.leases import check_lease_stayed
from volcrypt.volume.kept_mount import HandedMount
from volcrypt.volume.owner import OwnerLock

_HINT = "detach it, and attach it again"


def check_handed(volume_id: VolumeId, name: str, handed: HandedMount) -> None:
    """Raises LostMountError."""
    if handed.mount.volume_id != volume_id:
        raise LostMountError(
            f"the mount that was handed on is of volume {handed.mount.volume_id}, not of {name}"
        )
    if handed.fence is not None:
        raise LostMountError(f"volume {name} stays closed: {handed.fence.error()}", hint=_HINT)


def adopted_owner(handed: HandedMount) -> OwnerLock:
    """The owner lock; it stays kept when this process fails."""
    owner = OwnerLock.adopt(os.dup(handed.owner), purpose="mount")
    owner.keep()
    return owner


@contextmanager
def kept_lease(home: Home, record: VolumeRecord, handed: HandedMount) -> Iterator[None]:
    """In place of `serving_lease`: it must be the one under which the mount was made, and stays
    when the block fails. Raises LostMountError, and VolcryptError when that cannot be told now."""
    reason = check_lease_stayed(home, record, handed.mount.lease_epoch)
    if reason is not None:
        raise LostMountError(
            f"volume {record.name or record.volume_id} stays closed: {reason}", hint=_HINT
        )
    yield
