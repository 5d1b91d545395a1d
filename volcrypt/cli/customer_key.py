"""Customer-provided keys on the command line: 32 raw bytes from a file or standard input, never an
argument, and never kept."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from volcrypt.cli.session import Session
from volcrypt.errors import InvalidArgumentError

if TYPE_CHECKING:
    from volcrypt.crypto.customer_key import CustomerKey
    from volcrypt.operations.home import Home

Wrapped = TypeVar("Wrapped", bound=Callable[..., Any])

_STDIN: Final = "-"
_FILE: Final = click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path)


def secret_file(name: str, help_text: str) -> Callable[[Wrapped], Wrapped]:
    """An option for a file with a secret, `-` for standard input."""
    return click.option(name, metavar="F|-", type=_FILE, help=help_text)


opening_key_option: Final = secret_file(
    "--customer-key-file", "The customer-provided key that it is under: a file, or - for stdin."
)
source_key_option: Final = secret_file(
    "--source-customer-key-file", "The customer-provided key that the snapshot is under."
)
making_key_option: Final = secret_file(
    "--customer-key-file", "Encrypt under a key of your own: a file of 32 random bytes, or -."
)


def give_key(session: Session, path: Path | None) -> "CustomerKey | None":
    """Read the key, if one is named, for the rest of this command."""
    return None if path is None else give_home_key(session.home, path)


def give_home_key(home: "Home", path: Path) -> "CustomerKey":
    """Read a key for as long as this home is open."""
    from volcrypt.confinement import forbid_dumps, lock_memory
    from volcrypt.crypto.customer_key import CustomerKey

    forbid_dumps()
    lock_memory()
    key = CustomerKey(_read_key(path))
    home.customer_keys.append(key)
    return key


def check_one_stdin(*paths: Path | None) -> None:
    """Raises UsageError when standard input should hold two things."""
    if sum(str(path) == _STDIN for path in paths) > 1:
        raise click.UsageError("only one thing can come from standard input")


def _read_key(path: Path) -> bytearray:
    """Exactly the bytes of a key, into one buffer. Raises InvalidArgumentError."""
    from volcrypt.crypto.customer_key import CUSTOMER_KEY_BYTES

    if str(path) == _STDIN and sys.stdin.isatty():
        raise InvalidArgumentError(
            "a customer-provided key cannot be typed: it is 32 bytes of any value",
            hint="give it in a file, or pipe it in",
        )
    buffer = bytearray(CUSTOMER_KEY_BYTES + 1)
    descriptor = os.dup(0) if str(path) == _STDIN else os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    length = 0
    try:
        while length < len(buffer):
            count = os.readv(descriptor, [memoryview(buffer)[length:]])
            if not count:
                break
            length += count
    finally:
        os.close(descriptor)
    if length != CUSTOMER_KEY_BYTES:
        is_text = length > CUSTOMER_KEY_BYTES or buffer[:length].strip().isalnum()
        buffer[:] = bytes(len(buffer))
        has = f"{length} bytes" if length <= CUSTOMER_KEY_BYTES else "more"
        raise InvalidArgumentError(
            f"a customer-provided key has exactly 32 bytes; {_name(path)} has {has}",
            hint="raw bytes, no text and no newline: head -c 32 /dev/urandom > FILE"
            if is_text
            else "make one with: head -c 32 /dev/urandom > FILE",
        )
    del buffer[CUSTOMER_KEY_BYTES:]
    return buffer


def _name(path: Path) -> str:
    return "standard input" if str(path) == _STDIN else str(path)
