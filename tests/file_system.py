"""A small file system on a loop device that can lose its power.

The cut is exact: the file system is shut down without writing its log (FS_IOC_SHUTDOWN), so that
everything that was not synced is gone, as after a power cut; then it is mounted again and replays
its journal. A kill of a process proves nothing about syncing, since the page cache survives it.
"""

import errno
import fcntl
import os
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

FS_IOC_SHUTDOWN: Final = 0x8004587D  # linux/fs.h: _IOR('X', 125, __u32)
WITHOUT_WRITING_THE_LOG: Final = 2

# mkfs.xfs makes nothing smaller than 300 MiB; the image is sparse.
SMALLEST_BYTES: Final = {"ext4": 16 * 2**20, "xfs": 320 * 2**20}


@dataclass(frozen=True, slots=True, kw_only=True)
class DisposableFileSystem:
    """Mounted at `directory`; whoever works there must have ended before a cut."""

    directory: Path
    device: Path

    def cut_power(self) -> None:
        """Lose everything that was not synced, and come back."""
        self.shut_down()
        self.come_back()

    def shut_down(self) -> None:
        """Lose everything that was not synced; from here every call fails, as on a dead disk.

        A sync that is under way may end well and be lost all the same, as XFS without us shows
        (5 of 150 times under a writer): so what counts is what had returned before this call.
        """
        descriptor = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(descriptor, FS_IOC_SHUTDOWN, struct.pack("I", WITHOUT_WRITING_THE_LOG))
        finally:
            os.close(descriptor)

    def come_back(self) -> None:
        """Mount again what was shut down; nobody may have a file open there."""
        deadline = time.monotonic() + 60
        while True:
            run("umount", self.directory)
            run("mount", self.device, self.directory)
            try:
                os.close(os.open(self.directory, os.O_TMPFILE | os.O_RDWR, 0o600))
            except OSError as error:
                # A mount namespace that somebody made meanwhile keeps the dead one alive.
                if error.errno != errno.EIO:
                    raise
                assert time.monotonic() < deadline, "somebody keeps the file system mounted"
                time.sleep(0.1)
            else:
                return

    def fill(self, *, leave_bytes: int = 0) -> None:
        """Fill the disk up to `leave_bytes`, durably, with a file named `ballast`."""
        with (self.directory / "ballast").open("wb") as file:
            block_bytes = os.statvfs(self.directory).f_frsize
            for step in (2**20, block_bytes):
                # Also what ext4 keeps back for root, who runs these tests.
                while os.statvfs(self.directory).f_bfree * block_bytes >= leave_bytes + step:
                    try:
                        os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), step)
                    except OSError:
                        break
            os.fsync(file.fileno())


def run(*command: str | Path) -> str:
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{' '.join(map(str, command))}: {done.stderr}"
    return done.stdout


@contextmanager
def disposable_file_system(
    directory: Path, *, kind: str = "ext4", size_bytes: int = 0
) -> Iterator[DisposableFileSystem]:
    """Make one in `directory`/image and mount it at `directory`/mounted until the end."""
    image, mounted = directory / "image", directory / "mounted"
    mounted.mkdir()
    with image.open("wb") as file:
        file.truncate(max(size_bytes, SMALLEST_BYTES[kind]))
    run(f"mkfs.{kind}", "-q", image)
    device = Path(run("losetup", "--find", "--show", image).strip())
    try:
        run("mount", device, mounted)
        try:
            yield DisposableFileSystem(directory=mounted, device=device)
        finally:
            if subprocess.run(["umount", mounted], check=False, capture_output=True).returncode:
                # Lazily, so that a process that a failed test left behind does not keep it.
                run("umount", "--lazy", mounted)
    finally:
        run("losetup", "--detach", device)
        image.unlink()
