"""A volume with a key of its own, served by the real process on a real mount, without any KMS.

`served_volumes` takes away whatever a test left: loop devices, mounts, processes.
"""

import os
import secrets
import select
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from tests import planes
from tests.service_manager import ServiceManager
from volcrypt.crypto.data_key import DataKey
from volcrypt.errors import VolcryptError
from volcrypt.names import VolumeId, make_volume_id
from volcrypt.operations.kept_mounts import adopted_owner
from volcrypt.volume.control import ControlClient
from volcrypt.volume.datafile import DataFile
from volcrypt.volume.kept_mount import KEPT, HandedMount
from volcrypt.volume.launch import (
    NO_DISCARDS,
    Assignment,
    DataPlaneKind,
    Discarding,
    spawn_daemon,
)
from volcrypt.volume.loop import detach_loop, loops_of
from volcrypt.volume.mountpoint import FS_TYPE, VOLUME_FILE, mount_at, mounts, unmount
from volcrypt.volume.owner import hold_volume


@dataclass(kw_only=True)
class ServedVolume:
    """`directory` holds data and records, `runtime` lies on tmpfs. Without a `data_plane` it is the
    one that tests run on. With a `manager` the mount is kept there."""

    directory: Path
    runtime: Path
    size_bytes: int
    encrypted: bool = True
    data_plane: DataPlaneKind | None = None
    discards: Discarding = NO_DISCARDS
    preallocated: bool = False
    manager: ServiceManager | None = None
    volume_id: VolumeId = field(default_factory=lambda: make_volume_id(secrets.token_bytes(9)))
    key: bytes = field(default_factory=lambda: secrets.token_bytes(64))
    seal_key: bytes = field(default_factory=lambda: secrets.token_bytes(32))
    pid: int = 0

    def __post_init__(self) -> None:
        self.mount_directory.mkdir(parents=True, exist_ok=True)
        DataFile.create(self.data_path, self.size_bytes, preallocate=self.preallocated).close()

    @property
    def data_path(self) -> Path:
        return self.directory / "data"

    @property
    def mount_directory(self) -> Path:
        return self.directory / "mnt"

    @property
    def file(self) -> Path:
        return self.mount_directory / VOLUME_FILE

    @property
    def log(self) -> Path:
        return self.runtime / f"{self.volume_id}.log"

    def assignment(self, *, read_only: bool = False) -> Assignment:
        return Assignment(
            volume_id=self.volume_id,
            name="books",
            size_bytes=self.size_bytes,
            data_path=str(self.data_path),
            read_only=read_only,
            has_data_key=self.encrypted,
            volume_directory=str(self.directory),
            mount_directory=str(self.mount_directory),
            live_map_path=str(self.runtime / f"{self.volume_id}.map"),
            socket_path=str(self.runtime / f"{self.volume_id}.sock"),
            log_path=str(self.log),
            data_plane=self.data_plane or planes.data_plane(),
            discards=self.discards,
            preallocated=self.preallocated,
            keeper=None if self.manager is None else str(self.manager.address),
        )

    def data_key(self) -> DataKey | None:
        return DataKey(bytearray(self.key)) if self.encrypted else None

    def mount(self, *, read_only: bool = False) -> None:
        assignment = self.assignment(read_only=read_only)
        with hold_volume(Path(assignment.volume_directory), purpose="mount") as owner:
            self.pid = spawn_daemon(assignment, self.data_key(), bytearray(self.seal_key), owner)
            owner.let_go()
        if self.manager is not None and self.manager.has_room:
            self.manager.wait_until_kept(KEPT)
            self._wait_until_it_knows()

    def _wait_until_it_knows(self) -> None:
        deadline = time.monotonic() + 30
        with self.control() as control:
            while not control.status().kept:
                assert time.monotonic() < deadline, "it does not know that it is kept"
                time.sleep(0.01)

    def take_over(self) -> None:
        """Go on with the mount that the manager kept."""
        assert self.manager is not None
        handed = HandedMount.find(self.manager.passed())
        assert handed is not None
        assert handed.is_alive()
        try:
            with adopted_owner(handed) as owner:
                self.pid = spawn_daemon(
                    self.assignment(read_only=handed.mount.read_only),
                    self.data_key(),
                    bytearray(self.seal_key),
                    owner,
                    handed=handed,
                )
                owner.let_go()
        finally:
            handed.close()

    def control(self) -> ControlClient:
        return ControlClient(self.runtime / f"{self.volume_id}.sock", volume="books")

    def unmount(self) -> None:
        with self.control() as client:
            client.unmount()
        self.reap()

    def signal(self, number: signal.Signals) -> int:
        """Send a signal, and wait for the end: its exit code, or minus the signal's number."""
        os.kill(self.pid, number)
        return self.reap()

    def reap(self) -> int:
        """The exit code of the process, which is about to end."""
        with open(os.pidfd_open(self.pid)) as process:
            assert select.select([process], [], [], 60)[0], "the process does not end"
        _, status = os.waitpid(self.pid, 0)
        self.pid = 0
        return os.waitstatus_to_exitcode(status)

    def clean_up(self) -> None:
        for device in loops_of(self.file):
            with suppress(VolcryptError):
                detach_loop(device, volume="books")
        if self.pid:
            with suppress(ProcessLookupError, ChildProcessError):
                self.signal(signal.SIGKILL)
        while any(m.mount_point == str(self.mount_directory) for m in mounts()):
            mount = mount_at(self.mount_directory)
            assert mount is not None
            assert mount.fs_type == FS_TYPE
            unmount(self.mount_directory, detach=True)


class OpenFile:
    """The file of a mount, opened by this process."""

    def __init__(self, volume: ServedVolume, flags: int = os.O_RDWR) -> None:
        self.descriptor = os.open(volume.file, flags | os.O_CLOEXEC)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # of a dead mount; the descriptor is closed all the same
            os.close(self.descriptor)

    def read(self, offset: int, length: int) -> bytes:
        return os.pread(self.descriptor, length, offset)

    def write(self, offset: int, data: bytes) -> None:
        assert os.pwrite(self.descriptor, data, offset) == len(data)

    def sync(self) -> None:
        os.fsync(self.descriptor)


@contextmanager
def served_volume(
    directory: Path,
    *,
    size_bytes: int = 8 * 2**20,
    encrypted: bool = True,
    data_plane: DataPlaneKind | None = None,
    discards: Discarding = NO_DISCARDS,
    preallocated: bool = False,
    manager: ServiceManager | None = None,
) -> Iterator[ServedVolume]:
    """One that is not mounted yet; its runtime files lie in a directory of /dev/shm."""
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="volcrypt-test-") as runtime:
        volume = ServedVolume(
            directory=directory,
            runtime=Path(runtime),
            size_bytes=size_bytes,
            encrypted=encrypted,
            data_plane=data_plane,
            discards=discards,
            preallocated=preallocated,
            manager=manager,
        )
        try:
            yield volume
        finally:
            volume.clean_up()
