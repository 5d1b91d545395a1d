"""The control socket: codec, refusals, captures that end with their connection. Real sockets, a
device on storage in memory, and the client in a thread as a command would be.
"""

import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import msgspec
import pytest
import trio
import trio.testing

from volcrypt.chunk_set import ChunkSet
from volcrypt.errors import (
    InvalidArgumentError,
    KeyNotFoundError,
    MalformedError,
    MountError,
    NoSpaceError,
    PrivilegeError,
    TryAgainError,
    VolumeError,
    VolumeInUseError,
)
from volcrypt.formats.change_map import ParentPoint
from volcrypt.formats.document import MacSeal
from volcrypt.geometry import CHUNK_BYTES
from volcrypt.names import SnapshotId, StoreId, VolumeId
from volcrypt.volume import capture, control_messages, control_socket
from volcrypt.volume.change_map import ChangeMap
from volcrypt.volume.control import CapturedState, ControlClient
from volcrypt.volume.control_messages import (
    BeginCaptureRequest,
    MetricsAnswer,
    StatusAnswer,
    decode_answer,
    decode_request,
)
from volcrypt.volume.control_server import ControlServer
from volcrypt.volume.datafile import DataFile
from volcrypt.volume.device import Device
from volcrypt.volume.error_report import ErrorReport
from volcrypt.volume.preserve import PreservedChunks
from volcrypt.volume.volume import Volume

CHUNKS = 11
SIZE = CHUNKS * CHUNK_BYTES
VOLUME_ID = VolumeId("vol-00000000000000001")
PARENT = ParentPoint(
    store_id=StoreId("store-00000000000000001"),
    snapshot_id=SnapshotId("snap-00000000000000001"),
    root=bytes(range(32)),
)
Result = TypeVar("Result")


class CrowdedChunks(PreservedChunks):
    """Where nothing can be kept when the server says so."""

    def __init__(self, made: "Served", data: DataFile, directory: Path) -> None:
        super().__init__(data, directory)
        self.made = made

    def keep(self, chunk: int) -> None:
        if self.made.is_full:
            raise NoSpaceError("no space left for /kept")
        super().keep(chunk)


class Served:
    """A control server; `end_error` is what its end answers."""

    def __init__(self, directory: Path) -> None:
        self.data = DataFile.create(directory / "data", SIZE)
        self.changes = ChangeMap.open(
            directory / "map",
            directory / "clean",
            volume_id=VOLUME_ID,
            size_bytes=SIZE,
            seal=MacSeal(bytes(32)),
            data_path=directory / "data",
        )
        volume = Volume(self.data, size_bytes=SIZE, data_key=None, changes=self.changes)
        self.device = Device(
            volume,
            changes=self.changes,
            open_keeper=lambda: CrowdedChunks(self, self.data, directory),
        )
        self.path = directory / ("a-long-name" * 12) / "volume.sock"
        self.path.parent.mkdir()
        self.ended: list[bool] = []
        self.is_full = False
        self.end_error: Exception | None = None
        self.server = ControlServer(
            self.device.captures,
            status=self.status,
            metrics=self.metrics,
            grow=self.device.grow,
            end=self.end,
        )

    def status(self) -> StatusAnswer:
        return StatusAnswer(
            volume_id=VOLUME_ID,
            name="books",
            pid=os.getpid(),
            size_bytes=SIZE,
            mount_directory="/nowhere",
            read_only=False,
            encrypted=False,
            memory_locked=True,
            capture_running=self.device.captures.is_running,
            parent=self.changes.parent,
            preserve_longest_us=self.device.captures.longest_keep_us,
        )

    async def metrics(self) -> MetricsAnswer:
        return MetricsAnswer(requests=[], free_bytes=4711)

    async def end(self, forced: bool) -> None:
        self.ended.append(forced)
        if self.end_error is not None:
            raise self.end_error

    def connect(self) -> ControlClient:
        return ControlClient(self.path, volume="books")

    def raw(self, data: bytes) -> bytes:
        """What comes back until the server closes."""
        client = self.connect()
        with client, client._socket.dup() as connection:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            with connection.makefile("rb") as file:
                return file.read()


@asynccontextmanager
async def served(directory: Path) -> AsyncIterator[Served]:
    made = Served(directory)
    with control_socket.listen(made.path) as listener:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(made.server.serve, listener)
            yield made
            nursery.cancel_scope.cancel()
    made.changes.close()
    made.data.close()


async def in_thread(work: Callable[[], Result]) -> Result:
    with trio.fail_after(20):
        return await trio.to_thread.run_sync(work)


async def test_a_whole_capture(tmp_path: Path) -> None:
    async with served(tmp_path) as made:
        with await in_thread(made.connect) as client:
            assert (await in_thread(client.status)).parent is None
            state = await in_thread(client.begin_capture)
            assert (state.size_bytes, state.parent, state.changed) == (SIZE, None, None)
            assert (await in_thread(client.status)).capture_running
            await in_thread(lambda: client.captured(range(CHUNKS)))
            await in_thread(lambda: client.commit_capture(PARENT))
            assert (await in_thread(client.status)).parent == PARENT
            await made.device.write(9 * CHUNK_BYTES, b"x")
            state = await in_thread(client.begin_capture)
            assert state.parent == PARENT
            assert state.changed is not None
            assert list(state.changed) == [9]
            await in_thread(client.abort_capture)
            assert not (await in_thread(client.status)).capture_running


