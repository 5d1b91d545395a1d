"""Where the key of a volume is, and that it is gone afterwards: from processes, files and logs."""

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.command import VOLCRYPT, Command, disposable_home
from tests.key_search import ROUNDS, found_in_files, found_in_process, mapping_flags, traces
from volcrypt.kms.lock import SERVING
from volcrypt.volume.control import ControlClient
from volcrypt.volume.control_messages import StatusAnswer

UNWRAP = """
import sys
from pathlib import Path
from volcrypt.access import open_home_unattended
from volcrypt.operations.keys import unwrap_key
from volcrypt.operations.records import load_record
with open_home_unattended(Path(sys.argv[1]), profile="default", region=None) as home:
    record = load_record(home, sys.argv[2])
    with unwrap_key(home, record.wrapped_key) as key:
        print(bytes(key.view()).hex() if len(sys.argv) > 3 else "ready", flush=True)
        sys.stdin.readline()
"""
DEBUGGER = """
import subprocess, sys
from volcrypt.confinement import drop_capabilities
drop_capabilities(keep=frozenset(range(41)) - {19})  # CAP_SYS_PTRACE
control = subprocess.Popen(["sleep", "60"])
for pid in (control.pid, *map(int, sys.argv[1:])):
    try:
        open(f"/proc/{pid}/mem", "rb").close()
        print("readable")
    except PermissionError:
        print("denied")
control.kill()
control.wait()
"""


def key_of(home: Path, name: str, directory: Path) -> bytes:
    """The data key of a volume, by a copy of its home: nobody who is looked at is asked for it."""
    copy = directory / f"copy-{name}"
    shutil.copytree(home, copy, ignore=shutil.ignore_patterns("data", "*.sock", SERVING))
    try:
        done = subprocess.run(
            [sys.executable, "-c", UNWRAP, copy, name, "tell"],
            check=True,
            capture_output=True,
            text=True,
            input="\n",
        )
    finally:
        shutil.rmtree(copy)
    return bytes.fromhex(done.stdout.strip())


