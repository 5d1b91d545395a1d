"""How much was encrypted under a data key: through volumes, snapshots, copies, kills and deletions;
and what is said when it is too much."""

import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.command import Command, disposable_home
from volcrypt.formats.write_count import WriteCount, encode_write_count
from volcrypt.geometry import CHUNK_BYTES
from volcrypt.names import DataKeyId
from volcrypt.volume.write_counter import BUDGET_BYTES, STEP_BYTES

SIZE = 8 * CHUNK_BYTES
TiB = 2**40


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Command]:
    with disposable_home(tmp_path / "home") as made:
        made.run("init")
        yield made


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """Six chunks of data, and two of zeros."""
    content = bytearray(os.urandom(SIZE))
    content[CHUNK_BYTES : 3 * CHUNK_BYTES] = bytes(2 * CHUNK_BYTES)
    (tmp_path / "image").write_bytes(content)
    (tmp_path / "mnt").mkdir()
    return tmp_path / "image"


def shown(command: Command, name: str, kind: str = "volume") -> Any:
    return command.json(kind, "show", name)


def written(command: Command, name: str, kind: str = "volume") -> int:
    return int(shown(command, name, kind)["WrittenBytes"])


def data_key(command: Command, name: str) -> str:
    return str(shown(command, name)["DataEncryptionKeyId"])


def set_count(command: Command, key: str, count: int) -> None:
    sector = encode_write_count(WriteCount(data_key_id=DataKeyId(key), written_bytes=count))
    (command.home / "written" / key).write_bytes(sector)


def write(point: Path, offset: int, size: int) -> None:
    # From pages: what lies across them is cut by the kernel between two units.
    data = mmap.mmap(-1, size)
    data[:] = os.urandom(size)
    descriptor = os.open(point / "volume", os.O_WRONLY)
    try:
        assert os.pwrite(descriptor, data, offset) == size
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def test_of_one_volume(command: Command, image: Path) -> None:
    point = image.with_name("mnt")
    command.run("volume", "import", image, "--name", "data")
    assert written(command, "data") == 6 * CHUNK_BYTES
    assert shown(command, "data")["WriteBudgetBytes"] == 2**44 * 16 == 256 * TiB
    command.run("volume", "create", "--size", "1MiB", "--name", "empty")
    assert written(command, "empty") == 0
    for read_only in ([], ["--read-only"]):
        command.run("mount", "data", point, *read_only)
        assert (point / "volume").read_bytes() == image.read_bytes()
        command.run("unmount", "data")
    assert written(command, "data") == 6 * CHUNK_BYTES
    command.run("mount", "data", point)
    write(point, 100, 4096)  # two units
    assert written(command, "data") >= 6 * CHUNK_BYTES + 8192
    command.run("unmount", "data")
    assert written(command, "data") == 6 * CHUNK_BYTES + 8192
    # A process that is killed may have used all that it had taken.
    command.run("mount", "data", point)
    write(point, 0, 2**20)
    command.kill_processes()
    command.clear_dead_mount(point)
    after = written(command, "data")
    assert 6 * CHUNK_BYTES + 8192 + 2**20 <= after <= 6 * CHUNK_BYTES + 8192 + 2**20 + STEP_BYTES
    command.run("mount", "data", point)
    write(point, 0, 4096)
    command.run("unmount", "data")
    assert written(command, "data") == after + 4096


def test_what_is_not_encrypted_is_not_counted(command: Command, image: Path) -> None:
    command.run("volume", "import", image, "--name", "plain", "--unencrypted")
    found = shown(command, "plain")
    assert found["WrittenBytes"] is found["WriteBudgetBytes"] is None
    command.run("snapshot", "create", "--wait", "plain", "--name", "first")
    assert shown(command, "first", "snapshot")["WrittenBytes"] is None
    assert list((command.home / "written").iterdir()) == []


def test_of_a_lineage(command: Command, image: Path, tmp_path: Path) -> None:
    point = image.with_name("mnt")
    command.run("volume", "import", image, "--name", "data")
    key = data_key(command, "data")
    command.run("snapshot", "create", "--wait", "data", "--name", "first")
    assert written(command, "first", "snapshot") == 6 * CHUNK_BYTES
    command.run("volume", "create", "--snapshot-id", "first", "--name", "child")
    assert data_key(command, "child") == key
    assert written(command, "child") == written(command, "data") == 6 * CHUNK_BYTES
    command.run("mount", "child", point)
    write(point, 0, 2**20)
    command.run("unmount", "child")
    assert written(command, "child") == written(command, "data") == 6 * CHUNK_BYTES + 2**20
    # Under the same key a copy is of the same lineage.
    command.run("snapshot", "copy", "--wait", "first", "--name", "same")
    assert written(command, "same", "snapshot") == 6 * CHUNK_BYTES + 2**20
    # Under another one everything is encrypted once.
    other = command.run("kms", "create-key")
    command.run("snapshot", "copy", "--wait", "first", "--name", "other", "--kms-key-id", other)
    assert written(command, "other", "snapshot") == 6 * CHUNK_BYTES
    command.run("volume", "create", "--snapshot-id", "other", "--name", "of-other")
    assert written(command, "of-other") == 6 * CHUNK_BYTES
    command.run(
        "volume", "create", "--snapshot-id", "first", "--name", "new", "--kms-key-id", other
    )
    assert data_key(command, "new") != key
    assert written(command, "new") == 6 * CHUNK_BYTES
    # The count outlives the volumes, since the snapshots do, and another home has what they say.
    command.run("volume", "delete", "data")
    command.run("volume", "delete", "child")
    command.run("volume", "create", "--snapshot-id", "first", "--name", "again")
    assert written(command, "again") == 6 * CHUNK_BYTES + 2**20
    command.run("volume", "delete", "again")
    (command.home / "written" / key).unlink()
    command.run("volume", "create", "--snapshot-id", "same", "--name", "elsewhere")
    assert written(command, "elsewhere") == 6 * CHUNK_BYTES + 2**20


