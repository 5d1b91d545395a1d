"""Planted secrets of a volume, looked for wherever a user, a disk or a log would show them."""

import os
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.command import Command, disposable_home

PLAINTEXT = bytes(range(1, 129)) * 32
"""A data unit that nothing else holds."""


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Command]:
    with disposable_home(tmp_path / "home") as made:
        made.run("init")
        yield made


def traces(secret: bytes) -> set[bytes]:
    """How it would look: as it is, in base64, in hexadecimal."""
    text = b64encode(secret)
    return {secret[:32], text[:40], secret[:32].hex().encode(), secret[:32].hex().upper().encode()}


def seen(pid: int, wanted: set[bytes]) -> set[str]:
    """In what any program of the same user sees of a process."""
    shown = ("cmdline", "environ", "comm", "maps")
    return {
        name
        for name in shown
        if any(each in Path(f"/proc/{pid}/{name}").read_bytes() for each in wanted)
    }


def holding(roots: list[Path], wanted: set[bytes]) -> set[Path]:
    """Files with a trace, at whatever offset: SQLite's free pages and journal, logs, stores."""
    return {
        path
        for root in roots
        for path in root.rglob("*")
        if path.is_file() and not path.is_symlink() and any(t in path.read_bytes() for t in wanted)
    }


def test_a_customer_key_and_plaintext_are_nowhere(command: Command, tmp_path: Path) -> None:
    key = os.urandom(32)
    wanted = traces(key) | traces(PLAINTEXT)
    source, point, temporary = (tmp_path / name for name in ("source", "point", "temporary"))
    for each in (source, point, temporary):
        each.mkdir()
    (source / "key").write_bytes(key)
    (source / "image").write_bytes(PLAINTEXT * 256)
    given = ("--customer-key-file", source / "key")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(temporary))
        command.run("volume", "import", source / "image", "--name", "data", *given)
        command.run("mount", "data", point, *given)
        with (point / "volume").open("r+b", buffering=0) as file:
            assert file.read(len(PLAINTEXT)) == PLAINTEXT
            file.write(PLAINTEXT)
            os.fsync(file.fileno())
        command.run("snapshot", "create", "data", "--name", "one", "--wait")
        (pid,) = command.processes()
        assert seen(pid, wanted) == set()
        assert seen(pid, {b"volcrypt"}) >= {"cmdline"}, "the control"
        roots = [command.home, command.runtime, temporary]
        assert holding(roots, wanted) == set()
        command.run("unmount", "data")
        copy = ("snapshot", "copy", "one", "--name", "two", "--wait")
        by_customer = ("--source-customer-key-file", source / "key")
        command.run(*copy, "--kms-key-id", "alias/volcrypt/ebs", *by_customer)
        command.run("volume", "create", "--snapshot-id", "two", "--name", "again")
        command.fails(5, "volume", "export", "--yes", "data", tmp_path / "out", *wrong(source))
        assert holding(roots, wanted) == set()
    # The control: each of the traces would have been found, also behind a page of SQLite.
    for trace in wanted:
        control = command.home / "kms" / "control"
        control.write_bytes(bytes(5000) + trace)
        assert holding(roots, wanted) == {control}
        control.unlink()


def wrong(directory: Path) -> tuple[str | Path, ...]:
    (directory / "wrong").write_bytes(os.urandom(32))
    return "--customer-key-file", directory / "wrong"


@pytest.mark.parametrize("secret", ["passphrase", "pin"])
def test_what_unlocks_a_home_or_a_backup_is_nowhere(tmp_path: Path, secret: str) -> None:
    word = b"correct-horse-battery-staple-0123456789"
    (tmp_path / "word").write_bytes(word + b"\n")
    (tmp_path / "word").chmod(0o600)
    with disposable_home(tmp_path / "home") as command:
        if secret == "pin":
            command.run("init", "--pin-file", tmp_path / "word")
            config = f'[kms]\npin_file = "{tmp_path / "word"}"\n'
            (command.home / "config.toml").write_text(config)
            command.run("kms", "create-key")
        else:
            command.run("init")
            command.run(
                "backup", tmp_path / "home" / "backup", "--passphrase-file", "-", stdin=word
            )
        roots = [command.home, command.runtime]
        assert holding(roots, traces(word)) == set()
        (command.home / "control").write_bytes(b"x" + word)
        assert holding(roots, traces(word)) == {command.home / "control"}
