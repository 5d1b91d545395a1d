"""Who uses the volumes of a home, and the snapshots that are mounted: processes, mount points, loop
devices and the file systems on them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from volcrypt.errors import FormatError
from volcrypt.formats.volume_record import VolumeRecord
from volcrypt.names import VolumeId
from volcrypt.operations.attachments import device_name, mounts_on, private_mount_point
from volcrypt.operations.home import Home
from volcrypt.operations.mounts import served_volumes
from volcrypt.volume.control_messages import LazyProgress, MigrationState, StatusAnswer
from volcrypt.volume.device_links import DEVICE_DIRECTORY, linked_device
from volcrypt.volume.fence import CheckState, FenceNote
from volcrypt.volume.loop import backing_file, loop_of
from volcrypt.volume.mountpoint import VOLUME_FILE
from volcrypt.volume.owner import OwnerRecord, current_owner


@dataclass(frozen=True, slots=True, kw_only=True)
class InUse:
    """A volume that a process holds, or a snapshot that is mounted; `lazy` while not all of its
    chunks are here. `file_systems`: where those on its loop device are mounted.
    `fast_requests` needed no Python, as `data_plane` "native" makes possible. `discard`,
    `discard_zeros`: what becomes holes; `kept`: a crash of the process leaves it mounted;
    `read_bytes` and `written_bytes` are None of what nobody answers for; `migration` while it is
    encrypted in use, or gets another data key."""

    volume_id: str | None
    name: str | None
    purpose: str
    pid: int
    mount_point: str | None
    device: str | None
    file_systems: Sequence[str] = ()
    sync_failed: bool = False
    writes_wait: bool = False
    fenced: FenceNote | None = None
    checks: Sequence[CheckState] = ()
    snapshot_id: str | None = None
    lazy: LazyProgress | None = None
    data_plane: str | None = None
    fast_requests: int = 0
    discard: bool = False
    discard_zeros: bool = False
    read_only: bool = False
    kept: bool = False
    read_bytes: int | None = None
    written_bytes: int | None = None
    migration: MigrationState | None = None


def uses_of(home: Home, records: Iterable[VolumeRecord]) -> list[InUse]:
    """Those of these volumes that are in use, and all snapshots that are mounted."""
    served = {each.volume_id: each for each in served_volumes(home)}
    found = [_use_of(home, record, served) for record in records]
    return [
        *(each for each in found if each is not None),
        *_mounted_snapshots(served.values()),
    ]


def owner_of(home: Home, volume_id: VolumeId) -> OwnerRecord | None:
    """Who holds a volume; nobody, for all that can be said, when the record is damaged: then the
    commands that need the volume tell."""
    try:
        return current_owner(home.volumes.path_of(volume_id))
    except FormatError:
        return None


def _use_of(
    home: Home, record: VolumeRecord, served: Mapping[VolumeId, StatusAnswer]
) -> InUse | None:
    """`served` is what the processes that serve answered; one that has just ended, or hangs, is not
    among them."""
    owner = owner_of(home, record.volume_id)
    if owner is None:
        return None
    device = None
    file_systems: list[str] = []
    answer: StatusAnswer | None = None
    if owner.purpose == "mount":
        answer = served.get(record.volume_id)
        linked = linked_device(device_name(record))
        file = private_mount_point(home, record.volume_id) / VOLUME_FILE
        if linked is not None and backing_file(linked) == file:
            device = str(DEVICE_DIRECTORY / device_name(record))
            file_systems = sorted(mount.mount_point for mount in mounts_on(loop_of(linked)))
    return InUse(
        volume_id=record.volume_id,
        name=record.name,
        purpose=owner.purpose,
        pid=owner.pid,
        mount_point=None if answer is None else answer.mount_directory,
        device=device,
        file_systems=file_systems,
        sync_failed=answer is not None and answer.sync_failed,
        writes_wait=answer is not None and answer.writes_wait,
        fenced=None if answer is None else answer.fenced,
        checks=() if answer is None else answer.checks,
        lazy=None if answer is None else answer.lazy,
        data_plane=None if answer is None else answer.data_plane,
        fast_requests=0 if answer is None else answer.fast_requests,
        discard=answer is not None and answer.discard,
        discard_zeros=answer is not None and answer.discard_zeros,
        read_only=answer is not None and answer.read_only,
        kept=answer is not None and answer.kept,
        read_bytes=None if answer is None else answer.read_bytes,
        written_bytes=None if answer is None else answer.written_bytes,
        migration=None if answer is None else answer.migration,
    )


def _mounted_snapshots(served: Iterable[StatusAnswer]) -> list[InUse]:
    return [
        InUse(
            volume_id=None,
            name=each.name,
            purpose="mount",
            pid=each.pid,
            mount_point=each.mount_directory,
            device=None,
            snapshot_id=each.snapshot_id,
            lazy=each.lazy,
            data_plane=each.data_plane,
            fast_requests=each.fast_requests,
            read_only=each.read_only,
            read_bytes=each.read_bytes,
            written_bytes=each.written_bytes,
        )
        for each in served
        if each.snapshot_id is not None
    ]
