"""Captures of volumes that real processes serve, while writers go on."""

import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.served_volume import OpenFile, ServedVolume, served_volume
from volcrypt.formats.change_map import ParentPoint
from volcrypt.geometry import CHUNK_BYTES, UNIT_BYTES, UNITS_PER_CHUNK
from volcrypt.names import SnapshotId, StoreId
from volcrypt.volume.control import CapturedState
from volcrypt.volume.datafile import DataFile

CHUNKS = 16
SIZE = CHUNKS * CHUNK_BYTES
PARENT = ParentPoint(
    store_id=StoreId("store-00000000000000001"),
    snapshot_id=SnapshotId("snap-00000000000000001"),
    root=bytes(32),
)


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[ServedVolume]:
    with served_volume(tmp_path, size_bytes=SIZE) as made:
        made.mount()
        yield made


def test_a_capture_is_one_point_in_time_under_a_writer(mounted: ServedVolume) -> None:
    """Writes are numbered, each goes to the next chunk. What a snapshot reads from the data file
    and from what was kept must be all writes up to some k and none after it; and so again for the
    next snapshot.
    """
    written = 0
    running = True
    size = 3 * UNIT_BYTES
    start = 5 * UNIT_BYTES

    def writer() -> None:
        nonlocal written
        with OpenFile(mounted) as file:
            while running:
                number = written + 1
                chunk = number % CHUNKS
                file.write(chunk * CHUNK_BYTES + start, struct.pack("<Q", number) * (size // 8))
                written = number

    thread = threading.Thread(target=writer)
    thread.start()
    try:
        with mounted.control() as client:
            cuts = []
            for _ in range(4):
                goal = written + 20
                while written < goal:
                    thread.join(0.005)
                before = written
                state = client.begin_capture()
                after = written + 1
                found = {}
                for chunk in range(CHUNKS):
                    thread.join(0.002)
                    found[chunk] = number_in(mounted, state, chunk * CHUNK_BYTES + start, size)
                    client.captured(range(chunk, chunk + 1))
                client.commit_capture(PARENT)
                cut = max(found.values())
                assert before <= cut <= after
                assert found == {
                    chunk: max((n for n in range(1, cut + 1) if n % CHUNKS == chunk), default=0)
                    for chunk in range(CHUNKS)
                }
                cuts.append(cut)
            assert cuts == sorted(set(cuts))
    finally:
        running = False
        thread.join()


def number_in(volume: ServedVolume, state: CapturedState, offset: int, size: int) -> int:
    """The one number that fills a piece of a chunk as the capture saw it, which is decrypted."""
    chunk = offset // CHUNK_BYTES
    buffer = bytearray(CHUNK_BYTES)
    with DataFile.open(volume.data_path, volume.size_bytes, read_only=True) as data:
        data.read_chunk(chunk, buffer)
    state.preserved.replace(chunk, buffer)
    key = volume.data_key()
    assert key is not None
    key.kernel().decrypt_sparse_units(chunk * UNITS_PER_CHUNK, buffer, buffer)
    start = offset - chunk * CHUNK_BYTES
    numbers = set(struct.unpack(f"<{size // 8}Q", buffer[start : start + size]))
    assert len(numbers) == 1, "a write is there in part"
    return int(numbers.pop())
