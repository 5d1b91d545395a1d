"""Volumes that are fenced when the KMS takes their key away: real commands, mounts, processes."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.command import Command, disposable_home
from tests.wire.served import Served, served
from volcrypt.geometry import CHUNK_BYTES
from volcrypt.names import VolumeId
from volcrypt.volume.control import ControlClient
from volcrypt.volume.control_messages import StatusAnswer

SETTINGS = "[mounts]\nkey_check_seconds = 1\n"
PROMISE_SECONDS = 60


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Command]:
    with disposable_home(tmp_path / "home") as made:
        made.run("init")
        (made.home / "config.toml").write_text(SETTINGS)
        yield made


class Fenceable:
    """A volume under a key of its own, mounted to be fenced."""

    def __init__(self, command: Command, name: str) -> None:
        self.command = command
        self.name = name
        self.key = command.run("kms", "create-key")
        made = command.json(
            "volume", "create", "--size", "8MiB", "--name", name, "--kms-key-id", self.key
        )
        self.volume_id = VolumeId(made["VolumeId"])
        self.point = command.home.parent / f"mnt-{name}"
        self.point.mkdir()

    def mount(self) -> None:
        self.command.run("mount", self.name, self.point, "--on-key-loss", "fence")

    @property
    def file(self) -> Path:
        return self.point / "volume"

    @property
    def log(self) -> str:
        return (self.command.runtime / f"{self.volume_id}.log").read_text()

    def status(self) -> StatusAnswer:
        path = self.command.runtime / f"{self.volume_id}.sock"
        with ControlClient(path, volume=self.name) as control:
            return control.status()

    def until(self, condition: Callable[[StatusAnswer], bool]) -> StatusAnswer:
        """The first status that is as wanted, within the promise."""
        end = time.monotonic() + PROMISE_SECONDS
        while not condition(found := self.status()):
            assert time.monotonic() < end, found
            time.sleep(0.02)
        return found

    def until_fenced(self) -> str:
        """The reason, when the key is gone."""
        found = self.until(lambda s: s.fenced is not None and s.fenced.wiped_at is not None)
        assert found.fenced is not None
        return found.fenced.reason

    def write(self, offset: int, data: bytes | bytearray) -> None:
        descriptor = os.open(self.file, os.O_WRONLY)
        try:
            os.pwrite(descriptor, data, offset)
        finally:
            os.close(descriptor)

    def is_usable(self) -> bool:
        """Reads and writes work; or none does, and the error is EIO."""
        problems = []
        for use in (lambda: self.file.read_bytes(), lambda: self.write(0, b"x" * 4096)):
            try:
                use()
            except OSError as error:
                problems.append(error.errno)
        assert problems in ([], [5, 5])
        return not problems

    def in_use(self) -> Any:
        document = self.command.json("status")
        [found] = [each for each in document["InUse"] if each["Name"] == self.name]
        return found | {"Warnings": document["Warnings"]}


def disable(volume: Fenceable) -> None:
    volume.command.run("kms", "disable-key", "--key-id", volume.key)


def schedule_deletion(volume: Fenceable) -> None:
    volume.command.run("kms", "schedule-key-deletion", "--key-id", volume.key, "--yes")


def revoke(volume: Fenceable) -> None:
    [grant] = volume.command.json("kms", "list-grants", "--key-id", volume.key)["Grants"]
    volume.command.run(
        "kms", "revoke-grant", "--key-id", volume.key, "--grant-id", grant["GrantId"]
    )


def deny(volume: Fenceable) -> None:
    command = volume.command
    policy = json.loads(command.json("kms", "get-key-policy", "--key-id", volume.key)["Policy"])
    refusal = {"Effect": "Deny", "Principal": "*", "Action": "kms:Decrypt", "Resource": "*"}
    policy["Statement"].append(refusal)
    command.run("kms", "put-key-policy", "--key-id", volume.key, "--policy", json.dumps(policy))


def test_each_definite_refusal_fences_its_volume_and_no_other(command: Command) -> None:
    refusals = [disable, schedule_deletion, revoke, deny]
    volumes = [Fenceable(command, refuse.__name__) for refuse in refusals]
    control = Fenceable(command, "control")
    for volume in (*volumes, control):
        volume.mount()
        volume.write(4096, volume.name.encode())
        assert volume.is_usable()
    for refuse, volume in zip(refusals, volumes, strict=True):
        refuse(volume)
    for volume in volumes:
        reason = volume.until_fenced()
        assert volume.key in reason
        assert not volume.is_usable()
        assert reason in volume.log
        shown = volume.in_use()
        assert shown["Fenced"]["Reason"] == reason
        assert shown["Fenced"]["KeyWiped"] is True
        assert any(f"{volume.name} is fenced since" in line for line in shown["Warnings"])
    shown = {each["Name"]: each["Fenced"] for each in command.json("volume", "list")["Volumes"]}
    assert [name for name, fenced in shown.items() if fenced is None] == ["control"]
    assert command.run("volume", "list").count("in-use, FENCED") == len(volumes)
    assert "fenced " in command.run("volume", "show", volumes[0].name)
    assert control.is_usable()
    assert control.in_use()["Fenced"] is None
    assert control.in_use()["OnKeyLoss"] == "fence"
    for volume in (*volumes, control):
        command.run("unmount", volume.name)
    # The next mount is refused, and works again when the KMS lets go of the key again.
    for volume in (volumes[0], volumes[1], volumes[3]):
        command.fails(5, "mount", volume.name, volume.point)
    command.run("kms", "enable-key", "--key-id", volumes[0].key)
    volumes[0].mount()
    assert volumes[0].file.read_bytes()[4096 : 4096 + 7] == b"disable"
    command.run("unmount", "disable")


def test_a_lazy_volume_gets_no_more_of_its_snapshot(command: Command, tmp_path: Path) -> None:
    """What it lacks is a reason to fail for a snapshot of it, and that reason is the fence."""
    source = Fenceable(command, "source")
    source.mount()
    source.write(0, os.urandom(6 * 2**20))
    command.run("unmount", "source")
    command.run("snapshot", "create", "source", "--name", "first", "--wait")
    command.run(
        "volume", "create", "--snapshot-id", "first", "--name", "lazy", "--fill-rate", "0",
        "--kms-key-id", source.key,
    )  # fmt: skip
    source.name, source.volume_id = "lazy", command.json("volume", "show", "lazy")["VolumeId"]
    source.mount()
    disable(source)
    reason = source.until_fenced()
    assert not source.is_usable()
    assert reason in command.fails(1, "snapshot", "create", "lazy", "--wait")
    command.run("unmount", "lazy")
    command.run("kms", "enable-key", "--key-id", source.key)
    command.run("volume", "export", "--yes", "source", tmp_path / "expected")
    command.run("volume", "export", "--yes", "lazy", tmp_path / "image")
    assert (tmp_path / "image").read_bytes() == (tmp_path / "expected").read_bytes()


def test_keep_goes_on_and_the_next_mount_is_refused(command: Command) -> None:
    volume = Fenceable(command, "kept")
    command.run("mount", "kept", volume.point)
    assert volume.status().watcher_pid is None
    disable(volume)
    assert volume.is_usable()
    shown = volume.in_use()
    assert (shown["OnKeyLoss"], shown["Fenced"], shown["Checks"]) == ("keep", None, [])
    command.run("unmount", "kept")
    assert "disabled" in command.fails(5, "mount", "kept", volume.point)
    assert "disabled" in command.fails(5, "attach", "kept", "--on-key-loss", "fence")


def test_what_was_written_and_changed_before_is_kept(command: Command) -> None:
    """Snapshots go on too: one begun before the fence, one after it, one after the unmount."""
    volume = Fenceable(command, "data")
    content = bytearray(os.urandom(8 * 2**20))
    volume.mount()
    volume.write(0, content)
    command.run("snapshot", "create", "--wait", "data", "--name", "whole")
    content[3 * CHUNK_BYTES : 3 * CHUNK_BYTES + 4096] = piece = os.urandom(4096)
    volume.write(3 * CHUNK_BYTES, piece)
    disable(volume)
    volume.until_fenced()
    command.run("snapshot", "create", "--wait", "data", "--name", "fenced")
    command.run("unmount", "data")
    command.run("snapshot", "create", "--wait", "data", "--name", "after")
    command.run("snapshot", "verify")
    command.run("kms", "enable-key", "--key-id", volume.key)
    shown = {each["Name"]: each for each in command.json("snapshot", "list")["Snapshots"]}
    assert shown["fenced"]["StoredBytes"] == CHUNK_BYTES
    assert shown["after"]["StoredBytes"] == 0
    for name in ("fenced", "after"):
        command.run("volume", "create", "--snapshot-id", name, "--name", f"from-{name}")
        command.run("volume", "export", "--yes", f"from-{name}", command.home.parent / name)
        assert (command.home.parent / name).read_bytes() == content
    volume.mount()
    assert volume.file.read_bytes() == content
    command.run("unmount", "data")


def test_a_watcher_that_is_killed_is_started_again(command: Command) -> None:
    volume = Fenceable(command, "data")
    volume.mount()
    for _ in range(3):
        watcher = volume.status().watcher_pid
        assert watcher is not None
        os.kill(watcher, signal.SIGKILL)
        volume.until(lambda s, old=watcher: s.watcher_pid not in (None, old))  # type: ignore[misc]
        volume.until(lambda s: s.checks[0].problem is None)
        assert volume.is_usable()
    # It holds nothing of the process that started it but its own channel and the log.
    watcher = volume.status().watcher_pid
    held = {os.readlink(path).split(":")[0] for path in Path(f"/proc/{watcher}/fd").iterdir()}
    log = str(command.runtime / f"{volume.volume_id}.log")
    assert {name for name in held if "/fuse" in name or name.endswith("owner")} == set()
    assert {"/dev/null", log, "socket"} <= held
    disable(volume)
    volume.until_fenced()
    volume.until(
        lambda s: s.watcher_pid is None
    )  # it ends by itself, when nothing is asked any more
    command.run("unmount", "data")


def test_a_watcher_ends_with_the_process_that_serves(command: Command) -> None:
    volume = Fenceable(command, "data")
    volume.mount()
    watcher = volume.status().watcher_pid
    assert watcher is not None
    descriptor = os.pidfd_open(watcher)
    command.kill_processes()
    assert _has_ended(descriptor)
    # A second one, by an orderly end.
    command.clear_dead_mount(volume.point)
    volume.mount()
    watcher = volume.status().watcher_pid
    assert watcher is not None
    second = os.pidfd_open(watcher)
    command.run("unmount", "data")
    assert _has_ended(second)


def _has_ended(descriptor: int) -> bool:
    import select

    try:
        return bool(select.select([descriptor], [], [], 30)[0])
    finally:
        os.close(descriptor)


_BUSY = """
import os, sys
descriptor = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
while True:
    os.pwrite(descriptor, os.urandom(65536), 0)
    os.fsync(descriptor)
    print("synced", flush=True)
    sys.stdout = open(os.devnull, "w")
