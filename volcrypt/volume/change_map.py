"""ChangeMap: which chunks differ from the parent snapshot, in memory that survives a kill.

The promise: a chunk that is not marked equals the parent's chunk, on the medium. Where that cannot
be promised the map is *void*: the next snapshot then hashes every chunk. Doubt is never an error
for the user and never a silent skip.

The live map is a file on tmpfs, mapped, one byte a chunk in each of two *generations*. A killed
process leaves it as it was, so every change to it is an order of plain stores such that stopping
between any two of them leaves a superset of the truth:

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

The file is allocated in full when it is made (a store into a hole of a full tmpfs would be a
SIGBUS) and trusted only if it is on tmpfs, of this boot, of this volume and of this data file: a
map on a disk may lose marks when that disk's file system crashes and the data's does not.

The clean copy (`volcrypt.formats.change_map`) is written at detach and lies on storage. Its
existence says that nobody wrote since: `open` removes it, durably, before anything can be marked.

    open:        live map there and trusted -> take it; else clean copy verifies, and the data
                 file has its size and time -> new live map from it; else a new, void one.
                 Then remove the clean copy.
    save_clean:  sync data and its time; clean copy written durably; then the live map is removed.

Calls come from one process, the owner of the volume (`volcrypt.volume.owner`). `mark` may run in
several threads at once; the others only while no write is under way, and one at a time.
"""

import hashlib
import mmap
import os
import stat
import struct
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from volcrypt.durable import remove_durably, write_durably
from volcrypt.errors import FormatError, IntegrityError, NoSpaceError
from volcrypt.formats.change_map import (
    ParentPoint,
    bitmap_length,
    decode_change_map,
    encode_change_map,
)
from volcrypt.formats.document import MacSeal
from volcrypt.geometry import CHUNK_BYTES, chunk_count
from volcrypt.names import VolumeId

_PAGE: Final = 4096
# The header page: identity, the state byte, two parent slots.
_IDENTITY: Final = struct.Struct("<8sI4x32sQQQ36s4x")
_MAGIC: Final = b"VCRYPMAP"
_VERSION: Final = 1
_STATE_OFFSET: Final = 512
_SLOT_OFFSETS: Final = (1024, 2048)
_SLOT: Final = struct.Struct("<32sH990s")
# The state byte. The marker makes a page of zeros no state.
_MARKER: Final = 0xA0
_MARKER_MASK: Final = 0xF0
_CURRENT: Final = 0x01
_CAPTURING: Final = 0x02
_KNOWN: Final = 0x04
_PARENT_SLOT: Final = 0x08

BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Capture:
    """What a snapshot that begins now has to look at.

    `changed` has one element a chunk; None, exactly as `parent`, when the map is void.
    """

    changed: BoolArray | None
    parent: ParentPoint | None


