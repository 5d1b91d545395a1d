"""What is imported: a raw image or block device, or what is behind a LUKS2 header."""

import errno
import io
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

from volcrypt.confinement import forbid_dumps, lock_memory
from volcrypt.crypto.data_key import DataKey
from volcrypt.errors import (
    InvalidArgumentError,
    MalformedError,
    VolcryptError,
    VolumeInUseError,
    WrongPassphraseError,
)
from volcrypt.formats.luks2 import (
    BINARY_BYTES,
    LUKS_MAGIC,
    LuksSegment,
    decode_luks2,
    header_length,
)
from volcrypt.geometry import UNIT_BYTES
from volcrypt.volume.cryptsetup import open_volume_key


class ImageSource(Protocol):
    """Plaintext to be imported. `read_into` starts where `next_data` says, and gives how much it
    read: less than the buffer at the end."""

    size_bytes: int

    def next_data(self, offset: int) -> int:
        """The next byte that may not be zero; the end when there is none."""
        ...

    def read_into(self, offset: int, buffer: memoryview) -> int: ...


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


@contextmanager
def open_image(path: Path, luks: LuksAccess | None) -> Iterator[ImageSource]:
    """Raises InvalidArgumentError, VolumeInUseError, FormatError, WrongPassphraseError, OSError."""
    with ExitStack() as stack:
        file = stack.enter_context(_open_source(path))
        size_bytes = os.lseek(file.fileno(), 0, os.SEEK_END)
        if size_bytes == 0:
            raise InvalidArgumentError(f"{path} is empty")
        if luks is None:
            yield RawImage(file.fileno(), 0, size_bytes)
            return
        segment, header = _read_header(luks.header or path)
        raw = _data_of(segment, file.fileno(), size_bytes, path, is_inline=luks.header is None)
        forbid_dumps()
        lock_memory()
        key = _open(header, luks.passphrase, what=str(luks.header or path))
        yield stack.enter_context(LuksImage(raw, key))


def _open(header: bytes, passphrase: bytearray, *, what: str) -> DataKey:
    stripped = passphrase.rstrip(b"\r\n")
    if stripped and stripped != passphrase:
        with suppress(WrongPassphraseError):
            return open_volume_key(header, stripped, what=what)
    return open_volume_key(header, passphrase, what=what)


def _open_source(source: Path) -> io.FileIO:
    """Open an image, or a block device that nobody is writing to. Raises OSError."""
    # On a device O_EXCL asks the kernel to refuse while it is mounted or claimed.
    flags = os.O_RDONLY | os.O_CLOEXEC | (os.O_EXCL if source.is_block_device() else 0)
    try:
        return io.FileIO(os.open(source, flags), "rb")
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise VolumeInUseError(
                str(source),
                "the kernel",
                hint="unmount it first: an image of a file system in use is torn",
            ) from error
        raise


def _read_header(path: Path) -> tuple[LuksSegment, bytes]:
    """The segment, and the bytes of header and keyslots that it was read from: nobody can change
    them between our look and cryptsetup's."""
    what = str(path)
    with _open_source(path) as file:
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

    def next_data(self, offset: int) -> int:
        """A device, or a file system without holes, has them all."""
        try:
            found = os.lseek(self._descriptor, self._start + offset, os.SEEK_DATA)
        except OSError as error:
            return self.size_bytes if error.errno == errno.ENXIO else offset
        return min(max(found - self._start, offset), self.size_bytes)

    def read_into(self, offset: int, buffer: memoryview) -> int:
        wanted = min(len(buffer), self.size_bytes - offset)
        if wanted <= 0:
            return 0
        got = os.preadv(self._descriptor, [buffer[:wanted]], self._start + offset)
        if not got:
            raise VolcryptError(f"the source ends at byte {offset} of {self.size_bytes}")
        return got


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

    def next_data(self, offset: int) -> int:
        return self._raw.next_data(offset) // UNIT_BYTES * UNIT_BYTES

    def read_into(self, offset: int, buffer: memoryview) -> int:
        length = min(len(buffer), self.size_bytes - offset)
        got = 0
        while got < length:
            got += self._raw.read_into(offset + got, buffer[got:length])
        whole = buffer[:length]
        self._kernel.decrypt_sparse_units(offset // UNIT_BYTES, whole, whole)
        return length
