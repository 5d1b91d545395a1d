"""Bad input of every kind: one clear line, the right exit code, and nothing left behind."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.command import VOLCRYPT, Command, disposable_home
from tests.record_files import damage_both, record_and_spare, write_both


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    """A home with a key, an encrypted volume `data`, an unencrypted `plain`, a snapshot `snap`."""
    root = tmp_path_factory.mktemp("bad-input")
    (root / "image").write_bytes(os.urandom(2**20) + bytes(2**20))
    with disposable_home(root / "home") as command:
        command.run("init")
        command.run("volume", "import", root / "image", "--name", "data")
        command.run("volume", "import", root / "image", "--name", "plain", "--unencrypted")
        command.run("snapshot", "create", "--wait", "data", "--name", "snap")
        yield command


@pytest.fixture
def command(template: Command) -> Iterator[Command]:
    """The template, which the test must leave with what it found there."""
    before = listing(template)
    yield template
    assert listing(template) == before


@pytest.fixture
def broken(template: Command, tmp_path: Path) -> Iterator[Command]:
    """The template put back afterwards: the test may damage it."""
    copy = tmp_path / "copy"
    shutil.copytree(template.home, copy)
    yield template
    shutil.rmtree(template.home)
    subprocess.run(["cp", "-a", "--sparse=always", copy, template.home], check=True)


def listing(command: Command) -> list[str]:
    """Every file of the home but those of the KMS, where each request leaves its record."""
    found = (str(path.relative_to(command.home)) for path in command.home.rglob("*"))
    return sorted(name for name in found if not name.startswith("kms"))


@pytest.mark.parametrize(
    ("size", "says"),
    [
        ("0", "larger than zero"),
        ("-4096", "not a size"),
        ("4097", "multiple of 4096"),
        ("65TiB", "64 TiB"),
        ("99999999999999999999999TiB", "not a size"),
        ("1.5GiB", "not a size"),
        ("", "not a size"),
        ("lots", "not a size"),
    ],
)
def test_sizes(command: Command, size: str, says: str) -> None:
    assert says in command.fails(2, "volume", "create", f"--size={size}")


@pytest.mark.parametrize(
    "name", ["", "vol-x", "snap-x", "../etc", "a/b", "-x", ".hidden", "a b", "x" * 129, "ä", "a\n"]
)
def test_names(command: Command, name: str) -> None:
    command.fails(2, "volume", "create", "--size", "1MiB", f"--name={name}")
    command.fails(2, "snapshot", "create", "--wait", "data", f"--name={name}")


def test_taken_names(command: Command, tmp_path: Path) -> None:
    command.fails(4, "volume", "create", "--size", "1MiB", "--name", "data")
    (tmp_path / "image").write_bytes(bytes(4096))
    command.fails(4, "volume", "import", tmp_path / "image", "--name", "data")
    command.fails(4, "snapshot", "create", "--wait", "data", "--name", "snap")
    command.fails(4, "snapshot", "copy", "snap", "--name", "snap")


@pytest.mark.parametrize("name", ["nothing", "vol-00000000000000000", "snap-00000000000000000"])
def test_what_does_not_exist(command: Command, tmp_path: Path, name: str) -> None:
    for verb in ("show", "delete", "check"):
        assert name in command.fails(3, "volume", verb, name)
    for verb in ("show", "delete", "verify", "copy"):
        assert name in command.fails(3, "snapshot", verb, name)
    command.fails(3, "volume", "export", name, tmp_path / "x")
    command.fails(3, "volume", "create", "--snapshot-id", name)
    command.fails(3, "snapshot", "create", "--wait", name)
    command.fails(3, "encrypt", name)
    command.fails(3, "mount", name, tmp_path)
    command.fails(3, "attach", name)
    command.fails(3, "detach", name)
    command.fails(3, "unmount", name)


@pytest.mark.parametrize(
    ("key", "code"),
    [
        ("alias/nothing", 3),
        ("00000000-0000-0000-0000-000000000000", 3),
        ("arn:aws:kms:us-east-1:111111111111:key/00000000-0000-0000-0000-000000000000", 5),
        ("arn:aws:kms:eu-west-1:000000000000:key/00000000-0000-0000-0000-000000000000", 3),
        ("arn:aws:s3:::bucket", 2),
        ("nonsense", 3),
    ],
)
def test_keys_that_are_not_there(command: Command, tmp_path: Path, key: str, code: int) -> None:
    (tmp_path / "image").write_bytes(bytes(4096))
    command.fails(code, "volume", "create", "--size", "1MiB", "--kms-key-id", key)
    command.fails(code, "volume", "import", tmp_path / "image", "--kms-key-id", key)
    command.fails(code, "volume", "create", "--snapshot-id", "snap", "--kms-key-id", key)
    command.fails(code, "snapshot", "copy", "snap", "--kms-key-id", key)
    command.fails(code, "encrypt", "plain", "--kms-key-id", key)


def test_a_disabled_key(broken: Command, tmp_path: Path) -> None:
    command = broken
    key = command.json("kms", "create-key")["KeyMetadata"]["KeyId"]
    command.run("volume", "create", "--size", "1MiB", "--name", "other", "--kms-key-id", key)
    command.run("kms", "disable-key", "--key-id", key)
    before = listing(command)
    (tmp_path / "point").mkdir()
    for arguments in (
        ["volume", "create", "--size", "1MiB", "--kms-key-id", key],
        ["volume", "export", "--yes", "other", tmp_path / "x"],
        ["volume", "check", "other"],
        ["mount", "other", tmp_path / "point"],
        ["attach", "other"],
        ["encrypt", "plain", "--kms-key-id", key],
        ["snapshot", "copy", "snap", "--kms-key-id", key],
    ):
        complaint = command.fails(5, *arguments)
        assert key in complaint
        assert "is disabled" in complaint
        assert "volcrypt kms enable-key" in complaint
    assert listing(command) == before
    assert not (tmp_path / "x").exists()


def test_encryption_is_never_turned_off(command: Command) -> None:
    command.fails(2, "snapshot", "copy", "snap", "--unencrypted")
    command.fails(2, "volume", "create", "--snapshot-id", "snap", "--unencrypted")
    command.fails(2, "encrypt", "data")


def test_a_volume_smaller_than_its_snapshot(command: Command) -> None:
    command.fails(2, "volume", "create", "--snapshot-id", "snap", "--size", "1MiB")


def test_mount_points(command: Command, tmp_path: Path) -> None:
    assert "mkdir" in command.fails(2, "mount", "data", tmp_path / "missing")
    assert "mkdir" in command.fails(2, "attach", "data", "--mount", tmp_path / "missing")
    (tmp_path / "file").write_text("x")
    command.fails(2, "mount", "data", tmp_path / "file")
    assert "not a directory" in command.fails(2, "attach", "data", "--mount", tmp_path / "file")
    assert "not empty" in command.fails(2, "mount", "data", tmp_path)
    (tmp_path / "point").mkdir()
    command.run("mount", "data", tmp_path / "point")
    try:
        assert "mounted" in command.fails(4, "mount", "plain", tmp_path / "point")
        for arguments in (
            ["mount", "data", tmp_path],
            ["attach", "data"],
            ["volume", "delete", "data"],
            ["volume", "export", "--yes", "data", tmp_path / "x"],
        ):
            complaint = command.fails(4, *arguments)
            assert "data is in use by process" in complaint or "vol-" in complaint
    finally:
        command.run("unmount", tmp_path / "point")
    assert "not mounted" in command.fails(1, "unmount", "data")


def test_encrypt_refuses_a_mounted_volume(command: Command, tmp_path: Path) -> None:
    (tmp_path / "point").mkdir()
    command.run("mount", "plain", tmp_path / "point")
    try:
        complaint = command.fails(4, "encrypt", "plain")
        assert "plain is in use by" in complaint
        assert "hint:" in complaint
    finally:
        command.run("unmount", "plain")


def test_sources_and_targets(command: Command, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "no file or block device" in command.fails(2, "volume", "import", tmp_path / "pipe")
    assert "missing does not exist" in command.fails(2, "volume", "import", tmp_path / "missing")
    command.fails(2, "volume", "import", tmp_path)
    (tmp_path / "empty").touch()
    url = (tmp_path / "empty").as_uri()
    said = command.fails(2, "store", "create", "wrong", "--url", url)
    assert f"{tmp_path / 'empty'} is not a directory" in said
    assert "error: NAME 'a b': it must " in command.fails(2, "principal", "create", "a b")
    command.fails(2, "volume", "import", tmp_path / "empty")
    command.fails(4, "volume", "export", "--yes", "data", tmp_path / "empty")
    command.fails(2, "volume", "export", "--yes", "data", tmp_path / "no" / "such" / "directory")


def test_plaintext_never_on_the_command_line(command: Command) -> None:
    complaint = command.fails(
        2, "kms", "encrypt", "--key-id", "alias/volcrypt/ebs", "--plaintext", "c2VjcmV0"
    )
    assert "c2VjcmV0" not in complaint
    assert "fileb://" in complaint


def flip(path: Path, offset: int = -40) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def record_of(command: Command, name: str) -> Path:
    shown = command.json("volume", "show", name)
    return command.home / "volumes" / str(shown["VolumeId"]) / "record"


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize("damage", [flip, truncate, Path.unlink])
def test_a_damaged_record(broken: Command, tmp_path: Path, damage: object) -> None:
    assert callable(damage)
    record = record_of(broken, "data")
    damage_both(record, damage)
    (tmp_path / "point").mkdir()
    for arguments in (
        ["volume", "show", "data"],
        ["mount", "data", tmp_path / "point"],
        ["encrypt", "data"],
    ):
        assert record.parent.name in broken.fails(6, *arguments)
    # One damaged volume hides no other.
    rows = {row["State"] for row in broken.json("volume", "list")["Volumes"]}
    assert rows == {"error", "available"}
    listed = broken.try_run("volume", "list")
    row = next(line for line in listed.stdout.splitlines() if record.parent.name in line)
    assert row.split() == [record.parent.name, "-", "error", "-", "unknown", "-", "unknown"]
    [warning] = listed.stderr.splitlines()
    assert not warning.startswith(f"warning: {record.parent.name}"), "what follows names it"
    noted = broken.json("status")["Warnings"]
    assert f"warning: {noted[0]}" == warning
    assert "; put " in warning


def test_a_record_of_another_volume(broken: Command) -> None:
    data, plain = record_of(broken, "data"), record_of(broken, "plain")
    write_both(data, plain.read_bytes())
    broken.fails(6, "volume", "show", "data")
    # And with the id changed to fit, it has the wrong seal: encryption cannot be edited away.
    text = plain.read_bytes().replace(plain.parent.name.encode(), data.parent.name.encode())
    write_both(data, text)
    broken.fails(6, "volume", "show", "data")


@pytest.mark.parametrize("damage", [flip, truncate, Path.unlink])
def test_one_of_record_and_spare_is_enough(broken: Command, damage: object) -> None:
    assert callable(damage)
    files = record_and_spare(record_of(broken, "data"))
    for path, says in zip(files, ("was put back from a copy", "was written again"), strict=True):
        right = path.read_bytes()
        damage(path)
        done = broken.try_run("--json", "volume", "show", "data")
        assert (done.returncode, json.loads(done.stdout)["Name"]) == (0, "data")
        # Homes of 0.1.0 have no spare, and it is made without a word.
        expected = (path, damage) != (files[1], Path.unlink)
        assert [says in line for line in done.stderr.splitlines()] == [True] * expected
        assert done.stderr.startswith("warning: the ") == expected
        assert path.read_bytes() == right
        assert broken.try_run("volume", "check", "data").stderr == ""


def test_a_spare_that_cannot_be_written_is_told(broken: Command) -> None:
    spare = record_and_spare(record_of(broken, "data"))[1]
    spare.unlink()
    spare.mkdir()
    broken.run("volume", "show", "data")
    says = "spare record.* cannot be written"
    assert re.search(says, broken.fails(6, "volume", "check", "data"))
    assert re.search(says, broken.try_run("doctor").stdout)
    spare.rmdir()
    broken.run("volume", "check", "data")
    assert not re.search(says, broken.try_run("doctor").stdout)


def test_a_damaged_catalogue(broken: Command) -> None:
    volume_id = broken.json("volume", "show", "data")["VolumeId"].encode()
    catalogue = broken.home / "kms" / "catalog.sqlite3"
    # Wherever it stands: pages that are free now, and grants that were, name it too.
    other = volume_id[:-1] + bytes([volume_id[-1] ^ 1])
    catalogue.write_bytes(catalogue.read_bytes().replace(volume_id, other))
    broken.fails(6, "volume", "list")
    truncate(catalogue)
    broken.fails(6, "volume", "list")


@pytest.mark.parametrize("damage", [flip, truncate, Path.unlink])
def test_a_damaged_token(broken: Command, damage: object) -> None:
    assert callable(damage)
    damage(broken.home / "kms" / "token" / "master")
    broken.fails(6, "volume", "list")


def test_a_short_data_file(broken: Command, tmp_path: Path) -> None:
    data = Path(broken.json("volume", "show", "data")["DataPath"])
    os.truncate(data, 4096)
    (tmp_path / "point").mkdir()
    assert "4096 bytes" in broken.fails(6, "mount", "data", tmp_path / "point")
    broken.fails(6, "volume", "check", "data")
    data.unlink()
    broken.fails(6, "volume", "check", "data")
    assert broken.json("volume", "show", "data")["State"] == "error"


@pytest.mark.parametrize("place", ["chunks", "pages", "manifests"])
@pytest.mark.parametrize("damage", [flip, truncate, Path.unlink])
def test_a_damaged_store(broken: Command, tmp_path: Path, place: str, damage: object) -> None:
    assert callable(damage)
    objects = [p for p in (broken.home / "stores/local" / place).rglob("*") if p.is_file()]
    assert objects
    damage(objects[0])
    done = broken.try_run("snapshot", "verify")
    assert done.returncode == 6
    assert "Traceback" not in done.stderr
    before = listing(broken)
    made = broken.try_run("volume", "create", "--snapshot-id", "snap")
    if made.returncode == 0:
        # A chunk, or the page that lists it, is found when it is fetched: said of that range.
        assert place != "manifests"
        volume_id = made.stdout.strip()
        complaint = broken.fails(6, "volume", "export", "--yes", volume_id, tmp_path / "image")
        assert objects[0].name in complaint
        broken.run("volume", "delete", volume_id)
    else:
        gone = (place, damage) == ("manifests", Path.unlink)
        assert (made.returncode, place == "chunks") == (3 if gone else 6, False)
    volumes = [name for name in listing(broken) if name.startswith("volumes")]
    assert volumes == [name for name in before if name.startswith("volumes")]


def in_namespace(script: str, command: Command, *arguments: str) -> tuple[int, str]:
    """Run volcrypt in a mount namespace of its own, after `script` has changed what is there."""
    words = " ".join([str(VOLCRYPT), "--home", str(command.home), *arguments])
    done = subprocess.run(
        ["unshare", "--mount", "bash", "-ec", f"{script}\n{words}"],
        check=False,
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stderr


NO_SOFTHSM = """
for directory in /usr/lib/softhsm /usr/lib/*/softhsm; do
    [ ! -d $directory ] || mount -t tmpfs none $directory
done
"""
NO_FUSE = """
root=$(mktemp -d); mount -t tmpfs none $root
for node in null zero urandom random; do cp -a /dev/$node $root/; done
mkdir $root/shm; mount --bind /dev/shm $root/shm; mount --bind $root /dev
"""


def test_missing_components_are_named_with_their_package(command: Command, tmp_path: Path) -> None:
    code, complaint = in_namespace(NO_SOFTHSM, command, "volume", "list")
    assert code == 1
    assert "softhsm" in complaint
    assert "hint: apt-get install softhsm2" in complaint
    (tmp_path / "point").mkdir()
    code, complaint = in_namespace(NO_FUSE, command, "mount", "data", str(tmp_path / "point"))
    assert code == 1
    assert "error: /dev/fuse is missing" in complaint


def test_a_full_disk(template: Command, tmp_path: Path) -> None:
    """Every way to write, on a file system that is full: exit code 1, no half thing, and all is
    well again when there is space."""
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "none", small], check=True)
    try:
        (tmp_path / "image").write_bytes(os.urandom(4 * 2**20))
        with disposable_home(small / "home") as command:
            command.run("init")
            image = tmp_path / "image"
            command.run("volume", "import", image, "--name", "data", "--unencrypted")
            ballast = small / "ballast"
            space = os.statvfs(small)
            ballast.write_bytes(bytes(space.f_bavail * space.f_frsize - 2**20))
            before = listing(command)
            for arguments in (
                ["volume", "import", image, "--name", "more"],
                ["snapshot", "create", "--wait", "data", "--name", "snap"],
                ["encrypt", "data"],
            ):
                complaint = command.fails(1, *arguments)
                assert "space" in complaint or "free" in complaint, complaint
            made = ("stores", "jobs")  # empty but for locks
            names = [name for name in listing(command) if not name.startswith(made)]
            assert names == [name for name in before if not name.startswith(made)]
            assert command.json("snapshot", "list")["Snapshots"] == []
            assert command.json("snapshot", "list")["Snapshots"] == []
            ballast.unlink()
            command.run("snapshot", "create", "--wait", "data", "--name", "snap")
            assert command.json("snapshot", "verify")["Damages"] == []
    finally:
        subprocess.run(["umount", small], check=False)
