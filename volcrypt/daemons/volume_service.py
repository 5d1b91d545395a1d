"""A mounted volume from its first request to its last, and who waits to hear of it."""

import logging
import os
import signal
import socket
import stat
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

import trio

from volcrypt.daemons.fencing import Fencing
from volcrypt.daemons.lazy_volume import LazyVolume
from volcrypt.daemons.lease_keeper import keep_lease
from volcrypt.daemons.migrating import Migrating
from volcrypt.daemons.mount_keeper import MountKeeper
from volcrypt.daemons.notify import notify
from volcrypt.daemons.served import Served
from volcrypt.daemons.space_watch import watch_space
from volcrypt.daemons.watchdog import Watchdog
from volcrypt.daemons.watcher import Watcher
from volcrypt.errors import MountError, TryAgainError, VolcryptError
from volcrypt.geometry import UNIT_BYTES
from volcrypt.volume import fuse
from volcrypt.volume.change_map import ChangeMap
from volcrypt.volume.control_messages import MetricsAnswer, StatusAnswer
from volcrypt.volume.control_server import ControlServer
from volcrypt.volume.control_socket import listen
from volcrypt.volume.data_plane import DataPlane
from volcrypt.volume.device import Device
from volcrypt.volume.error_report import ErrorReport
from volcrypt.volume.kept_mount import LEAVE_SIGNAL
from volcrypt.volume.launch import Answer, Assignment, send_answer
from volcrypt.volume.mountpoint import VOLUME_FILE, mount_at, unmount
from volcrypt.volume.write_counter import read_count

