"""`encrypt --online` and `rekey` under a file system and programs that write: nothing that was
synced is lost, whoever is killed."""

import os
import random
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.beside import Beside
from tests.command import Command, Started, disposable_home
from tests.crash.kills import Point, kill_at, points_of

MIB = 2**20
UNIT = 4096
SIZE = 16 * MIB
MARK = b"plaintext here! "


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Command]:
    with disposable_home(tmp_path / "home") as made:
        made.run("init")
        yield made


@pytest.fixture
def point(tmp_path: Path) -> Path:
    (tmp_path / "point").mkdir()
    return tmp_path / "point"


def wait_until(is_there: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not is_there():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)


class Writer(Beside):
    """Writes units at random places of a file, syncs each, and knows what must be read."""

    def __init__(self, path: Path, model: bytearray) -> None:
        super().__init__()
        self.model = model
        self.writes = 0
        self._path = path

    def _work(self) -> None:
        numbers = random.Random(self.writes)
        with open(self._path, "r+b", buffering=0) as file:
            while not self._is_done.is_set():
                offset = numbers.randrange(len(self.model) // 512 - 8) * 512
                text = (MARK + b"%015d " % self.writes) * 128
                file.seek(offset)
                file.write(text)
                self.model[offset : offset + UNIT] = text
                os.fsync(file.fileno())
                self.writes += 1
                file.seek(offset)
                assert file.read(UNIT) == text


def make(command: Command, tmp_path: Path, *options: str) -> bytearray:
    """A volume `data`, half full, and what is in it."""
    model = bytearray(SIZE)
    model[: SIZE // 2] = (MARK + os.urandom(16)) * (SIZE // 64)
    (tmp_path / "image").write_bytes(model)
    command.run("volume", "import", tmp_path / "image", "--name", "data", *options)
    (tmp_path / "image").unlink()
    return model


def files(command: Command) -> set[str]:
    """What lies beside the records."""
    found = {path.name for path in command.home.glob("volumes/*/*")}
    return found - {"owner", "record", "record.spare", "grant", "change-map"}


def holds_plaintext(command: Command) -> bool:
    return any(MARK in path.read_bytes() for path in command.home.rglob("*") if path.is_file())


def migration_file(command: Command) -> Path:
    volume_id = command.json("volume", "show", "data")["VolumeId"]
    return command.home / "work" / f"{volume_id}.migration"


@contextmanager
def running(command: Command, *options: str) -> Iterator[Started]:
    """An encryption online that is at work, and slow."""
    record = migration_file(command)
    begun = command.start("encrypt", "data", "--online", "--rate", "2MiB", *options)
    try:
        wait_until(record.exists)
        wait_until(
            lambda: any(p.stat().st_blocks for p in command.home.glob("volumes/*/data.next"))
        )
        yield begun
    finally:
        begun.kill()


def test_a_volume_in_use_is_encrypted_under_its_writer(
    command: Command, tmp_path: Path, point: Path
) -> None:
    model = make(command, tmp_path, "--unencrypted")
    before = command.json("volume", "show", "data")
    command.run("mount", "data", point)
    assert "--online' while it is in use" in command.fails(4, "encrypt", "data")
    assert holds_plaintext(command), "the control"
    planned = command.json("encrypt", "data", "--online", "--dry-run")
    assert [each["Step"] for each in planned["Steps"]] == ["copy", "verify", "switch", "destroy"]
    with Writer(point / "volume", model) as writer:
        report = command.json("encrypt", "data", "--online")
        count = writer.writes
        wait_until(lambda: writer.writes > count + 5)
    assert (point / "volume").read_bytes() == model
    after = command.json("volume", "show", "data")
    assert (after["VolumeId"], after["Encrypted"]) == (before["VolumeId"], True)
    assert report["InUse"] is True
    assert report["Writes"]["Count"] > 0
    assert report["OldData"][0]["Method"] == "discarded and unlinked"
    assert files(command) == {"data"}
    assert not holds_plaintext(command)
    command.run("unmount", "data")
    command.run("mount", "data", point)
    assert (point / "volume").read_bytes() == model
    assert "encrypted already" in command.fails(2, "encrypt", "data", "--online")
    command.run("unmount", "data")


def test_a_file_system_on_its_loop_device_hears_nothing_of_it(
    command: Command, point: Path
) -> None:
    command.run("volume", "create", "--size", "32MiB", "--unencrypted", "--name", "data")
    attached = command.json("attach", "data", "--mkfs", "ext4", "--mount", point)
    (point / "before").write_bytes(MARK * 2**16)
    with open(point / "log", "wb", buffering=0) as log:
        for number in range(3):
            log.write(MARK * 2**14)
            os.fsync(log.fileno())
            command.run(*(["encrypt", "data", "--online"] if number == 1 else ["volume", "list"]))
    assert (point / "before").read_bytes() == MARK * 2**16
    assert (point / "log").read_bytes() == MARK * (3 * 2**14)
    assert os.path.realpath(attached["Device"]) == attached["Loop"]
    command.run("detach", "data")
    assert not holds_plaintext(command)
    again = command.json("attach", "data", "--mount", point)
    assert again["VolumeId"] == attached["VolumeId"]
    assert (point / "log").read_bytes() == MARK * (3 * 2**14)
    command.run("detach", "data")


def test_a_volume_that_nobody_uses_is_encrypted_in_its_place_and_gets_another_key(
    command: Command, tmp_path: Path
) -> None:
    model = make(command, tmp_path, "--unencrypted")
    before = command.json("volume", "show", "data")
    report = command.json("encrypt", "data", "--online")
    assert report["InUse"] is False
    assert report["VolumeId"] == before["VolumeId"]
    assert not holds_plaintext(command)
    key = command.json("kms", "create-key")["KeyMetadata"]
    rekeyed = command.json("rekey", "data", "--kms-key-id", key["KeyId"])
    assert rekeyed["KmsKeyId"] == key["Arn"]
    assert rekeyed["OldDataKeyId"] == report["DataKeyId"]
    assert command.json("rekey", "data")["KmsKeyId"] == key["Arn"], "the key that it is under"
    assert files(command) == {"data"}
    command.run("volume", "export", "--yes", "data", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == model
    command.run("volume", "create", "--size", "1MiB", "--unencrypted", "--name", "plain")
    assert "is not encrypted" in command.fails(2, "rekey", "plain")


def test_nothing_is_left_of_a_volume_that_was_deleted(command: Command, point: Path) -> None:
    """Who makes many and deletes them again fills no tmpfs."""
    command.run("volume", "create", "--size", "1MiB", "--unencrypted", "--name", "data")
    command.run("mount", "data", point)
    command.run("encrypt", "data", "--online")
    volume_id = command.json("volume", "show", "data")["VolumeId"]
    assert list(command.runtime.glob(f"{volume_id}*")), "the control"
    command.run("unmount", "data")
    command.run("volume", "delete", "--yes", "data")
    assert list(command.runtime.glob(f"{volume_id}*")) == []


def test_a_volume_whose_key_is_lost_is_saved_by_who_has_it_open(
    command: Command, tmp_path: Path, point: Path
) -> None:
    lost = command.json("kms", "create-key")["KeyMetadata"]["KeyId"]
    model = make(command, tmp_path, "--kms-key-id", lost)
    command.run("mount", "data", point)
    command.run("kms", "disable-key", "--key-id", lost)
    command.fails(5, "rekey", "data")
    command.run("rekey", "data", "--kms-key-id", "alias/volcrypt/ebs")
    command.run("unmount", "data")
    command.run("mount", "data", point)
    assert (point / "volume").read_bytes() == model
    command.run("unmount", "data")


def test_it_pauses_goes_on_and_is_given_up(command: Command, tmp_path: Path, point: Path) -> None:
    model = make(command, tmp_path, "--unencrypted")
    command.run("mount", "data", point)
    command.fails(3, "encrypt", "data", "--pause")
    with Writer(point / "volume", model):
        with running(command) as begun:
            assert "a command that encrypts it" in command.fails(4, "encrypt", "data", "--resume")
            (unfinished,) = command.json("status")["Workflows"]
            assert (unfinished["Name"], unfinished["Running"]) == ("data", True)
            (used,) = command.json("status")["InUse"]
            assert used["Migration"]["Rekeys"] is False
            assert used["Migration"]["CopiedChunks"] <= used["Migration"]["Chunks"]
            assert "encryption of data" in command.run("status")
            assert re.search(r"is at work: (copying|comparing) \d+%", command.run("status"))
            command.run("encrypt", "data", "--pause")
            assert begun.wait_for(30) == 7
            assert "encryption of volume data is paused" in begun.said
        (unfinished,) = command.json("status")["Workflows"]
        assert (unfinished["NextStep"], unfinished["Paused"]) == ("copy", True)
        assert "'volcrypt encrypt data --resume' goes on" in command.run("status")
        assert "unfinished run of encrypt" in command.fails(
            4, "volume", "grow", "data", "--size=1GiB"
        )
        command.run("encrypt", "data", "--abort")
    assert files(command) == {"data"}
    assert command.json("status")["Workflows"] == []
    assert command.json("volume", "show", "data")["Encrypted"] is False
    assert (point / "volume").read_bytes() == model
    with Writer(point / "volume", model):
        with running(command) as begun:
            command.run("encrypt", "data", "--abort")
            assert begun.wait_for(30) == 1
            assert "is given up with --abort" in begun.said
        with running(command):
            command.run("encrypt", "data", "--pause")
        assert command.json("encrypt", "data", "--resume")["Runs"] == 2
    assert list(command.runtime.glob("vol-*.driver")) == []
    command.run("unmount", "data")
    assert not holds_plaintext(command)
    command.run("volume", "export", "--yes", "data", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == model


def test_an_interrupted_one_leaves_no_mount_of_its_own(command: Command, tmp_path: Path) -> None:
    make(command, tmp_path, "--unencrypted")
    with running(command) as begun:
        (used,) = command.json("status")["InUse"]
        assert used["MountPoint"].endswith(".work"), "the control"
        begun.interrupt()
        assert begun.wait_for(30) == 130
        assert "the same command goes on" in begun.said
    assert command.json("status")["InUse"] == []
    assert list(command.runtime.glob("vol-*.work")) == []
    with running(command):  # and killed
        wait_until(
            lambda: (
                [each["MountPoint"] for each in command.json("status")["InUse"]] not in ([], [None])
            )
        )
    command.run("encrypt", "data", "--abort")
    assert command.json("status")["InUse"] == []
    assert list(command.runtime.glob("vol-*.*")) == []


def test_whoever_serves_it_is_killed(command: Command, tmp_path: Path, point: Path) -> None:
    model = make(command, tmp_path, "--unencrypted")
    command.run("mount", "data", point)
    with running(command) as begun:
        command.kill_processes()
        assert begun.wait_for(30) == 1
    done = command.try_run("mount", "data", point)
    assert done.returncode == 0, done.stderr
    assert "the encryption of this volume is unfinished" in done.stderr
    assert (point / "volume").read_bytes() == model
    with Writer(point / "volume", model):
        command.run("encrypt", "data", "--resume")
    assert (point / "volume").read_bytes() == model
    command.run("unmount", "data")
    assert not holds_plaintext(command)
    assert files(command) == {"data"}


def run_through_kills(
    command: Command, tmp_path: Path, point: Path, choose: Callable[[list[Point]], list[Point]]
) -> None:
    """The driver killed at each point under a writer, and another to the end."""
    model = make(command, tmp_path)
    command.run("mount", "data", point)
    chosen = choose(points_of(command, "rekey", "data", log=tmp_path / "log"))
    killed = 0
    with Writer(point / "volume", model) as writer:
        for each in chosen:
            killed += kill_at(command, each, "rekey", "data")
            command.run("rekey", "data")
            assert files(command) == {"data"}, each
            count = writer.writes
            wait_until(lambda count=count: writer.writes > count)  # type: ignore[misc]
    assert killed >= 0.8 * len(chosen)
    assert (point / "volume").read_bytes() == model
    command.run("unmount", "data")
    command.run("volume", "export", "--yes", "data", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == model


def the_turns(points: list[Point]) -> list[Point]:
    """Where the files change their names, and where the old one goes."""
    links = [each for each in points if each.call in ("link", "linkat")]
    return links[:1] + [each for each in points if each.call == "fallocate"][-1:]


def test_the_driver_is_killed(command: Command, tmp_path: Path, point: Path) -> None:
    run_through_kills(command, tmp_path, point, the_turns)


@pytest.mark.soak
def test_the_driver_is_killed_at_every_call(command: Command, tmp_path: Path, point: Path) -> None:
    run_through_kills(command, tmp_path, point, list)
