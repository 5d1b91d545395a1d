"""Volumes and snapshots through the command line: what lies on disk, and what comes back."""

import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from tests.command import VOLCRYPT, Command, disposable_home, on_data_plane
from tests.planes import data_plane
from volcrypt.operations.home import Home
from volcrypt.operations.keys import unwrap_key
from volcrypt.operations.records import data_path, load_record
from volcrypt.settings import runtime_root
from volcrypt.volume.kept_mount import kernel_resends

UNIT = 4096
CHUNK = 512 * 1024
SIZE = 4 * 2**20 + 8 * UNIT


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Command]:
    with disposable_home(tmp_path / "home") as made:
        made.run("init")
        yield made


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """Random data, with a hole of one chunk and one of a few units."""
    content = bytearray(os.urandom(SIZE))
    content[CHUNK : 2 * CHUNK] = bytes(CHUNK)
    content[3 * CHUNK + UNIT : 3 * CHUNK + 5 * UNIT] = bytes(4 * UNIT)
    path = tmp_path / "source"
    path.write_bytes(content)
    return path


def exported(command: Command, volume: str, tmp_path: Path) -> bytes:
    target = tmp_path / "exported"
    target.unlink(missing_ok=True)
    command.run("volume", "export", "--yes", volume, target)
    assert target.stat().st_mode & 0o777 == 0o600
    return target.read_bytes()


