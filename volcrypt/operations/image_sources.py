"""What is imported: a raw image or block device, or what is behind a LUKS2 header."""

import errno
import io
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, Self

import blake3

from volcrypt.confinement import forbid_dumps, lock_memory
from volcrypt.crypto.data_key import DataKey
from volcrypt.errors import (
    InvalidArgumentError,
    MalformedError,
    SourceChangedError,
    VolumeInUseError,
    WrongPassphraseError,
)
from volcrypt.formats.import_cursor import SourceIdentity
from volcrypt.formats.luks2 import (
    BINARY_BYTES,
    LUKS_MAGIC,
    LuksSegment,
    decode_luks2,
    header_length,
)
from volcrypt.geometry import UNIT_BYTES, ByteRange, align_to_units
from volcrypt.volume.block_device import identity_of, is_block_device, lasting_name
from volcrypt.volume.cryptsetup import open_volume_key
from volcrypt.volume.mountpoint import mounts

_SYS_BLOCK: Final = Path("/sys/block")


class ImageSource(Protocol):
    """Plaintext to be imported."""

    size_bytes: int

    def data_extents(self, start: int, end: int) -> Iterator[ByteRange]:
        """Where between `start` and `end` there may be something but zeros, ascending."""
        ...

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` from `offset`, within one of the extents. Raises OSError, and
        SourceChangedError for a source that ends before."""
        ...


def is_luks(source: Path) -> bool:
    """Whether there is a LUKS header at its beginning. Raises OSError."""
    with source.open("rb") as file:
        return file.read(len(LUKS_MAGIC)) == LUKS_MAGIC


@dataclass(frozen=True, slots=True, kw_only=True)
class LuksAccess:
    """How a LUKS2 image is opened; `header` is None where it is in the image itself. A newline at
    the end of the passphrase may be of an editor's making, or belong to it: both are tried."""

    passphrase: bytearray
    header: Path | None = None


class OpenImage:
    """An image that is being imported, and which one that is."""

    def __init__(
        self, path: Path, file: "SourceFile", content: ImageSource, header: bytes | None
    ) -> None:
        self.content = content
        self._path = path
        self._file = file
        self._header = None if header is None else blake3.blake3(header).digest()
        self.identity = self._look()

    def check_unchanged(self) -> None:
        """Raises SourceChangedError when the source was written to since it was opened, and
        VolumeInUseError when somebody has mounted it to write."""
        if not self._file.is_claimed:
            _check_idle(self._path)
        if self._look() != self.identity:
            raise SourceChangedError(
                f"{self._path} was changed while it was read",
                hint="end what writes to it, and import it again",
            )

    def _look(self) -> SourceIdentity:
        descriptor = self._file.fileno()
        status = os.fstat(descriptor)
        is_device = stat.S_ISBLK(status.st_mode)
        return SourceIdentity(
            path=printable(lasting_path(self._path)),
            size_bytes=os.lseek(descriptor, 0, os.SEEK_END),
            inode=None if is_device else status.st_ino,
            modified_ns=None if is_device else status.st_mtime_ns,
            device=identity_of(self._path) if is_device else None,
            luks_header=self._header,
        )


def lasting_path(path: Path) -> Path:
    """By what an image is known when the same command comes again, perhaps after a boot."""
    return lasting_name(path) if is_block_device(path) else Path(os.path.realpath(path))


def printable(path: Path) -> str:
    """What may stand in a document, whatever bytes are in the name."""
    return os.fsencode(path).decode(errors="backslashreplace")


@contextmanager
def open_image(path: Path, luks: LuksAccess | None) -> Iterator[OpenImage]:
    """Raises InvalidArgumentError, VolumeInUseError, FormatError, WrongPassphraseError, OSError."""
    with ExitStack() as stack:
        file = stack.enter_context(_open_source(path))
        size_bytes = os.lseek(file.fileno(), 0, os.SEEK_END)
        if size_bytes == 0:
            raise InvalidArgumentError(f"{path} is empty")
        if luks is None:
            yield OpenImage(path, file, RawImage(file.fileno(), 0, size_bytes), None)
            return
        if luks.header is None:
            segment, header = _read_header(file, path)
        else:
            with _open_source(luks.header) as header_file:
                segment, header = _read_header(header_file, luks.header)
        raw = _data_of(segment, file.fileno(), size_bytes, path, is_inline=luks.header is None)
        forbid_dumps()
        lock_memory()
        key = _open(header, luks.passphrase, what=str(luks.header or path))
        yield OpenImage(path, file, stack.enter_context(LuksImage(raw, key)), header)


def _open(header: bytes, passphrase: bytearray, *, what: str) -> DataKey:
    stripped = passphrase.rstrip(b"\r\n")
    if stripped and stripped != passphrase:
        with suppress(WrongPassphraseError):
            return open_volume_key(header, stripped, what=what)
    return open_volume_key(header, passphrase, what=what)


class SourceFile(io.FileIO):
    """`is_claimed`: a block device that nobody can mount as long as this is open."""

    is_claimed = False


def _open_source(source: Path) -> SourceFile:
    """Open an image, or a block device that nobody is writing to. Raises OSError."""
    _check_idle(source)
    is_claimed = source.is_block_device() and not _is_claimed(source)
    flags = os.O_RDONLY | os.O_CLOEXEC | (os.O_EXCL if is_claimed else 0)
    file = SourceFile(os.open(source, flags), "rb")
    file.is_claimed = is_claimed
    return file


def _check_idle(source: Path) -> None:
    """Raises VolumeInUseError for a device, or a file behind a loop device, that somebody may write
    to: an image of a file system in use is torn."""
    devices = [source] if source.is_block_device() else _loops_on(source)
    for device in devices:
        if _is_claimed(device) and not _is_mounted_read_only(device):
            raise VolumeInUseError(
                str(source),
                "the kernel" if device == source else f"{device}, which the kernel uses",
                hint="unmount it first, or remount it read-only: an image of a file system in use "
                "is torn",
                kind="device" if device == source else "image",
            )


def _is_claimed(device: Path) -> bool:
    # O_EXCL asks the kernel to refuse while the device, or a part of it, is mounted or claimed.
    try:
        os.close(os.open(device, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC))
    except OSError as error:
        if error.errno == errno.EBUSY:
            return True
        raise
    return False


def _is_mounted_read_only(device: Path) -> bool:
    """Whether file systems are on it, and none takes writes."""
    number = device.stat().st_rdev
    wanted = f"{os.major(number)}:{os.minor(number)}"
    # Of the file system itself, not of one of the places that it is mounted at.
    options = [mount.options for mount in mounts() if mount.device == wanted]
    return bool(options) and all("ro" in each for each in options)


def _loops_on(source: Path) -> list[Path]:
    real = os.path.realpath(source)
    found = []
    for backing in _SYS_BLOCK.glob("loop*/loop/backing_file"):
        with suppress(OSError):
            if os.fsdecode(backing.read_bytes().removesuffix(b"\n")) == real:
                found.append(Path("/dev") / backing.parts[-3])
    return found


def _read_header(file: io.FileIO, path: Path) -> tuple[LuksSegment, bytes]:
    """The segment, and the bytes of header and keyslots that it was read from: nobody can change
    them between our look and cryptsetup's."""
    what = str(path)
    file.seek(0)
    start = _read(file, BINARY_BYTES)
    header = start + _read(file, header_length(start, what=what) - len(start))
    segment = decode_luks2(header, what=what)
    areas = header + _read(file, segment.areas_bytes - len(header))
    if len(areas) < segment.areas_bytes:
        raise MalformedError(what, "its area of keyslots is cut short")
    return segment, areas


def _read(file: io.FileIO, length: int) -> bytes:
    pieces = []
    while length > 0 and (piece := file.read(length)):
        pieces.append(piece)
        length -= len(piece)
    return b"".join(pieces)


def _data_of(
    segment: LuksSegment, descriptor: int, size_bytes: int, path: Path, *, is_inline: bool
) -> "RawImage":
    offset = segment.offset_bytes
    if is_inline and offset < segment.areas_bytes:
        raise MalformedError(str(path), "its data overlaps its header")
    length = segment.size_bytes if segment.size_bytes is not None else size_bytes - offset
    if length <= 0 or offset + length > size_bytes:
        raise MalformedError(str(path), f"it ends at byte {size_bytes}, before its data does")
    if length % UNIT_BYTES:
        raise MalformedError(
            str(path), f"its data has {length} bytes, no multiple of {UNIT_BYTES}: it was cut short"
        )
    return RawImage(descriptor, offset, length)


class RawImage:
    """Bytes of a file or device, from `start` on."""

    def __init__(self, descriptor: int, start: int, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self._descriptor = descriptor
        self._start = start

    def data_extents(self, start: int, end: int) -> Iterator[ByteRange]:
        """A device, or a file system without holes, has data everywhere."""
        start, end = start + self._start, min(end, self.size_bytes) + self._start
        while start < end:
            try:
                data = os.lseek(self._descriptor, start, os.SEEK_DATA)
                hole = os.lseek(self._descriptor, data, os.SEEK_HOLE)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    return
                data, hole = start, end
            if data >= end:
                return
            yield ByteRange(data - self._start, min(hole, end) - data)
            start = hole

    def read_into(self, offset: int, buffer: memoryview) -> None:
        while buffer:
            got = os.preadv(self._descriptor, [buffer], self._start + offset)
            if not got:
                raise SourceChangedError(f"the source ends at byte {offset} of {self.size_bytes}")
            buffer, offset = buffer[got:], offset + got


class LuksImage:
    """The plaintext of a LUKS2 segment. Closes the key at the end.

    Sectors of zeros in the image were never written, or were discarded: they read as zeros, where
    cryptsetup shows noise that nobody can have put there.
    """

    def __init__(self, raw: RawImage, key: DataKey) -> None:
        """Takes the key over."""
        self.size_bytes = raw.size_bytes
        self._raw = raw
        self._key = key
        self._kernel = key.kernel()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._kernel.wipe()
        self._key.wipe()

    def data_extents(self, start: int, end: int) -> Iterator[ByteRange]:
        """Whole data units; `start` is the beginning of one."""
        done = start
        for extent in self._raw.data_extents(start, end):
            units = align_to_units(extent)
            if units.end > done:
                first = max(units.offset, done)
                yield ByteRange(first, units.end - first)
                done = units.end

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self._raw.read_into(offset, buffer)
        self._kernel.decrypt_sparse_units(offset // UNIT_BYTES, buffer, buffer)
