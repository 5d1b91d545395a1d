"""`report` at the command line: tables, documents, exit codes; what is asked before a key dies."""

import os
import pty
import re
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.command import VOLCRYPT, Command, disposable_home


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Command]:
    with disposable_home(tmp_path / "home") as home:
        home.run("init")
        yield home


def test_encryption(command: Command) -> None:
    key = command.run("kms", "create-key")
    command.run("volume", "create", "--size", "1MiB", "--name", "v", "--kms-key-id", key)
    clean = command.try_run("report", "encryption")
    assert clean.returncode == 0
    assert "no findings" in clean.stdout
    assert "protects volumes and snapshots which leave the home" in clean.stdout
    command.run("volume", "create", "--size", "1MiB", "--name", "open", "--unencrypted")
    command.run("kms", "disable-key", "--key-id", key)
    found = command.try_run("report", "encryption")
    assert found.returncode == 8
    assert "(open) is not encrypted" in found.stdout
    assert f"{key} is disabled" in found.stdout
    assert "findings: 2" in found.stdout
    command.run("volume", "delete", "open")
    command.run("kms", "enable-key", "--key-id", key)
    document = command.json("report", "encryption")
    assert set(document) == {
        "Version",
        "CreatedAt",
        "Account",
        "Region",
        "Settings",
        "Findings",
        "Notes",
        "Volumes",
        "Snapshots",
        "PendingSnapshots",
        "UnfinishedCopies",
        "Workflows",
        "Keys",
        "Stores",
        "StoresNotRead",
        "NotReadable",
    }
    assert document["Version"] == 1
    assert document["Findings"] == []
    (line,) = document["Keys"]
    assert line["KeyState"] == "Enabled"
    assert line["Volumes"] == [document["Volumes"][0]["VolumeId"]]


def test_a_key(command: Command) -> None:
    key = command.run("kms", "create-key")
    made = command.run("volume", "create", "--size", "1MiB", "--kms-key-id", key)
    command.run("snapshot", "create", "--wait", made, "--name", "s")
    text = command.run("report", "key", key)
    assert re.search(r"^first use +\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC$", text, re.MULTILINE)
    assert not re.search(r"\dT\d\d:", text), "one format of times"
    assert made in text
    assert "root  1" in text
    document = command.json("report", "key", key)
    assert document["Version"] == 1
    assert [each["Kind"] for each in document["Dependents"]] == ["volume", "snapshot"]
    assert document["Usage"]["ByVolume"][made]["Uses"] == 1
    assert document["Usage"]["ByPrincipal"]["arn:aws:iam::000000000000:root"]["Uses"] == 1
    assert document["Usage"]["FirstUse"] == document["Usage"]["LastUse"]
    assert not document["IsDefaultKey"]
    command.run("settings", "set", "default-kms-key", key)
    assert command.json("report", "key", key)["IsDefaultKey"]
    command.fails(3, "report", "key", "alias/nothing")


def test_who_may_not_describe_a_key(command: Command) -> None:
    key = command.run("kms", "create-key")
    command.run("kms", "create-alias", "--alias-name", "alias/a", "--target-key-id", key)
    made = command.run("volume", "create", "--size", "1MiB", "--kms-key-id", key)
    command.run("principal", "create", "alice")
    (command.home / "config.toml").write_text("[profiles.alice]\nprincipal = 'alice'\n")
    hers = ("--profile", "alice", "report")
    assert "not authorized" in command.fails(5, *hers, "key", "alias/a")
    document = command.json(*hers, "key", key)
    assert document["KeyState"] is None
    assert [each["Id"] for each in document["Dependents"]] == [made]
    found = command.try_run(*hers, "encryption")
    assert found.returncode == 8
    assert "you may not describe it" in found.stdout


@pytest.mark.parametrize(("answer", "state"), [("n", "Enabled"), ("y", "PendingDeletion")])
def test_a_deletion_asks_on_a_terminal(command: Command, answer: str, state: str) -> None:
    key = command.run("kms", "create-key")
    command.run("volume", "create", "--size", "1MiB", "--kms-key-id", key, "--name", "doomed")
    command.run("settings", "set", "default-kms-key", key)
    ours, theirs = pty.openpty()
    try:
        os.write(ours, f"{answer}\n".encode())
        arguments = ("kms", "schedule-key-deletion", "--key-id", key)
        done = subprocess.run(
            [VOLCRYPT, "--home", command.home, *arguments],
            check=False,
            stdin=theirs,
            stdout=subprocess.DEVNULL,
            stderr=theirs,
            timeout=60,
        )
        said = os.read(ours, 65536).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert done.returncode == (0 if answer == "y" else 1)
    assert "doomed dies with the key" in said
    assert "it is the default key" in said
    day = f"{datetime.now(UTC) + timedelta(days=30):%Y-%m-%d}"
    before = f"{datetime.now(UTC) + timedelta(days=30, hours=-1):%Y-%m-%d}"
    asked = [f"{key} on {each}, when its waiting time is over?" for each in (day, before)]
    assert any(question in said for question in asked)
    described = command.json("kms", "describe-key", "--key-id", key)
    assert described["KeyMetadata"]["KeyState"] == state


@pytest.mark.parametrize("days", ["6", "31"])
def test_nobody_is_asked_for_what_is_refused(command: Command, days: str) -> None:
    key = command.run("kms", "create-key")
    wrong = ("--key-id", key, "--pending-window-in-days", days)
    said = command.fails(2, "kms", "schedule-key-deletion", *wrong)
    assert "--yes" not in said
    assert "dies with" not in said
