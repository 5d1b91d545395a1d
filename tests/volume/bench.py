"""A device on storage in memory, with a real change map."""

import threading
from pathlib import Path

from typing_extensions import Buffer

from tests.fakes.datafile import MemoryDataFile
from tests.fakes.preserve import MemoryKeeper
from volcrypt.chunk_set import ChunkSet
from volcrypt.crypto.data_key import DataKey
from volcrypt.formats.change_map import ParentPoint
from volcrypt.formats.document import MacSeal
from volcrypt.geometry import CHUNK_BYTES, UNIT_BYTES, chunk_count
from volcrypt.names import SnapshotId, StoreId, VolumeId
from volcrypt.volume.capture import RunningCapture
from volcrypt.volume.change_map import ChangeMap
from volcrypt.volume.device import INLINE_BYTES, Device
from volcrypt.volume.volume import Volume

KEY = bytes(range(64))
CHUNKS = 8
SIZE = CHUNKS * CHUNK_BYTES
PARENT = ParentPoint(
    store_id=StoreId("store-00000000000000001"),
    snapshot_id=SnapshotId("snap-00000000000000001"),
    root=bytes(32),
)


class WatchedData(MemoryDataFile):
    """Notes which thread works on it; `gate` holds up syncs, discards, and writes too large for the
    loop, `read_gate` reads that may wait; each discard that comes gives `came` once more."""

    def __init__(self, size_bytes: int) -> None:
        super().__init__(size_bytes)
        self.threads: set[int] = set()
        self.gate = threading.Event()
        self.gate.set()
        self.read_gate = threading.Event()
        self.read_gate.set()
        self.syncs = 0
        self.came = threading.Semaphore(0)

    def read_into(self, offset: int, buffer: Buffer) -> None:
        self.threads.add(threading.get_ident())
        assert self.read_gate.wait(10)
        super().read_into(offset, buffer)

    def deallocate(self, offset: int, length: int) -> None:
        self.came.release()
        assert self.gate.wait(10)
        super().deallocate(offset, length)

    def write(self, offset: int, data: Buffer) -> None:
        self.threads.add(threading.get_ident())
        if memoryview(data).nbytes > INLINE_BYTES:
            assert self.gate.wait(10)
        super().write(offset, data)

    def sync(self) -> None:
        self.syncs += 1
        assert self.gate.wait(10)
        super().sync()

    def ran_inline(self) -> bool:
        """Whether everything since the last question ran on the loop's thread."""
        inline = self.threads == {threading.main_thread().ident}
        self.threads.clear()
        return inline


class Bench:
    """A device on storage in memory, with a real change map."""

    def __init__(
        self, directory: Path, *, read_only: bool = False, drops_zeros: bool = False
    ) -> None:
        self.data = WatchedData(SIZE)
        (directory / "data").write_bytes(b"")
        self.changes = ChangeMap.open(
            directory / "map",
            directory / "clean",
            volume_id=VolumeId("vol-00000000000000001"),
            size_bytes=SIZE,
            seal=MacSeal(bytes(32)),
            data_path=directory / "data",
        )
        self.volume = Volume(
            self.data,
            size_bytes=SIZE,
            data_key=DataKey(bytearray(KEY)),
            changes=self.changes,
            read_only=read_only,
            drops_zeros=drops_zeros,
        )
        self.keepers: list[MemoryKeeper] = []
        self.device = Device(self.volume, changes=self.changes, open_keeper=self.open_keeper)

    def open_keeper(self) -> MemoryKeeper:
        self.keepers.append(MemoryKeeper(self.data))
        return self.keepers[-1]

    async def read(self, offset: int, size: int) -> bytes:
        return bytes(await self.device.read(offset, size))

    def captured_chunk(self, index: int) -> bytes:
        """A chunk as a snapshot sees it, decrypted: from the data, then from what was kept."""
        chunk = bytearray(self.data.content[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES])
        if self.keepers:
            chunk[:] = self.keepers[-1].kept.get(index, chunk)
        first_unit = index * CHUNK_BYTES // UNIT_BYTES
        DataKey(bytearray(KEY)).kernel().decrypt_sparse_units(first_unit, chunk, chunk)
        return bytes(chunk)

    async def changed(self, capture: RunningCapture) -> set[int] | None:
        """What the capture finds changed."""
        bits = await self.device.captures.settle(capture)
        return None if bits is None else set(ChunkSet.of_packed(bits, chunk_count(SIZE)))
