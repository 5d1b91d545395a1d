"""The serving side of the control socket (`control_messages` has the protocol).

Each connection is a task; one that sends rubbish or goes away harms nobody but itself.
"""

import logging
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final, Protocol

import trio

from volcrypt.errors import InvalidArgumentError, VolcryptError
from volcrypt.geometry import check_volume_size, chunk_count
from volcrypt.names import DataKeyId
from volcrypt.volume.capture import Captures, RunningCapture
from volcrypt.volume.control_messages import (
    AbortCaptureRequest,
    Answer,
    BeginCaptureRequest,
    CaptureAnswer,
    CapturedRequest,
    CommitCaptureRequest,
    CopyMigrationRequest,
    DoneAnswer,
    ErrorAnswer,
    FetchRequest,
    GrowRequest,
    GuardThawRequest,
    MetricsAnswer,
    MetricsRequest,
    MigrationAnswer,
    MigrationOrder,
    MigrationState,
    ResumeRequest,
    StatusAnswer,
    StatusRequest,
    StopRequest,
    ThawedRequest,
    Turn,
    TurnMigrationRequest,
    UnmountRequest,
    VerifyMigrationRequest,
    WantedRequest,
    decode_request,
    pack_bits,
    unpack_bits,
)
from volcrypt.volume.control_socket import check_peer
from volcrypt.volume.control_stream import ControlStream
from volcrypt.volume.error_report import ErrorReport
from volcrypt.volume.lazy import LazyChunks
from volcrypt.volume.thaw_guard import ThawGuard

_MAX_GUARD: Final = 3600.0

_log: Final = logging.getLogger(__name__)


class Migrations(Protocol):
    """Who migrates the volume; `volcrypt.daemons.migrating` does. A descriptor is taken over."""

    async def begin(self, order: MigrationOrder, key_pipe: int) -> MigrationState | None: ...
    async def copy(
        self, migration: bytes, stop: int, rate_bytes: int | None
    ) -> MigrationState | None: ...
    async def verify(
        self, migration: bytes, chunks: range, rate_bytes: int | None, key_pipe: int
    ) -> MigrationState | None: ...
    async def turn(self, migration: bytes, to: Turn) -> MigrationState | None: ...


class ControlServer:
    def __init__(
        self,
        captures: Captures,
        *,
        status: Callable[[], StatusAnswer],
        metrics: Callable[[], Awaitable[MetricsAnswer]],
        lazy: Callable[[], LazyChunks | None] = lambda: None,
        data_key_id: Callable[[], DataKeyId | None] = lambda: None,
        migrations: Migrations | None = None,
        grow: Callable[[int], Awaitable[None]],
        end: Callable[[bool], Awaitable[None]],
    ) -> None:
        """`data_key_id` is of what is served; `lazy` are the chunks of a lazy volume, while some
        are not here; `end(forced)` ends the service and returns when all data is safe."""
        self._captures = captures
        self._status = status
        self._metrics = metrics
        self._lazy = lazy
        self._data_key_id = data_key_id
        self._migrations = migrations
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
        lines = ControlStream(stream)
        conversation = _Conversation(
            self._captures, self._lazy, self._data_key_id, lines.take_descriptors
        )
        try:
            check_peer(stream.socket)
            while (line := await lines.next_line()) is not None:
                told = trio.Event()
                try:
                    answer = await self._answer(conversation, line, told)
                    await lines.send(answer, conversation.descriptors_of(answer))
                finally:
                    told.set()
                    self._ends_in_work.discard(told)
        except trio.BrokenResourceError:
            return  # the other side is gone, which is its good right
        except VolcryptError as error:
            with suppress(trio.BrokenResourceError):
                await lines.send(ErrorAnswer(report=ErrorReport.of(error)))
        finally:
            with trio.CancelScope(shield=True):
                conversation.end_guard()
                lines.close_descriptors()
                await conversation.abort()
                await trio.aclose_forcefully(stream)

    async def _answer(self, conversation: "_Conversation", line: bytes, told: trio.Event) -> Answer:
        try:
            request = decode_request(line)
            match request:
                case StatusRequest():
                    return self._status()
                case MetricsRequest():
                    return await self._metrics()
                case BeginCaptureRequest(hold=True):
                    await conversation.hold()
                case BeginCaptureRequest():
                    return await conversation.begin()
                case ResumeRequest():
                    return await conversation.resume()
                case WantedRequest(bitmap=bitmap):
                    await conversation.wanted(bitmap)
                case CapturedRequest(first=first, count=count):
                    conversation.captured(first, count)
                case CommitCaptureRequest():
                    await conversation.commit(request)
                case AbortCaptureRequest():
                    await conversation.abort()
                case FetchRequest(first=first, count=count):
                    await conversation.fetch(first, count)
                case GuardThawRequest(seconds=seconds):
                    conversation.guard_thaw(seconds)
                case ThawedRequest():
                    conversation.thawed()
                case (
                    MigrationOrder()
                    | CopyMigrationRequest()
                    | VerifyMigrationRequest()
                    | TurnMigrationRequest()
                ):
                    return MigrationAnswer(state=await self._migrate(conversation, request))
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

    async def _migrate(
        self,
        conversation: "_Conversation",
        request: MigrationOrder
        | CopyMigrationRequest
        | VerifyMigrationRequest
        | TurnMigrationRequest,
    ) -> MigrationState | None:
        if self._migrations is None:
            raise InvalidArgumentError("what is served cannot be migrated")
        match request:
            case MigrationOrder():
                return await self._migrations.begin(request, conversation.take_key_pipe())
            case CopyMigrationRequest():
                return await self._migrations.copy(
                    request.migration, request.stop, request.rate_bytes
                )
            case VerifyMigrationRequest():
                key_pipe = conversation.take_key_pipe()
                chunks = range(max(request.first, 0), request.stop)
                return await self._migrations.verify(
                    request.migration, chunks, request.rate_bytes, key_pipe
                )
            case TurnMigrationRequest():
                return await self._migrations.turn(request.migration, request.to)


