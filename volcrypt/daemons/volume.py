"""The process that serves one volume: `python -m volcrypt.daemons.volume --assignment-fd N`.

Life of the process:

 1. Confine itself, then receive the assignment and the keys (`volcrypt.volume.launch`).
 2. Take the owner lock, clear what a killed predecessor left mounted, open data file and change
    map, mount, give up privileges.
 3. Serve. When a first read through the mount has worked, say so to whoever started it.
 4. Where a service manager keeps the mount (`volcrypt.daemons.mount_keeper`), another process takes
    it over after a kill, a failure, or SIGUSR2, at which this one answers what is under way and
    leaves, with exit code 75. That one begins with step 2, and mounts nothing.
 5. End, by SIGTERM, by `unmount` or `stop` on the control socket, or because somebody unmounted it:
    refuse new requests, finish those under way, flush, save the clean change map, unmount.

A lazy volume is filled beside serving it (`volcrypt.daemons.lazy_volume`).

The process never has the PIN of the HSM and does not import what talks to one. Where the volume is
to be fenced when its key is lost, another process asks (`volcrypt.daemons.watcher`), and a loss
ends all requests and the key, but not the process (`volcrypt.daemons.fencing`).
"""

import argparse
import logging
import os
import socket
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Final, NoReturn

import trio

from volcrypt import confinement
from volcrypt.crypto.data_key import DataKey
from volcrypt.daemons.fencing import Fencing
from volcrypt.daemons.journal import fields_of, log_to_journal
from volcrypt.daemons.lazy_volume import LazyVolume
from volcrypt.daemons.migrating import Migrating
from volcrypt.daemons.mount_keeper import MountKeeper
from volcrypt.daemons.served import Served
from volcrypt.daemons.volume_service import Starter, VolumeService, unmount_if_mounted
from volcrypt.daemons.watcher import Watcher
from volcrypt.errors import MountError, VolcryptError
from volcrypt.formats.document import MacSeal
from volcrypt.volume import fuse
from volcrypt.volume.change_map import ChangeMap
from volcrypt.volume.data_plane import DataPlane, mount_plane
from volcrypt.volume.datafile import DataFile
from volcrypt.volume.device import Device
from volcrypt.volume.directory import CHANGE_MAP_FILE
from volcrypt.volume.discard import Discards
from volcrypt.volume.fence import LeaseCheckOrder
from volcrypt.volume.kept_mount import HandedMount, resend_requests
from volcrypt.volume.launch import (
    Assignment,
    clear_log,
    handed_mount,
    receive_assignment,
    remove_runtime_files,
)
from volcrypt.volume.lease_gate import LeaseGate
from volcrypt.volume.mountpoint import check_mount_point, remove_dead_mounts_of
from volcrypt.volume.owner import OwnerLock
from volcrypt.volume.plane.door import Plane
from volcrypt.volume.preserve import PreservedChunks
from volcrypt.volume.volume import Volume
from volcrypt.volume.write_counter import WriteCounter

# To unmount, to keep memory locked that comes later, and to write into a home that is a user's.
_NEEDED_CAPABILITIES: Final = frozenset(
    {confinement.CAP_SYS_ADMIN, confinement.CAP_IPC_LOCK, confinement.CAP_DAC_OVERRIDE}
)

LEFT: Final = 75
"""Exit code: the mount is there, and waits for another process."""

_log: Final = logging.getLogger(__name__)


