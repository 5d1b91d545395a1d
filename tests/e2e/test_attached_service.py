"""`attach --foreground` as a service whose mount is kept: the next start goes on with it."""

import hashlib
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.command import VOLCRYPT, Command, disposable_home, kill_and_wait
from tests.service_manager import ServiceManager, service_manager
from volcrypt.volume.kept_mount import KEPT, NAMES

OVERWRITE = """import os, sys
os.pwrite(disk := os.open(sys.argv[1], os.O_WRONLY), b"n" * 4096, 0)
os.fsync(disk)"""
WRITE = "import os, sys; f = open(sys.argv[1], 'wb'); f.write(b'y' * 9000); os.fsync(f)"


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Command]:
    with disposable_home(tmp_path / "home") as made:
        made.run("init")
        (made.home / "config.toml").write_text("[mounts]\nkey_check_seconds = 1\n")
        yield made


@pytest.fixture
def name() -> str:
    return f"v{secrets.token_hex(5)}"


@pytest.fixture
def manager(command: Command, tmp_path: Path) -> Iterator[ServiceManager]:
    with service_manager(tmp_path) as made:
        yield made


def attach(command: Command, name: str, *options: str | Path) -> list[str | Path]:
    return [VOLCRYPT, "--home", command.home, "attach", name, "--foreground", *options]


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.kept_mount
def test_a_service_goes_on_with_what_its_last_process_left(
    command: Command, manager: ServiceManager, name: str, tmp_path: Path
) -> None:
    point = tmp_path / "point"
    point.mkdir()
    command.run("volume", "create", "--size", "32MiB", "--name", name)
    start = attach(command, name, "--mkfs", "ext4", "--mount", point)
    manager.start(start)
    manager.wait_until_kept(KEPT)
    loop = os.readlink(f"/dev/volcrypt/{name}")
    kill_and_wait(manager.main_pid)
    writer = subprocess.Popen([sys.executable, "-c", WRITE, point / "file"])
    assert "waits for the next process" in command.fails(7, "detach", name)
    # A start that fails changes nothing: the token's PIN cannot be had.
    pin = (command.home / "kms/pin").rename(command.home / "kms/away")
    manager.start(start, expect_ready=False)
    assert manager.names == sorted(NAMES)
    assert writer.poll() is None
    pin.rename(command.home / "kms/pin")
    manager.start(start)
    assert writer.wait(30) == 0
    assert (point / "file").read_bytes() == b"y" * 9000
    assert os.readlink(f"/dev/volcrypt/{name}") == loop
    # An upgrade: systemd is about to start it again.
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "systemctl").write_text("#!/bin/sh\necho 7 books.service restart running\n")
    (programs / "systemctl").chmod(0o755)
    done = subprocess.run(
        [VOLCRYPT, "--home", command.home, "detach", name, "--unit", "books.service"],
        env={**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"},
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "is left to the next process" in done.stdout
    assert manager.names == sorted(NAMES)
    manager.start(start)
    (point / "file").write_bytes(b"z")
    command.run("detach", name)
    assert manager.names == []
    assert not point.is_mount()


@pytest.mark.kept_mount
def test_a_migration_and_its_switch_are_gone_on_with(
    command: Command, manager: ServiceManager, name: str, tmp_path: Path
) -> None:
    command.run("volume", "create", "--size", "16MiB", "--name", name, "--unencrypted")
    start = attach(command, name)
    manager.start(start)
    manager.wait_until_kept(KEPT)
    device = Path(os.readlink(f"/dev/volcrypt/{name}"))
    content = os.urandom(2**20) * 16
    device.write_bytes(content)
    os.sync()
    migrating = command.start("encrypt", name, "--online", "--rate", "2MiB")
    try:
        _until(lambda: any(p.stat().st_blocks for p in command.home.glob("volumes/*/data.next")))
        writer = subprocess.Popen([sys.executable, "-c", OVERWRITE, device])
        kill_and_wait(manager.main_pid)
    finally:
        migrating.kill()
    manager.start(start)
    assert writer.wait(30) == 0
    command.run("encrypt", name, "--online")
    kill_and_wait(manager.main_pid)
    reader = subprocess.Popen(["sha256sum", device], stdout=subprocess.PIPE, text=True)
    manager.start(start)
    wanted = b"n" * 4096 + content[4096:]
    assert reader.communicate(timeout=30)[0].split()[0] == hashlib.sha256(wanted).hexdigest()
    assert os.readlink(f"/dev/volcrypt/{name}") == str(device)
    assert command.json("volume", "show", name)["Encrypted"]
    (data,) = command.home.glob("volumes/*/data")
    assert content[4096:8192] not in data.read_bytes()
    command.run("detach", name)


@pytest.mark.kept_mount
def test_a_volume_under_a_lease_that_is_not_filled_yet_goes_on(
    command: Command, manager: ServiceManager, name: str, tmp_path: Path
) -> None:
    content = os.urandom(4 * 2**20)
    (tmp_path / "image").write_bytes(content)
    command.run("store", "create", "shared", "--url", (tmp_path / "store").as_uri())
    command.run("volume", "import", tmp_path / "image", "--name", "first")
    command.run("snapshot", "create", "first", "--name", "image", "--wait")
    create = ("volume", "create", "--snapshot-id", "image", "--name", name, "--lease", "shared")
    command.run(*create, "--data", tmp_path / "data")
    start = [*attach(command, name), "--fill-rate", "0"]
    manager.start(start)
    manager.wait_until_kept(KEPT)
    device = Path(os.readlink(f"/dev/volcrypt/{name}"))
    written = b"n" * 4096
    subprocess.run([sys.executable, "-c", OVERWRITE, device], check=True)
    kill_and_wait(manager.main_pid)
    reader = subprocess.Popen(["sha256sum", device], stdout=subprocess.PIPE, text=True)
    manager.start(start)
    wanted = hashlib.sha256(written + content[4096:]).hexdigest()
    assert reader.communicate(timeout=30)[0].split()[0] == wanted
    (use,) = command.json("status")["InUse"]
    assert (use["Kept"], use["WritesWait"], use["Fenced"]) == (True, False, None)
    assert command.json("volume", "show", name)["Initialization"] is not None, "the control"
    subprocess.run([sys.executable, "-c", OVERWRITE, device], check=True)
    command.run("detach", name)


@pytest.mark.kept_mount
def test_a_process_that_ended_at_the_switch_takes_the_mount_with_it(
    command: Command, manager: ServiceManager, name: str
) -> None:
    """Then nobody knows what it was told of the new data."""
    command.run("volume", "create", "--size", "8MiB", "--name", name)
    manager.start(attach(command, name))
    manager.wait_until_kept(KEPT)
    kill_and_wait(manager.main_pid)
    (data,) = command.home.glob("volumes/*/data")
    shutil.copyfile(data, data.with_suffix(".other"))
    data.with_suffix(".other").rename(data)
    assert manager.start(attach(command, name), expect_ready=False)
    assert "as it went over to new data" in manager.errors
    assert manager.names == []
    assert "is detached" in command.fails(1, "detach", name)


@pytest.mark.kept_mount
def test_a_fenced_volume_is_let_go(command: Command, manager: ServiceManager, name: str) -> None:
    key = command.run("kms", "create-key")
    command.run("volume", "create", "--size", "8MiB", "--name", name, "--kms-key-id", key)
    manager.start(attach(command, name, "--on-key-loss", "fence"))
    manager.wait_until_kept(KEPT)
    command.run("kms", "disable-key", "--key-id", key)
    (log,) = command.runtime.glob("vol-*.log")
    _until(lambda: "the data key was wiped" in log.read_text())
    kill_and_wait(manager.main_pid)
    command.run("kms", "enable-key", "--key-id", key)
    manager.start(attach(command, name, "--on-key-loss", "fence"), expect_ready=False)
    assert "stays closed" in manager.errors
    assert manager.names == []
    assert "is detached" in command.fails(1, "detach", name)


def test_a_mount_on_the_python_plane_says_that_it_is_not_kept(
    command: Command, manager: ServiceManager, name: str
) -> None:
    command.run("volume", "create", "--size", "8MiB", "--name", name)
    manager.start(attach(command, name, "--data-plane", "python"))
    assert "ends the mount" in manager.errors
    assert manager.names == []
    command.run("detach", name)