class _Conversation:
    """One connection, and the capture that it may have open."""

    def __init__(
        self,
        captures: Captures,
        lazy: Callable[[], LazyChunks | None],
        data_key_id: Callable[[], DataKeyId | None],
        take_descriptors: Callable[[], list[int]],
    ) -> None:
        """`take_descriptors` are those that came since the last call."""
        self._data_key_id = data_key_id
        self._take_descriptors = take_descriptors
        self._guard: ThawGuard | None = None
        self._captures = captures
        self._lazy = lazy
        self._capture: RunningCapture | None = None
        self._is_held = False

    async def begin(self) -> CaptureAnswer:
        self._check_none_open()
        self._capture = await self._captures.begin()
        return await self._settle(self._capture)

    async def hold(self) -> None:
        self._check_none_open()
        self._capture = await self._captures.begin(hold=True)
        self._is_held = True

    async def resume(self) -> CaptureAnswer:
        if self._capture is None or not self._is_held:
            raise InvalidArgumentError("no capture is held on this connection")
        self._is_held = False
        self._captures.resume(self._capture)
        return await self._settle(self._capture)

    async def wanted(self, packed: bytes) -> None:
        capture = self._open_capture()
        bits = await trio.to_thread.run_sync(lambda: unpack_bits(packed, capture.size_bytes))
        await self._captures.release_unwanted(capture, bits)

    def captured(self, first: int, count: int) -> None:
        capture = self._open_capture()
        self._captures.release(capture, _run_of(first, count, chunk_count(capture.size_bytes)))

    async def fetch(self, first: int, count: int) -> None:
        lazy = self._lazy()
        if lazy is not None:
            await lazy.make_readable(_run_of(first, count, lazy.chunk_count))

    async def commit(self, request: CommitCaptureRequest) -> None:
        await self._captures.commit(self._open_capture(), request.parent)
        self._capture = None

    async def abort(self) -> None:
        if self._capture is not None:
            capture, self._capture = self._capture, None
            self._is_held = False
            await self._captures.abort(capture)

    def guard_thaw(self, seconds: float) -> None:
        descriptors = self._take_descriptors()
        if len(descriptors) != 2 or self._guard is not None or not 0 < seconds <= _MAX_GUARD:
            for descriptor in descriptors:
                os.close(descriptor)
            raise InvalidArgumentError("nothing that can be guarded")
        directory, freezer = descriptors
        self._guard = ThawGuard(directory, freezer, seconds)

    def take_key_pipe(self) -> int:
        """What came along, for who closes it. Raises InvalidArgumentError when that is not one."""
        descriptors = self._take_descriptors()
        if len(descriptors) != 1:
            for descriptor in descriptors:
                os.close(descriptor)
            raise InvalidArgumentError("no data key came")
        return descriptors[0]

    def thawed(self) -> None:
        if self._guard is not None:
            self._guard.release()
            self._guard = None

    def end_guard(self) -> None:
        """Nobody is there any more to say `thawed`."""
        if self._guard is not None:
            self._guard.abandon()

    def descriptors_of(self, answer: Answer) -> Sequence[int]:
        """What goes with an answer."""
        if isinstance(answer, CaptureAnswer) and self._capture is not None:
            return self._capture.keeper.descriptors
        return ()

    async def _settle(self, capture: RunningCapture) -> CaptureAnswer:
        bits = await self._captures.settle(capture)
        packed = None
        if bits is not None:
            packed = await trio.to_thread.run_sync(pack_bits, bits)
            self._captures.check(capture)
        # After the barrier: what is here now either was at that point, or has come since.
        absent = None
        if (lazy := self._lazy()) is not None:
            absent = await trio.to_thread.run_sync(pack_bits, lazy.absent_bits(capture.size_bytes))
        return CaptureAnswer(
            size_bytes=capture.size_bytes,
            parent=capture.point.parent,
            changed=packed,
            absent=absent,
            barrier_us=capture.barrier_us,
            data_key_id=self._data_key_id(),
        )

    def _check_none_open(self) -> None:
        if self._capture is not None:
            raise InvalidArgumentError("a capture is open on this connection")

    def _open_capture(self) -> RunningCapture:
        if self._capture is None or self._is_held:
            raise InvalidArgumentError("no capture is open on this connection")
        return self._capture


def _run_of(first: int, count: int, chunks: int) -> range:
    """Raises InvalidArgumentError when there are no such chunks."""
    if first < 0 or count < 0 or first + count > chunks:
        raise InvalidArgumentError(f"the volume has no chunks {first} to {first + count - 1}")
    return range(first, first + count)
