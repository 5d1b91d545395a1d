"""What is kept of chunks that writers replace: from one process to another, on real files."""

import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.file_system import DisposableFileSystem, run
from volcrypt.errors import IntegrityError, NoSpaceError
from volcrypt.geometry import CHUNK_BYTES, UNIT_BYTES
from volcrypt.volume import preserve
from volcrypt.volume.datafile import DataFile
from volcrypt.volume.preserve import MARK_BYTES, PreservedChunks, PreservedReader

CHUNKS = 6
SIZE = (CHUNKS - 1) * CHUNK_BYTES + UNIT_BYTES


class Files:
    """A data file, what is kept of it, and the reader that another process would have."""

    def __init__(self, directory: Path, *, keeps_in: Path | None = None) -> None:
        self.data = DataFile.create(directory / "data", SIZE)
        self.kept = PreservedChunks(self.data, keeps_in or directory)
        self.reader = PreservedReader([os.dup(fd) for fd in self.kept.descriptors])

    def write(self, chunk: int, content: bytes) -> None:
        self.data.write(chunk * CHUNK_BYTES, content)

    def read(self, chunk: int) -> bytes:
        """The chunk as the capture saw it, its first 8 bytes."""
        buffer = bytearray(min(CHUNK_BYTES, SIZE - chunk * CHUNK_BYTES))
        self.data.read_chunk(chunk, buffer)
        self.reader.replace(chunk, buffer)
        return bytes(buffer[:8])

    def close(self) -> None:
        self.reader.close()
        self.kept.close()
        self.data.close()


@pytest.fixture
def files(tmp_path: Path) -> Iterator[Files]:
    made = Files(tmp_path)
    yield made
    made.close()


def test_a_chunk_is_what_it_was_when_it_was_kept(files: Files) -> None:
    for chunk in range(CHUNKS):
        files.write(chunk, b"before %d" % chunk)
    for chunk in (0, 3, CHUNKS - 1):
        files.kept.keep(chunk)
    for chunk in range(CHUNKS):
        files.write(chunk, b"later! %d" % chunk)
    assert [files.read(chunk) for chunk in range(CHUNKS)] == [
        b"before 0",
        b"later! 1",
        b"later! 2",
        b"before 3",
        b"later! 4",
        b"before 5",
    ]


def test_a_mark_comes_after_its_chunk(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    files.write(3, b"before 3")
    pwrite, written = os.pwrite, []

    def noted(descriptor: int, data: memoryview, offset: int) -> int:
        written.append(descriptor)
        return pwrite(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", noted)
    files.kept.keep(3)
    marks, segment = files.kept.descriptors
    assert written == [segment, marks]


def test_holes_take_no_room(files: Files) -> None:
    files.kept.keep(2)
    assert not files.kept.takes_room_of_data
    files.write(2, b"after...")
    assert files.read(2) == bytes(8)
    files.kept.keep(3)
    files.write(4, b"before..")
    files.kept.keep(4)
    assert files.kept.takes_room_of_data


def test_another_file_system_takes_no_room_of_the_data(tmp_path: Path) -> None:
    memory = Path("/dev/shm/volcrypt-test-preserve")
    memory.mkdir()
    try:
        files = Files(tmp_path, keeps_in=memory)
        files.write(0, b"before..")
        files.kept.keep(0)
        assert not files.kept.takes_room_of_data
        files.close()
    finally:
        shutil.rmtree(memory)


def test_no_name_and_no_room_are_left(files: Files, tmp_path: Path) -> None:
    files.write(0, os.urandom(CHUNK_BYTES))
    files.kept.keep(0)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    segment = files.reader._descriptors[1]
    assert os.fstat(segment).st_blocks > 0
    files.kept.close()
    assert os.fstat(segment).st_blocks == 0


def test_what_the_disk_lost_is_not_taken_for_the_chunk(files: Files) -> None:
    files.write(1, b"before..")
    files.kept.keep(1)
    files.write(1, b"after...")
    files.kept.discard()
    with pytest.raises(IntegrityError, match="what chunk 1 held before it was written to is lost"):
        files.read(1)
    # A chunk of zeros was never on the disk.
    files.kept.keep(2)
    assert files.read(2) == bytes(8)


def test_a_mark_that_is_seen_in_part_is_read_again(files: Files) -> None:
    files.write(1, b"before..")
    files.kept.keep(1)
    files.write(1, b"after...")
    marks = files.reader._descriptors[0]
    whole = os.pread(marks, MARK_BYTES, MARK_BYTES)
    os.pwrite(marks, whole[:3] + bytes(5), MARK_BYTES)
    read, calls = files.reader._mark, []

    def finished_meanwhile(chunk: int) -> bytes:
        found = read(chunk)
        calls.append(found)
        os.pwrite(marks, whole, MARK_BYTES)
        return found

    files.reader._mark = finished_meanwhile  # type: ignore[method-assign]
    assert files.read(1) == b"before.."
    assert len(calls) == 2


def test_segments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ext4 holds no file of 64 TiB."""
    monkeypatch.setattr(preserve, "SEGMENT_BYTES", 2 * CHUNK_BYTES)
    files = Files(tmp_path)
    assert len(files.kept.descriptors) == 1 + 3
    for chunk in range(CHUNKS):
        files.write(chunk, b"before %d" % chunk)
        files.kept.keep(chunk)
        files.write(chunk, b"after...")
        assert files.read(chunk) == b"before %d" % chunk
    assert os.fstat(files.reader._descriptors[2]).st_size == 2 * CHUNK_BYTES
    files.close()


def test_where_files_must_have_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real_open = os.open

    def open_with_name(
        path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None
    ) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        return real_open(path, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", open_with_name)
    (tmp_path / ".preserved").write_bytes(b"left by a kill")
    files = Files(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    files.write(0, b"before..")
    files.kept.keep(0)
    files.write(0, b"after...")
    assert files.read(0) == b"before.."
    files.close()


def test_no_room(tmp_path: Path, ext4: DisposableFileSystem) -> None:
    files = Files(tmp_path, keeps_in=ext4.directory)
    files.write(0, os.urandom(CHUNK_BYTES))
    ext4.fill()
    with pytest.raises(NoSpaceError, match=f"no space left for {ext4.directory}"):
        files.kept.keep(0)
    files.close()


def test_a_file_system_without_room_for_files(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    run("mount", "-t", "tmpfs", "-o", "nr_inodes=1", "tmpfs", small)
    try:
        with pytest.raises(NoSpaceError):
            Files(tmp_path, keeps_in=small)
    finally:
        run("umount", small)
