"""A power cut under a volume that another process is writing: what was acknowledged is there.

The writer acknowledges a round in memory (tmpfs) after write and flush returned. It is stopped by
the cut itself: its file system goes away under it. Each promise has a control in which the one
sync that it rests on is left out, and which must lose something: otherwise the cut proves nothing.
"""

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp
from typing import Final

import pytest

from tests.file_system import DisposableFileSystem
from tests.volume.place import begin_and_look
from volcrypt.crypto.data_key import DataKey
from volcrypt.formats.document import MacSeal
from volcrypt.geometry import CHUNK_BYTES, SECTOR_BYTES, UNIT_BYTES
from volcrypt.names import VolumeId
from volcrypt.volume.change_map import ChangeMap
from volcrypt.volume.datafile import DataFile
from volcrypt.volume.volume import Volume

SIZE: Final = 8 * CHUNK_BYTES
SLOT_BYTES: Final = 3 * UNIT_BYTES + SECTOR_BYTES
"""Rounds are written here one after the other: never aligned, and across chunks now and then."""
SLOTS: Final = SIZE // SLOT_BYTES

COMMON: Final = """
import os, sys
from pathlib import Path
from tests.crash.test_volume_power_cut import *
disk, memory, control = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "control"
data = DataFile.open(disk / "data", SIZE)
changes = open_changes(disk, memory)
volume = Volume(data, size_bytes=SIZE, data_key=data_key(), changes=changes)
"""

WRITER: Final = (
    COMMON
    + """
if control:
    data.sync = lambda: None
with (memory / "acknowledged").open("w") as acknowledged:
    for number in range(1, 10**9):
        volume.write(slot(number), content(number))
        if number % 3 == 0:
            volume.flush()
            print(number, file=acknowledged, flush=True)
"""
)

CAPTURER: Final = (
    COMMON
    + """
from volcrypt.formats.change_map import ParentPoint
from volcrypt.names import SnapshotId, StoreId
for number in range(1, 100):
    volume.write(slot(number), content(number))
capture = changes.begin_capture()
(memory / "image").write_bytes((disk / "data").read_bytes())
volume.write(slot(SLOTS - 1), content(1))
if control:
    changes._sync_data = lambda: True
changes.commit_capture(
    capture,
    ParentPoint(store_id=StoreId("s"), snapshot_id=SnapshotId("snap"), root=bytes(32)),
)
(memory / "acknowledged").write_text("committed\\n")
sys.stdin.read()
"""
)


def data_key() -> DataKey:
    return DataKey(bytearray(range(64)))


def open_changes(disk: Path, memory: Path) -> ChangeMap:
    return ChangeMap.open(
        memory / "live",
        disk / "change-map",
        volume_id=VolumeId("vol-0123456789abcdef0"),
        size_bytes=SIZE,
        seal=MacSeal(bytes(32)),
        data_path=disk / "data",
    )


def slot(number: int) -> int:
    return number % SLOTS * SLOT_BYTES


