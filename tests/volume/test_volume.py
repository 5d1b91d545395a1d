"""The engine between plaintext offsets and storage, on storage in memory."""

import errno
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.datafile import MemoryDataFile
from volcrypt.crypto.data_key import DataKey
from volcrypt.errors import OutOfRangeError, ReadOnlyError
from volcrypt.geometry import CHUNK_BYTES, SECTOR_BYTES, UNIT_BYTES, ByteRange
from volcrypt.volume.datafile import DataFile
from volcrypt.volume.volume import LANE_BYTES, Volume, _partial_units

KEY = bytes(range(64))
SIZE = 2 * CHUNK_BYTES + 3 * UNIT_BYTES


class ChangeLog:
    """A change recorder that notes its calls among those of the storage."""

    def __init__(self, calls: list[tuple[str, int, int]]) -> None:
        self.calls = calls
        self.is_distrusted = False

    def mark(self, chunks: range) -> None:
        self.calls.append(("mark", chunks.start, len(chunks)))

    def distrust(self) -> None:
        self.is_distrusted = True

    def grow(self, size_bytes: int) -> None:
        self.calls.append(("grow", 0, size_bytes))


def decrypt_independently(ciphertext: bytes, key: bytes = KEY) -> bytes:
    """Unit by unit, by another implementation: tweak = sectors before the unit, little-endian."""
    plaintext = bytearray()
    for offset in range(0, len(ciphertext), UNIT_BYTES):
        tweak = (offset // SECTOR_BYTES).to_bytes(16, "little")
        decryptor = Cipher(algorithms.AES(key), modes.XTS(tweak)).decryptor()
        plaintext += decryptor.update(ciphertext[offset : offset + UNIT_BYTES])
    return bytes(plaintext)


def make_volume(
    data: MemoryDataFile, *, is_encrypted: bool = True, changes: ChangeLog | None = None
) -> Volume:
    key = DataKey(bytearray(KEY)) if is_encrypted else None
    return Volume(data, size_bytes=data.size_bytes, data_key=key, changes=changes)


def read(volume: Volume, offset: int, length: int) -> bytes:
    buffer = bytearray(length)
    volume.read_into(offset, buffer)
    return bytes(buffer)


@pytest.fixture(params=[True, False], ids=["encrypted", "unencrypted"])
def is_encrypted(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


RANGES = [
    (0, UNIT_BYTES),
    (UNIT_BYTES, 3 * UNIT_BYTES),
    (1, 1),
    (UNIT_BYTES - 1, 2),
    (100, UNIT_BYTES),
    (UNIT_BYTES, UNIT_BYTES + 1),
    (UNIT_BYTES - 1, UNIT_BYTES + 1),
    (UNIT_BYTES - 1, 2 * UNIT_BYTES + 2),
    (CHUNK_BYTES - 1, 2),
    (CHUNK_BYTES - UNIT_BYTES, 2 * UNIT_BYTES),
    (SIZE - 1, 1),
    (0, SIZE),
    (511, SIZE - 1000),
]


@pytest.mark.parametrize(("offset", "length"), RANGES)
def test_reads_back_what_was_written_and_nothing_else_changed(
    offset: int, length: int, is_encrypted: bool
) -> None:
    volume = make_volume(MemoryDataFile(SIZE), is_encrypted=is_encrypted)
    background = os.urandom(SIZE)
    volume.write(0, background)
    data = os.urandom(length)

    volume.write(offset, data)

    expected = background[:offset] + data + background[offset + length :]
    assert read(volume, 0, SIZE) == expected
    assert read(volume, offset, length) == data
    buffer = bytearray(length)
    assert volume.try_read_into(offset, buffer)
    assert buffer == data


def test_data_file_decrypts_by_another_implementation() -> None:
    data = MemoryDataFile(SIZE)
    volume = make_volume(data)
    plaintext = os.urandom(SIZE)
    volume.write(0, plaintext[: CHUNK_BYTES + 77])
    volume.write(CHUNK_BYTES + 77, plaintext[CHUNK_BYTES + 77 :])

    assert decrypt_independently(bytes(data.content)) == plaintext


def test_real_data_file_decrypts_by_another_implementation(tmp_path: Path) -> None:
    path = tmp_path / "data"
    plaintext = os.urandom(CHUNK_BYTES + UNIT_BYTES)
    with DataFile.create(path, len(plaintext)) as data:
        volume = Volume(
            data, size_bytes=len(plaintext), data_key=DataKey(bytearray(KEY)), changes=None
        )
        volume.write(0, plaintext)
        volume.flush()

    assert decrypt_independently(path.read_bytes()) == plaintext


def test_unencrypted_storage_holds_the_plaintext() -> None:
    data = MemoryDataFile(SIZE)
    make_volume(data, is_encrypted=False).write(1000, b"as it is")

    assert data.content[1000:1008] == b"as it is"


def test_never_written_is_zeros(is_encrypted: bool) -> None:
    volume = make_volume(MemoryDataFile(SIZE), is_encrypted=is_encrypted)

    assert read(volume, 5, SIZE - 9) == bytes(SIZE - 9)


def test_hole_is_a_sector() -> None:
    """As a power cut leaves a first write: sectors that came through, and others that did not."""
    data = MemoryDataFile(UNIT_BYTES)
    volume = make_volume(data)
    plaintext = os.urandom(UNIT_BYTES)
    volume.write(0, plaintext)
    lost = (0, 3, 7)
    for sector in lost:
        data.content[sector * SECTOR_BYTES : (sector + 1) * SECTOR_BYTES] = bytes(SECTOR_BYTES)

    for sector in range(UNIT_BYTES // SECTOR_BYTES):
        part = slice(sector * SECTOR_BYTES, (sector + 1) * SECTOR_BYTES)
        expected = bytes(SECTOR_BYTES) if sector in lost else plaintext[part]
        assert read(volume, part.start, SECTOR_BYTES) == expected


def test_partial_write_changes_the_ciphertext_of_its_sectors_only() -> None:
    """So a torn rewrite of the unit leaves each sector old or new."""
    data = MemoryDataFile(UNIT_BYTES)
    volume = make_volume(data)
    volume.write(0, os.urandom(UNIT_BYTES))
    before = bytes(data.content)

    volume.write(2 * SECTOR_BYTES, os.urandom(SECTOR_BYTES))

    changed = {
        sector
        for sector in range(UNIT_BYTES // SECTOR_BYTES)
        if before[sector * SECTOR_BYTES : (sector + 1) * SECTOR_BYTES]
        != data.content[sector * SECTOR_BYTES : (sector + 1) * SECTOR_BYTES]
    }
    assert changed == {2}


def test_storage_is_written_in_whole_units() -> None:
    data = MemoryDataFile(SIZE)
    volume = make_volume(data)

    volume.write(100, bytes(UNIT_BYTES))

    assert data.calls == [
        ("read", 0, UNIT_BYTES),
        ("read", UNIT_BYTES, UNIT_BYTES),
        ("write", 0, 2 * UNIT_BYTES),
    ]


def test_whole_units_are_written_without_reading() -> None:
    data = MemoryDataFile(SIZE)
    make_volume(data).write(UNIT_BYTES, bytes(UNIT_BYTES))

    assert data.calls == [("write", UNIT_BYTES, UNIT_BYTES)]


def test_all_chunks_are_marked_before_the_first_byte() -> None:
    data = MemoryDataFile(SIZE)
    volume = make_volume(data, changes=ChangeLog(data.calls))

    volume.write(CHUNK_BYTES - UNIT_BYTES, bytes(CHUNK_BYTES + 2 * UNIT_BYTES))

    assert data.calls[0] == ("mark", 0, 3)
    assert [call[0] for call in data.calls].count("mark") == 1


def test_refused_writes_mark_nothing() -> None:
    data = MemoryDataFile(SIZE)
    volume = make_volume(data, changes=ChangeLog(data.calls))

    with pytest.raises(OutOfRangeError):
        volume.write(SIZE - 1, b"ab")
    volume.write(SIZE, b"")

    assert data.calls == []


def test_large_writes_go_in_bounded_pieces() -> None:
    size = 3 * LANE_BYTES
    data = MemoryDataFile(size)
    volume = make_volume(data)
    plaintext = os.urandom(size - 200)

    volume.write(100, plaintext)

    assert [call for call in data.calls if call[0] == "write"] == [
        ("write", start, LANE_BYTES) for start in range(0, size, LANE_BYTES)
    ]
    assert read(volume, 0, size) == bytes(100) + plaintext + bytes(100)


def test_write_leaves_the_callers_buffer_alone() -> None:
    volume = make_volume(MemoryDataFile(SIZE))
    data = bytearray(os.urandom(2 * UNIT_BYTES))
    copy = bytes(data)

    volume.write(0, data)
    volume.write(7, memoryview(data).toreadonly())

    assert data == copy


@pytest.mark.parametrize(("offset", "length"), [(-1, 1), (SIZE, 1), (0, SIZE + 1), (1 << 70, 1)])
def test_beyond_the_end(offset: int, length: int) -> None:
    volume = make_volume(MemoryDataFile(SIZE))

    with pytest.raises(OutOfRangeError, match="beyond the end"):
        volume.read_into(offset, bytearray(length))
    with pytest.raises(OutOfRangeError):
        volume.try_read_into(offset, bytearray(length))
    with pytest.raises(OutOfRangeError):
        volume.write(offset, bytes(length))


def test_nothing_at_the_end_is_nothing() -> None:
    data = MemoryDataFile(SIZE)
    volume = make_volume(data)
    volume.read_into(SIZE, bytearray())

    assert volume.try_read_into(SIZE, bytearray())
    assert data.calls == []


def test_read_only_volume() -> None:
    data = MemoryDataFile(SIZE)
    volume = Volume(data, size_bytes=SIZE, data_key=None, changes=None, read_only=True)

    with pytest.raises(ReadOnlyError):
        volume.write(0, b"x")
    assert read(volume, 0, 10) == bytes(10)
    assert [call[0] for call in data.calls] == ["read"]


@pytest.mark.parametrize(("offset", "length"), [(0, UNIT_BYTES), (5, 5), (5, 3 * UNIT_BYTES)])
def test_try_read_says_when_it_would_block(offset: int, length: int) -> None:
    data = MemoryDataFile(SIZE)
    volume = make_volume(data)
    data.is_cached = False

    assert not volume.try_read_into(offset, bytearray(length))


def test_failed_sync_voids_the_change_map_and_is_reported_as_it_is() -> None:
    data = MemoryDataFile(SIZE)
    changes = ChangeLog([])
    volume = make_volume(data, changes=changes)
    data.fail_sync = errno.EIO

    with pytest.raises(OSError, match="Input/output error"):
        volume.flush()
    assert changes.is_distrusted
    with pytest.raises(ReadOnlyError):
        volume.flush()
    with pytest.raises(ReadOnlyError):
        volume.write(0, b"x")


def test_failed_write_is_reported_and_the_volume_goes_on() -> None:
    data = MemoryDataFile(SIZE)
    volume = make_volume(data)
    data.fail_write_at = 0

    with pytest.raises(OSError, match="Input/output error"):
        volume.write(0, b"x")
    volume.write(UNIT_BYTES, b"y")
    assert read(volume, UNIT_BYTES, 1) == b"y"


def test_flush_syncs() -> None:
    data = MemoryDataFile(SIZE)
    make_volume(data, changes=ChangeLog([])).flush()
    make_volume(data).flush()

    assert data.calls == [("sync", 0, 0)] * 2


def test_close_wipes_kernels_and_buffers() -> None:
    volume = make_volume(MemoryDataFile(SIZE))
    volume.write(1, b"plaintext")
    volume.read_into(1, bytearray(9))
    lane = volume._lanes[0]

    volume.close()
    volume.close()

    with pytest.raises(ValueError, match="wiped"):
        lane.cipher.encrypt_units(0, bytes(UNIT_BYTES), bytearray(UNIT_BYTES))
    assert not any(lane.buffer)
    with pytest.raises(ValueError, match="closed"):
        volume.read_into(0, bytearray(1))
    with pytest.raises(ValueError, match="closed"):
        volume.write(0, b"x")


def test_close_during_a_call_wipes_the_kernel_when_the_call_ends() -> None:
    volume: Volume

    class ClosingDataFile(MemoryDataFile):
        def write(self, offset: int, data: object) -> None:
            volume.close()

    volume = make_volume(ClosingDataFile(SIZE))
    lane = volume._lanes[0]
    volume.write(0, bytes(UNIT_BYTES))

    assert volume._lanes == []
    with pytest.raises(ValueError, match="wiped"):
        lane.cipher.encrypt_units(0, bytes(UNIT_BYTES), bytearray(UNIT_BYTES))


def test_threads_do_not_disturb_each_other(is_encrypted: bool) -> None:
    size = 8 * CHUNK_BYTES
    volume = make_volume(MemoryDataFile(size), is_encrypted=is_encrypted)
    plaintext = os.urandom(size)
    start = threading.Barrier(4)

    def work(part: int) -> None:
        start.wait()
        offset = part * 2 * CHUNK_BYTES
        for step in range(0, 2 * CHUNK_BYTES, 64 * 1024):
            piece = plaintext[offset + step : offset + step + 64 * 1024]
            volume.write(offset + step, piece)
            assert read(volume, offset + step, len(piece)) == piece

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert read(volume, 0, size) == plaintext


@given(st.integers(0, 5 * UNIT_BYTES), st.integers(1, 3 * UNIT_BYTES))
def test_partial_units_are_those_not_covered(offset: int, length: int) -> None:
    extent = ByteRange(offset, length)
    expected = [
        unit
        for unit in range(0, 9 * UNIT_BYTES, UNIT_BYTES)
        if extent.overlaps(ByteRange(unit, UNIT_BYTES))
        and not (offset <= unit and unit + UNIT_BYTES <= extent.end)
    ]

    assert list(_partial_units(extent)) == expected
