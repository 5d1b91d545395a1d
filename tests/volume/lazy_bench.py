"""A lazy volume as one process has it open: device, present map, data, over any storage."""

from collections.abc import Callable
from pathlib import Path

from tests.fakes.origin import MemoryOrigin
from tests.fakes.preserve import MemoryKeeper
from volcrypt.crypto.data_key import DataKey
from volcrypt.formats.document import MacSeal
from volcrypt.geometry import CHUNK_BYTES, UNIT_BYTES, UNITS_PER_CHUNK, chunk_range
from volcrypt.names import VolumeId
from volcrypt.volume.change_map import ChangeMap
from volcrypt.volume.datafile import DataFile
from volcrypt.volume.device import Device
from volcrypt.volume.lazy import LazyChunks
from volcrypt.volume.present import PresentMap
from volcrypt.volume.volume import DataStorage, Volume

KEY = bytes(range(64))
VOLUME = VolumeId("vol-0123456789abcdef0")
CHUNKS = 5
SIZE = (CHUNKS - 1) * CHUNK_BYTES + 3 * UNIT_BYTES
HOLE = 2


def plain_chunk(index: int) -> bytes:
    """What the snapshot has: no two units are alike, none is zero."""
    length = chunk_range(index, SIZE).length
    units = range(index * UNITS_PER_CHUNK, index * UNITS_PER_CHUNK + length // UNIT_BYTES)
    return b"".join(b"snapshot %7d" % unit * (UNIT_BYTES // 16) for unit in units)


def plain_image() -> bytearray:
    image = bytearray(SIZE)
    for index in range(CHUNKS):
        if index != HOLE:
            extent = chunk_range(index, SIZE)
            image[extent.offset : extent.end] = plain_chunk(index)
    return image


def make_origin() -> MemoryOrigin:
    """The snapshot, under the volume's key."""
    chunks = {}
    for index in range(CHUNKS):
        if index != HOLE:
            chunk = bytearray(plain_chunk(index))
            DataKey(bytearray(KEY)).kernel().encrypt_units(index * UNITS_PER_CHUNK, chunk, chunk)
            chunks[index] = bytes(chunk)
    return MemoryOrigin(SIZE, chunks)


class LazyBench:
    """One process: from here to `die` or `close`."""

    def __init__(
        self,
        data: DataStorage,
        present: PresentMap,
        origin: MemoryOrigin,
        *,
        memory: Path,
        commit_sync: Callable[[], None] | None = None,
        size_bytes: int = SIZE,
    ) -> None:
        """`memory` is a directory for the change map; `commit_sync` another way to make fetched
        data durable than the right one."""
        (memory / "data").touch()
        self.changes = ChangeMap.open(
            memory / "live",
            memory / "clean",
            volume_id=VOLUME,
            size_bytes=size_bytes,
            seal=MacSeal(bytes(32)),
            data_path=memory / "data",
        )
        self.volume = Volume(
            data, size_bytes=size_bytes, data_key=DataKey(bytearray(KEY)), changes=self.changes
        )
        self.device = Device(
            self.volume,
            changes=self.changes,
            open_keeper=lambda: MemoryKeeper(data),  # type: ignore[arg-type]
        )
        self.lazy = LazyChunks(
            origin,
            present,
            size_bytes=SIZE,
            data=data,
            sync=commit_sync or self.volume.flush,
            in_flight=2,
        )
        self.device.admission.absent = self.lazy

    async def read(self, offset: int, size: int) -> bytes:
        return bytes(await self.device.read(offset, size))

    def die(self) -> None:
        """As by SIGKILL: nothing is done any more, but the kernel closes what was open."""
        self.volume.close()
        self.changes.close()


def file_conforms(data: DataFile) -> DataStorage:
    return data
