"""ChangeMap: which chunks differ from the parent snapshot, through kills and crashes.

The promise: a chunk that is not marked equals the parent's chunk, on the medium. Where that cannot
be promised the map is *void*: the next snapshot then hashes every chunk. Doubt is never an error
for the user and never a silent skip.

The live map (`volcrypt.volume.live_map`) has two *generations* of marks. Every change to it is an
order of plain stores such that a kill between any two leaves a superset of the truth:

- One byte, `state`, says which generation is current, whether a capture runs, whether a parent is
  known, and in which of two slots it stands. It is stored last, and a byte is not torn.
- mark:           a byte of the current generation, before the data. Marks are only ever set.
- begin capture:  mark the chunks of the writes under way, which the capture will hold; then one
                  store of `state` makes the other generation current, which is clear, "capture
                  running". From here the older generation belongs to the capture. Nothing here
                  depends on how large the volume is.
- commit capture: sync the data file, since only what is on the medium may be forgotten here (a
                  crash of its file system would otherwise bring older chunks back, unmarked);
                  then fill the unused parent slot; then one store of `state`; then clear the older
                  generation.
- abort capture:  OR the older generation into the current one; then one store of `state`; then
                  clear the older generation. A map found with "capture running" belonged to a
                  killed process: it is aborted.
- grow:           a longer copy of the map, renamed over it. What is new is not marked, and differs
                  from a parent that ends before it: whoever compares with such a parent looks at
                  all data from its last chunk on (`volcrypt.snapshot.plan.mark_grown`).

A kill between the end of a capture and the clearing leaves marks in the older generation that mean
nothing any more: `open` clears it.

The clean copy (`volcrypt.formats.change_map`) is written at detach and lies on storage. Its
existence says that nobody wrote since: `open` removes it, durably, before anything can be marked.

    open:        live map there and believed -> take it, grown if the volume has grown since; else
                 clean copy verifies, and the data file has its size and time -> new live map from
                 it; else a new, void one.
                 Then remove the clean copy.
    save_clean:  sync data and its time; clean copy written durably; then the live map is removed.

All calls come from one process, the owner of the volume (`volcrypt.volume.owner`). Several threads
may call `mark` and `distrust` at any time, also while a capture begins or ends; `grow`, `follow`,
`save_clean` and `close` only while no write is under way. A write that runs while a capture begins
may have marked one generation or the other: so who begins names its chunks, and waits for it before
it asks what has changed, lets anybody look at the captured data, or ends the capture.
"""

import os
import stat
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from volcrypt.durable import remove_durably, write_durably
from volcrypt.errors import NoSpaceError
from volcrypt.formats.change_map import ParentPoint, encode_change_map
from volcrypt.formats.document import MacSeal
from volcrypt.geometry import chunk_count
from volcrypt.names import VolumeId
from volcrypt.volume.allocation import open_data
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
    """A point in time. `parent` is None when the map is void, and every chunk has to be looked at;
    otherwise `ChangeMap.changed_bits` has what changed since."""

    size_bytes: int
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
        data_descriptor = open_data(data_path, os.O_RDONLY)[0]
        try:
            data_status = os.fstat(data_descriptor)
            identity = live_identity(volume_id, size_bytes, data_status)
            live = LiveMap.find(live_path, identity, size_bytes)
            if live is None:
                clean = read_clean(clean_path, volume_id, size_bytes, seal, data_status)
                live_path.unlink(missing_ok=True)
                live = LiveMap.make(live_path, identity, size_bytes, clean=clean)
            else:
                if live.state & CAPTURING:
                    live.merge_older()
                    live.state &= ~CAPTURING
                live.clear_older()
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

    def is_marked(self, chunk: int) -> bool:
        """Whether a write to the chunk needs no mark any more, until a capture begins."""
        return bool(self._marks[chunk])

    def distrust(self) -> None:
        """Make the map void until it is opened again: the data file lost writes."""
        with self._state_lock:
            self._is_distrusted = True
            self._live.state &= ~KNOWN
            self._parent = None

    def begin_capture(self, under_way: Iterable[range] = ()) -> Capture:
        """Hand the changes so far to a capture, and count from here. `under_way` are the chunks of
        writes that run now; the caller waits for them before anything of the capture is read."""
        with self._state_lock:
            assert self._capture is None, "internal error: a capture is running"
            for chunks in under_way:
                self.mark(chunks)
            self._live.state = (self._live.state ^ CURRENT) | CAPTURING
            self._marks = self._live.marks()
            self._capture = Capture(size_bytes=self._size_bytes, parent=self._parent)
            return self._capture

    def changed_bits(self, capture: Capture) -> bytearray | None:
        """What changed from the capture's parent to the captured point, one bit a chunk, the lowest
        of byte 0 first; None when it has no parent. While the capture runs."""
        assert capture is self._capture, "internal error: not the capture that is running"
        if capture.parent is None:
            return None
        with self._state_lock:
            return self._live.older_bits(chunk_count(capture.size_bytes))

    def commit_capture(self, capture: Capture, parent: ParentPoint) -> None:
        """The captured point is the snapshot `parent`, which is complete and durable.

        Syncs the data file, so it may block. When that fails the map becomes void; the snapshot
        is good all the same, so this is no error.
        """
        self._check_running(capture)
        if not self._sync_data():
            self.distrust()
        with self._state_lock:
            if self._is_distrusted:
                self._live.state &= ~CAPTURING
            else:
                state = ((self._live.state ^ PARENT_SLOT) | KNOWN) & ~CAPTURING
                self._live.write_parent(state, parent)
                self._live.state = state
                self._parent = parent
            self._live.clear_older()
            self._capture = None

    def abort_capture(self, capture: Capture) -> None:
        """There will be no such snapshot: its changes count again."""
        self._check_running(capture)
        with self._state_lock:
            self._live.merge_older()
            self._live.state &= ~CAPTURING
            self._live.clear_older()
            self._capture = None

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

    def follow(self, data_path: Path) -> None:
        """The same data lies in another file, or under another key, from now on: a void map of
        that. No write is under way, and no capture runs. A kill leaves a map of the file before,
        which `open` does not believe, or this one.

        Raises OSError, and then nothing has changed.
        """
        assert self._capture is None, "internal error: a capture is running"
        descriptor = os.open(data_path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            identity = live_identity(self._volume_id, self._size_bytes, os.fstat(descriptor))
            live = LiveMap.make(self._live_path, identity, self._size_bytes, clean=None)
        except BaseException:
            os.close(descriptor)
            raise
        with self._state_lock:
            self._marks.release()
            self._live.close()
            self._live, self._marks, self._parent = live, live.marks(), None
        os.close(self._data_descriptor)
        self._data_descriptor = descriptor

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

    def _check_running(self, capture: Capture) -> None:
        assert capture is self._capture, "internal error: not the capture that is running"

    def _sync_data(self) -> bool:
        try:
            # fsync, not fdatasync: the time of the file has to be durable as well.
            os.fsync(self._data_descriptor)
        except OSError:
            return False
        return True
