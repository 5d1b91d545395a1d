"""Work that outlives its command: a child that begins at the terminal and goes on without it.

The child is forked before the command has opened anything or started a thread, and does all of it:
it asks for a PIN and complains like the command that it was. When there is something to show for
it, `Starter.go_on` sends that to the command, which prints it and ends; until then every error is
the command's own, with its exit code. From then on the child is on its own: in a session of its
own, without a terminal, in no directory that somebody may want to unmount, and its complaints go to
a log.

SIGTERM ends it as Ctrl-C would: what it holds is given back.
"""

import fcntl
import logging
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import msgspec

from volcrypt.confinement import forbid_dumps, lock_memory
from volcrypt.errors import SnapshotError, VolcryptError, VolumeError
from volcrypt.volume.error_report import ErrorReport

_log: Final = logging.getLogger(__name__)


class _Answer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The one line that the child sends: what `go_on` was given, or why it never came to that."""

    result: bytes | None = None
    error: ErrorReport | None = None
    is_interrupted: bool = False


class Starter:
    """The command that waits to hear that the work goes on by itself."""

    def __init__(self, channel: int) -> None:
        """Takes the descriptor over."""
        self._channel = channel
        self._log: Path | None = None

    @property
    def is_waiting(self) -> bool:
        return self._channel >= 0

    def go_on(self, result: msgspec.Struct, *, log: Path) -> None:
        """Leave session and terminal, and tell the command that all is well.

        Raises SnapshotError when nobody is there to hear it: then nobody would know of the work.
        """
        os.setsid()
        os.chdir("/")
        signal.signal(signal.SIGINT, signal.default_int_handler)
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        errors = os.open(log, flags, 0o600)
        self._log = log
        for number, descriptor in enumerate((null, null, errors)):
            os.dup2(descriptor, number)
        os.close(null)
        os.close(errors)
        try:
            self._send(_Answer(result=msgspec.json.encode(result)))
        except BrokenPipeError as error:
            raise SnapshotError("the command that began it is gone") from error

    def finish(self, result: msgspec.Struct) -> None:
        """Tell the command that all is done: nothing is left to go on with."""
        with suppress(BrokenPipeError):
            self._send(_Answer(result=msgspec.json.encode(result)))

    def fail(self, error: BaseException) -> None:
        """Tell the command why there is nothing."""
        if isinstance(error, KeyboardInterrupt):
            answer = _Answer(is_interrupted=True)
        elif isinstance(error, OSError) and not isinstance(error, VolcryptError):
            answer = _Answer(error=ErrorReport(kind="VolumeError", message=describe(error)))
        else:
            assert isinstance(error, Exception), "internal error: not an error to tell"
            answer = _Answer(error=ErrorReport.of(error))
        with suppress(BrokenPipeError):
            self._send(answer)

    def clear_log(self) -> None:
        """The work is over: keep the log only if something is in it."""
        if self._log is not None and os.fstat(2).st_size == 0:
            self._log.unlink(missing_ok=True)

    def _send(self, answer: _Answer) -> None:
        channel, self._channel = self._channel, -1
        with os.fdopen(channel, "wb") as file:
            file.write(msgspec.json.encode(answer) + b"\n")


def in_background(work: Callable[[Starter], None]) -> bytes:
    """Do `work` in a child; the JSON that it went on with, or the error that it met before.

    To be called by a process with one thread. Raises KeyboardInterrupt when the child was
    interrupted, VolumeError when it was killed.
    """
    ours, theirs = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(ours)
            code = _be_the_child(work, Starter(theirs))
        finally:
            os._exit(code)
    os.close(theirs)
    line = _read_all(ours)
    if not line.endswith(b"\n"):
        os.waitpid(child, 0)
        raise VolumeError("the process that was to do the work was killed before it began")
    answer = msgspec.json.decode(line, type=_Answer)
    if answer.result is not None:
        return answer.result
    os.waitpid(child, 0)
    if answer.error is None:
        raise KeyboardInterrupt
    raise answer.error.error()


def _read_all(descriptor: int) -> bytes:
    """What the child says. Ctrl-C reaches it too, and its answer tells what came of that: here it
    could only make us lose the answer."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        with os.fdopen(descriptor, "rb") as file:
            return file.read()
    finally:
        signal.sigtimedwait({signal.SIGINT}, 0)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _be_the_child(work: Callable[[Starter], None], starter: Starter) -> int:
    _close_foreign_descriptors(keep=starter)
    forbid_dumps()
    lock_memory()
    try:
        with stoppable():
            work(starter)
    except BaseException as error:
        if starter.is_waiting:
            starter.fail(error)
        elif isinstance(error, VolcryptError | KeyboardInterrupt):
            _log.info("failed: %s", describe(error))  # `snapshot list` has it, too
        else:
            _log.exception("the work in the background failed")
        return 1
    finally:
        starter.clear_log()
    return 0


def _close_foreign_descriptors(*, keep: Starter) -> None:
    """What a shell or a service manager left open for its children: they would wait for our end.
    Descriptors of our own are not inherited by programs, and are known by that."""
    for name in os.listdir("/proc/self/fd"):
        descriptor = int(name)
        with suppress(OSError):
            if descriptor > 2 and not fcntl.fcntl(descriptor, fcntl.F_GETFD) & fcntl.FD_CLOEXEC:
                os.close(descriptor)


@contextmanager
def stoppable() -> Iterator[None]:
    """SIGTERM interrupts the block as Ctrl-C would, with KeyboardInterrupt: by way of SIGINT, since
    that is what trio's loop knows to deliver where it harms nothing."""

    def interrupt(_number: int, _frame: object) -> None:
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell starts `command &`
            raise KeyboardInterrupt
        signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def describe(error: BaseException) -> str:
    """Why something failed, in one line for people."""
    if isinstance(error, KeyboardInterrupt):
        return "it was stopped"
    if isinstance(error, OSError) and not isinstance(error, VolcryptError):
        where = f"{error.filename}: " if error.filename is not None else ""
        return f"{where}{error.strerror or error}"
    if isinstance(error, VolcryptError):
        return str(error)
    return f"internal error: {type(error).__name__}"
