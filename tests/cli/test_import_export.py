"""`volume import` and `volume export` as a user has them: devices, mounts, terminals, kills."""

import json
import os
import pty
import random
import select
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.command import VOLCRYPT, Command, disposable_home
from tests.cryptsetup import CHEAP_PBKDF, HEADER_BYTES, LUKS2, OFFLINE, PASSPHRASE, run_cryptsetup
from tests.file_system import disposable_file_system
from tests.file_system import run as host
from volcrypt.geometry import CHUNK_BYTES

SIZE = 16 * CHUNK_BYTES
MARK = b"plaintext that is looked for "


def image_bytes() -> bytes:
    """Marks, a hole of four chunks, noise."""
    marks = MARK * (4 * CHUNK_BYTES // len(MARK) + 1)
    noise = random.Random(5).randbytes(SIZE - 8 * CHUNK_BYTES)
    return marks[: 4 * CHUNK_BYTES] + bytes(4 * CHUNK_BYTES) + noise


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    root = tmp_path_factory.mktemp("transfer")
    with disposable_home(root / "home") as made:
        made.run("init")
        yield made


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image"
    path.write_bytes(image_bytes())
    return path


@pytest.fixture(autouse=True)
def _clean(command: Command) -> Iterator[None]:
    yield
    for volume in command.json("volume", "list")["Volumes"]:
        command.run("volume", "delete", volume["VolumeId"])
    assert list((command.home / "work").iterdir()) == []
    assert list((command.home / "volumes").iterdir()) == []


@contextmanager
def loop_device(image: Path, *options: str) -> Iterator[Path]:
    device = Path(host("losetup", "--find", "--show", *options, image).strip())
    try:
        yield device
    finally:
        host("losetup", "--detach", device)


def exported(command: Command, volume: str, target: Path) -> bytes:
    target.unlink(missing_ok=True)
    command.run("volume", "export", "--yes", volume, target)
    return target.read_bytes()


# ---------------------------------------------------------------- import


def test_what_is_said(command: Command, image: Path) -> None:
    key = command.run("kms", "create-key")
    made = command.json("volume", "import", image, "--name", "data", "--kms-key-id", key)
    assert made["KmsKeyId"].endswith(f"/{key}")
    said = made["Import"]
    assert (said["Source"], said["SourceSize"]) == (str(image), SIZE)
    assert said["DataBytes"] == SIZE - 4 * CHUNK_BYTES
    assert (said["Resumed"], said["Sha256"]) == (False, None)
    assert said["Seconds"] > 0
    assert said["BytesPerSecond"] > 0
    target = image.with_name("out")
    back = command.json("volume", "export", "--yes", "data", target)
    assert back["ContentDigest"] == said["ContentDigest"]
    assert back["DataBytes"] == said["DataBytes"]
    assert (back["File"], back["KmsKeyId"]) == (str(target), made["KmsKeyId"])
    assert target.read_bytes() == image.read_bytes()
    assert target.stat().st_mode & 0o777 == 0o600
    # Two ways to the same content have the same digest, another content another one.
    other = command.json("volume", "import", target, "--name", "other", "--unencrypted")
    assert other["Import"]["ContentDigest"] == said["ContentDigest"]
    target.write_bytes(b"x" + image.read_bytes()[1:])
    third = command.json("volume", "import", target, "--name", "third")
    assert third["Import"]["ContentDigest"] != said["ContentDigest"]
    # For scripts: the id alone.
    assert command.run("volume", "import", image).startswith("vol-")


def test_a_size_that_is_no_multiple(command: Command, tmp_path: Path) -> None:
    (tmp_path / "odd").write_bytes(b"x" * 5000)
    done = command.try_run("volume", "import", tmp_path / "odd", "--name", "odd")
    assert "has 5000 bytes, no multiple of 4096: 3192 bytes of zeros follow" in done.stderr
    assert command.json("volume", "show", "odd")["Size"] == 8192


def test_an_expected_digest(command: Command, image: Path) -> None:
    right = host("sha256sum", image).split()[0]
    expect = ("volume", "import", image, "--name", "data", "--expect-sha256")
    assert right in command.fails(6, *expect, "0" * 64)
    command.fails(2, *expect, "0" * 63)
    assert command.json("volume", "list")["Volumes"] == []
    assert command.json(*expect, right.upper())["Import"]["Sha256"] == right


def test_an_interrupted_import(command: Command, image: Path, tmp_path: Path) -> None:
    """`status` names it, the same command goes on, or --abort ends it."""
    inject = f"inject=preadv,preadv2:signal=KILL:when={SIZE // CHUNK_BYTES // 2}"
    only = ("-P", str(image), "-e", "trace=preadv,preadv2", "-e", inject)
    strace = ("strace", "-f", "-o", "/dev/null", *only)
    again = ("volume", "import", image, "--name", "data")
    assert Command(command.home).try_run(*again, prefix=strace).returncode in (-9, 137)
    (unfinished,) = command.json("status")["Imports"]
    assert (unfinished["Source"], unfinished["NextStep"]) == (str(image), "copy")
    volume_id = unfinished["VolumeId"]
    assert f"import of {image} into {volume_id} is unfinished" in command.run("status")
    command.fails(3, "volume", "show", volume_id)
    command.fails(3, "mount", volume_id, tmp_path)
    command.fails(3, "volume", "export", "--yes", volume_id, tmp_path / "out")
    said = command.fails(2, *again, "--unencrypted")
    assert "was begun under arn:" in said
    assert "--abort" in said
    assert volume_id in command.run("volume", "import", image, "--abort")
    assert command.json("status")["Imports"] == []
    assert Command(command.home).try_run(*again, prefix=strace).returncode in (-9, 137)
    command.run(*again)
    assert exported(command, "data", tmp_path / "out") == image.read_bytes()
    assert "no unfinished import" in command.fails(3, "volume", "import", image, "--abort")


def test_a_name_that_is_no_text(command: Command, tmp_path: Path) -> None:
    strange = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\n"))
    strange.write_bytes(b"x" * 4096)
    assert command.run("volume", "import", strange).startswith("vol-")


def test_a_full_disk(tmp_path: Path) -> None:
    """What is copied stays for when there is room; without any there is nothing."""
    with disposable_file_system(tmp_path, size_bytes=96 * 2**20) as disk:
        image = tmp_path / "large"
        image.write_bytes(random.Random(3).randbytes(48 * 2**20))
        with disposable_home(disk.directory / "home") as command:
            command.run("init")
            disk.fill(leave_bytes=44 * 2**20)
            again = ("volume", "import", image, "--name", "data")
            said = command.fails(1, *again)
            assert "no space left" in said
            assert "the same command goes on where this one stopped" in said
            (disk.directory / "ballast").unlink()
            done = command.try_run("--json", "volume", "import", image, "--name", "other")
            assert "went on with an import that was interrupted; vol-" in done.stderr
            assert "has the name other, as given now" in done.stderr
            report = json.loads(done.stdout)
            assert report["Import"]["Resumed"] is True
            assert report["Import"]["ReadBytes"] < 20 * 2**20
            assert exported(command, "other", tmp_path / "out") == image.read_bytes()


def test_a_device(command: Command, image: Path, tmp_path: Path) -> None:
    """Its zeros become holes; it is known again after an interruption."""
    content = image.read_bytes()
    with loop_device(image) as device:
        inject = f"inject=preadv,preadv2:signal=KILL:when={SIZE // CHUNK_BYTES // 2}"
        only = ("-P", str(device), "-e", "trace=preadv,preadv2", "-e", inject)
        strace = ("strace", "-f", "-o", "/dev/null", *only)
        again = ("volume", "import", device, "--name", "data")
        assert Command(command.home).try_run(*again, prefix=strace).returncode in (-9, 137)
        (unfinished,) = command.json("status")["Imports"]
        made = command.json(*again)
        assert made["VolumeId"] == unfinished["VolumeId"]
    assert made["Import"]["DataBytes"] == SIZE - 4 * CHUNK_BYTES
    assert made["AllocatedBytes"] <= SIZE - 4 * CHUNK_BYTES + 2**16
    assert exported(command, "data", tmp_path / "out") == content


def test_a_device_in_use(command: Command, tmp_path: Path) -> None:
    """Mounted to be written it is refused, also by way of the file behind it; read-only it is
    taken."""
    with disposable_file_system(tmp_path) as disk:
        (disk.directory / "file").write_bytes(b"content" * 1000)
        backing = tmp_path / "image"
        for source in (disk.device, backing):
            said = command.fails(4, "volume", "import", source, "--name", "data")
            assert "unmount it first, or remount it read-only" in said
        host("mount", "-o", "remount,ro", disk.directory)
        before = backing.read_bytes()
        for name, source in (("device", disk.device), ("file", backing)):
            command.run("volume", "import", source, "--name", name)
            assert exported(command, name, tmp_path / "out") == before
        host("mount", "-o", "remount,rw", disk.directory)


def test_a_luks_device(command: Command, tmp_path: Path) -> None:
    """With its header on it, which is read while the device is ours."""
    content = random.Random(9).randbytes(2**20)
    data = tmp_path / "data"
    data.write_bytes(content)
    os.truncate(data, len(content) + 2 * HEADER_BYTES)
    reduce = ("--reduce-device-size=32M", "data")
    arguments = ("reencrypt", "--encrypt", *OFFLINE, *LUKS2, *CHEAP_PBKDF, *reduce)
    run_cryptsetup(tmp_path, *arguments, header=None)
    os.truncate(data, len(content) + HEADER_BYTES)
    (tmp_path / "word").write_bytes(PASSPHRASE)
    with loop_device(data) as device:
        word = ("--luks-passphrase-file", tmp_path / "word")
        command.run("volume", "import", device, "--name", "data", *word)
    assert exported(command, "data", tmp_path / "out") == content


# ---------------------------------------------------------------- export


def on_a_terminal(command: Command, answer: str, *arguments: str | Path) -> tuple[int, str]:
    """Exit code and output of a command that is answered on a terminal."""
    child, terminal = pty.fork()
    if child == 0:
        os.execv(VOLCRYPT, [str(VOLCRYPT), "--home", str(command.home), *map(str, arguments)])
    output, answered = b"", False
    while select.select([terminal], [], [], 60)[0]:
        try:
            piece = os.read(terminal, 65536)
        except OSError:  # the other side is gone
            break
        output += piece
        if not answered and b"[y/N]" in output:
            os.write(terminal, answer.encode() + b"\n")
            answered = True
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), output.decode()


