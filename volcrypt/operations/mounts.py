"""Mount and unmount: hand a data key to a process that serves, and end that process again."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from volcrypt.crypto.data_key import DataKey
from volcrypt.errors import InvalidArgumentError, MountError, TryAgainError, VolumeInUseError
from volcrypt.names import VolumeId
from volcrypt.operations import workflows
from volcrypt.operations.home import Home
from volcrypt.operations.keys import check_source_key
from volcrypt.operations.leases import release_lease, serving_lease
from volcrypt.operations.mount_grants import retire_grant, serving_key
from volcrypt.operations.record_copies import record_copies
from volcrypt.operations.records import data_path, find_entry, load_record
from volcrypt.operations.watching import Watching, watch_order
from volcrypt.operations.write_budget import count_path
from volcrypt.volume.control import ControlClient, StatusAnswer
from volcrypt.volume.datafile import DataFile
from volcrypt.volume.launch import Assignment
from volcrypt.volume.mountpoint import (
    FS_TYPE,
    VOLUME_FILE,
    Mount,
    check_mount_point,
    mount_at,
    mounts,
    remove_dead_mount,
)
from volcrypt.volume.owner import OwnerLock, current_owner, hold_volume

Launch = Callable[[Assignment, DataKey | None, bytearray, OwnerLock], int]
"""`spawn_daemon`, or `exec_daemon`, which does not return; gives the pid of who serves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mounted:
    """A volume that is served."""

    volume_id: VolumeId
    mount_point: Path
    pid: int

    @property
    def file(self) -> Path:
        """The volume's plaintext."""
        return self.mount_point / VOLUME_FILE


def socket_path(home: Home, volume_id: VolumeId) -> Path:
    """The control socket of the process that serves a volume."""
    return home.runtime / f"{volume_id}.sock"


def live_map_path(home: Home, volume_id: VolumeId) -> Path:
    """The change map of an open volume, on tmpfs."""
    return home.live_map_path(volume_id)


def mount_volume(
    home: Home,
    volume: str,
    directory: Path,
    *,
    read_only: bool,
    launch: Launch,
    watching: Watching | None = None,
) -> Mounted:
    """Serve a volume as `directory/volume`; returns when the first read has worked. With `watching`
    it is fenced when its key is lost.

    What can be refused without the key is refused before the KMS is asked. Raises MountError,
    VolumeInUseError, KmsError, IntegrityError, ComponentMissingError; leaves nothing behind.
    """
    try:
        os.fsencode(directory).decode()
    except UnicodeDecodeError as error:
        raise InvalidArgumentError(f"mount point {directory!r} is not UTF-8") from error
    volume_id = VolumeId(find_entry(home, volume).id)
    check_free(home, volume_id, volume)
    directory = check_mount_point(directory)
    with hold_volume(home.volumes.path_of(volume_id), purpose="mount") as owner:
        # Only now nothing can happen to the volume any more: an encryption begun or finished since
        # would have taken name or data away.
        record = load_record(home, volume)
        if record.volume_id != volume_id:
            raise TryAgainError(f"volume {volume} was just replaced")
        workflows.check_none_running(home, volume_id, volume)
        check_source_key(home, record.wrapped_key, f"volume {volume}")
        DataFile.open(data_path(home, record), record.size_bytes, read_only=True).close()
        assignment = Assignment(
            volume_id=volume_id,
            name=record.name,
            size_bytes=record.size_bytes,
            data_path=str(data_path(home, record)),
            read_only=read_only,
            has_data_key=record.is_encrypted,
            volume_directory=str(home.volumes.path_of(volume_id)),
            mount_directory=str(directory),
            live_map_path=str(live_map_path(home, volume_id)),
            socket_path=str(socket_path(home, volume_id)),
            log_path=str(home.runtime / f"{volume_id}.log"),
            exported=record.exported_at is not None,
            count_path=str(count_path(home, record.wrapped_key)) if record.wrapped_key else None,
            watch=None if watching is None else watch_order(home, record, watching),
        )
        seal_key = home.change_map_key(volume_id)
        with serving_lease(home, record), serving_key(home, record) as data_key:
            with record_copies(home, record, data_key) as copies:
                copies.refresh(record)
            pid = launch(assignment, data_key, seal_key, owner)
        owner.let_go()
    return Mounted(volume_id=volume_id, mount_point=directory, pid=pid)


def check_free(home: Home, volume_id: VolumeId, name: str) -> None:
    """Raises VolumeInUseError, with the way to end it, when somebody holds the volume."""
    owner = current_owner(home.volumes.path_of(volume_id))
    if owner is None:
        return
    hint = None
    if owner.is_local and owner.purpose == "mount":
        verb = "detach" if (home.runtime / f"{volume_id}.mnt").exists() else "unmount"
        hint = f"volcrypt {verb} {name}"
    raise VolumeInUseError(name, str(owner), hint=hint)


def served_volumes(home: Home) -> list[StatusAnswer]:
    """What the processes that serve volumes of this home say of themselves; asks no KMS, so that
    a volume can be closed without the token's PIN."""
    found = []
    for path in sorted(home.runtime.glob("vol-*.sock")):
        try:
            with ControlClient(path, volume=path.stem) as control:
                found.append(control.status())
        except (MountError, TryAgainError):
            continue  # it was killed, ends just now, or hangs
    return found


def find_served(home: Home, target: str) -> StatusAnswer | None:
    """The volume that is served under this id, name or mount point."""
    point = str(_canonical(target))
    for served in served_volumes(home):
        if target in (served.volume_id, served.name) or point == served.mount_directory:
            return served
    return None


def _canonical(target: str) -> Path:
    """A mount point without symlinks above it; the last component may be a dead mount, which
    nothing but its name can be asked of."""
    path = Path(target).absolute()
    if path.is_symlink():
        path = Path(os.path.realpath(path))
    return Path(os.path.realpath(path.parent)) / path.name


def unmount_volume(home: Home, target: str) -> VolumeId:
    """End the mount of a volume, given by name or id, or at a directory.

    A mount whose process is gone is removed. Raises VolumeInUseError with who uses it, MountError.
    """
    served = find_served(home, target)
    if served is not None:
        with ControlClient(socket_path(home, served.volume_id), volume=target) as control:
            control.unmount()
        retire_grant(home, served.volume_id)
        release_lease(home, served.volume_id)
        return served.volume_id
    mount = mount_at(_canonical(target))
    if mount is not None and mount.fs_type != FS_TYPE:
        raise MountError(f"what is mounted on {target} is not a volume")
    if mount is None and "/" in target:
        raise MountError(f"no volume is mounted on {target}")
    record = load_record(home, mount.source if mount is not None else target)
    dead = [found for found in mounts() if is_mount_of(found, record.volume_id)]
    if not dead:
        raise MountError(f"volume {target} is not mounted")
    for found in dead:
        remove_dead_mount(Path(found.mount_point))
    retire_grant(home, record.volume_id)
    release_lease(home, record.volume_id)
    return record.volume_id


def is_mount_of(mount: Mount, volume_id: VolumeId) -> bool:
    return mount.fs_type == FS_TYPE and mount.source == volume_id
