"""The control socket of a process that serves a volume: its protocol, and the commands' side.

A Unix socket, mode 0600, that answers processes of its own user and of root (SO_PEERCRED). Each
side sends JSON documents, one a line; every request gets one answer, in order. The member `type`
says which one a document is.

Taking a snapshot: `begin-capture` stops writes to all chunks and answers with what has changed;
the caller reads ciphertext from the data file itself, says with `captured` which chunks may be
written again, and ends with `commit-capture` (the snapshot is complete) or `abort-capture`. The
capture belongs to the connection: when that ends, an open capture is aborted. Its size is the one
in the answer, whatever the volume grows to meanwhile.

No trio here: the commands that speak this are synchronous and should start fast, which is also why
numpy is imported by those alone that look at changes.
"""

import os
import select
import socket
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final, Protocol, Self

import msgspec

from volcrypt.errors import (
    MalformedError,
    MountError,
    PrivilegeError,
    TryAgainError,
    VolumeInUseError,
)
from volcrypt.formats.change_map import ParentPoint
from volcrypt.geometry import chunk_count
from volcrypt.names import VolumeId
from volcrypt.volume.error_report import ErrorReport
from volcrypt.volume.loop import loops_of
from volcrypt.volume.mountpoint import VOLUME_FILE, users_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_REQUEST_BYTES: Final = 64 * 1024
MAX_ANSWER_BYTES: Final = 64 * 2**20

_PEER: Final = struct.Struct("<iII")
_EXIT_SECONDS: Final = 30.0
_STATUS_SECONDS: Final = 5.0


class _Document(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type"
):
    """One line, in either direction."""


class StatusRequest(_Document, frozen=True, tag="status"):
    pass


class BeginCaptureRequest(_Document, frozen=True, tag="begin-capture"):
    pass


class CapturedRequest(_Document, frozen=True, tag="captured"):
    """Chunks `first` to `first + count - 1` are stored, or will not be."""

    first: int
    count: int


class CommitCaptureRequest(_Document, frozen=True, tag="commit-capture"):
    """The snapshot is complete and durable; changes are counted from it now."""

    parent: ParentPoint


class AbortCaptureRequest(_Document, frozen=True, tag="abort-capture"):
    pass


class GrowRequest(_Document, frozen=True, tag="grow"):
    """The volume's record says `size_bytes`, and the data file is as long: serve that much."""

    size_bytes: int


class UnmountRequest(_Document, frozen=True, tag="unmount"):
    """Unmount, flush and end, unless somebody uses the mount."""


class StopRequest(_Document, frozen=True, tag="stop"):
    """Flush, unmount and end, whoever uses the mount: what SIGTERM does."""


Request = (
    StatusRequest
    | BeginCaptureRequest
    | CapturedRequest
    | CommitCaptureRequest
    | AbortCaptureRequest
    | GrowRequest
    | UnmountRequest
    | StopRequest
)


class StatusAnswer(_Document, frozen=True, tag="status"):
    """`memory_locked` False: the limits of this user let key and plaintext go to swap."""

    volume_id: VolumeId
    name: str | None
    pid: int
    size_bytes: int
    mount_directory: str
    read_only: bool
    encrypted: bool
    memory_locked: bool
    capture_running: bool
    parent: ParentPoint | None


class CaptureAnswer(_Document, frozen=True, tag="capture"):
    """`parent` and `changed` are None when every chunk has to be looked at.

    `changed` has one bit a chunk, the lowest of byte 0 first, compressed by zlib.
    """

    size_bytes: int
    parent: ParentPoint | None
    changed: bytes | None


class DoneAnswer(_Document, frozen=True, tag="done"):
    pass


class ErrorAnswer(_Document, frozen=True, tag="error"):
    report: ErrorReport


Answer = StatusAnswer | CaptureAnswer | DoneAnswer | ErrorAnswer

_requests: Final = msgspec.json.Decoder(Request)
_answers: Final = msgspec.json.Decoder(Answer)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CapturedState:
    """A point in time that a snapshot is to store. `changed` is None exactly as `parent`."""

    size_bytes: int
    parent: ParentPoint | None
    changed: "NDArray[np.bool_] | None"


def encode(document: Request | Answer) -> bytes:
    """The line of a document."""
    return msgspec.json.encode(document) + b"\n"


def decode_request(line: bytes) -> Request:
    """Raises MalformedError."""
    try:
        request: Request = _requests.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedError("control request", "it does not parse") from error
    return request


def decode_answer(line: bytes) -> Answer:
    """Raises MalformedError."""
    try:
        answer: Answer = _answers.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedError("control answer", "it does not parse") from error
    return answer


def pack_changes(changed: "NDArray[np.bool_]") -> bytes:
    """A volume of 64 TiB has 16 MiB of bits, nearly all of them alike."""
    import numpy as np

    return zlib.compress(np.packbits(changed, bitorder="little").tobytes(), level=1)


