"""The process that serves one volume: `python -m volcrypt.daemons.volume --assignment-fd N`.

Life of the process:

 1. Confine itself, then receive the assignment and the keys (`volcrypt.volume.launch`).
 2. Take the owner lock, clear what a killed predecessor left mounted, open data file and change
    map, mount, give up privileges.
 3. Serve. When a first read through the mount has worked, say so to whoever started it.
 4. End, by SIGTERM, by `unmount` or `stop` on the control socket, or because somebody unmounted it:
    refuse new requests, finish those under way, flush, save the clean change map, unmount.

A lazy volume is filled beside serving it (`volcrypt.daemons.lazy_volume`).

The process never has the PIN of the HSM and does not import what talks to one. Where the volume is
to be fenced when its key is lost, another process asks (`volcrypt.daemons.watcher`), and a loss
ends all requests and the key, but not the process (`volcrypt.daemons.fencing`).
"""

import argparse
import logging
import os
import signal
import socket
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import trio

from volcrypt import confinement
from volcrypt.crypto.data_key import DataKey
from volcrypt.daemons.fencing import Fencing
from volcrypt.daemons.lazy_volume import LazyVolume
from volcrypt.daemons.notify import notify
from volcrypt.daemons.space_watch import watch_space
from volcrypt.daemons.watcher import Watcher
from volcrypt.errors import MountError, TryAgainError, VolcryptError
from volcrypt.formats.document import MacSeal
from volcrypt.geometry import UNIT_BYTES
from volcrypt.volume import fuse
from volcrypt.volume.change_map import ChangeMap
from volcrypt.volume.control_messages import (
    StatusAnswer,
)
from volcrypt.volume.control_server import ControlServer
from volcrypt.volume.control_socket import listen
from volcrypt.volume.datafile import DataFile
from volcrypt.volume.device import Device
from volcrypt.volume.directory import CHANGE_MAP_FILE
from volcrypt.volume.error_report import ErrorReport
from volcrypt.volume.launch import (
    Answer,
    Assignment,
    clear_log,
    receive_assignment,
    remove_runtime_files,
    send_answer,
)
from volcrypt.volume.mountpoint import (
    VOLUME_FILE,
    check_mount_point,
    mount_at,
    remove_dead_mounts_of,
    unmount,
)
from volcrypt.volume.owner import OwnerLock
from volcrypt.volume.preserve import PreservedChunks
from volcrypt.volume.volume import Volume
from volcrypt.volume.write_counter import WriteCounter

_FIRST_READ_SECONDS: Final = 30
_TELL_SECONDS: Final = 5
_STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

# To unmount, to keep memory locked that comes later, and to write into a home that is a user's.
_NEEDED_CAPABILITIES: Final = frozenset(
    {confinement.CAP_SYS_ADMIN, confinement.CAP_IPC_LOCK, confinement.CAP_DAC_OVERRIDE}
)

_log: Final = logging.getLogger(__name__)


class Starter:
    """Whoever started this process, and waits to hear that the volume is served."""

    def __init__(self, channel: socket.socket, *, foreground: bool) -> None:
        self._channel = channel
        self._foreground = foreground

    def tell_ready(self) -> None:
        """Raises MountError when nobody is there to hear it: then nobody would unmount either."""
        if not self._foreground:
            try:
                send_answer(self._channel, Answer(pid=os.getpid()))
            except OSError as error:
                raise MountError("whoever asked for the mount is gone") from error
        notify(f"READY=1\nMAINPID={os.getpid()}")
        self._channel.close()

    def tell_error(self, error: Exception) -> None:
        report = ErrorReport.of(error)
        if self._foreground:
            hint = f"hint: {report.hint}\n" if report.hint else ""
            sys.stderr.write(f"error: {report.message}\n{hint}")
            return
        try:
            send_answer(self._channel, Answer(pid=os.getpid(), error=report))
        except OSError:
            _log.error("%s", report.message)  # it was told that all is well, or is gone


