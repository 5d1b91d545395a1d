"""The `volcrypt` command as a user runs it, on a home of its own that is taken down afterwards."""

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec

from tests.forked import FORKER
from tests.planes import data_plane
from volcrypt.cli.documents import DOCUMENTS, as_aws
from volcrypt.operations.home_directory import runtime_directory
from volcrypt.settings import runtime_root
from volcrypt.volume.owner import start_ticks

VOLCRYPT = Path(sys.executable).with_name("volcrypt")


class Command:
    """Runs `volcrypt --home HOME ...` and says what came of it."""

    def __init__(self, home: Path, *, forked: bool = True) -> None:
        """`forked`: their start is not the point, and may be quick."""
        self.home = home
        self._forked = forked

    @property
    def runtime(self) -> Path:
        return runtime_directory(self.home, runtime_root())

    def try_run(
        self, *arguments: str | Path, stdin: bytes = b"", prefix: tuple[str, ...] = ()
    ) -> subprocess.CompletedProcess[str]:
        """Run to the end, whatever the exit code; `prefix` is a program to run it under. Under
        strace, that is the end of all that the command left behind."""
        arguments = on_data_plane(*arguments)
        text = stdin.decode(errors="surrogateescape")
        if self._forked and prefix[:1] in {(), ("strace",)}:
            words = ["--home", *map(str, (self.home, *arguments))]
            return FORKER.run(words, stdin=text, strace=prefix[1:])
        return subprocess.run(
            [*prefix, VOLCRYPT, "--home", self.home, *arguments],
            check=False,
            capture_output=True,
            input=text,
            text=True,
            errors="surrogateescape",
            timeout=120,
        )

    def run(self, *arguments: str | Path, stdin: bytes = b"") -> str:
        """Standard output of a command that must succeed and must not complain."""
        done = self.try_run(*arguments, stdin=stdin)
        assert done.returncode == 0, f"{arguments}: {done.returncode}\n{done.stdout}{done.stderr}"
        assert "error:" not in done.stderr
        return done.stdout.strip()

    def json(self, *arguments: str | Path) -> Any:
        """The JSON document that a command prints."""
        document = json.loads(self.run("--json", *arguments))
        check_document(arguments, document)
        return document

    def fails(self, code: int, *arguments: str | Path, stdin: bytes = b"") -> str:
        """The complaint of a command that must fail with `code`: one error line, at most one
        hint, no traceback, nothing on standard output."""
        done = self.try_run(*arguments, stdin=stdin)
        assert done.returncode == code, f"{arguments}: {done.returncode}\n{done.stderr}"
        lines = [line for line in done.stderr.splitlines() if line.startswith(("error:", "hint:"))]
        assert [line.split(":")[0] for line in lines] in (["error"], ["error", "hint"]), done.stderr
        assert "Traceback" not in done.stderr
        assert done.stdout == ""
        return done.stderr

    def start(self, *arguments: str | Path) -> "Started":
        """Begin a command and go on."""
        arguments = on_data_plane(*arguments)
        return Started([str(VOLCRYPT), "--home", str(self.home), *map(str, arguments)])

    def kill_processes(self) -> None:
        """Kill (SIGKILL) what serves volumes of this home, or makes snapshots of them, and wait
        until it is gone."""
        self.kill_workers()
        for pid in self.processes():
            kill_and_wait(pid)

    def clear_dead_mount(self, point: Path) -> None:
        """Take away a mount whose process was killed, as a reboot would."""
        subprocess.run(["umount", "--lazy", point], check=True)

    def forget_runtime(self) -> None:
        """What lies on tmpfs does not survive a reboot."""
        shutil.rmtree(self.runtime, ignore_errors=True)

    def kill_workers(self) -> None:
        """Kill (SIGKILL) what makes snapshots in the background, and wait until it is gone."""
        for pid in self.workers():
            _kill(pid)

    def kill_workers_of(self, snapshot: str) -> None:
        """The same, of the one that makes this snapshot."""
        _kill(json.loads((self.runtime / f"{snapshot}.progress").read_bytes())["pid"])

    def workers(self) -> list[int]:
        """The processes that make snapshots; not this one, where a test makes them itself."""
        reports = [json.loads(path.read_bytes()) for path in self.runtime.glob("snap-*.progress")]
        alive = {each["pid"] for each in reports if start_ticks(each["pid"]) == each["start_ticks"]}
        return sorted(alive - {os.getpid()})

    def processes(self) -> list[int]:
        """The processes that serve volumes of this home."""
        found = []
        for owner in self.home.glob("volumes/*/owner"):
            text = owner.read_text(errors="replace")
            if '"purpose":"mount"' in text:
                found.append(int(text.partition('"pid":')[2].partition(",")[0]))
        return found


