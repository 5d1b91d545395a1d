"""What is frozen for a snapshot, noted on tmpfs: RUNTIME/frozen-PID.json, PID being the freezer's.

A freeze is thawed by the process that freezes, and by the command. When both are killed at once,
as with their cgroup or container, nobody is left who knows of it. So it is noted before, and every
command that opens the home looks for notes of processes that are gone, or whose time is over, and
has what is in them thawed. A freeze of somebody else is never touched: what a note is about is one
file system, by directory, device number and id.

A thaw writes, and so may wait for a volume that hangs: it is done by a process of its own
(`volcrypt.daemons.thaw`), and nobody waits for that for long.
"""

import errno
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

import msgspec

from volcrypt.durable import no_space_named, open_regular, read_fully
from volcrypt.errors import VolcryptError
from volcrypt.volume.lease_time import boot_seconds
from volcrypt.volume.mountpoint import mounts
from volcrypt.volume.owner import start_ticks
from volcrypt.volume.process_start import start_process

THAW_MODULE: Final = "volcrypt.daemons.thaw"
THAWED: Final = 0
NOT_FROZEN: Final = 250
NOT_FOUND: Final = 251
"""Exit codes of it; all others are an errno."""
_PATTERN: Final = "frozen-*.json"
_WAIT_SECONDS: Final = 3.0
_LOOK_SECONDS: Final = 0.01
_MAX_BYTES: Final = 64 * 1024


class FreezeNote(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`until` by `boot_seconds`; `processes` are pids and start ticks of those who thaw."""

    directory: str
    device: int
    file_system: int
    until: float
    processes: list[tuple[int, int]]

    @classmethod
    def of(cls, directory: Path, descriptor: int, pids: Sequence[int], seconds: float) -> Self:
        """Of a file system that is about to be frozen, for `seconds` at most."""
        return cls(
            directory=str(directory),
            device=os.fstat(descriptor).st_dev,
            file_system=os.fstatvfs(descriptor).f_fsid,
            until=boot_seconds() + seconds,
            processes=[(pid, start_ticks(pid) or 0) for pid in pids],
        )

    def write(self, runtime: Path) -> Path:
        """Where it is. Raises NoSpaceError: nothing is frozen that is not noted."""
        path = runtime / f"frozen-{self.processes[-1][0]}.json"
        with no_space_named(path):
            temporary = path.with_name(f".{path.name}.new")
            temporary.write_bytes(msgspec.json.encode(self))
            temporary.replace(path)
        return path

    @property
    def is_overdue(self) -> bool:
        return boot_seconds() >= self.until or not self.is_alive

    @property
    def is_alive(self) -> bool:
        """Whether somebody is there who thaws it, if he is not stopped."""
        return any(start_ticks(pid) == ticks for pid, ticks in self.processes)

    @property
    def places(self) -> list[str]:
        """Where it may be reached: where it was, or where else it is mounted."""
        number = f"{os.major(self.device)}:{os.minor(self.device)}"
        found = [mount.mount_point for mount in mounts() if mount.device == number]
        return list(dict.fromkeys([self.directory, *found]))


def thaw_overdue(runtime: Path) -> list[str]:
    """Thaw what killed or stopped commands of this home left frozen. Never fails: what there is to
    say about each, for people."""
    said = []
    for path, note in _notes(runtime):
        if not note.is_overdue:
            continue
        where = note.directory
        code = _thaw(note)
        if code == THAWED:
            said.append(f"{where} had been left frozen by a snapshot that was killed; it is thawed")
        elif code not in (NOT_FROZEN, NOT_FOUND):
            said.append(_complaint(note, code))
            continue
        if not note.is_alive:
            path.unlink(missing_ok=True)
    return said


def freeze_warnings(runtime: Path) -> list[str]:
    """What is frozen for longer than it should be, and could not be thawed."""
    return [_complaint(note, None) for _, note in _notes(runtime) if note.is_overdue]


def _complaint(note: FreezeNote, code: int | None) -> str:
    why = "" if code is None else ": " + os.strerror(code)
    return (
        f"{note.directory} may still be frozen by a snapshot that was killed or stopped{why}; "
        f"as root: fsfreeze -u {note.directory}"
    )


def _notes(runtime: Path) -> Iterator[tuple[Path, FreezeNote]]:
    for path in sorted(runtime.glob(_PATTERN)):
        with suppress(OSError, VolcryptError, msgspec.DecodeError, ValueError, RecursionError):
            descriptor = open_regular(path, os.O_RDONLY)
            try:
                # One of another user would have us, who may be root, thaw what he names.
                if os.fstat(descriptor).st_uid != os.geteuid():
                    continue
                data = read_fully(descriptor, _MAX_BYTES, 0)
            finally:
                os.close(descriptor)
            yield path, msgspec.json.decode(data, type=FreezeNote)


def _thaw(note: FreezeNote) -> int:
    """THAWED, NOT_FROZEN, NOT_FOUND, or an errno."""
    arguments = [
        f"--device={note.device}",
        f"--file-system={note.file_system}",
        "--",
        *note.places,
    ]
    pid = start_process(THAW_MODULE, arguments, environment={}, descriptors={})
    deadline = time.monotonic() + _WAIT_SECONDS
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(_LOOK_SECONDS)
    return errno.ETIMEDOUT  # it goes on
