"""Growing a volume, whether nobody has it open, or it is mounted, or attached and written to.

From the bottom up, each step durable before the next is begun:

    1. data file    what lies behind the volume's end is cut off, then the file is made longer, so
                    that all that is new is a hole; synced
    2. record       one register transaction: from here on the volume is larger; then its copy
    3. change map   made longer; the process that serves the volume does it, with
    4. the mount    where it tells the kernel that its file is longer
    5. loop device  asks for the size of its file again
    6. file system  told to fill its device, when the user wants it

What is found after a kill or a power cut: before 2 a volume as it was, whose data file may be
longer than it needs to be, which harms nobody; after it a larger volume. A process that serves it
goes on with the old size until it is told, and nobody else has begun to use the new one. The same
command again does what is missing. A change map of before the growth is one of the smaller volume,
and is made longer by whoever opens it next, or is void after a power cut.

The home is held during 1 to 4, so that no other growth, and no beginning of an encryption, comes
between; not longer, since a file system may take its time.
"""

import os
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from volcrypt.errors import InvalidArgumentError, MountError, TryAgainError
from volcrypt.formats.document import MacSeal
from volcrypt.formats.volume_record import VolumeRecord
from volcrypt.geometry import check_volume_size, format_size
from volcrypt.operations import workflows
from volcrypt.operations.file_systems import MountedFileSystem, find_growable, run_program
from volcrypt.operations.home import Home
from volcrypt.operations.keys import check_source_key
from volcrypt.operations.leases import held_volume
from volcrypt.operations.mounts import socket_path
from volcrypt.operations.record_copies import record_copies
from volcrypt.operations.records import data_path, load_record, save_records
from volcrypt.volume.allocation import extend
from volcrypt.volume.change_map import ChangeMap
from volcrypt.volume.control import ControlClient
from volcrypt.volume.directory import CHANGE_MAP_FILE
from volcrypt.volume.loop import loops_of, set_loop_capacity
from volcrypt.volume.mountpoint import VOLUME_FILE
from volcrypt.volume.owner import current_owner

_KERNEL_SECONDS: Final = 10.0
_KERNEL_STEP_SECONDS: Final = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Grown:
    """A volume that has grown; `file_system` is what was resized above it."""

    record: VolumeRecord
    old_bytes: int
    loops: list[Path]
    file_system: MountedFileSystem | None


def grow_volume(home: Home, volume: str, *, size_bytes: int, resize_fs: bool) -> Grown:
    """Make a volume larger; of the size that it has already, do what a killed call left undone.

    All that can be refused is refused before anything changes. Raises InvalidArgumentError,
    VolumeInUseError, NoSpaceError, MountError.
    """
    check_volume_size(size_bytes)
    loops: list[Path] = []
    file_system: MountedFileSystem | None = None
    with ExitStack() as stack:
        stack.enter_context(home.exclusive())
        record = load_record(home, volume)
        if size_bytes < record.size_bytes:
            raise InvalidArgumentError(
                f"volume {volume} has {_exactly(record.size_bytes)} and cannot shrink to "
                f"{_exactly(size_bytes)}",
                hint="copy what is in it to a smaller one",
            )
        if home.customer_keys:
            check_source_key(home, record.wrapped_key, f"volume {volume}")
        workflows.check_none_running(home, record.volume_id, volume)
        control = _hold_or_reach(home, record, volume, stack)
        if control is not None:
            file = Path(control.status().mount_directory) / VOLUME_FILE
            loops = loops_of(file)
        if resize_fs:
            file_system = _find_file_system(loops, volume)
        if control is not None:
            grown = _grow_record(home, record, size_bytes)
            control.grow(size_bytes)
        else:
            grown = _grow_detached(home, record, size_bytes)
    if loops:
        _await_kernel(file, size_bytes)
        for loop in loops:
            set_loop_capacity(loop, size_bytes)
    if file_system is not None:
        run_program(
            file_system.command,
            what=f"volume {volume} has grown to {format_size(size_bytes)}, but resizing its "
            f"{file_system.kind} file system on {file_system.mount_point}",
            hint=f"volcrypt volume grow {volume} --size {size_bytes} --resize-fs",
        )
    return Grown(record=grown, old_bytes=record.size_bytes, loops=loops, file_system=file_system)


def _exactly(size_bytes: int) -> str:
    return f"{format_size(size_bytes)} ({size_bytes} bytes)"


def _hold_or_reach(
    home: Home, record: VolumeRecord, volume: str, stack: ExitStack
) -> ControlClient | None:
    """The process that serves the volume; or None, and then the volume is ours."""
    directory = home.volumes.path_of(record.volume_id)
    owner = current_owner(directory)
    if owner is None or not owner.is_local or owner.purpose != "mount":
        stack.enter_context(held_volume(home, record, purpose="grow"))
        return None
    try:
        return stack.enter_context(
            ControlClient(socket_path(home, record.volume_id), volume=volume)
        )
    except MountError as error:
        raise TryAgainError(f"volume {volume} is being mounted or unmounted just now") from error


def _find_file_system(loops: list[Path], volume: str) -> MountedFileSystem:
    if not loops:
        raise InvalidArgumentError(
            f"volume {volume} is not attached, so no file system can be resized",
            hint=f"volcrypt attach {volume} --mount DIR, or grow it without --resize-fs",
        )
    return find_growable(loops[0], volume=volume)


def _grow_detached(home: Home, record: VolumeRecord, size_bytes: int) -> VolumeRecord:
    """With its change map, which would not fit the data file any more."""
    changes = ChangeMap.open(
        home.live_map_path(record.volume_id),
        home.volumes.path_of(record.volume_id) / CHANGE_MAP_FILE,
        volume_id=record.volume_id,
        size_bytes=record.size_bytes,
        seal=MacSeal(home.change_map_key(record.volume_id)),
        data_path=data_path(home, record),
    )
    if record.exported_at is not None:
        changes.distrust()
    try:
        try:
            record = _grow_record(home, record, size_bytes)
            changes.grow(size_bytes)
        finally:
            changes.save_clean()
    finally:
        changes.close()
    return record


def _grow_record(home: Home, record: VolumeRecord, size_bytes: int) -> VolumeRecord:
    if size_bytes == record.size_bytes:
        return record
    grown = msgspec.structs.replace(record, size_bytes=size_bytes, counter=record.counter + 1)
    with record_copies(home, record) as copies:
        copies.check(record)
        extend(
            data_path(home, record),
            record.size_bytes,
            size_bytes,
            preallocate=record.preallocated,
        )
        save_records(home, put=[grown])
        copies.refresh(grown)
    return grown


def _await_kernel(file: Path, size_bytes: int) -> None:
    """Wait until the kernel takes the mount's file for as large as it is. Raises MountError.

    What `stat` gives is what the process that serves has answered. The kernel itself passes over
    such an answer when a write ended meanwhile (fs/fuse/inode.c, fuse_change_attributes), and then
    reads nothing behind the old end, which on a loop device is an error; SEEK_END gives its size.
    """
    deadline = time.monotonic() + _KERNEL_SECONDS
    with open(file, "rb", buffering=0) as opened:
        while (present := opened.seek(0, os.SEEK_END)) != size_bytes:
            if time.monotonic() > deadline:
                raise MountError(f"{file} has {present} bytes, it should have {size_bytes}")
            time.sleep(_KERNEL_STEP_SECONDS)
