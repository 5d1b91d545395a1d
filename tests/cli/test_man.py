"""Manual pages: of every command, and such that groff and a reader take them."""

import os
import re
import subprocess
from pathlib import Path

import click
import pytest

from tests.command import VOLCRYPT, Command
from volcrypt.cli.exits import Exit
from volcrypt.cli.main import COMMANDS, volcrypt
from volcrypt.cli.man_page import all_commands, man_page, page_name, summaries
from volcrypt.cli.session import Command as CliCommand


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("man")
    Command(root / "none").run("man", "--write", root)
    return root / "man1"


def shown(page: str) -> str:
    """As a reader sees it."""
    done = subprocess.run(
        ["groff", "-man", "-Tutf8", "-P-cbou", "-rLL=1000n"],
        input=page,
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout


def test_every_command_has_a_page(pages: Path) -> None:
    names = {path.stem for path in pages.iterdir()}
    assert {f"volcrypt-{name}" for name in COMMANDS} < names
    assert {"volcrypt", "volcrypt-volume-create", "volcrypt-kms-create-key"} < names
    root = click.Context(volcrypt, info_name="volcrypt")
    assert names == {page_name(each) for each in all_commands(root)}


def test_groff_has_nothing_to_say(pages: Path, tmp_path: Path) -> None:
    def complaints(*files: Path) -> str:
        done = subprocess.run(
            ["groff", "-man", "-Tutf8", "-ww", "-z", *files], capture_output=True, text=True
        )
        assert done.returncode == 0
        return done.stderr

    assert complaints(*sorted(pages.iterdir())) == ""
    broken = tmp_path / "broken.1"
    broken.write_text(".TH A 1\n.SH NAME\na \\*[nothing]\n.TP\n")
    assert complaints(broken)


def test_a_page_says_what_help_says(pages: Path) -> None:
    root = click.Context(volcrypt, info_name="volcrypt")
    for context in all_commands(root):
        page = " ".join(shown((pages / f"{page_name(context)}.1").read_text()).split())
        if page_name(context).startswith("volcrypt-kms-"):
            continue  # too many to look at all
        for each in context.command.get_params(context):
            for option in each.opts:
                assert option in page or isinstance(each, click.Argument)
        if isinstance(context.command, click.Group):
            for text in summaries(context.command, context).values():
                assert " ".join(text.split()) in page
    exits = " ".join(shown((pages / "volcrypt.1").read_text()).partition("EXIT STATUS")[2].split())
    for code in Exit:
        assert re.search(rf"(^| ){code.value} ", exits)


def test_text_is_shown_as_it_is() -> None:
    odd = "a -b --c 'd' `e` \"f\" \\g ^h ~i"

    @click.command("odd", cls=CliCommand)
    @click.option("--x", help=odd)
    def command() -> None:
        """Oddly.

        .TH is no request here, nor 'so.

        \b
        .kept    as it is
          indented
        """

    page = man_page(click.Context(command, info_name="odd"))
    text = shown(page)
    assert odd in text
    assert ".TH is no request here, nor 'so." in text
    assert ".kept    as it is\n" in text
    assert re.search(r"\n +  indented\n", text)


def test_one_page(tmp_path: Path) -> None:
    command = Command(tmp_path / "none")
    assert command.run("man", "volume", "create").startswith('.TH "VOLCRYPT\\-VOLUME\\-CREATE" 1')
    assert command.run("man").startswith('.TH "VOLCRYPT" 1')
    assert command.json("man", "kms", "encrypt")["Page"] == "volcrypt-kms-encrypt"
    command.fails(2, "man", "no", "such")
    command.fails(2, "man", "volume", "--write", tmp_path)


def test_pages_of_what_is_no_more_go(tmp_path: Path) -> None:
    (tmp_path / "man1").mkdir()
    (tmp_path / "man1/volcrypt-gone.1").write_text("")
    (tmp_path / "man1/vol.1").write_text("")
    Command(tmp_path / "none").run("man", "--write", tmp_path)
    names = {path.name for path in (tmp_path / "man1").iterdir()}
    assert "volcrypt-gone.1" not in names
    assert {"vol.1", "volcrypt.1"} < names


def test_it_is_made_where_there_is_nobody_to_ask(tmp_path: Path) -> None:
    """As a package is built: no home, no HOME, nothing of this host."""
    done = subprocess.run(
        [VOLCRYPT, "man", "--write", tmp_path],
        env={"PATH": os.environ["PATH"]},
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""