def test_plaintext_is_asked_for(command: Command, image: Path, tmp_path: Path) -> None:
    command.run("volume", "import", image, "--name", "data")
    command.run("volume", "import", image, "--name", "plain", "--unencrypted")
    target = tmp_path / "out"
    said = command.fails(2, "volume", "export", "data", target)
    assert "no terminal to ask" in said
    assert "--yes" in said
    code, output = on_a_terminal(command, "n", "volume", "export", "data", target)
    assert code == 1
    assert "not confirmed: nothing was done" in output
    assert "this writes the plaintext of data to" in output
    assert not target.exists()
    code, output = on_a_terminal(command, "y", "volume", "export", "data", target)
    assert (code, target.read_bytes()) == (0, image.read_bytes()), output
    # What is not encrypted is no secret.
    target.unlink()
    command.run("volume", "export", "plain", target)


def test_each_export_is_on_record(command: Command, image: Path, tmp_path: Path) -> None:
    made = command.json("volume", "import", image, "--name", "data")
    exported(command, "data", tmp_path / "out")
    records = command.json("audit", "list")["Records"]
    (record,) = [each for each in records if each["eventName"] == "ExportVolume"][-1:]
    assert made["VolumeId"] in json.dumps(record)


def test_what_is_not_written_to(command: Command, image: Path, tmp_path: Path) -> None:
    command.run("volume", "import", image, "--name", "data")
    target = tmp_path / "out"
    target.write_bytes(b"precious")
    assert "exists already" in command.fails(4, "volume", "export", "--yes", "data", target)
    assert target.read_bytes() == b"precious"
    with loop_device(target) as device:
        said = command.fails(2, "volume", "export", "--yes", "data", device)
        assert "is a block device" in said
    point = tmp_path / "mnt"
    point.mkdir()
    command.run("mount", "data", point)
    said = command.fails(4, "volume", "export", "--yes", "data", tmp_path / "new")
    assert "volcrypt unmount data" in said
    command.run("unmount", "data")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("call", ["pwrite64", "fsync", "linkat"])
