"""Raw images and volumes: import and export."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from volcrypt.crypto.xts import is_zero
from volcrypt.durable import write_fully
from volcrypt.formats.volume_record import VolumeRecord
from volcrypt.geometry import CHUNK_BYTES, UNIT_BYTES, check_volume_size, chunk_range
from volcrypt.names import make_volume_id
from volcrypt.operations.home import Home
from volcrypt.operations.image_sources import ImageSource, LuksAccess, open_image
from volcrypt.operations.keys import (
    KeyChoice,
    check_source_key,
    choose_key,
    volume_context,
)
from volcrypt.operations.leases import held_volume
from volcrypt.operations.new_files import check_new_file, new_image
from volcrypt.operations.progress import Progress
from volcrypt.operations.records import load_record
from volcrypt.operations.volumes import check_name_is_free, new_volume, opened_volume
from volcrypt.operations.write_budget import counted_anew
from volcrypt.volume.datafile import DataFile
from volcrypt.volume.volume import Volume


def import_volume(
    home: Home,
    source: Path,
    *,
    name: str | None,
    choice: KeyChoice,
    progress: Progress,
    luks: LuksAccess | None = None,
) -> VolumeRecord:
    """A volume that holds the bytes of a raw image or block device, zeros behind its end up to
    the next whole data unit; or, with `luks`, what is encrypted in it, under a data key of its
    own. Holes and zeros of the source stay holes."""
    check_name_is_free(home, name)
    volume_id = make_volume_id(home.random_id_bytes())
    with open_image(source, luks) as image:
        size_bytes = check_volume_size(-(-image.size_bytes // UNIT_BYTES) * UNIT_BYTES)
        wrapped = choose_key(home, choice, volume_context(volume_id))
        with (
            counted_anew(home, wrapped),
            new_volume(
                home, size_bytes=size_bytes, name=name, wrapped_key=wrapped, volume_id=volume_id
            ) as record,
        ):
            with opened_volume(home, record, read_only=False) as (volume, data):
                progress.begin(f"importing {source}", image.size_bytes)
                _copy_in(image, volume, progress)
                data.sync()
            return record


def _copy_in(image: ImageSource, volume: Volume, progress: Progress) -> None:
    buffer = memoryview(bytearray(CHUNK_BYTES))
    offset = 0
    while (offset := image.next_data(offset)) < image.size_bytes:
        got = image.read_into(offset, buffer)
        if not is_zero(buffer[:got]):
            volume.write(offset, buffer[:got])
        offset += got
        progress.advance(offset)
    progress.advance(image.size_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """Bytes that could not be read, and read zeros in an image; and why."""

    offset: int
    length: int
    reason: str


def export_volume(
    home: Home, volume: str, target: Path, *, skip_damaged: bool = False, progress: Progress
) -> tuple[VolumeRecord, list[Skipped]]:
    """Write a volume's plaintext to a new sparse file, readable by its owner alone. With
    `skip_damaged`, data units that cannot be read are left out, and are in the answer."""
    record = load_record(home, volume)
    check_source_key(home, record.wrapped_key, f"volume {volume}")
    check_new_file(target)
    with (
        held_volume(home, record, purpose="export"),
        opened_volume(home, record, read_only=True, progress=progress) as (opened, data),
        new_image(target, record.size_bytes) as image,
    ):
        progress.begin(f"exporting {volume}", record.size_bytes)
        skipped = _copy_out(opened, data, image, progress, skip_damaged=skip_damaged)
    return record, skipped


def _copy_out(
    volume: Volume, data: DataFile, target: int, progress: Progress, *, skip_damaged: bool
) -> list[Skipped]:
    buffer = memoryview(bytearray(CHUNK_BYTES))
    skipped: list[Skipped] = []
    for index in data.candidate_chunks():
        extent = chunk_range(index, data.size_bytes)
        piece = buffer[: extent.length]
        try:
            volume.read_into(extent.offset, piece)
        except OSError:
            if not skip_damaged:
                raise
            skipped += _read_units(volume, extent.offset, piece)
        if not is_zero(piece):
            write_fully(target, piece, extent.offset)
        progress.advance(extent.end)
    return skipped


def _read_units(volume: Volume, offset: int, piece: memoryview) -> Iterator[Skipped]:
    """Read what can be read unit by unit; zeros for the rest, which is the answer, in runs."""
    lost: Skipped | None = None
    for at in range(0, len(piece), UNIT_BYTES):
        unit = piece[at : at + UNIT_BYTES]
        try:
            volume.read_into(offset + at, unit)
        except OSError as error:
            unit[:] = bytes(len(unit))
            reason = error.strerror or str(error)
            if lost is not None and (lost.offset + lost.length, lost.reason) == (
                offset + at,
                reason,
            ):
                lost = replace(lost, length=lost.length + len(unit))
                continue
            if lost is not None:
                yield lost
            lost = Skipped(offset=offset + at, length=len(unit), reason=reason)
    if lost is not None:
        yield lost
