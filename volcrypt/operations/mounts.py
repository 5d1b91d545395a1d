"""Mount and unmount: hand a data key to a process that serves, and end that process again."""

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from volcrypt.crypto.data_key import DataKey
from volcrypt.errors import (
    FormatError,
    InvalidArgumentError,
    MountError,
    TryAgainError,
    VolcryptError,
    VolumeInUseError,
    VolumeNotFoundError,
)
from volcrypt.formats.volume_record import VolumeRecord
from volcrypt.names import SnapshotId, VolumeId, is_snapshot_id, is_volume_id
from volcrypt.operations import workflows
from volcrypt.operations.discarding import check_discarding
from volcrypt.operations.home import Home
from volcrypt.operations.jobs import pending_job_of, stop_job
from volcrypt.operations.kept_mounts import adopted_owner, check_handed, kept_lease
from volcrypt.operations.keys import check_source_key, data_key_id
from volcrypt.operations.lazy_volumes import (
    lazy_assignment,
    release_pin,
    source_key,
)
from volcrypt.operations.leases import known_epoch, release_lease, serving_lease
from volcrypt.operations.migration_mounts import continued
from volcrypt.operations.migrations import check_not_elsewhere, settle_rename
from volcrypt.operations.mount_grants import retire_grant, serving_key
from volcrypt.operations.record_copies import record_copies
from volcrypt.operations.records import KIND, data_path, find_entry, load_record, present_path
from volcrypt.operations.scratch import remove_scratch, scratch_path
from volcrypt.operations.watching import Watching, order_for
from volcrypt.operations.write_budget import count_path
from volcrypt.volume.control import ControlClient
from volcrypt.volume.control_messages import StatusAnswer
from volcrypt.volume.datafile import DataFile
from volcrypt.volume.kept_mount import HandedMount
from volcrypt.volume.launch import (
    NO_DISCARDS,
    Assignment,
    DataPlaneKind,
    Discarding,
    LazyAssignment,
)
from volcrypt.volume.mountpoint import (
    FS_TYPE,
    VOLUME_FILE,
    Mount,
    check_mount_point,
    is_mount_of,
    is_served_elsewhere,
    mount_at,
    mounts,
    remove_dead_mount,
    served_elsewhere,
)
from volcrypt.volume.owner import OwnerLock, current_owner, hold_volume
from volcrypt.volume.present_file import count_present, is_complete

Launch = Callable[
    [Assignment, DataKey | None, bytearray, OwnerLock, DataKey | None, DataKey | None], int
]
"""`spawn_daemon`, or `exec_daemon`, which does not return; gives the pid of who serves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mounted:
    """A volume that is served, or a snapshot as one. `migration_problem` is why an encryption that
    was begun while it was in use has to begin anew."""

    volume_id: VolumeId
    snapshot_id: SnapshotId | None = None
    mount_point: Path
    pid: int
    migration_problem: str | None = None

    @property
    def file(self) -> Path:
        """The volume's plaintext."""
        return self.mount_point / VOLUME_FILE


def is_volume(home: Home, target: str) -> bool:
    """Whether a name or id on the command line is a volume's, or could only be one's."""
    if is_volume_id(target) or is_snapshot_id(target):
        return is_volume_id(target)
    return home.register.find(KIND, target) is not None


def socket_path(home: Home, volume_id: VolumeId) -> Path:
    """The control socket of the process that serves a volume."""
    return home.runtime / f"{volume_id}.sock"


