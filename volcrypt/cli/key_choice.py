"""KEY OPTIONS: under which key something new is encrypted."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from volcrypt.cli.customer_key import give_key, making_key_option
from volcrypt.cli.session import Session

if TYPE_CHECKING:
    from volcrypt.operations.keys import KeyChoice

Wrapped = TypeVar("Wrapped", bound=Callable[..., Any])


def key_options(function: Wrapped) -> Wrapped:
    """KEY OPTIONS: which key a new volume or copy is encrypted under."""
    function = making_key_option(function)
    function = click.option(
        "--unencrypted",
        is_flag=True,
        help="Do not encrypt: not for a copy of what is encrypted, nor where encryption by default "
        "is on.",
    )(function)
    return click.option(
        "--kms-key-id",
        metavar="K",
        help="Key id, ARN, alias or alias ARN [default: the account's default key].",
    )(function)


def key_choice(
    session: Session, kms_key_id: str | None, unencrypted: bool, customer_key_file: Path | None
) -> "KeyChoice":
    """What KEY OPTIONS ask for. Raises UsageError for what excludes each other."""
    from volcrypt.operations.keys import KeyChoice

    check_key_options(kms_key_id, unencrypted, customer_key_file)
    return KeyChoice(
        encrypted=not unencrypted,
        kms_key=kms_key_id,
        customer_key=give_key(session, customer_key_file),
    )


def check_key_options(
    kms_key_id: str | None, unencrypted: bool, customer_key_file: Path | None
) -> None:
    """Raises UsageError for what excludes each other."""
    if unencrypted + (kms_key_id is not None) + (customer_key_file is not None) > 1:
        raise click.UsageError(
            "--kms-key-id, --customer-key-file and --unencrypted exclude each other"
        )
