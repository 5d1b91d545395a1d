"""Completion, in a real bash, and what is suggested."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from tests.command import VOLCRYPT, Command, disposable_home
from tests.terminal import on_terminal
from volcrypt.cli.completion import kinds_for
from volcrypt.cli.main import COMMANDS, COMPLETION, volcrypt

ENVIRONMENT = {**os.environ, "PATH": f"{VOLCRYPT.parent}:{os.environ['PATH']}"}


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    with disposable_home(tmp_path_factory.mktemp("completion") / "home") as made:
        made.run("init")
        made.run("volume", "create", "--size", "1MiB", "--name", "orders")
        made.run("volume", "create", "--size", "1MiB", "--name", "letters")
        made.run("volume", "create", "--size", "1MiB", "--name", "open", "--unencrypted")
        made.run("snapshot", "create", "orders", "--name", "orders-monday", "--wait")
        made.run("principal", "create", "alice")
        made.run("store", "create", "archive", "--url", f"file://{made.home.parent}/archive")
        (made.home / "config.toml").write_text("[profiles.elsewhere]\nregion = 'us-east-1'\n")
        yield made


def suggested(home: Path, *words: str, options: tuple[str, ...] = ()) -> list[str]:
    """What is suggested for the last of the words."""
    line = ["volcrypt", "--home", str(home), *options, *words]
    done = subprocess.run(
        [VOLCRYPT],
        env={
            **ENVIRONMENT,
            COMPLETION: "bash_complete",
            "COMP_WORDS": " ".join(line),
            "COMP_CWORD": str(len(line) - 1),
        },
        check=True,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("vol",), ["plain,volume"]),
        (("snapshot", "ver"), ["plain,verify"]),
        (("mount", "or"), ["plain,orders", "plain,orders-monday"]),
        (("attach", "or"), ["plain,orders"]),
        (("encrypt", ""), ["plain,open"]),
        (("encrypt", "--resume", "o"), ["plain,open", "plain,orders"]),
        (("rekey", ""), ["plain,letters", "plain,orders"]),
        (("snapshot", "wait", ""), []),
        (("unmount", "l"), ["plain,letters", "dir,l"]),
        (("snapshot", "create", "letters", "or"), ["plain,orders"]),
        (("snapshot", "delete", "or"), ["plain,orders-monday"]),
        (("snapshot", "copy", "x", "--store", "a"), ["plain,archive"]),
        (("store", "check", ""), ["plain,local", "plain,archive"]),
        (("principal", "delete", "a"), ["plain,alice"]),
        (("volume", "create", "--kms-key-id", "alias/v"), ["plain,alias/volcrypt/ebs"]),
        (("kms", "describe-key", "--key-id", "alias/a"), ["plain,alias/aws/ebs"]),
        (("report", "key", "alias/a"), ["plain,alias/aws/ebs"]),
        (("kms", "schedule-key-d"), ["plain,schedule-key-deletion"]),
        (("--profile", "e"), ["plain,elsewhere"]),
        (("volume", "list", "--js"), ["plain,--json"]),
        (("mount", "nothing-like-it"), []),
        (("no-such-command", "x"), []),
    ],
)
def test_what_is_suggested(command: Command, words: tuple[str, ...], expected: list[str]) -> None:
    assert sorted(suggested(command.home, *words)) == sorted(expected)


def test_keys_are_suggested_too(command: Command) -> None:
    (key,) = (each["KeyId"] for each in command.json("kms", "list-keys")["Keys"])
    assert suggested(command.home, "kms", "disable-key", "--key-id", key[:6]) == [f"plain,{key}"]


@pytest.mark.parametrize("words", [("mount", ""), ("store", "show", ""), ("--profile", "")])
def test_nothing_is_said_of_homes_that_are_broken(tmp_path: Path, words: tuple[str, ...]) -> None:
    assert not any("error" in each for each in suggested(tmp_path / "none", *words))
    broken = tmp_path / "broken"
    (broken / "kms").mkdir(parents=True)
    (broken / "volumes/vol-1").mkdir(parents=True)
    (broken / "volumes/vol-1/record").write_bytes(b"\xff{")
    (broken / "volumes/vol-2").symlink_to("/dev/zero")
    for number, content in enumerate((b"nothing", b'{"a":' * 9000, b"[" * 9000), start=3):
        (broken / f"volumes/vol-{number}").mkdir()
        (broken / f"volumes/vol-{number}/record").write_bytes(content)
    (broken / "volumes/vol-9").mkdir()
    os.mkfifo(broken / "volumes/vol-9/record")
    (broken / "kms/catalog.sqlite3").write_bytes(b"no database")
    (broken / "config.toml").write_text("[")
    assert not any("error" in each for each in suggested(broken, *words))


def test_no_pin_is_asked_for_and_nothing_recorded(tmp_path: Path) -> None:
    with disposable_home(tmp_path / "home") as command:
        command.run("init", "--pin-file", "-", stdin=b"482916")
        before = {path: path.stat().st_mtime_ns for path in command.home.rglob("*")}
        assert suggested(command.home, "store", "show", "l") == ["plain,local"]
        assert suggested(command.home, "encrypt", "x", "--kms-key-id", "") == []
        assert {path: path.stat().st_mtime_ns for path in command.home.rglob("*")} == before


def test_a_real_bash_completes(command: Command, tmp_path: Path) -> None:
    startup = tmp_path / "bashrc"
    startup.write_text(
        f"PATH={VOLCRYPT.parent}:$PATH VOLCRYPT_HOME={command.home} PS1='ready> '\n"
        'eval "$(volcrypt completion bash)"\nexport VOLCRYPT_HOME\n'
    )
    arguments: list[str | Path] = ["/bin/bash", "--noprofile", "--rcfile", startup, "-i"]
    with on_terminal(arguments) as terminal:
        terminal.wait_to_read("ready> ")
        terminal.press("echo volcrypt vol\t")
        terminal.press("\x15volcrypt attach lett\t")  # Ctrl-U: away with the line before
        terminal.wait_to_read("attach letters ")
        terminal.press("\x15volcrypt sna\t")
        terminal.wait_to_read("volcrypt snapshot ")
        terminal.press("verify mon\t\x15volcrypt snapshot verify orders-m\t")
        terminal.wait_to_read("verify orders-monday ")
        terminal.press("\x15exit\n")
        assert terminal.ends() == 0
    assert "error" not in terminal.output


@pytest.mark.parametrize(
    ("shell", "begins", "has"),
    [
        ("bash", "_volcrypt_completion()", "complete -o nosort -F _volcrypt_completion volcrypt"),
        ("zsh", "#compdef volcrypt", "compdef _volcrypt_completion volcrypt"),
        ("fish", "function _volcrypt_completion", "complete --no-files --command volcrypt"),
    ],
)
def test_scripts(command: Command, shell: str, begins: str, has: str) -> None:
    script = command.run("completion", shell)
    assert script.startswith(begins)
    assert has in script
    assert f"{COMPLETION}={shell}_complete" in script
    assert command.json("completion", shell)["Script"].strip() == script
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=script, check=True, text=True)


def test_every_name_that_help_shows_is_completed() -> None:
    """A metavar that is new has to be decided on: it is in the table, or known to take no name."""
    free = {
        "F|-", "FILE", "FILE|-", "FILE|DEVICE", "PATH", "R", "TIME", "N", "O", "H", "HEX", "URL",
        "ID", "TYPE", "UNIT", "HOST:PORT", "HOST:PORT|PATH", "HOST:PORT|PATH|-", "NAME",
        "SIGNER:NUMBER:DIGEST", "s3|kms[:KEY]|customer:FILE", "SIZE", "COMMAND",
    }  # fmt: skip
    seen: set[str] = set()

    def walk(group: click.Command, context: click.Context) -> None:
        for name in group.list_commands(context) if isinstance(group, click.Group) else []:
            assert isinstance(group, click.Group)
            found = group.get_command(context, name)
            assert found is not None
            inner = click.Context(found, info_name=name, parent=context)
            if context.info_name != "kms":
                seen.update(
                    each.metavar
                    for each in found.params
                    if each.metavar and kinds_for(each, inner) is None
                )
            walk(found, inner)

    root = click.Context(volcrypt, info_name="volcrypt")
    walk(volcrypt, root)
    assert COMMANDS.keys() <= set(volcrypt.list_commands(root))
    assert seen <= free
