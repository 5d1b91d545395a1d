"""Secrets from outside: the token's PIN, passphrases. Never from an argument, where every user of
the host can read it.

Where the home keeps no PIN, it comes from the first of these that there is:

    [kms] pin_file, pin_command         in config.toml, one of them
    systemd credential `volcrypt.pin`   $CREDENTIALS_DIRECTORY
    a prompt                            on a terminal
"""

import getpass
import os
import stat
import subprocess
import sys
from pathlib import Path

from volcrypt.durable import read_file
from volcrypt.errors import ConfigurationError, InvalidArgumentError, MalformedError
from volcrypt.settings import KmsSettings

PIN_CREDENTIAL = "volcrypt.pin"
MAX_SECRET_BYTES = 2**12
COMMAND_SECONDS = 60


def configured_pin(settings: KmsSettings, home: Path) -> bytearray | None:
    """The PIN from the settings or from systemd; None where neither names a source.

    `home` is where a relative `pin_file` starts. Raises ConfigurationError.
    """
    if settings.pin_file is not None:
        return _pin_from_file(home / settings.pin_file)
    if settings.pin_command is not None:
        return _pin_from_command(settings.pin_command)
    credentials = os.environ.get("CREDENTIALS_DIRECTORY")
    if credentials is not None and (Path(credentials) / PIN_CREDENTIAL).exists():
        return strip_line_end(bytearray((Path(credentials) / PIN_CREDENTIAL).read_bytes()))
    return None


def find_pin(settings: KmsSettings, home: Path, may_ask: bool) -> bytearray | None:
    """The PIN, from a prompt in the end. Where nobody may be asked, neither by us nor by a
    program, and that is what it would take: None.

    Raises ConfigurationError, also where a prompt has no terminal.
    """
    if not may_ask and settings.pin_command is not None:
        return None
    pin = configured_pin(settings, home)
    if pin is not None or not may_ask:
        return pin
    if not sys.stdin.isatty():
        raise ConfigurationError(
            "the PIN of the token is not kept in this home, and there is no terminal to ask for it",
            hint=f"give it as pin_file, pin_command or systemd credential {PIN_CREDENTIAL}, or run "
            "this at a terminal",
        )
    return bytearray(getpass.getpass("PIN of the token: ").encode())


def check_pin_file(path: Path) -> None:
    """Raises ConfigurationError unless only its owner, who is us or root, can read or change it."""
    try:
        status = path.lstat()
    except OSError as error:
        raise ConfigurationError(f"cannot read pin_file {path}: {error.strerror}") from error
    if not stat.S_ISREG(status.st_mode):
        raise ConfigurationError(f"pin_file {path} is not a regular file")
    if status.st_uid not in (0, os.geteuid()) or status.st_mode & 0o077:
        raise ConfigurationError(
            f"pin_file {path} can be read by others than its owner, or is somebody else's",
            hint=f"chown it, and 'chmod 600 {path}'",
        )


def _pin_from_file(path: Path) -> bytearray:
    check_pin_file(path)
    try:
        pin = bytearray(read_file(path, limit_bytes=MAX_SECRET_BYTES))
    except (OSError, MalformedError) as error:
        raise ConfigurationError(f"cannot read pin_file {path}") from error
    return _checked(strip_line_end(pin), f"pin_file {path}")


def _pin_from_command(arguments: list[str]) -> bytearray:
    program = arguments[0]
    try:
        # Its errors go to our own standard error: it may have something to ask or to explain.
        done = subprocess.run(
            arguments, check=False, stdout=subprocess.PIPE, timeout=COMMAND_SECONDS
        )
    except OSError as error:
        raise ConfigurationError(f"pin_command {program}: {error.strerror}") from error
    except subprocess.TimeoutExpired:
        raise ConfigurationError(
            f"pin_command {program} did not end within {COMMAND_SECONDS} s"
        ) from None
    if done.returncode:
        raise ConfigurationError(f"pin_command {program} ended with code {done.returncode}")
    return _checked(strip_line_end(bytearray(done.stdout)), f"the output of pin_command {program}")


def _checked(pin: bytearray, what: str) -> bytearray:
    if not pin or len(pin) > MAX_SECRET_BYTES or b"\n" in pin:
        raise ConfigurationError(f"{what} is not one line with a PIN")
    return pin


def read_secret(path: Path, prompt: str, *, twice: bool = False) -> bytearray:
    """A secret from a file or, as `-`, from standard input; typed where that is a terminal.

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
    if not strip_line_end(secret):
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


def strip_line_end(secret: bytearray) -> bytearray:
    """The secret without the newline that an editor or echo put behind it."""
    while secret.endswith((b"\n", b"\r")):
        del secret[-1]
    return secret
