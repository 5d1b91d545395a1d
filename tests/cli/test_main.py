"""Global options, help, and how failure looks."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command import Command, disposable_home
from volcrypt import errors
from volcrypt.cli.exits import Exit, exit_code_of
from volcrypt.cli.main import COMMANDS


@pytest.fixture
def command(tmp_path: Path) -> Command:
    return Command(tmp_path / "home", forked=False)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_that_agrees_with_the_table(command: Command, name: str) -> None:
    text = command.run(name, "--help")
    assert text.startswith("Usage: volcrypt")
    assert "--help" in text


def test_help_lists_every_command(command: Command) -> None:
    text = command.run("--help")
    for name, (_module, help_line) in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(help_line)}$", text, re.MULTILINE)


@pytest.mark.parametrize(
    "group", ["audit", "config", "principal", "report", "settings", "snapshot", "store", "volume"]
)
def test_help_of_a_group_says_of_each_command_a_whole_sentence(
    command: Command, group: str
) -> None:
    text = command.run(group, "--help")
    assert "Commands:" in text
    assert "..." not in text.partition("Commands:")[2]


def test_without_a_home_every_command_says_how_to_get_one(command: Command) -> None:
    for arguments in (["volume", "list"], ["status"], ["kms", "list-keys"], ["audit", "list"]):
        complaint = command.fails(3, *arguments)
        assert f"error: no volcrypt home at {command.home}" in complaint
        assert f"hint: 'volcrypt --home {command.home} init' makes one there" in complaint


@pytest.mark.parametrize(
    "arguments",
    [
        ["no-such-command"],
        ["volume", "create"],
        ["volume", "create", "--size"],
        ["volume", "create", "--no-such-option"],
        ["mount", "only-one"],
        ["volume", "create", "--size", "1GiB", "--unencrypted", "--kms-key-id", "alias/a"],
    ],
)
def test_usage_errors_end_with_2(command: Command, arguments: list[str]) -> None:
    command.fails(2, *arguments)


def test_every_error_has_an_exit_code_that_is_documented() -> None:
    def classes(kind: type[errors.VolcryptError]) -> list[type[errors.VolcryptError]]:
        return [kind, *(found for sub in kind.__subclasses__() for found in classes(sub))]

    for kind in classes(errors.VolcryptError):
        error = kind.__new__(kind)
        assert exit_code_of(error) in set(Exit) - {Exit.DONE, Exit.INTERRUPTED}


def test_a_wrong_pin_is_a_denial() -> None:
    assert exit_code_of(errors.WrongPinError("the PIN does not open the token")) is Exit.DENIED
    assert exit_code_of(errors.ConfigurationError("no PIN")) is Exit.FAILED


def test_a_region_that_is_not_the_homes_is_refused(tmp_path: Path) -> None:
    with disposable_home(tmp_path / "home") as command:
        command.run("init")
        assert "us-east-1" in command.fails(2, "--region", "eu-west-1", "volume", "list")


def test_the_configuration_file_is_checked(tmp_path: Path) -> None:
    with disposable_home(tmp_path / "home") as command:
        command.run("init")
        (command.home / "config.toml").write_text("[profiles.default]\nregoin = 'x'\n")
        assert "regoin" in command.fails(1, "volume", "list")
        (command.home / "config.toml").write_text("[profiles.here]\nregion = 'us-east-1'\n")
        assert command.run("--profile", "here", "volume", "list")
        assert "no profile 'there'" in command.fails(2, "--profile", "there", "volume", "list")


def test_init_twice_changes_nothing(tmp_path: Path) -> None:
    with disposable_home(tmp_path / "home") as command:
        assert command.json("init")["Created"] is True
        key = command.json("kms", "create-key")["KeyMetadata"]["KeyId"]
        assert command.json("init")["Created"] is False
        assert [row["KeyId"] for row in command.json("kms", "list-keys")["Keys"]] == [key]


def test_init_refuses_a_directory_with_something_else_in_it(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letters").write_text("dear")
    Command(tmp_path / "home").fails(2, "init")
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["letters"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("volume", "list"),
        ("volume", "create", "--size=1MiB"),
        ("snapshot", "list"),
        ("status",),
        ("kms", "list-keys"),
        ("mount", "nothing", "/nowhere"),
    ],
)
def test_what_is_slow_to_import_is_left_to_those_who_need_it(
    command: Command, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    with disposable_home(command.home):
        command.run("init")
        monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")
        report = command.try_run(*arguments).stderr
    imported = {line.rpartition("|")[2].strip() for line in report.splitlines()}
    assert "volcrypt.operations.home" in imported
    assert not imported & {"numpy", "trio", "botocore", "obstore", "uvicorn", "rich"}


NUMPY_AFTER_A_COMMAND = """
import os
from contextlib import suppress
from volcrypt.cli.main import main
with suppress(SystemExit):
    main(["--version"])
import numpy
print(len(os.listdir("/proc/self/task")))
"""


def test_no_library_has_a_thread_of_its_own_that_a_signal_could_go_to() -> None:
    """`attach --foreground` holds signals back until it can stop in order."""
    environment = {k: v for k, v in os.environ.items() if k != "OPENBLAS_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, "-c", NUMPY_AFTER_A_COMMAND],
        check=True,
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.stdout.splitlines()[-1] == "1"
