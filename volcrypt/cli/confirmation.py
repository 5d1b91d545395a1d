"""Asking before what cannot be undone.

What a command deletes and names itself, a volume or a snapshot, is asked for on a terminal; where
there is none, the command is the word. What takes more with it than it names (a key, all that is
under it) or takes protection away (plaintext) is asked for too, and needs --yes elsewhere.
"""

import sys
from pathlib import Path

import click

from volcrypt.errors import InvalidArgumentError, NotConfirmedError


def has_terminal() -> bool:
    """Whether there is somebody to ask."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def confirm(deed: str, question: str) -> None:
    """Raises NotConfirmedError for a no, and InvalidArgumentError where nobody can answer."""
    if not has_terminal():
        raise InvalidArgumentError(
            f"{deed} needs a confirmation, and there is no terminal to ask", hint="add --yes"
        )
    if not click.confirm(question, err=True):
        raise NotConfirmedError


def confirm_plaintext(what: str, file: Path) -> None:
    """Ask whether plaintext may be written; InvalidArgumentError where nobody can answer."""
    question = f"this writes the plaintext of {what} to {file}, where nothing protects it: go on?"
    confirm("writing plaintext", question)


yes_to_plaintext_option = click.option(
    "--yes",
    is_flag=True,
    help="Do not ask whether plaintext may be written; needed where there is no terminal.",
)
yes_to_deletion_option = click.option(
    "--yes", is_flag=True, help="Do not ask on a terminal; elsewhere nobody is asked."
)
