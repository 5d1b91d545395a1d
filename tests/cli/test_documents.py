"""What `--json` prints is what is written down of it, for every command."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec
import pytest

from tests.command import VOLCRYPT, Command, check_document, disposable_home
from volcrypt.cli.documents import DOCUMENTS, as_aws, members
from volcrypt.cli.main import volcrypt
from volcrypt.cli.man_page import all_commands


def leaves() -> Iterator[str]:
    for context in all_commands(click.Context(volcrypt, info_name="volcrypt")):
        if not isinstance(context.command, click.Group):
            yield context.command_path.partition(" ")[2]


def test_every_command_has_a_document() -> None:
    commands = set(leaves())
    assert DOCUMENTS.keys() <= commands
    assert {name for name in commands if not as_aws(name)} == DOCUMENTS.keys()
    for name, document in DOCUMENTS.items():
        schema = document.schema
        references = schema.get("anyOf", [schema])
        for shape, reference in zip(document.shapes, references, strict=True):
            assert reference["$ref"] in {f"#/$defs/{key}" for key in schema["$defs"]}
            assert list(members(shape)), name


class Seen:
    """Runs commands, and remembers whose documents were checked."""

    def __init__(self, command: Command) -> None:
        self.command = command
        self.names: set[str] = set()

    def __call__(self, *arguments: str | Path, codes: tuple[int, ...] = (0,)) -> None:
        done = self.command.try_run("--json", *arguments)
        assert done.returncode in codes, (arguments, done.stderr)
        name = check_document(arguments, json.loads(done.stdout))
        assert name is not None
        self.names.add(name)


def test_what_commands_print(tmp_path: Path) -> None:
    """All but those that attach, or take long over a passphrase, which tests of their own run
    through the same check."""
    (tmp_path / "mnt").mkdir()
    (tmp_path / "word").write_text("correct horse")
    (tmp_path / "image").write_bytes(os.urandom(2**20))
    home = tmp_path / "home"
    with (
        disposable_home(home) as command,
        disposable_home(tmp_path / "new") as other,
        disposable_home(tmp_path / "third") as third,
    ):
        seen = Seen(command)
        seen("init")
        seen("volume", "create", "--size", "1MiB", "--name", "a")
        seen("volume", "import", tmp_path / "image", "--name", "b")
        seen("volume", "show", "a")
        seen("volume", "check", "a")
        seen("mount", "a", tmp_path / "mnt")
        seen("status")
        seen("volume", "list")
        seen("volume", "grow", "a", "--size", "2MiB")
        seen("unmount", "a")
        seen("store", "create", "away", "--url", (tmp_path / "away").as_uri())
        for name in ("show", "public-key", "check"):
            seen("store", name, "away")
        seen("store", "list")
        seen("snapshot", "create", "a", "--name", "s1", "--wait")
        seen("snapshot", "create", "a", "b", "--name", "set", "--wait")
        seen("snapshot", "wait", "s1")
        seen("snapshot", "list")
        seen("snapshot", "show", "s1")
        seen("snapshot", "copy", "s1", "--store", "away", "--name", "s2", "--wait")
        seen("snapshot", "diff", "s1", "set-a")
        seen("snapshot", "verify")
        seen("snapshot", "export", "s1", tmp_path / "s1.img", "--yes")
        seen("snapshot", "delete", "s2")
        seen("volume", "export", "b", tmp_path / "b.img", "--yes")
        seen("volume", "create", "--size", "1MiB", "--name", "c", "--data", tmp_path / "c.data")
        seen("volume", "delete", "c", "--keep-data")
        seen("volume", "register", "--data", tmp_path / "c.data")
        seen("volume", "create", "--size", "1MiB", "--name", "plain", "--unencrypted")
        seen("encrypt", "plain", "--dry-run")
        seen("encrypt", "plain")
        seen("rekey", "plain")
        seen("settings", "set", "encryption-by-default", "on")
        seen("settings", "get")
        seen("report", "encryption", codes=(0, 8))
        seen("report", "key", "alias/volcrypt/ebs")
        seen("config", "check")
        seen("config", "show")
        seen("audit", "list", "--last", "5")
        seen("audit", "verify")
        seen("doctor", codes=(0, 8))
        seen("completion", "bash")
        seen("man", "volume", "list")
        seen("man", "--write", tmp_path / "share")
        seen("backup", tmp_path / "file", "--passphrase-file", tmp_path / "word")
        key = command.json("store", "public-key", "away")["PublicKey"]
        restoring = Seen(other)
        restoring("restore", tmp_path / "file", "--passphrase-file", tmp_path / "word")
        third.run("init")
        trusting = Seen(third)
        trusting("store", "trust", "again", "--url", (tmp_path / "away").as_uri(),
                  "--public-key", key)  # fmt: skip
        serving = subprocess.Popen(
            [VOLCRYPT, "--home", home, "--json", "kms", "serve", "--listen", "127.0.0.1:0"],
            stdout=subprocess.PIPE,
        )
        assert serving.stdout is not None
        check_document(("kms", "serve"), json.loads(serving.stdout.readline()))
        serving.send_signal(signal.SIGTERM)
        serving.communicate(timeout=60)
    elsewhere = {"attach", "detach", "kms serve", "volume export-header"}
    assert seen.names | restoring.names | trusting.names | elsewhere == DOCUMENTS.keys()


def test_what_is_not_written_down_is_found() -> None:
    """The control: a member more, one less, another type."""
    right = {"StoreName": "a", "PublicKey": "b"}
    assert check_document(("store", "public-key", "a"), right) == "store public-key"
    for wrong in (right | {"Other": 1}, {"StoreName": "a"}, right | {"PublicKey": 1}):
        with pytest.raises(msgspec.ValidationError):
            check_document(("store", "public-key", "a"), wrong)
    with pytest.raises(AssertionError):
        check_document(("nothing",), {})
