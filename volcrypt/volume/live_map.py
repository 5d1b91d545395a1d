"""LiveMap: the file on tmpfs that holds a change map while its volume is open.

It knows bytes and which of them may be believed; `volcrypt.volume.change_map` knows what they mean
and in which order they change. A process that is killed leaves the file as it was.

    offset  length  header page; integers little-endian
    0       108     identity: magic VCRYPMAP, version (4), 4 zeros, volume id (32, zero-padded),
                    volume size (8), chunk size (8), inode or device number of the data file (8),
                    boot id (36)
    512     1       state, see below
    1024    1024    parent slot 0: SHA-256 of the JSON (32), its length (2), the JSON, zeros
    2048    1024    parent slot 1
    4096    n       generation 0: one byte a chunk, 1 = marked; n = chunks, rounded up to 4096
    4096+n  n       generation 1

State: bit 0 which generation is current, bit 1 a capture is running, bit 2 the parent is known,
bit 3 in which slot it stands; the upper four bits are 1010, so that zeros are no state.

The file is allocated in full when it is made (a store into a hole of a full tmpfs would be a
SIGBUS), and believed only if it is whole, on tmpfs, of this boot, volume and data file: a map on
a disk may lose marks when that disk's file system crashes and the data's does not. One of a
smaller volume is believed as well: volumes only grow, and it is the map of what there was before.
Nobody but its owner can write in the runtime directory, so it has no seal. It never outlives a
boot, so another version is a map of nobody, and void.

The header and the generation that is current are used through mappings. Whole generations are gone
through by read and write, a step at a time, and one that is not current any more is not mapped:
pages that a process touches in a mapping are its own resident memory as long as it has that.
"""

import hashlib
import mmap
import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Self

import msgspec
import numpy as np
import numpy.typing as npt

from volcrypt.formats.change_map import ParentPoint
from volcrypt.geometry import CHUNK_BYTES, chunk_count
from volcrypt.names import VolumeId
from volcrypt.volume.mountpoint import mounts

_PAGE: Final = 4096
_IDENTITY: Final = struct.Struct("<8sI4x32sQQQ36s")
_SIZE: Final = slice(48, 56)
_MAGIC: Final = b"VCRYPMAP"
_VERSION: Final = 1
_STATE_OFFSET: Final = 512
_SLOT_OFFSETS: Final = (1024, 2048)
_SLOT: Final = struct.Struct("<32sH990s")
_STEP: Final = 2**20

NEW_STATE: Final = 0xA0
_STATE_MASK: Final = 0xF0
CURRENT: Final = 0x01
CAPTURING: Final = 0x02
KNOWN: Final = 0x04
PARENT_SLOT: Final = 0x08


