"""Power cuts under everything: ext4 on a loop device on a mounted volume, whose data file lies on a
file system that loses its power (`tests/file_system.py`).

A writer notes a file on tmpfs when the file and its name are synced. Afterwards everything is taken
down and put up as by a reboot, without any repair, and each noted file is whole. In the control run
the process syncs nothing (strace answers in the kernel's place), and files are lost.
"""

import mmap
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.file_system import DisposableFileSystem, disposable_file_system, run
from tests.served_volume import ServedVolume, served_volume
from tests.strace import calls_in, injection, strace
from volcrypt.errors import VolcryptError
from volcrypt.geometry import SECTOR_BYTES, UNIT_BYTES
from volcrypt.volume.loop import attach_loop, detach_loop

SIZE = 40 * 2**20
FILES = 30

WRITER = """
import os, sys
from tests.crash.test_stack_power_cut import FILES, content
point, noted = sys.argv[1], open(sys.argv[2], "w")
directory = os.open(point, os.O_RDONLY)
for number in range(1, 10**6):
    path = f"{point}/file-{number % FILES}"
    # Overwritten in place, or a new file: the data alone is synced, or its name as well.
    with open(path, "r+b" if os.path.exists(path) else "wb") as file:
        file.write(content(number))
        file.flush()
        os.fdatasync(file.fileno())
    os.fsync(directory)
    print(number, file=noted, flush=True)
"""


def content(number: int) -> bytes:
    """Of one length, and every 16 bytes say which file it is."""
    return b"%15d\n" % number * 2000


@dataclass(kw_only=True)
class Stack:
    disk: DisposableFileSystem
    volume: ServedVolume
    point: Path
    device: Path | None = None

    def put_up(self) -> None:
        self.volume.mount()
        self.device = attach_loop(self.volume.file, sector_size=UNIT_BYTES, read_only=False)

    def mount(self, *options: str) -> None:
        assert self.device is not None
        run("mount", *options, self.device, self.point)

    def take_down(self) -> None:
        """In order; what was written but not synced is safe afterwards, too."""
        assert self.device is not None
        if os.path.ismount(self.point):
            run("umount", self.point)
        detach_loop(self.device, volume="books")
        self.device = None
        self.volume.unmount()

    def fall_down(self) -> None:
        """After the disk has died: nothing that still runs can do any more about it."""
        if os.path.ismount(self.point):
            subprocess.run(["umount", self.point], check=False, capture_output=True)
        if self.device is not None:
            with suppress(VolcryptError):  # its last data is lost, indeed
                detach_loop(self.device, volume="books")
            self.device = None
        if self.volume.pid:
            self.volume.signal(signal.SIGKILL)
        self.volume.clean_up()
        # tmpfs does not outlive a power cut.
        for path in self.volume.runtime.iterdir():
            path.unlink()


@contextmanager
def stack_on(directory: Path, kind: str, block_size: int = 4096) -> Iterator[Stack]:
    point = directory / "point"
    point.mkdir()
    with (
        disposable_file_system(directory, kind=kind, size_bytes=96 * 2**20) as disk,
        served_volume(disk.directory / "home", size_bytes=SIZE) as volume,
    ):
        stack = Stack(disk=disk, volume=volume, point=point)
        try:
            stack.put_up()
            assert stack.device is not None
            run("mkfs.ext4", "-q", "-b", str(block_size), stack.device)
            run("sync", stack.device)
            yield stack
        finally:
            stack.fall_down()


@contextmanager
def writing(stack: Stack) -> Iterator[Path]:
    """A writer is at work, and has noted its first files; gives where it notes them."""
    noted = stack.volume.runtime / "noted"
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, stack.point, noted], stderr=subprocess.DEVNULL
    ) as writer:
        try:
            deadline = time.monotonic() + 30
            while not noted.exists() or noted.read_text().count("\n") < FILES + 5:
                assert writer.poll() is None, "the writer ended too early"
                assert time.monotonic() < deadline, "the writer does nothing"
                time.sleep(0.02)
            yield noted
        finally:
            writer.kill()


def lost_files(stack: Stack, noted: list[int]) -> list[int]:
    """Files that are not as noted; each sector may be of the next write, which nobody noted yet."""
    lost = []
    for slot, number in {number % FILES: number for number in noted}.items():
        path = stack.point / f"file-{slot}"
        found = path.read_bytes() if path.exists() else b""
        pieces = [sectors(version) for version in (found, content(number), content(number + FILES))]
        if len(pieces[0]) != len(pieces[1]) or any(
            sector not in allowed for sector, *allowed in zip(*pieces, strict=True)
        ):
            lost.append(number)
    return lost


def sectors(data: bytes) -> list[bytes]:
    return [data[start : start + SECTOR_BYTES] for start in range(0, len(data), SECTOR_BYTES)]


