"""Reading past the page cache: what is on the disk, under a key of one's own, or an error."""

import errno
import mmap
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp

import pytest

from volcrypt.crypto.data_key import DataKey
from volcrypt.errors import IntegrityError
from volcrypt.geometry import CHUNK_BYTES, UNIT_BYTES
from volcrypt.volume.datafile import DataFile
from volcrypt.volume.medium import Medium
from volcrypt.volume.volume import Volume

SIZE = 2 * CHUNK_BYTES + UNIT_BYTES


@pytest.fixture(params=["direct", "refused"])
def path(request: pytest.FixtureRequest) -> Iterator[Path]:
    """On a disk, where the page cache can be asked; or where O_DIRECT is refused."""
    directory = Path(mkdtemp(dir="/var/tmp"))
    really_open = os.open

    def open_or_refuse(
        path: Path, flags: int, mode: int = 0o777, *, dir_fd: int | None = None
    ) -> int:
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return really_open(path, flags, mode, dir_fd=dir_fd)

    with pytest.MonkeyPatch.context() as patched:
        if request.param == "refused":
            patched.setattr(os, "open", open_or_refuse)
        yield directory / request.param
    shutil.rmtree(directory)


def key() -> DataKey:
    return DataKey(bytearray(range(64)))


def read(medium: Medium, offset: int, size: int) -> bytes:
    buffer = memoryview(mmap.mmap(-1, size))
    medium.read_into(offset, buffer)
    return bytes(buffer)


def is_cached(file: DataFile) -> bool:
    return file.try_read_into(CHUNK_BYTES, bytearray(UNIT_BYTES))


def test_what_was_written_is_read_past_the_cache(path: Path) -> None:
    with DataFile.create(path, SIZE) as file:
        volume = Volume(file, size_bytes=SIZE, data_key=key(), changes=None)
        volume.write(CHUNK_BYTES - 5, b"not synced")
        medium = Medium(path, key())
        assert read(medium, CHUNK_BYTES, UNIT_BYTES).startswith(b"ynced\0")
        assert read(medium, 2 * CHUNK_BYTES, UNIT_BYTES) == bytes(UNIT_BYTES)
        if medium.is_direct:
            file.drop_cache()
            assert read(medium, CHUNK_BYTES, UNIT_BYTES).startswith(b"ynced\0")
            assert not is_cached(file)
            # Control: who reads through the cache fills it. (So does asking, for the next.)
            file.drop_cache()
            volume.read_into(CHUNK_BYTES, bytearray(UNIT_BYTES))
            assert is_cached(file)
        volume.close()
        medium.close()
        medium.close()


def test_a_disk_is_read_directly_and_another_key_reads_something_else(path: Path) -> None:
    with DataFile.create(path, SIZE) as file, DataKey(bytearray(range(1, 65))) as other:
        volume = Volume(file, size_bytes=SIZE, data_key=key(), changes=None)
        volume.write(0, b"x" * UNIT_BYTES)
        volume.close()
        medium = Medium(path, other)
        assert medium.is_direct == (path.name == "direct")
        assert read(medium, 0, UNIT_BYTES) != b"x" * UNIT_BYTES
        medium.close()


def test_a_file_that_was_cut_is_an_error(path: Path) -> None:
    DataFile.create(path, SIZE).close()
    os.truncate(path, CHUNK_BYTES)
    medium = Medium(path, key())
    with pytest.raises(IntegrityError, match=f"ends at {CHUNK_BYTES}"):
        read(medium, CHUNK_BYTES - UNIT_BYTES, 2 * UNIT_BYTES)
    medium.close()


def test_no_link_is_followed(path: Path) -> None:
    path.symlink_to("/etc/passwd")
    with pytest.raises(OSError, match="symbolic links"):
        Medium(path, key())