class LiveMap:
    """The file, or memory of this process where no file could be made."""

    def __init__(self, descriptor: int, size_bytes: int) -> None:
        """Internal: use `find` or `make`. Takes the descriptor over, also when it raises."""
        self.size_bytes = size_bytes
        self._chunk_count = chunk_count(size_bytes)
        self._descriptor = descriptor
        self._generations: list[mmap.mmap | None] = [None, None]
        try:
            self._memory = mmap.mmap(descriptor, _PAGE)
        except BaseException:
            os.close(descriptor)
            raise

    @classmethod
    def find(cls, path: Path, identity: bytes, size_bytes: int) -> Self | None:
        """The map at `path` of a volume that has, or before it grew had less than, `size_bytes`,
        when nothing speaks against it. `identity` is that of a map of this size."""
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return None
        try:
            found_bytes = _believed_size(descriptor, identity, size_bytes)
        except OSError:
            found_bytes = None
        if found_bytes is None:
            os.close(descriptor)
            return None
        try:
            live = cls(descriptor, found_bytes)
        except OSError:
            return None
        if live.state & _STATE_MASK == NEW_STATE and live.read_parent() is not None:
            return live
        live.close()
        return None

    @classmethod
    def make(
        cls,
        path: Path,
        identity: bytes,
        size_bytes: int,
        *,
        clean: tuple[ParentPoint, bytes] | None,
    ) -> Self:
        """A new map at `path`, of what a clean copy says (parent and bitmap), or void.

        Where no file can be made, it is memory of this process only, and lost by a kill.
        """
        live = cls(_new_file(_beside(path), _map_bytes(size_bytes)), size_bytes)
        live._memory[: len(identity)] = identity
        state = NEW_STATE
        if clean is not None:
            parent, bitmap = clean
            live._mark_bits(bool(state & CURRENT), bitmap)
            state |= KNOWN
            live.write_parent(state, parent)
        live.state = state
        _put_in_place(path)
        return live

    @classmethod
    def grow(cls, smaller: Self, path: Path, identity: bytes, size_bytes: int) -> Self:
        """The map at `path`, for a volume that has grown to `size_bytes`; takes its place there.

        Nothing is marked in what is new. Nobody marks meanwhile. A kill leaves one or the other.
        """
        live = cls(_new_file(_beside(path), _map_bytes(size_bytes)), size_bytes)
        live._memory[: len(identity)] = identity
        for second in (False, True):
            for first, marks in smaller._marked_steps(second):
                os.pwrite(live._descriptor, marks, live._offset(second) + first)
        live._memory[_SLOT_OFFSETS[0] : _PAGE] = smaller._memory[_SLOT_OFFSETS[0] : _PAGE]
        live.state = smaller.state
        _put_in_place(path)
        return live

    @property
    def state(self) -> int:
        return self._memory[_STATE_OFFSET]

    @state.setter
    def state(self, state: int) -> None:
        """One byte: a kill comes before or after it, never between."""
        self._memory[_STATE_OFFSET] = state

    def marks(self) -> memoryview:
        """The current generation itself, one byte a chunk."""
        current = bool(self.state & CURRENT)
        memory = self._generations[current]
        if memory is None:
            length = _generation_bytes(self._chunk_count)
            memory = mmap.mmap(self._descriptor, length, offset=self._offset(current))
            self._generations[current] = memory
        return memoryview(memory)[: self._chunk_count]

    def clear_older(self) -> None:
        """Unmark everything in the generation that is not current; nobody has a view of it."""
        older = not self.state & CURRENT
        if (memory := self._generations[older]) is not None:
            self._generations[older] = None
            memory.close()
        for first, marks in self._marked_steps(older):
            os.pwrite(self._descriptor, bytes(len(marks)), self._offset(older) + first)

    def merge_older(self) -> None:
        """Mark in the current generation what is marked in the other; twice does no harm.

        Only ever stores ones, so it loses no mark that another thread makes meanwhile.
        """
        current = np.frombuffer(self.marks(), dtype=np.bool_)
        for first, marks in self._marked_steps(not self.state & CURRENT):
            older = np.frombuffer(marks, dtype=np.bool_)
            current[first + np.flatnonzero(older)] = True

    def older_bits(self, chunks: int) -> bytearray:
        """The first `chunks` of the generation that is not current, one bit a chunk, the lowest of
        byte 0 first; bits beyond the last chunk are 0."""
        bits = bytearray(-(-chunks // 8))
        for first, marks in self._marked_steps(not self.state & CURRENT):
            packed = np.packbits(
                np.frombuffer(marks[: max(chunks - first, 0)], dtype=np.bool_), bitorder="little"
            )
            bits[first // 8 : first // 8 + len(packed)] = packed.tobytes()
        return bits

    def read_parent(self) -> ParentPoint | None:
        """The parent that `state` names; None when it names none, or its slot is not whole."""
        if not self.state & KNOWN:
            return None
        digest, length, padded = _SLOT.unpack_from(self._memory, _slot_offset(self.state))
        if hashlib.sha256(padded[:length]).digest() != digest:
            return None
        try:
            return msgspec.json.decode(padded[:length], type=ParentPoint)
        except msgspec.DecodeError:
            return None

    def write_parent(self, state: int, parent: ParentPoint) -> None:
        """Fill the slot that `state`, which must not be the present one, names."""
        encoded = msgspec.json.encode(parent)
        digest = hashlib.sha256(encoded).digest()
        _SLOT.pack_into(self._memory, _slot_offset(state), digest, len(encoded), encoded)

    def close(self) -> None:
        """Views that `marks` gave must be released before."""
        for memory in (self._memory, *self._generations):
            if memory is not None:
                memory.close()
        os.close(self._descriptor)

    def _offset(self, second: bool) -> int:
        """Where a generation begins."""
        return _PAGE + (_generation_bytes(self._chunk_count) if second else 0)

    def _marked_steps(self, second: bool) -> Iterator[tuple[int, bytes]]:
        """A generation in steps, (first chunk, marks); steps without a mark are passed over."""
        for first in range(0, self._chunk_count, _STEP):
            length = min(_STEP, self._chunk_count - first)
            marks = os.pread(self._descriptor, length, self._offset(second) + first)
            if np.frombuffer(marks, dtype=np.bool_).any():
                yield first, marks

    def _mark_bits(self, second: bool, bits: bytes) -> None:
        """Mark in a generation what is set in `bits`, which has one bit a chunk."""
        for first in range(0, self._chunk_count, _STEP):
            step: npt.NDArray[np.uint8] = np.frombuffer(
                bits[first // 8 : (first + _STEP) // 8], dtype=np.uint8
            )
            if step.any():
                count = min(_STEP, self._chunk_count - first)
                marks = np.unpackbits(step, count=count, bitorder="little").tobytes()
                os.pwrite(self._descriptor, marks, self._offset(second) + first)


def live_identity(volume_id: VolumeId, size_bytes: int, data: os.stat_result) -> bytes:
    """What a live map must begin with to be the one of this volume, data file and boot."""
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_bytes().strip()
    data_number = data.st_rdev if stat.S_ISBLK(data.st_mode) else data.st_ino
    return _IDENTITY.pack(
        _MAGIC, _VERSION, volume_id.encode(), size_bytes, CHUNK_BYTES, data_number, boot_id
    )


def _resized(identity: bytes, size_bytes: int) -> bytes:
    """The identity of the same map of a volume of another size."""
    return identity[: _SIZE.start] + size_bytes.to_bytes(8, "little") + identity[_SIZE.stop :]


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.new")


def _put_in_place(path: Path) -> None:
    try:
        os.replace(_beside(path), path)
    except FileNotFoundError:
        # It is memory of this process only: what is at `path` will not know of its marks.
        path.unlink(missing_ok=True)


def _slot_offset(state: int) -> int:
    return _SLOT_OFFSETS[bool(state & PARENT_SLOT)]


def _generation_bytes(chunks: int) -> int:
    return -(-chunks // _PAGE) * _PAGE


def _map_bytes(size_bytes: int) -> int:
    return _PAGE + 2 * _generation_bytes(chunk_count(size_bytes))


def _believed_size(descriptor: int, identity: bytes, size_bytes: int) -> int | None:
    """The size of the volume whose map this file is, when `find` may take it."""
    header = os.pread(descriptor, _IDENTITY.size, 0)
    if len(header) < _IDENTITY.size or not _is_in_memory(descriptor):
        return None
    found_bytes = int.from_bytes(header[_SIZE], "little")
    if not 0 < found_bytes <= size_bytes or header != _resized(identity, found_bytes):
        return None
    return found_bytes if os.fstat(descriptor).st_size == _map_bytes(found_bytes) else None


def _new_file(path: Path, length: int) -> int:
    path.unlink(missing_ok=True)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError:
        return _private_memory(length)
    try:
        os.posix_fallocate(descriptor, 0, length)
    except OSError:
        path.unlink(missing_ok=True)
        os.close(descriptor)
        return _private_memory(length)
    return descriptor


def _private_memory(length: int) -> int:
    descriptor = os.memfd_create("change-map", os.MFD_CLOEXEC)
    os.ftruncate(descriptor, length)
    return descriptor


def _is_in_memory(descriptor: int) -> bool:
    """Whether an open file lies on tmpfs."""
    device = os.fstat(descriptor).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    return next((m.fs_type == "tmpfs" for m in mounts() if m.device == wanted), False)
