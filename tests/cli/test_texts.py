"""What commands say: to who made a mistake, and in tables."""

import fcntl
import os
import pty
import struct
import termios
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.command import VOLCRYPT, Command, disposable_home
from tests.terminal import on_terminal
from volcrypt.cli.status_view import how_text
from volcrypt.operations.uses import InUse

WIDTH = 80


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    """A home with the volumes `data` and, under a customer's key, `own`; the snapshot `snap`; the
    store `away`."""
    root = tmp_path_factory.mktemp("texts")
    with disposable_home(root / "home") as made:
        made.run("init")
        (root / "own.key").write_bytes(os.urandom(32))
        by_key = ("--customer-key-file", root / "own.key")
        made.run("volume", "create", "--size", "8MiB", "--name", "data")
        made.run("volume", "create", "--size", "1MiB", "--name", "own", *by_key)
        made.run("snapshot", "create", "--wait", "data", "--name", "snap")
        made.run("snapshot", "create", "--wait", "own", "--name", "own-snap")
        made.run("store", "create", "away", "--url", (root / "away").as_uri())
        yield made


def test_verify_says_which_stores_it_did_not_look_at(command: Command) -> None:
    said = command.try_run("snapshot", "verify").stderr
    assert said == "note: store away was not looked at: 'snapshot verify --store away'\n"
    assert command.try_run("snapshot", "verify", "snap").stderr == ""


def test_a_snapshot_where_a_volume_is_wanted(command: Command, tmp_path: Path) -> None:
    snapshot = command.json("snapshot", "show", "snap")["SnapshotId"]
    for name in ("snap", snapshot):
        said = command.fails(1, "attach", name)
        assert f"snapshot {name} cannot be attached" in said
        assert f"volcrypt mount {name} DIR" in said
        assert f"snapshot {name} is not attached" in command.fails(1, "detach", name)
        assert f"snapshot {name} is not mounted" in command.fails(1, "unmount", name)
    for verb in ("attach", "detach", "unmount"):
        assert "volume none does not exist" in command.fails(3, verb, "none")
    (tmp_path / "mnt").mkdir()
    command.run("mount", "snap", tmp_path / "mnt")
    said = command.fails(1, "detach", "snap")
    assert f"is mounted on {tmp_path / 'mnt'}, not attached" in said
    assert "hint: volcrypt unmount snap" in said
    command.run("unmount", "snap")


def test_an_alias_where_a_key_is_wanted(command: Command) -> None:
    key = command.run("kms", "create-key")
    command.run("kms", "create-alias", "--alias-name", "alias/mine", "--target-key-id", key)
    for operation in ("disable-key", "enable-key", "enable-key-rotation", "get-key-policy"):
        said = command.fails(2, "kms", operation, "--key-id", "alias/mine")
        assert f"{operation} takes the id or ARN of a key, and alias/mine is an alias" in said
        assert "'volcrypt kms describe-key --key-id alias/mine' shows the id" in said
    command.run("kms", "disable-key", "--key-id", key)


def test_growing_to_a_size_that_is_none(command: Command) -> None:
    assert command.run("volume", "grow", "data", "--size", "8MiB").endswith("has 8 MiB already")
    said = command.fails(2, "volume", "grow", "data", "--size", "4MiB")
    assert "has 8 MiB (8388608 bytes) and cannot shrink to 4 MiB (4194304 bytes)" in said


def test_only_options_that_the_command_has_are_named(command: Command, tmp_path: Path) -> None:
    (tmp_path / "mnt").mkdir()
    (tmp_path / "wrong.key").write_bytes(os.urandom(32))
    wrong = ("--customer-key-file", tmp_path / "wrong.key")
    for arguments in (
        ["volume", "check", "own"],
        ["volume", "export", "--yes", "own", tmp_path / "out"],
        ["mount", "own", tmp_path / "mnt"],
        ["snapshot", "export", "--yes", "own-snap", tmp_path / "out"],
    ):
        for given in ((), wrong):
            said = command.try_run(*arguments, *given).stderr
            assert said.splitlines()[-1] == "hint: give it with --customer-key-file", said
    for arguments in (
        ["snapshot", "copy", "own-snap"],
        ["snapshot", "copy", "own-snap", "--wait"],
        ["volume", "create", "--snapshot-id", "own-snap"],
    ):
        said = command.try_run(*arguments).stderr
        assert "hint: give it with --source-customer-key-file, or with --customer-key-file" in said


def test_a_copy_of_a_record_that_is_not_in_the_store(command: Command, tmp_path: Path) -> None:
    data = tmp_path / "data"
    made = command.json("volume", "create", "--size", "1MiB", "--data", data)
    there = ("--store", "away", "--volume-id", made["VolumeId"])
    said = command.fails(3, "volume", "register", "--data", data, *there)
    assert f"there is no copy of the record of volume {made['VolumeId']} in snapshot store" in said
    assert made["RecordCopy"] in said
    assert "leave out --store" in said


def test_the_note_on_the_embedded_default_comes_once(command: Command) -> None:
    """In `status` shortly, since that is read again and again."""
    assert command.run("status").count("SoftHSM") == 1
    (note,) = [each for each in command.json("status")["Warnings"] if "SoftHSM" in each]
    assert "'volcrypt init' says what that does not protect" in note
    assert "not a stolen home" in command.run("init")