def unpack_changes(packed: bytes, size_bytes: int) -> "NDArray[np.bool_]":
    """Raises MalformedError."""
    import numpy as np

    count = chunk_count(size_bytes)
    length = -(-count // 8)
    inflater = zlib.decompressobj()
    try:
        bits = inflater.decompress(packed, length)
    except zlib.error as error:
        raise MalformedError("control answer", "its bitmap is damaged") from error
    if len(bits) != length or inflater.unconsumed_tail:
        raise MalformedError("control answer", "its bitmap has the wrong length")
    flags = np.frombuffer(bits, dtype=np.uint8)
    return np.unpackbits(flags, count=count, bitorder="little").astype(np.bool_)


def listen(path: Path) -> socket.socket:
    """A listening socket at `path`, mode 0600; for the owner of the volume, whose path this is."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        previous = os.umask(0o177)
        try:
            _with_short_path(path, listener.bind)
        finally:
            os.umask(previous)
        listener.listen(16)
    except OSError:
        listener.close()
        raise
    return listener


class Connection(Protocol):
    """What `check_peer` needs of a socket; Python's and trio's have it."""

    def getsockopt(self, level: int, optname: int, buflen: int, /) -> bytes: ...


def check_peer(connection: Connection) -> None:
    """Raises PrivilegeError when the other side is neither our user nor root."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
    _, uid, _ = _PEER.unpack(credentials)
    if uid not in (0, os.geteuid()):
        raise PrivilegeError(f"user {uid} may not control this volume")


class ControlClient:
    """A connection to the process that serves a volume. Close it, or use it with `with`."""

    def __init__(self, path: Path, *, volume: str) -> None:
        """`volume` names it in errors. Raises MountError when no process is there."""
        self._volume = volume
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            _with_short_path(path, self._socket.connect)
        except PermissionError as error:
            self._socket.close()
            raise PrivilegeError(f"volume {volume} is served for another user") from error
        except OSError as error:
            self._socket.close()
            raise MountError(f"volume {volume} is not mounted") from error
        self._file = self._socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Aborts a capture that is open. May be called twice."""
        self._file.close()
        self._socket.close()

    def status(self) -> StatusAnswer:
        """Raises TryAgainError when the process does not answer: it hangs, or was stopped."""
        self._socket.settimeout(_STATUS_SECONDS)
        try:
            answer = self._ask(StatusRequest())
        except TimeoutError as error:
            raise TryAgainError(
                f"the process that serves volume {self._volume} does not answer"
            ) from error
        finally:
            self._socket.settimeout(None)
        assert isinstance(answer, StatusAnswer), "internal error: not the answer to status"
        return answer

    def begin_capture(self) -> CapturedState:
        """Writes wait from here on. Raises TryAgainError when another capture is running, or the
        process does not answer."""
        self.status()
        answer = self._ask(BeginCaptureRequest())
        assert isinstance(answer, CaptureAnswer), "internal error: not the answer to a capture"
        changed = None
        if answer.changed is not None:
            changed = unpack_changes(answer.changed, answer.size_bytes)
        return CapturedState(size_bytes=answer.size_bytes, parent=answer.parent, changed=changed)

    def captured(self, chunks: range) -> None:
        """`chunks`, a run of indexes, are stored or will not be: they may be written again."""
        self._ask(CapturedRequest(first=chunks.start, count=len(chunks)))

    def commit_capture(self, parent: ParentPoint) -> None:
        """The snapshot is complete and durable, and the next one may be counted from it."""
        self._ask(CommitCaptureRequest(parent=parent))

    def abort_capture(self) -> None:
        """There will be no snapshot; what had changed counts as changed."""
        self._ask(AbortCaptureRequest())

    def grow(self, size_bytes: int) -> None:
        """Serve so much; does nothing when it serves that already."""
        self._ask(GrowRequest(size_bytes=size_bytes))

    def unmount(self) -> None:
        """End the process, when nobody uses its mount; returns when it is gone.

        Raises VolumeInUseError that names who uses the mount, TryAgainError when a snapshot is
        running, and what went wrong with writing the last data.
        """
        directory = Path(self.status().mount_directory)
        try:
            self._end(UnmountRequest())
        except TryAgainError as error:
            # Asked here and not in the daemon, which gave up the privilege to look at others.
            loops = loops_of(directory / VOLUME_FILE)
            users = [f"loop device {device}" for device in loops] + users_of(directory)
            if not users:
                raise
            hint = f"volcrypt detach {self._volume}" if loops else "close it there, then try again"
            raise VolumeInUseError(self._volume, ", ".join(users), hint=hint) from error

    def stop(self) -> None:
        """End the process, whoever uses its mount; returns when it is gone."""
        self._end(StopRequest())

    def _end(self, request: UnmountRequest | StopRequest) -> None:
        with _ProcessWatch(self.status().pid) as process:
            self._ask(request)
            if not process.wait(_EXIT_SECONDS):
                raise MountError(f"volume {self._volume} is unmounted, and its process stays")

    def _ask(self, request: Request) -> Answer:
        try:
            self._socket.sendall(encode(request))
            line = self._file.readline(MAX_ANSWER_BYTES)
        except TimeoutError:
            raise
        except OSError as error:
            raise MountError(f"the process of volume {self._volume} does not answer") from error
        if not line.endswith(b"\n"):
            raise MountError(f"the process of volume {self._volume} has ended")
        answer = decode_answer(line)
        if isinstance(answer, ErrorAnswer):
            raise answer.report.error()
        return answer


class _ProcessWatch:
    """Waits for a process that need not be a child of ours (pidfd_open(2))."""

    def __init__(self, pid: int) -> None:
        self._descriptor = os.pidfd_open(pid)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def wait(self, timeout_seconds: float) -> bool:
        return bool(select.select([self._descriptor], [], [], timeout_seconds)[0])


def _with_short_path(path: Path, use: Callable[[str], None]) -> None:
    """Call `use` with a name of `path` that fits into the 108 bytes of a socket address."""
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        use(f"/proc/self/fd/{directory}/{path.name}")
    finally:
        os.close(directory)
