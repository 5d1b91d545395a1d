"""Records, owners and maps as somebody with access to storage would have them: refused by name,
by every command that would act on them, and good again when the right bytes are back."""

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from tests.command import Command, disposable_home
from tests.record_files import write_both
from volcrypt.formats.volume_record import VolumeRecord
from volcrypt.operations.home import Home
from volcrypt.operations.records import load_record, save_records
from volcrypt.settings import runtime_root
from volcrypt.volume.owner import OwnerRecord

MIB = 2**20
KINDS = {"encrypted": [], "unencrypted": ["--unencrypted"]}


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Command]:
    with disposable_home(tmp_path / "home") as made:
        made.run("init")
        yield made


class Volumes:
    """`one` and `two` of a kind, with data, and everything that could be done to `one`."""

    def __init__(self, command: Command, directory: Path, options: list[str]) -> None:
        self.command = command
        self.directory = directory
        self.point = directory / "point"
        self.point.mkdir()
        self.is_encrypted = not options
        self.content = os.urandom(MIB)
        (directory / "image").write_bytes(self.content)
        for name in ("one", "two"):
            command.run("volume", "import", directory / "image", "--name", name, *options)
        self.ids: dict[str, str] = {
            n: command.json("volume", "show", n)["VolumeId"] for n in ("one", "two")
        }

    def path(self, name: str, file: str = "record") -> Path:
        return self.command.home / "volumes" / self.ids[name] / file

    def digest(self) -> bytes:
        return hashlib.sha256(self.path("one", "data").read_bytes()).digest()

    def everything(self) -> list[list[str]]:
        return [
            ["mount", "one", str(self.point)],
            ["attach", "one"],
            ["snapshot", "create", "one"],
            ["volume", "export", "--yes", "one", str(self.directory / "out")],
            ["volume", "check", "one"],
            ["volume", "grow", "one", "--size", "2MiB"],
            ["encrypt", "one"],
        ]

    def are_refused(self, says: str) -> None:
        before = self.digest()
        for arguments in self.everything():
            assert re.search(says, self.command.fails(6, *arguments)), arguments
            assert not (self.directory / "out").exists()
        assert self.digest() == before
        assert self.command.processes() == []
        self.command.run("volume", "check", "two")  # the others are as they were

    def is_good(self) -> None:
        self.command.run("volume", "check", "one")
        self.command.run("volume", "export", "--yes", "one", self.directory / "out")
        assert (self.directory / "out").read_bytes()[:MIB] == self.content


@pytest.fixture(params=KINDS)
def volumes(request: pytest.FixtureRequest, command: Command, tmp_path: Path) -> Volumes:
    return Volumes(command, tmp_path, KINDS[request.param])


def edits() -> dict[str, Callable[[bytes], bytes]]:
    """Of the bytes of a record, each with the seal that it had."""
    return {
        "encryption off": lambda r: re.sub(
            rb'"key_source":"kms","wrapped_key":\{.*?\}\}',
            b'"key_source":"none","wrapped_key":null',
            r,
        ),
        "size": lambda r: r.replace(b'"size_bytes":1048576', b'"size_bytes":524288'),
        "name": lambda r: r.replace(b'"name":"one"', b'"name":"two"'),
        "data": lambda r: r.replace(b'"data_path":null', b'"data_path":"/etc/shadow"'),
        "counter": lambda r: r.replace(b'"counter":1', b'"counter":2'),
        "no seal": lambda r: r[:-65] + b"0" * 64 + b"\n",
        "cut": lambda r: r[:-1],
        "version": lambda r: r.replace(b"volcrypt volume 1\n", b"volcrypt volume 2\n"),
    }


@pytest.mark.parametrize("edit", edits())
def test_an_edited_record_is_refused(volumes: Volumes, edit: str) -> None:
    path = volumes.path("one")
    right = path.read_bytes()
    wrong = edits()[edit](right)
    if wrong == right:
        assert edit == "encryption off", "the control: every edit changes something"
        assert b'"key_source":"none"' in right
        wrong = right.replace(b'"key_source":"none"', b'"key_source":"kms"')
    write_both(path, wrong)
    volumes.are_refused("record of vol")
    write_both(path, right)
    volumes.is_good()


def test_a_record_of_another_volume_is_refused(volumes: Volumes) -> None:
    """Its seal is good, for the other one."""
    path = volumes.path("one")
    right = path.read_bytes()
    write_both(path, volumes.path("two").read_bytes())
    volumes.are_refused("not the current version")
    write_both(path, right)
    volumes.is_good()


def test_a_record_of_another_home_is_refused(volumes: Volumes, tmp_path: Path) -> None:
    """Made by somebody with a volcrypt of his own, for the same id."""
    right = volumes.path("one").read_bytes()
    with disposable_home(tmp_path / "other" / "home") as other:
        other.run("init")
        with Home(volumes.command.home, runtime_root()) as home:
            record = load_record(home, "one")
        with Home(other.home, runtime_root()) as home:
            save_records(home, put=[record])
            forged = (home.volumes.path_of(record.volume_id) / "record").read_bytes()
    assert forged != right
    write_both(volumes.path("one"), forged)
    volumes.are_refused("not the current version")
    write_both(volumes.path("one"), right)
    volumes.is_good()