def test_a_killed_export_leaves_nothing(
    command: Command, image: Path, tmp_path: Path, call: str
) -> None:
    command.run("volume", "import", image, "--name", "data")
    directory = tmp_path / "to"
    directory.mkdir()
    target = directory / "out"
    export = ("volume", "export", "--yes", "data", target)
    log = tmp_path / "log"
    seen = ("strace", "-f", "-o", str(log), "-e", f"trace={call}")
    done = Command(command.home).try_run(*export, prefix=seen)
    assert done.returncode == 0, done.stderr
    target.unlink()
    number = log.read_text().count(f"{call}(")
    # The last calls are those on the image.
    for when in range(max(1, number - 1), number + 1):
        inject = f"inject={call}:signal=KILL:when={when}"
        killing = ("strace", "-f", "-o", "/dev/null", "-e", f"trace={call}", "-e", inject)
        done = Command(command.home).try_run(*export, prefix=killing)
        assert done.returncode in (-9, 137)
        # The signal comes when the call is over: a link is whole.
        if target.exists():
            assert target.read_bytes() == image.read_bytes()
            target.unlink()
        assert list(directory.iterdir()) == []
    assert exported(command, "data", target) == image.read_bytes()


def test_a_lazy_volume_of_a_damaged_snapshot(command: Command, image: Path, tmp_path: Path) -> None:
    """What cannot be had is left out, and said; it is still to be fetched later."""
    command.run("volume", "import", image, "--name", "data")
    command.run("snapshot", "create", "--wait", "data", "--name", "first")
    command.run("volume", "create", "--snapshot-id", "first", "--name", "lazy")
    chunks = sorted((command.home / "stores/local/chunks").glob("*/*"))
    away = [(path, path.read_bytes()) for path in chunks[:2]]
    away[0][0].unlink()
    away[1][0].write_bytes(b"damaged")
    target = tmp_path / "out"
    said = command.fails(6, "volume", "export", "--yes", "lazy", target)
    assert "chunk" in said
    assert not target.exists()
    done = command.try_run("--json", "volume", "export", "--yes", "lazy", target, "--skip-damaged")
    assert done.returncode == 6, done.stderr
    skipped = json.loads(done.stdout)["Skipped"]
    lost = sum(each["Length"] for each in skipped)
    assert lost == 2 * CHUNK_BYTES
    expected = bytearray(image.read_bytes())
    for each in skipped:
        assert each["Reason"]
        start, end = each["Offset"], each["Offset"] + each["Length"]
        expected[start:end] = bytes(each["Length"])
    assert target.read_bytes() == expected
    assert command.json("volume", "show", "lazy")["Initialization"] is not None
    for path, content in away:
        path.write_bytes(content)
    assert exported(command, "lazy", target) == image.read_bytes()
    assert command.json("volume", "show", "lazy")["Initialization"] is None
    command.run("snapshot", "delete", "first")


def test_a_lazy_volume_of_a_store_that_is_away(
    command: Command, image: Path, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    command.run("store", "create", "away", "--url", store.as_uri())
    command.run("volume", "import", image, "--name", "data")
    command.run("snapshot", "create", "--wait", "data", "--name", "there", "--store", "away")
    command.run("volume", "create", "--snapshot-id", "there", "--name", "lazy")
    target = tmp_path / "out"
    store.rename(tmp_path / "elsewhere")
    assert command.try_run("volume", "export", "--yes", "lazy", target).returncode != 0
    assert not target.exists()
    skip = ("volume", "export", "--yes", "lazy", target, "--skip-damaged")
    done = command.try_run("--json", *skip)
    assert done.returncode == 6, done.stderr
    (skipped,) = json.loads(done.stdout)["Skipped"]
    assert (skipped["Offset"], skipped["Length"]) == (0, SIZE)
    assert target.read_bytes() == bytes(SIZE)
    (tmp_path / "elsewhere").rename(store)
    assert exported(command, "lazy", target) == image.read_bytes()
    command.run("snapshot", "delete", "there")
