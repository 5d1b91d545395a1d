"""The control socket of a process that serves a volume: the commands' side.

A Unix socket, mode 0600, that answers processes of its own user and of root (SO_PEERCRED);
`volcrypt.volume.control_messages` has the protocol.

No trio here: the commands that speak this are synchronous and should start fast, which is also why
numpy is imported by those alone that look at changes.
"""

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from volcrypt.errors import (
    MalformedError,
    MountError,
    PrivilegeError,
    TryAgainError,
    VolumeInUseError,
)
from volcrypt.formats.change_map import ParentPoint
from volcrypt.geometry import chunk_count
from volcrypt.names import DataKeyId
from volcrypt.volume.control_messages import (
    MAX_ANSWER_BYTES,
    AbortCaptureRequest,
    Answer,
    BeginCaptureRequest,
    CaptureAnswer,
    CapturedRequest,
    CommitCaptureRequest,
    ErrorAnswer,
    FetchRequest,
    GrowRequest,
    GuardThawRequest,
    MetricsAnswer,
    MetricsRequest,
    MigrationAnswer,
    MigrationState,
    Request,
    ResumeRequest,
    StatusAnswer,
    StatusRequest,
    StopRequest,
    ThawedRequest,
    UnmountRequest,
    WantedRequest,
    decode_answer,
    encode,
    pack_bits,
    unpack_bits,
)
from volcrypt.volume.control_socket import with_short_path
from volcrypt.volume.loop import loops_of
from volcrypt.volume.mountpoint import VOLUME_FILE, users_of
from volcrypt.volume.preserve import PreservedReader
from volcrypt.volume.process_watch import ProcessWatch

if TYPE_CHECKING:
    from volcrypt.chunk_set import ChunkSet

_RECEIVE_BYTES: Final = 64 * 1024
_MAX_DESCRIPTORS: Final = 16
_EXIT_SECONDS: Final = 30.0
_STATUS_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CapturedState:
    """A point in time that a snapshot is to store. `changed` is None exactly as `parent`; `absent`
    are chunks to be fetched, None when there are none. `preserved` is closed with the connection.
    `data_key_id` is what the chunks are encrypted under, None for nothing.
    """

    size_bytes: int
    parent: ParentPoint | None
    changed: "ChunkSet | None"
    absent: "ChunkSet | None"
    barrier_us: int
    preserved: PreservedReader
    data_key_id: DataKeyId | None


