"""The power goes under a home while `encrypt --online` or `rekey` is at work and somebody writes to
the volume: what he synced is there after the next mount, and the command given again ends it.

The command is killed before a chosen call, and the file system below the home is shut down at once,
under the process that serves and under the writer. What is read after the cut stays so: nothing
flips at a later switch. The control drops the syncs of who serves, and must lose something.
"""

import random
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.command import Command, disposable_home, kill_and_wait
from tests.crash.kills import Point, points_in_order, run_killed
from tests.crash.writer import Writer
from tests.file_system import DisposableFileSystem, disposable_file_system
from tests.strace import injection, strace

SIZE = 4 * 2**20


class Scene:
    """A home on a file system that loses its power, and a mounted volume `data` in it."""

    def __init__(self, command: Command, disk: DisposableFileSystem, directory: Path) -> None:
        self.command = command
        self.disk = disk
        self.directory = directory
        self.point = directory / "point"
        self.point.mkdir()
        self.content = b""
        self.pid = 0

    @property
    def file(self) -> Path:
        return self.point / "volume"

    @property
    def is_unfinished(self) -> bool:
        return bool(self.command.json("status")["Workflows"])

    @property
    def is_encrypted(self) -> bool:
        return bool(self.command.json("volume", "show", "data")["Encrypted"])

    def create(self, *options: str) -> None:
        self.content = random.Random(1).randbytes(SIZE // 2) + bytes(SIZE // 2)
        source = self.directory / "source"
        source.write_bytes(self.content)
        self.command.run("volume", "import", source, "--name", "data", *options)
        self.mount()

    def mount(self) -> None:
        done = self.command.try_run("mount", "data", self.point)  # may say what is unfinished
        assert done.returncode == 0, done.stderr
        (self.pid,) = self.command.processes()

    def end(self) -> None:
        """Whoever uses the disk, which may be dead, ends, and it is there again."""
        if self.pid:
            kill_and_wait(self.pid)
            self.pid = 0
        subprocess.run(["umount", "--lazy", self.point], check=False, capture_output=True)
        self.disk.come_back()

    def delete(self) -> None:
        self.command.run("unmount", "data")
        self.command.run("volume", "delete", "data")

    def come_back(self) -> None:
        """From a power cut."""
        self.end()
        self.command.forget_runtime()  # on a tmpfs
        self.mount()

    def cut(self, begin: Callable[[], object]) -> int:
        """`begin` under a writer, and the power goes when it returns; how often he had synced. Then
        the volume is what it may be."""
        with Writer(self.file, self.content) as writer:
            begin()
            writer.cut_power(self.disk)
        self.come_back()
        found = self.file.read_bytes()
        writer.check(found)
        self.content = found
        return writer.syncs

    def finish(self, *request: str) -> None:
        """The same command again; nothing flips."""
        self.command.run(*request)
        assert self.file.read_bytes() == self.content
        status = self.command.json("status")
        assert status["Workflows"] == []
        assert status["Volumes"]["Damaged"] == []
        left = {path.name for path in self.command.home.glob("volumes/*/*")}
        assert left - {"owner", "record", "record.spare", "grant", "change-map"} == {"data"}

    def check_next_mount(self) -> None:
        self.command.run("unmount", "data")
        self.mount()
        assert self.file.read_bytes() == self.content
        assert self.is_encrypted


@contextmanager
def scene_on(kind: str, directory: Path) -> Iterator[Scene]:
    with ExitStack() as stack:
        size = {"ext4": 64, "xfs": 320}[kind] * 2**20
        (directory / "disk").mkdir()
        disk = stack.enter_context(
            disposable_file_system(directory / "disk", kind=kind, size_bytes=size)
        )
        command = stack.enter_context(disposable_home(disk.directory / "home"))
        command.run("init")
        command.run("snapshot", "list")  # makes the local store
        scene = Scene(command, disk, directory)
        try:
            yield scene
        finally:
            scene.end()


def switch_of(points: list[Point]) -> int:
    """Where the decision is durable: the files are about to change their names."""
    links = [at for at, point in enumerate(points) if point.call in ("link", "linkat")]
    assert len(links) == 1, links
    return links[0]


def test_the_power_goes_when_it_was_just_decided(tmp_path: Path) -> None:
    """And the control: who serves is told that its syncs were done, and loses what it was given."""
    with scene_on("ext4", tmp_path) as scene:
        scene.create()
        points = points_in_order(scene.command, "rekey", "data", log=tmp_path / "log")
        point = points[switch_of(points)]
        assert scene.cut(lambda: run_killed(scene.command, point, "rekey", "data")) > 0
        assert scene.command.json("status")["Workflows"][0]["NextStep"] == "rename"
        scene.finish("rekey", "data")
        scene.check_next_mount()
        with (
            Writer(scene.file, scene.content) as writer,
            strace(scene.pid, *injection("fsync,fdatasync,syncfs", "retval=0")),
        ):
            scene.command.run("rekey", "data")
            writer.await_syncs(writer.syncs + 20)
            writer.cut_power(scene.disk)
        scene.come_back()
        with pytest.raises(AssertionError, match="sector"):
            writer.check(scene.file.read_bytes())
        scene.command.run("unmount", "data")


@pytest.mark.soak
@pytest.mark.parametrize("verb", ["encrypt", "rekey"])
@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_the_power_goes_all_along(tmp_path: Path, kind: str, verb: str) -> None:
    """Before every call around the switch, every sixth elsewhere, and in the middle of anything."""
    with scene_on(kind, tmp_path) as scene:
        is_plain = verb == "encrypt"
        request = [verb, "data", *(["--online"] if is_plain else [])]
        made = ["--unencrypted"] if is_plain else []
        scene.create(*made)
        points = points_in_order(scene.command, *request, log=tmp_path / "log")
        middle = switch_of(points)
        chosen = [at for at in range(len(points)) if at % 6 == 0 or abs(at - middle) <= 20]
        cuts = syncs = 0
        for at in chosen:
            if is_plain:
                scene.delete()
                scene.create(*made)
            point = points[at]
            if at % 4:
                syncs += scene.cut(lambda p=point: run_killed(scene.command, p, *request))  # type: ignore[misc]
            else:  # the command meets the dead disk, at about this point
                seconds = 0.3 + 1.5 * at / len(points)
                begun = scene.command.start(*request)
                syncs += scene.cut(lambda b=begun, s=seconds: b.wait_for(s))  # type: ignore[misc]
                begun.kill()
            cuts += 1
            if not is_plain or scene.is_unfinished or not scene.is_encrypted:
                scene.finish(*request)
            if cuts % 5 == 0:
                scene.check_next_mount()
        scene.check_next_mount()
        scene.command.run("unmount", "data")
        print(f"\n{kind} {verb}: {cuts} cuts of {len(points)} points, {syncs} syncs")
        assert syncs > 10 * cuts