def read_notes(path: Path) -> list[int]:
    return [int(line) for line in path.read_text().split("\n")[:-1]]


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
@pytest.mark.parametrize("turns", [1, pytest.param(30, marks=pytest.mark.soak)])
def test_synced_files_survive(tmp_path: Path, kind: str, turns: int) -> None:
    with stack_on(tmp_path, kind) as stack:
        for turn in range(turns):
            stack.mount()
            with writing(stack) as noting:
                time.sleep(0.05 * (turn % 10))
                noted = read_notes(noting)  # see DisposableFileSystem.shut_down
                stack.disk.shut_down()
            stack.fall_down()
            stack.disk.come_back()
            stack.put_up()
            stack.mount()
            assert lost_files(stack, noted) == []
            run("umount", stack.point)
            assert stack.device is not None
            run("e2fsck", "-fn", stack.device)
        stack.take_down()


def test_control_a_process_that_does_not_sync_loses_files(tmp_path: Path) -> None:
    with stack_on(tmp_path, "ext4") as stack:
        stack.mount()
        without_syncs = injection("fdatasync,fsync", "retval=0")
        with strace(stack.volume.pid, *without_syncs), writing(stack) as noting:
            noted = read_notes(noting)
            stack.disk.shut_down()
        stack.fall_down()
        stack.disk.come_back()
        stack.put_up()
        # Not even the journal of the file system above is sure to be whole.
        with suppress(AssertionError):
            stack.mount()
        assert len(lost_files(stack, noted)) > FILES // 2, "the harness is blind"


def test_what_was_taken_down_in_order_is_safe(tmp_path: Path) -> None:
    """umount, detach, unmount: nobody synced anything, and the power goes right after."""
    with stack_on(tmp_path, "ext4") as stack:
        stack.mount()
        for number in range(FILES):
            (stack.point / f"file-{number}").write_bytes(content(number))
        stack.take_down()
        stack.disk.cut_power()
        stack.put_up()
        stack.mount()
        assert lost_files(stack, list(range(FILES))) == []
        stack.take_down()


@pytest.mark.parametrize("ends", ["unmount", "umount", "SIGTERM"])
def test_what_was_written_before_an_unmount_is_safe(ext4: DisposableFileSystem, ends: str) -> None:
    with served_volume(ext4.directory / "home", size_bytes=2**20) as volume:
        volume.mount()
        with volume.file.open("r+b", buffering=0) as file:
            file.write(content(1))
        if ends == "unmount":
            volume.unmount()
        elif ends == "umount":
            run("umount", volume.mount_directory)
            volume.reap()
        else:
            volume.signal(signal.SIGTERM)
        ext4.cut_power()
        volume.mount()
        assert volume.file.read_bytes().startswith(content(1))
        volume.unmount()


def count_syncs(stack: Stack, work: list[int], log: Path) -> int:
    """How often the process synced its data file while something synced `work` in ext4."""
    with strace(stack.volume.pid, "trace=fdatasync", log=log):
        for descriptor in work:
            os.pwrite(descriptor, b"x" * 10_000, 0)
            os.fsync(descriptor)
    return len(calls_in(log, "fdatasync"))


def test_a_sync_above_is_a_sync_below(tmp_path: Path) -> None:
    """Each fsync in ext4 ends with a fdatasync of the data file, as ext4's barrier asks for; the
    control without barriers makes none."""
    counts = {}
    with stack_on(tmp_path, "ext4") as stack:
        for option in ("barrier=1", "barrier=0"):
            stack.mount("-o", option)
            descriptors = [
                os.open(stack.point / f"{option}-{number}", os.O_RDWR | os.O_CREAT)
                for number in range(5)
            ]
            run("sync", "--file-system", stack.point)
            counts[option] = count_syncs(stack, descriptors, tmp_path / option)
            for descriptor in descriptors:
                os.close(descriptor)
            run("umount", stack.point)
        stack.take_down()
    assert counts["barrier=1"] >= 5
    assert counts["barrier=0"] == 0


def test_forced_unit_access_is_a_sync(tmp_path: Path) -> None:
    """A write to the loop device that asks to be durable itself; the control does not ask."""
    counts = {}
    with stack_on(tmp_path, "ext4") as stack:
        assert stack.device is not None
        unit = mmap.mmap(-1, UNIT_BYTES)
        for flags in (os.O_DSYNC, 0):
            descriptor = os.open(stack.device, os.O_WRONLY | os.O_DIRECT | flags)
            log = tmp_path / str(flags)
            with strace(stack.volume.pid, "trace=fdatasync,pwrite64", log=log):
                for place in range(4):
                    os.pwrite(descriptor, unit, SIZE - (place + 1) * UNIT_BYTES)
            os.close(descriptor)
            counts[flags] = calls_in(log, "fdatasync", "pwrite64")
        stack.take_down()
    assert counts[0] == ["pwrite64"] * 4
    calls = counts[os.O_DSYNC]
    assert calls.count("pwrite64") == 4
    assert re.fullmatch("(pwrite64 (fdatasync )+)+", " ".join([*calls, ""]))
