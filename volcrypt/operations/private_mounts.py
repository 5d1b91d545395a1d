"""A volume that is served for the sake of one command: as it is in use, or, where nobody has it
mounted, at a place of its own where nobody looks.

    RUNTIME/ID.work    where a volume is mounted for this alone
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from volcrypt.errors import TryAgainError, VolcryptError
from volcrypt.formats.volume_record import VolumeRecord
from volcrypt.operations.home import Home
from volcrypt.operations.keys import is_under_customer_key
from volcrypt.operations.mounts import (
    Launch,
    check_free,
    mount_volume,
    socket_path,
    unmount_volume,
)
from volcrypt.operations.workflows import check_may_be_served
from volcrypt.volume.control import ControlClient
from volcrypt.volume.control_messages import StatusAnswer
from volcrypt.volume.owner import current_owner

_SUFFIX = ".work"


def control_of(home: Home, record: VolumeRecord) -> ControlClient:
    """A connection to who serves it. Raises MountError."""
    return ControlClient(
        socket_path(home, record.volume_id), volume=record.name or record.volume_id
    )


@contextmanager
def served(home: Home, record: VolumeRecord, launch: Launch) -> Iterator[StatusAnswer]:
    """A volume that is served: as it is in use, or for this block. Raises as `mount_volume`, and
    TryAgainError for one that is mounted read-only."""
    name = record.name or record.volume_id
    owner = current_owner(home.volumes.path_of(record.volume_id))
    if owner is None:
        check_may_be_served(home, record.volume_id, name)
        point = _private_point(home, record)
        point.mkdir(mode=0o700, exist_ok=True)
        given = list(home.customer_keys)
        if not is_under_customer_key(record.wrapped_key):
            home.customer_keys.clear()  # they are for the target, and not to open this
        try:
            mount_volume(home, record.volume_id, point, read_only=False, launch=launch)
        except BaseException:
            with suppress(OSError):
                point.rmdir()
            raise
        finally:
            home.customer_keys[:] = given
    elif owner.purpose != "mount" or not owner.is_local:
        check_free(home, record.volume_id, name)
    with control_of(home, record) as control:
        status = control.status()
    if status.read_only:
        raise TryAgainError(
            f"volume {name} is mounted read-only", hint=f"volcrypt unmount {name}, and mount it"
        )
    try:
        yield status
    finally:
        if is_private(home, status):
            end_private(home, record)


def is_private(home: Home, status: StatusAnswer) -> bool:
    """Whether it is mounted for a command alone."""
    return status.mount_directory == str(home.runtime / f"{status.volume_id}{_SUFFIX}")


def end_private(home: Home, record: VolumeRecord) -> None:
    """Never fails: what stays is ended by the next command that drives the migration."""
    with suppress(VolcryptError, OSError):
        unmount_volume(home, record.volume_id)
        _private_point(home, record).rmdir()


def _private_point(home: Home, record: VolumeRecord) -> Path:
    return home.runtime / f"{record.volume_id}{_SUFFIX}"
