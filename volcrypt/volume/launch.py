"""Starting the process that serves a volume, and handing it the keys.

What goes over a socket pair, from the command that unwrapped the key to the new process:

    LENGTH          4 bytes, big-endian, of
    ASSIGNMENT      JSON, members of Assignment
    DATA KEY        64 bytes, when `has_data_key`
    SEAL KEY        32 bytes, for the clean copy of the change map
    SOURCE KEY      64 bytes, when `lazy.has_source_key`: what absent chunks are encrypted under
    TARGET KEY      64 bytes, with a `migration`

and one line of JSON comes back, an Answer. So the process never has the PIN of the HSM, and the
keys are never in an argument, the environment or a file.
"""

import os
import socket
import struct
import sys
from pathlib import Path
from typing import Final, Literal, NamedTuple, NoReturn

import msgspec

from volcrypt.crypto.data_key import DATA_KEY_BYTES, DataKey
from volcrypt.errors import MalformedError, VolumeError
from volcrypt.formats.document import MAC_KEY_BYTES
from volcrypt.formats.store_place import StorePlace
from volcrypt.formats.volume_record import LazySource
from volcrypt.names import DataKeyId, SnapshotId, VolumeId
from volcrypt.volume.control_messages import MigrationOrder
from volcrypt.volume.error_report import ErrorReport
from volcrypt.volume.fence import WatchOrder
from volcrypt.volume.kept_mount import DATA, FACTS, FUSE, OWNER, HandedMount
from volcrypt.volume.owner import OwnerLock
from volcrypt.volume.process_start import python_arguments, start_process

DataPlaneKind = Literal["python", "native"]

DAEMON_MODULE: Final = "volcrypt.daemons.volume"

_LENGTH: Final = struct.Struct(">I")
_MAX_BYTES: Final = 64 * 1024
_CHANNEL_FD: Final = 3
_OWNER_FD: Final = 4
_FUSE_FD: Final = 5
_DATA_FD: Final = 6
_FACTS_FD: Final = 7


