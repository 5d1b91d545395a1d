"""Mount and unmount: hand a data key to a process that serves, and end that process again."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from volcrypt.confinement import forbid_dumps, lock_memory
from volcrypt.crypto.data_key import DataKey
from volcrypt.errors import MountError, VolumeInUseError
from volcrypt.formats.volume_record import VolumeRecord
from volcrypt.names import VolumeId
from volcrypt.operations import workflows
from volcrypt.operations.home import Home
from volcrypt.operations.keys import unwrap_key
from volcrypt.operations.records import load_record
from volcrypt.volume.control import ControlClient
from volcrypt.volume.datafile import DataFile
from volcrypt.volume.launch import Assignment
from volcrypt.volume.mountpoint import (
    VOLUME_FILE,
    check_mount_point,
    mount_at,
    remove_dead_mount,
)
from volcrypt.volume.owner import current_owner

Launch = Callable[[Assignment, DataKey | None, bytearray], int]
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
    return home.runtime / f"{volume_id}.map"


def mount_volume(
    home: Home, volume: str, directory: Path, *, read_only: bool, launch: Launch
) -> Mounted:
    """Serve a volume as `directory/volume`; returns when the first read has worked.

    What can be refused without the key is refused before the KMS is asked. Raises MountError,
    VolumeInUseError, KmsError, IntegrityError, ComponentMissingError; leaves nothing behind.
    """
    record = load_record(home, volume)
    workflows.check_none_running(home, record)
    check_free(home, record)
    directory = check_mount_point(directory)
    DataFile.open(Path(record.data_path), record.size_bytes, read_only=True).close()
    assignment = Assignment(
        volume_id=record.volume_id,
        name=record.name,
        size_bytes=record.size_bytes,
        data_path=record.data_path,
        read_only=read_only,
        has_data_key=record.is_encrypted,
        volume_directory=str(home.volumes.path_of(record.volume_id)),
        mount_directory=str(directory),
        live_map_path=str(live_map_path(home, record.volume_id)),
        socket_path=str(socket_path(home, record.volume_id)),
        log_path=str(home.runtime / f"{record.volume_id}.log"),
    )
    seal_key = home.change_map_key(record.volume_id)
    if record.wrapped_key is None:
        pid = launch(assignment, None, seal_key)
    else:
        forbid_dumps()
        lock_memory()
        with unwrap_key(home, record.wrapped_key) as data_key:
            pid = launch(assignment, data_key, seal_key)
    return Mounted(volume_id=record.volume_id, mount_point=directory, pid=pid)


def check_free(home: Home, record: VolumeRecord) -> None:
    """Raises VolumeInUseError, with the way to end it, when somebody holds the volume."""
    owner = current_owner(home.volumes.path_of(record.volume_id))
    if owner is None:
        return
    name = record.name or record.volume_id
    hint = None
    if owner.is_local and owner.purpose == "mount":
        verb = "detach" if (home.runtime / f"{record.volume_id}.mnt").exists() else "unmount"
        hint = f"volcrypt {verb} {name}"
    raise VolumeInUseError(name, str(owner), hint=hint)


def unmount_volume(home: Home, target: str) -> VolumeId:
    """End the mount of a volume, given by name or id, or at a directory.

    Raises TryAgainError with who uses it, MountError. A mount whose process is gone is removed.
    """
    point = Path(target).absolute()
    mount = mount_at(point) if "/" in target or point.exists() else None
    record = load_record(home, mount.source if mount is not None else target)
    try:
        with ControlClient(socket_path(home, record.volume_id), volume=target) as control:
            control.unmount()
    except MountError:
        if mount is None or current_owner(home.volumes.path_of(record.volume_id)) is not None:
            raise
        remove_dead_mount(point)
    return record.volume_id
