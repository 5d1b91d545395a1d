"""Attaching: a loop device on a private mount of the volume, and what stands on that.

Built from the bottom up (mount, loop device, link, file system); what was built is taken down again
when a later step fails. `operations.detachment` takes it down from the top.
"""

import shutil
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
    VolumeNotFoundError,
)
from volcrypt.formats.volume_record import VolumeRecord
from volcrypt.geometry import chunk_range
from volcrypt.names import VolumeId
from volcrypt.operations.discarding import check_discarding
from volcrypt.operations.file_systems import run_program
from volcrypt.operations.home import Home
from volcrypt.operations.mounts import (
    Launch,
    Mounted,
    check_free,
    check_is_no_snapshot,
    mount_volume,
    unmount_volume,
)
from volcrypt.operations.records import data_path, load_record
from volcrypt.operations.watching import Watching, order_for
from volcrypt.volume.control_messages import StatusAnswer
from volcrypt.volume.datafile import DataFile
from volcrypt.volume.device_links import (
    check_link_is_free,
    claim_link,
    drop_link,
    free_link,
    partition_links,
    partition_name,
    remove_false_links,
)
from volcrypt.volume.kept_mount import HandedMount
from volcrypt.volume.launch import NO_DISCARDS, DataPlaneKind, Discarding
from volcrypt.volume.loop import (
    PROBE_BYTES,
    add_partitions,
    attach_loop,
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
    mounts,
)

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
        _mount_file_system(loop, device, mount_directory)
    return _attached(record, mounted, loop, device, mount_directory, partitions)


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
    loop = attach_loop(mounted.file, sector_size=probe_sector_size(head), read_only=read_only)
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
        try:
            _mount_file_system(loop, device, mount_directory)
        except MountError as error:
            error.hint = _mount_hint(home, record, mounted.file, error, read_only=read_only)
            raise
    return _attached(record, mounted, loop, device, mount_directory, partitions)


def _mount_file_system(loop: Path, device: Path, directory: Path) -> None:
    """`device` is what people know `loop` by."""
    options = ["-o", "ro"] if is_read_only(loop) else []
    run_program(
        ["mount", *options, "--", str(loop), str(directory)],
        what=f"mounting {device} on {directory}",
    )


def _attached(
    record: VolumeRecord,
    mounted: Mounted,
    loop: Path,
    device: Path,
    mount_directory: Path | None,
    partitions: list[Path],
) -> Attached:
    return Attached(
        volume_id=record.volume_id,
        device=device,
        loop=loop,
        sector_size=sector_size_of(loop),
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


def mounts_on(loop: Path) -> list[Mount]:
    """What stands on a loop device or one of its partitions, last mounted first."""
    sources = {str(loop), *map(str, partitions_of(loop))}
    return [mount for mount in reversed(mounts()) if mount.source in sources]


def _remove_empty(directory: Path) -> None:
    with suppress(OSError):
        directory.rmdir()
