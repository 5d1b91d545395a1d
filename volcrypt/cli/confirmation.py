"""Asking before what cannot be undone."""

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
    "--yes", is_flag=True, help="Do not ask whether plaintext may be written."
)