def test_of_an_encryption(command: Command, image: Path) -> None:
    command.run("volume", "import", image, "--name", "data", "--unencrypted")
    command.run("encrypt", "data")
    assert written(command, "data") == 6 * CHUNK_BYTES


def test_a_backup_has_the_counts(command: Command, image: Path, tmp_path: Path) -> None:
    command.run("volume", "import", image, "--name", "data")
    (tmp_path / "word").write_text("correct horse")
    command.run("backup", tmp_path / "file", "--passphrase-file", tmp_path / "word")
    with disposable_home(tmp_path / "restored") as other:
        other.run("restore", tmp_path / "file", "--passphrase-file", tmp_path / "word")
        assert written(other, "data") == 6 * CHUNK_BYTES


def test_warnings(command: Command, image: Path, tmp_path: Path) -> None:
    point = image.with_name("mnt")
    command.run("volume", "import", image, "--name", "data")
    command.run("snapshot", "create", "--wait", "data", "--name", "first")
    command.run("volume", "create", "--snapshot-id", "first", "--name", "child")
    key = data_key(command, "data")

    def warnings() -> list[str]:
        found = [text for text in command.json("status")["Warnings"] if "data key" in text]
        assert len(found) <= 1
        assert all(text in command.run("status") for text in found)
        return found

    set_count(command, key, BUDGET_BYTES // 2 - 2**20)
    assert warnings() == []
    command.run("mount", "data", point)
    write(point, 0, 2**20)
    log = command.runtime / f"{shown(command, 'data')['VolumeId']}.log"
    assert f"written under {key}" in log.read_text()
    command.run("unmount", "data")
    (text,) = warnings()
    assert text.startswith("more than half of the 256 TiB that one data key should encrypt")
    assert f"under {key} (" in text
    assert "data" in text.partition("(")[2]
    assert "child" in text.partition("(")[2]
    assert (
        "up to 128 TiB under its data key, which is good for 256 TiB; more than half"
        in command.run("volume", "show", "child")
    )
    set_count(command, key, BUDGET_BYTES)
    (text,) = warnings()
    assert text.startswith("all of the 256 TiB that one data key should encrypt are used up")
    # It goes on, and the remedy that is named is one.
    command.run("mount", "data", point)
    write(point, 0, 4096)
    command.run("unmount", "data")
    command.run("snapshot", "create", "--wait", "data", "--name", "late")
    assert written(command, "late", "snapshot") == BUDGET_BYTES + 4096
    default = "alias/volcrypt/ebs"
    command.run(
        "volume", "create", "--snapshot-id", "late", "--name", "new", "--kms-key-id", default
    )
    assert data_key(command, "new") != key
    assert written(command, "new") < 2**30
    for name in ("data", "child"):
        command.run("volume", "delete", name)
    assert warnings() == []


def test_a_count_that_is_damaged_warns(command: Command, image: Path) -> None:
    command.run("volume", "import", image, "--name", "data")
    (command.home / "written" / data_key(command, "data")).write_bytes(b"volcrypt write-count 1\n")
    assert any("data key" in text for text in command.json("status")["Warnings"])
    assert written(command, "data") == BUDGET_BYTES


def test_no_volume_is_larger_than_64_tib(command: Command, image: Path, tmp_path: Path) -> None:
    too_large = "cannot be larger than 64 TiB"
    assert too_large in command.fails(2, "volume", "create", "--size", "65TiB")
    assert too_large in command.fails(2, "volume", "create", "--size", str(64 * TiB + 4096))
    command.run("volume", "import", image, "--name", "data")
    assert too_large in command.fails(2, "volume", "grow", "data", "--size", "65TiB")
    command.run("snapshot", "create", "--wait", "data", "--name", "first")
    larger = ["volume", "create", "--snapshot-id", "first", "--size", "65TiB"]
    assert too_large in command.fails(2, *larger)
    sparse = Path("/dev/shm") / f"volcrypt-test-{os.getpid()}"
    try:
        with sparse.open("wb") as file:
            file.truncate(64 * TiB + 1)
        assert too_large in command.fails(2, "volume", "import", sparse)
    finally:
        sparse.unlink()
