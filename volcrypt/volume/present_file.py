"""The file of a present map: made, looked at, and written in whole sectors (`formats.present_map`).

No numpy here: commands that only look should start fast.
"""

import os
from collections.abc import Iterable
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Final

from volcrypt.durable import no_space_named, open_regular, read_fully, sync_directory, write_fully
from volcrypt.errors import FormatError, IntegrityError, RecordMissingError
from volcrypt.formats.bit_sectors import SECTOR_BITMAP_BYTES
from volcrypt.formats.present_map import (
    PresentHeader,
    decode_header,
    decode_sectors,
    encode_header,
    encode_sector,
    sector_offset,
)
from volcrypt.geometry import SECTOR_BYTES
from volcrypt.names import VolumeId

PRESENT_FILE: Final = "present"
"""The map, in the volume's directory."""


class PresentFile:
    """Open for the volume's owner."""

    def __init__(self, descriptor: int, path: Path, header: PresentHeader) -> None:
        """Internal: use `open_present_map`. Takes the descriptor over."""
        self._descriptor = descriptor
        self._path = path
        self._header = header

    def write(self, sectors: Iterable[tuple[int, bytes]]) -> None:
        with no_space_named(self._path):
            # Neighbours in one call: learning of the holes of a large snapshot changes nearly all.
            for _, run in groupby(enumerate(sectors), key=lambda each: each[1][0] - each[0]):
                numbered = [sector for _, sector in run]
                data = b"".join(encode_sector(self._header, *sector) for sector in numbered)
                write_fully(self._descriptor, data, sector_offset(numbered[0][0]))
            os.fdatasync(self._descriptor)

    def finish(self) -> None:
        write_fully(self._descriptor, encode_header(replace(self._header, complete=True)), 0)
        os.fdatasync(self._descriptor)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def create_present_map(path: Path, header: PresentHeader) -> None:
    """Make the map of a new volume, of which nothing is present; durable on return, with all its
    room, so that no bit meets a full disk. What a killed command left there is replaced.

    Raises NoSpaceError.
    """
    with no_space_named(path):
        path.unlink(missing_ok=True)
        descriptor = open_regular(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        try:
            os.posix_fallocate(descriptor, 0, header.file_bytes)
            write_fully(descriptor, encode_header(header), 0)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        sync_directory(path.parent)


def is_complete(path: Path, volume_id: VolumeId) -> bool:
    """Whether every chunk is present, for all that is known without looking at the bits; False in
    doubt, and without a map."""
    what = f"present map of volume {volume_id}"
    try:
        descriptor, header = open_checked(path, what, os.O_RDONLY)
    except (OSError, IntegrityError, FormatError):
        return False
    os.close(descriptor)
    return header.complete and header.volume_id == volume_id


def open_checked(path: Path, what: str, flags: int) -> tuple[int, PresentHeader]:
    """Its descriptor and header. Raises RecordMissingError, IntegrityError and FormatError."""
    try:
        descriptor = open_regular(path, flags)
    except FileNotFoundError as error:
        raise RecordMissingError(
            what,
            hint=f"put the file {path.name} beside the data, from where that comes; if there was "
            "none, the data is whole: volcrypt volume check VOLUME --assume-whole",
        ) from error
    try:
        return descriptor, decode_header(read_fully(descriptor, SECTOR_BYTES, 0), what=what)
    except BaseException:
        os.close(descriptor)
        raise


def read_bits(descriptor: int, header: PresentHeader, *, what: str) -> bytearray:
    """The bits of all sectors. Raises IntegrityError and MalformedError."""
    if header.complete:
        bits = bytearray(b"\xff" * (header.sector_count * SECTOR_BITMAP_BYTES))
        _clear_padding(bits, header.chunk_count)
        return bits
    data = read_fully(descriptor, header.file_bytes - SECTOR_BYTES + 1, SECTOR_BYTES)
    return decode_sectors(header, data, what=what)


def count_present(path: Path, volume_id: VolumeId) -> int:
    """How many chunks are present, for who only looks. Raises IntegrityError and FormatError."""
    what = f"present map of volume {volume_id}"
    descriptor, header = open_checked(path, what, os.O_RDONLY)
    try:
        return int.from_bytes(read_bits(descriptor, header, what=what), "little").bit_count()
    finally:
        os.close(descriptor)


def _clear_padding(bits: bytearray, count: int) -> None:
    first = count // 8
    bits[first:] = bytes(len(bits) - first)
    if count % 8:
        bits[first] = (1 << count % 8) - 1
