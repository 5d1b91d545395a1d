"""Lazy volumes and mounted snapshots, as a user has them: the command, real processes, real mounts,
a directory and a real S3 server."""

import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import pytest
from blake3 import blake3

from tests.command import Command, disposable_home, kill_and_wait
from tests.faulty_proxy import Answer, FaultyProxy, Request, failure
from tests.s3_server import BUCKET, S3Server
from volcrypt.geometry import CHUNK_BYTES

CHUNKS = 24
SIZE = CHUNKS * CHUNK_BYTES
EMPTY = {5, 6}


def image_bytes() -> bytes:
    dice = Random(7)
    return b"".join(
        bytes(CHUNK_BYTES) if index in EMPTY else dice.randbytes(CHUNK_BYTES)
        for index in range(CHUNKS)
    )


IMAGE = image_bytes()


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    """A home with volume `data`, its snapshot `first`, and one that is not encrypted, `plain`."""
    root = tmp_path_factory.mktemp("lazy")
    (root / "image").write_bytes(IMAGE)
    (root / "mnt").mkdir()
    with disposable_home(root / "home") as made:
        made.run("init")
        made.run("volume", "import", root / "image", "--name", "data")
        made.run("snapshot", "create", "--wait", "data", "--name", "first")
        made.run("volume", "import", root / "image", "--name", "open", "--unencrypted")
        made.run("snapshot", "create", "--wait", "open", "--name", "plain")
        yield made


@pytest.fixture
def point(command: Command) -> Path:
    return command.home.parent / "mnt"


def make(command: Command, name: str, *options: str, snapshot: str = "first") -> str:
    return command.run(
        "volume", "create", "--snapshot-id", snapshot, "--name", name, "--fill-rate", "0", *options
    )


@contextmanager
def mounted(command: Command, name: str, point: Path, *options: str) -> Iterator[Path]:
    command.run("mount", name, point, *options)
    try:
        yield point / "volume"
    finally:
        command.run("unmount", name)


def read(file: Path, chunk: int, shift: int = 0, size: int = 4096) -> bytes:
    with open(file, "rb", buffering=0) as opened:
        return os.pread(opened.fileno(), size, chunk * CHUNK_BYTES + shift)


def expected(chunk: int, shift: int = 0, size: int = 4096) -> bytes:
    start = chunk * CHUNK_BYTES + shift
    return IMAGE[start : start + size]


