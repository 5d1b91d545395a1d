"""The exit door: a LUKS2 header that is exported, opened by the real cryptsetup to the last byte,
through kills; who may do that, and what it means for snapshots."""

import json
import os
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.command import Command, disposable_home
from tests.crash.kills import CALLS, Point, spread
from tests.cryptsetup import CHEAP_PBKDF, decrypt
from tests.snapshots import create_snapshot
from volcrypt.crypto.customer_key import CustomerKey
from volcrypt.crypto.xts import XtsKernel
from volcrypt.errors import (
    CustomerKeyMissingError,
    InvalidArgumentError,
    NameTakenError,
    NoSpaceError,
    VolumeInUseError,
)
from volcrypt.geometry import CHUNK_BYTES, UNIT_BYTES
from volcrypt.operations.grow import grow_volume
from volcrypt.operations.header_export import HeaderExport, export_header, units_with_holes
from volcrypt.operations.home import Home
from volcrypt.operations.images import import_volume
from volcrypt.operations.keys import KeyChoice, unwrap_key
from volcrypt.operations.progress import SILENT
from volcrypt.operations.records import data_path, load_record
from volcrypt.operations.restore import volume_from_snapshot
from volcrypt.operations.volume_deletion import delete_volume
from volcrypt.operations.volume_export import export_volume
from volcrypt.operations.volumes import create_volume
from volcrypt.operations.write_budget import written_bytes
from volcrypt.settings import runtime_root
from volcrypt.volume.owner import hold_volume

SIZE = 6 * CHUNK_BYTES + 3 * UNIT_BYTES
WORD = b"correct horse"


@pytest.fixture
def content() -> bytes:
    """Data, with holes of chunks, units and sectors; the last chunk is short."""
    made = bytearray(os.urandom(SIZE))
    for start, length in (
        (CHUNK_BYTES, 2 * CHUNK_BYTES),
        (4 * CHUNK_BYTES + UNIT_BYTES, 3 * UNIT_BYTES),
        (SIZE - UNIT_BYTES, UNIT_BYTES),
    ):
        made[start : start + length] = bytes(length)
    return bytes(made)


@pytest.fixture
def volume(home: Home, tmp_path: Path, content: bytes) -> str:
    """`data`, with holes; and with sectors that a torn write never reached."""
    (tmp_path / "image").write_bytes(content)
    import_volume(home, tmp_path / "image", name="data", choice=KeyChoice(), progress=SILENT)
    make_holes(home)
    return "data"


TORN = [5 * CHUNK_BYTES, 5 * CHUNK_BYTES + 512, 5 * CHUNK_BYTES + UNIT_BYTES + 3584]


def make_holes(home: Home) -> None:
    """Of the zeros that were imported, and of three sectors."""
    with data_path(home, load_record(home, "data")).open("r+b") as file:
        for offset in TORN:
            os.pwrite(file.fileno(), bytes(512), offset)
        os.pwrite(file.fileno(), bytes(3 * UNIT_BYTES), 4 * CHUNK_BYTES + UNIT_BYTES)
        file.truncate(SIZE - UNIT_BYTES)
        file.truncate(SIZE)


def expected(content: bytes) -> bytes:
    made = bytearray(content)
    for offset in TORN:
        made[offset : offset + 512] = bytes(512)
    return bytes(made)


def export(home: Home, target: Path) -> HeaderExport:
    return export_header(
        home, "data", target, passphrase=bytearray(WORD), progress=SILENT, pbkdf=CHEAP_PBKDF
    )


def by_cryptsetup(directory: Path, data: Path, header: Path) -> bytes:
    """What the real cryptsetup makes of the two, with the passphrase and nothing else."""
    directory.mkdir()
    (directory / "data").write_bytes(data.read_bytes())
    (directory / "header").write_bytes(header.read_bytes())
    (directory / "passphrase").write_bytes(WORD)
    return decrypt(directory)


