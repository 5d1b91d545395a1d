"""The exit door: a detached LUKS2 header, with which stock cryptsetup opens a volume's data.

cryptsetup knows no holes: where a volume reads zeros because it was never written, it would show
noise. So what a lazy volume lacks is fetched first, everything that was never written is written as
encrypted zeros, and the volume is thin no more. From then on the record says that somebody else may
write to the data (`exported_at`), so no change map of the volume is believed any more.

    record with `exported_at`     a kill here: snapshots look at everything, which is slow and right
    encrypted zeros, synced       a kill here: the next call goes over what is there, reading
    header tried, written without a name, synced, linked to FILE, directory synced

So a header that is there fits the whole volume as it was then. What the volume grows by later is a
hole again, for which the header has to be exported anew; nothing else makes holes.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from volcrypt.crypto.data_key import DataKey
from volcrypt.durable import no_space_named, write_fully
from volcrypt.errors import InvalidArgumentError, NoSpaceError
from volcrypt.formats.volume_record import VolumeRecord, WrappedDataKey
from volcrypt.geometry import (
    CHUNK_BYTES,
    SECTOR_BYTES,
    UNIT_BYTES,
    ByteRange,
    chunk_count,
    chunk_range,
    format_size,
)
from volcrypt.kms.clock import host_time
from volcrypt.operations import workflows
from volcrypt.operations.home import Home
from volcrypt.operations.keys import check_source_key, unwrap_key
from volcrypt.operations.lazy_volumes import make_whole
from volcrypt.operations.leases import held_volume
from volcrypt.operations.mounts import check_free
from volcrypt.operations.new_files import check_new_file, new_image
from volcrypt.operations.progress import Progress
from volcrypt.operations.record_copies import record_copies
from volcrypt.operations.records import data_path, load_record, save_records
from volcrypt.operations.write_budget import write_counter
from volcrypt.volume.cryptsetup import make_header
from volcrypt.volume.datafile import DataFile
from volcrypt.volume.volume import Volume

ACTION: Final = "volcrypt:ExportHeader"


@dataclass(frozen=True, slots=True, kw_only=True)
class HeaderExport:
    """A header that was written; `filled_bytes` of holes became encrypted zeros for it."""

    record: VolumeRecord
    data_path: Path
    target: Path
    filled_bytes: int


def export_header(
    home: Home,
    volume: str,
    target: Path,
    *,
    passphrase: bytearray,
    progress: Progress,
    pbkdf: Sequence[str] = (),
) -> HeaderExport:
    """Write a LUKS2 header of the volume to the new file `target`, mode 0600, which appears whole
    and durable or not at all; its one keyslot opens with the passphrase. `pbkdf` as `make_header`
    takes it.

    Raises AccessDeniedError for who may not do `volcrypt:ExportHeader`, KmsError,
    VolumeInUseError, InvalidArgumentError, NameTakenError, NoSpaceError, ComponentMissingError,
    IntegrityError when another home has a newer record of it.
    """
    check_new_file(target)
    record = load_record(home, volume)
    wrapped = record.wrapped_key
    if wrapped is None:
        raise InvalidArgumentError(
            f"volume {volume} is not encrypted", hint="its data file is the raw image"
        )
    check_source_key(home, wrapped, f"volume {volume}")
    check_free(home, record.volume_id, volume)
    home.vault.authorise(
        home.caller,
        ACTION,
        key_arn=wrapped.kms_key_arn,
        context={"volcrypt:volume-id": record.volume_id},
    )
    with held_volume(home, record, purpose="export-header"):
        record = load_record(home, record.volume_id)
        workflows.check_none_running(home, record.volume_id, volume)
        with ExitStack() as stack:
            data_key = stack.enter_context(unwrap_key(home, wrapped))
            copies = stack.enter_context(record_copies(home, record, data_key))
            copies.check(record)
            _check_space(home, record)
            # What a lazy volume has not fetched looks like holes.
            record = make_whole(home, record, progress)
            data = DataFile.open(data_path(home, record), record.size_bytes)
            stack.callback(data.close)
            record = msgspec.structs.replace(
                record, exported_at=int(host_time()), counter=record.counter + 1
            )
            save_records(home, put=[record])
            copies.refresh(record)
            filled = _fill(home, record, wrapped, data, data_key, progress)
            progress.begin("making the header", None)
            header = make_header(data_key, passphrase, label=record.volume_id, pbkdf=pbkdf)
            _write_header(target, header)
    return HeaderExport(
        record=record,
        data_path=data_path(home, record),
        target=target,
        filled_bytes=filled,
    )


def _check_space(home: Home, record: VolumeRecord) -> None:
    """Raises NoSpaceError when what was never written does not fit on the disk."""
    if record.device is not None:
        return
    path = data_path(home, record)
    wanted = record.size_bytes - path.stat().st_blocks * SECTOR_BYTES
    space = os.statvfs(path)
    free = space.f_bavail * space.f_frsize
    if wanted > free:
        raise NoSpaceError(
            f"all of the volume has to be written for cryptsetup: {format_size(wanted)}, and "
            f"{format_size(free)} are free at {path}"
        )


def _fill(
    home: Home,
    record: VolumeRecord,
    wrapped: WrappedDataKey,
    data: DataFile,
    data_key: DataKey,
    progress: Progress,
) -> int:
    """Encrypted zeros into every hole, durable on return; how much that was."""
    progress.begin(f"filling holes of {record.volume_id}", record.size_bytes)
    written = write_counter(home, wrapped)
    volume = Volume(
        data, size_bytes=record.size_bytes, data_key=data_key, changes=None, written=written
    )
    filled = 0
    buffer = memoryview(bytearray(CHUNK_BYTES))
    try:
        with no_space_named(data.path):
            for index, may_hold_data in _chunks(data):
                extent = chunk_range(index, record.size_bytes)
                holes = [extent]
                if may_hold_data:
                    piece = buffer[: extent.length]
                    data.read_chunk(index, piece)
                    holes = list(units_with_holes(piece, extent.offset))
                for hole in holes:
                    # What is there of these units is read, and encrypted to the same again.
                    piece = buffer[: hole.length]
                    volume.read_into(hole.offset, piece)
                    volume.write(hole.offset, piece)
                    filled += hole.length
                progress.advance(extent.end)
            data.sync()
    finally:
        volume.close()
        buffer[:] = bytes(CHUNK_BYTES)
        if written is not None:
            written.close()
    return filled


def _chunks(data: DataFile) -> Iterator[tuple[int, bool]]:
    """Every chunk, and whether it may hold data."""
    candidates = data.candidate_chunks()
    following = next(candidates, None)
    for index in range(chunk_count(data.size_bytes)):
        is_candidate = index == following
        if is_candidate:
            following = next(candidates, None)
        yield index, is_candidate


def units_with_holes(ciphertext: memoryview, offset: int) -> Iterator[ByteRange]:
    """The runs of data units in which a sector is a hole, of whole units from `offset` on."""
    words = np.frombuffer(ciphertext, dtype=np.uint64)
    is_hole = ~words.reshape(-1, SECTOR_BYTES // 8).any(axis=1)
    units = is_hole.reshape(-1, UNIT_BYTES // SECTOR_BYTES).any(axis=1)
    edges = np.flatnonzero(np.diff(units.astype(np.int8), prepend=0, append=0)).tolist()
    for start, stop in zip(edges[::2], edges[1::2], strict=True):
        yield ByteRange(offset + start * UNIT_BYTES, (stop - start) * UNIT_BYTES)


def _write_header(target: Path, header: bytes) -> None:
    with new_image(target, len(header)) as descriptor:
        write_fully(descriptor, header, 0)
