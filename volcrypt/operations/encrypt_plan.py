"""What an encryption will do, before it does it: steps, room, time, and what is destroyed.

The time is what the steps read and write, at rates that are measured for a moment: a part of the
volume is read and digested, and as much written to a file without a name, and synced, where the
snapshot store is. It is an expectation: other work on the machine is not in it.
"""

import os
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from volcrypt.crypto.digest import DigestAlgorithm
from volcrypt.errors import NoSpaceError
from volcrypt.formats.migration import Migration, MigrationStep
from volcrypt.formats.volume_record import VolumeRecord
from volcrypt.formats.workflow import Step
from volcrypt.geometry import CHUNK_BYTES, chunk_range, format_size
from volcrypt.names import SnapshotId
from volcrypt.operations.destruction import (
    DISCARDED,
    KEPT,
    OVERWRITTEN,
    OldData,
    old_data,
)
from volcrypt.operations.home import Home
from volcrypt.operations.records import data_path
from volcrypt.operations.snapshot_lookup import snapshots_of_volume
from volcrypt.operations.stores import LOCAL_STORE
from volcrypt.volume.datafile import DataFile

_SAMPLE_BYTES: Final = 32 * 2**20
_SAMPLE_SECONDS: Final = 0.5
_LEAST_RATE: Final = 2**20
_STEP_SECONDS: Final = 0.2
"""What a step takes that has nothing to do."""