def serve_volume(
    assignment: Assignment,
    data_key: DataKey | None,
    seal_key: bytearray,
    source_key: DataKey | None,
    target_key: DataKey | None,
    *,
    owner: OwnerLock,
    starter: Starter,
    memory_locked: bool,
    handed: HandedMount | None = None,
) -> bool:
    """Steps 2 to 5 of the life of the process; whether the mount was left to another one, for which
    it is kept. With `handed` that one is taken over.

    Raises VolcryptError with nothing left mounted, but what was handed on and is kept further.
    """
    directory = Path(assignment.volume_directory)
    with ExitStack() as stack:
        stack.enter_context(owner)
        keeper = MountKeeper.of(assignment, owner, handed)
        if keeper is not None:
            stack.callback(keeper.close)
        # The lock is ours, so these files are nobody else's.
        clear_log(assignment)
        stack.callback(remove_runtime_files, assignment)
        # The data first: another home of this host may be serving it.
        data = DataFile.open(
            Path(assignment.data_path),
            assignment.size_bytes,
            # What is absent has to be written, though by nobody else.
            read_only=assignment.read_only and assignment.lazy is None,
            keeps_room=assignment.preallocated,
        )
        open_data = stack.enter_context(ExitStack())
        open_data.callback(data.close)
        if handed is None:
            remove_dead_mounts_of(assignment.volume_id, Path(assignment.socket_path).parent)
            mount_directory = check_mount_point(Path(assignment.mount_directory))
            fuse.check_fuse()
        else:
            mount_directory = Path(assignment.mount_directory)
        changes = ChangeMap.open(
            Path(assignment.live_map_path),
            directory / CHANGE_MAP_FILE,
            volume_id=assignment.volume_id,
            size_bytes=assignment.size_bytes,
            seal=MacSeal(seal_key),
            data_path=Path(assignment.data_path),
        )
        stack.callback(changes.close)
        if assignment.exported:
            changes.distrust()
        if assignment.snapshot_id is not None:
            # Nothing of a mounted snapshot outlives this process.
            Path(assignment.data_path).unlink()
        written = None
        if assignment.count_path is not None and not assignment.read_only:
            written = WriteCounter(Path(assignment.count_path))
            open_data.callback(written.close)
        volume = Volume(
            data,
            size_bytes=assignment.size_bytes,
            data_key=data_key,
            changes=changes,
            written=written,
            read_only=assignment.read_only,
            drops_zeros=assignment.discards.zeros,
        )
        served = Served(
            data=data,
            volume=volume,
            data_key=data_key,
            data_key_id=assignment.data_key_id,
            written=written,
        )
        # Whatever is served by then.
        open_data.pop_all()
        stack.callback(served.close)
        device = Device(
            volume, changes=changes, open_keeper=lambda: PreservedChunks(served.data, directory)
        )
        migrating = Migrating(assignment, served, device, changes, keeper=keeper)
        stack.callback(migrating.close_files)
        if assignment.migration is not None and target_key is not None:
            migrating.go_on(assignment.migration, target_key)
        lazy = None
        if assignment.lazy is not None:
            lazy = LazyVolume(
                assignment.lazy,
                volume_id=assignment.volume_id,
                data=data,
                sync=device.sync,
                data_key=data_key,
                source_key=source_key,
            )
            stack.callback(lazy.wipe)
            device.admission.absent = lazy.chunks
        file_system = fuse.VolumeFileSystem(device)
        plane: Plane | None = None
        try:
            if assignment.data_plane == "native":
                plane = mount_plane(
                    file_system,
                    mount_directory,
                    source=assignment.volume_id,
                    read_only=assignment.read_only,
                    data=data,
                    data_key=data_key,
                    takes_discards=assignment.discards.requests,
                    drops_zeros=assignment.discards.zeros,
                    handed=handed,
                )
                stack.callback(plane.stop)
                device.use_plane(plane, is_marked=changes.is_marked, budget=written)
            else:
                fuse.mount(
                    file_system,
                    mount_directory,
                    source=assignment.volume_id,
                    read_only=assignment.read_only,
                )
        except MountError:
            if handed is None:
                changes.save_clean()  # nobody wrote
            raise
        stack.callback(fuse.close)
        connection = -1
        if plane is not None and keeper is not None:
            connection = plane.duplicate()
            stack.callback(os.close, connection)

        def take_away() -> None:
            if keeper is None or not keeper.is_kept:
                unmount_if_mounted(mount_directory)

        stack.callback(take_away)

        def keep() -> None:
            if handed is not None and keeper is not None:
                keeper.confirm()
            elif plane is not None and keeper is not None:
                agreed = plane.agreement
                if agreed is not None:
                    keeper.keep(connection, agreed)

        def wipe() -> None:
            served.wipe()
            migrating.wipe()
            if plane is not None:
                plane.wipe()
            if lazy is not None:
                lazy.wipe()

        fencing = Fencing(
            device,
            wipe=wipe,
            stop_fetching=None if lazy is None else lazy.chunks.close,
            told=(lambda _: None) if keeper is None else keeper.note_fence,
        )
        watcher: Watcher | None = None
        if assignment.watch is not None:
            if any(isinstance(check, LeaseCheckOrder) for check in assignment.watch.checks):
                device.use_lease(LeaseGate())
                if lazy is not None:
                    lazy.chunks.before_write = device.admission.lease_held
            watcher = Watcher(assignment.watch, lost=fencing.fence, gate=device.admission.lease)
            watcher.start_process()
            migrating.watcher = watcher
            stack.callback(watcher.end)
        if os.geteuid() == 0:
            # With CAP_SYS_RESOURCE libfuse would move requests through a pipe, which is slower.
            confinement.drop_capabilities(keep=_NEEDED_CAPABILITIES)
        service = VolumeService(
            assignment,
            device,
            changes,
            file_system,
            mount_directory=mount_directory,
            memory_locked=memory_locked,
            fencing=fencing,
            watcher=watcher,
            served=served,
            migrating=migrating,
            lazy=lazy,
            plane=None
            if plane is None
            else DataPlane(plane, device, file_system, Discards(device)),
            keep=keep,
            keeper=keeper,
        )
        if handed is not None:
            resend_requests(handed.fuse)
        if plane is not None:
            plane.start()  # its threads have the capabilities of this one
        try:
            _run(service, starter)
        except Exception as error:
            if keeper is not None and keeper.is_kept:
                wipe()
                _break_off(error, starter)
            raise
        return service.has_left