class Discarding(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What of a volume becomes holes, which show what is free: what is discarded, on `requests` of
    the kernel, which the Python plane never sees; and whole data units of `zeros` that are written.
    """

    requests: bool = False
    zeros: bool = False


NO_DISCARDS: Final = Discarding()


class LazyAssignment(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The snapshot that absent chunks come from. Its store lies at `place`, which was checked, or
    in a directory of the home; `present_path` None: which are here is forgotten with the process.

    `recrypts`: they are not encrypted under the volume's data key; without `has_source_key` then
    not at all.
    """

    source: LazySource
    place: StorePlace | None
    store_directory: str | None
    present_path: str | None
    recrypts: bool
    has_source_key: bool


class MigrationAssignment(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A migration that goes on with this process. `cursor` is what its record says: before it all
    was copied, for good, but where write intents are set."""

    order: MigrationOrder
    cursor: int


class Assignment(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one process is to serve. All paths are absolute.

    `volume_directory` holds the owner lock and the clean change map. The live map, the control
    socket and the log lie on tmpfs, in a directory of this user alone. `count_path` is the file
    that counts what is written under the data key (`volcrypt.volume.write_counter`). With `watch`
    the volume is fenced when one of the checks is lost. `exported`: others may write to the data
    while we do not, so no change map is believed.

    `data_plane`: whether compiled threads answer what they can (`volcrypt.volume.plane`).
    `discards`: what becomes holes; of a `preallocated` volume the room is kept.

    `kms_key_arn` is the KMS key that wraps the data key, to be named in the log.
    `keeper` is the address of a service manager that keeps the mount when the process ends unasked
    (`volcrypt.volume.kept_mount`); `lease_epoch` that of the volume's lease, for the next process.

    A volume with a `snapshot_id` is that snapshot, served by itself: its data file is removed as
    soon as it is open.

    `data_key_id` is None for an unencrypted volume. Where the files of a `migration` do not fit it,
    the volume is served without.
    """

    volume_id: VolumeId
    name: str | None
    size_bytes: int
    data_path: str
    read_only: bool
    has_data_key: bool
    volume_directory: str
    mount_directory: str
    live_map_path: str
    socket_path: str
    log_path: str
    count_path: str | None = None
    watch: WatchOrder | None = None
    exported: bool = False
    lazy: LazyAssignment | None = None
    snapshot_id: SnapshotId | None = None
    data_plane: DataPlaneKind = "native"
    discards: Discarding = NO_DISCARDS
    preallocated: bool = False
    kms_key_arn: str | None = None
    data_key_id: DataKeyId | None = None
    migration: MigrationAssignment | None = None
    keeper: str | None = None
    lease_epoch: int | None = None

    @property
    def label(self) -> str:
        """What people call the volume."""
        return self.name or self.volume_id


class Answer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Either the volume is served by process `pid` and its first read worked, or `error`."""

    pid: int
    error: ErrorReport | None = None


def spawn_daemon(
    assignment: Assignment,
    data_key: DataKey | None,
    seal_key: bytearray,
    owner: OwnerLock,
    source_key: DataKey | None = None,
    target_key: DataKey | None = None,
    *,
    reports: bool = False,
    handed: HandedMount | None = None,
) -> int:
    """Serve a volume in a process of its own; its pid, once the first read has worked. With
    `handed` it takes that mount over, and makes none.

    The process adopts `owner`, which the caller holds and afterwards lets go; so nothing can have
    happened to the volume since the caller looked at it.
    It gets a session of its own and writes what goes wrong later to the log. That it is ready it
    does not say to systemd: whoever calls this knows what else has to be. With `reports` it says
    all else, once the caller has made it the main process and has ended.
    Raises the error that the process met, with nothing left behind.
    """
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            pid = _start(assignment, theirs, owner, handed, reports=reports)
        try:
            _send(ours, assignment, data_key, seal_key, source_key, target_key)
            line = _receive_line(ours)
            if reports:
                ours.dup().detach()  # open until this process ends, which the other waits for
        except OSError:
            line = b""
    if line:
        answer = msgspec.json.decode(line, type=Answer)
        if answer.error is None:
            return answer.pid
    _reap(pid)
    if not line:
        raise VolumeError(
            f"the process that was to serve volume {assignment.label} ended before it was ready",
            hint=f"see {assignment.log_path}",
        )
    assert answer.error is not None
    raise answer.error.error()


def exec_daemon(
    assignment: Assignment,
    data_key: DataKey | None,
    seal_key: bytearray,
    owner: OwnerLock,
    source_key: DataKey | None = None,
    target_key: DataKey | None = None,
) -> NoReturn:
    """Become the process that serves the volume, in the foreground: same pid, same terminal.

    Nothing of the caller stays in memory. Errors go to standard error, and the exit code is 1.
    """
    ours, theirs = socket.socketpair()
    _send(ours, assignment, data_key, seal_key, source_key, target_key)
    theirs.set_inheritable(True)
    os.set_inheritable(owner.descriptor, True)
    arguments = [*_arguments(theirs.fileno(), owner.descriptor), "--foreground"]
    command = python_arguments(DAEMON_MODULE, arguments)
    os.execve(sys.executable, command, _environment())  # noqa: S606 - there is no shell


def handed_mount(owner: int) -> HandedMount:
    """The other end, of a process that is to take a mount over. Raises FormatError."""
    descriptors = {FUSE: _FUSE_FD, OWNER: owner, DATA: _DATA_FD, FACTS: _FACTS_FD}
    for descriptor in descriptors.values():
        os.set_inheritable(descriptor, False)
    handed = HandedMount.find(descriptors)
    assert handed is not None, "internal error: nothing was handed on"
    return handed


class Received(NamedTuple):
    """What a process that serves a volume begins with; it wipes the keys."""

    assignment: Assignment
    data_key: DataKey | None
    seal_key: bytearray
    source_key: DataKey | None
    target_key: DataKey | None


def receive_assignment(channel: socket.socket) -> Received:
    """The other end. Raises MalformedError when something else comes."""
    (length,) = _LENGTH.unpack(_receive_exactly(channel, _LENGTH.size))
    if length > _MAX_BYTES:
        raise MalformedError("assignment", "too long")
    try:
        assignment = msgspec.json.decode(_receive_exactly(channel, length), type=Assignment)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedError("assignment", "it does not parse") from error
    data_key = None
    if assignment.has_data_key:
        data_key = DataKey(_receive_exactly(channel, DATA_KEY_BYTES))
    seal_key = _receive_exactly(channel, MAC_KEY_BYTES)
    source_key = None
    if assignment.lazy is not None and assignment.lazy.has_source_key:
        source_key = DataKey(_receive_exactly(channel, DATA_KEY_BYTES))
    target_key = None
    if assignment.migration is not None:
        target_key = DataKey(_receive_exactly(channel, DATA_KEY_BYTES))
    return Received(assignment, data_key, seal_key, source_key, target_key)


def send_answer(channel: socket.socket, answer: Answer) -> None:
    """Raises OSError when whoever asked is gone."""
    channel.sendall(msgspec.json.encode(answer) + b"\n")


def _start(
    assignment: Assignment,
    channel: socket.socket,
    owner: OwnerLock,
    handed: HandedMount | None,
    *,
    reports: bool,
) -> int:
    descriptors = {_CHANNEL_FD: channel.fileno(), _OWNER_FD: owner.descriptor}
    arguments = _arguments(_CHANNEL_FD, _OWNER_FD)
    if handed is not None:
        descriptors |= {_FUSE_FD: handed.fuse, _DATA_FD: handed.data, _FACTS_FD: handed.facts}
        arguments.append("--take-over")
    environment = _environment()
    if not reports:
        environment.pop("NOTIFY_SOCKET", None)
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        environment.pop(name, None)
    log = os.open(assignment.log_path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        return start_process(
            DAEMON_MODULE,
            arguments,
            environment=environment,
            descriptors=descriptors,
            errors=log,
        )
    finally:
        os.close(log)


def _arguments(channel: int, owner: int) -> list[str]:
    return [f"--assignment-fd={channel}", f"--owner-fd={owner}"]


def _environment() -> dict[str, str]:
    # A pool of threads that numpy never needs here would keep the capabilities that we drop.
    return {**os.environ, "OPENBLAS_NUM_THREADS": "1"}


def _send(
    channel: socket.socket,
    assignment: Assignment,
    data_key: DataKey | None,
    seal_key: bytearray,
    source_key: DataKey | None,
    target_key: DataKey | None,
) -> None:
    has_source_key = assignment.lazy is not None and assignment.lazy.has_source_key
    assert assignment.has_data_key == (data_key is not None), "internal error: key and flag differ"
    assert has_source_key == (source_key is not None), "internal error: key and flag differ"
    has_target_key = assignment.migration is not None
    assert has_target_key == (target_key is not None), "internal error: key and migration differ"
    document = msgspec.json.encode(assignment)
    channel.sendall(_LENGTH.pack(len(document)) + document)
    if data_key is not None:
        channel.sendall(data_key.view())
    channel.sendall(seal_key)
    if source_key is not None:
        channel.sendall(source_key.view())
    if target_key is not None:
        channel.sendall(target_key.view())


def _receive_exactly(channel: socket.socket, length: int) -> bytearray:
    # Into one buffer that is wiped where it held a key: no copy of it stays in the allocator.
    buffer = bytearray(length)
    view = memoryview(buffer)
    while view:
        count = channel.recv_into(view)
        if count == 0:
            raise MalformedError("assignment", "it was cut short")
        view = view[count:]
    return buffer


def _receive_line(channel: socket.socket) -> bytes:
    with channel.makefile("rb") as file:
        return file.readline()


def _reap(pid: int) -> None:
    try:
        os.waitpid(pid, 0)
    except ChildProcessError:
        return  # somebody else waits for our children


def clear_log(assignment: Assignment) -> None:
    """Drop what a process before this one logged; for the owner of the volume."""
    if Path(assignment.log_path).exists():
        os.truncate(assignment.log_path, 0)


def remove_runtime_files(assignment: Assignment) -> None:
    """What a process that served the volume leaves on tmpfs apart from the live map.

    The log stays when something is in it.
    """
    Path(assignment.socket_path).unlink(missing_ok=True)
    log = Path(assignment.log_path)
    if log.exists() and log.stat().st_size == 0:
        log.unlink()
