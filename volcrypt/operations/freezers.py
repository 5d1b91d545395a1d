"""Freezing file systems for the moment of a snapshot (FIFREEZE, ioctl_fifreeze(2)).

Each is frozen by a process of its own, which thaws it when it is told to, when we are gone, and
when its deadline comes (`volcrypt.daemons.freezer`). A thread of ours looks after these processes:
where one is killed it thaws, and where one is stopped or stuck it kills it half a second after the
deadline, and thaws. For the case that we are killed together with them the process that serves a
volume below knows of it (`volume.thaw_guard`), and, should that be gone too, there is a note on
tmpfs (`operations.freeze_notes`), by which the next command thaws.
"""

import errno
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Final, Self

from volcrypt.errors import (
    InvalidArgumentError,
    MountError,
    PrivilegeError,
    TryAgainError,
    VolcryptError,
)
from volcrypt.names import VolumeId
from volcrypt.operations.freeze_notes import FreezeNote
from volcrypt.volume.control import ControlClient
from volcrypt.volume.freezing import thaw
from volcrypt.volume.process_start import start_process

FREEZER_MODULE: Final = "volcrypt.daemons.freezer"
DEADLINE_SECONDS: Final = 10.0
"""So long a file system is frozen at most, whichever of us is killed or stopped."""
OWN_SECONDS: Final = 0.5
_FREEZER_SECONDS: Final = DEADLINE_SECONDS - 2 * OWN_SECONDS
_SYNC_SECONDS: Final = 300.0
_ANSWER_SECONDS: Final = 60.0
_LOOK_SECONDS: Final = 0.02
_CHANNEL_FD: Final = 3
_DIRECTORY_FD: Final = 4


class Freeze:
    """The file systems at some directories; `volumes` are those whose whole content is on them.

    A context manager: at its end nothing is frozen by us any more, whatever happened. That may take
    until writes get through again, so captures end before.
    """

    def __init__(
        self,
        directories: Sequence[Path],
        volumes: Iterable[VolumeId],
        *,
        notes: Path | None = None,
        guards: Mapping[Path, Path] = MappingProxyType({}),
        seconds: float = _FREEZER_SECONDS,
    ) -> None:
        """`notes` is where it is noted; `guards` the control socket of a volume that each is on;
        `seconds` how long each may be frozen."""
        self.volumes = frozenset(volumes)
        self._directories = directories
        self._notes = notes
        self._guards = guards
        self._seconds = seconds
        self._freezers: list[_Freezer] = []
        self._lookers: list[threading.Thread] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for freezer in self._freezers:
            freezer.close()
        self._look_after()
        for looker in self._lookers:
            looker.join(_ANSWER_SECONDS)
        for freezer in self._freezers:
            freezer.end()
        self._freezers, self._lookers = [], []

    def freeze(self) -> None:
        """Returns when all are frozen. Raises what keeps one from it."""
        for directory in self._directories:
            self._freezers.append(_Freezer(directory, self._seconds))
        # Each step for all before the next: while one still syncs none is frozen.
        for freezer in self._freezers:
            freezer.expect("ready", _SYNC_SECONDS)
        for freezer in self._freezers:
            freezer.prepare(self._notes, self._guards.get(freezer.directory))
        for freezer in self._freezers:
            freezer.tell_freeze()
        self._look_after()
        for freezer in self._freezers:
            freezer.expect("frozen", _ANSWER_SECONDS)

    def begin_thaw(self) -> None:
        """Let go. Raises TryAgainError when one was not kept frozen until now."""
        for freezer in self._freezers:
            freezer.tell("thaw")
        for freezer in self._freezers:
            freezer.expect("thawing", _ANSWER_SECONDS)

    def finish_thaw(self) -> None:
        """Returns when all are thawed. Raises TryAgainError when somebody else had thawed one."""
        for freezer in self._freezers:
            freezer.expect("thawed", _ANSWER_SECONDS)

    def _look_after(self) -> None:
        """Have a thread see to the end of each, which the caller may be late for."""
        for freezer in self._freezers[len(self._lookers) :]:
            looker = threading.Thread(target=freezer.see_off, daemon=True)
            looker.start()
            self._lookers.append(looker)