def _run(service: VolumeService, starter: Starter) -> None:
    try:
        trio.run(service.run, starter)
    except ExceptionGroup as group:
        raise _reason(group) from group


def _break_off(error: Exception, starter: Starter) -> NoReturn:
    """End at once: a thread that still answers, or a clean-up, would tell the kernel of errors
    where another process is going to take over."""
    if not isinstance(error, VolcryptError):
        _log.error("the process of a volume failed", exc_info=error)
    starter.tell_error(error)
    logging.shutdown()
    os._exit(1)


def main() -> int:
    parser = argparse.ArgumentParser(prog="volcrypt-volume", allow_abbrev=False)
    parser.add_argument("--assignment-fd", type=int, required=True)
    parser.add_argument("--owner-fd", type=int, required=True)
    parser.add_argument("--foreground", action="store_true")
    parser.add_argument("--take-over", action="store_true")
    arguments = parser.parse_args()
    journal = log_to_journal("volcrypt-volume")
    channel = socket.socket(fileno=arguments.assignment_fd)
    channel.set_inheritable(False)
    starter = Starter(channel, foreground=arguments.foreground)
    confinement.forbid_dumps()
    confinement.become_io_flusher()
    confinement.keep_memory_small()
    memory_locked = confinement.lock_memory()
    data_key: DataKey | None = None
    source_key: DataKey | None = None
    target_key: DataKey | None = None
    seal_key = bytearray()
    try:
        assignment, data_key, seal_key, source_key, target_key = receive_assignment(channel)
        if journal is not None:
            journal.fields.update(fields_of(assignment))
        handed = handed_mount(arguments.owner_fd) if arguments.take_over else None
        has_left = serve_volume(
            assignment,
            data_key,
            seal_key,
            source_key,
            target_key,
            owner=OwnerLock.adopt(arguments.owner_fd, purpose="mount"),
            starter=starter,
            memory_locked=memory_locked,
            handed=handed,
        )
    except VolcryptError as error:
        starter.tell_error(error)
        return 1
    except Exception as error:
        _log.exception("the process of a volume failed")
        starter.tell_error(error)
        return 1
    finally:
        for key in (data_key, source_key, target_key):
            if key is not None:
                key.wipe()
        seal_key[:] = bytes(len(seal_key))
    return LEFT if has_left else 0


def _reason(group: ExceptionGroup[Exception]) -> Exception:
    """The one error to tell of several that tasks met; one for the user goes first."""
    known = group.subgroup(VolcryptError)
    error: Exception = known or group
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


if __name__ == "__main__":
    sys.exit(main())