def content(number: int) -> bytes:
    """Sectors that all name their round."""
    return b"".join(
        (b"round %d sector %d " % (number, sector)).ljust(SECTOR_BYTES, b".")
        for sector in range(SLOT_BYTES // SECTOR_BYTES)
    )


@pytest.fixture
def memory() -> Iterator[Path]:
    memory = Path(mkdtemp(dir="/dev/shm"))
    yield memory
    shutil.rmtree(memory)


def run_until_cut(
    script: str, file_system: DisposableFileSystem, memory: Path, *, is_control: bool
) -> None:
    """Let `script` work, shut its file system down under it, wait for its end, come back."""
    disk = file_system.directory
    DataFile.create(disk / "data", SIZE).close()
    mode = "control" if is_control else "real"
    with subprocess.Popen(
        [sys.executable, "-c", script, disk, memory, mode],
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as writer:
        try:
            deadline = time.monotonic() + 20
            acknowledged = memory / "acknowledged"
            while not (acknowledged.exists() and acknowledged.read_text().count("\n") > 0):
                assert writer.poll() is None, "the writer ended before the cut"
                assert time.monotonic() < deadline, "the writer does nothing"
                time.sleep(0.01)
            time.sleep(0.3)
            before = acknowledged.read_text()  # see DisposableFileSystem.shut_down
            file_system.shut_down()
        finally:
            writer.kill()
    acknowledged.write_text(before)
    file_system.come_back()


def lost_rounds(disk: Path, memory: Path) -> tuple[int, list[int]]:
    """How many rounds were acknowledged, and those that are not there (or something newer).

    Asserts that every sector is of some round that was written there, or was never written.
    """
    lines = (memory / "acknowledged").read_text().split("\n")
    last = int(lines[-2])
    lost = []
    with DataFile.open(disk / "data", SIZE) as data:
        volume = Volume(data, size_bytes=SIZE, data_key=data_key(), changes=None)
        for number in range(max(1, last - SLOTS + 1), last + 1):
            buffer = bytearray(SLOT_BYTES)
            volume.read_into(slot(number), buffer)
            rounds = [round_of(buffer, sector, number) for sector in range(len(buffer) // 512)]
            if min(rounds) < number:
                lost.append(number)
    return last, lost


def round_of(buffer: bytearray, sector: int, number: int) -> int:
    """Which round left this sector in the slot of round `number`; 0 for none."""
    found = bytes(buffer[sector * SECTOR_BYTES : (sector + 1) * SECTOR_BYTES])
    if not any(found):
        return 0
    assert found.startswith(b"round "), f"sector {sector} of round {number} is garbage"
    round_number = int(found.split(b" ")[1])
    assert slot(round_number) == slot(number)
    part = content(round_number)[sector * SECTOR_BYTES : (sector + 1) * SECTOR_BYTES]
    assert found == part, f"sector {sector} of round {number} is mixed"
    return round_number


def unmarked_differences(disk: Path, memory: Path) -> list[int]:
    """Chunks that differ from the captured image though the map that survived says they do not."""
    changes = open_changes(disk, memory)
    changed = begin_and_look(changes)
    changes.close()
    assert changed is not None, "the map did not survive"
    now, image = (disk / "data").read_bytes(), (memory / "image").read_bytes()
    return [
        index
        for index in range(SIZE // CHUNK_BYTES)
        if index not in changed
        and now[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES]
        != image[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES]
    ]


def test_acknowledged_writes_survive(file_system: DisposableFileSystem, memory: Path) -> None:
    run_until_cut(WRITER, file_system, memory, is_control=False)
    acknowledged, lost = lost_rounds(file_system.directory, memory)
    assert acknowledged >= 3
    assert lost == []


def test_control_without_sync_loses_writes(ext4: DisposableFileSystem, memory: Path) -> None:
    run_until_cut(WRITER, ext4, memory, is_control=True)
    acknowledged, lost = lost_rounds(ext4.directory, memory)
    assert acknowledged >= 3
    assert lost != [], "the harness is blind"


def test_map_in_memory_is_a_superset_after_the_data_lost_its_power(
    file_system: DisposableFileSystem, memory: Path
) -> None:
    """Nothing was flushed by the writer: it is the capture that makes its own chunks durable."""
    run_until_cut(CAPTURER, file_system, memory, is_control=False)
    assert unmarked_differences(file_system.directory, memory) == []


def test_control_capture_without_sync_forgets_chunks(
    ext4: DisposableFileSystem, memory: Path
) -> None:
    run_until_cut(CAPTURER, ext4, memory, is_control=True)
    assert unmarked_differences(ext4.directory, memory) != [], "the harness is blind"


def test_volume_opens_again_after_a_cut_during_writes(
    ext4: DisposableFileSystem, memory: Path
) -> None:
    """No manual step: data, map and a flush work at once."""
    run_until_cut(WRITER, ext4, memory, is_control=False)
    changes = open_changes(ext4.directory, memory)
    with DataFile.open(ext4.directory / "data", SIZE) as data:
        volume = Volume(data, size_bytes=SIZE, data_key=data_key(), changes=changes)
        volume.write(5, b"after the cut")
        volume.flush()
        volume.close()
    changes.close()
