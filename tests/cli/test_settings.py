"""`settings` at the command line."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.command import Command, disposable_home


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Command]:
    with disposable_home(tmp_path / "home") as home:
        home.run("init")
        yield home


def test_encryption_by_default(command: Command) -> None:
    assert command.run("settings", "get", "encryption-by-default") == "off"
    create = ("volume", "create", "--size", "1MiB")
    command.run(*create, "--unencrypted")
    command.run(
        "snapshot", "create", "--wait", command.run(*create, "--unencrypted"), "--name", "s"
    )
    command.run("settings", "set", "encryption-by-default", "on")
    assert "encryption is on" in command.run("status")
    for refused in (create, ("volume", "create", "--snapshot-id", "s"), ("snapshot", "copy", "s")):
        complaint = command.fails(2, *refused, "--unencrypted")
        assert "encryption by default is on" in complaint
        assert "hint: leave --unencrypted out" in complaint
    assert command.json(*create)["Encrypted"]
    assert command.json("volume", "create", "--snapshot-id", "s")["Encrypted"]
    assert command.json("snapshot", "copy", "s", "--wait")["Encrypted"]
    assert command.json("settings", "get") == {
        "Account": "000000000000",
        "Region": "us-east-1",
        "EncryptionByDefault": True,
        "DefaultKmsKeyId": "alias/volcrypt/ebs",
        "DefaultKmsKeySource": "service-managed",
    }
    assert command.json("status")["Settings"] == command.json("settings", "get")


def test_the_default_key(command: Command) -> None:
    key = command.json("kms", "create-key")["KeyMetadata"]["Arn"]
    name = ("settings", "set", "default-kms-key")
    assert command.run(*name, key) == f"default-kms-key is {key}"
    assert command.run("settings", "get", "default-kms-key") == key
    assert command.json("volume", "create", "--size", "1MiB")["KmsKeyId"] == key
    config = command.home / "config.toml"
    config.write_text("[profiles.own]\ndefault_kms_key = 'alias/own'\n")
    assert "the profile names one itself" in command.run("--profile", "own", *name, key)
    assert command.json("--profile", "own", "settings", "get")["DefaultKmsKeySource"] == "profile"
    assert "alias/volcrypt/ebs" in command.run(*name, "none")


def test_what_is_refused(command: Command) -> None:
    command.fails(2, "settings", "get", "colour")
    assert "is on or off" in command.fails(2, "settings", "set", "encryption-by-default", "yes")
    command.fails(3, "settings", "set", "default-kms-key", "alias/nothing")
    key = command.run("kms", "create-key")
    command.run("kms", "disable-key", "--key-id", key)
    assert "disabled" in command.fails(5, "settings", "set", "default-kms-key", key)
    command.run("principal", "create", "alice")
    (command.home / "config.toml").write_text("[profiles.alice]\nprincipal = 'alice'\n")
    hers = ("--profile", "alice", "settings")
    assert "not authorized" in command.fails(5, *hers, "set", "encryption-by-default", "on")
    assert command.run(*hers, "get", "encryption-by-default") == "off"
