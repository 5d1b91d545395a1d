"""The kernel's end of a connection to the data plane, so that a test can say what it likes.

A pair of sockets that keep messages apart takes the place of /dev/fuse: one request, one reply.
"""

import os
import select
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Final

from volcrypt.crypto.xts import XtsKernel
from volcrypt.volume.plane.door import Plane

KEY: Final = bytes(range(64))
IN_HEAD: Final = struct.Struct("<IIQQIIIHH")
OUT_HEAD: Final = struct.Struct("<IiQ")
READ_IN: Final = struct.Struct("<QQIIQII")
WRITE_IN: Final = struct.Struct("<QQIIQII")
FALLOCATE_IN: Final = struct.Struct("<QQQII")
GETATTR, OPEN, READ, WRITE, INIT, INTERRUPT, FALLOCATE = 3, 14, 15, 16, 26, 36, 43
KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 1, 2, 16  # linux/falloc.h
FILE, HANDLE = 2, 2
TIMEOUT_SECONDS: Final = 5
LANES: Final = 2
_SO_SNDBUFFORCE: Final = 32


@dataclass(frozen=True)
class Reply:
    unique: int
    error: int
    body: bytes


@dataclass(kw_only=True)
class KernelEnd:
    """What the kernel asks, and what it is answered."""

    kernel: socket.socket
    numbers: Iterator[int] = field(default_factory=lambda: count(2, 2))

    def send(self, opcode: int, body: bytes, *, node: int = FILE, length: int | None = None) -> int:
        """One request; its number. `length` is what the header says, if it is to be wrong."""
        unique = next(self.numbers)
        size = IN_HEAD.size + len(body) if length is None else length
        self.kernel.send(IN_HEAD.pack(size, opcode, unique, node, 0, 0, 1, 0, 0) + body)
        return unique

    def send_read(self, offset: int, size: int, *, node: int = FILE, handle: int = HANDLE) -> int:
        return self.send(READ, READ_IN.pack(handle, offset, size, 0, 0, 0, 0), node=node)

    def send_write(self, offset: int, data: bytes, *, handle: int = HANDLE) -> int:
        head = WRITE_IN.pack(handle, offset, len(data), 0, 0, 0, 0)
        return self.send(WRITE, head + data)

    def send_discard(
        self, offset: int, size: int, *, mode: int = PUNCH_HOLE | KEEP_SIZE, handle: int = HANDLE
    ) -> int:
        return self.send(FALLOCATE, FALLOCATE_IN.pack(handle, offset, size, mode, 0))

    def reply(self) -> Reply:
        assert select.select([self.kernel], [], [], TIMEOUT_SECONDS)[0], "no reply"
        message = self.kernel.recv(2**21)
        length, error, unique = OUT_HEAD.unpack_from(message)
        assert length == len(message)
        return Reply(unique, -error, message[OUT_HEAD.size :])

    def is_silent(self) -> bool:
        """Whether no reply is there; only after something that would have followed it."""
        return not select.select([self.kernel], [], [], 0)[0]

    def reply_to(self, unique: int) -> Reply:
        reply = self.reply()
        assert reply.unique == unique
        return reply

    def read(self, offset: int, size: int) -> bytes:
        reply = self.reply_to(self.send_read(offset, size))
        assert not reply.error, os.strerror(reply.error)
        return reply.body

    def write(self, offset: int, data: bytes) -> None:
        reply = self.reply_to(self.send_write(offset, data))
        assert not reply.error, os.strerror(reply.error)
        assert struct.unpack_from("<I", reply.body) == (len(data),)


@dataclass(kw_only=True)
class PlaneBed(KernelEnd):
    """A plane between a kernel and a libfuse that are both the test."""

    plane: Plane
    libfuse: socket.socket
    data: Path
    device: socket.socket

    def shrink_device(self) -> None:
        """From here no reply of more than some kilobytes can be sent."""
        self.device.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)

    def await_event(self) -> None:
        assert select.select([self.plane.event_descriptor], [], [], TIMEOUT_SECONDS)[0], "no event"
        os.eventfd_read(self.plane.event_descriptor)

    def stored(self, offset: int, size: int) -> bytes:
        """Plaintext of what is in the data file, by the other implementation."""
        with self.data.open("rb") as file:
            file.seek(offset)
            data = bytearray(file.read(size))
        XtsKernel(KEY).decrypt_sparse_units(offset // 4096, data, data)
        return bytes(data)


def kernel_and_device() -> tuple[socket.socket, socket.socket]:
    kernel, device = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    # So that what the kernel sends is never what does not fit, and replies never wait: not even for
    # a test that reads them in a thread of this interpreter.
    for end in (kernel, device):
        end.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, 8 * 2**20)
    return kernel, device


@contextmanager
def plane_bed(
    directory: Path,
    *,
    size_bytes: int = 4 * 2**20,
    encrypted: bool = True,
    key: bytes | bytearray = KEY,
    lanes: int = LANES,
    writable: bool = True,
    start: bool = True,
    takes_discards: bool = False,
    drops_zeros: bool = False,
) -> Iterator[PlaneBed]:
    data = directory / "data"
    data.touch()
    os.truncate(data, size_bytes)
    kernel, device = kernel_and_device()
    libfuse, control = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    descriptor = os.open(data, os.O_RDWR if writable else os.O_RDONLY)
    device_end = device.dup()
    try:
        plane = Plane(
            device.detach(),
            control.detach(),
            descriptor,
            size_bytes=size_bytes,
            key=key if encrypted else None,
            lanes=lanes,
            takes_discards=takes_discards,
            drops_zeros=drops_zeros,
        )
    finally:
        os.close(descriptor)
    for end in (kernel, libfuse):
        end.settimeout(TIMEOUT_SECONDS)  # of a plane that is dead, nobody waits for more
    with kernel, libfuse, device_end:
        try:
            if start:
                plane.start()
            yield PlaneBed(
                plane=plane, kernel=kernel, libfuse=libfuse, data=data, device=device_end
            )
        finally:
            assert plane.stop()