class VolumeService:
    """A mounted volume, from the first request to the last."""

    def __init__(
        self,
        assignment: Assignment,
        device: Device,
        changes: ChangeMap,
        file_system: fuse.VolumeFileSystem,
        *,
        mount_directory: Path,
        memory_locked: bool,
        fencing: Fencing,
        watcher: Watcher | None,
        lazy: LazyVolume | None = None,
    ) -> None:
        self._lazy = lazy
        self._assignment = assignment
        self._device = device
        self._changes = changes
        self._file_system = file_system
        self._mount_directory = mount_directory
        self._memory_locked = memory_locked
        self._fencing = fencing
        self._watcher = watcher
        self._ending = trio.Event()
        self._finished = trio.Event()
        self._failure: Exception | None = None

    async def run(self, starter: Starter) -> None:
        """Raises what kept the first read or the last flush from working."""
        server = ControlServer(
            self._device.captures,
            status=self.status,
            lazy=lambda: self._lazy.chunks if self._lazy is not None else None,
            grow=self.grow,
            end=self.end,
        )
        data_path = Path(self._assignment.data_path)
        with listen(Path(self._assignment.socket_path)) as listener:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._serve_fuse)
                nursery.start_soon(self._watch_signals)
                if not self._device.read_only:
                    nursery.start_soon(watch_space, data_path, lambda: self._device.size_bytes)
                await self._first_read()
                if self._watcher is not None:
                    nursery.start_soon(self._watcher.run)
                    await self._watcher.first_round()
                nursery.start_soon(server.serve, listener)
                nursery.start_soon(self._fill)
                starter.tell_ready()
                await self._ending.wait()
                notify("STOPPING=1")
                await self._finish()
                with trio.move_on_after(_TELL_SECONDS):
                    await server.all_told()
                nursery.cancel_scope.cancel()
        if self._failure is not None:
            raise self._failure

    def status(self) -> StatusAnswer:
        return StatusAnswer(
            volume_id=self._assignment.volume_id,
            name=self._assignment.name,
            pid=os.getpid(),
            size_bytes=self._device.size_bytes,
            mount_directory=str(self._mount_directory),
            read_only=self._device.read_only,
            encrypted=self._assignment.has_data_key,
            memory_locked=self._memory_locked,
            capture_running=self._device.captures.is_running,
            parent=self._changes.parent,
            preserve_longest_us=self._device.captures.longest_keep_us,
            sync_failed=self._device.sync_failed,
            fenced=self._fencing.note,
            checks=[] if self._watcher is None else self._watcher.states(),
            watcher_pid=None if self._watcher is None else self._watcher.pid,
            lazy=self._lazy.progress() if self._lazy is not None else None,
            snapshot_id=self._assignment.snapshot_id,
        )

    async def grow(self, size_bytes: int) -> None:
        """Serve a data file that has grown to `size_bytes`."""
        await self._device.grow(size_bytes)
        self._file_system.size_changed()

    async def end(self, forced: bool) -> None:
        """End the service; returns when all data is safe.

        Raises TryAgainError unless `forced` when somebody needs it, and what the last flush raised.
        """
        if not forced and not self._ending.is_set():
            if self._device.captures.is_running:
                raise TryAgainError("a snapshot of the volume is being taken")
            # The kernel knows better than we who uses the mount: it refuses, or there is nobody,
            # and then no request comes any more.
            await trio.to_thread.run_sync(unmount, self._mount_directory)
        self._ending.set()
        await self._finished.wait()
        if self._failure is not None:
            raise self._failure

    async def _serve_fuse(self) -> None:
        await fuse.serve()
        self._ending.set()

    async def _fill(self) -> None:
        """Bring what is absent, until nothing is: then this volume is one like any other."""
        if self._lazy is not None and await self._lazy.fill():
            self._lazy = self._device.absent = None

    async def _watch_signals(self) -> None:
        with trio.open_signal_receiver(*_STOP_SIGNALS) as signals:
            async for _ in signals:
                self._ending.set()

    async def _first_read(self) -> None:
        path = self._mount_directory / VOLUME_FILE
        try:
            with trio.fail_after(_FIRST_READ_SECONDS):
                await trio.to_thread.run_sync(_read_first_unit, path, abandon_on_cancel=True)
        except trio.TooSlowError as error:
            raise MountError(f"the first read of {path} got no answer") from error
        except OSError as error:
            problem = self._lazy.chunks.last_error if self._lazy is not None else None
            if problem is not None:
                raise problem from error
            raise MountError(f"the first read of {path} failed: {error.strerror}") from error

    async def _finish(self) -> None:
        if self._lazy is not None:
            await self._lazy.chunks.close()
        try:
            await self._device.close()
        except (VolcryptError, OSError) as error:
            self._failure = error
        # Nobody writes any more. After a failed flush the map is void, and this makes sure of it.
        await trio.to_thread.run_sync(self._changes.save_clean)
        await trio.to_thread.run_sync(_unmount_if_mounted, self._mount_directory)
        fuse.leave()
        self._finished.set()


