"""Where the token's PIN comes from when the home does not keep it: the first of these.

    [kms] pin_file, pin_command         in config.toml, one of them
    systemd credential `volcrypt.pin`   $CREDENTIALS_DIRECTORY

Behind these the command line has a prompt. Never an argument, where every user of the host can read
it.
"""

import os
import stat
import subprocess
from pathlib import Path

from volcrypt.durable import read_file
from volcrypt.errors import ConfigurationError, MalformedError
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


def quiet_pin(settings: KmsSettings, home: Path) -> bytearray | None:
    """The PIN where it takes nobody to give it; None where a person or a program would have to be
    asked, who may not be there. Raises ConfigurationError."""
    return None if settings.pin_command is not None else configured_pin(settings, home)


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
        pin = bytearray(read_file(path, limit_bytes=MAX_SECRET_BYTES, follow=True))
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


def strip_line_end(secret: bytearray) -> bytearray:
    """The secret without the newline that an editor or echo put behind it."""
    while secret.endswith((b"\n", b"\r")):
        del secret[-1]
    return secret
