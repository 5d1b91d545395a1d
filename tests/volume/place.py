"""The files of one volume's change map, and what a process that comes later finds in them."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, Final

from volcrypt.chunk_set import ChunkSet
from volcrypt.formats.change_map import ParentPoint
from volcrypt.formats.document import MacSeal
from volcrypt.geometry import CHUNK_BYTES, UNIT_BYTES, chunk_count
from volcrypt.names import SnapshotId, StoreId, VolumeId
from volcrypt.volume.change_map import Capture, ChangeMap

VOLUME: Final = VolumeId("vol-0123456789abcdef0")
SIZE: Final = 9 * CHUNK_BYTES + UNIT_BYTES
SEAL: Final = MacSeal(bytes(32))


def point(number: int) -> ParentPoint:
    return ParentPoint(
        store_id=StoreId("store-0123456789abcdef0"),
        snapshot_id=SnapshotId(f"snap-{number:017x}"),
        root=bytes([number]) * 32,
    )


@dataclass(frozen=True)
class Place:
    """Where the files of one volume lie: the live map on tmpfs, the rest on disk."""

    memory: Path
    disk: Path

    @property
    def live(self) -> Path:
        return self.memory / "vol.map"

    @property
    def clean(self) -> Path:
        return self.disk / "change-map"

    @property
    def data(self) -> Path:
        return self.disk / "data"

    def open(self, **changes: Any) -> ChangeMap:
        arguments: dict[str, Any] = {
            "volume_id": VOLUME,
            "size_bytes": SIZE,
            "seal": SEAL,
            "data_path": self.data,
        }
        return ChangeMap.open(self.live, self.clean, **(arguments | changes))

    def make_known(self, *marked: int, number: int = 1) -> None:
        """A live map with a parent and these marks, as a killed process leaves it."""
        changes = self.open()
        changes.commit_capture(changes.begin_capture(), point(number))
        mark(changes, *marked)
        changes.close()

    def detach(self, *marked: int) -> None:
        """A clean copy with a parent and these marks, and no live map."""
        self.make_known(*marked)
        changes = self.open()
        changes.save_clean()
        changes.close()

    def state(self) -> tuple[ParentPoint | None, set[int] | None]:
        """Parent and changed chunks as the next process finds them."""
        changes = self.open()
        try:
            return changes.parent, begin_and_look(changes)
        finally:
            changes.close()


def mark(changes: ChangeMap, *chunks: int) -> None:
    for chunk in chunks:
        changes.mark(range(chunk, chunk + 1))


def changed_of(changes: ChangeMap, capture: Capture) -> set[int] | None:
    """What a capture that runs finds changed; None when the map is void."""
    bits = changes.changed_bits(capture)
    if bits is None:
        return None
    return set(ChunkSet.of_packed(bits, chunk_count(capture.size_bytes)))


def begin_and_look(changes: ChangeMap) -> set[int] | None:
    return changed_of(changes, changes.begin_capture())


VOID: Final = (None, None)


@contextmanager
def volume_place(disk: Path) -> Iterator[Place]:
    """A place with an empty data file on `disk`, and its live map on tmpfs until the end."""
    memory = Path(mkdtemp(dir="/dev/shm"))
    try:
        (disk / "data").write_bytes(b"")
        os.truncate(disk / "data", SIZE)
        yield Place(memory, disk)
    finally:
        shutil.rmtree(memory)
