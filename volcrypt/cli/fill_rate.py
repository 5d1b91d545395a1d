"""`--fill-rate` of the commands that make or serve lazy volumes."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

Wrapped = TypeVar("Wrapped", bound=Callable[..., Any])


def fill_rate_option(function: Wrapped) -> Wrapped:
    return click.option(
        "--fill-rate",
        metavar="R",
        help="Bytes a second, like 50MiB, at which what is not touched is fetched from the "
        "snapshot; 0 for not at all [default: as fast as it goes].",
    )(function)


def parse_fill_rate(text: str | None) -> int | None:
    """None for as fast as it goes. Raises InvalidArgumentError."""
    if text is None:
        return None
    from volcrypt.snapshot.pace import parse_rate

    return 0 if text.strip("0") == "" and text else parse_rate(text)
