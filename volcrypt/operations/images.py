"""Raw images and volumes: import and export."""

import errno
import io
import os
from pathlib import Path

from volcrypt.crypto.xts import is_zero
from volcrypt.durable import no_space_named, sync_directory
from volcrypt.errors import InvalidArgumentError, VolcryptError, VolumeInUseError
from volcrypt.formats.volume_record import VolumeRecord
from volcrypt.geometry import CHUNK_BYTES, UNIT_BYTES, check_volume_size, chunk_range
from volcrypt.names import make_volume_id
from volcrypt.operations.home import Home
from volcrypt.operations.keys import (
    KeyChoice,
    check_source_key,
    choose_key,
    volume_context,
)
from volcrypt.operations.leases import held_volume
from volcrypt.operations.progress import Progress
from volcrypt.operations.records import load_record
from volcrypt.operations.volumes import check_name_is_free, new_volume, opened_volume
from volcrypt.volume.datafile import DataFile
from volcrypt.volume.volume import Volume


def import_volume(
    home: Home, source: Path, *, name: str | None, choice: KeyChoice, progress: Progress
) -> VolumeRecord:
    """A volume that holds the bytes of a raw image or block device, zeros behind its end up to
    the next whole data unit. Holes and zeros of the source stay holes."""
    check_name_is_free(home, name)
    volume_id = make_volume_id(home.random_id_bytes())
    with _open_source(source) as image:
        source_bytes = os.lseek(image.fileno(), 0, os.SEEK_END)
        if source_bytes == 0:
            raise InvalidArgumentError(f"{source} is empty")
        size_bytes = check_volume_size(-(-source_bytes // UNIT_BYTES) * UNIT_BYTES)
        wrapped = choose_key(home, choice, volume_context(volume_id))
        with new_volume(
            home, size_bytes=size_bytes, name=name, wrapped_key=wrapped, volume_id=volume_id
        ) as record:
            with opened_volume(home, record, read_only=False) as (volume, data):
                progress.begin(f"importing {source}", source_bytes)
                _copy_in(image.fileno(), source_bytes, volume, progress)
                data.sync()
            return record


def _open_source(source: Path) -> io.FileIO:
    """Open an image, or a block device that nobody is writing to. Raises OSError."""
    # On a device O_EXCL asks the kernel to refuse while it is mounted or claimed.
    flags = os.O_RDONLY | os.O_CLOEXEC | (os.O_EXCL if source.is_block_device() else 0)
    try:
        return io.FileIO(os.open(source, flags), "rb")
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise VolumeInUseError(
                str(source),
                "the kernel",
                hint="unmount it first: an image of a file system in use is torn",
            ) from error
        raise


def _copy_in(source: int, source_bytes: int, volume: Volume, progress: Progress) -> None:
    buffer = memoryview(bytearray(CHUNK_BYTES))
    offset = 0
    while offset < source_bytes:
        offset = _next_data(source, offset, source_bytes)
        wanted = min(CHUNK_BYTES, source_bytes - offset)
        got = os.preadv(source, [buffer[:wanted]], offset) if wanted else 0
        if wanted and not got:
            raise VolcryptError(f"the source ends at byte {offset} of {source_bytes}")
        if got and not is_zero(buffer[:got]):
            volume.write(offset, buffer[:got])
        offset += got
        progress.advance(offset)


def _next_data(source: int, offset: int, end: int) -> int:
    """The next byte that may hold data; a device, or a file system without holes, has them all."""
    try:
        return min(os.lseek(source, offset, os.SEEK_DATA), end)
    except OSError as error:
        return end if error.errno == errno.ENXIO else offset


def export_volume(home: Home, volume: str, target: Path, *, progress: Progress) -> VolumeRecord:
    """Write a volume's plaintext to a new sparse file, readable by its owner alone."""
    record = load_record(home, volume)
    check_source_key(home, record.wrapped_key, f"volume {volume}")
    if target.exists():
        raise InvalidArgumentError(f"{target} exists already")
    with (
        held_volume(home, record, purpose="export"),
        opened_volume(home, record, read_only=True) as (opened, data),
        no_space_named(target),
        open(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb", 0) as image,
    ):
        try:
            progress.begin(f"exporting {volume}", record.size_bytes)
            os.ftruncate(image.fileno(), record.size_bytes)
            _copy_out(opened, data, image.fileno(), progress)
            os.fsync(image.fileno())
            sync_directory(target.absolute().parent)
        except BaseException:
            target.unlink()
            raise
    return record


def _copy_out(volume: Volume, data: DataFile, target: int, progress: Progress) -> None:
    buffer = memoryview(bytearray(CHUNK_BYTES))
    for index in data.candidate_chunks():
        extent = chunk_range(index, data.size_bytes)
        piece = buffer[: extent.length]
        volume.read_into(extent.offset, piece)
        if not is_zero(piece):
            write_fully(target, piece, extent.offset)
        progress.advance(extent.end)


def write_fully(descriptor: int, data: memoryview, offset: int) -> None:
    """All of `data` at `offset`; a short write is continued."""
    while data:
        written = os.pwrite(descriptor, data, offset)
        data, offset = data[written:], offset + written