def test_an_older_record_is_refused(volumes: Volumes) -> None:
    older = volumes.path("one").read_bytes()
    volumes.command.run("volume", "grow", "one", "--size", "2MiB")
    right = volumes.path("one").read_bytes()
    assert older != right
    write_both(volumes.path("one"), older)
    volumes.are_refused("not the current version")
    write_both(volumes.path("one"), right)
    volumes.is_good()


def test_a_wrapped_key_of_another_volume_opens_nothing(command: Command, tmp_path: Path) -> None:
    """Should all seals hold, the KMS still knows for which volume it made a key."""
    volumes = Volumes(command, tmp_path, [])
    with Home(command.home, runtime_root()) as home:
        one, two = load_record(home, "one"), load_record(home, "two")
        assert one.wrapped_key is not None
        assert two.wrapped_key is not None

        def put(record: VolumeRecord, counter: int) -> None:
            save_records(home, put=[msgspec.structs.replace(record, counter=counter)])

        stolen = msgspec.structs.replace(one.wrapped_key, ciphertext=two.wrapped_key.ciphertext)
        put(msgspec.structs.replace(one, wrapped_key=stolen), 2)
    before = volumes.digest()
    for arguments in (volumes.everything()[0], volumes.everything()[3], volumes.everything()[4]):
        command.fails(6, *arguments)
    assert (volumes.digest(), command.processes()) == (before, [])
    with Home(command.home, runtime_root()) as home:
        save_records(home, put=[msgspec.structs.replace(one, counter=3)])
    volumes.is_good()


def owner_of(machine: str, **members: object) -> bytes:
    """The owner record of a process that is not there."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    known: dict[str, object] = {
        "machine_id": machine,
        "host_name": "elsewhere",
        "boot_id": boot,
        "pid": 4194303,
        "start_ticks": 1,
        "purpose": "mount",
    }
    record = msgspec.convert({**known, **members}, type=OwnerRecord)
    return (b"volcrypt owner 1\n" + msgspec.json.encode(record)).ljust(511) + b"\n"


def test_an_owner_on_another_machine_is_respected_by_every_command(volumes: Volumes) -> None:
    """The home lies on storage of several machines, or was carried from one that still runs."""
    owner = volumes.path("one", "owner")
    owner.write_bytes(owner_of("0123456789abcdef0123456789abcdef"))
    before = volumes.digest()
    for arguments in [*volumes.everything(), ["volume", "delete", "one"]]:
        if arguments[:2] == ["volume", "check"]:
            continue  # it only looks
        if arguments[0] == "encrypt" and volumes.is_encrypted:
            continue
        said = volumes.command.fails(4, *arguments)
        assert "on elsewhere (mount)" in said, arguments
    assert volumes.digest() == before
    assert volumes.command.json("volume", "show", "one")["State"] == "in-use"
    # A dead one of this machine is no hindrance, without asking.
    owner.write_bytes(owner_of(Path("/etc/machine-id").read_text().strip()))
    volumes.is_good()


@pytest.mark.parametrize("content", [b"junk", b"volcrypt owner 2\n{}", b"volcrypt owner 1\n{"])
def test_an_owner_that_cannot_be_read_is_no_free_volume(volumes: Volumes, content: bytes) -> None:
    owner = volumes.path("one", "owner")
    owner.write_bytes(content)
    volumes.command.fails(6, "mount", "one", volumes.point)
    volumes.command.fails(6, "snapshot", "create", "one")
    owner.unlink()
    volumes.is_good()


@pytest.mark.parametrize("loss", ["kill", "kill and reboot", "reboot", "map on disk is put back"])
def test_no_change_is_missed_after(volumes: Volumes, loss: str) -> None:
    """Incremental and full snapshots agree, whatever happened to the map in between."""
    command, point = volumes.command, volumes.point
    command.run("snapshot", "create", "one", "--wait")
    kept = volumes.path("one", "change-map").read_bytes()
    command.run("mount", "one", point)
    assert not volumes.path("one", "change-map").exists()
    content = os.urandom(8192)
    with open(point / "volume", "r+b", buffering=0) as file:
        os.pwrite(file.fileno(), content, 600_000)
        os.fsync(file.fileno())
    if loss.startswith("kill"):
        command.kill_processes()
        command.clear_dead_mount(point)
    else:
        command.run("unmount", "one")
    if "reboot" in loss:
        command.forget_runtime()
    if loss == "map on disk is put back":
        volumes.path("one", "change-map").write_bytes(kept)
    made = command.json("snapshot", "create", "one", "--name", "after", "--wait")
    assert made["StoredChunks"] == 1
    restored = command.run("volume", "create", "--snapshot-id", "after", "--name", "restored")
    command.run("volume", "export", "--yes", restored, volumes.directory / "restored")
    expected = bytearray(volumes.content)
    expected[600_000 : 600_000 + 8192] = content
    assert (volumes.directory / "restored").read_bytes() == expected