def serve_volume(
    assignment: Assignment,
    data_key: DataKey | None,
    seal_key: bytearray,
    source_key: DataKey | None,
    *,
    owner: OwnerLock,
    starter: Starter,
    memory_locked: bool,
) -> None:
    """Steps 2 to 4 of the life of the process. Raises VolcryptError with nothing left mounted."""
    directory = Path(assignment.volume_directory)
    with ExitStack() as stack:
        stack.enter_context(owner)
        # The lock is ours, so these files are nobody else's.
        clear_log(assignment)
        stack.callback(remove_runtime_files, assignment)
        # The data first: another home of this host may be serving it.
        data = DataFile.open(
            Path(assignment.data_path),
            assignment.size_bytes,
            # What is absent has to be written, though by nobody else.
            read_only=assignment.read_only and assignment.lazy is None,
        )
        stack.callback(data.close)
        remove_dead_mounts_of(assignment.volume_id)
        mount_directory = check_mount_point(Path(assignment.mount_directory))
        fuse.check_fuse()
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
            stack.callback(written.close)
        volume = Volume(
            data,
            size_bytes=assignment.size_bytes,
            data_key=data_key,
            changes=changes,
            written=written,
            read_only=assignment.read_only,
        )
        stack.callback(volume.close)
        device = Device(
            volume, changes=changes, open_keeper=lambda: PreservedChunks(data, directory)
        )
        lazy = None
        if assignment.lazy is not None:
            lazy = LazyVolume(
                assignment.lazy,
                volume_id=assignment.volume_id,
                data=data,
                sync=volume.flush,
                data_key=data_key,
                source_key=source_key,
            )
            stack.callback(lazy.wipe)
            device.absent = lazy.chunks
        file_system = fuse.VolumeFileSystem(device)
        try:
            fuse.mount(
                file_system,
                mount_directory,
                source=assignment.volume_id,
                read_only=assignment.read_only,
            )
        except MountError:
            changes.save_clean()  # nobody wrote
            raise
        stack.callback(fuse.close)
        stack.callback(_unmount_if_mounted, mount_directory)

        def wipe() -> None:
            volume.close()
            if data_key is not None:
                data_key.wipe()
            if lazy is not None:
                lazy.wipe()

        fencing = Fencing(
            device, wipe=wipe, stop_fetching=None if lazy is None else lazy.chunks.close
        )
        watcher: Watcher | None = None
        if assignment.watch is not None:
            watcher = Watcher(assignment.watch, lost=fencing.fence)
            watcher.start_process()
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
            lazy=lazy,
        )
        try:
            trio.run(service.run, starter)
        except ExceptionGroup as group:
            raise _reason(group) from group


def main() -> int:
    parser = argparse.ArgumentParser(prog="volcrypt-volume", allow_abbrev=False)
    parser.add_argument("--assignment-fd", type=int, required=True)
    parser.add_argument("--owner-fd", type=int, required=True)
    parser.add_argument("--foreground", action="store_true")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    channel = socket.socket(fileno=arguments.assignment_fd)
    channel.set_inheritable(False)
    starter = Starter(channel, foreground=arguments.foreground)
    confinement.forbid_dumps()
    confinement.become_io_flusher()
    confinement.keep_memory_small()
    memory_locked = confinement.lock_memory()
    data_key: DataKey | None = None
    source_key: DataKey | None = None
    seal_key = bytearray()
    try:
        assignment, data_key, seal_key, source_key = receive_assignment(channel)
        serve_volume(
            assignment,
            data_key,
            seal_key,
            source_key,
            owner=OwnerLock.adopt(arguments.owner_fd, purpose="mount"),
            starter=starter,
            memory_locked=memory_locked,
        )
    except VolcryptError as error:
        starter.tell_error(error)
        return 1
    except Exception as error:
        _log.exception("the process of a volume failed")
        starter.tell_error(error)
        return 1
    finally:
        for key in (data_key, source_key):
            if key is not None:
                key.wipe()
        seal_key[:] = bytes(len(seal_key))
    return 0


def _read_first_unit(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if len(os.pread(descriptor, UNIT_BYTES, 0)) != UNIT_BYTES:
            raise MountError(f"the first read of {path} was cut short")
    finally:
        os.close(descriptor)


def _reason(group: ExceptionGroup[Exception]) -> Exception:
    """The one error to tell of several that tasks met; one for the user goes first."""
    known = group.subgroup(VolcryptError)
    error: Exception = known or group
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


def _unmount_if_mounted(directory: Path) -> None:
    if mount_at(directory) is not None:
        unmount(directory, detach=True)


if __name__ == "__main__":
    sys.exit(main())