_FIRST_READ_SECONDS: Final = 30
_TELL_SECONDS: Final = 5
_LEAVE_SECONDS: Final = 10
_STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

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
        if self._foreground:
            notify(f"READY=1\nMAINPID={os.getpid()}")

    async def let_go(self) -> None:
        """Returns when this process is the one that systemd watches and listens to, if it does:
        when the command that has told it so has ended."""
        if not self._foreground and os.environ.get("NOTIFY_SOCKET"):
            await trio.lowlevel.wait_readable(self._channel)
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
        served: Served,
        migrating: Migrating,
        lazy: LazyVolume | None = None,
        plane: DataPlane | None = None,
        keep: Callable[[], None] = lambda: None,
        keeper: MountKeeper | None = None,
    ) -> None:
        """`keep` has the mount kept by the `keeper`."""
        self._served = served
        self._migrating = migrating
        self.has_left = False
        """Whether it ended without ending the mount, which another process takes over."""
        self._keep = keep
        self._keeper = keeper
        if plane is not None:
            plane.may_leave = lambda: self._is_kept
        self._lazy = lazy
        self._plane = plane
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
        self._watchdog = Watchdog(partial(_read_first_unit, mount_directory / VOLUME_FILE))

    async def run(self, starter: Starter) -> None:
        """Raises what kept the first read or the last flush from working."""
        server = ControlServer(
            self._device.captures,
            status=self.status,
            metrics=self.metrics,
            lazy=lambda: self._lazy.chunks if self._lazy is not None else None,
            data_key_id=lambda: self._served.data_key_id,
            migrations=self._migrating,
            grow=self.grow,
            end=self.end,
        )
        data_path = Path(self._assignment.data_path)
        with listen(Path(self._assignment.socket_path)) as listener:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._serve_fuse)
                nursery.start_soon(self._serve_plane)
                nursery.start_soon(self._watch_signals)
                if not self._device.read_only:
                    nursery.start_soon(watch_space, data_path, lambda: self._device.size_bytes)
                # First: what is absent is not fetched before the lease is known to be held.
                if self._watcher is not None:
                    nursery.start_soon(self._watcher.run)
                    await self._watcher.first_round()
                if self._device.admission.lease is not None:
                    nursery.start_soon(keep_lease, self._device.admission.lease, self._device)
                await self._first_read()
                # A volume may have grown when nobody was there to tell the kernel.
                self._file_system.size_changed()
                nursery.start_soon(server.serve, listener)
                nursery.start_soon(self._fill)
                starter.tell_ready()
                nursery.start_soon(self._report, starter)
                _log.info("%s is served at %s", self._assignment.label, self._mount_directory)
                await self._ending.wait()
                notify("STOPPING=1")
                await self._finish()
                with trio.move_on_after(_TELL_SECONDS):
                    await server.all_told()
                nursery.cancel_scope.cancel()
        if self._failure is not None:
            raise self._failure
        _log.info("%s is served no more", self._assignment.label)

    def status(self) -> StatusAnswer:
        fast = self._plane.counts if self._plane is not None else None
        return StatusAnswer(
            volume_id=self._assignment.volume_id,
            name=self._assignment.name,
            pid=os.getpid(),
            size_bytes=self._device.size_bytes,
            mount_directory=str(self._mount_directory),
            read_only=self._device.read_only,
            encrypted=self._served.is_encrypted,
            memory_locked=self._memory_locked,
            capture_running=self._device.captures.is_running,
            parent=self._changes.parent,
            preserve_longest_us=self._device.captures.longest_keep_us,
            sync_failed=self._device.sync_failed,
            fenced=self._fencing.note,
            writes_wait=self._device.admission.lease is not None
            and not self._device.admission.lease.is_open,
            checks=[] if self._watcher is None else self._watcher.states(),
            watcher_pid=None if self._watcher is None else self._watcher.pid,
            lazy=self._lazy.progress() if self._lazy is not None else None,
            snapshot_id=self._assignment.snapshot_id,
            data_plane=self._assignment.data_plane,
            discard=self._assignment.discards.requests,
            discard_zeros=self._assignment.discards.zeros,
            fast_requests=fast.fast if fast is not None else 0,
            read_bytes=self._device.read_bytes + (fast.read_bytes if fast is not None else 0),
            written_bytes=self._device.written_bytes
            + (fast.written_bytes if fast is not None else 0),
            kept=self._is_kept,
            data_key_id=self._served.data_key_id,
            migration=self._migrating.state(),
        )

    async def metrics(self) -> MetricsAnswer:
        requests = self._file_system.stats.counts()
        if self._plane is not None:
            requests += self._plane.request_counts()
        # The file system may be a remote one that hangs.
        free_bytes, encrypted_bytes = await trio.to_thread.run_sync(
            _room_of, self._assignment, abandon_on_cancel=True
        )
        return MetricsAnswer(
            requests=requests, free_bytes=free_bytes, encrypted_bytes=encrypted_bytes
        )

    @property
    def _is_kept(self) -> bool:
        return self._keeper is not None and self._keeper.is_kept

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
            async with self._watchdog.paused():
                await trio.to_thread.run_sync(unmount, self._mount_directory)
        self._ending.set()
        await self._finished.wait()
        if self._failure is not None:
            raise self._failure

    async def _serve_plane(self) -> None:
        if self._plane is not None:
            await self._plane.run(ended=fuse.leave)

    async def _serve_fuse(self) -> None:
        await fuse.serve()
        self._ending.set()

    async def _fill(self) -> None:
        """Bring what is absent, until nothing is: then this volume is one like any other."""
        if self._lazy is not None and await self._lazy.fill():
            self._lazy = self._device.admission.absent = None

    async def _report(self, starter: Starter) -> None:
        await starter.let_go()
        await trio.to_thread.run_sync(self._keep)
        await self._watchdog.run()

    async def _watch_signals(self) -> None:
        with trio.open_signal_receiver(*_STOP_SIGNALS, LEAVE_SIGNAL) as signals:
            async for number in signals:
                if number == LEAVE_SIGNAL and not self._is_kept:
                    _log.warning("nobody keeps the mount, so it cannot be left to another process")
                    continue
                if number == LEAVE_SIGNAL and not self._ending.is_set():
                    self.has_left = True
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
        if self.has_left and self._plane is not None:
            with trio.move_on_after(_LEAVE_SECONDS) as scope:
                await self._plane.leave()
            if scope.cancelled_caught:
                raise TryAgainError("what hangs is left to the next process, as after a kill")
        if self._lazy is not None:
            await self._lazy.chunks.close()
        try:
            await self._device.close()
        except (VolcryptError, OSError) as error:
            self._failure = error
            self.has_left = False  # who takes over must not believe in what was lost
        await self._migrating.close()
        if self.has_left:
            fuse.leave()
            self._finished.set()
            return
        # Nobody writes any more. After a failed flush the map is void, and this makes sure of it.
        await trio.to_thread.run_sync(self._changes.save_clean)
        await trio.to_thread.run_sync(unmount_if_mounted, self._mount_directory)
        if self._keeper is not None:
            await trio.to_thread.run_sync(self._keeper.forget)
        fuse.leave()
        self._finished.set()


def _room_of(assignment: Assignment) -> tuple[int | None, int | None]:
    """`free_bytes` and `encrypted_bytes` of `MetricsAnswer`."""
    count_path = assignment.count_path
    encrypted_bytes = None if count_path is None else read_count(Path(count_path))
    try:
        data_path = Path(assignment.data_path)
        if not stat.S_ISREG(data_path.lstat().st_mode):
            return None, encrypted_bytes
        space = os.statvfs(data_path.parent)
    except OSError:
        return None, encrypted_bytes
    return space.f_bavail * space.f_frsize, encrypted_bytes


def _read_first_unit(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if len(os.pread(descriptor, UNIT_BYTES, 0)) != UNIT_BYTES:
            raise MountError(f"the first read of {path} was cut short")
    finally:
        os.close(descriptor)


def unmount_if_mounted(directory: Path) -> None:
    if mount_at(directory) is not None:
        unmount(directory, detach=True)