class _Freezer:
    """The process of one file system, seen from here."""

    def __init__(self, directory: Path, seconds: float) -> None:
        """Raises MountError when the directory cannot be opened or the process not be started."""
        self.directory = directory
        self._channel: socket.socket | None = None
        self._seconds = seconds
        self._note: Path | None = None
        self._guard: ControlClient | None = None
        self._is_told = self._is_gone = False
        self._due: float | None = None
        try:
            self._descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise MountError(f"cannot freeze {directory}: {error.strerror}") from error
        try:
            ours, theirs = socket.socketpair()
            with theirs:
                self._pid = start_process(
                    FREEZER_MODULE,
                    [
                        f"--channel-fd={_CHANNEL_FD}",
                        f"--directory-fd={_DIRECTORY_FD}",
                        f"--seconds={seconds}",
                    ],
                    environment={},
                    descriptors={_CHANNEL_FD: theirs.fileno(), _DIRECTORY_FD: self._descriptor},
                )
        except BaseException:
            os.close(self._descriptor)
            raise
        self._channel = ours

    def prepare(self, notes: Path | None, guard: Path | None) -> None:
        """See to it that it is thawed when both of us are killed: by a note in the directory
        `notes`, and by the process that serves a volume, if it can. Raises NoSpaceError."""
        seconds = self._seconds + 2 * OWN_SECONDS
        if guard is not None:
            with suppress(VolcryptError, OSError):
                self._ask_guard(guard, seconds)
        if notes is not None:
            note = FreezeNote.of(
                self.directory, self._descriptor, [os.getpid(), self._pid], seconds
            )
            self._note = note.write(notes)

    def _ask_guard(self, path: Path, seconds: float) -> None:
        freezer = os.pidfd_open(self._pid)
        try:
            self._guard = ControlClient(path, volume=path.stem)
            self._guard.guard_thaw(self._descriptor, freezer, seconds)
        finally:
            os.close(freezer)

    def tell_freeze(self) -> None:
        self._due = time.monotonic() + self._seconds + OWN_SECONDS
        self._is_told = True  # frozen perhaps, from here on
        self.tell("freeze")

    def tell(self, word: str) -> None:
        assert self._channel is not None, "internal error: its process was ended"
        with suppress(OSError):  # it is gone, as the next answer will say
            self._channel.sendall(f"{word}\n".encode())

    def expect(self, word: str, seconds: float) -> None:
        """Raises what the process reports instead."""
        answer = self._answer(seconds)
        if answer != word:
            raise self._error(answer)

    def close(self) -> None:
        """Nothing more is asked; its process thaws, and ends: soon, or we see to it."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        soon = time.monotonic() + OWN_SECONDS
        self._due = soon if self._due is None else min(self._due, soon)

    def see_off(self) -> None:
        """Return when its process is gone and nothing is frozen by it; overdue, make it so."""
        while True:
            pid, status = os.waitpid(self._pid, os.WNOHANG)
            if pid:
                break
            if self._is_due:
                # Also when it is stopped. What it does in the kernel it ends.
                os.kill(self._pid, signal.SIGKILL)
                self._thaw()
            time.sleep(_LOOK_SECONDS)
        if status:
            self._thaw()
        if self._guard is not None:
            with self._guard, suppress(VolcryptError):
                self._guard.thawed()
        if self._note is not None:
            self._note.unlink(missing_ok=True)
        self._is_gone = True

    @property
    def _is_due(self) -> bool:
        return self._due is not None and time.monotonic() >= self._due

    def end(self) -> None:
        """Forget it; one that could not be seen off in time still has its thread."""
        if self._is_gone:
            os.close(self._descriptor)

    def _thaw(self) -> None:
        # EINVAL when it is not frozen: its process has done it, or is not that far.
        if self._is_told:
            with suppress(OSError):
                thaw(self._descriptor)

    def _answer(self, seconds: float) -> str:
        """The next line; empty when the process is gone."""
        assert self._channel is not None, "internal error: its process was ended"
        line = bytearray()
        deadline = time.monotonic() + seconds
        while not line.endswith(b"\n"):
            left = max(0.0, deadline - time.monotonic())
            if not select.select([self._channel], [], [], left)[0]:
                raise TryAgainError(f"freezing {self.directory} takes too long")
            try:
                piece = self._channel.recv(1)
            except OSError:
                piece = b""
            if not piece:
                return ""
            line += piece
        return line.decode(errors="replace").strip()

    def _error(self, answer: str) -> VolcryptError:
        where = self.directory
        if answer == "expired" or (not answer and self._is_due):
            return TryAgainError(
                f"{where} could not be kept frozen until the snapshot began: that took longer than "
                "the time after which it is always thawed"
            )
        if answer == "lost":
            return TryAgainError(f"somebody else thawed {where} before the snapshot began")
        if not answer.startswith("error "):
            return TryAgainError(f"the process that was to freeze {where} was killed")
        number = int(answer.split()[1])
        if number == errno.EBUSY:
            return TryAgainError(
                f"{where} is frozen already, by somebody else", hint=f"fsfreeze -u {where}"
            )
        if number == errno.EPERM:
            return PrivilegeError(f"freezing {where} needs root")
        if number in (errno.EOPNOTSUPP, errno.ENOTTY):
            return InvalidArgumentError(f"the file system at {where} cannot be frozen")
        return MountError(f"cannot freeze {where}: {os.strerror(number)}")
