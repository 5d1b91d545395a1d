"""What goes over a connection of the control socket: requests and answers, a line each, and the
descriptors that come along (`control_messages` has the protocol).
"""

import os
import socket
from array import array
from collections.abc import Sequence
from typing import Final

import trio

from volcrypt.errors import MalformedError
from volcrypt.volume.control_messages import MAX_REQUEST_BYTES, Answer, encode

_RECEIVE_BYTES: Final = 64 * 1024
_MAX_DESCRIPTORS: Final = 2


class ControlStream:
    """One connection, as the side that serves has it. Every method that waits raises
    trio.BrokenResourceError when the other side is gone."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._pending = bytearray()
        self._descriptors: list[int] = []

    async def next_line(self) -> bytes | None:
        """A line with its end; None when the other side has finished.

        Raises MalformedError when a line is too long.
        """
        searched = 0
        while (end := self._pending.find(b"\n", searched)) < 0:
            searched = len(self._pending)
            if searched > MAX_REQUEST_BYTES:
                raise MalformedError("control request", "too long")
            received = await self._receive()
            if not received:
                return None
            self._pending += received
        line = bytes(self._pending[: end + 1])
        del self._pending[: end + 1]
        return line

    def take_descriptors(self) -> list[int]:
        """Those that came with what was received since the last call."""
        taken, self._descriptors = self._descriptors, []
        return taken

    def close_descriptors(self) -> None:
        for descriptor in self.take_descriptors():
            os.close(descriptor)

    async def send(self, answer: Answer, descriptors: Sequence[int] = ()) -> None:
        line = encode(answer)
        if descriptors:
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", descriptors))
            try:
                sent = await self._stream.socket.sendmsg([line], [rights])
            except OSError as error:
                raise trio.BrokenResourceError from error
            line = line[sent:]
        await self._stream.send_all(line)

    async def _receive(self) -> bytes:
        room = socket.CMSG_SPACE(_MAX_DESCRIPTORS * array("i").itemsize)
        try:
            data, ancillary, _flags, _address = await self._stream.socket.recvmsg(
                _RECEIVE_BYTES, room, socket.MSG_CMSG_CLOEXEC
            )
        except OSError as error:
            raise trio.BrokenResourceError from error
        for level, kind, content in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                self._descriptors += array("i", content[: len(content) // 4 * 4])
        if len(self._descriptors) > _MAX_DESCRIPTORS:
            self.close_descriptors()
            raise MalformedError("control request", "too many descriptors")
        return data
