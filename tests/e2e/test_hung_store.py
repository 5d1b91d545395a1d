"""A lazy volume whose store hangs is fenced and comes off, and its process is in nobody's way."""

import os
import secrets
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.command import Command, disposable_home
from volcrypt.volume.owner import start_ticks

END_SECONDS = 15
"""Shorter than a command waits for a process that does not end."""


@pytest.fixture
def medium(tmp_path: Path) -> Iterator[Command]:
    with disposable_home(tmp_path / "medium") as made:
        made.run("init")
        yield made


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Command]:
    with disposable_home(tmp_path / "home") as made:
        made.run("init")
        yield made


def test_a_fenced_volume_comes_off_while_its_store_hangs(
    medium: Command, command: Command, tmp_path: Path
) -> None:
    """Its threads wait in the kernel, where nothing ends them, and so the process stays a while."""
    name = f"v{secrets.token_hex(5)}"
    disk, store = tmp_path / "disk", tmp_path / "disk" / "store"
    disk.mkdir()
    medium.run("volume", "create", "--size", "64MiB", "--name", name)
    medium.run("attach", name, "--mkfs", "ext4", "--mount", disk)
    command.run("store", "create", "far", "--url", f"file://{store}")
    key = command.run("kms", "create-key")
    image = tmp_path / "image"
    image.write_bytes(os.urandom(4 * 2**20))
    command.run("volume", "import", image, "--name", "source")
    command.run("snapshot", "create", "source", "--name", "first", "--store", "far", "--wait")
    command.run(
        "volume", "create", "--snapshot-id", "first", "--name", "lazy", "--fill-rate", "0",
        "--kms-key-id", key,
    )  # fmt: skip
    # What the kernel has read of the store is forgotten.
    medium.run("detach", name)
    hung = medium.json("attach", name, "--mount", disk)["Pid"]
    point = tmp_path / "point"
    point.mkdir()
    (command.home / "config.toml").write_text("[mounts]\nkey_check_seconds = 1\n")
    pid = command.json("mount", "lazy", point, "--on-key-loss", "fence")["Pid"]
    reader = None
    os.kill(hung, signal.SIGSTOP)
    try:
        reader = subprocess.Popen(
            ["dd", f"if={point / 'volume'}", "of=/dev/null", "bs=4k", "count=1", "skip=512"],
            stderr=subprocess.DEVNULL,
        )
        while "D" not in thread_states(pid):
            assert reader.poll() is None
            time.sleep(0.02)
        command.run("kms", "disable-key", "--key-id", key)
        assert reader.wait(60) != 0
        begun = time.monotonic()
        command.run("unmount", "lazy")
        assert time.monotonic() - begun < END_SECONDS
        # The control: the kernel has not let go of it.
        assert Path(f"/proc/{pid}").exists()
        assert start_ticks(pid) is None
    finally:
        os.kill(hung, signal.SIGCONT)
        if reader is not None:
            reader.kill()
            reader.wait()
    command.run("kms", "enable-key", "--key-id", key)
    command.run("mount", "lazy", point)
    assert (point / "volume").read_bytes() == image.read_bytes()
    command.run("unmount", "lazy")
    medium.run("detach", name)


def thread_states(pid: int) -> set[str]:
    found = set()
    for path in Path(f"/proc/{pid}/task").glob("*/stat"):
        found.add(path.read_text().rpartition(")")[2].split()[0])
    return found
