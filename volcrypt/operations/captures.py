"""Captures: points in time of volumes, each kept as it was until it is stored.

A mounted volume is captured by the process that serves it, through its control socket: it keeps
what writers replace, and they go on. A volume that nobody has open is captured by this process,
which holds it for the time. Either way the ciphertext is read here, from the data file and from
what was kept, and a capture that is not committed is aborted.

Several volumes are captured at one point: those that nobody has open are held first; then the
writers of each mounted one are stopped; and when all are, they go on.
"""

import heapq
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Protocol, Self

import msgspec
from typing_extensions import Buffer

from volcrypt.chunk_set import ChunkSet
from volcrypt.errors import IntegrityError, TryAgainError, VolcryptError
from volcrypt.formats.change_map import ParentPoint
from volcrypt.formats.document import MacSeal
from volcrypt.formats.volume_record import KeySource, VolumeRecord
from volcrypt.geometry import chunk_count
from volcrypt.names import DataKeyId
from volcrypt.operations.home import Home
from volcrypt.operations.keys import data_key_id
from volcrypt.operations.lazy_volumes import is_whole, make_whole
from volcrypt.operations.leases import held_volume
from volcrypt.operations.mounts import socket_path
from volcrypt.operations.progress import SILENT, Progress
from volcrypt.operations.records import data_path, load_record
from volcrypt.volume.change_map import Capture, ChangeMap
from volcrypt.volume.control import CapturedState, ControlClient
from volcrypt.volume.datafile import DataFile
from volcrypt.volume.directory import CHANGE_MAP_FILE
from volcrypt.volume.owner import current_owner


class CapturedVolume(Protocol):
    """A volume as it was at a point in time.

    `changed` and `parent` are None when every chunk has to be looked at. Writers paused for
    `barrier_us`. Chunks are read by several threads; what a chunk was read as is sure when
    `release` of it returned afterwards.
    """

    @property
    def size_bytes(self) -> int: ...
    @property
    def changed(self) -> ChunkSet | None: ...
    @property
    def parent(self) -> ParentPoint | None: ...
    @property
    def barrier_us(self) -> int: ...
    def candidate_chunks(self, first: int = 0) -> Iterator[int]:
        """Indexes of the chunks from `first` on that may hold data, ascending."""
        ...

    def read_chunk(self, index: int, buffer: Buffer) -> None:
        """Ciphertext of chunk `index`; `buffer` has its length."""
        ...

    def want(self, wanted: ChunkSet) -> None:
        """No other chunks will be read. Raises what made the capture fail."""
        ...

    def release(self, chunks: range) -> None:
        """These chunks were read, and will not be again. Raises what made the capture fail."""
        ...

    def commit(self, parent: ParentPoint) -> None:
        """The snapshot is durable; changes are counted from it."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A volume to capture. `held`: the caller has its owner lock."""

    record: VolumeRecord
    held: bool = False


class Still(Protocol):
    """Keeps something from changing for a moment (`operations.freeze`)."""

    def freeze(self) -> None: ...
    def begin_thaw(self) -> None: ...


@contextmanager
def capture_volumes(
    home: Home,
    targets: Sequence[Target],
    *,
    still: Still | None = None,
    progress: Progress = SILENT,
) -> Iterator[list[CapturedVolume]]:
    """All of the volumes, in this order, as they are at one point of this call; what `still` guards
    does not change from before it until after it. What a lazy volume lacks is fetched: at once
    where nobody has it open, else when it is read.

    Raises VolumeInUseError when somebody holds a volume who cannot capture it, TryAgainError when
    another snapshot of one is being taken, and what `still` raises.
    """
    with ExitStack() as stack:
        captured: list[CapturedVolume] = []
        mounted: list[MountedCapture] = []
        for target in targets:
            record = target.record
            if not target.held and _is_mounted(home, record):
                mounted.append(stack.enter_context(_connected(home, record)))
                captured.append(mounted[-1])
            else:
                detached = _detached(home, record, held=target.held, progress=progress)
                captured.append(stack.enter_context(detached))
        if still is not None:
            still.freeze()
        # Nothing slow from the first `hold` to the last `resume`.
        if len(mounted) == 1:
            mounted[0].begin()
        else:
            for volume in mounted:
                volume.hold()
            for volume in mounted:
                volume.resume()
        if still is not None:
            still.begin_thaw()  # it writes, so writers have to go on
        yield captured