class ChangeMap:
    """The live map of one open volume."""

    def __init__(
        self,
        memory: mmap.mmap,
        *,
        live_path: Path,
        clean_path: Path,
        volume_id: VolumeId,
        size_bytes: int,
        seal: MacSeal,
        data_descriptor: int,
    ) -> None:
        """Internal: use `open`. Takes `memory` and the descriptor over."""
        self._memory = memory
        self._live_path = live_path
        self._clean_path = clean_path
        self._volume_id = volume_id
        self._size_bytes = size_bytes
        self._seal = seal
        # Open since before the first write, so that it is told of every write that got lost.
        self._data_descriptor = data_descriptor
        self._chunk_count = chunk_count(size_bytes)
        self._state = memory[_STATE_OFFSET]
        self._parent = _read_slot(memory, self._state)
        self._capture: Capture | None = None
        self._distrusted = False
        self._marks = self._generation(current=True)

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
            identity = _identity(volume_id, size_bytes, data_status)
            memory = _map_trusted(live_path, identity, size_bytes)
            if memory is None:
                clean = _read_clean(clean_path, volume_id, size_bytes, seal, data_status)
                live_path.unlink(missing_ok=True)
                memory = _make_live(live_path, identity, size_bytes, clean)
            if os.path.lexists(clean_path):
                remove_durably(clean_path)
        except BaseException:
            os.close(data_descriptor)
            raise
        return cls(
            memory,
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
        self._distrusted = True
        self._set_state(self._state & ~_KNOWN)

    def begin_capture(self) -> Capture:
        """Hand the changes so far to a capture, and count from here. No write is under way."""
        assert self._capture is None, "internal error: a capture is running"
        changed = None
        if self._parent is not None:
            changed = np.frombuffer(self._marks, dtype=np.uint8).astype(np.bool_)
        self._generation(current=False)[:] = bytes(self._chunk_count)
        self._set_state((self._state ^ _CURRENT) | _CAPTURING)
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
        if self._distrusted:
            self._set_state(self._state & ~_CAPTURING)
            return
        state = ((self._state ^ _PARENT_SLOT) | _KNOWN) & ~_CAPTURING
        _write_slot(self._memory, state, parent)
        self._set_state(state)

    def abort_capture(self, capture: Capture) -> None:
        """There will be no such snapshot: its changes count again."""
        self._end(capture)
        _merge_generations(self._memory, self._state, self._chunk_count)
        self._set_state(self._state & ~_CAPTURING)

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
        self._memory.close()

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

    def _set_state(self, state: int) -> None:
        """The one store that makes a change of the map count."""
        self._memory[_STATE_OFFSET] = state
        self._state = state
        self._parent = _read_slot(self._memory, state)
        self._marks = self._generation(current=True)

    def _generation(self, *, current: bool) -> memoryview:
        return _generation(self._memory, self._state, self._chunk_count, current=current)


def _map_bytes(size_bytes: int) -> int:
    return _PAGE + 2 * _generation_bytes(chunk_count(size_bytes))


def _generation_bytes(chunks: int) -> int:
    return -(-chunks // _PAGE) * _PAGE


def _generation(memory: mmap.mmap, state: int, chunks: int, *, current: bool) -> memoryview:
    second = bool(state & _CURRENT) == current
    start = _PAGE + (_generation_bytes(chunks) if second else 0)
    return memoryview(memory)[start : start + chunks]


def _merge_generations(memory: mmap.mmap, state: int, chunks: int) -> None:
    """OR the older generation into the current one; doing it twice does no harm."""
    current = np.frombuffer(_generation(memory, state, chunks, current=True), dtype=np.uint8)
    older = np.frombuffer(_generation(memory, state, chunks, current=False), dtype=np.uint8)
    np.bitwise_or(current, older, out=current)


def _read_slot(memory: mmap.mmap, state: int) -> ParentPoint | None:
    """The parent that `state` names; None when it names none, or the slot is not whole."""
    if not state & _KNOWN:
        return None
    offset = _SLOT_OFFSETS[bool(state & _PARENT_SLOT)]
    digest, length, padded = _SLOT.unpack_from(memory, offset)
    if hashlib.sha256(padded[:length]).digest() != digest:
        return None
    try:
        return msgspec.json.decode(padded[:length], type=ParentPoint)
    except msgspec.DecodeError:
        return None


def _write_slot(memory: mmap.mmap, state: int, parent: ParentPoint) -> None:
    encoded = msgspec.json.encode(parent)
    offset = _SLOT_OFFSETS[bool(state & _PARENT_SLOT)]
    _SLOT.pack_into(memory, offset, hashlib.sha256(encoded).digest(), len(encoded), encoded)


def _identity(volume_id: VolumeId, size_bytes: int, data: os.stat_result) -> bytes:
    """What a live map must begin with to be the one of this volume, data file and boot."""
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_bytes().strip()
    data_inode = data.st_rdev if stat.S_ISBLK(data.st_mode) else data.st_ino
    return _IDENTITY.pack(
        _MAGIC, _VERSION, volume_id.encode(), size_bytes, CHUNK_BYTES, data_inode, boot_id
    )


def _map_trusted(live_path: Path, identity: bytes, size_bytes: int) -> mmap.mmap | None:
    """The live map at `live_path`, when nothing speaks against it; a capture in it is aborted."""
    try:
        descriptor = os.open(live_path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        length = _map_bytes(size_bytes)
        if os.fstat(descriptor).st_size != length or not _is_in_memory(descriptor):
            return None
        memory = mmap.mmap(descriptor, length)
    except OSError:
        return None
    finally:
        os.close(descriptor)
    state = memory[_STATE_OFFSET]
    if (
        memory[: len(identity)] != identity
        or state & _MARKER_MASK != _MARKER
        or _read_slot(memory, state) is None
    ):
        memory.close()
        return None
    if state & _CAPTURING:
        _merge_generations(memory, state, chunk_count(size_bytes))
        memory[_STATE_OFFSET] = state & ~_CAPTURING
    return memory


def _make_live(
    live_path: Path, identity: bytes, size_bytes: int, clean: tuple[ParentPoint, bytes] | None
) -> mmap.mmap:
    """A new live map, with what the clean copy says or void.

    Where tmpfs has no room for it, it is memory of this process only, and lost by a kill.
    """
    length = _map_bytes(size_bytes)
    temporary = live_path.with_name(f".{live_path.name}.new")
    temporary.unlink(missing_ok=True)
    memory = _map_new_file(temporary, length)
    memory[: len(identity)] = identity
    state = _MARKER
    if clean is not None:
        parent, bitmap = clean
        chunks = chunk_count(size_bytes)
        marks = np.unpackbits(
            np.frombuffer(bitmap, dtype=np.uint8), count=chunks, bitorder="little"
        )
        _generation(memory, state, chunks, current=True)[:] = marks.tobytes()
        state |= _KNOWN
        _write_slot(memory, state, parent)
    memory[_STATE_OFFSET] = state
    with suppress(FileNotFoundError):
        os.replace(temporary, live_path)
    return memory


def _map_new_file(path: Path, length: int) -> mmap.mmap:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError:
        return mmap.mmap(-1, length)
    try:
        os.posix_fallocate(descriptor, 0, length)
        return mmap.mmap(descriptor, length)
    except OSError:
        path.unlink(missing_ok=True)
        return mmap.mmap(-1, length)
    finally:
        os.close(descriptor)


def _read_clean(
    clean_path: Path,
    volume_id: VolumeId,
    size_bytes: int,
    seal: MacSeal,
    data: os.stat_result,
) -> tuple[ParentPoint, bytes] | None:
    """Parent and bitmap of the clean copy, when it is there, sealed, and nobody wrote since."""
    try:
        if clean_path.stat().st_size > bitmap_length(size_bytes) + _PAGE:
            return None
        body, bitmap = decode_change_map(clean_path.read_bytes(), seal, what=str(clean_path))
    except (OSError, FormatError, IntegrityError):
        return None
    if (
        body.volume_id != volume_id
        or body.size_bytes != size_bytes
        or body.data_bytes != data.st_size
        or body.data_mtime_ns != data.st_mtime_ns
    ):
        return None
    return body.parent, bitmap


def _is_in_memory(descriptor: int) -> bool:
    """Whether an open file lies on tmpfs."""
    device = os.fstat(descriptor).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, kind = line.partition(" - ")
        if fields.split(" ")[2] == wanted:
            return kind.split(" ")[0] == "tmpfs"
    return False