def mount_volume(
    home: Home,
    volume: str,
    directory: Path,
    *,
    read_only: bool,
    launch: Launch,
    watching: Watching | None = None,
    fill_rate: int | None = None,
    data_plane: DataPlaneKind = "native",
    discards: Discarding = NO_DISCARDS,
    keeper: str | None = None,
    handed: HandedMount | None = None,
) -> Mounted:
    """Serve a volume as `directory/volume`; returns when the first read has worked. With `watching`
    it is fenced when its key is lost. A `keeper` keeps the mount for the next process; what was
    `handed` on is taken over as it was mounted, and `launch` has to know of it.

    `fill_rate` holds for this mount, instead of that of a lazy volume's record. What can be refused
    without the key is refused before the KMS is asked. Raises MountError, VolumeInUseError,
    KmsError, IntegrityError, ComponentMissingError; leaves nothing behind. LostMountError, for what
    was handed on.
    """
    volume_id = VolumeId(find_entry(home, volume).id)
    check_free(home, volume_id, volume)
    if handed is None:
        directory = checked_directory(directory)
    else:
        check_handed(volume_id, volume, handed)
        directory = Path(handed.mount.mount_directory)
        read_only = handed.mount.read_only
        discards = Discarding(requests=handed.mount.discard, zeros=handed.mount.discard_zeros)
    with _owned(home, volume_id, handed) as owner:
        # Only now nothing can happen to the volume any more: an encryption begun or finished since
        # would have taken name or data away.
        settle_rename(home, volume_id)
        record = load_record(home, volume)
        if record.volume_id != volume_id:
            raise TryAgainError(f"volume {volume} was just replaced")
        workflows.check_may_be_served(home, volume_id, volume)
        check_not_elsewhere(home, record)
        check_discarding(home, record, discards, data_plane=data_plane)
        check_source_key(home, record.wrapped_key, f"volume {volume}")
        DataFile.open(data_path(home, record), record.size_bytes, read_only=True).close()
        lazy = _lazy_assignment(home, record, fill_rate)
        assignment = Assignment(
            volume_id=volume_id,
            name=record.name,
            size_bytes=record.size_bytes,
            data_path=str(data_path(home, record)),
            read_only=read_only,
            has_data_key=record.is_encrypted,
            volume_directory=str(home.volumes.path_of(volume_id)),
            mount_directory=str(directory),
            live_map_path=str(home.live_map_path(volume_id)),
            socket_path=str(socket_path(home, volume_id)),
            log_path=str(home.runtime / f"{volume_id}.log"),
            exported=record.exported_at is not None,
            kms_key_arn=record.wrapped_key.kms_key_arn if record.wrapped_key else None,
            count_path=str(count_path(home, record.wrapped_key)) if record.wrapped_key else None,
            watch=order_for(home, record, watching),
            lazy=lazy,
            data_plane=data_plane,
            discards=discards,
            preallocated=record.preallocated,
            data_key_id=data_key_id(record.wrapped_key),
            keeper=keeper,
        )
        seal_key = home.change_map_key(volume_id)
        with (
            serving_lease(home, record) if handed is None else kept_lease(home, record, handed),
            source_key(home, lazy) as other_key,
            serving_key(home, record) as data_key,
            continued(home, record, read_only=read_only, watching=watching) as migration,
        ):
            with record_copies(home, record, data_key) as copies:
                copies.refresh(record)
            assignment = msgspec.structs.replace(
                assignment,
                migration=migration.assignment,
                lease_epoch=known_epoch(home, record),
            )
            pid = launch(assignment, data_key, seal_key, owner, other_key, migration.target_key)
        owner.let_go()
    return Mounted(
        volume_id=volume_id,
        mount_point=directory,
        pid=pid,
        migration_problem=migration.problem,
    )


def _owned(home: Home, volume_id: VolumeId, handed: HandedMount | None) -> OwnerLock:
    if handed is None:
        return hold_volume(home.volumes.path_of(volume_id), purpose="mount")
    return adopted_owner(handed)


def check_mountable(
    home: Home,
    volume: str,
    directory: Path,
    *,
    watching: Watching | None = None,
    data_plane: DataPlaneKind = "python",
    discards: Discarding = NO_DISCARDS,
) -> None:
    """Raises what `mount_volume` would raise before it needs the key."""
    record = load_record(home, volume)
    check_discarding(home, record, discards, data_plane=data_plane)
    check_free(home, record.volume_id, volume)
    checked_directory(directory)
    order_for(home, record, watching)


def checked_directory(directory: Path) -> Path:
    """A mount point as the kernel will name it. Raises InvalidArgumentError, MountError."""
    try:
        os.fsencode(directory).decode()
    except UnicodeDecodeError as error:
        raise InvalidArgumentError(f"mount point {directory!r} is not UTF-8") from error
    return check_mount_point(directory)


def _lazy_assignment(
    home: Home, record: VolumeRecord, fill_rate: int | None
) -> LazyAssignment | None:
    """None for a volume that has all of its chunks. Raises IntegrityError and FormatError for a
    present map that is missing or damaged."""
    source = record.source
    if source is None:
        return None
    path = present_path(home, record.volume_id)
    count_present(path, record.volume_id)  # raises for one that is damaged
    if is_complete(path, record.volume_id):
        return None
    if fill_rate is not None:
        source = msgspec.structs.replace(source, fill_rate=fill_rate)
    return lazy_assignment(home, source, record.wrapped_key, present=path)


def check_free(home: Home, volume_id: VolumeId, name: str) -> None:
    """Raises VolumeInUseError, with the way to end it, when somebody holds the volume."""
    directory = home.volumes.path_of(volume_id)
    owner = current_owner(directory)
    if owner is None:
        return
    hint = owner.way_out(directory)
    if owner.is_local and owner.purpose == "mount":
        verb = "detach" if (home.runtime / f"{volume_id}.mnt").exists() else "unmount"
        hint = f"volcrypt {verb} {name}"
    elif (job := pending_job_of(home, volume_id)) is not None:
        hint = f"volcrypt snapshot wait {job.snapshot_id}"
    raise VolumeInUseError(name, str(owner), hint=hint)


