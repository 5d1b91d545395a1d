"""Asking before what cannot be undone."""

import sys

import click

from volcrypt.errors import InvalidArgumentError, NotConfirmedError


def confirm(deed: str, question: str) -> None:
    """Raises NotConfirmedError for a no, and InvalidArgumentError where nobody can answer."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise InvalidArgumentError(
            f"{deed} needs a confirmation, and there is no terminal to ask", hint="add --yes"
        )
    if not click.confirm(question, err=True):
        raise NotConfirmedError
