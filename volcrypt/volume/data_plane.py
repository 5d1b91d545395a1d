"""DataPlane: the trio side of the compiled data plane. It answers what the plane hands on.

It knows the device and the plane's requests; the protocol of ownership is the device's business.
Every request is answered once, also when it fails or is cancelled.
"""

import errno
import os
import socket
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import trio

from volcrypt.crypto.data_key import DataKey
from volcrypt.errors import MountError
from volcrypt.volume import fuse, request_stats
from volcrypt.volume.allocation import UNSUPPORTED
from volcrypt.volume.datafile import DataFile
from volcrypt.volume.device import Device
from volcrypt.volume.discard import Discards
from volcrypt.volume.fuse import VolumeFileSystem, errno_of
from volcrypt.volume.kept_mount import HandedMount, KeptMount
from volcrypt.volume.mounting import mount_connection
from volcrypt.volume.mountpoint import unmount
from volcrypt.volume.plane.door import DISCARD, MAX_TRANSFER, READ, WRITE, Counts, Plane, Request
from volcrypt.volume.request_stats import RequestCounts

_VERBS: Final = {READ: "read", WRITE: "write", DISCARD: "discard"}
_KEEP_SIZE: Final = 1  # linux/falloc.h

_LEAVING_STEP_SECONDS: Final = 0.002

LANES: Final = 2
"""Threads that work; a relief is added. One is enough for one caller, and more than there are
processors are of no use."""


def mount_plane(
    file_system: VolumeFileSystem,
    directory: Path,
    *,
    source: str,
    read_only: bool,
    data: DataFile,
    data_key: DataKey | None,
    takes_discards: bool = False,
    drops_zeros: bool = False,
    handed: HandedMount | None = None,
) -> Plane:
    """Mount as `fuse.mount` does, with a data plane between the kernel and the file system; or take
    over what was `handed` on. Start it, and stop it after `fuse.close`. Raises MountError with the
    reason."""
    with ExitStack() as undo:
        if handed is None:
            device = mount_connection(directory, source=source, read_only=read_only)
            undo.callback(os.close, device)
            undo.callback(unmount, directory, detach=True)
        else:
            device = os.dup(handed.fuse)
            undo.callback(os.close, device)
        control = undo.enter_context(fuse.connect(file_system))
        undo.callback(fuse.close)
        if handed is not None:
            _introduce(handed.mount, control)
        try:
            plane = Plane(
                device,
                control.fileno(),
                data.fileno(),
                size_bytes=data.size_bytes,
                key=None if data_key is None else data_key.view(),
                lanes=LANES,
                takes_discards=takes_discards,
                drops_zeros=drops_zeros,
            )
        except (OSError, MemoryError) as error:
            raise MountError(f"no data plane: {error}") from error
        control.detach()
        undo.pop_all()
    file_system.invalidate = plane.invalidate_attributes
    return plane


def _introduce(mount: KeptMount, control: socket.socket) -> None:
    """Have libfuse, at the other end of `control`, believe that it had the kernel's FUSE_INIT."""
    if mount.max_write > MAX_TRANSFER:
        raise MountError(
            f"the kernel sends writes of {mount.max_write} bytes, and this release takes "
            f"{MAX_TRANSFER} at most"
        )
    # Its reply is the plane's to drop: nobody asked.
    control.send(mount.introduction())


class DataPlane:
    def __init__(
        self,
        plane: Plane,
        device: Device,
        file_system: VolumeFileSystem,
        discards: Discards | None = None,
    ) -> None:
        """`discards` for a plane that takes them. While `may_leave` says so, what is cancelled is
        not answered: the kernel sends it again, to who takes the mount over."""
        self.may_leave: Callable[[], bool] = lambda: False
        self._plane = plane
        self._discards = discards
        self._device = device
        self._file_system = file_system
        self._stats = file_system.stats

    @property
    def counts(self) -> Counts:
        """What the plane answered without Python, since it began."""
        return self._plane.counts

    def request_counts(self) -> list[RequestCounts]:
        """Those that the plane answered without Python."""
        counts = self._plane.counts
        return [
            RequestCounts(
                operation=operation,
                data_plane="native",
                latencies=list(latencies.requests),
                nanoseconds=latencies.nanoseconds,
                moved_bytes=moved_bytes,
                errors=0,
            )
            for operation, kind, moved_bytes in (
                (request_stats.READ, READ, counts.read_bytes),
                (request_stats.WRITE, WRITE, counts.written_bytes),
            )
            for latencies in [self._plane.latencies(kind)]
        ]

    async def run(self, *, ended: Callable[[], None] = lambda: None) -> None:
        """Answer requests, and tell `ended` at once when the connection to the kernel is gone.

        Runs until it is cancelled: when one lane finds that all is over, another may still be at
        the medium, and the end of the volume waits to hear when that is done.
        """
        event = self._plane.event_descriptor
        has_told = False
        async with trio.open_nursery() as nursery:
            while True:
                if not has_told and self._plane.has_ended:
                    has_told = True
                    ended()
                await trio.lowlevel.wait_readable(event)
                os.eventfd_read(event)
                self._device.reap()
                while (request := self._plane.next_request()) is not None:
                    nursery.start_soon(self._answer, request)

    async def leave(self) -> None:
        """Take no more requests, for good; returns when all that were taken are answered."""
        while not self._plane.leave():  # noqa: ASYNC110 - it kicks the lanes, too
            await trio.sleep(_LEAVING_STEP_SECONDS)

    async def _answer(self, request: Request) -> None:
        number = errno_of(OSError())
        answered = False
        try:
            if request.kind == READ:
                with self._stats.measuring(request_stats.READ) as measured:
                    data = await self._device.read(request.offset, request.size)
                    measured.moved_bytes = len(data)
                answered = True
                self._plane.answer_read(request.entry, data)
            elif request.data is not None:
                with self._stats.measuring(request_stats.WRITE) as measured:
                    size = await self._device.write(request.offset, request.data)
                    if request.mode & os.O_DSYNC:
                        await self._device.flush()
                    measured.moved_bytes = size
                answered = True
                self._plane.answer_write(request.entry, size)
            else:
                assert self._discards is not None, "internal error: a discard that nobody takes"
                keeps_size = bool(request.mode & _KEEP_SIZE)
                with self._stats.measuring(request_stats.DISCARD) as measured:
                    await self._discards.discard(
                        request.offset, request.size, keeps_size=keeps_size
                    )
                    measured.moved_bytes = request.size
                answered = True
                self._plane.answer_discard(request.entry)
        except trio.Cancelled:
            answered = self.may_leave()
            raise
        except Exception as error:
            number = errno_of(error)
            if request.kind == DISCARD and _is_unsupported(error):
                number = errno.EOPNOTSUPP
            self._file_system.report(_VERBS[request.kind], error, number)
        finally:
            if not answered:
                self._plane.answer_error(request.entry, number)


def _is_unsupported(error: Exception) -> bool:
    """Whether the medium cannot discard. Unlike ENOSYS the kernel does not remember that, and a
    loop device asks for no more."""
    return isinstance(error, OSError) and error.errno in UNSUPPORTED