@contextmanager
def kms_serve(command: Command) -> Iterator[int]:
    """The real command, whose process stays; its pid."""
    process = subprocess.Popen(
        [VOLCRYPT, "--home", command.home, "--json", "kms", "serve", "--listen", "127.0.0.1:0"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        assert json.loads(process.stdout.readline())["Pid"] == process.pid
        yield process.pid
    finally:
        process.terminate()
        process.communicate(timeout=30)


def status(command: Command, volume_id: str) -> StatusAnswer:
    with ControlClient(command.runtime / f"{volume_id}.sock", volume=volume_id) as control:
        return control.status()


def test_a_key_is_where_it_should_be_and_nowhere_afterwards(tmp_path: Path) -> None:
    """One volume is fenced, and its process stays; one is unmounted; the KMS saw both keys."""
    with disposable_home(tmp_path / "home") as command:
        command.run("init")
        (command.home / "config.toml").write_text("[mounts]\nkey_check_seconds = 1\n")
        key = command.run("kms", "create-key")
        ids = {}
        for name in ("fenced", "closed"):
            made = command.json(
                "volume", "create", "--size", "4MiB", "--name", name, "--kms-key-id", key
            )
            ids[name] = made["VolumeId"]
            (tmp_path / name).mkdir()
        keys = {name: key_of(command.home, name, tmp_path) for name in ids}
        wanted = {name: traces(data_key) for name, data_key in keys.items()}
        with kms_serve(command) as kms:
            command.run("mount", "fenced", tmp_path / "fenced", "--on-key-loss", "fence")
            command.run("mount", "closed", tmp_path / "closed")
            for name in ids:
                descriptor = os.open(tmp_path / name / "volume", os.O_RDWR)
                os.pwrite(descriptor, os.urandom(300_000), 100)
                os.pread(descriptor, 2**20, 0)
                os.close(descriptor)
            serving = {name: status(command, id_).pid for name, id_ in ids.items()}
            watcher = status(command, ids["fenced"]).watcher_pid
            assert watcher is not None

            # The control: that is what is found where a key is. And there it is locked.
            for name, pid in serving.items():
                found = found_in_process(pid, wanted[name])
                assert {f"{half} {i}" for half in ("data", "tweak") for i in ROUNDS} <= found
                assert not {"base64", "base64 end", "hex"} & found
                assert "lo" in mapping_flags(pid, keys[name][:32])
                limits = Path(f"/proc/{pid}/limits").read_text()
                assert limits.partition("Max core file size")[2].split()[0] == "0"
            assert are_debuggable([*serving.values(), watcher, kms]) == [False] * 4
            # Each in its own process, and in no other.
            for name, pid in serving.items():
                for other in {kms, watcher, *serving.values()} - {pid}:
                    assert found_in_process(other, wanted[name]) == set()

            command.run("unmount", "closed")
            command.run("kms", "disable-key", "--key-id", key)
            end = time.monotonic() + 60
            while (note := status(command, ids["fenced"]).fenced) is None or not note.wiped_at:
                assert time.monotonic() < end
                time.sleep(0.05)
            for pid in (kms, serving["fenced"]):
                for name in ids:
                    assert found_in_process(pid, wanted[name]) == set()
            everywhere = [command.home, command.runtime]
            for name in ids:
                assert found_in_files(everywhere, wanted[name]) == {}
                (command.runtime / "control").write_bytes(keys[name])
                assert set(found_in_files(everywhere, wanted[name])) == {
                    command.runtime / "control"
                }
            (command.runtime / "control").unlink()
            command.run("unmount", "fenced")


def are_debuggable(pids: list[int]) -> list[bool]:
    """Whether a process of the same user, with the same privileges but for that over processes of
    others, may look into them; of one like any other it may."""
    done = subprocess.run(
        [sys.executable, "-c", DEBUGGER, *map(str, pids)],
        check=True,
        capture_output=True,
        text=True,
    )
    control, *found = done.stdout.split()
    assert control == "readable"
    return [word == "readable" for word in found]


@pytest.fixture
def encrypted(tmp_path: Path) -> Iterator[Command]:
    with disposable_home(tmp_path / "home") as command:
        command.run("init")
        command.run("volume", "create", "--size", "1MiB", "--name", "data")
        yield command


def test_a_command_with_a_key_protects_itself(encrypted: Command, tmp_path: Path) -> None:
    """`unwrap_key` is where import, export, check, copy and encrypt get theirs."""
    key = key_of(encrypted.home, "data", tmp_path)
    process = subprocess.Popen(
        [sys.executable, "-c", UNWRAP, encrypted.home, "data"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=_allow_core_files,
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "ready\n"
        assert "data 0" in found_in_process(process.pid, traces(key))
        assert "lo" in mapping_flags(process.pid, key[:32])
        assert are_debuggable([process.pid]) == [False]
        limits = Path(f"/proc/{process.pid}/limits").read_text()
        assert limits.partition("Max core file size")[2].split()[0] == "0"
    finally:
        process.communicate("\n")
    assert process.returncode == 0
    assert found_in_files([encrypted.home, encrypted.runtime], traces(key)) == {}


def _allow_core_files() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))


def test_commands_leave_no_trace_in_files(encrypted: Command, tmp_path: Path) -> None:
    """After all that unwrap a key: mount, export, check, copy, encrypt."""
    run = encrypted.run
    (tmp_path / "mnt").mkdir()
    run("mount", "data", tmp_path / "mnt")
    run("unmount", "data")
    run("volume", "export", "--yes", "data", tmp_path / "out")
    run("volume", "check", "data")
    run("snapshot", "create", "--wait", "data", "--name", "s")
    other = run("kms", "create-key")
    run("snapshot", "copy", "--wait", "s", "--name", "t", "--kms-key-id", other)
    run("volume", "create", "--snapshot-id", "t", "--name", "copied")
    run("volume", "create", "--size", "1MiB", "--unencrypted", "--name", "plain")
    run("encrypt", "plain")
    for name in ("data", "copied", "plain"):
        wanted = traces(key_of(encrypted.home, name, tmp_path))
        assert found_in_files([encrypted.home, encrypted.runtime], wanted) == {}
