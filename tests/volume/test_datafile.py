"""Positional I/O on a real file, a real loop device and a real file system that fails."""

import errno
import os
import resource
import stat
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.file_system import DisposableFileSystem, run
from tests.syncs import recorded_syncs
from volcrypt.errors import (
    IntegrityError,
    InvalidArgumentError,
    NoSpaceError,
    PrivilegeError,
    ReadOnlyError,
    RecordMissingError,
    VolumeInUseError,
)
from volcrypt.geometry import CHUNK_BYTES, ByteRange, chunk_range
from volcrypt.volume.datafile import DataFile

MIB = 2**20
SIZE = 3 * CHUNK_BYTES + 4096


@pytest.fixture
def data(tmp_path: Path) -> Iterator[DataFile]:
    with DataFile.create(tmp_path / "data", SIZE) as data:
        yield data


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Path]:
    """A loop device of 4 MiB."""
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(4 * MIB)
    path = Path(run("losetup", "--find", "--show", image).strip())
    yield path
    run("losetup", "--detach", path)


def read(data: DataFile, offset: int, length: int) -> bytes:
    buffer = bytearray(length)
    data.read_into(offset, buffer)
    return bytes(buffer)


def test_a_new_file_is_durable_with_its_name(tmp_path: Path) -> None:
    with recorded_syncs() as synced:
        DataFile.create(tmp_path / "data", SIZE).close()
    assert synced == [tmp_path / "data", tmp_path]


def test_write_back_that_is_begun_changes_nothing(data: DataFile) -> None:
    data.write(CHUNK_BYTES, b"data" * 1024)
    for offset, length in ((CHUNK_BYTES, 4096), (0, SIZE), (SIZE, 2**40)):
        data.begin_write_back(offset, length)
    assert read(data, CHUNK_BYTES, 4096) == b"data" * 1024
    assert list(data.candidate_chunks()) == [1]
    data.sync()


class TestCreate:
    def test_sparse_private_and_of_full_size(self, tmp_path: Path) -> None:
        with DataFile.create(tmp_path / "data", 2**30) as data:
            assert (data.size_bytes, data.is_device, data.read_only) == (2**30, False, False)
        status = (tmp_path / "data").stat()
        assert (status.st_size, status.st_blocks) == (2**30, 0)
        assert stat.S_IMODE(status.st_mode) == 0o600

    @pytest.mark.parametrize("kind", ["file", "dangling link"])
    def test_existing_path_is_refused_and_left_alone(self, tmp_path: Path, kind: str) -> None:
        path = tmp_path / "data"
        if kind == "file":
            path.write_bytes(b"precious")
        else:
            path.symlink_to(tmp_path / "elsewhere")
        with pytest.raises(InvalidArgumentError, match="exists already"):
            DataFile.create(path, SIZE)
        assert os.path.lexists(path)
        assert kind != "file" or path.read_bytes() == b"precious"

    def test_too_large_for_the_file_system_leaves_nothing(self, ext4: DisposableFileSystem) -> None:
        path = ext4.directory / "data"
        with pytest.raises(InvalidArgumentError, match="cannot hold a file of"):
            DataFile.create(path, 2**60)
        assert not path.exists()

    def test_survives_a_power_cut(self, file_system: DisposableFileSystem) -> None:
        path = file_system.directory / "data"
        DataFile.create(path, SIZE).close()
        file_system.cut_power()
        with DataFile.open(path, SIZE) as data:
            assert read(data, 0, SIZE) == bytes(SIZE)