"""


def test_a_busy_file_system_ends_with_errors_and_comes_off(command: Command) -> None:
    volume = Fenceable(command, "disk")
    command.run("volume", "grow", "disk", "--size", "64MiB")
    command.run(
        "attach", "disk", "--mkfs", "ext4", "--mount", volume.point, "--on-key-loss", "fence"
    )
    busy = subprocess.Popen(
        [
            sys.executable,
            "-c",
            _BUSY,
            volume.point / "file",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert busy.stdout is not None
        assert busy.stdout.readline() == "synced\n"  # what is looked for at the end
        disable(volume)
        volume.until_fenced()
        _, complaint = busy.communicate(timeout=PROMISE_SECONDS)
    finally:
        busy.kill()
        busy.communicate()
    assert "Input/output error" in complaint or "Read-only file system" in complaint
    warnings = volume.in_use()["Warnings"]
    assert any("end it with 'volcrypt detach disk'" in line for line in warnings)
    done = command.try_run("detach", "disk")
    assert done.returncode == 0, done.stderr
    assert "may be lost" not in done.stderr or "the volume is fenced" in done.stderr
    command.run("kms", "enable-key", "--key-id", volume.key)
    command.run("attach", "disk", "--mount", volume.point)
    assert (volume.point / "file").exists()
    command.run("detach", "disk")


# ---------------------------------------------------------------- who answers


def test_a_daemon_that_stops_is_no_loss(tmp_path: Path) -> None:
    """And the watcher finds the home wherever it is: in the daemon, in itself, in the daemon."""
    with served(tmp_path) as daemon:
        command = Command(daemon.home)
        (daemon.home / "config.toml").write_text(SETTINGS)
        pin = daemon.home / "kms" / "pin"
        hidden = pin.read_bytes()
        pin.unlink()
        try:
            volume = Fenceable(command, "data")
            volume.mount()
            assert volume.is_usable()
            daemon.stop()
            [state] = volume.until(lambda s: s.checks[0].problem is not None).checks
            assert state.unanswered_since is not None
            assert "PIN" in str(state.problem)
            assert volume.is_usable()
            pin.write_bytes(hidden)
            assert (
                f"data: key not checked since {_shown(state.unanswered_since)}"
                in "".join(volume.in_use()["Warnings"])
                or volume.status().checks[0].problem is None
            )
            volume.until(lambda s: s.checks[0].problem is None)
            pin.unlink()
            _start_with_pin(daemon, hidden)
            volume.until(lambda s: s.checks[0].problem is None)
            daemon.kill()
            volume.until(lambda s: s.checks[0].problem is not None)
            assert volume.is_usable()
            _start_with_pin(daemon, hidden)
            volume.until(lambda s: s.checks[0].problem is None)
            disable(volume)
            assert "disabled" in volume.until_fenced()
            assert not volume.is_usable()
            command.run("unmount", "data")
        finally:
            command.kill_processes()
            pin.write_bytes(hidden)


def _start_with_pin(daemon: Served, hidden: bytes) -> None:
    pin = daemon.home / "kms" / "pin"
    pin.write_bytes(hidden)
    daemon.start()
    pin.unlink()


def _shown(seconds: float | None) -> str:
    assert seconds is not None
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))


def test_a_pin_from_a_file_is_enough_and_one_from_a_program_is_not(tmp_path: Path) -> None:
    (tmp_path / "pin").write_text("correct horse")
    (tmp_path / "pin").chmod(0o600)
    with disposable_home(tmp_path / "home") as command:
        command.run("init", "--pin-file", tmp_path / "pin")
        settings = command.home / "config.toml"
        by_file = SETTINGS + f"[kms]\npin_file = '{tmp_path / 'pin'}'\n"
        settings.write_text(by_file)
        volume = Fenceable(command, "data")
        settings.write_text(SETTINGS + f"[kms]\npin_command = ['cat', '{tmp_path / 'pin'}']\n")
        complaint = command.fails(1, "mount", "data", volume.point, "--on-key-loss", "fence")
        assert "answers without a person" in complaint
        assert "kms serve" in complaint
        assert list(command.home.glob("volumes/*/grant")) == []
        command.run("mount", "data", volume.point)
        command.run("unmount", "data")
        settings.write_text(by_file)
        volume.mount()
        (tmp_path / "pin").rename(tmp_path / "away")
        volume.until(lambda s: "pin_file" in str(s.checks[0].problem))
        assert volume.is_usable()
        (tmp_path / "away").rename(tmp_path / "pin")
        disable(volume)
        volume.until_fenced()
        command.run("unmount", "data")


def test_a_volume_without_a_key_cannot_lose_one(command: Command, tmp_path: Path) -> None:
    command.run("volume", "create", "--size", "1MiB", "--unencrypted", "--name", "plain")
    (tmp_path / "mnt").mkdir()
    complaint = command.fails(2, "mount", "plain", tmp_path / "mnt", "--on-key-loss", "fence")
    assert "not encrypted" in complaint


@pytest.mark.parametrize("seconds", ["0.5", "31", "nan"])
def test_an_interval_that_breaks_the_promise_is_refused(command: Command, seconds: str) -> None:
    (command.home / "config.toml").write_text(f"[mounts]\nkey_check_seconds = {seconds}\n")
    assert "1 to 30" in command.fails(1, "config", "check")
