"""`volcrypt man`: pages for man(1), shown or written."""

import shutil
import subprocess
import sys
from pathlib import Path

import click

from volcrypt.cli.documents import DOCUMENTS
from volcrypt.cli.man_page import all_commands, man_page, page_name
from volcrypt.cli.session import Command, Session, pass_session


@click.command(cls=Command)
@click.argument("command", metavar="COMMAND", nargs=-1)
@click.option(
    "--write",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Write the pages of all commands to DIR/man1, such as /usr/local/share/man.",
)
@pass_session
def man(session: Session, command: tuple[str, ...], write: Path | None) -> None:
    """Show the manual page of a COMMAND, such as 'volume create', or of volcrypt itself.

    On a terminal man(1) shows it; elsewhere it is printed as roff. With --write all pages are
    written, so that 'man volcrypt-volume-create' finds them.
    """
    root = click.Context(click.get_current_context().find_root().command, info_name="volcrypt")
    if write is not None:
        if command:
            raise click.UsageError("--write takes no command: it writes all pages")
        written = _write(root, write / "man1")
        session.show(
            {"Directory": str(write), "Pages": written},
            lambda: print(f"{len(written)} pages in {write / 'man1'}"),
        )
        return
    name = "-".join(("volcrypt", *command))
    found = next((each for each in all_commands(root) if page_name(each) == name), None)
    if found is None:
        raise click.UsageError(f"there is no command {' '.join(command)!r}")
    page = man_page(found)
    document = DOCUMENTS.get(" ".join(command))
    session.show(
        {
            "Page": name,
            "Roff": page,
            "DocumentVersion": document.version if document else None,
            "Schema": document.schema if document else None,
        },
        lambda: _show(page),
    )


def _write(root: click.Context, directory: Path) -> list[str]:
    """The names of the pages. Pages of commands that are no more go."""
    directory.mkdir(parents=True, exist_ok=True)
    for old in (*directory.glob("volcrypt.1"), *directory.glob("volcrypt-*.1")):
        old.unlink()
    names = []
    for context in all_commands(root):
        names.append(page_name(context))
        (directory / f"{names[-1]}.1").write_text(man_page(context))
    return names


def _show(page: str) -> None:
    program = shutil.which("man")
    if program is None or not sys.stdout.isatty():
        print(page, end="")
        return
    # Ctrl-C is for the pager.
    subprocess.run([program, "--local-file", "-"], input=page, text=True, check=False)
