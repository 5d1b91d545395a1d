"""The serving side of the control socket (`volcrypt.volume.control` has the protocol).

Each connection is a task; one that sends rubbish or goes away harms nobody but itself.
"""

import logging
import socket
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from volcrypt.errors import InvalidArgumentError, MalformedError, VolcryptError
from volcrypt.geometry import check_volume_size, chunk_count
from volcrypt.volume.change_map import Capture
from volcrypt.volume.control import (
    MAX_REQUEST_BYTES,
    AbortCaptureRequest,
    Answer,
    BeginCaptureRequest,
    CaptureAnswer,
    CapturedRequest,
    CommitCaptureRequest,
    DoneAnswer,
    ErrorAnswer,
    GrowRequest,
    StatusAnswer,
    StatusRequest,
    StopRequest,
    UnmountRequest,
    check_peer,
    decode_request,
    encode,
    pack_changes,
)
from volcrypt.volume.device import Device
from volcrypt.volume.error_report import ErrorReport

_log: Final = logging.getLogger(__name__)


class ControlServer:
    def __init__(
        self,
        device: Device,
        *,
        status: Callable[[], StatusAnswer],
        grow: Callable[[int], Awaitable[None]],
        end: Callable[[bool], Awaitable[None]],
    ) -> None:
        """`end(forced)` ends the service and returns when all data is safe."""
        self._device = device
        self._status = status
        self._grow = grow
        self._end = end
        self._ends_in_work: set[trio.Event] = set()

    async def serve(self, listener: socket.socket) -> None:
        """Answer for ever."""
        stdlib_listener = trio.socket.from_stdlib_socket(listener)
        await trio.serve_listeners(self._talk, [trio.SocketListener(stdlib_listener)])

    async def all_told(self) -> None:
        """Wait until everybody who asked for the end has got the answer."""
        for told in list(self._ends_in_work):
            await told.wait()

    async def _talk(self, stream: trio.SocketStream) -> None:
        conversation = _Conversation(self._device)
        try:
            check_peer(stream.socket)
            reader = _LineReader(stream)
            while (line := await reader.next_line()) is not None:
                told = trio.Event()
                try:
                    answer = await self._answer(conversation, line, told)
                    await stream.send_all(encode(answer))
                finally:
                    told.set()
                    self._ends_in_work.discard(told)
        except trio.BrokenResourceError:
            return  # the other side is gone, which is its good right
        except VolcryptError as error:
            await _try_to_send(stream, ErrorAnswer(report=ErrorReport.of(error)))
        finally:
            with trio.CancelScope(shield=True):
                await conversation.abort()
                await trio.aclose_forcefully(stream)

    async def _answer(self, conversation: "_Conversation", line: bytes, told: trio.Event) -> Answer:
        try:
            request = decode_request(line)
            match request:
                case StatusRequest():
                    return self._status()
                case BeginCaptureRequest():
                    return await conversation.begin()
                case CapturedRequest(first=first, count=count):
                    conversation.captured(first, count)
                case CommitCaptureRequest():
                    await conversation.commit(request)
                case AbortCaptureRequest():
                    await conversation.abort()
                case GrowRequest(size_bytes=size_bytes):
                    await self._grow(check_volume_size(size_bytes))
                case UnmountRequest() | StopRequest():
                    self._ends_in_work.add(told)
                    await self._end(isinstance(request, StopRequest))
            return DoneAnswer()
        except Exception as error:
            if not isinstance(error, VolcryptError):
                _log.exception("a control request failed")
            return ErrorAnswer(report=ErrorReport.of(error))


class _Conversation:
    """One connection, and the capture that it may have open."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._capture: Capture | None = None

    async def begin(self) -> CaptureAnswer:
        capture = await self._device.begin_capture()
        self._capture = capture
        packed = None
        if capture.changed is not None:
            changed = capture.changed
            packed = await trio.to_thread.run_sync(lambda: pack_changes(changed))
        return CaptureAnswer(
            size_bytes=self._device.size_bytes, parent=capture.parent, changed=packed
        )

    def captured(self, first: int, count: int) -> None:
        self._open_capture()
        chunks = chunk_count(self._device.size_bytes)
        if first < 0 or count < 0 or first + count > chunks:
            raise InvalidArgumentError(f"the volume has no chunks {first} to {first + count - 1}")
        self._device.chunks_captured(range(first, first + count))

    async def commit(self, request: CommitCaptureRequest) -> None:
        capture = self._open_capture()
        await self._device.commit_capture(capture, request.parent)
        self._capture = None

    async def abort(self) -> None:
        if self._capture is not None:
            capture, self._capture = self._capture, None
            await self._device.abort_capture(capture)

    def _open_capture(self) -> Capture:
        if self._capture is None:
            raise InvalidArgumentError("no capture is open on this connection")
        return self._capture


class _LineReader:
    """What comes in, line by line."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._pending = bytearray()

    async def next_line(self) -> bytes | None:
        """A line with its end; None when the other side has finished.

        Raises MalformedError when a line is too long.
        """
        while (end := self._pending.find(b"\n")) < 0:
            if len(self._pending) > MAX_REQUEST_BYTES:
                raise MalformedError("control request", "too long")
            received = await self._stream.receive_some()
            if not received:
                return None
            self._pending += received
        line = bytes(self._pending[: end + 1])
        del self._pending[: end + 1]
        return line


async def _try_to_send(stream: trio.SocketStream, answer: Answer) -> None:
    try:
        await stream.send_all(encode(answer))
    except trio.BrokenResourceError:
        return
