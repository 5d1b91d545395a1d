"""Damage to the files of long work while it goes on: a migration of a volume in use, a copy of a
snapshot, a volume that is filled from one. What is served meanwhile is right or an error; the work
ends right or says by name what is wrong, and what was good before is good afterwards.

What happens to files that nobody uses is in `test_damage.py`, to those of a mounted volume and a
serving KMS in `test_damage_in_use.py`.
"""

import errno
import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.command import Command, Started, disposable_home

MIB = 2**20
SIZE = 4 * MIB
UNIT = 4096
CHUNK = 2**19
RIGHT = random.Random(5).randbytes(SIZE)
RATE = "2MiB"
ACTIONS = ("flip", "cut", "delete", "replace", "older")


class AtWork:
    """A home, a volume `data`, and work that takes two seconds."""

    def __init__(self, command: Command, directory: Path) -> None:
        self.command = command
        self.directory = directory
        self.point = directory / "point"
        self.point.mkdir()
        (directory / "image").write_bytes(RIGHT)
        self.content = bytearray(RIGHT)
        command.run("init")

    def make(self, *options: str) -> None:
        self.command.run("volume", "import", self.directory / "image", "--name", "data", *options)

    def mount(self, volume: str = "data") -> None:
        done = self.ask("mount", volume, self.point)
        assert done.returncode == 0, done.stderr

    def read(self) -> bytes | None:
        """All of what is mounted, chunk by chunk; None when some of it is an error. What is no
        error is right."""
        whole = True
        descriptor = os.open(self.point / "volume", os.O_RDONLY)
        try:
            for at in range(0, SIZE, CHUNK):
                try:
                    found = os.pread(descriptor, CHUNK, at)
                except OSError as error:
                    if error.errno != errno.EIO:
                        raise
                    whole = False
                else:
                    assert found == self.content[at : at + CHUNK], f"wrong data at {at}"
        finally:
            os.close(descriptor)
        return bytes(self.content) if whole else None

    def write(self, at: int) -> None:
        """A unit, synced; where that is an error, nobody knows what is there."""
        data = os.urandom(UNIT)
        descriptor = os.open(self.point / "volume", os.O_RDWR)
        try:
            os.pwrite(descriptor, data, at)
            os.fsync(descriptor)
            self.content[at : at + UNIT] = data
        finally:
            os.close(descriptor)

    def ask(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        """A command that may fail, but not by a bug."""
        done = self.command.try_run(*words)
        check_told(words, done.stderr)
        return done

    def exported(self, *words: str) -> bytes | str:
        """What comes of it, or the error."""
        out = self.directory / "out"
        done = self.ask(*words, out)
        if done.returncode:
            return done.stderr
        content = out.read_bytes()
        out.unlink()
        return content

    def find(self, pattern: str) -> Path | None:
        return next(iter(sorted(self.command.home.glob(pattern))), None)


def check_told(words: object, told: str) -> None:
    assert "Traceback" not in told, (words, told)
    assert "internal error" not in told, (words, told)


def wait_until(is_there: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not is_there():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.01)


def damage(path: Path, action: str, older: bytes) -> None:
    right = path.read_bytes()
    match action:
        case "flip":
            with path.open("r+b") as file:
                file.seek(100)
                byte = file.read(1)
                file.seek(100)
                file.write(bytes([byte[0] ^ 4]))
        case "cut":
            os.truncate(path, len(right) // 2)
        case "delete":
            path.unlink()
        case "replace":
            path.rename(path.with_name("aside"))
            path.write_bytes(right[::-1])
        case "older":
            path.write_bytes(older)


@pytest.fixture
def work(tmp_path: Path) -> Iterator[AtWork]:
    with disposable_home(tmp_path / "home") as command:
        yield AtWork(command, tmp_path)


# ---------------------------------------------------------------- a migration

MIGRATION = {"target": "volumes/vol-*/data.next", "intents": "volumes/vol-*/intents"}
MIGRATION |= {"record": "work/vol-*.migration"}


NOTICED = "encrypted data is not what it should be|removed or exchanged"
"""The target is compared before it becomes the volume. What is cut off is copied again, or missed;
intents and record are in the memory of who works."""
QUICK = {("encrypt", "target", "flip"), ("rekey", "record", "cut")}


def cases() -> Iterator[object]:
    for verb in ("encrypt", "rekey"):
        for name in MIGRATION:
            for action in ACTIONS:
                case = (verb, name, action)
                marks = () if case in QUICK else pytest.mark.soak
                yield pytest.param(*case, marks=marks, id="-".join(case))


@pytest.mark.parametrize(("verb", "name", "action"), list(cases()))
def test_a_migration(work: AtWork, verb: str, name: str, action: str) -> None:
    driver, request = migrating(work, verb, name, action)
    try:
        for at in (SIZE // 2, SIZE - UNIT):
            work.write(at)
        code = driver.wait_for(120)
        assert code is not None, "it hangs"
    finally:
        driver.kill()
    check_told(request, driver.said)
    assert code in (0, 6), driver.said
    assert work.read() is not None
    if name == "target" and action != "cut":
        assert code == 6, "nothing was noticed"
    if code:
        assert re.search(NOTICED, driver.said), driver.said
    check_after(work, verb, is_done=code == 0)


@pytest.mark.soak
@pytest.mark.parametrize("verb", ["encrypt", "rekey"])
@pytest.mark.parametrize("name", MIGRATION)
@pytest.mark.parametrize("action", ACTIONS)
def test_a_migration_that_is_killed(work: AtWork, verb: str, name: str, action: str) -> None:
    """Who works has nothing in memory: the next start reads what was damaged."""
    driver, request = migrating(work, verb, name, action)
    driver.kill()
    work.command.kill_processes()
    work.command.clear_dead_mount(work.point)
    done = work.ask("mount", "data", work.point)
    if done.returncode:
        assert re.search("migration|data.next|intents", done.stderr), done.stderr
    else:
        assert work.read() is not None
    done = work.ask(*request[:-2])
    if done.returncode:
        assert re.search(f"{NOTICED}|migration|workflow", done.stderr), done.stderr
    if os.path.ismount(work.point):
        assert work.read() is not None
    check_after(work, verb, is_done=done.returncode == 0)


def migrating(work: AtWork, verb: str, name: str, action: str) -> tuple[Started, list[str]]:
    """Work that goes on, and one of its files is damaged."""
    work.make(*(["--unencrypted"] if verb == "encrypt" else []))
    work.mount()
    request = [verb, "data", *(["--online"] if verb == "encrypt" else []), "--rate", RATE]
    driver = work.command.start(*request)
    try:
        older = begun(work, name)
        work.write(SIZE - 2 * UNIT)
        path = work.find(MIGRATION[name])
        assert path is not None
        damage(path, action, older)
    except BaseException:
        driver.kill()
        raise
    return driver, request


def check_after(work: AtWork, verb: str, *, is_done: bool) -> None:
    """Given up where it is not done, the volume is what it was, with what was written since."""
    if not is_done:
        done = work.ask("encrypt", "data", "--abort")
        assert done.returncode == 0, done.stderr
    if os.path.ismount(work.point):
        assert work.read() is not None
        work.command.run("unmount", "data")
    assert work.exported("volume", "export", "--yes", "data") == bytes(work.content)
    if verb == "encrypt":
        assert work.command.json("volume", "show", "data")["Encrypted"] == is_done


def begun(work: AtWork, name: str) -> bytes:
    """Wait until there is something to lose; the first that the file was."""
    wait_until(lambda: all(work.find(pattern) for pattern in MIGRATION.values()))
    path, target = work.find(MIGRATION[name]), work.find(MIGRATION["target"])
    assert path is not None
    assert target is not None
    older = path.read_bytes()
    wait_until(lambda: target.stat().st_blocks * 512 >= CHUNK)
    return older


# ---------------------------------------------------------------- a copy of a snapshot

STORE = "stores/local"
COPY = {
    "cursor": "work/snap-*.copy",
    "job": "jobs/snap-*",
    "chunk": f"{STORE}/chunks/*/*",
    "manifest": f"{STORE}/manifests/*",
}


@pytest.mark.parametrize(
    ("name", "action"),
    [
        pytest.param(
            name,
            action,
            marks=() if (name, action) == ("chunk", "flip") else pytest.mark.soak,
            id=f"{name}-{action}",
        )
        for name in COPY
        for action in ACTIONS[:4]
    ],
)
def test_a_copy(work: AtWork, name: str, action: str) -> None:
    """Its process is stopped meanwhile, wherever it is: what it has read by then is right."""
    work.make()
    run = work.command.run
    run("snapshot", "create", "--wait", "data", "--name", "first")
    key = run("kms", "create-key")
    sources = sorted(work.command.home.glob(COPY[name])) if name in {"chunk", "manifest"} else []
    run("snapshot", "copy", "first", "--name", "second", "--kms-key-id", key)
    workers = work.command.workers()
    for pid in workers:
        os.kill(pid, signal.SIGSTOP)
    sources = sources or sorted(work.command.home.glob(COPY[name]))
    kept = {path: path.read_bytes() for path in sources}
    for path in sources:
        damage(path, action, b"")
    for pid in workers:
        os.kill(pid, signal.SIGCONT)
    wait_until(lambda: not work.command.workers())
    other = run("kms", "create-key")  # nothing of the other copy is of use for this one
    again = work.ask(
        "snapshot", "copy", "first", "--name", "third", "--kms-key-id", other, "--wait"
    )
    copied = work.exported("snapshot", "export", "--yes", "second")
    if name in {"chunk", "manifest"}:
        assert isinstance(copied, str) or copied == RIGHT, "what is damaged was copied"
        assert again.returncode in (3, 6), again.stderr
        for path, content in kept.items():
            path.write_bytes(content)
    else:
        assert again.returncode == 0, again.stderr
        assert isinstance(copied, str) or copied == RIGHT
    assert work.exported("snapshot", "export", "--yes", "first") == RIGHT
    third = work.exported("snapshot", "export", "--yes", "third")
    assert third == RIGHT or (isinstance(third, str) and again.returncode)


# ---------------------------------------------------------------- a volume that is being filled

FILL = {
    "present": "volumes/*/present",
    "chunk": f"{STORE}/chunks/*/*",
    "manifest": f"{STORE}/manifests/*",
}


@pytest.mark.parametrize(
    ("name", "action"),
    [
        pytest.param(
            name,
            action,
            marks=() if (name, action) == ("chunk", "replace") else pytest.mark.soak,
            id=f"{name}-{action}",
        )
        for name in FILL
        for action in ACTIONS[:4]
    ],
)
def test_a_fill(work: AtWork, name: str, action: str) -> None:
    work.make()
    run = work.command.run
    run("snapshot", "create", "--wait", "data", "--name", "first")
    run("volume", "create", "--snapshot-id", "first", "--name", "lazy", "--fill-rate", "512KiB")
    work.mount("lazy")
    work.write(SIZE - UNIT)
    paths = sorted(work.command.home.glob(FILL[name]))
    assert paths
    kept = {path: path.read_bytes() for path in paths}
    for path in paths:
        damage(path, action, b"")
    served = work.read()
    if name == "chunk":
        assert served is None, "what is damaged was served"
    assert work.ask("status").returncode in (0, 6, 8)
    done = work.ask("unmount", "lazy")
    assert done.returncode == 0, done.stderr
    told = work.exported("volume", "export", "--yes", "lazy")
    if isinstance(told, str):
        assert re.search("present map|chunk|manifest|snapshot", told), told
    else:
        assert told == bytes(work.content), "wrong data is not taken for right"
        assert name != "chunk"
    if name != "present":  # its loss is that of the volume's data
        for path, content in kept.items():
            path.write_bytes(content)
        assert work.exported("volume", "export", "--yes", "lazy") == bytes(work.content)
    assert work.exported("snapshot", "export", "--yes", "first") == RIGHT
