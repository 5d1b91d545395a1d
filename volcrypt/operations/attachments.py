"""Attach and detach: a loop device on a private mount of the volume, and what stands on that.

Built from the bottom up (mount, loop device, link, file system) and taken down from the top; what
was built is taken down again when a later step fails.
"""

import shutil
import subprocess
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from volcrypt.crypto.xts import is_zero
from volcrypt.durable import read_fully
from volcrypt.errors import (
    ComponentMissingError,
    InvalidArgumentError,
    MountError,
    MountPointError,
    TryAgainError,
    VolumeInUseError,
    VolumeNotFoundError,
)
from volcrypt.formats.volume_record import VolumeRecord
from volcrypt.geometry import chunk_range
from volcrypt.names import VolumeId
from volcrypt.operations.discarding import check_discarding
from volcrypt.operations.file_systems import run_program
from volcrypt.operations.home import Home
from volcrypt.operations.leases import release_lease
from volcrypt.operations.mount_grants import retire_grant
from volcrypt.operations.mounts import (
    Launch,
    Mounted,
    check_free,
    check_is_no_snapshot,
    check_no_snapshot,
    find_served,
    mount_volume,
    socket_path,
    unmount_volume,
)
from volcrypt.operations.records import data_path, load_record
from volcrypt.operations.watching import Watching, order_for
from volcrypt.volume.control_messages import StatusAnswer
from volcrypt.volume.datafile import DataFile
from volcrypt.volume.device_links import (
    LOST_FILE,
    check_link_is_free,
    claim_link,
    drop_link,
    free_link,
    linked_device,
    partition_links,
    partition_name,
    release_link,
    remove_false_links,
)
from volcrypt.volume.kept_mount import HandedMount
from volcrypt.volume.launch import NO_DISCARDS, DataPlaneKind, Discarding
from volcrypt.volume.loop import (
    PROBE_BYTES,
    add_partitions,
    attach_loop,
    backing_file,
    check_loop_devices,
    detach_dead_loops,
    detach_loop,
    forget_discards,
    is_read_only,
    loops_of,
    partition_number,
    partitions_of,
    probe_sector_size,
    sector_size_of,
)
from volcrypt.volume.mountpoint import (
    VOLUME_FILE,
    Mount,
    mount_at,
    mounts,
    processes_below,
    remove_dead_mount,
    users_of,
)
from volcrypt.volume.owner import current_owner, is_kept

