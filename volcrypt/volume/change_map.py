"""ChangeMap: which chunks differ from the parent snapshot, through kills and crashes.

The promise: a chunk that is not marked equals the parent's chunk, on the medium. Where that cannot
be promised the map is *void*: the next snapshot then hashes every chunk. Doubt is never an error
for the user and never a silent skip.

The live map (`volcrypt.volume.live_map`) has two *generations* of marks. Every change to it is an
order of plain stores such that a kill between any two leaves a superset of the truth:

- One byte, `state`, says which generation is current, whether a capture runs, whether a parent is
  known, and in which of two slots it stands. It is stored last, and a byte is not torn.
- mark:           a byte of the current generation, before the data. Marks are only ever set.
- begin capture:  zero the other generation; then one store of `state` makes it current, "capture
                  running". From here the older generation belongs to the capture.
- commit capture: sync the data file, since only what is on the medium may be forgotten here (a
                  crash of its file system would otherwise bring older chunks back, unmarked);
                  then fill the unused parent slot; then one store of `state`.
- abort capture:  OR the older generation into the current one; then one store of `state`. A map
                  found with "capture running" belonged to a killed process: it is aborted.
- grow:           a longer copy of the map, renamed over it. What is new is not marked, and differs
                  from a parent that ends before it: whoever compares with such a parent looks at
                  all data from its last chunk on (`volcrypt.snapshot.plan.mark_grown`).

The clean copy (`volcrypt.formats.change_map`) is written at detach and lies on storage. Its
existence says that nobody wrote since: `open` removes it, durably, before anything can be marked.

    open:        live map there and believed -> take it, grown if the volume has grown since; else
                 clean copy verifies, and the data file has its size and time -> new live map from
                 it; else a new, void one.
                 Then remove the clean copy.
    save_clean:  sync data and its time; clean copy written durably; then the live map is removed.

All calls come from one process, the owner of the volume (`volcrypt.volume.owner`). Several threads
may call `mark` and `distrust` at any time; `begin_capture`, `grow`, `save_clean` and `close` only
while no write is under way, since a write that marked the older generation must be in the capture.
"""