def write(file: Path, offset: int, data: bytes) -> None:
    descriptor = os.open(file, os.O_WRONLY)
    try:
        assert os.pwrite(descriptor, data, offset) == len(data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def progress(command: Command, name: str) -> dict[str, object] | None:
    document = command.json("volume", "show", name)["Initialization"]
    assert document is None or isinstance(document, dict)
    return document


def chunk_files(command: Command, volume: str = "data") -> dict[int, Path]:
    """Where in the local store the chunks of a volume that is not mounted lie."""
    volume_id = command.json("volume", "show", volume)["VolumeId"]
    data = (command.home / "volumes" / volume_id / "data").read_bytes()
    store = command.home / "stores/local/chunks"
    found = {}
    for index in set(range(CHUNKS)) - EMPTY:
        name = blake3(data[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES]).hexdigest()
        found[index] = store / name[:2] / name
    return found


def pins(command: Command) -> list[str]:
    return sorted(path.name for path in (command.home / "stores/local/pins").glob("*"))


def test_a_volume_is_there_at_once_and_whole_after_a_while(command: Command, point: Path) -> None:
    volume_id = make(command, "once")
    assert command.json("volume", "show", "once")["AllocatedBytes"] == 0
    assert progress(command, "once") == {
        "Progress": "0%",
        "PresentChunks": 0,
        "TotalChunks": CHUNKS,
        "Rate": 0,
        "Problem": None,
    }
    assert pins(command) == [volume_id]
    with mounted(command, "once", point) as file:
        assert read(file, 9) == expected(9)
        (used,) = command.json("status")["InUse"]
        assert (used["VolumeId"], used["Initialization"]["PresentChunks"]) == (volume_id, 2 + 2)
        assert "16 %, when touched" in command.run("status")
        write(file, 3 * CHUNK_BYTES + 77, b"written over")
    # Another rate for this mount: it fills, and is an ordinary volume for the next command.
    with mounted(command, "once", point, "--fill-rate", "10GiB"):
        while any(used["Initialization"] for used in command.json("status")["InUse"]):
            pass
        assert progress(command, "once") is None
        assert pins(command) == []
        changed = bytearray(IMAGE)
        start = 3 * CHUNK_BYTES + 77
        changed[start : start + 12] = b"written over"
        assert (point / "volume").read_bytes() == changed
    command.run("volume", "check", "once")
    # Once no mount that began before can look for it.
    assert not (command.home / "volumes" / volume_id / "present").exists()
    command.run("volume", "delete", "once")


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[1000] ^= 1
    path.write_bytes(data)


def test_what_the_store_has_wrong_is_an_error_of_that_range_alone(
    command: Command, point: Path, tmp_path: Path
) -> None:
    volume_id = make(command, "harmed")
    files = chunk_files(command)
    damages: dict[int, Callable[[Path], None]] = {8: _cut, 10: _empty, 12: _flip, 14: Path.unlink}
    for chunk in (*damages, 16, 17):
        shutil.copy(files[chunk], tmp_path / str(chunk))
    for chunk, damage in damages.items():
        damage(files[chunk])
    shutil.copy(tmp_path / "16", files[17])
    shutil.copy(tmp_path / "17", files[16])
    bad = {*damages, 16, 17}
    with mounted(command, "harmed", point) as file:
        for chunk in range(CHUNKS):
            if chunk in bad:
                with pytest.raises(OSError, match="Input/output") as raised:
                    read(file, chunk)
                assert raised.value.errno == errno.EIO
                with pytest.raises(OSError, match="Input/output"):
                    write(file, chunk * CHUNK_BYTES + 5, b"x")
            else:
                assert read(file, chunk) == expected(chunk)
        (used,) = command.json("status")["InUse"]
        assert "chunk 17 of snapshot" in used["Initialization"]["Problem"]
        log = command.runtime / f"{volume_id}.log"
        assert log.read_text().count("cannot be had") == len(bad)
        # The snapshot needs them, and says which it cannot have.
        assert "chunk " in command.fails(6, "snapshot", "create", "--wait", "harmed")
        for chunk in bad:
            shutil.copy(tmp_path / str(chunk), files[chunk])
        for chunk in bad:
            assert read(file, chunk) == expected(chunk)
        assert file.read_bytes() == IMAGE
    log.unlink(missing_ok=True)
    command.run("volume", "delete", "harmed")


def test_kills_during_the_filling_cost_nothing(command: Command, point: Path) -> None:
    volume_id = make(command, "killed")
    model = bytearray(IMAGE)
    dice = Random(3)
    for round_ in range(3):
        command.run("mount", "killed", point, "--fill-rate", "256KiB")
        for _ in range(4):
            offset = dice.randrange(SIZE - 9000)
            data = dice.randbytes(dice.choice((10, 4096, 9000)))
            write(point / "volume", offset, data)
            model[offset : offset + len(data)] = data
        (pid,) = command.processes()
        kill_and_wait(pid)
        command.clear_dead_mount(point)
        state = progress(command, "killed")
        assert state is not None, round_
    with mounted(command, "killed", point) as file:
        assert file.read_bytes() == model
    # All is here: the next command makes it an ordinary volume.
    command.run("volume", "list")
    assert progress(command, "killed") is None
    assert volume_id not in pins(command)
    command.run("volume", "delete", "killed")


@pytest.mark.parametrize("snapshot", ["first", "plain"])
def test_under_another_key_no_chunk_is_stored_as_it_was(
    command: Command, point: Path, tmp_path: Path, snapshot: str
) -> None:
    key = command.run("kms", "create-key")
    volume_id = make(command, "other", "--kms-key-id", key, snapshot=snapshot)
    with mounted(command, "other", point, "--fill-rate", "0") as file:
        write(file, 2 * CHUNK_BYTES + 1, b"first this")
        assert (
            file.read_bytes()
            == IMAGE[: 2 * CHUNK_BYTES + 1] + b"first this" + (IMAGE[2 * CHUNK_BYTES + 11 :])
        )
    stored = (command.home / "volumes" / volume_id / "data").read_bytes()
    unwanted = {IMAGE[at : at + 4096] for at in range(0, SIZE, 4096)} - {bytes(4096)}
    source = "data" if snapshot == "first" else "open"
    source_id = command.json("volume", "show", source)["VolumeId"]
    other = (command.home / "volumes" / source_id / "data").read_bytes()
    unwanted |= {other[at : at + 4096] for at in range(0, SIZE, 4096)} - {bytes(4096)}
    found = {stored[at : at + 4096] for at in range(0, SIZE, 4096)}
    assert len(found) > 2000
    assert not found & unwanted
    # The control: that is how they would be found.
    assert {IMAGE[:4096], other[:4096]} <= unwanted
    command.run("volume", "delete", "other")


def test_the_snapshot_may_be_deleted_and_others_sweep(
    command: Command, point: Path, tmp_path: Path
) -> None:
    command.run("volume", "import", command.home.parent / "image", "--name", "gone")
    command.run("snapshot", "create", "--wait", "gone", "--name", "doomed")
    volume_id = make(command, "heir", snapshot="doomed")
    command.run("snapshot", "delete", "doomed")
    command.run("volume", "delete", "gone")
    with mounted(command, "heir", point) as file:
        write(file, 4 * CHUNK_BYTES, b"new")
        # A snapshot of a mounted lazy volume is what one of the whole volume is.
        snapshot = command.run("snapshot", "create", "--wait", "heir", "--name", "child")
        root = command.json("snapshot", "show", snapshot)["Root"]
    command.run("volume", "list")
    assert volume_id not in pins(command)
    again = command.run("snapshot", "create", "--wait", "heir", "--name", "again")
    assert command.json("snapshot", "show", again)["Root"] == root
    second = make(command, "second", snapshot="child")
    assert pins(command) == [second]
    for name in ("child", "again"):
        command.run("snapshot", "delete", name)
    command.run("volume", "export", "--yes", "second", tmp_path / "out")
    model = bytearray(IMAGE)
    model[4 * CHUNK_BYTES : 4 * CHUNK_BYTES + 3] = b"new"
    assert (tmp_path / "out").read_bytes() == model
    assert pins(command) == []
    # A volume that is deleted holds nothing any more.
    make(command, "third")
    assert len(pins(command)) == 1
    command.run("volume", "delete", "third")
    assert pins(command) == []
    for name in ("heir", "second"):
        command.run("volume", "delete", name)


def test_growing_one_that_is_not_here_yet(command: Command, point: Path, tmp_path: Path) -> None:
    make(command, "grown", "--size", str(SIZE + 4096))
    with mounted(command, "grown", point) as file:
        command.run("volume", "grow", "grown", "--size", str(SIZE + 3 * CHUNK_BYTES))
        write(file, SIZE + CHUNK_BYTES, b"behind")
        assert read(file, CHUNKS + 1)[:8] == b"behind\0\0"
        assert read(file, CHUNKS - 1) == expected(CHUNKS - 1)
    command.run("volume", "grow", "grown", "--size", str(SIZE + 5 * CHUNK_BYTES))
    command.run("volume", "export", "--yes", "grown", tmp_path / "out")
    tail = bytearray(5 * CHUNK_BYTES)
    tail[CHUNK_BYTES : CHUNK_BYTES + 6] = b"behind"
    assert (tmp_path / "out").read_bytes() == IMAGE + tail
    command.run("volume", "delete", "grown")


def test_a_present_map_that_is_missing_or_damaged_is_refused(
    command: Command, point: Path, tmp_path: Path
) -> None:
    volume_id = make(command, "mapped")
    path = command.home / "volumes" / volume_id / "present"
    whole = path.read_bytes()
    for damaged in (None, b"", whole[:700], whole[:40] + b"x" + whole[41:], whole[:-1] + b"\1"):
        if damaged is None:
            path.unlink()
        else:
            path.write_bytes(damaged)
        for arguments in (
            ("mount", "mapped", str(point)),
            ("volume", "export", "--yes", "mapped", str(tmp_path / "out")),
            ("snapshot", "create", "--wait", "mapped"),
            ("volume", "check", "mapped"),
        ):
            assert f"present map of volume {volume_id}" in command.fails(6, *arguments)
        assert "present map" in str(progress(command, "mapped"))
    path.write_bytes(whole)
    command.run("volume", "check", "mapped")
    command.run("volume", "delete", "mapped")


def test_without_its_store_one_is_mounted_if_its_beginning_is_here(
    command: Command, point: Path
) -> None:
    store = command.home / "stores/local"
    aside = store.with_name("aside")
    make(command, "alone")
    store.rename(aside)
    try:
        assert f"snapshot store {store}" in command.fails(3, "mount", "alone", point)
        aside.rename(store)
        with mounted(command, "alone", point) as file:
            assert read(file, 0) == expected(0)
        store.rename(aside)
        with mounted(command, "alone", point) as file:
            assert read(file, 0) == expected(0)
            with pytest.raises(OSError, match="Input/output"):
                read(file, 1)
            aside.rename(store)
            assert read(file, 1) == expected(1)
    finally:
        if aside.exists():
            aside.rename(store)
    command.run("volume", "delete", "alone")


def test_mkfs_is_refused_on_one_that_is_not_here_yet(command: Command) -> None:
    make(command, "full")
    assert "is not empty" in command.fails(2, "attach", "full", "--mkfs", "ext4")
    command.run("volume", "delete", "full")


def test_a_snapshot_is_mounted_as_it_is(command: Command, point: Path) -> None:
    command.run("snapshot", "create", "--wait", "data", "--name", "data")
    snapshot_id = command.json("snapshot", "show", "data")["SnapshotId"]
    done = command.json("mount", snapshot_id, point)
    assert (done["SnapshotId"], done["VolumeId"]) == (snapshot_id, None)
    scratch = command.home / "scratch"
    (directory,) = scratch.iterdir()
    assert [path.name for path in directory.iterdir()] == ["owner"]
    assert pins(command) == [directory.name]
    with pytest.raises(OSError, match="Read-only"):
        write(point / "volume", 0, b"x")
    assert read(point / "volume", 20) == expected(20)
    status = command.json("status")
    (used,) = status["InUse"]
    assert (used["SnapshotId"], used["MountPoint"]) == (snapshot_id, str(point))
    assert status["Volumes"]["InUse"] == 0
    command.run("snapshot", "delete", snapshot_id)
    assert (point / "volume").read_bytes() == IMAGE
    assert command.json("unmount", snapshot_id) == {"SnapshotId": snapshot_id}
    assert list(scratch.iterdir()) == []
    assert pins(command) == []


def test_a_killed_mount_of_a_snapshot_leaves_nothing(command: Command, point: Path) -> None:
    command.run("mount", "plain", point)
    (used,) = command.json("status")["InUse"]
    assert used["Name"] == "plain"
    kill_and_wait(used["Pid"])
    command.run("unmount", point)
    command.run("volume", "list")
    assert list((command.home / "scratch").iterdir()) == []
    with mounted(command, "plain", point) as file:
        assert file.read_bytes() == IMAGE
    assert "volume or snapshot nowhere does not exist" in command.fails(
        3, "mount", "nowhere", point
    )
    # What the killed one had pinned goes with the next sweep.
    command.run("snapshot", "create", "--wait", "open", "--name", "short")
    command.run("snapshot", "delete", "short")
    assert pins(command) == []


def test_one_read_is_one_chunk_from_s3_and_an_outage_is_an_error(
    command: Command,
    point: Path,
    s3_server: S3Server,
    prefix: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    with FaultyProxy(s3_server.port) as proxy:
        url = f"s3://{BUCKET}/{prefix}"
        command.run("store", "create", "away", "--url", url, "--endpoint", proxy.endpoint)
        command.run("snapshot", "copy", "--wait", "first", "--name", "there", "--store", "away")
        make(command, "far", snapshot="there")
        proxy.requests.clear()
        with mounted(command, "far", point) as file:
            # The table, the page and the first chunk came for the first read of the mount.
            assert [count(proxy, kind) for kind in ("pages", "chunks")] == [2, 1]
            assert read(file, 9, shift=8192) == expected(9, shift=8192)
            assert read(file, 9, shift=100_000) == expected(9, shift=100_000)
            assert [count(proxy, kind) for kind in ("pages", "chunks")] == [2, 2]

            def outage(request: Request, forward: Callable[[], Answer]) -> Answer | None:
                return (
                    failure(503, "ServiceUnavailable") if "/chunks/" in request.path else forward()
                )

            proxy.fault = outage
            for chunk in (10, 11):
                with pytest.raises(OSError, match="Input/output"):
                    read(file, chunk)
            assert read(file, 9) == expected(9)

            def lies(request: Request, forward: Callable[[], Answer]) -> Answer | None:
                answer = forward()
                if "/chunks/" in request.path:
                    answer.body = hashlib.sha256(answer.body).digest() + answer.body[32:]
                return answer

            proxy.fault = lies
            with pytest.raises(OSError, match="Input/output"):
                read(file, 12)
            proxy.fault = None
            for chunk in (10, 11, 12):
                assert read(file, chunk) == expected(chunk)
        command.run("volume", "delete", "far")
        command.run("snapshot", "delete", "there")


def count(proxy: FaultyProxy, kind: str) -> int:
    return proxy.count("GET", f"/{kind}/")


def test_a_home_restored_from_a_backup_of_while_it_was_lazy(
    command: Command, point: Path, tmp_path: Path
) -> None:
    """The data that is put into the new home was filled after the backup, or was not."""
    volume_id = make(command, "moved")
    (tmp_path / "passphrase").write_text("correct horse battery staple")
    secret = ("--passphrase-file", tmp_path / "passphrase")
    command.run("backup", tmp_path / "backup", *secret)
    old, new = (place / "volumes" / volume_id for place in (command.home, tmp_path / "new"))
    with mounted(command, "moved", point) as file:
        write(file, 3 * CHUNK_BYTES + 77, b"written since")
    with disposable_home(tmp_path / "new") as restored:
        restored.run("restore", tmp_path / "backup", *secret)
        shutil.copytree(
            command.home / "stores/local", restored.home / "stores/local", dirs_exist_ok=True
        )
        shutil.copy(old / "data", new)
        complaint = restored.fails(6, "volume", "export", "--yes", "moved", tmp_path / "image")
        assert "volume check VOLUME --assume-whole" in complaint
        # It was not filled, and that is seen.
        complaint = restored.fails(6, "volume", "check", "moved", "--assume-whole")
        assert "is not whole" in complaint
        shutil.copy(old / "present", new)
        complaint = restored.fails(2, "volume", "check", "moved", "--assume-whole")
        assert "which says what is missing" in complaint
        (new / "present").unlink()
        command.run("volume", "export", "--yes", "moved", tmp_path / "image")
        shutil.copy(old / "data", new)
        restored.run("volume", "check", "moved", "--assume-whole")
        assert restored.json("volume", "show", "moved")["Initialization"] is None
        restored.run("volume", "export", "--yes", "moved", tmp_path / "again")
        assert (tmp_path / "again").read_bytes() == (tmp_path / "image").read_bytes()
        assert b"written since" in (tmp_path / "image").read_bytes()
    command.run("volume", "delete", "moved")


@pytest.mark.parametrize("end", ["deleted", "filled"])
def test_chunks_of_a_deleted_snapshot_go_with_the_last_volume_that_needs_them(
    tmp_path: Path, end: str
) -> None:
    (tmp_path / "image").write_bytes(IMAGE[: 2 * CHUNK_BYTES])
    with disposable_home(tmp_path / "home") as command:
        command.run("init")
        command.run("volume", "import", tmp_path / "image", "--name", "data")
        command.run("snapshot", "create", "--wait", "data", "--name", "first")
        make(command, "last")
        command.run("snapshot", "delete", "first")
        chunks = command.home / "stores/local/chunks"
        assert len(list(chunks.glob("*/*"))) == 2
        if end == "deleted":
            command.run("volume", "delete", "last")
        else:
            command.run("volume", "export", "--yes", "last", tmp_path / "out")
            command.run("store", "check", "local")
        assert list(chunks.glob("*/*")) == []