class TestOpen:
    def test_shorter_than_the_record(self, tmp_path: Path) -> None:
        DataFile.create(tmp_path / "data", SIZE).close()
        with pytest.raises(IntegrityError, match=f"has {SIZE} bytes, .* says {SIZE + 4096}"):
            DataFile.open(tmp_path / "data", SIZE + 4096)

    def test_longer_than_the_record(self, tmp_path: Path) -> None:
        DataFile.create(tmp_path / "data", SIZE).close()
        with DataFile.open(tmp_path / "data", CHUNK_BYTES) as data:
            data.write(0, bytes(CHUNK_BYTES))
            assert list(data.candidate_chunks()) == [0]

    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(RecordMissingError, match="missing on disk"):
            DataFile.open(tmp_path / "data", SIZE)

    @pytest.mark.parametrize("kind", ["directory", "pipe"])
    def test_something_else(self, tmp_path: Path, kind: str) -> None:
        path = tmp_path / "data"
        if kind == "directory":
            path.mkdir()
        else:
            os.mkfifo(path)
        with pytest.raises(InvalidArgumentError, match="neither a file nor a block device"):
            DataFile.open(path, SIZE)

    def test_without_permission(self, ext4: DisposableFileSystem) -> None:
        path = ext4.directory / "data"
        DataFile.create(path, SIZE).close()
        run("chattr", "+i", path)
        with pytest.raises(PrivilegeError, match="no permission"):
            DataFile.open(path, SIZE)

    def test_read_only(self, tmp_path: Path) -> None:
        DataFile.create(tmp_path / "data", SIZE).close()
        with DataFile.open(tmp_path / "data", SIZE, read_only=True) as data:
            assert read(data, 5, 5) == bytes(5)
            with pytest.raises(ReadOnlyError, match="for reading only"):
                data.write(0, b"x")
            data.drop_cache()

    def test_descriptor_is_not_inherited(self, data: DataFile) -> None:
        assert not os.get_inheritable(data._descriptor)

    def test_close_twice(self, data: DataFile) -> None:
        data.close()
        data.close()


class TestDevice:
    def test_reads_and_writes(self, device: Path) -> None:
        with DataFile.open(device, 4 * MIB) as data:
            assert data.is_device
            data.write(1000, b"on a device")
            data.sync()
            data.drop_cache()
            assert read(data, 1000, 11) == b"on a device"
            assert list(data.data_extents(4096, 2 * MIB)) == [ByteRange(4096, 2 * MIB - 4096)]
            assert list(data.data_extents(4096, 4096)) == []
            assert list(data.candidate_chunks()) == list(range(8))

    def test_too_small(self, device: Path) -> None:
        with pytest.raises(IntegrityError):
            DataFile.open(device, 8 * MIB)

    def test_claimed_by_another(self, device: Path) -> None:
        with DataFile.open(device, 4 * MIB):
            with pytest.raises(VolumeInUseError, match="in use by the kernel or another program"):
                DataFile.open(device, 4 * MIB)
            DataFile.open(device, 4 * MIB, read_only=True).close()


