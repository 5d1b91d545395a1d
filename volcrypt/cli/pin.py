"""Secrets from outside: the token's PIN, passphrases. Never from an argument, where every user of
the host can read it. A prompt comes last (`volcrypt.pin_source`).
"""

import getpass
import sys
from pathlib import Path

from volcrypt.errors import ConfigurationError, InvalidArgumentError
from volcrypt.pin_source import (
    MAX_SECRET_BYTES,
    PIN_CREDENTIAL,
    configured_pin,
    quiet_pin,
    strip_line_end,
)
from volcrypt.settings import KmsSettings


def find_pin(settings: KmsSettings, home: Path, may_ask: bool) -> bytearray | None:
    """The PIN, from a prompt in the end. Where nobody may be asked, neither by us nor by a
    program, and that is what it would take: None.

    Raises ConfigurationError, also where a prompt has no terminal.
    """
    if not may_ask:
        return quiet_pin(settings, home)
    pin = configured_pin(settings, home)
    if pin is not None:
        return pin
    if not sys.stdin.isatty():
        raise ConfigurationError(
            "the PIN of the token is not kept in this home, and there is no terminal to ask for it",
            hint=f"give it as pin_file, pin_command or systemd credential {PIN_CREDENTIAL}, or run "
            "this at a terminal",
        )
    return bytearray(getpass.getpass("PIN of the token: ").encode())


def read_secret(
    path: Path, prompt: str, *, twice: bool = False, keep_line_end: bool = False
) -> bytearray:
    """A secret from a file or, as `-`, from standard input; typed where that is a terminal. What
    is read comes without the newline at its end, unless that is asked for.

    Raises InvalidArgumentError when what is typed `twice` differs, or is empty.
    """
    if str(path) == "-":
        if sys.stdin.isatty():
            return type_secret(prompt, twice=twice)
        secret = bytearray(sys.stdin.buffer.read(MAX_SECRET_BYTES + 1))
    else:
        with path.open("rb") as file:
            secret = bytearray(file.read(MAX_SECRET_BYTES + 1))
    if len(secret) > MAX_SECRET_BYTES:
        raise InvalidArgumentError(f"the {prompt} is longer than {MAX_SECRET_BYTES} bytes")
    if not (secret if keep_line_end else strip_line_end(secret)):
        raise InvalidArgumentError(f"the {prompt} is empty")
    return secret


def type_secret(prompt: str, *, twice: bool) -> bytearray:
    """What is typed at the terminal, unseen. Raises InvalidArgumentError."""
    if not sys.stdin.isatty():
        raise InvalidArgumentError(
            f"there is no terminal to ask for the {prompt}", hint="give it in a file, or as '-'"
        )
    secret = getpass.getpass(f"{prompt}: ")
    if twice and getpass.getpass("the same again: ") != secret:
        raise InvalidArgumentError(f"the two {prompt}s differ")
    if not secret:
        raise InvalidArgumentError(f"the {prompt} is empty")
    return bytearray(secret.encode())
