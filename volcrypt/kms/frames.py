"""Frames on a stream socket: 4 bytes of length (big-endian), and so many bytes.

They may hold secrets: what is sent is wiped, and what is received is a bytearray for the caller to
wipe.
"""

import socket
import struct
from typing import Final

from volcrypt.errors import MalformedError

LENGTH: Final = struct.Struct(">I")
MAX_BYTES: Final = 2**26


def send_frame(connection: socket.socket, frame: bytearray) -> None:
    """Raises OSError, TimeoutError among them."""
    try:
        connection.sendall(LENGTH.pack(len(frame)))
        connection.sendall(frame)
    finally:
        frame[:] = bytes(len(frame))


def receive_frame(connection: socket.socket) -> bytearray | None:
    """The next frame; None when the other side has closed the socket before it or in it.

    Raises OSError, TimeoutError among them, and MalformedError for one that is too long.
    """
    head = _receive(connection, LENGTH.size)
    if head is None:
        return None
    (length,) = LENGTH.unpack(head)
    if length > MAX_BYTES:
        raise MalformedError("frame", f"longer than {MAX_BYTES} bytes")
    return _receive(connection, length)


def _receive(connection: socket.socket, count: int) -> bytearray | None:
    frame = bytearray(count)
    with memoryview(frame) as view:
        filled = 0
        while filled < count:
            received = connection.recv_into(view[filled:])
            if not received:
                return None
            filled += received
    return frame
