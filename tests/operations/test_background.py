"""Work that goes on without its command: what the command hears, and what the work keeps of it."""

import os
import select
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAD = """
import os, signal, sys, time
from pathlib import Path
import msgspec, trio
from volcrypt.errors import KeyNotFoundError
from volcrypt.operations.background import in_background, stoppable

class Result(msgspec.Struct):
    text: str

here = Path(sys.argv[1])
log = here / "log"

def tell(text):
    (here / text).touch()

def tell_pid():
    (here / "new").write_text(str(os.getpid()))
    (here / "new").rename(here / "pid")

def wait_for(name):
    while not (here / name).exists():
        time.sleep(0.01)
"""
TAIL = """
try:
    print(in_background(work).decode(), flush=True)
except KeyboardInterrupt:
    print("interrupted", flush=True)
except Exception as error:
    print(type(error).__name__, error, flush=True)
"""


class Program:
    """A command with work that it does in the background; `here` is where they leave signs."""

    def __init__(self, here: Path, work: str) -> None:
        self.here = here
        self._code = f"{HEAD}\n{work}\n{TAIL}"

    def start(self, **options: object) -> "subprocess.Popen[str]":
        return subprocess.Popen(  # type: ignore[call-overload, no-any-return]
            [sys.executable, "-c", self._code, str(self.here)],
            **{"stdout": subprocess.PIPE, "text": True, "cwd": ROOT} | options,
        )

    def run(self) -> str:
        """What it printed. It ends although the work goes on: its output is not held open."""
        with self.start() as process:
            return process.communicate(timeout=60)[0].strip()

    def wait_for(self, name: str) -> None:
        while not (self.here / name).exists():
            select.select([], [], [], 0.01)

    def pid(self) -> int:
        self.wait_for("pid")
        return int((self.here / "pid").read_text())

    def wait_for_end(self, pid: int) -> None:
        """Of the work, which is nobody's child any more."""
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        assert select.select([descriptor], [], [], 30)[0]
        os.close(descriptor)


def test_the_command_returns_while_the_work_goes_on(tmp_path: Path) -> None:
    program = Program(
        tmp_path,
        """
def work(starter):
    before = os.getcwd(), os.getsid(0)
    starter.go_on(Result(text="begun"), log=log)
    assert os.getsid(0) == os.getpid() != before[1]
    assert os.getcwd() == "/"
    assert not os.isatty(0) and os.read(0, 1) == b""
    print("to nobody", flush=True)
    tell_pid()
    wait_for("go")
    tell("done")
""",
    )
    assert program.run() == '{"text":"begun"}'
    assert not (tmp_path / "done").exists()
    pid = program.pid()
    (tmp_path / "go").touch()
    program.wait_for("done")
    program.wait_for_end(pid)
    assert not (tmp_path / "log").exists()  # nothing went wrong


def test_errors_before_it_goes_on_are_those_of_the_command(tmp_path: Path) -> None:
    raised = [
        ("KeyNotFoundError('no such key')", "KeyNotFoundError no such key"),
        ("OSError(28, 'No space left on device', '/x')", "VolumeError /x: No space left on device"),
        ("ZeroDivisionError()", "VolumeError internal error: ZeroDivisionError"),
        ("KeyboardInterrupt", "interrupted"),
    ]
    for error, said in raised:
        assert Program(tmp_path, f"def work(starter): raise {error}").run() == said
    killed = Program(tmp_path, "def work(starter): os.kill(os.getpid(), signal.SIGKILL)")
    assert "killed before it began" in killed.run()


def test_bugs_afterwards_are_in_the_log(tmp_path: Path) -> None:
    program = Program(
        tmp_path,
        """
def work(starter):
    tell_pid()
    starter.go_on(Result(text="begun"), log=log)
    raise ZeroDivisionError
""",
    )
    assert program.run() == '{"text":"begun"}'
    program.wait_for_end(program.pid())
    assert "ZeroDivisionError" in (tmp_path / "log").read_text()


@pytest.mark.parametrize("loop", [False, True])
def test_sigterm_interrupts_it_wherever_it_is(tmp_path: Path, loop: bool) -> None:
    waiting = "trio.run(trio.sleep_forever)" if loop else "time.sleep(600)"
    program = Program(
        tmp_path,
        f"""
def work(starter):
    starter.go_on(Result(text="begun"), log=log)
    try:
        tell_pid()
        {waiting}
    except KeyboardInterrupt:
        tell("interrupted")
        raise
    finally:
        tell("ended")
""",
    )
    program.run()
    pid = program.pid()
    os.kill(pid, signal.SIGTERM)
    program.wait_for("ended")
    program.wait_for_end(pid)
    assert (tmp_path / "interrupted").exists()
    assert not (tmp_path / "log").exists()


@pytest.mark.parametrize("begin", ['starter.go_on(Result(text="begun"), log=log)', "pass"])
def test_a_shell_that_ignores_interrupts_does_not_make_it_deaf(tmp_path: Path, begin: str) -> None:
    """As `command &` in a script does: neither when it goes on by itself, nor before."""
    program = Program(
        tmp_path,
        f"""
def work(starter):
    {begin}
    try:
        tell_pid()
        time.sleep(600)
    finally:
        tell("ended")
""",
    )
    with program.start(preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)):
        os.kill(program.pid(), signal.SIGTERM)
        program.wait_for("ended")


def test_ctrl_c_before_it_goes_on_ends_both(tmp_path: Path) -> None:
    program = Program(
        tmp_path,
        """
def work(starter):
    try:
        tell_pid()
        time.sleep(600)
    finally:
        tell("ended")
""",
    )
    # Whoever runs the tests may ignore interrupts himself.
    listen = partial(signal.signal, signal.SIGINT, signal.default_int_handler)
    with program.start(start_new_session=True, preexec_fn=listen) as process:
        pid = program.pid()
        os.killpg(process.pid, signal.SIGINT)
        assert process.communicate(timeout=30)[0] == "interrupted\n"
        assert (tmp_path / "ended").exists()
        program.wait_for_end(pid)


def test_work_of_which_nobody_would_know_is_given_up(tmp_path: Path) -> None:
    program = Program(
        tmp_path,
        """
def work(starter):
    tell_pid()
    wait_for("go")
    try:
        starter.go_on(Result(text="begun"), log=log)
    except Exception as error:
        (here / "said").write_text(str(error))
        raise
    tell("done")
""",
    )
    with program.start() as process:
        pid = program.pid()
        process.kill()
    (tmp_path / "go").touch()
    program.wait_for_end(pid)
    assert (tmp_path / "said").read_text() == "the command that began it is gone"
    assert not (tmp_path / "done").exists()


def test_what_others_left_open_is_not_kept_open(tmp_path: Path) -> None:
    """A pipe that a script has open would otherwise not end before the work does."""
    program = Program(
        tmp_path,
        """
def work(starter):
    starter.go_on(Result(text="begun"), log=log)
    tell_pid()
    wait_for("go")
""",
    )
    reading, writing = os.pipe()
    with program.start(pass_fds=[writing]) as process:
        os.close(writing)
        process.communicate(timeout=60)
        assert os.read(reading, 1) == b""
    os.close(reading)
    (tmp_path / "go").touch()
    program.wait_for_end(program.pid())