import os
import stat
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from volcrypt.durable import remove_durably, write_durably
from volcrypt.errors import NoSpaceError
from volcrypt.formats.change_map import (
    ParentPoint,
    encode_change_map,
)
from volcrypt.formats.document import MacSeal
from volcrypt.names import VolumeId
from volcrypt.volume.clean_map import read_clean
from volcrypt.volume.live_map import (
    CAPTURING,
    CURRENT,
    KNOWN,
    PARENT_SLOT,
    LiveMap,
    live_identity,
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Capture:
    """What a snapshot that begins now has to look at.

    `changed` has one element a chunk; None, exactly as `parent`, when the map is void.
    """

    changed: NDArray[np.bool_] | None
    parent: ParentPoint | None


class ChangeMap:
    """The change map of one open volume."""

    def __init__(
        self,
        live: LiveMap,
        *,
        live_path: Path,
        clean_path: Path,
        volume_id: VolumeId,
        size_bytes: int,
        seal: MacSeal,
        data_descriptor: int,
    ) -> None:
        """Internal: use `open`. Takes `live` and the descriptor over."""
        self._live = live
        self._live_path = live_path
        self._clean_path = clean_path
        self._volume_id = volume_id
        self._size_bytes = size_bytes
        self._seal = seal
        # Open since before the first write, so that it is told of every write that got lost.
        self._data_descriptor = data_descriptor
        self._state_lock = threading.Lock()
        self._parent = live.read_parent()
        self._marks = live.marks()
        self._capture: Capture | None = None
        self._is_distrusted = False

    @classmethod
    def open(
        cls,
        live_path: Path,
        clean_path: Path,
        *,
        volume_id: VolumeId,
        size_bytes: int,
        seal: MacSeal,
        data_path: Path,
    ) -> Self:
        """The map of a volume that is about to be written to; void in case of any doubt.

        The caller owns the volume. Raises OSError when even an old map cannot be removed: then
        nothing may be written.
        """
        data_descriptor = os.open(data_path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            data_status = os.fstat(data_descriptor)
            identity = live_identity(volume_id, size_bytes, data_status)
            live = LiveMap.find(live_path, identity, size_bytes)
            if live is None:
                clean = read_clean(clean_path, volume_id, size_bytes, seal, data_status)
                live_path.unlink(missing_ok=True)
                live = LiveMap.make(live_path, identity, size_bytes, clean=clean)
            elif live.state & CAPTURING:
                live.merge_older()
                live.state &= ~CAPTURING
            if live.size_bytes < size_bytes:
                smaller, live = live, LiveMap.grow(live, live_path, identity, size_bytes)
                smaller.close()
            if os.path.lexists(clean_path):
                remove_durably(clean_path)
        except BaseException:
            os.close(data_descriptor)
            raise
        return cls(
            live,
            live_path=live_path,
            clean_path=clean_path,
            volume_id=volume_id,
            size_bytes=size_bytes,
            seal=seal,
            data_descriptor=data_descriptor,
        )

    @property
    def parent(self) -> ParentPoint | None:
        """What changes are counted from; None when the map is void."""
        return self._parent

    @property
    def is_void(self) -> bool:
        return self._parent is None

    def mark(self, chunks: range) -> None:
        """Say that `chunks` may differ from the parent; before their first byte changes."""
        marks = self._marks
        for chunk in chunks:
            if not marks[chunk]:
                marks[chunk] = 1

    def distrust(self) -> None:
        """Make the map void until it is opened again: the data file lost writes."""
        with self._state_lock:
            self._is_distrusted = True
            self._live.state &= ~KNOWN
            self._parent = None

    def begin_capture(self) -> Capture:
        """Hand the changes so far to a capture, and count from here. No write is under way."""
        with self._state_lock:
            assert self._capture is None, "internal error: a capture is running"
            changed = None
            if self._parent is not None:
                changed = np.frombuffer(self._marks, dtype=np.bool_).copy()
            self._live.clear_older()
            self._live.state = (self._live.state ^ CURRENT) | CAPTURING
            self._marks = self._live.marks()
            self._capture = Capture(changed=changed, parent=self._parent)
            return self._capture

    def commit_capture(self, capture: Capture, parent: ParentPoint) -> None:
        """The captured point is the snapshot `parent`, which is complete and durable.

        Syncs the data file, so it may block. When that fails the map becomes void; the snapshot
        is good all the same, so this is no error.
        """
        self._end(capture)
        if not self._sync_data():
            self.distrust()
        with self._state_lock:
            if self._is_distrusted:
                self._live.state &= ~CAPTURING
                return
            state = ((self._live.state ^ PARENT_SLOT) | KNOWN) & ~CAPTURING
            self._live.write_parent(state, parent)
            self._live.state = state
            self._parent = parent

    def abort_capture(self, capture: Capture) -> None:
        """There will be no such snapshot: its changes count again."""
        self._end(capture)
        with self._state_lock:
            self._live.merge_older()
            self._live.state &= ~CAPTURING

    def grow(self, size_bytes: int) -> None:
        """The volume has grown; a capture that runs stays one of what it was. No write is under
        way."""
        with self._state_lock:
            status = os.fstat(self._data_descriptor)
            identity = live_identity(self._volume_id, size_bytes, status)
            grown = LiveMap.grow(self._live, self._live_path, identity, size_bytes)
            self._marks.release()
            self._live.close()
            self._live, self._marks, self._size_bytes = grown, grown.marks(), size_bytes

    def save_clean(self) -> None:
        """Keep the map on storage, for a volume that nobody writes to any more; then only close.

        A capture that is running is aborted. What cannot be kept is void at the next open.
        """
        if self._capture is not None:
            self.abort_capture(self._capture)
        if self._parent is not None and self._sync_data():
            status = os.fstat(self._data_descriptor)
            # Other hosts may write to a device, and it has no time that would tell.
            if stat.S_ISREG(status.st_mode):
                try:
                    write_durably(self._clean_path, self._encode_clean(self._parent, status))
                except (OSError, NoSpaceError):
                    # The live map stays: until the next boot it is as good.
                    return
        self._live_path.unlink(missing_ok=True)

    def close(self) -> None:
        """Leaves the live map to the next open, unless `save_clean` removed it."""
        if self._data_descriptor < 0:
            return
        os.close(self._data_descriptor)
        self._data_descriptor = -1
        self._marks.release()
        self._live.close()

    def _encode_clean(self, parent: ParentPoint, status: os.stat_result) -> bytes:
        bitmap = np.packbits(np.frombuffer(self._marks, dtype=np.bool_), bitorder="little")
        return encode_change_map(
            bitmap.tobytes(),
            self._seal,
            volume_id=self._volume_id,
            size_bytes=self._size_bytes,
            parent=parent,
            data_bytes=status.st_size,
            data_mtime_ns=status.st_mtime_ns,
        )

    def _end(self, capture: Capture) -> None:
        assert capture is self._capture, "internal error: not the capture that is running"
        self._capture = None

    def _sync_data(self) -> bool:
        try:
            # fsync, not fdatasync: the time of the file has to be durable as well.
            os.fsync(self._data_descriptor)
        except OSError:
            return False
        return True