def test_a_profile_without_a_region(tmp_path: Path) -> None:
    """It works with --region; who checks the file is told."""
    config = tmp_path / "config.toml"
    config.write_text('[profiles.far]\nkms = "http://127.0.0.1:1"\n')
    command = Command(tmp_path)
    note, asked = command.json("config", "check")["Notes"]
    assert "the KMS http://127.0.0.1:1 was not asked" in asked
    assert note.startswith("profiles.far names no region")
    assert f"note: {note}" in command.run("config", "check")
    with config.open("a") as file:
        file.write('region = "us-east-1"\n')
    assert command.json("config", "check")["Notes"] == [asked]


def test_what_the_environment_has_to_have_is_said(tmp_path: Path) -> None:
    assert "XDG_RUNTIME_DIR" in Command(tmp_path).run("--help")


def test_how_a_volume_is_served_is_said() -> None:
    use = InUse(volume_id="vol-1", name=None, purpose="mount", pid=1, mount_point=None, device=None)
    assert how_text(use) == ""
    served = replace(use, data_plane="native", read_only=True, discard=True, discard_zeros=True)
    assert how_text(served) == "native, read-only, discard, discard-zeros"


def test_a_deleted_volume_is_asked_for_on_a_terminal(command: Command) -> None:
    """Elsewhere nobody is: there, scripts go on."""
    made = command.run("volume", "create", "--size", "1MiB", "--name", "doomed")
    delete = [str(VOLCRYPT), "--home", str(command.home), "volume", "delete", "doomed"]
    with on_terminal(delete) as terminal:
        terminal.wait_to_read(f"delete volume {made} (doomed) and its data?")
        terminal.press("n\n")
        assert terminal.ends() == 1
    command.run("volume", "show", "doomed")
    with on_terminal([*delete, "--yes"]) as terminal:
        assert terminal.ends() == 0
    command.fails(3, "volume", "delete", "doomed")


def test_a_deleted_snapshot_is_asked_for_on_a_terminal(command: Command) -> None:
    command.run("volume", "create", "--size", "1MiB", "--name", "kept")
    command.run("snapshot", "create", "kept", "--name", "doomed", "--wait")
    delete = [str(VOLCRYPT), "--home", str(command.home), "snapshot", "delete"]
    with on_terminal([*delete, "nothing"]) as terminal:
        terminal.wait_to_read("error: snapshot nothing does not exist")
        assert terminal.ends() == 3
    with on_terminal([*delete, "doomed"]) as terminal:
        terminal.wait_to_read("delete snapshot doomed?")
        terminal.press("n\n")
        assert terminal.ends() == 1
    command.run("snapshot", "show", "doomed")
    with on_terminal([*delete, "doomed", "--yes"]) as terminal:
        assert terminal.ends() == 0
    command.fails(3, "snapshot", "delete", "doomed")


def test_sentences_end_their_lines_between_words_on_a_terminal(command: Command) -> None:
    """A terminal would break them anywhere; elsewhere each is one line, to be searched."""
    (note,) = [line for line in command.run("status").splitlines() if line.startswith("note: ")]
    shown = on_a_terminal(command, "status")
    begin = next(number for number, line in enumerate(shown) if line.startswith("note: "))
    assert len(shown[begin:]) > 1
    assert all(len(line) <= WIDTH for line in shown[begin:])
    assert " ".join(shown[begin:]) == note


def on_a_terminal(command: Command, *arguments: str) -> list[str]:
    """The lines that a command prints on a terminal of WIDTH columns."""
    child, terminal = pty.fork()
    if child == 0:
        fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", 24, WIDTH, 0, 0))
        os.environ.pop("COLUMNS", None)
        os.execv(VOLCRYPT, ["volcrypt", "--home", str(command.home), *arguments])
    shown = b""
    try:
        while piece := os.read(terminal, 65536):
            shown += piece
    except OSError:
        pass  # it has ended
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, shown
    return shown.decode().splitlines()


@pytest.mark.parametrize("kind", ["volume", "snapshot"])
def test_tables_fit_a_terminal_and_ids_are_whole(command: Command, kind: str) -> None:
    rows = command.json(kind, "list")[f"{kind.capitalize()}s"]
    (key,) = {row["KmsKeyId"].rpartition("/")[2] for row in rows if row["KmsKeyId"]}
    shown = on_a_terminal(command, kind, "list")
    assert max(map(len, shown)) <= WIDTH
    assert any(line.startswith("    ") for line in shown)
    words = " ".join(shown).split()
    for wanted in (key, "customer-provided", *(row[f"{kind.capitalize()}Id"] for row in rows)):
        assert wanted in words
    # Where no terminal reads it, a row is one line.
    assert len(command.run(kind, "list").splitlines()) == 1 + len(rows)


def test_where_the_file_system_of_a_volume_is(command: Command, tmp_path: Path) -> None:
    assert command.json("volume", "show", "data")["FileSystems"] == []
    (tmp_path / "mnt").mkdir()
    command.run("attach", "data", "--mkfs", "ext4", "--mount", tmp_path / "mnt")
    for shown in (
        command.json("volume", "show", "data"),
        *[row for row in command.json("volume", "list")["Volumes"] if row["Name"] == "data"],
        *command.json("status")["InUse"],
    ):
        assert shown["FileSystems"] == [str(tmp_path / "mnt")]
        assert shown.get("ReadOnly") in (None, False)  # of who serves, not of the volume
        assert (shown["Device"], shown["Fenced"]) == ("/dev/volcrypt/data", None)
    for arguments in (["volume", "show", "data"], ["volume", "list"], ["status"]):
        assert str(tmp_path / "mnt") in command.run(*arguments)
    assert command.json("status")["InUse"][0]["DataPlane"] in command.run("status")
    command.run("detach", "data")