def check_document(arguments: Sequence[str | Path], document: Any) -> str | None:
    """Fail unless it is what `cli.documents` says that the command prints; the command, None where
    AWS says it."""
    words = [str(each) for each in arguments]
    while words and words[0].startswith("-"):  # options of all commands
        del words[: 2 if words[0] in {"--home", "--profile", "--region"} else 1]
    names = [name for name in DOCUMENTS if words[: len(name.split())] == name.split()]
    if not names:
        assert as_aws(" ".join(words)), words
        return None
    name = max(names, key=len)
    shapes = DOCUMENTS[name].shapes
    for shape in shapes:
        with suppress(msgspec.ValidationError):
            msgspec.convert(document, shape)
            return name
    msgspec.convert(document, shapes[0])
    raise AssertionError  # that has failed above


def on_data_plane(*arguments: str | Path) -> tuple[str | Path, ...]:
    """The arguments of a command that mounts, for the data plane that is tested."""
    verb = next((each for each in arguments if not str(each).startswith("-")), None)
    if verb not in {"mount", "attach"} or "--data-plane" in arguments:
        return arguments
    return (*arguments, "--data-plane", data_plane())


def kill_and_wait(pid: int) -> None:
    """SIGKILL to a process that serves a volume, if it is one still; returns when it is gone."""
    if _is_ours(pid):
        _kill(pid)


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        descriptor = os.pidfd_open(pid)
        os.kill(pid, signal.SIGKILL)
        select.select([descriptor], [], [], 10)
        os.close(descriptor)


class Started:
    """A command that runs beside the test."""

    def __init__(self, arguments: list[str]) -> None:
        self._errors = os.memfd_create("errors")
        weakref.finalize(self, os.close, self._errors)
        self._process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=self._errors)

    @property
    def said(self) -> str:
        """Standard error so far."""
        return os.pread(self._errors, 2**20, 0).decode(errors="replace")

    def interrupt(self) -> None:
        """As `systemctl stop` and `kill` do."""
        self._process.terminate()

    def wait_for(self, seconds: float) -> int | None:
        """Its exit code, or None when it still runs after so long."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


@contextmanager
def disposable_home(home: Path, *, forked: bool = True) -> Iterator[Command]:
    """A command on a home; afterwards nothing that it made outside of it is left."""
    command = Command(home, forked=forked)
    try:
        yield command
    finally:
        _take_down(command)


def _take_down(command: Command) -> None:
    """From the top: file systems on our loop devices, the loop devices, mounts, processes."""
    runtime = str(command.runtime)
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            ours = backing.read_text().startswith(f"{runtime}/")
        except OSError:
            continue
        if ours:
            device = f"/dev/{backing.parts[3]}"
            while (
                subprocess.run(["umount", device], check=False, capture_output=True).returncode == 0
            ):
                pass
            subprocess.run(["losetup", "--detach", device], check=False, capture_output=True)
    command.kill_processes()
    roots = (f"{runtime}/", f"{command.home.parent}/")
    with open("/proc/self/mountinfo") as file:
        points = [line.split(" ")[4] for line in file if "fuse.volcrypt" in line]
    for point in points:
        if point.startswith(roots):
            subprocess.run(["umount", "--lazy", "--force", point], check=False, capture_output=True)
    for link in Path("/dev/volcrypt").glob("*"):
        if link.is_symlink() and not (link.resolve().exists() and _backed(link)):
            link.unlink(missing_ok=True)
    shutil.rmtree(runtime, ignore_errors=True)


def _backed(link: Path) -> bool:
    loop = link.resolve().name.rpartition("p")[0]  # of a partition
    names = (link.resolve().name, loop if loop.startswith("loop") else "")
    return any(Path("/sys/block", name, "loop/backing_file").exists() for name in names)


def _is_ours(pid: int) -> bool:
    try:
        return b"volcrypt" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
