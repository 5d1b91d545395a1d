"""What is in snapshots, and what to do when it is damaged: diff, export, verify, delete."""

import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.command import Command, disposable_home
from volcrypt.geometry import CHUNK_BYTES, UNIT_BYTES

SIZE = 5 * CHUNK_BYTES + UNIT_BYTES


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """Random data in chunks 0, 1, 3 and the short last one; chunk 2 is a hole, 4 partly zeros. The
    same each time: what tests write over it, a byte or two, is something else."""
    content = bytearray(random.Random(1).randbytes(SIZE))
    content[2 * CHUNK_BYTES : 3 * CHUNK_BYTES] = bytes(CHUNK_BYTES)
    content[4 * CHUNK_BYTES + 512 : 5 * CHUNK_BYTES] = bytes(CHUNK_BYTES - 512)
    path = tmp_path / "image"
    path.write_bytes(content)
    return path


@pytest.fixture
def command(tmp_path: Path, image: Path) -> Iterator[Command]:
    """Volume `data` of the image, and snapshot `first` of it."""
    with disposable_home(tmp_path / "home") as made:
        made.run("init")
        made.run("volume", "import", image, "--name", "data")
        made.run("snapshot", "create", "data", "--name", "first", "--wait")
        yield made


def overwrite(command: Command, tmp_path: Path, offset: int, data: bytes) -> None:
    point = tmp_path / "point"
    point.mkdir(exist_ok=True)
    command.run("mount", "data", point)
    with (point / "volume").open("r+b") as file:
        file.seek(offset)
        file.write(data)
    command.run("unmount", point)


def chunk_files(command: Command) -> dict[str, Path]:
    store = command.home / "stores/local/chunks"
    return {path.name: path for path in store.rglob("*") if path.is_file()}


def test_diff_lists_what_changed(command: Command, tmp_path: Path) -> None:
    command.run("snapshot", "create", "data", "--name", "same", "--wait")
    nothing = command.json("snapshot", "diff", "first", "same")
    assert (nothing["ChangedBlocks"], nothing["ChangedRanges"]) == (0, [])
    overwrite(command, tmp_path, CHUNK_BYTES - 1, b"xy")
    overwrite(command, tmp_path, SIZE - 1, b"z")
    command.run("snapshot", "create", "data", "--name", "second", "--wait")
    expected = [
        {"Offset": 0, "Length": 2 * CHUNK_BYTES, "FirstBlock": 0},
        {"Offset": 5 * CHUNK_BYTES, "Length": UNIT_BYTES, "FirstBlock": 5},
    ]
    for pair in (("first", "second"), ("second", "first")):
        found = command.json("snapshot", "diff", *pair)
        assert found["ChangedRanges"] == expected
        assert (found["ChangedBlocks"], found["BlockSize"], found["VolumeSize"]) == (
            3,
            CHUNK_BYTES,
            SIZE,
        )
    lines = command.run("snapshot", "diff", "first", "second").splitlines()
    assert [line.split() for line in lines[1:3]] == [
        ["0", str(2 * CHUNK_BYTES), "2"],
        [str(5 * CHUNK_BYTES), str(UNIT_BYTES), "1"],
    ]
    assert lines[3] == "chunks that differ: 3, 1.004 MiB"


def test_diff_of_a_volume_that_has_grown(command: Command, tmp_path: Path) -> None:
    command.run("volume", "grow", "data", "--size", str(9 * CHUNK_BYTES))
    overwrite(command, tmp_path, 7 * CHUNK_BYTES, b"x")
    command.run("snapshot", "create", "data", "--name", "second", "--wait")
    found = command.json("snapshot", "diff", "first", "second")
    # The last chunk of the smaller one was short.
    assert [each["FirstBlock"] for each in found["ChangedRanges"]] == [5, 7]
    assert found["VolumeSize"] == 9 * CHUNK_BYTES


def test_copies_are_compared_with_copies(command: Command, tmp_path: Path) -> None:
    key = command.run("kms", "create-key")
    command.run("snapshot", "copy", "first", "--name", "one", "--kms-key-id", key, "--wait")
    overwrite(command, tmp_path, 0, b"x")
    command.run("snapshot", "create", "data", "--name", "second", "--wait")
    command.run("snapshot", "copy", "second", "--name", "two", "--kms-key-id", key, "--wait")
    assert command.json("snapshot", "diff", "one", "two")["ChangedBlocks"] == 1
    words = command.fails(2, "snapshot", "diff", "first", "two")
    assert "are under different data keys" in words
    assert "hint: compare snapshots of one volume" in words