# How often each step reads and writes the data.
_WORK: Final = {
    Step.SNAPSHOT: (1, 1),
    Step.COPY: (1, 1),
    Step.COMPARE: (2, 0),
    Step.RESTORE: (1, 1),
    Step.VERIFY: (2, 0),
    Step.SWAP: (0, 0),
    Step.DESTROY: (0, 0),
}
WHAT: Final = {
    Step.SNAPSHOT: "take a snapshot",
    Step.COPY: "copy it under the key",
    Step.COMPARE: "compare the copy with the device",
    Step.RESTORE: "make the encrypted volume of the copy",
    Step.VERIFY: "read it back from the medium and compare it with the original",
    Step.SWAP: "give it the name",
    Step.DESTROY: "destroy the unencrypted data",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedStep:
    """One step; `read_bytes` and `write_bytes` that it moves, `seconds` that it is expected to
    take."""

    step: str
    what: str
    read_bytes: int
    write_bytes: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What is needed at the peak on one file system, beside what is there now."""

    path: Path
    needed_bytes: int
    free_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EncryptionPlan:
    """What is about to be done. `data_bytes` is what chunks with data have, at most (`is_bound`)
    for a device, which does not tell. `kms_key` as it was named, None for a customer-provided one.
    Rates are in bytes a second, None where there was nothing to measure. `target` is the directory,
    or the device, that the new data goes to. `resumes_at`: what is left of an unfinished run is
    planned. `is_plain`: the old data is not encrypted."""

    record: VolumeRecord
    kms_key: str | None
    resumes_at: str | None
    data_bytes: int
    is_bound: bool
    read_rate: int | None
    write_rate: int | None
    steps: list[PlannedStep]
    rooms: list[Room]
    target: Path
    destroyed: list[OldData]
    plain_snapshots: list[SnapshotId]
    stores_not_read: list[str]
    deletes_snapshots: bool
    is_plain: bool = True

    @property
    def seconds(self) -> float:
        return sum(each.seconds for each in self.steps)

    def held_to(self, rate: int | None) -> "EncryptionPlan":
        """With no step that moves data faster than `rate` bytes a second."""
        if rate is None:
            return self
        slowest = self.data_bytes / rate
        steps = [
            replace(each, seconds=max(each.seconds, slowest)) if each.read_bytes else each
            for each in self.steps
        ]
        return replace(self, steps=steps)

    def check_room(self) -> None:
        """Raises NoSpaceError. What a device has at most may be much more than it has."""
        for room in self.rooms:
            if not self.is_bound and room.free_bytes < room.needed_bytes:
                raise NoSpaceError(
                    f"encrypting needs about {format_size(room.needed_bytes)} at once below "
                    f"{room.path}, {format_size(room.free_bytes)} are free"
                )


def plan_encryption(
    home: Home,
    record: VolumeRecord,
    *,
    kms_key: str | None,
    keep_old: bool,
    delete_plain_snapshots: bool,
    plain_snapshot: SnapshotId | None = None,
    step: Step | None = None,
) -> EncryptionPlan:
    """`step` is where an unfinished run goes on."""
    path = data_path(home, record)
    in_place = record.device is not None
    target = path if in_place else path.parent if record.data_path else home.volumes.path
    with DataFile.open(path, record.size_bytes, read_only=True) as data:
        data_bytes = data.candidate_bytes()
        read_rate, write_rate = _measure(home, data)
    steps = []
    for each, (reads, writes) in _WORK.items():
        if each is Step.COMPARE and not in_place:
            continue
        if step is not None and list(Step).index(each) < list(Step).index(step):
            continue
        steps.append(
            _planned(
                each.value,
                WHAT[each],
                (reads * data_bytes, writes * data_bytes),
                (read_rate, write_rate),
            )
        )
    rooms: Counter[Path] = Counter()
    if step in (None, Step.SNAPSHOT, Step.COPY):
        rooms[home.path] += (2 if step is not Step.COPY else 1) * data_bytes
    if not in_place and step in (None, Step.SNAPSHOT, Step.COPY, Step.RESTORE):
        needed = record.size_bytes if record.preallocated else data_bytes
        rooms[_same_file_system(home.path, target)] += needed
    found, unread = snapshots_of_volume(home, record.volume_id)
    return EncryptionPlan(
        record=record,
        kms_key=kms_key,
        resumes_at=None if step is None else step.value,
        data_bytes=data_bytes,
        is_bound=in_place,
        read_rate=read_rate,
        write_rate=write_rate,
        steps=steps,
        rooms=[_room(each, needed) for each, needed in rooms.items()],
        target=target,
        destroyed=destroyed_data(home, path, in_place=in_place, keep_old=keep_old),
        plain_snapshots=[
            each.snapshot_id
            for each in found
            if each.wrapped_key is None and each.snapshot_id != plain_snapshot
        ],
        stores_not_read=unread,
        deletes_snapshots=delete_plain_snapshots,
    )


_MIGRATION: Final = (
    ("copy", "copy it under the key while it is in use", 1, 1),
    ("verify", "read the copy back from the medium and compare it with what is in use", 2, 0),
    ("switch", "go over to the copy", 0, 0),
    ("destroy", "destroy the old data", 0, 0),
)


def plan_migration(
    home: Home,
    record: VolumeRecord,
    *,
    migration: Migration | None,
    key: str | None,
    delete_plain_snapshots: bool = False,
) -> EncryptionPlan:
    """Of a volume that stays in use, or what is left of that."""
    is_plain = not record.is_encrypted
    if migration is not None:
        is_plain = migration.source_key_id is None
        delete_plain_snapshots = delete_plain_snapshots or migration.delete_plain_snapshots
    path = data_path(home, record)
    with DataFile.open(path, record.size_bytes, read_only=True) as data:
        data_bytes = data.candidate_bytes()
        rates = _measure(home, data)
    names = [step for step, *_ in _MIGRATION]
    first = 0
    if migration is not None:
        step = migration.step
        first = 2 if step is MigrationStep.RENAME else names.index(step.value)
    is_copied = first > 0
    needed = record.size_bytes if record.preallocated else data_bytes
    found, unread = snapshots_of_volume(home, record.volume_id)
    return EncryptionPlan(
        record=record,
        kms_key=key,
        resumes_at=None if migration is None else migration.step.value,
        data_bytes=data_bytes,
        is_bound=False,
        read_rate=rates[0],
        write_rate=rates[1],
        steps=[
            _planned(step, what, (reads * data_bytes, writes * data_bytes), rates)
            for step, what, reads, writes in _MIGRATION[first:]
        ],
        rooms=[] if is_copied else [_room(path.parent, needed)],
        target=path.parent,
        destroyed=[old_data("the old data", path, DISCARDED)],
        plain_snapshots=[
            each.snapshot_id for each in found if each.wrapped_key is None and is_plain
        ],
        stores_not_read=unread,
        deletes_snapshots=delete_plain_snapshots,
        is_plain=is_plain,
    )


def _planned(
    step: str, what: str, bytes_moved: tuple[int, int], rates: tuple[int | None, int | None]
) -> PlannedStep:
    seconds = sum(
        count / (rate or _LEAST_RATE) for count, rate in zip(bytes_moved, rates, strict=True)
    )
    return PlannedStep(
        step=step,
        what=what,
        read_bytes=bytes_moved[0],
        write_bytes=bytes_moved[1],
        seconds=_STEP_SECONDS + seconds,
    )


def destroyed_data(
    home: Home, path: Path, *, in_place: bool, keep_old: bool, method: str | None = None
) -> list[OldData]:
    """What of the old data there is, and what becomes of it."""
    if method is None:
        method = OVERWRITTEN if in_place else KEPT if keep_old else DISCARDED
    return [
        old_data("the volume", path, method),
        old_data(
            "the snapshot that is made on the way", home.stores_path / LOCAL_STORE, "unlinked"
        ),
    ]


def _same_file_system(one: Path, other: Path) -> Path:
    """`one` where both lie on one file system: their needs are added up there."""
    there = other
    while not there.exists():
        there = there.parent
    return one if there.stat().st_dev == one.stat().st_dev else there


def _room(path: Path, needed_bytes: int) -> Room:
    space = os.statvfs(path)
    return Room(path=path, needed_bytes=needed_bytes, free_bytes=space.f_bavail * space.f_frsize)


def _measure(home: Home, data: DataFile) -> tuple[int | None, int | None]:
    """Bytes a second of reading and digesting, and of writing and syncing; for at most a second in
    all, and a part of the volume."""
    lengths: list[int] = []
    count = 0
    began = time.monotonic()
    for index in data.candidate_chunks():
        piece = bytearray(chunk_range(index, data.size_bytes).length)
        data.read_chunk(index, piece)
        DigestAlgorithm.BLAKE3.digest(piece)
        lengths.append(len(piece))
        count += len(piece)
        if count >= _SAMPLE_BYTES or time.monotonic() - began > _SAMPLE_SECONDS:
            break
    if not count:
        return None, None
    read_rate = count / max(time.monotonic() - began, 1e-6)
    written, began = 0, time.monotonic()
    noise = os.urandom(CHUNK_BYTES)  # and not what was read: that is plaintext
    try:
        descriptor = os.open(home.work_path, os.O_WRONLY | os.O_TMPFILE | os.O_CLOEXEC, 0o600)
    except OSError:
        return int(read_rate), None
    try:
        for length in lengths:
            written += os.write(descriptor, noise[:length])
            if time.monotonic() - began > _SAMPLE_SECONDS:
                break
        os.fdatasync(descriptor)
    except OSError:  # a full disk is told by who needs it
        return int(read_rate), None
    finally:
        os.close(descriptor)
    return int(read_rate), int(written / max(time.monotonic() - began, 1e-6))