class TestReadAndWrite:
    def test_bytes_at_offsets(self, data: DataFile) -> None:
        data.write(CHUNK_BYTES - 3, b"abcdef")
        assert read(data, CHUNK_BYTES - 4, 8) == b"\0abcdef\0"
        data.write(0, memoryview(b"read only buffer"))
        assert read(data, 0, 4) == b"read"

    def test_nothing(self, data: DataFile) -> None:
        data.write(0, b"")
        data.read_into(0, bytearray())

    def test_cut_short_behind_our_back(self, data: DataFile) -> None:
        os.truncate(data.path, CHUNK_BYTES)
        with pytest.raises(IntegrityError, match=f"ends at {CHUNK_BYTES}, it was cut short"):
            data.read_into(CHUNK_BYTES - 100, bytearray(200))

    def test_full_disk_then_space(self, ext4: DisposableFileSystem) -> None:
        """A write that is cut short by a full disk goes on, and then says what is wrong."""
        path = ext4.directory / "data"
        with DataFile.create(path, SIZE) as data:
            ext4.fill(leave_bytes=64 * 1024)
            with pytest.raises(NoSpaceError, match=f"no space left for {path}"):
                data.write(0, b"x" * SIZE)
            (ext4.directory / "ballast").unlink()
            data.write(0, b"y" * SIZE)
            data.sync()
            assert read(data, 0, SIZE) == b"y" * SIZE

    def test_a_short_write_goes_on(self, data: DataFile) -> None:
        """The kernel writes up to the limit of the process, says how much, and then refuses."""
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (CHUNK_BYTES + 5000, limits[1]))
        try:
            with pytest.raises(OSError, match="File too large"):
                data.write(CHUNK_BYTES, b"x" * 8192)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert read(data, CHUNK_BYTES, 8192) == b"x" * 5000 + bytes(3192)

    def test_read_that_must_not_block(self, ext4: DisposableFileSystem) -> None:
        """ext4 tells; a file system that cannot gives False always."""
        with DataFile.create(ext4.directory / "data", SIZE) as data:
            data.write(0, b"d" * SIZE)
            buffer = bytearray(8192)
            assert data.try_read_into(100, buffer)
            assert buffer == b"d" * 8192
            data.drop_cache()
            assert not data.try_read_into(100, buffer)
            data.read_into(100, buffer)
            assert data.try_read_into(100, buffer)
            # Only the beginning is there: a file without readahead, of which one page was read.
            data.drop_cache()
            descriptor = os.open(data.path, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
            os.pread(descriptor, 4096, 0)
            os.close(descriptor)
            assert data.try_read_into(0, bytearray(4096))
            assert not data.try_read_into(0, buffer)

    def test_opening_for_writing_distrusts_the_cache(self, ext4: DisposableFileSystem) -> None:
        """A page whose write failed may be in it. Reading beside a writer leaves it alone."""
        path = ext4.directory / "data"
        with DataFile.create(path, SIZE) as data:
            data.write(0, b"d" * SIZE)
            data.sync()
        with DataFile.open(path, SIZE, read_only=True) as data:
            assert data.try_read_into(0, bytearray(SIZE))
        with DataFile.open(path, SIZE) as data:
            assert not data.try_read_into(0, bytearray(SIZE))
            assert read(data, 0, SIZE) == b"d" * SIZE

    def test_file_system_that_cannot_tell_whether_it_blocks(self) -> None:
        with (
            TemporaryDirectory(dir="/dev/shm") as directory,
            DataFile.create(Path(directory) / "data", SIZE) as data,
        ):
            assert data.try_read_into(0, bytearray(10)) in (False, True)
            assert read(data, 0, 10) == bytes(10)


class TestFailedSync:
    """On a file system that was shut down, fdatasync fails as on a dead disk."""

    def test_the_first_failure_is_final(self, ext4: DisposableFileSystem) -> None:
        path = ext4.directory / "data"
        with DataFile.create(path, SIZE) as data:
            data.write(0, b"lost")
            ext4.shut_down()
            with pytest.raises(OSError, match="Input/output error"):
                data.sync()
            with pytest.raises(ReadOnlyError, match=r"an earlier sync of data file .* failed"):
                data.sync()
            with pytest.raises(ReadOnlyError) as caught:
                data.write(0, b"more")
            assert caught.value.hint is not None
            with pytest.raises(ReadOnlyError):
                data.drop_cache()

        ext4.come_back()
        with DataFile.open(path, SIZE) as data:
            data.write(0, b"again")
            data.sync()
            assert read(data, 0, 5) == b"again"

    def test_a_sync_beside_a_failing_one_does_not_succeed(
        self, data: DataFile, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The kernel reports an error once for each opening: the second would be told success."""
        begun, goes_on, calls = threading.Event(), threading.Event(), []

        def fdatasync(descriptor: int) -> None:
            calls.append(descriptor)
            if len(calls) == 1:
                begun.set()
                assert goes_on.wait(10)
                raise OSError(errno.EIO, "Input/output error")

        monkeypatch.setattr(os, "fdatasync", fdatasync)
        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(data.sync)
            assert begun.wait(10)
            second = pool.submit(data.sync)
            # Long enough to overtake, if it could; if it comes later, it must fail all the same.
            wait([second], timeout=0.2)
            goes_on.set()
            assert isinstance(first.exception(), OSError)
            assert isinstance(second.exception(), ReadOnlyError)

    def test_of_many_syncs_at_once_none_claims_success(self, ext4: DisposableFileSystem) -> None:
        with DataFile.create(ext4.directory / "data", SIZE) as data:
            data.write(0, b"lost")
            ext4.shut_down()
            with ThreadPoolExecutor(4) as pool:
                syncs = [pool.submit(data.sync) for _ in range(8)]
                assert all(isinstance(sync.exception(), OSError | ReadOnlyError) for sync in syncs)


class TestChunks:
    def test_whole_and_last(self, data: DataFile) -> None:
        whole, last = os.urandom(CHUNK_BYTES), os.urandom(4096)
        data.write_chunk(1, whole)
        data.write_chunk(3, last)
        buffer = bytearray(CHUNK_BYTES)
        data.read_chunk(1, buffer)
        assert buffer == whole
        short = bytearray(4096)
        data.read_chunk(3, short)
        assert short == last
        assert list(data.candidate_chunks()) == [1, 3]
        assert data.candidate_bytes() == CHUNK_BYTES + 4096
        assert data.candidate_bytes(2) == data.candidate_bytes(2, 4) == 4096
        assert data.candidate_bytes(1, 2) == CHUNK_BYTES
        assert data.candidate_bytes(2, 3) == 0

    @pytest.mark.parametrize(("index", "length"), [(0, 4096), (3, CHUNK_BYTES), (4, 0), (4, 4096)])
    def test_not_a_whole_chunk(self, data: DataFile, index: int, length: int) -> None:
        with pytest.raises(AssertionError, match="not a whole chunk"):
            data.read_chunk(index, bytearray(length))
        with pytest.raises(AssertionError, match="not a whole chunk"):
            data.write_chunk(index, bytes(length))

    def test_data_not_yet_on_the_medium_is_a_candidate(self, data: DataFile) -> None:
        data.write(2 * CHUNK_BYTES + 5, b"x")
        assert list(data.candidate_chunks()) == [2]

    def test_extents_stay_within_their_bounds(self, data: DataFile) -> None:
        data.write(0, bytes(SIZE))
        assert data.candidate_bytes(0, 1) == CHUNK_BYTES
        assert list(data.data_extents(100, 5000)) == [ByteRange(100, 4900)]


RANGES = st.tuples(st.integers(0, SIZE - 1), st.integers(1, 40_000)).map(
    lambda pair: ByteRange(pair[0], min(pair[1], SIZE - pair[0]))
)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(RANGES, st.integers(1, 255)), max_size=8))
def test_equals_a_bytearray_and_finds_all_data(writes: list[tuple[ByteRange, int]]) -> None:
    with TemporaryDirectory() as directory:
        model = bytearray(SIZE)
        with DataFile.create(Path(directory) / "data", SIZE) as data:
            for extent, value in writes:
                data.write(extent.offset, bytes([value]) * extent.length)
                model[extent.offset : extent.end] = bytes([value]) * extent.length
            assert read(data, 0, SIZE) == model
            candidates = list(data.candidate_chunks())
            extents = list(data.data_extents(0, SIZE))
    assert candidates == sorted(set(candidates))
    for index in range(4):
        chunk = chunk_range(index, SIZE)
        assert index in candidates or not any(model[chunk.offset : chunk.end])
    for extent in extents:
        model[extent.offset : extent.end] = bytes(extent.length)
    assert not any(model)


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    """Two homes may have the same volume, and neither sees the other's owner lock."""
    path = tmp_path / "data"
    DataFile.create(path, SIZE).close()
    with DataFile.open(path, SIZE):
        with pytest.raises(VolumeInUseError, match="in use by another process, perhaps of another"):
            DataFile.open(path, SIZE)
        DataFile.open(path, SIZE, read_only=True).close()
    DataFile.open(path, SIZE).close()