_MKFS_PACKAGES: Final = {"ext4": "e2fsprogs", "xfs": "xfsprogs", "btrfs": "btrfs-progs"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Attached:
    """A volume on its loop device; `device` is the lasting name, `loop` what it points to now.
    `partitions`: the lasting names of its partitions."""

    volume_id: VolumeId
    device: Path
    loop: Path
    sector_size: int
    mount_point: Path | None
    pid: int
    partitions: list[Path]


def private_mount_point(home: Home, volume_id: VolumeId) -> Path:
    """Where `attach` mounts a volume; only its loop device is meant to be used."""
    return home.runtime / f"{volume_id}.mnt"


def device_name(volume: VolumeRecord | StatusAnswer) -> str:
    """The name in /dev/volcrypt."""
    return volume.name or volume.volume_id


def attach_volume(
    home: Home,
    volume: str,
    *,
    mkfs: str | None,
    mount_directory: Path | None,
    read_only: bool,
    launch: Launch,
    watching: Watching | None = None,
    fill_rate: int | None = None,
    data_plane: DataPlaneKind = "native",
    discards: Discarding = NO_DISCARDS,
    keeper: str | None = None,
    handed: HandedMount | None = None,
) -> Attached:
    """Mount the volume privately, put a loop device on it, make or mount a file system if asked; or
    take over the mount that was `handed` on, with what stands on it. A `keeper` keeps the mount for
    the next process.

    Raises MountError, PrivilegeError, VolumeInUseError, KmsError; nothing is left of what failed.
    """
    _check_request(mkfs=mkfs, mount_directory=mount_directory, read_only=read_only)
    record = _record_to_attach(home, volume)
    point = private_mount_point(home, record.volume_id)
    with ExitStack() as undo:
        with home.exclusive():
            check_free(home, record.volume_id, volume)
            if handed is None:
                remove_false_links()
                free_link(device_name(record), point)
                # A process that was killed leaves its loop device, on which nothing works any more.
                detach_dead_loops(point / VOLUME_FILE, volume=volume)
                for link in partition_links(device_name(record)):
                    free_link(link, point)
                point.mkdir(mode=0o700, exist_ok=True)
                undo.callback(_remove_empty, point)
            mounted = mount_volume(
                home,
                volume,
                point,
                read_only=read_only,
                launch=launch,
                watching=watching,
                fill_rate=fill_rate,
                data_plane=data_plane,
                discards=discards,
                keeper=keeper,
                handed=handed,
            )
        if handed is not None and (loops := loops_of(mounted.file)):
            return _found_again(record, mounted, loops[0], mount_directory=mount_directory)
        undo.callback(unmount_volume, home, record.volume_id)
        attached = _build(
            home,
            record,
            mounted,
            undo,
            mkfs=mkfs,
            mount_directory=mount_directory,
            read_only=read_only,
            takes_discards=discards.requests,
        )
        undo.pop_all()
        return attached


def check_attachable(
    home: Home,
    volume: str,
    *,
    mkfs: str | None,
    mount_directory: Path | None,
    read_only: bool,
    watching: Watching | None = None,
    data_plane: DataPlaneKind = "python",
    discards: Discarding = NO_DISCARDS,
) -> None:
    """Raises what `attach_volume` would raise before it needs the key; changes nothing."""
    _check_request(mkfs=mkfs, mount_directory=mount_directory, read_only=read_only)
    record = _record_to_attach(home, volume)
    check_free(home, record.volume_id, volume)
    check_discarding(home, record, discards, data_plane=data_plane)
    point = private_mount_point(home, record.volume_id)
    name = device_name(record)
    for link in (name, *partition_links(name)):
        check_link_is_free(link, point)
    order_for(home, record, watching)


def _record_to_attach(home: Home, volume: str) -> VolumeRecord:
    try:
        return load_record(home, volume)
    except VolumeNotFoundError:
        check_is_no_snapshot(
            home,
            volume,
            "cannot be attached",
            hint=f"'volcrypt mount {volume} DIR' shows what is in it; a volume made from it can be "
            "attached",
        )
        raise


def _check_request(*, mkfs: str | None, mount_directory: Path | None, read_only: bool) -> None:
    check_loop_devices()
    if mkfs is not None:
        if read_only:
            raise InvalidArgumentError("a file system cannot be made read-only")
        if shutil.which(f"mkfs.{mkfs}") is None:
            raise ComponentMissingError(f"mkfs.{mkfs}", package=_MKFS_PACKAGES.get(mkfs))
    if mount_directory is not None and not mount_directory.is_dir():
        if mount_directory.exists():
            raise MountPointError(f"mount point {mount_directory} is not a directory")
        raise MountPointError(
            f"mount point {mount_directory} does not exist", hint=f"mkdir {mount_directory}"
        )


def _found_again(
    record: VolumeRecord, mounted: Mounted, loop: Path, *, mount_directory: Path | None
) -> Attached:
    """What stands on a mount that was taken over, with its links; a file system that is not mounted
    any more, or was not yet, is mounted."""
    name, point = device_name(record), mounted.mount_point
    partitions = [
        claim_link(partition_name(name, partition_number(partition)), partition, point)
        for partition in partitions_of(loop)
    ]
    device = claim_link(name, loop, point)
    if mount_directory is not None and not any(
        mount.mount_point == str(mount_directory.resolve()) for mount in mounts_on(loop)
    ):
        read_only = ["-o", "ro"] if is_read_only(loop) else []
        run_program(
            ["mount", *read_only, "--", str(loop), str(mount_directory)],
            what=f"mounting {device} on {mount_directory}",
        )
    return Attached(
        volume_id=record.volume_id,
        device=device,
        loop=loop,
        sector_size=sector_size_of(loop),
        mount_point=mount_directory.resolve() if mount_directory else None,
        pid=mounted.pid,
        partitions=partitions,
    )


def _build(
    home: Home,
    record: VolumeRecord,
    mounted: Mounted,
    undo: ExitStack,
    *,
    mkfs: str | None,
    mount_directory: Path | None,
    read_only: bool,
    takes_discards: bool,
) -> Attached:
    with open(mounted.file, "rb", buffering=0) as file:
        head = file.read(PROBE_BYTES)
    # A lazy volume has data, wherever it still is: others are made without a source.
    if mkfs is not None and (
        record.source is not None
        or holds_data(data_path(home, record), record.size_bytes, mounted.file)
    ):
        raise InvalidArgumentError(
            f"volume {device_name(record)} is not empty", hint="attach it without --mkfs"
        )
    sector_size = probe_sector_size(head)
    loop = attach_loop(mounted.file, sector_size=sector_size, read_only=read_only)
    undo.callback(detach_loop, loop, volume=device_name(record))
    if not takes_discards and not read_only:
        forget_discards(loop, mounted.file)
    point = mounted.mount_point
    # Another home may have taken the name since it was looked at.
    device = claim_link(device_name(record), loop, point)
    undo.callback(drop_link, device_name(record), loop)
    partitions = []
    for partition in add_partitions(loop):
        link = partition_name(device_name(record), partition_number(partition))
        partitions.append(claim_link(link, partition, point))
        undo.callback(drop_link, link, partition)
    # From here on by the loop device itself: the link is for people, and could be changed.
    if mkfs is not None:
        run_program([f"mkfs.{mkfs}", str(loop)], what=f"making the {mkfs} file system")
    if mount_directory is not None and partitions and mkfs is None:
        raise InvalidArgumentError(
            f"volume {device_name(record)} is partitioned",
            hint=f"attach it without --mount, then mount one of its partitions, {partitions[0]}",
        )
    if mount_directory is not None:
        options = ["-o", "ro"] if read_only else []
        try:
            run_program(
                ["mount", *options, "--", str(loop), str(mount_directory)],
                what=f"mounting {device} on {mount_directory}",
            )
        except MountError as error:
            error.hint = _mount_hint(home, record, mounted.file, error, read_only=read_only)
            raise
    return Attached(
        volume_id=record.volume_id,
        device=device,
        loop=loop,
        sector_size=sector_size,
        mount_point=mount_directory.resolve() if mount_directory else None,
        pid=mounted.pid,
        partitions=partitions,
    )


def _mount_hint(
    home: Home, record: VolumeRecord, file: Path, error: MountError, *, read_only: bool
) -> str | None:
    """What may help where a file system could not be mounted."""
    name = device_name(record)
    if record.source is None and not holds_data(data_path(home, record), record.size_bytes, file):
        return f"the volume is empty: make a file system with 'volcrypt attach {name} --mkfs ext4'"
    if read_only and "read-only" in str(error):
        return (
            "a file system that was not unmounted replays its journal first, and that writes: "
            "attach it once without --read-only; or without --mount, and mount "
            f"/dev/volcrypt/{name} with the options ro,noload (ext4) or ro,norecovery (xfs)"
        )
    return None


def holds_data(path: Path, size_bytes: int, plaintext: Path) -> bool:
    """Whether anything but zeros is in a mounted volume; only what was ever written is read."""
    with (
        DataFile.open(path, size_bytes, read_only=True) as data,
        open(plaintext, "rb", buffering=0) as file,
    ):
        for index in data.candidate_chunks():
            extent = chunk_range(index, size_bytes)
            if not is_zero(read_fully(file.fileno(), extent.length, extent.offset)):
                return True
    return False


def detach_volume(
    home: Home,
    volume: str,
    *,
    stop_snapshot: bool = False,
    note: Callable[[str], None] = lambda _text: None,
) -> VolumeId:
    """Take down what `attach` built, and what is left of it after a kill. `note` is told what the
    user should know of a volume that was fenced.

    From the top: file systems, the last mounted first; loop device; links; the mount. Raises
    VolumeInUseError that names who still uses it, and, unless it is to be stopped, TryAgainError
    while a snapshot is made of the volume; then everything is as it was, unless somebody began to
    in this moment.
    """
    served = find_served(home, volume)
    if served is not None:
        check_no_snapshot(home, served, stop=stop_snapshot)
    if served is not None and served.snapshot_id is not None:
        raise MountError(
            f"snapshot {volume} is mounted on {served.mount_directory}, not attached",
            hint=f"volcrypt unmount {volume}",
        )
    try:
        known = served if served is not None else load_record(home, volume)
    except VolumeNotFoundError:
        check_is_no_snapshot(home, volume, "is not attached")
        raise
    point = private_mount_point(home, known.volume_id)
    if served is None and is_kept(home.volumes.path_of(known.volume_id)):
        raise TryAgainError(
            f"volume {volume} waits for the next process of its service",
            hint="systemctl stop that, or start it",
        )
    if not point.exists():
        raise MountError(f"volume {volume} is not attached")
    name = device_name(known)
    loops = loops_below(point, name)
    lost: MountError | None = None
    for loop in loops:
        _check_unused(loop, volume)
    for loop in loops:
        _unmount_file_systems(loop, volume)
        try:
            detach_loop(loop, volume=volume)
        except MountError as error:
            if served is None:
                lost = error  # its process was killed: take down the rest, then say so
            elif served.fenced is not None:
                note(f"{error}: {served.fenced.error()}")
            else:
                raise
    for link in (*partition_links(name), name):
        release_link(link, point)
    if served is not None:
        unmount_volume(home, known.volume_id)
    else:
        if mount_at(point) is not None:
            remove_dead_mount(point)
        if current_owner(home.volumes.path_of(known.volume_id)) is None:
            socket_path(home, known.volume_id).unlink(missing_ok=True)
    _remove_empty(point)
    retire_grant(home, known.volume_id)
    release_lease(home, known.volume_id)
    if lost is not None:
        raise lost
    return known.volume_id


def loops_below(point: Path, name: str) -> list[Path]:
    """The loop devices of a volume of that name; also one whose mount at `point` is gone while it
    was in use, and which therefore does not know any more what it stands on."""
    loops = loops_of(point / VOLUME_FILE)
    linked = linked_device(name)
    if linked is not None and linked not in loops and backing_file(linked) == LOST_FILE:
        loops.append(linked)
    return loops


def mounts_on(loop: Path) -> list[Mount]:
    """What stands on a loop device or one of its partitions, last mounted first."""
    sources = {str(loop), *map(str, partitions_of(loop))}
    return [mount for mount in reversed(mounts()) if mount.source in sources]


def _check_unused(loop: Path, volume: str) -> None:
    """Raises VolumeInUseError when a process uses one of the file systems, before any of them is
    unmounted."""
    for mount in mounts_on(loop):
        if users := processes_below(Path(mount.mount_point)):
            raise _in_use_at(volume, users, mount.mount_point)


def _in_use_at(volume: str, users: list[str], point: str) -> VolumeInUseError:
    return VolumeInUseError(
        volume,
        f"{', '.join(users) or 'something in the kernel'} on {point}",
        hint="end that, then detach again",
    )


def _unmount_file_systems(loop: Path, volume: str) -> None:
    for mount in mounts_on(loop):
        done = subprocess.run(
            ["umount", "--", mount.mount_point], check=False, capture_output=True, text=True
        )
        if done.returncode:
            raise _in_use_at(volume, users_of(Path(mount.mount_point)), mount.mount_point)


def _remove_empty(directory: Path) -> None:
    with suppress(OSError):
        directory.rmdir()