class ControlClient:
    """A connection to the process that serves a volume. Close it, or use it with `with`."""

    def __init__(self, path: Path, *, volume: str) -> None:
        """`volume` names it in errors. Raises MountError when no process is there."""
        self._volume = volume
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            with_short_path(path, self._socket.connect)
        except PermissionError as error:
            self._socket.close()
            raise PrivilegeError(f"volume {volume} is served for another user") from error
        except OSError as error:
            self._socket.close()
            raise MountError(f"volume {volume} is not mounted") from error
        self._received = bytearray()
        self._descriptors: list[int] = []
        self._preserved: PreservedReader | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Aborts a capture that is open. May be called twice."""
        self._socket.close()
        self._take_preserved().close()

    def status(self) -> StatusAnswer:
        """Raises TryAgainError when the process does not answer: it hangs, or was stopped."""
        answer = self._ask_soon(StatusRequest())
        assert isinstance(answer, StatusAnswer), "internal error: not the answer to status"
        return answer

    def metrics(self) -> MetricsAnswer:
        """Raises TryAgainError when the process does not answer."""
        answer = self._ask_soon(MetricsRequest())
        assert isinstance(answer, MetricsAnswer), "internal error: not the answer to metrics"
        return answer

    def begin_capture(self) -> CapturedState:
        """A point in time. Raises TryAgainError when another capture is running, or the process
        does not answer."""
        self.status()
        return self._captured_state(self._ask(BeginCaptureRequest()))

    def hold_capture(self) -> None:
        """Begin a capture and keep all writes waiting until `resume_capture`, which must come soon;
        so ask for the `status` before. Raises TryAgainError when another capture is running."""
        self._ask(BeginCaptureRequest(hold=True))

    def resume_capture(self) -> CapturedState:
        """Raises TryAgainError when it comes too late."""
        return self._captured_state(self._ask(ResumeRequest()))

    def wanted(self, wanted: "ChunkSet") -> None:
        """No other chunks will be read. Raises what made the capture fail."""
        self._ask(WantedRequest(bitmap=pack_bits(wanted.packed())))

    def captured(self, chunks: range) -> None:
        """`chunks`, a run of indexes, were read, and will not be read again. Raises what made the
        capture fail: then what was read may be anything."""
        self._ask(CapturedRequest(first=chunks.start, count=len(chunks)))

    def commit_capture(self, parent: ParentPoint) -> None:
        """The snapshot is complete and durable, and the next one may be counted from it."""
        self._ask(CommitCaptureRequest(parent=parent))

    def abort_capture(self) -> None:
        """There will be no snapshot; what had changed counts as changed."""
        self._ask(AbortCaptureRequest())

    def fetch(self, chunks: range) -> None:
        """Returns when `chunks` can be read from the data file of a lazy volume. Raises why one of
        them cannot be had."""
        self._ask(FetchRequest(first=chunks.start, count=len(chunks)))

    def guard_thaw(self, directory: int, freezer: int, seconds: float) -> None:
        """Have the file system of `directory` thawed when `seconds` are over, or when this
        connection ends without `thawed` and the process of the pidfd `freezer` has ended, too.
        Raises TryAgainError when nobody answers."""
        self._ask_soon(GuardThawRequest(seconds=seconds), [directory, freezer])

    def thawed(self) -> None:
        """It is, or never was frozen."""
        self._ask_soon(ThawedRequest())

    def _ask_soon(self, request: Request, descriptors: Sequence[int] = ()) -> Answer:
        self._socket.settimeout(_STATUS_SECONDS)
        try:
            return self._ask(request, descriptors)
        except TimeoutError as error:
            raise TryAgainError(
                f"the process that serves volume {self._volume} does not answer"
            ) from error
        finally:
            self._socket.settimeout(None)

    def grow(self, size_bytes: int) -> None:
        """Serve so much; does nothing when it serves that already."""
        self._ask(GrowRequest(size_bytes=size_bytes))

    def unmount(self) -> None:
        """End the process, when nobody uses its mount; returns when it is gone.

        Raises VolumeInUseError that names who uses the mount, TryAgainError when a snapshot is
        running, and what went wrong with writing the last data.
        """
        status = self.status()
        directory = Path(status.mount_directory)
        try:
            self._end(UnmountRequest())
        except TryAgainError as error:
            # Asked here and not in the daemon, which gave up the privilege to look at others.
            loops = loops_of(directory / VOLUME_FILE)
            users = [f"loop device {device}" for device in loops] + users_of(directory)
            if not users:
                raise
            hint = f"volcrypt detach {self._volume}" if loops else "close it there, then try again"
            kind = "volume" if status.snapshot_id is None else "snapshot"
            raise VolumeInUseError(self._volume, ", ".join(users), hint=hint, kind=kind) from error

    def stop(self) -> None:
        """End the process, whoever uses its mount; returns when it is gone."""
        self._end(StopRequest())

    def _end(self, request: UnmountRequest | StopRequest) -> None:
        with ProcessWatch(self.status().pid) as process:
            self._ask(request)
            if not process.wait(_EXIT_SECONDS):
                raise MountError(f"volume {self._volume} is unmounted, and its process stays")

    def _captured_state(self, answer: Answer) -> CapturedState:
        from volcrypt.chunk_set import ChunkSet

        assert isinstance(answer, CaptureAnswer), "internal error: not the answer to a capture"

        def unpack(packed: bytes | None) -> ChunkSet | None:
            if packed is None:
                return None
            bits = unpack_bits(packed, answer.size_bytes)
            return ChunkSet.of_packed(bits, chunk_count(answer.size_bytes))

        return CapturedState(
            size_bytes=answer.size_bytes,
            parent=answer.parent,
            changed=unpack(answer.changed),
            absent=unpack(answer.absent),
            barrier_us=answer.barrier_us,
            preserved=self._take_preserved(),
            data_key_id=answer.data_key_id,
        )

    def ask_migration(
        self, request: Request, descriptors: Sequence[int] = ()
    ) -> MigrationState | None:
        """For `volcrypt.volume.control_migration`."""
        answer = self._ask(request, descriptors)
        assert isinstance(answer, MigrationAnswer), "internal error: not the answer to a migration"
        return answer.state

    def _ask(self, request: Request, descriptors: Sequence[int] = ()) -> Answer:
        try:
            line = encode(request)
            if descriptors:
                line = line[socket.send_fds(self._socket, [line], list(descriptors)) :]
            self._socket.sendall(line)
            line = self._receive_line()
        except TimeoutError:
            raise
        except (ConnectionResetError, BrokenPipeError) as error:
            raise MountError(f"the process of volume {self._volume} has ended") from error
        except OSError as error:
            raise MountError(f"the process of volume {self._volume} does not answer") from error
        answer = decode_answer(line)
        if isinstance(answer, ErrorAnswer):
            raise answer.report.error()
        return answer

    def _receive_line(self) -> bytes:
        searched = 0
        while (end := self._received.find(b"\n", searched)) < 0:
            searched = len(self._received)
            if searched > MAX_ANSWER_BYTES:
                raise MalformedError("control answer", "too long")
            data, descriptors, _flags, _address = socket.recv_fds(
                self._socket, _RECEIVE_BYTES, _MAX_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC
            )
            self._descriptors += descriptors
            if not data:
                raise MountError(f"the process of volume {self._volume} has ended")
            self._received += data
        line = bytes(self._received[: end + 1])
        del self._received[: end + 1]
        return line

    def _take_preserved(self) -> PreservedReader:
        """A reader of the files that came; the one before it is closed."""
        if self._preserved is not None:
            self._preserved.close()
        self._preserved = PreservedReader(self._descriptors)
        self._descriptors.clear()
        return self._preserved
