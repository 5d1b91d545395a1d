"""Captures: a point in time of a volume, held still chunk by chunk until it is stored.

A mounted volume is captured by the process that serves it, through its control socket; a volume
that nobody has open is captured by this process, which holds it for the time. Either way the
ciphertext is read from the data file here, and a capture that is not committed is aborted.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol

import msgspec

from volcrypt.chunk_set import ChunkSet
from volcrypt.formats.change_map import ParentPoint
from volcrypt.formats.document import MacSeal
from volcrypt.formats.volume_record import VolumeRecord
from volcrypt.operations.home import Home
from volcrypt.operations.mounts import live_map_path, socket_path
from volcrypt.operations.records import data_path, load_record
from volcrypt.volume.change_map import Capture, ChangeMap
from volcrypt.volume.control import ControlClient
from volcrypt.volume.datafile import DataFile
from volcrypt.volume.directory import CHANGE_MAP_FILE
from volcrypt.volume.owner import current_owner, hold_volume


class OpenCapture(Protocol):
    """A point in time. `changed` and `parent` are None when every chunk has to be looked at."""

    @property
    def changed(self) -> ChunkSet | None: ...
    @property
    def parent(self) -> ParentPoint | None: ...
    def release(self, chunks: range) -> None:
        """These chunks are stored, or need not be: writers may have them."""
        ...

    def commit(self, parent: ParentPoint) -> None:
        """The snapshot is durable; changes are counted from it."""
        ...


@contextmanager
def capture_volume(
    home: Home, record: VolumeRecord, *, held: bool = False
) -> Iterator[tuple[OpenCapture, DataFile]]:
    """The capture, and the data file to read it from, as large as the volume is at that point.
    `held`: the caller has the owner lock.

    Raises VolumeInUseError when somebody holds the volume who cannot capture it.
    """
    directory = home.volumes.path_of(record.volume_id)
    owner = None if held else current_owner(directory)
    with ExitStack() as stack:
        if owner is not None and owner.is_local and owner.purpose == "mount":
            control = stack.enter_context(
                ControlClient(
                    socket_path(home, record.volume_id), volume=record.name or record.volume_id
                )
            )
            mounted = MountedCapture(control)
            capture: OpenCapture = mounted
            size_bytes = mounted.size_bytes
        else:
            if not held:
                stack.enter_context(hold_volume(directory, purpose="snapshot"))
            # It may have grown since the caller looked.
            size_bytes = load_record(home, record.volume_id).size_bytes
            record = msgspec.structs.replace(record, size_bytes=size_bytes)
            capture = stack.enter_context(_detached(home, record, directory))
        data = DataFile.open(data_path(home, record), size_bytes, read_only=True)
        stack.callback(data.close)
        yield capture, data


class MountedCapture:
    """A capture in the process that serves the volume; ends with the connection."""

    def __init__(self, control: ControlClient) -> None:
        self._control = control
        state = control.begin_capture()
        self.size_bytes = state.size_bytes
        self.changed = None if state.changed is None else ChunkSet.of_marks(state.changed)
        self.parent = state.parent

    def release(self, chunks: range) -> None:
        self._control.captured(chunks)

    def commit(self, parent: ParentPoint) -> None:
        self._control.commit_capture(parent)


class DetachedCapture:
    """A capture of a volume that nobody can write to."""

    def __init__(self, changes: ChangeMap) -> None:
        self._changes = changes
        self.capture: Capture | None = changes.begin_capture()
        changed = self.capture.changed
        self.changed = None if changed is None else ChunkSet.of_marks(changed)
        self.parent = self.capture.parent

    def release(self, chunks: range) -> None:
        """Nobody waits for them."""

    def commit(self, parent: ParentPoint) -> None:
        assert self.capture is not None, "internal error: a capture is committed once"
        self._changes.commit_capture(self.capture, parent)
        self.capture = None


@contextmanager
def _detached(home: Home, record: VolumeRecord, directory: Path) -> Iterator[DetachedCapture]:
    changes = ChangeMap.open(
        live_map_path(home, record.volume_id),
        directory / CHANGE_MAP_FILE,
        volume_id=record.volume_id,
        size_bytes=record.size_bytes,
        seal=MacSeal(home.change_map_key(record.volume_id)),
        data_path=data_path(home, record),
    )
    try:
        capture = DetachedCapture(changes)
        try:
            yield capture
        finally:
            if capture.capture is not None:
                changes.abort_capture(capture.capture)
            changes.save_clean()
    finally:
        changes.close()
