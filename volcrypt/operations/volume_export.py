"""Export: a volume's plaintext as a raw image.

It has a permission of its own, `volcrypt:ExportVolume`, and is on the audit log before a byte is
written. The image appears whole and durable, or not at all (`new_files.new_image`).
"""

import heapq
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from volcrypt.crypto.digest import DigestAlgorithm
from volcrypt.crypto.xts import is_zero
from volcrypt.durable import write_fully
from volcrypt.formats.import_log import ContentDigest
from volcrypt.formats.volume_record import VolumeRecord, key_arn_of
from volcrypt.geometry import CHUNK_BYTES, UNIT_BYTES, chunk_range
from volcrypt.operations import workflows
from volcrypt.operations.home import Home
from volcrypt.operations.keys import check_source_key
from volcrypt.operations.lazy_volumes import make_whole, make_whole_as_possible
from volcrypt.operations.leases import held_volume
from volcrypt.operations.mounts import check_free
from volcrypt.operations.new_files import check_new_file, data_runs, new_image
from volcrypt.operations.progress import Progress
from volcrypt.operations.records import load_record
from volcrypt.operations.volumes import opened_volume
from volcrypt.volume.datafile import DataFile
from volcrypt.volume.volume import Volume

ACTION: Final = "volcrypt:ExportVolume"
_DIGEST: Final = DigestAlgorithm.BLAKE3


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """Bytes that could not be read, and read zeros in an image; and why."""

    offset: int
    length: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportReport:
    """What was written. `data_bytes` are in data units that are not all zeros, the rest is holes;
    `content_digest` is that of `ContentDigest`."""

    record: VolumeRecord
    target: Path
    data_bytes: int
    content_digest: str
    skipped: list[Skipped]


def export_volume(
    home: Home, volume: str, target: Path, *, skip_damaged: bool = False, progress: Progress
) -> ExportReport:
    """Write a volume's plaintext to a new sparse file, readable by its owner alone. With
    `skip_damaged`, what cannot be read or fetched is left out, and is in the answer.

    Raises AccessDeniedError for who may not do `volcrypt:ExportVolume`, KmsError, VolumeInUseError,
    InvalidArgumentError, NameTakenError, NoSpaceError, OSError; IntegrityError and FormatError.
    """
    check_new_file(target)
    record = load_record(home, volume)
    wrapped = record.wrapped_key
    check_source_key(home, wrapped, f"volume {volume}")
    check_free(home, record.volume_id, volume)
    home.vault.authorise(
        home.caller,
        ACTION,
        key_arn=key_arn_of(wrapped),
        context={"volcrypt:volume-id": record.volume_id},
    )
    with held_volume(home, record, purpose="export"), ExitStack() as stack:
        record = load_record(home, record.volume_id)
        workflows.check_none_running(home, record.volume_id, volume)
        absent: Mapping[int, str] = {}
        if skip_damaged:
            record, absent = make_whole_as_possible(home, record, progress)
        else:
            record = make_whole(home, record, progress)
        opened, data = stack.enter_context(
            opened_volume(home, record, read_only=True, as_it_is=True)
        )
        image = stack.enter_context(new_image(target, record.size_bytes))
        run = _Export(opened, data, image, skip_damaged=skip_damaged)
        progress.begin(f"exporting {volume}", run.chunk_count(absent) * CHUNK_BYTES)
        run.write(absent, progress)
    return ExportReport(
        record=record,
        target=target,
        data_bytes=run.data_bytes,
        content_digest=run.content.hex(),
        skipped=run.skipped,
    )


class _Export:
    def __init__(self, volume: Volume, data: DataFile, image: int, *, skip_damaged: bool) -> None:
        self.content = ContentDigest(data.size_bytes)
        self.data_bytes = 0
        self.skipped: list[Skipped] = []
        self._volume = volume
        self._data = data
        self._image = image
        self._skip_damaged = skip_damaged

    def chunk_count(self, absent: Mapping[int, str]) -> int:
        """How many have to be looked at."""
        return sum(1 for _ in self._candidates(absent))

    def _candidates(self, absent: Mapping[int, str]) -> Iterator[int]:
        present = (index for index in self._data.candidate_chunks() if index not in absent)
        return heapq.merge(present, absent)

    def write(self, absent: Mapping[int, str], progress: Progress) -> None:
        buffer = memoryview(bytearray(CHUNK_BYTES))
        for done, index in enumerate(self._candidates(absent), start=1):
            extent = chunk_range(index, self._data.size_bytes)
            piece = buffer[: extent.length]
            if index in absent:
                self._skip(extent.offset, extent.length, absent[index])
            else:
                self._read(extent.offset, piece)
                if not is_zero(piece):
                    self.content.add(index, _DIGEST.digest(piece))
                    self._write(extent.offset, piece)
            progress.advance(done * CHUNK_BYTES)
        buffer[:] = bytes(CHUNK_BYTES)

    def _write(self, offset: int, piece: memoryview) -> None:
        for start, end in data_runs(piece):
            write_fully(self._image, piece[start:end], offset + start)
            self.data_bytes += end - start

    def _read(self, offset: int, piece: memoryview) -> None:
        try:
            self._volume.read_into(offset, piece)
        except OSError:
            if not self._skip_damaged:
                raise
            self._read_units(offset, piece)

    def _read_units(self, offset: int, piece: memoryview) -> None:
        """Read what can be read unit by unit; zeros for the rest."""
        for at in range(0, len(piece), UNIT_BYTES):
            unit = piece[at : at + UNIT_BYTES]
            try:
                self._volume.read_into(offset + at, unit)
            except OSError as error:
                unit[:] = bytes(len(unit))
                self._skip(offset + at, len(unit), error.strerror or str(error))

    def _skip(self, offset: int, length: int, reason: str) -> None:
        last = self.skipped[-1] if self.skipped else None
        if last is not None and (last.offset + last.length, last.reason) == (offset, reason):
            self.skipped[-1] = replace(last, length=last.length + length)
        else:
            self.skipped.append(Skipped(offset=offset, length=length, reason=reason))