def test_somebody_elses_cipher_decrypts_the_data_file(command: Command, image: Path) -> None:
    """Unit by unit with the `cryptography` package: the tweak counts 512-byte sectors."""
    command.run("volume", "import", image, "--name", "data")
    with Home(command.home, runtime_root()) as home:
        record = load_record(home, "data")
        assert record.wrapped_key is not None
        ciphertext = data_path(home, record).read_bytes()
        with unwrap_key(home, record.wrapped_key) as key:
            algorithm = algorithms.AES(bytes(key.view()))
            plaintext = bytearray()
            for offset in range(0, len(ciphertext), UNIT):
                unit = ciphertext[offset : offset + UNIT]
                tweak = (offset // 512).to_bytes(16, "little")
                if any(unit):
                    unit = Cipher(algorithm, modes.XTS(tweak)).decryptor().update(unit)
                plaintext += unit
    assert plaintext == image.read_bytes()


def test_the_default_key_serves_volumes_and_nothing_else(command: Command, image: Path) -> None:
    command.run("volume", "import", image, "--name", "data")
    with Home(command.home, runtime_root()) as home:
        wrapped = load_record(home, "data").wrapped_key
    assert wrapped is not None
    (command.home.parent / "blob").write_bytes(wrapped.ciphertext)
    context = ",".join(f"{name}={value}" for name, value in wrapped.encryption_context.items())
    blob = f"fileb://{command.home.parent / 'blob'}"
    decrypt = ("kms", "decrypt", "--ciphertext-blob", blob, "--encryption-context", context)
    assert "not allowed to access" in command.fails(5, *decrypt)
    records = command.json("audit", "list", "--denied")["Records"]
    assert records[-1]["eventName"] == "Decrypt"
    assert records[-1]["errorCode"] == "AccessDenied"


def test_a_snapshot_stores_only_what_changed(command: Command, image: Path, tmp_path: Path) -> None:
    point = tmp_path / "point"
    point.mkdir()
    command.run("volume", "import", image, "--name", "data")
    first = command.json("snapshot", "create", "--wait", "data", "--name", "first")
    assert first["StoredChunks"] == 8
    unchanged = command.json("snapshot", "create", "--wait", "data")
    assert (unchanged["StoredChunks"], unchanged["Root"]) == (0, first["Root"])

    command.run("mount", "data", point)
    with open(point / "volume", "r+b") as file:
        file.seek(2 * CHUNK - 10)
        file.write(b"x" * 20)
    mounted = command.json("snapshot", "create", "--wait", "data", "--name", "mounted")
    assert mounted["StoredChunks"] == 2
    assert mounted["ParentSnapshotId"] == unchanged["SnapshotId"]
    command.run("unmount", "data")
    detached = command.json("snapshot", "create", "--wait", "data")
    assert (detached["StoredChunks"], detached["Root"]) == (0, mounted["Root"])

    # After a power cut nothing is known of what changed: all is read, nothing is stored twice.
    command.forget_runtime()
    for clean in command.home.glob("volumes/*/change-map"):
        clean.unlink()
    void = command.json("snapshot", "create", "--wait", "data")
    assert (void["StoredChunks"], void["Root"]) == (0, mounted["Root"])

    for name, content in (
        ("first", image.read_bytes()),
        ("mounted", exported(command, "data", tmp_path)),
    ):
        restored = command.run("volume", "create", "--snapshot-id", name)
        assert exported(command, restored, tmp_path) == content


def test_a_snapshot_of_a_volume_in_use_is_one_point_in_time(
    command: Command, tmp_path: Path
) -> None:
    """A writer numbers its writes round robin; in the snapshot there is one number up to which
    all writes are there, and none after it."""
    places = 32
    point = tmp_path / "point"
    point.mkdir()
    command.run("volume", "create", "--size", f"{places * CHUNK}", "--name", "data")
    command.run("mount", "data", point)
    stop = threading.Event()

    def write() -> None:
        with open(point / "volume", "r+b", buffering=0) as file:
            number = 0
            while not stop.is_set():
                number += 1
                unit = number.to_bytes(8, "little") * (UNIT // 8)
                os.pwrite(file.fileno(), unit, number % places * CHUNK)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        names = [f"snap{n}" for n in range(3)]
        for name in names:
            stop.wait(0.2)
            command.run("snapshot", "create", "--wait", "data", "--name", name)
    finally:
        stop.set()
        writer.join()
    command.run("unmount", "data")
    for name in names:
        content = exported(
            command, command.run("volume", "create", "--snapshot-id", name), tmp_path
        )
        numbers = sorted(
            int.from_bytes(content[place * CHUNK :][:8], "little") for place in range(places)
        )
        cut = numbers[-1]
        assert numbers == list(range(cut - places + 1, cut + 1))


def test_copies_under_another_key_share_nothing(
    command: Command, image: Path, tmp_path: Path
) -> None:
    command.run("volume", "import", image, "--name", "data")
    first = command.json("snapshot", "create", "--wait", "data", "--name", "first")
    same = command.json("snapshot", "copy", "--wait", "first", "--name", "same")
    assert (same["StoredChunks"], same["Root"]) == (0, first["Root"])
    assert same["DataEncryptionKeyId"] == first["DataEncryptionKeyId"]
    key = command.json("kms", "create-key")["KeyMetadata"]["KeyId"]
    other = command.json(
        "snapshot", "copy", "--wait", "first", "--kms-key-id", key, "--name", "other"
    )
    assert other["StoredChunks"] == 8
    assert other["DataEncryptionKeyId"] != first["DataEncryptionKeyId"]
    command.run("snapshot", "delete", "first")
    for name in ("same", "other"):
        restored = command.run("volume", "create", "--snapshot-id", name)
        assert exported(command, restored, tmp_path) == image.read_bytes()
    third = command.run("volume", "create", "--snapshot-id", "same", "--kms-key-id", key)
    assert exported(command, third, tmp_path) == image.read_bytes()
    larger = command.run("volume", "create", "--snapshot-id", "same", "--size", "16MiB")
    assert exported(command, larger, tmp_path) == image.read_bytes() + bytes(2**24 - SIZE)


def test_plain_snapshots_are_listed_or_removed(
    command: Command, image: Path, tmp_path: Path
) -> None:
    for name in ("left", "removed"):
        command.run("volume", "import", image, "--name", name, "--unencrypted")
        command.run("snapshot", "create", "--wait", name, "--name", f"{name}-plain")
    left = command.json("snapshot", "show", "left-plain")["SnapshotId"]
    done = command.try_run("encrypt", "left", "--keep-old")
    assert done.returncode == 0
    assert f"warning: unencrypted snapshots remain: {left}" in done.stderr
    kept = command.json("volume", "show", "left-unencrypted")
    assert kept["Encrypted"] is False
    assert exported(command, kept["VolumeId"], tmp_path) == image.read_bytes()
    command.run("encrypt", "removed", "--delete-plain-snapshots")
    assert [s["Name"] for s in command.json("snapshot", "list")["Snapshots"]] == ["left-plain"]


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_attach_in_the_foreground_ends_in_order(
    command: Command, tmp_path: Path, how: signal.Signals
) -> None:
    command.run("volume", "create", "--size", "32MiB", "--name", "data")
    point = tmp_path / "point"
    point.mkdir()
    attach = on_data_plane("attach", "data", "--mkfs", "ext4", "--mount", point, "--foreground")
    with subprocess.Popen(
        [VOLCRYPT, "--home", command.home, *attach], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert "is attached as /dev/volcrypt/data" in process.stdout.readline()
        assert "is mounted on" in process.stdout.readline()
        (point / "file").write_text("kept")
        process.send_signal(how)
        assert process.wait(30) == 0
    assert not point.is_mount()
    assert command.json("status")["InUse"] == []
    command.run("attach", "data", "--mount", point)
    assert (point / "file").read_text() == "kept"
    command.run("detach", "data")


def test_attach_under_a_service_manager_hands_over_to_the_process_that_serves(
    command: Command, tmp_path: Path
) -> None:
    command.run("volume", "create", "--size", "1MiB", "--name", "data")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(20)
        done = subprocess.run(
            [VOLCRYPT, "--home", command.home, *on_data_plane("attach", "data", "--foreground")],
            check=True,
            capture_output=True,
            env=os.environ | {"NOTIFY_SOCKET": str(tmp_path / "notify")},
        )
        message = manager.recv(4096).decode().splitlines()
    # Only the native plane can keep a mount, on a kernel of today; who has another is told so.
    is_kept = data_plane() == "native" and kernel_resends(os.uname().release)
    assert done.stderr.startswith(b"note: a crash") == (not is_kept)
    assert done.stderr.count(b"\n") == (not is_kept)
    pid = command.json("status")["InUse"][0]["Pid"]
    assert message[:2] == [f"MAINPID={pid}", "READY=1"]
    assert message[2].startswith("STATUS=data is attached as /dev/volcrypt/data (/dev/loop")
    assert len(message) == 3
    command.run("detach", "data")


def test_a_killed_daemon_under_a_file_system(command: Command, tmp_path: Path) -> None:
    """Whatever was synced is there after the next attach, which needs no help."""
    command.run("volume", "create", "--size", "32MiB", "--name", "data")
    point = tmp_path / "point"
    point.mkdir()
    command.run("attach", "data", "--mkfs", "ext4", "--mount", point)
    with open(point / "file", "w") as file:
        file.write("synced")
        file.flush()
        os.fsync(file.fileno())
    command.kill_processes()
    # The dead file system has to go; nothing can take it over.
    subprocess.run(["umount", point], check=False, capture_output=True)
    command.run("attach", "data", "--mount", point)
    assert (point / "file").read_text() == "synced"
    command.run("detach", "data")