def check_no_snapshot(home: Home, served: StatusAnswer, *, stop: bool) -> None:
    """Raises TryAgainError while a snapshot is made of what the volume was: it needs the process
    that serves it. With `stop` the snapshot ends instead."""
    if not served.capture_running:
        return
    job = pending_job_of(home, served.volume_id)
    if job is not None and stop:
        stop_job(home, job.snapshot_id)
        return
    raise TryAgainError(
        f"a snapshot of volume {served.name or served.volume_id} is being made",
        hint=None
        if job is None
        else f"volcrypt snapshot wait {job.snapshot_id}, or --stop-snapshot to give it up",
    )


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
    # A volume goes before a snapshot of the same name.
    for served in sorted(served_volumes(home), key=lambda each: each.snapshot_id is not None):
        names = (served.volume_id, served.name, served.snapshot_id)
        if target in names or point == served.mount_directory:
            return served
    return None


def _canonical(target: str) -> Path:
    """A mount point without symlinks above it; the last component may be a dead mount, which
    nothing but its name can be asked of."""
    path = Path(target).absolute()
    if path.is_symlink():
        path = Path(os.path.realpath(path))
    return Path(os.path.realpath(path.parent)) / path.name


def unmount_volume(
    home: Home, target: str, *, stop_snapshot: bool = False
) -> VolumeId | SnapshotId:
    """End the mount of a volume or snapshot, given by name or id, or at a directory; what it was.

    A mount whose process is gone is removed. Raises VolumeInUseError with who uses it, or when
    another home's process serves it, MountError, and, unless it is to be stopped, TryAgainError
    while a snapshot is made of the volume.
    """
    served = find_served(home, target)
    if served is not None:
        check_no_snapshot(home, served, stop=stop_snapshot)
        with ControlClient(socket_path(home, served.volume_id), volume=target) as control:
            control.unmount()
        if served.snapshot_id is not None:
            _forget_snapshot(home, served)
            return served.snapshot_id
        retire_grant(home, served.volume_id)
        release_lease(home, served.volume_id)
        return served.volume_id
    mount = mount_at(_canonical(target))
    if mount is not None and mount.fs_type != FS_TYPE:
        raise MountError(f"what is mounted on {target} is not a volume")
    if mount is None and "/" in target:
        raise MountError(f"no volume is mounted on {target}")
    if mount is not None and _is_elsewhere(home, mount):
        raise served_elsewhere(target, mount)
    if mount is not None and scratch_path(home, VolumeId(mount.source)).is_dir():
        remove_dead_mount(Path(mount.mount_point))
        remove_scratch(home)
        return VolumeId(mount.source)
    try:
        record = load_record(home, mount.source if mount is not None else target)
    except VolumeNotFoundError:
        check_is_no_snapshot(home, target, "is not mounted")
        raise
    found = [each for each in mounts() if is_mount_of(each, record.volume_id)]
    dead = [each for each in found if not _is_elsewhere(home, each)]
    if not dead:
        raise (
            served_elsewhere(target, found[0])
            if found
            else MountError(f"volume {target} is not mounted")
        )
    for each in dead:
        remove_dead_mount(Path(each.mount_point))
    retire_grant(home, record.volume_id)
    release_lease(home, record.volume_id)
    return record.volume_id


def check_is_no_snapshot(home: Home, target: str, what: str, *, hint: str | None = None) -> None:
    """For a volume that does not exist. Raises MountError when `target` is a snapshot; `what` is
    said of it."""
    # Only who made a mistake needs the stores.
    from volcrypt.operations.snapshot_lookup import names_a_snapshot

    if names_a_snapshot(home, target):
        raise MountError(f"snapshot {target} {what}", hint=hint)


def _forget_snapshot(home: Home, served: StatusAnswer) -> None:
    """What it needed while it was mounted; a pin that stays goes with the next sweep, since closing
    must not need the token's PIN."""
    remove_scratch(home)
    with suppress(VolcryptError, OSError):
        if served.lazy is not None and served.snapshot_id is not None and home.opens_quietly:
            release_pin(home, served.volume_id, served.lazy.store_id, served.snapshot_id)


def left_mount_of(home: Home, volume_id: VolumeId, mounted: Iterable[Mount]) -> Mount | None:
    """What is still mounted of a volume that no process of this home serves, or None; what another
    home's process serves is not meant."""
    found = (mount for mount in mounted if is_mount_of(mount, volume_id))
    return next((each for each in found if not is_served_elsewhere(each, home.runtime)), None)


def _is_elsewhere(home: Home, mount: Mount) -> bool:
    """Whether another home is to end it; a process of this home may be there and not answer."""
    with suppress(FormatError):
        if current_owner(home.volumes.path_of(VolumeId(mount.source))) is not None:
            return False
    return is_served_elsewhere(mount, home.runtime)
