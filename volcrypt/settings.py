"""Settings: the one optional TOML file, and where the home is. Read by `cli` and `daemons` only.

    # HOME/config.toml
    [profiles.default]
    region = "us-east-1"

Nothing below the command line reads configuration: it is given plain arguments.
"""

import os
from pathlib import Path
from typing import Final

import msgspec

from volcrypt.durable import read_file
from volcrypt.errors import ConfigurationError

DEFAULT_ACCOUNT: Final = "000000000000"
DEFAULT_REGION: Final = "us-east-1"
CONFIG_FILE: Final = "config.toml"


class Profile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a command acts as and where; `--profile` names it."""

    region: str | None = None


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole file."""

    profiles: dict[str, Profile] = {}


def default_home() -> Path:
    """`VOLCRYPT_HOME`; else /var/lib/volcrypt for root, $XDG_DATA_HOME/volcrypt otherwise."""
    given = os.environ.get("VOLCRYPT_HOME")
    if given:
        return Path(given)
    if os.geteuid() == 0:
        return Path("/var/lib/volcrypt")
    data = os.environ.get("XDG_DATA_HOME")
    return (Path(data) if data else Path.home() / ".local/share") / "volcrypt"


def runtime_root() -> Path:
    """The directory, on tmpfs, below which each home has sockets, change maps, token copies:
    /run where that is one, as systemd makes it, else /dev/shm."""
    if os.geteuid() == 0:
        return Path("/run/volcrypt") if _is_tmpfs("/run") else Path("/dev/shm/volcrypt")  # noqa: S108 root's own, and checked to be private
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if not runtime:
        raise ConfigurationError(
            "XDG_RUNTIME_DIR is not set, and who is not root needs it for sockets and change maps",
            hint="log in through systemd, or set it to a private directory on tmpfs",
        )
    return Path(runtime) / "volcrypt"


def read_settings(home: Path) -> Settings:
    """The settings of a home; all defaults when there is no file. Raises ConfigurationError."""
    path = home / CONFIG_FILE
    try:
        return msgspec.toml.decode(read_file(path, limit_bytes=2**20), type=Settings)
    except (FileNotFoundError, NotADirectoryError):
        return Settings()
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigurationError(f"{path}: {error}") from error


def profile_of(settings: Settings, name: str) -> Profile:
    """The profile of that name; `default` exists also when the file says nothing of it."""
    if name in settings.profiles:
        return settings.profiles[name]
    if name == "default":
        return Profile()
    raise ConfigurationError(f"there is no profile {name!r} in {CONFIG_FILE}")


def _is_tmpfs(directory: str) -> bool:
    try:
        mounts = Path("/proc/self/mounts").read_text(errors="replace").splitlines()
    except OSError:
        return False
    return any(line.split(" ")[1:3] == [directory, "tmpfs"] for line in mounts)
