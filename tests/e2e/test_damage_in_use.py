"""Damage to files while processes use them: what those serve is right or an error, they live or end
with a reason, and the next start names the damage where the format promises that.

What happens to files that nobody uses is in `test_damage.py`.
"""

import errno
import json
import os
import random
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.command import VOLCRYPT, Command, disposable_home

MIB = 2**20
SIZE = 2 * MIB
UNIT = 4096
RIGHT = random.Random(7).randbytes(SIZE)


class Used:
    """A home whose volume `data` is mounted, with a snapshot `first` in two stores."""

    def __init__(self, directory: Path) -> None:
        self.command = Command(directory / "home")
        self.point, self.other = directory / "point", directory / "other"
        self.out = directory / "out"
        self.shared = directory / "shared"
        for each in (self.point, self.other):
            each.mkdir()
        run = self.command.run
        run("init")
        (directory / "image").write_bytes(RIGHT)
        run("volume", "import", directory / "image", "--name", "data")
        run("snapshot", "create", "--wait", "data", "--name", "first")
        self.volume = self.command.home / "volumes" / self.id_of("data")

    def id_of(self, name: str) -> str:
        return str(self.command.json("volume", "show", name)["VolumeId"])

    def mount(self) -> None:
        self.command.run("mount", "data", self.point)

    def read(self) -> bytes | None:
        """All of the volume; None when it cannot be read."""
        descriptor = os.open(self.point / "volume", os.O_RDONLY)
        try:
            return b"".join(os.pread(descriptor, MIB, at) for at in range(0, SIZE, MIB))
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            return None
        finally:
            os.close(descriptor)

    def write(self, at: int, data: bytes) -> bool:
        """Whether it is durable."""
        descriptor = os.open(self.point / "volume", os.O_RDWR)
        try:
            os.pwrite(descriptor, data, at)
            os.fsync(descriptor)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            return False
        finally:
            os.close(descriptor)
        return True

    def ask(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        """A command that may fail, but not by a bug."""
        done = self.command.try_run(*words)
        assert "Traceback" not in done.stderr, (words, done.stderr)
        assert "internal error" not in done.stderr, (words, done.stderr)
        return done

    def exported(self, *words: str) -> bytes | str:
        """What comes of it, or the error."""
        done = self.ask(*words, self.out)
        if done.returncode:
            assert done.returncode in (3, 6), done.stderr
            return done.stderr
        content = self.out.read_bytes()
        self.out.unlink()
        return content


@pytest.fixture
def used(tmp_path: Path) -> Iterator[Used]:
    with disposable_home(tmp_path / "home"):
        yield Used(tmp_path)


def damage(path: Path, action: str) -> None:
    right = path.read_bytes()
    match action:
        case "flip":
            with path.open("r+b") as file:
                file.seek(len(right) // 2)
                file.write(bytes([right[len(right) // 2] ^ 4]) if right else b"\4")
        case "cut":
            os.truncate(path, len(right) // 2)
        case "delete":
            path.unlink()
        case "replace":
            path.rename(path.with_name("aside"))
            path.write_bytes(right[::-1])


BYTES = "data file .*(bytes, the volume's record says|missing on disk)"
CASES = [
    ("record", "flip", ""),
    ("record", "delete", ""),
    ("record", "cut", ""),
    ("record", "replace", ""),
    ("record.spare", "flip", ""),
    ("data", "cut", BYTES),
    ("data", "delete", BYTES),
    ("owner", "flip", ""),
    ("owner", "delete", ""),
    ("owner", "cut", ""),
    ("owner", "replace", "owner record of vol-"),
    ("change-map", "flip", ""),
    ("change-map", "delete", ""),
]
QUICK = [("data", "cut")]


@pytest.mark.parametrize(
    ("name", "action", "says"),
    [
        pytest.param(
            *case, marks=() if case[:2] in QUICK else pytest.mark.soak, id="-".join(case[:2])
        )
        for case in CASES
    ],
)
def test_a_mounted_volume(used: Used, name: str, action: str, says: str) -> None:
    used.mount()
    (pid,) = used.command.processes()
    assert used.write(0, RIGHT[:UNIT])
    path = used.volume / name
    if not path.exists():  # the clean change map, while the volume is mounted
        path.touch()
    damage(path, action)

    read = used.read()
    assert read in (None, RIGHT), "wrong data is not served as right"
    assert (read is None) == ((name, action) == ("data", "cut"))
    used.write(UNIT, RIGHT[UNIT : 2 * UNIT])
    assert used.ask("mount", "data", used.other).returncode != 0, "nobody else serves it"
    assert used.ask("status").returncode in (0, 8)
    done = used.ask("snapshot", "create", "--wait", "data", "--name", "second")
    if done.returncode == 0:
        assert used.exported("snapshot", "export", "--yes", "second") == RIGHT
    os.kill(pid, 0)  # it lives
    used.command.run("unmount", "data")
    found = used.exported("volume", "export", "--yes", "data")
    if says:
        assert isinstance(found, str)
        assert re.search(says, found), found
    else:
        assert found == RIGHT
    assert used.exported("snapshot", "export", "--yes", "first") == RIGHT


# ---------------------------------------------------------------- the KMS


@contextmanager
def kms_serve(command: Command) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [VOLCRYPT, "--home", command.home, "--json", "kms", "serve", "--listen", "127.0.0.1:0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        assert json.loads(process.stdout.readline())["Pid"] == process.pid
        yield process
    finally:
        process.terminate()
        _, told = process.communicate(timeout=30)
        assert "Traceback" not in told, told


KMS_CASES = [
    ("kms/catalog.sqlite3", "cut", "catalogue"),
    ("kms/catalog.sqlite3", "delete", "catalogue"),
    ("kms/audit/head", "flip", ""),
    ("kms/audit/head", "delete", "audit"),
    ("kms/audit/audit-000001.jsonl", "flip", "audit"),
    ("kms/audit/audit-000001.jsonl", "cut", "audit"),
    ("kms/token/master", "flip", "token"),
    ("kms/token/master", "delete", "token"),
]
KMS_QUICK = [("kms/catalog.sqlite3", "delete")]


@pytest.mark.parametrize(
    ("name", "action", "says"),
    [
        pytest.param(
            *case, marks=() if case[:2] in KMS_QUICK else pytest.mark.soak, id="-".join(case[:2])
        )
        for case in KMS_CASES
    ],
)
def test_the_kms_while_it_serves(used: Used, name: str, action: str, says: str) -> None:
    with kms_serve(used.command) as process:
        used.command.run("kms", "create-key", "--description", "before")
        damage(used.command.home / name, action)
        for words in (("kms", "create-key"), ("kms", "list-keys"), ("volume", "show", "data")):
            done = used.ask(*words)
            assert done.returncode == 0 or done.stderr.startswith("error:"), done.stderr
        assert process.poll() is None, "it lives, and says what is wrong"
    probe = ("audit", "verify") if "audit" in name else ("kms", "list-keys")
    done = used.ask(*probe)
    # One of the two slots of the head is written anew by the next request.
    assert done.returncode == (6 if says else 0), (done.stdout, done.stderr)
    assert says in done.stderr


# ---------------------------------------------------------------- a store


@pytest.mark.parametrize("name", ["sweeping", "condemned/junk", "pins/junk", "leases/junk"])
@pytest.mark.parametrize("content", [b"junk", b"", b"volcrypt sweeping 1\n{}\n00\n"])
@pytest.mark.soak
def test_what_a_sweep_finds_all(used: Used, name: str, content: bytes) -> None:
    a_sweep_finds(used, name, content)


def test_what_a_sweep_finds(used: Used) -> None:
    a_sweep_finds(used, "sweeping", b"volcrypt sweeping 1\n{}\n00\n")


def a_sweep_finds(used: Used, name: str, content: bytes) -> None:
    """Whatever lies there, no sweep deletes what a snapshot needs."""
    used.command.run("store", "create", "shared", "--url", used.shared.as_uri())
    copy = ("snapshot", "copy", "first", "--store", "shared", "--wait", "--name")
    used.command.run(*copy, "kept")
    used.command.run(*copy, "gone")
    path = used.shared / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    for words in (("snapshot", "delete", "gone"), (*copy, "more"), ("snapshot", "verify", "kept")):
        done = used.ask(*words)
        assert done.returncode in (0, 4, 6), (words, done.stderr)
    assert used.exported("snapshot", "export", "--yes", "kept") == RIGHT
    path.unlink(missing_ok=True)
    used.command.run("snapshot", "verify", "kept")


@pytest.mark.soak
def test_a_snapshot_in_the_background(used: Used) -> None:
    """What it stands on goes away: it fails by name, or what it says is complete is."""
    used.mount()
    used.write(0, RIGHT[:UNIT])
    used.command.run("snapshot", "create", "data", "--name", "slow", "--rate", "1MiB")
    (store,) = used.command.home.glob("stores/local/store")
    damage(store, "flip")
    end = time.monotonic() + 60
    while used.command.workers():
        assert time.monotonic() < end
        time.sleep(0.05)
    assert used.ask("snapshot", "list").returncode == 6
    damage(store, "flip")
    assert used.read() == RIGHT
    found = used.exported("snapshot", "export", "--yes", "slow")
    assert found == RIGHT or isinstance(found, str)
    used.command.run("unmount", "data")