class MountedCapture:
    """A capture in the process that serves the volume; ends with the connection."""

    def __init__(
        self,
        control: ControlClient,
        path: Path,
        connect: Callable[[], ControlClient],
        *,
        data_key: DataKeyId | None,
    ) -> None:
        """Has no point in time yet: call `begin`, or `hold` and `resume`. `connect` makes more
        connections to the same process. `data_key` is what its record says of the data."""
        self._data_key = data_key
        self._control = control
        self._connect = connect
        self._fetching: list[ControlClient] = []
        self._data_path = path
        self._lock = Lock()
        self._stack = ExitStack()
        self._is_open = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        if self._is_open:
            # It would end with the connection, but perhaps after somebody has asked for the next.
            with suppress(VolcryptError):
                self._control.abort_capture()

    def begin(self) -> None:
        self._use(self._control.begin_capture())

    def hold(self) -> None:
        self._control.hold_capture()
        self._is_open = True

    def resume(self) -> None:
        self._use(self._control.resume_capture())

    def candidate_chunks(self, first: int = 0) -> Iterator[int]:
        candidates = self._data.candidate_chunks(first)
        if self._absent is None:
            return candidates
        # What was absent when it was asked for, and is not here now, is still in the snapshot.
        elsewhere = (chunk for chunk in self._absent if chunk >= first)
        return (chunk for chunk, _ in groupby(heapq.merge(candidates, elsewhere)))

    def read_chunk(self, index: int, buffer: Buffer) -> None:
        if self._absent is not None and index in self._absent:
            self._fetch(index)
        self._data.read_chunk(index, buffer)
        try:
            self._preserved.replace(index, buffer)
        except IntegrityError:
            self.release(range(0))  # when the capture has failed, this says why
            raise

    def want(self, wanted: ChunkSet) -> None:
        with self._lock:
            self._control.wanted(wanted)

    def release(self, chunks: range) -> None:
        with self._lock:
            self._control.captured(chunks)

    def commit(self, parent: ParentPoint) -> None:
        # Without it the next snapshot is counted from an older one; this one is complete.
        with self._lock, suppress(VolcryptError):
            self._control.commit_capture(parent)
            self._is_open = False

    def _fetch(self, index: int) -> None:
        """Have a chunk of a lazy volume brought. Over a connection of this thread's own: answers
        on ours would have to wait for it."""
        try:
            connection = self._fetching.pop()
        except IndexError:
            connection = self._connect()
            self._stack.callback(connection.close)
        try:
            connection.fetch(range(index, index + 1))
        finally:
            self._fetching.append(connection)

    def _use(self, state: CapturedState) -> None:
        self._is_open = True
        if state.data_key_id != self._data_key:
            # The record was read before the volume went over to another key.
            raise TryAgainError("the volume was just encrypted under a new data key")
        self.size_bytes, self.barrier_us = state.size_bytes, state.barrier_us
        self.changed, self.parent = state.changed, state.parent
        self._absent = state.absent
        self._preserved = state.preserved
        self._data = self._stack.enter_context(
            DataFile.open(self._data_path, state.size_bytes, read_only=True)
        )


class DetachedCapture:
    """A capture of a volume that nobody can write to."""

    barrier_us = 0

    def __init__(self, changes: ChangeMap, data: DataFile) -> None:
        self._changes = changes
        self._data = data
        self.size_bytes = data.size_bytes
        self.capture: Capture | None = changes.begin_capture()
        self.parent = self.capture.parent
        bits = changes.changed_bits(self.capture)
        self.changed = (
            None if bits is None else ChunkSet.of_packed(bits, chunk_count(self.size_bytes))
        )

    def candidate_chunks(self, first: int = 0) -> Iterator[int]:
        return self._data.candidate_chunks(first)

    def read_chunk(self, index: int, buffer: Buffer) -> None:
        self._data.read_chunk(index, buffer)

    def want(self, wanted: ChunkSet) -> None:
        """Nobody waits for the others."""

    def release(self, chunks: range) -> None:
        """Nobody waits for them."""

    def commit(self, parent: ParentPoint) -> None:
        assert self.capture is not None, "internal error: a capture is committed once"
        self._changes.commit_capture(self.capture, parent)
        self.capture = None


def _is_mounted(home: Home, record: VolumeRecord) -> bool:
    owner = current_owner(home.volumes.path_of(record.volume_id))
    return owner is not None and owner.is_local and owner.purpose == "mount"


@contextmanager
def _connected(home: Home, record: VolumeRecord) -> Iterator[MountedCapture]:
    path = socket_path(home, record.volume_id)
    connect = partial(ControlClient, path, volume=record.name or record.volume_id)
    with (
        connect() as control,
        MountedCapture(
            control, data_path(home, record), connect, data_key=data_key_id(record.wrapped_key)
        ) as capture,
    ):
        control.status()
        yield capture


@contextmanager
def _detached(
    home: Home, record: VolumeRecord, *, held: bool, progress: Progress
) -> Iterator[DetachedCapture]:
    directory = home.volumes.path_of(record.volume_id)
    with ExitStack() as stack:
        if not held:
            stack.enter_context(held_volume(home, record, purpose="snapshot"))
        # It may have grown since the caller looked.
        size_bytes = load_record(home, record.volume_id).size_bytes
        record = msgspec.structs.replace(record, size_bytes=size_bytes)
        if not is_whole(home, record):
            if record.key_source is KeySource.CUSTOMER:
                raise TryAgainError(
                    f"volume {record.name or record.volume_id} lacks chunks, which take its "
                    "customer-provided key",
                    hint="mount it, and take the snapshot then",
                )
            make_whole(home, record, progress)
        data = stack.enter_context(
            DataFile.open(data_path(home, record), size_bytes, read_only=True)
        )
        changes = ChangeMap.open(
            home.live_map_path(record.volume_id),
            directory / CHANGE_MAP_FILE,
            volume_id=record.volume_id,
            size_bytes=record.size_bytes,
            seal=MacSeal(home.change_map_key(record.volume_id)),
            data_path=data_path(home, record),
        )
        stack.callback(changes.close)
        if record.exported_at is not None:
            changes.distrust()
        capture = DetachedCapture(changes, data)
        try:
            yield capture
        finally:
            if capture.capture is not None:
                changes.abort_capture(capture.capture)
            changes.save_clean()


if TYPE_CHECKING:

    def _conformance(
        mounted: MountedCapture, detached: DetachedCapture
    ) -> tuple[CapturedVolume, CapturedVolume]:
        return mounted, detached