def read_chunk(made: Served, state: CapturedState, chunk: int) -> bytes:
    """As who stores a snapshot does."""
    buffer = bytearray(CHUNK_BYTES)
    made.data.read_chunk(chunk, buffer)
    state.preserved.replace(chunk, buffer)
    return bytes(buffer)


async def test_what_writers_replace_is_read_from_what_was_kept(tmp_path: Path) -> None:
    async with served(tmp_path) as made:
        await made.device.write(3 * CHUNK_BYTES, b"old")
        with await in_thread(made.connect) as client:
            state = await in_thread(client.begin_capture)
            for chunk in (3, 4, 10):
                await made.device.write(chunk * CHUNK_BYTES, b"new")
            assert read_chunk(made, state, 3)[:4] == b"old\0"
            assert read_chunk(made, state, 4)[:4] == bytes(4)
            # Nobody needs chunk 10 from here on.
            wanted = ChunkSet(CHUNKS, [3, 4])
            await in_thread(lambda: client.wanted(wanted))
            await in_thread(lambda: client.captured(range(3, 5)))
            assert state.barrier_us < 10**6
            assert (await in_thread(client.status)).preserve_longest_us > 0
            await in_thread(lambda: client.commit_capture(PARENT))


async def test_a_capture_that_failed_says_so_at_every_call(tmp_path: Path) -> None:
    async with served(tmp_path) as made:
        with await in_thread(made.connect) as client:
            await in_thread(client.begin_capture)
            made.is_full = True
            await made.device.write(0, b"new")
            for call in (
                lambda: client.captured(range(1)),
                lambda: client.wanted(ChunkSet(CHUNKS)),
                lambda: client.commit_capture(PARENT),
            ):
                with pytest.raises(NoSpaceError, match="no space left for /kept"):
                    await in_thread(call)
            await in_thread(client.abort_capture)
            assert not made.device.captures.is_running


async def test_hold_and_resume(tmp_path: Path) -> None:
    async with served(tmp_path) as made:
        with await in_thread(made.connect) as client:
            with pytest.raises(InvalidArgumentError, match="no capture is held"):
                await in_thread(client.resume_capture)
            await in_thread(client.hold_capture)
            with pytest.raises(InvalidArgumentError, match="a capture is open"):
                await in_thread(client.begin_capture)
            with pytest.raises(InvalidArgumentError, match="no capture is open"):
                await in_thread(lambda: client.captured(range(1)))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(made.device.write, 0, b"new")
                await trio.testing.wait_all_tasks_blocked()
                state = await in_thread(client.resume_capture)
            assert read_chunk(made, state, 0)[:3] == bytes(3)
            with pytest.raises(InvalidArgumentError, match="no capture is held"):
                await in_thread(client.resume_capture)
            await in_thread(client.abort_capture)


async def test_a_hold_that_lasts_too_long_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capture, "HOLD_SECONDS", 0.05)
    async with served(tmp_path) as made:
        with await in_thread(made.connect) as client:
            await in_thread(client.hold_capture)
            await made.device.write(0, b"new")
            for call in (client.resume_capture, lambda: client.captured(range(1))):
                with pytest.raises(TryAgainError, match="went on without it"):
                    await in_thread(call)
        with await in_thread(made.connect) as client:
            await in_thread(client.begin_capture)


async def test_a_dropped_connection_aborts_its_capture(tmp_path: Path) -> None:
    async with served(tmp_path) as made:
        client = await in_thread(made.connect)
        await in_thread(client.hold_capture)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(made.device.write, 0, b"waits")
            await trio.testing.wait_all_tasks_blocked()
            client.close()
        assert bytes(await made.device.read(0, 5)) == b"waits"
        with await in_thread(made.connect) as second:
            await in_thread(second.begin_capture)
            await in_thread(second.abort_capture)


async def test_who_goes_away_before_a_capture_is_answered_harms_nobody_else(tmp_path: Path) -> None:
    async with served(tmp_path) as made:
        with made.connect() as client:
            client._socket.sendall(control_messages.encode(BeginCaptureRequest()))
        await trio.testing.wait_all_tasks_blocked()
        with await in_thread(made.connect) as client:
            with trio.fail_after(20):
                while (await in_thread(client.status)).capture_running:
                    await trio.testing.wait_all_tasks_blocked()


async def test_captures_of_two_connections(tmp_path: Path) -> None:
    async with served(tmp_path) as made:
        with await in_thread(made.connect) as first, await in_thread(made.connect) as second:
            await in_thread(first.begin_capture)
            with pytest.raises(TryAgainError, match="another snapshot of this volume"):
                await in_thread(second.begin_capture)
            with pytest.raises(InvalidArgumentError, match="no capture is open"):
                await in_thread(lambda: second.captured(range(1)))
            with pytest.raises(InvalidArgumentError, match="no capture is open"):
                await in_thread(lambda: second.commit_capture(PARENT))
            await in_thread(second.abort_capture)
            assert made.device.captures.is_running
            with pytest.raises(InvalidArgumentError, match="no chunks 10 to 11"):
                await in_thread(lambda: first.captured(range(10, 12)))
            await in_thread(first.abort_capture)