def test_cryptsetup_opens_it_to_the_last_byte(
    home: Home, volume: str, tmp_path: Path, content: bytes
) -> None:
    before = written_bytes(home, load_record(home, "data").wrapped_key)
    noise = tmp_path / "noise"
    # The control: before the holes are filled, the same header shows noise in them.
    sparse = data_path(home, load_record(home, "data")).read_bytes()
    made = export(home, tmp_path / "header")
    (tmp_path / "sparse").write_bytes(sparse)
    assert by_cryptsetup(noise, tmp_path / "sparse", made.target) != expected(content)

    assert by_cryptsetup(tmp_path / "luks", made.data_path, made.target) == expected(content)
    status = made.target.stat()
    assert stat.S_IMODE(status.st_mode) == 0o600
    assert status.st_size == 16 * 2**20
    assert made.filled_bytes == 2 * CHUNK_BYTES + (3 + 1 + 2) * UNIT_BYTES
    record = load_record(home, "data")
    assert made.record == record
    assert record.exported_at is not None
    assert written_bytes(home, record.wrapped_key) == before + made.filled_bytes
    export_volume(home, "data", tmp_path / "out", progress=SILENT)
    assert (tmp_path / "out").read_bytes() == expected(content)
    assert not list(tmp_path.glob(".header*"))

    # Again: nothing is left to be filled, and another header opens as well.
    again = export(home, tmp_path / "second")
    assert again.filled_bytes == 0
    assert by_cryptsetup(tmp_path / "luks2", again.data_path, again.target) == expected(content)
    # What it grows by is a hole, until the header is exported anew.
    grow_volume(home, "data", size_bytes=SIZE + CHUNK_BYTES, resize_fs=False)
    third = export(home, tmp_path / "third")
    assert third.filled_bytes == CHUNK_BYTES
    grown = by_cryptsetup(tmp_path / "luks3", third.data_path, third.target)
    assert grown == expected(content) + bytes(CHUNK_BYTES)


def test_under_a_customer_s_key(home: Home, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "image").write_bytes(content)
    key = CustomerKey(bytearray(b"k" * 32))
    home.customer_keys.append(key)
    choice = KeyChoice(customer_key=key)
    import_volume(home, tmp_path / "image", name="data", choice=choice, progress=SILENT)
    home.customer_keys.clear()
    with pytest.raises(CustomerKeyMissingError):
        export(home, tmp_path / "header")
    assert load_record(home, "data").exported_at is None
    home.customer_keys.append(key)
    made = export(home, tmp_path / "header")
    assert by_cryptsetup(tmp_path / "luks", made.data_path, made.target) == content


def test_what_a_lazy_volume_lacks_is_fetched_first(
    home: Home, volume: str, tmp_path: Path, content: bytes
) -> None:
    create_snapshot(home, "data", name="first", store=None, progress=SILENT)
    delete_volume(home, "data")
    made = volume_from_snapshot(
        home, "first", size_bytes=None, name="data", choice=None, progress=SILENT
    )
    assert made.source is not None
    assert data_path(home, made).stat().st_blocks == 0
    exported = export(home, tmp_path / "header")
    assert load_record(home, "data").source is None
    found = by_cryptsetup(tmp_path / "luks", exported.data_path, exported.target)
    assert found == expected(content)


def test_an_empty_volume(home: Home, tmp_path: Path) -> None:
    create_volume(home, size_bytes=CHUNK_BYTES + UNIT_BYTES, name="data", choice=KeyChoice())
    made = export(home, tmp_path / "header")
    plaintext = by_cryptsetup(tmp_path / "luks", made.data_path, made.target)
    assert plaintext == bytes(CHUNK_BYTES + UNIT_BYTES)