def test_a_snapshot_is_exported(command: Command, image: Path, tmp_path: Path) -> None:
    overwrite(command, tmp_path, 0, b"later")
    target = tmp_path / "out"
    done = command.json("snapshot", "export", "--yes", "first", target)
    assert (done["File"], done["Size"], done["Skipped"]) == (str(target), SIZE, [])
    assert target.read_bytes() == image.read_bytes()
    assert target.stat().st_mode & 0o777 == 0o600
    assert target.stat().st_blocks * 512 <= SIZE - CHUNK_BYTES + 2**16  # the hole is one
    assert "exists already" in command.fails(4, "snapshot", "export", "--yes", "first", target)
    (record,) = command.json("audit", "list", "--operation", "ExportSnapshot")["Records"]
    assert record["requestParameters"]["encryptionContext"] == {
        "volcrypt:snapshot-id": done["SnapshotId"]
    }


def test_plaintext_is_not_written_unasked(command: Command, tmp_path: Path) -> None:
    words = command.fails(2, "snapshot", "export", "first", tmp_path / "out")
    assert "no terminal to ask" in words
    assert "hint: add --yes" in words
    assert not (tmp_path / "out").exists()


def test_an_unencrypted_snapshot_is_exported(command: Command, image: Path, tmp_path: Path) -> None:
    command.run("volume", "import", image, "--name", "plain", "--unencrypted")
    command.run("snapshot", "create", "plain", "--name", "clear", "--wait")
    command.run("snapshot", "export", "clear", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == image.read_bytes()


def test_without_its_key_nothing_is_exported(command: Command, tmp_path: Path) -> None:
    key = command.run("kms", "create-key")
    command.run("snapshot", "copy", "first", "--name", "one", "--kms-key-id", key, "--wait")
    command.run("kms", "disable-key", "--key-id", key)
    assert "disabled" in command.fails(5, "snapshot", "export", "--yes", "one", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_damage_fails_an_export_or_is_left_out(
    command: Command, image: Path, tmp_path: Path
) -> None:
    before = set(chunk_files(command))
    overwrite(command, tmp_path, 3 * CHUNK_BYTES, b"another")
    command.run("snapshot", "create", "data", "--name", "second", "--wait")
    (new,) = set(chunk_files(command)) - before
    chunk_files(command)[new].write_bytes(b"damaged")
    target = tmp_path / "out"
    words = command.fails(6, "snapshot", "export", "--yes", "second", target)
    assert "chunk 3 of snapshot" in words
    assert "hint: --skip-damaged writes all that can be read" in words
    assert not target.exists()
    done = command.try_run(
        "--json", "snapshot", "export", "--yes", "second", target, "--skip-damaged"
    )
    assert done.returncode == 6
    assert '"Offset": 1572864' in done.stdout
    expected = bytearray(image.read_bytes())
    expected[3 * CHUNK_BYTES : 4 * CHUNK_BYTES] = bytes(CHUNK_BYTES)
    assert target.read_bytes() == expected
    target.unlink()
    text = command.try_run("snapshot", "export", "--yes", "second", target, "--skip-damaged").stdout
    assert f"skipped: bytes {3 * CHUNK_BYTES} to {4 * CHUNK_BYTES - 1}: chunk" in text


def test_a_damaged_page_is_left_out(command: Command, tmp_path: Path) -> None:
    pages = [path for path in (command.home / "stores/local/pages").rglob("*") if path.is_file()]
    page = max(pages, key=lambda path: path.stat().st_size)
    page.write_bytes(page.read_bytes()[:-1])
    target = tmp_path / "out"
    done = command.try_run("snapshot", "export", "--yes", "first", target, "--skip-damaged")
    assert done.returncode == 6
    assert f"skipped: bytes 0 to {SIZE - 1}: " in done.stdout
    assert target.read_bytes() == bytes(SIZE)


def test_units_of_a_volume_that_cannot_be_read_are_left_out(
    command: Command, image: Path, tmp_path: Path
) -> None:
    """Every third read of the data file fails: that of chunk 1, then single units of it."""
    target = tmp_path / "out"
    inject = "inject=preadv,preadv2:error=EIO:when=2+3"
    strace = ("strace", "-f", "-o", "/dev/null", "-e", "trace=preadv,preadv2", "-e", inject)
    broken = Command(command.home)
    done = broken.try_run("volume", "export", "--yes", "data", target, prefix=strace)
    assert done.returncode == 1
    assert "hint: --skip-damaged writes" in done.stderr
    assert not target.exists()
    given = ("--json", "volume", "export", "--yes", "data", target, "--skip-damaged")
    done = broken.try_run(*given, prefix=strace)
    assert done.returncode == 6, done.stderr
    content, expected = target.read_bytes(), bytearray(image.read_bytes())
    skipped = [line for line in done.stdout.splitlines() if '"Offset"' in line]
    offsets = [int(line.split(":")[1].strip(" ,")) for line in skipped]
    assert offsets
    for offset in offsets:
        assert content[offset : offset + UNIT_BYTES] == bytes(UNIT_BYTES)
        expected[offset : offset + UNIT_BYTES] = bytes(UNIT_BYTES)
    assert content == expected


def test_data_that_lost_its_end_says_what_can_be_done(
    command: Command, image: Path, tmp_path: Path
) -> None:
    (data,) = (command.home / "volumes").glob("*/data")
    os.truncate(data, 3 * CHUNK_BYTES)
    said = command.fails(6, "volume", "export", "--yes", "data", tmp_path / "out")
    assert f"has {3 * CHUNK_BYTES} bytes, the volume's record says {SIZE}" in said
    assert f"'truncate -s {SIZE} {data}'" in said
    os.truncate(data, SIZE)
    command.run("volume", "export", "--yes", "data", tmp_path / "out")
    kept = (tmp_path / "out").read_bytes()[: 3 * CHUNK_BYTES]
    assert kept == image.read_bytes()[: 3 * CHUNK_BYTES]


def test_a_volume_that_cannot_be_filled_has_a_word_in_the_table_and_a_note(
    command: Command, tmp_path: Path
) -> None:
    """The reason is a sentence with a digest, which no column has room for."""
    before = set(chunk_files(command))
    overwrite(command, tmp_path, 3 * CHUNK_BYTES, b"another")
    command.run("snapshot", "create", "data", "--name", "second", "--wait")
    (new,) = set(chunk_files(command)) - before
    chunk_files(command)[new].write_bytes(b"damaged")
    command.run("volume", "create", "--snapshot-id", "second", "--name", "lazy")
    command.run("mount", "lazy", tmp_path / "point")
    with pytest.raises(OSError, match="Input/output error"):
        (tmp_path / "point/volume").read_bytes()
    lines = command.run("status").splitlines()
    (row,) = [line for line in lines if line.startswith("vol-")]
    assert row.endswith(" %, STUCK")
    (note,) = [line for line in lines if line.startswith("note: lazy is not being filled: chunk ")]
    assert note.endswith("is damaged")
    assert " %, STUCK: chunk " in command.run("volume", "show", "lazy")
    command.run("unmount", "lazy")


def test_a_damaged_snapshot_is_given_up(command: Command, tmp_path: Path) -> None:
    overwrite(command, tmp_path, 3 * CHUNK_BYTES, b"another")
    bad = command.run("snapshot", "create", "data", "--name", "bad", "--wait")
    overwrite(command, tmp_path, 0, b"a third")
    third = command.run("snapshot", "create", "data", "--name", "third", "--wait")
    (manifest,) = (command.home / "stores/local/manifests").glob(f"{bad}.*")
    manifest.write_bytes(manifest.read_bytes()[:-9])
    verified = command.try_run("snapshot", "verify")
    assert verified.returncode == 6
    assert f"damaged: manifest of snapshot {bad}" in verified.stdout

    # Others can be deleted; their chunks stay, and why is said.
    chunks = set(chunk_files(command))
    done = command.try_run("snapshot", "delete", third)
    assert done.returncode == 0
    assert f"warning: nothing can be swept from {command.home}/stores/local" in done.stderr
    assert f"'volcrypt snapshot delete {bad}'" in done.stderr
    assert set(chunk_files(command)) == chunks

    # It is given up, and all that nobody needs goes with it.
    done = command.try_run("snapshot", "delete", bad)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(chunk_files(command)) == len(chunks) - 2
    command.run("snapshot", "verify")
    command.run("snapshot", "create", "data", "--name", "fourth", "--wait")
    command.run("snapshot", "verify")


def test_damage_in_common_is_named_for_all(command: Command, tmp_path: Path) -> None:
    first = command.json("snapshot", "show", "first")["SnapshotId"]
    overwrite(command, tmp_path, 0, b"x")
    second = command.run("snapshot", "create", "data", "--name", "second", "--wait")
    shutil.rmtree(command.home / "stores/local/chunks")
    found = command.try_run("--json", "snapshot", "verify")
    assert found.returncode == 6
    assert found.stdout.count(first) == 1 + 5 + 5  # listed; five chunks of it, by name and in lists
    assert found.stdout.count(second) == 1 + 1 + 5
    text = command.try_run("snapshot", "verify", "second").stdout
    assert text.count(f"    also in {second}") == 4
