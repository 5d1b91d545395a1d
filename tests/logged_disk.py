"""A file system on a disk whose writes and flushes are logged (`block_log.py`), and the same file
system as it would be found if the power had gone at any of them."""

import filecmp
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from tests.block_log import BlockLog, entries_in
from tests.file_system import SMALLEST_BYTES, run

Logger = Literal["own", "qemu"]

_MOUNT_OPTIONS: Final = {"ext4": "rw", "xfs": "nouuid"}


@dataclass(kw_only=True)
class LoggedDisk:
    """Mounted at `directory` while it is `logged`; each `cut` is mounted there afterwards."""

    directory: Path
    files: Path
    kind: str
    logger: Logger

    @property
    def log(self) -> Path:
        return self.files / "log"

    def entries(self) -> int:
        """How many writes and flushes the disk has seen."""
        return entries_in(self.log)

    @contextmanager
    def logged(self) -> Iterator[None]:
        """Mounted, and every write logged, to the end of the context, an orderly unmount."""
        image = self.files / "image"
        shutil.copyfile(self.files / "begin", image)
        with ExitStack() as stack:
            disk = stack.enter_context(_served(self.logger, image, self.log, self.files))
            stack.enter_context(_mounted(disk, self.directory, self.kind))
            yield

    def cuts(self, points: list[int], dice: random.Random | None) -> "Iterator[tuple[int, Cut]]":
        """The disk as it is found when the power went after so many entries, for each of `points`
        in order: what was flushed by then, and `BlockLog.replay_unflushed`."""
        base, image = self.files / "base", self.files / "found"
        _copy(self.files / "begin", base)
        done = 0
        with BlockLog(self.log) as log:
            flushes = log.flushes()
            for point in sorted(points):
                durable = max((each for each in flushes if each <= point), default=0)
                log.replay(base, done, durable)
                done = durable
                _copy(base, image)
                log.replay_unflushed(image, done, point, dice)
                yield point, Cut(self, image)

    def is_logged_whole(self) -> bool:
        """Whether the log says all that was done to the disk: replayed, it gives the same bytes."""
        replayed = self.files / "base"
        _copy(self.files / "begin", replayed)
        with BlockLog(self.log) as log:
            log.replay(replayed, 0, len(log.entries))
        return filecmp.cmp(replayed, self.files / "image", shallow=False)

    def flushes(self) -> list[int]:
        with BlockLog(self.log) as log:
            return log.flushes()


@dataclass(frozen=True, slots=True)
class Cut:
    """A disk after a power cut."""

    disk: LoggedDisk
    image: Path

    @contextmanager
    def mounted(self) -> Iterator[Path]:
        """Mounted where the disk was; the journal is replayed, and nothing is repaired."""
        with _mounted(self.image, self.disk.directory, self.disk.kind):
            yield self.disk.directory

    def check(self) -> None:
        """The file system is sound; after `mounted`, whose mount replayed the journal."""
        if self.disk.kind == "ext4":
            run("e2fsck", "-fn", self.image)
        else:
            run("xfs_repair", "-n", self.image)


@contextmanager
def logged_disk(
    directory: Path, *, kind: str = "ext4", logger: Logger = "own", size_bytes: int = 0
) -> Iterator[LoggedDisk]:
    """One with an empty file system, to be mounted at `directory`; its files are in memory."""
    directory.mkdir()
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="volcrypt-test-") as files:
        begin = Path(files, "begin")
        with begin.open("wb") as file:
            file.truncate(max(size_bytes, SMALLEST_BYTES[kind]))
        run(f"mkfs.{kind}", "-q", begin)
        yield LoggedDisk(directory=directory, files=Path(files), kind=kind, logger=logger)


@contextmanager
def _mounted(disk: Path, directory: Path, kind: str) -> Iterator[None]:
    """The file system in a file, by a loop device that goes with it."""
    device = run("losetup", "--find", "--show", disk).strip()
    try:
        run("mount", "-o", _MOUNT_OPTIONS[kind], device, directory)
        try:
            yield
        finally:
            if subprocess.run(["umount", directory], check=False, capture_output=True).returncode:
                # Lazily, so that a process that a failed test left behind does not keep it.
                run("umount", "--lazy", directory)
    finally:
        run("losetup", "--detach", device)


@contextmanager
def _served(logger: Logger, image: Path, log: Path, files: Path) -> Iterator[Path]:
    """The file that is a disk, and whose writes are logged."""
    point = files / "served"
    if logger == "own":
        point.mkdir()
        disk = point / "volume"
        command = [sys.executable, "-m", "tests.block_log", str(image), str(log), str(point)]
    else:
        disk = point
        disk.touch()
        log.touch()
        command = ["qemu-storage-daemon"]
        for name, path in (("image", image), ("log", log)):
            command += ["--blockdev", f"driver=file,node-name={name},filename={path}"]
        logs = "driver=blklogwrites,node-name=logs,file=image,log=log,log-super-update-interval=1"
        command += ["--blockdev", logs]
        command += ["--export", f"type=fuse,id=e,node-name=logs,mountpoint={point},writable=on"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 30
            while not (os.path.ismount(point) and disk.exists() and disk.stat().st_size):
                assert process.poll() is None, "the disk's process has ended"
                assert time.monotonic() < deadline, "the disk does not come up"
                time.sleep(0.01)
            yield disk
            run("umount", point)
        except BaseException:
            process.kill()
            subprocess.run(["umount", "--lazy", point], check=False, capture_output=True)
            raise
        if logger == "qemu":
            process.terminate()
        process.wait(30)


def _copy(source: Path, target: Path) -> None:
    subprocess.run(["cp", "--sparse=always", source, target], check=True)