@pytest.mark.parametrize(
    ("zeros", "found"),
    [
        ([], []),
        ([0], [(0, 1)]),
        ([7], [(0, 1)]),
        ([8, 23], [(1, 2)]),
        ([0, 31], [(0, 1), (3, 1)]),
        (list(range(32)), [(0, 4)]),
    ],
)
def test_units_with_holes(zeros: list[int], found: list[tuple[int, int]]) -> None:
    """Sectors of four units; a sector with a single bit is none."""
    piece = bytearray(b"\0" * 511 + b"\x01") * 32
    for sector in zeros:
        piece[sector * 512 : sector * 512 + 512] = bytes(512)
    ranges = list(units_with_holes(memoryview(piece), 2 * UNIT_BYTES))
    assert [(r.offset // UNIT_BYTES - 2, r.length // UNIT_BYTES) for r in ranges] == found


def test_what_is_refused_leaves_everything_as_it_was(
    home: Home, volume: str, tmp_path: Path
) -> None:
    target = tmp_path / "header"
    before = load_record(home, "data")
    path = data_path(home, before)
    stored, blocks = path.read_bytes(), path.stat().st_blocks

    target.write_bytes(b"mine")
    with pytest.raises(NameTakenError):
        export(home, target)
    assert target.read_bytes() == b"mine"
    target.unlink()
    with pytest.raises(InvalidArgumentError, match="not a directory"):
        export(home, tmp_path / "none" / "header")
    with (
        hold_volume(home.volumes.path_of(before.volume_id), purpose="snapshot"),
        pytest.raises(VolumeInUseError, match="snapshot"),
    ):
        export(home, target)
    create_volume(home, size_bytes=2**20, name="plain", choice=KeyChoice(encrypted=False))
    create_volume(home, size_bytes=12 * 2**40, name="huge", choice=KeyChoice())
    for name, error in (("plain", InvalidArgumentError), ("huge", NoSpaceError)):
        with pytest.raises(error):
            export_header(
                home, name, target, passphrase=bytearray(WORD), progress=SILENT, pbkdf=CHEAP_PBKDF
            )
        assert load_record(home, name).exported_at is None
    assert not target.exists()
    assert load_record(home, "data") == before
    assert (path.read_bytes(), path.stat().st_blocks) == (stored, blocks)


# ---------------------------------------------------------------- the change map


def change_behind_our_back(home: Home, index: int) -> None:
    """Write a chunk as cryptsetup would, and leave no trace in size and time of the file."""
    record = load_record(home, "data")
    assert record.wrapped_key is not None
    path = data_path(home, record)
    status = path.stat()
    with unwrap_key(home, record.wrapped_key) as key:
        kernel, piece = XtsKernel(key.view()), bytearray(os.urandom(CHUNK_BYTES))
        kernel.encrypt_units(index * CHUNK_BYTES // UNIT_BYTES, piece, piece)
        kernel.wipe()
    with path.open("r+b") as file:
        os.pwrite(file.fileno(), piece, index * CHUNK_BYTES)
        os.fsync(file.fileno())
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def mount_and_unmount(command: Command, point: Path) -> None:
    point.mkdir(exist_ok=True)
    command.run("mount", "data", point)
    command.run("unmount", "data")


def nothing(command: Command, point: Path) -> None:
    """Nobody mounts it in between."""


@pytest.mark.parametrize("between", [nothing, mount_and_unmount])
@pytest.mark.parametrize("is_exported", [True, False], ids=["exported", "control"])
def test_no_change_map_is_believed_afterwards(
    home: Home,
    volume: str,
    tmp_path: Path,
    is_exported: bool,
    between: Callable[[Command, Path], None],
) -> None:
    """What cryptsetup changes is in the next snapshot. The control misses it: so would we."""
    command = Command(home.path)
    create_snapshot(home, "data", name="first", store=None, progress=SILENT)
    if is_exported:
        export(home, tmp_path / "header")
    create_snapshot(home, "data", name="second", store=None, progress=SILENT)
    between(command, tmp_path / "point")
    change_behind_our_back(home, 3)
    between(command, tmp_path / "point")
    incremental = create_snapshot(home, "data", name="third", store=None, progress=SILENT)
    forget_maps(home, command)
    full = create_snapshot(home, "data", name="fourth", store=None, progress=SILENT)
    assert (incremental.root == full.root) is is_exported
    assert incremental.stored_chunks == (1 if is_exported else 0)


def forget_maps(home: Home, command: Command) -> None:
    for path in [*home.path.glob("volumes/*/change-map"), *home.runtime.glob("*.map")]:
        path.unlink()


# ---------------------------------------------------------------- permission and audit


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Command]:
    with disposable_home(tmp_path / "made") as made:
        made.run("init")
        (tmp_path / "word").write_bytes(WORD + b"\n")
        yield made


def test_its_passphrase_costs_time_and_memory_to_guess(command: Command, tmp_path: Path) -> None:
    command.run("volume", "create", "--size", "1MiB", "--name", "data")
    word = ["--passphrase-file", str(tmp_path / "word")]
    command.run("volume", "export-header", "data", tmp_path / "header", *word)
    dump = ["cryptsetup", "luksDump", str(tmp_path / "header")]
    shown = subprocess.run(dump, check=True, capture_output=True, text=True).stdout
    assert re.search(r"PBKDF: +argon2id", shown)
    (kibibytes,) = re.findall(r"Memory: +(\d+)", shown)
    assert int(kibibytes) >= 64 * 1024


@pytest.mark.usefixtures("cheap_keyslots")
def test_on_the_command_line(command: Command, tmp_path: Path) -> None:
    command.run("volume", "create", "--size", "1MiB", "--name", "data")
    word = ["--passphrase-file", str(tmp_path / "word")]
    (tmp_path / "point").mkdir()
    command.run("mount", "data", tmp_path / "point")
    complaint = command.fails(4, "volume", "export-header", "data", tmp_path / "header", *word)
    assert "volcrypt unmount data" in complaint
    command.run("unmount", "data")
    command.fails(3, "volume", "export-header", "none", tmp_path / "header", *word)
    command.fails(2, "volume", "export-header", "data", tmp_path / "no/header", *word)
    command.fails(
        2, "volume", "export-header", "data", tmp_path / "header", "--passphrase-file", "-"
    )
    both = ["--passphrase-file", "-", "--customer-key-file", "-"]
    command.fails(2, "volume", "export-header", "data", tmp_path / "header", *both)
    assert command.json("volume", "show", "data")["HeaderExportTime"] is None
    made = command.json("volume", "export-header", "data", tmp_path / "header", *word)
    assert made["FilledBytes"] == 2**20
    assert command.json("volume", "show", "data")["HeaderExportTime"] is not None
    assert re.search(r"header exported +20", command.run("volume", "show", "data"))
    command.fails(4, "volume", "export-header", "data", tmp_path / "header", *word)
    assert "export it again" in command.run("volume", "grow", "data", "--size", "2MiB")
    data = Path(made["DataPath"])
    os.truncate(data, 2**20)
    plaintext = by_cryptsetup(tmp_path / "luks", data, tmp_path / "header")
    assert plaintext == bytes(2**20)


@pytest.mark.usefixtures("cheap_keyslots")
def test_it_needs_its_own_permission_and_is_on_record(command: Command, tmp_path: Path) -> None:
    key = command.run("kms", "create-key")
    arn = command.json("kms", "describe-key", "--key-id", key)["KeyMetadata"]["Arn"]
    for name in ("data", "other"):
        command.run("volume", "create", "--size", "1MiB", "--name", name, "--kms-key-id", key)
    volume_id = command.json("volume", "show", "data")["VolumeId"]
    command.run("principal", "create", "alice")
    (command.home / "config.toml").write_text("[profiles.alice]\nprincipal = 'alice'\n")

    def may(*statements: dict[str, object]) -> None:
        full = [{"Effect": "Allow", "Resource": "*"} | statement for statement in statements]
        document = json.dumps({"Version": "2012-10-17", "Statement": full})
        command.run("principal", "put-policy", "alice", "-", stdin=document.encode())

    def arguments(name: str = "data") -> list[str]:
        word = ["--passphrase-file", str(tmp_path / "word")]
        return ["--profile", "alice", "volume", "export-header", name, str(tmp_path / name), *word]

    mine = {"StringEquals": {"kms:EncryptionContext:volcrypt:volume-id": volume_id}}
    refused: list[list[dict[str, object]]] = [
        [{"Action": "kms:*"}, {"Action": "iam:*"}, {"Action": "volcrypt:Backup"}],
        [
            {"Action": ["kms:*", "volcrypt:*"]},
            {"Action": "volcrypt:ExportHeader", "Effect": "Deny"},
        ],
        [{"Action": "kms:*"}, {"Action": "volcrypt:ExportHeader", "Resource": f"{arn[:-1]}x"}],
    ]
    for statements in refused:
        may(*statements)
        complaint = command.fails(5, *arguments())
        assert f"volcrypt:ExportHeader on resource: {arn}" in complaint
    may({"Action": "volcrypt:ExportHeader"})
    assert "kms:Decrypt" in command.fails(5, *arguments())
    may({"Action": "kms:Decrypt"}, {"Action": "volcrypt:ExportHeader", "Condition": mine})
    assert "volcrypt:ExportHeader" in command.fails(5, *arguments("other"))
    for name in ("data", "other"):
        shown = command.json("volume", "show", name)
        assert (shown["HeaderExportTime"], shown["AllocatedBytes"]) == (None, 0)
        assert not (tmp_path / name).exists()
    command.run(*arguments())
    assert (tmp_path / "data").exists()

    listed = ["audit", "list", "--operation", "ExportHeader"]
    records = command.json(*listed)["Records"]
    assert [r.get("errorCode") for r in records] == ["AccessDenied"] * 3 + [
        None,
        "AccessDenied",
        None,
    ]
    assert {r["userIdentity"]["userName"] for r in records} == {"alice"}
    of_volume = command.json(*listed, "--volume", "data")["Records"]
    assert len(of_volume) == 5
    assert len(command.json(*listed, "--key", key)["Records"]) == 6
    last = of_volume[-1]
    assert last["requestParameters"] == {
        "keyId": arn,
        "encryptionContext": {"volcrypt:volume-id": volume_id},
    }
    assert last["resources"][0]["ARN"] == arn


# ---------------------------------------------------------------- kills


PROGRAM = """
import sys
from pathlib import Path
from volcrypt.operations.header_export import export_header
from volcrypt.operations.home import Home
from volcrypt.operations.progress import SILENT
from volcrypt.settings import runtime_root
home, target, *pbkdf = sys.argv[1:]
with Home(Path(home), runtime_root()) as opened:
    word = bytearray(b"correct horse")
    export_header(opened, "data", Path(target), passphrase=word, progress=SILENT, pbkdf=pbkdf)
"""


def run_export(home: Path, target: Path, *prefix: str) -> int:
    return subprocess.run(
        [*prefix, sys.executable, "-c", PROGRAM, home, target, *CHEAP_PBKDF],
        check=False,
        capture_output=True,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
    ).returncode


def test_killed_all_along_there_is_never_a_header_without_the_holes(
    tmp_path: Path, content: bytes
) -> None:
    with disposable_home(tmp_path / "home") as command:
        command.run("init")
        with Home(command.home, runtime_root()) as home:
            (tmp_path / "image").write_bytes(content)
            import_volume(
                home, tmp_path / "image", name="data", choice=KeyChoice(), progress=SILENT
            )
            make_holes(home)
            path = data_path(home, load_record(home, "data"))
        sparse = path.read_bytes()
        target, log = tmp_path / "header", tmp_path / "log"
        # Of the program alone, without -f: what cryptsetup does happens in memory.
        trace = ("strace", "-y", "-o", str(log), "-e", f"trace={CALLS}")
        assert run_export(command.home, target, *trace) == 0
        check_order(log.read_text(), path, target)
        calls = re.findall(rf"^({CALLS.replace(',', '|')})\(", log.read_text(), re.MULTILINE)
        points = [
            (call, number)
            for call in dict.fromkeys(calls)
            for number in range(1, calls.count(call) + 1)
        ]
        killed = with_header = 0
        for call, number in spread_pairs(points, 14):
            make_sparse_again(path, sparse)
            target.unlink(missing_ok=True)
            inject = f"inject={call}:signal=KILL:when={number}"
            code = run_export(
                command.home,
                target,
                "strace",
                "-o",
                "/dev/null",
                "-e",
                f"trace={call}",
                "-e",
                inject,
            )
            assert code in (0, -signal.SIGKILL, 128 + signal.SIGKILL)
            killed += code != 0
            if target.exists():
                with_header += 1
                assert not has_holes(path)
                assert target.stat().st_size == 16 * 2**20
            else:
                assert run_export(command.home, target) == 0
                assert not has_holes(path)
            assert not list(tmp_path.glob(".header*"))
        assert killed >= 10
        assert by_cryptsetup(tmp_path / "luks", path, target) == expected(content)


def spread_pairs(points: list[tuple[str, int]], count: int) -> list[tuple[str, int]]:
    chosen = spread([Point(call, number) for call, number in points], count)
    return [(point.call, point.number) for point in chosen]


def make_sparse_again(path: Path, content: bytes) -> None:
    """The data file as it was before, holes and all, with the same inode."""
    with path.open("r+b") as file:
        file.truncate(0)
        file.truncate(len(content))
        for offset in range(0, len(content), UNIT_BYTES):
            piece = content[offset : offset + UNIT_BYTES]
            if any(piece):
                os.pwrite(file.fileno(), piece, offset)


def has_holes(path: Path) -> bool:
    content = bytearray(path.read_bytes())
    return any(True for _ in units_with_holes(memoryview(content), 0))


def check_order(log: str, data: Path, target: Path) -> None:
    """The record, then the data and its sync, then the header."""
    lines = log.splitlines()

    def places(*words: str) -> list[int]:
        return [n for n, line in enumerate(lines) if all(word in line for word in words)]

    writes = places("pwrite64(", f"<{data}>")
    (link,) = places("linkat(", f"<{target.parent}>", f'"{target.name}"')
    assert writes
    assert places("rename", "record.next")[-1] < writes[0]
    assert any(writes[-1] < sync < link for sync in places("fdatasync(", f"<{data}>"))
    # The file without a name: strace shows its inode below the directory.
    assert any(writes[-1] < sync < link for sync in places("fsync(", f"<{target.parent}/"))
    assert places("fsync(", f"<{target.parent}>")[-1] > link
