"""Volume and ChangeMap against a bytearray: writes, discards, reads, kills, power cuts, captures.

Two promises are checked after every step. What is read is what was written; after a power cut
each 512-byte sector is one of what it was at the last flush and what was written to it since.
And every chunk of ciphertext that differs from the parent's is marked, or the map is void.
"""

import os
import shutil
from pathlib import Path
from random import Random
from tempfile import mkdtemp

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from tests.fakes.datafile import MemoryDataFile
from volcrypt.chunk_set import ChunkSet
from volcrypt.crypto.data_key import DataKey
from volcrypt.formats.change_map import ParentPoint
from volcrypt.formats.document import MacSeal
from volcrypt.geometry import (
    CHUNK_BYTES,
    SECTOR_BYTES,
    UNIT_BYTES,
    ByteRange,
    chunk_count,
    chunk_range,
)
from volcrypt.names import SnapshotId, StoreId, VolumeId
from volcrypt.volume.change_map import Capture, ChangeMap
from volcrypt.volume.volume import Volume

SIZE = 3 * CHUNK_BYTES + 2 * UNIT_BYTES
EDGES = [0, UNIT_BYTES, CHUNK_BYTES, 2 * CHUNK_BYTES, 3 * CHUNK_BYTES, SIZE]


def clip(edge: int, shift: int, length: int) -> ByteRange:
    offset = min(max(edge + shift, 0), SIZE - 1)
    return ByteRange(offset, min(length, SIZE - offset))


RANGES = st.builds(
    clip,
    st.sampled_from(EDGES),
    st.integers(-3 * UNIT_BYTES, 3 * UNIT_BYTES)
    | st.sampled_from([-UNIT_BYTES, -SECTOR_BYTES, -1, 0, 1, SECTOR_BYTES]),
    st.integers(1, 4 * UNIT_BYTES)
    | st.sampled_from([SECTOR_BYTES, UNIT_BYTES, CHUNK_BYTES, CHUNK_BYTES + 1]),
)

CHOICES = st.randoms(use_true_random=False)


class VolumeModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.memory = Path(mkdtemp(dir="/dev/shm"))
        # The change map looks at a real file; what the volume reads and writes is the fake.
        self.data_path = self.memory / "data"
        self.data_path.write_bytes(b"")
        os.truncate(self.data_path, SIZE)
        self.storage = MemoryDataFile(SIZE)
        self.model = bytearray(SIZE)
        # Sectors written since the last flush: what each may read as after a power cut.
        self.unsynced: dict[int, set[bytes]] = {}
        # Ciphertext as of each snapshot.
        self.images: dict[SnapshotId, bytes] = {}
        self.capture: Capture | None = None
        self.captured_image = b""

    @initialize(is_encrypted=st.booleans(), drops_zeros=st.booleans())
    def open_first(self, is_encrypted: bool, drops_zeros: bool) -> None:
        self.is_encrypted = is_encrypted
        self.drops_zeros = drops_zeros
        self.open()

    def open(self) -> None:
        key = DataKey(bytearray(range(64))) if self.is_encrypted else None
        self.changes = ChangeMap.open(
            self.memory / "live",
            self.memory / "clean",
            volume_id=VolumeId("vol-0123456789abcdef0"),
            size_bytes=SIZE,
            seal=MacSeal(bytes(32)),
            data_path=self.data_path,
        )
        self.volume = Volume(
            self.storage,
            size_bytes=SIZE,
            data_key=key,
            changes=self.changes,
            drops_zeros=self.drops_zeros,
        )

    def end_process(self) -> None:
        self.volume.close()
        self.changes.close()
        self.capture = None

    @rule(extent=RANGES, seed=st.integers(0, 2**32), zeros=st.booleans())
    def write(self, extent: ByteRange, seed: int, zeros: bool) -> None:
        pattern = seed.to_bytes(5, "little")
        data = bytes(extent.length) if zeros else (pattern * (extent.length // 5 + 1))
        data = data[: extent.length]
        # What a torn write may leave: the unit is rewritten, its other sectors as they were.
        sectors = range(extent.offset // SECTOR_BYTES, -(-extent.end // SECTOR_BYTES))
        for sector in sectors:
            self.unsynced.setdefault(sector, {self.sector(sector)})
        self.volume.write(extent.offset, data)
        self.model[extent.offset : extent.end] = data
        for sector in sectors:
            self.unsynced[sector].add(self.sector(sector))

    @rule(extent=RANGES)
    def discard(self, extent: ByteRange) -> None:
        sectors = range(extent.offset // SECTOR_BYTES, -(-extent.end // SECTOR_BYTES))
        for sector in sectors:
            self.unsynced.setdefault(sector, {self.sector(sector)})
        self.volume.discard(extent.offset, extent.length)
        self.model[extent.offset : extent.end] = bytes(extent.length)
        for sector in sectors:
            self.unsynced[sector].add(self.sector(sector))

    def sector(self, index: int) -> bytes:
        return bytes(self.model[index * SECTOR_BYTES : (index + 1) * SECTOR_BYTES])

    @rule(extent=RANGES, may_block=st.booleans(), is_cached=st.booleans())
    def read(self, extent: ByteRange, may_block: bool, is_cached: bool) -> None:
        buffer = bytearray(b"\xa5" * extent.length)
        self.storage.is_cached = is_cached
        if may_block:
            self.volume.read_into(extent.offset, buffer)
        else:
            assert self.volume.try_read_into(extent.offset, buffer) == is_cached
        if may_block or is_cached:
            assert buffer == self.model[extent.offset : extent.end]

    @rule()
    def flush(self) -> None:
        self.volume.flush()
        self.unsynced.clear()

    @precondition(lambda self: self.capture is not None or self.unsynced)
    @rule()
    def kill(self) -> None:
        self.end_process()
        self.open()

    @rule()
    def detach(self) -> None:
        self.flush()
        self.changes.save_clean()
        self.end_process()
        self.open()

    @precondition(lambda self: self.capture is not None or self.unsynced)
    @rule(choices=CHOICES)
    def lose_power(self, choices: Random) -> None:
        """Of the whole machine: the live map goes as well."""
        self.end_process()
        self.storage.lose_power(choices.randrange)
        (self.memory / "live").unlink()
        self.find_what_is_left()

    @precondition(lambda self: self.capture is not None or self.unsynced)
    @rule(choices=CHOICES)
    def crash_file_system(self, choices: Random) -> None:
        """Of the data, under a running kernel: the live map survives."""
        self.end_process()
        self.storage.lose_power(choices.randrange)
        self.find_what_is_left()

    def find_what_is_left(self) -> None:
        self.open()
        for sector, versions in self.unsynced.items():
            buffer = bytearray(SECTOR_BYTES)
            self.volume.read_into(sector * SECTOR_BYTES, buffer)
            assert bytes(buffer) in versions
            self.model[sector * SECTOR_BYTES : (sector + 1) * SECTOR_BYTES] = buffer
        self.unsynced.clear()

    @precondition(lambda self: self.capture is None)
    @rule(before=RANGES, commits=st.booleans(), meanwhile=st.none() | RANGES)
    def snapshot(self, before: ByteRange, commits: bool, meanwhile: ByteRange | None) -> None:
        """Rules of this machine in one step, which alone seldom come in this order."""
        self.write(before, seed=len(self.images) + 2, zeros=False)
        self.begin_capture()
        if meanwhile is not None:
            self.write(meanwhile, seed=len(self.images) + 1, zeros=False)
        if commits:
            self.commit_capture()
        else:
            self.abort_capture()

    @precondition(lambda self: self.capture is None)
    @rule()
    def begin_capture(self) -> None:
        self.capture = self.changes.begin_capture()
        self.captured_image = bytes(self.storage.content)

    @precondition(lambda self: self.capture is not None)
    @rule()
    def commit_capture(self) -> None:
        assert self.capture is not None
        snapshot_id = SnapshotId(f"snap-{len(self.images):017x}")
        # The change map syncs the file that it knows; here that is not where the data is.
        self.flush()
        self.changes.commit_capture(
            self.capture,
            ParentPoint(
                store_id=StoreId("store-0123456789abcdef0"),
                snapshot_id=snapshot_id,
                root=bytes(32),
            ),
        )
        self.images[snapshot_id] = self.captured_image
        self.capture = None

    @precondition(lambda self: self.capture is not None)
    @rule()
    def abort_capture(self) -> None:
        assert self.capture is not None
        self.changes.abort_capture(self.capture)
        self.capture = None

    @invariant()
    def everything_reads_back(self) -> None:
        buffer = bytearray(SIZE)
        self.volume.read_into(0, buffer)
        assert buffer == self.model

    @invariant()
    def every_chunk_that_differs_is_marked(self) -> None:
        parent = self.changes.parent
        if parent is None:
            return
        marks = [bool(mark) for mark in self.changes._marks]
        if self.capture is not None:
            bits = self.changes.changed_bits(self.capture)
            assert bits is not None
            changed = ChunkSet.of_packed(bits, chunk_count(SIZE))
            marks = [mark or index in changed for index, mark in enumerate(marks)]
        image = self.images[parent.snapshot_id]
        for index in range(chunk_count(SIZE)):
            chunk = chunk_range(index, SIZE)
            if self.storage.content[chunk.offset : chunk.end] != image[chunk.offset : chunk.end]:
                assert marks[index], f"chunk {index} changed unnoticed"

    def teardown(self) -> None:
        if hasattr(self, "volume"):
            self.end_process()
        shutil.rmtree(self.memory)


VolumeModel.TestCase.settings = settings(
    max_examples=150,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestVolumeModel = VolumeModel.TestCase