async def test_the_end_and_its_errors(tmp_path: Path) -> None:
    async with served(tmp_path) as made:
        made.end_error = OSError(5, "the disk is gone")
        with (
            await in_thread(made.connect) as client,
            pytest.raises(VolumeError, match=r"^the system's answer: Input/output error$"),
        ):
            await in_thread(lambda: client._ask(control_messages.StopRequest()))
        made.end_error = TryAgainError("/nowhere is busy")
        with (
            await in_thread(made.connect) as client,
            pytest.raises(TryAgainError, match="is busy"),
        ):
            await in_thread(client.unmount)
        assert made.ended == [True, False]
        await made.server.all_told()


@pytest.mark.parametrize(
    "line",
    [
        b"\n",
        b"no json\n",
        b'{"type":"unknown"}\n',
        b'{"type":"status","more":1}\n',
        b'{"type":"captured","first":"x","count":1}\n',
        b"[" * 10000 + b"\n",
        b"\xff\xfe\n",
    ],
)
async def test_rubbish_gets_an_error_and_the_next_request_its_answer(
    tmp_path: Path, line: bytes
) -> None:
    async with served(tmp_path) as made:
        answers = (await in_thread(lambda: made.raw(line + b'{"type":"status"}\n'))).splitlines()
        error, status = map(decode_answer, answers)
        assert isinstance(error, control_messages.ErrorAnswer)
        assert error.report.kind == "MalformedError"
        assert isinstance(status, StatusAnswer)


async def test_a_line_without_end_ends_the_connection(tmp_path: Path) -> None:
    async with served(tmp_path) as made:
        rubbish = b"x" * (control_messages.MAX_REQUEST_BYTES + 1)
        (answer,) = (await in_thread(lambda: made.raw(rubbish))).splitlines()
        assert b"too long" in answer
        with await in_thread(made.connect) as client:
            await in_thread(client.status)


async def test_the_socket_is_for_its_user_and_root_only(tmp_path: Path) -> None:
    async with served(tmp_path) as made:
        assert made.path.stat().st_mode & 0o777 == 0o600
        with await in_thread(made.connect):
            pass

    class Stranger:
        def getsockopt(self, level: int, optname: int, buflen: int, /) -> bytes:
            return control_socket._PEER.pack(1, os.geteuid() + 1, 0)

    with pytest.raises(PrivilegeError, match="may not control this volume"):
        control_socket.check_peer(Stranger())


def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(MountError, match=r"^volume books is not mounted$"):
        ControlClient(tmp_path / "missing.sock", volume="books")
    control_socket.listen(tmp_path / "left.sock").close()
    with pytest.raises(MountError, match=r"^volume books is not mounted$"):
        ControlClient(tmp_path / "left.sock", volume="books")
    control_socket.listen(tmp_path / "left.sock").close()


def test_requests_that_do_not_parse() -> None:
    with pytest.raises(MalformedError, match="control request: it does not parse"):
        decode_request(b"{}")
    with pytest.raises(MalformedError, match="control answer: it does not parse"):
        decode_answer(b"{}")


def test_errors_arrive_as_what_they_were() -> None:
    sent = VolumeInUseError("books", "process 1", hint="wait")
    report = msgspec.json.decode(msgspec.json.encode(ErrorReport.of(sent)), type=ErrorReport)
    arrived = report.error()
    assert isinstance(arrived, VolumeInUseError)
    assert (str(arrived), arrived.hint, arrived.holder) == (str(sent), "wait", "process 1")
    assert isinstance(ErrorReport.of(KeyNotFoundError("gone")).error(), KeyNotFoundError)


def test_foreign_errors_arrive_without_their_text() -> None:
    arrived = ErrorReport.of(ValueError("secret")).error()
    assert (type(arrived), str(arrived)) == (VolumeError, "internal error: ValueError")
    assert type(ErrorReport(kind="os", message="x").error()) is VolumeError


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize(
    "request_", [control_messages.StatusRequest(), control_messages.GuardThawRequest(seconds=-1)]
)
async def test_descriptors_of_no_use_are_closed(
    tmp_path: Path, request_: control_messages.Request, count: int
) -> None:
    reader, writer = os.pipe()
    async with served(tmp_path) as made:
        with await in_thread(made.connect) as client:
            if isinstance(request_, control_messages.GuardThawRequest):
                with pytest.raises(InvalidArgumentError, match="guarded"):
                    await in_thread(lambda: client._ask(request_, [writer] * count))
            else:
                await in_thread(lambda: client._ask(request_, [writer] * count))
            await in_thread(client.thawed)  # which never was guarded
        os.close(writer)
        assert await in_thread(lambda: os.read(reader, 1)) == b""
    os.close(reader)
