"""Settings: the one optional TOML file, and where the home is. Read by `cli` and `daemons` only.

    # HOME/config.toml
    [profiles.default]                     # acts when no --profile is given
    principal = "alice"                    # name or ARN; the account root when there is none
    region = "us-east-1"                   # the home's own, or one of [kms] regions
    account = "000000000000"               # the home's own, or one of [kms] accounts
    default_kms_key = "alias/mine"         # of new volumes; else alias/volcrypt/ebs

    [profiles.cloud]
    kms = "aws"                            # or "https://HOST"; on this host also "http://127.0.0.1:PORT"
    credentials = "backup-account"         # profile of ~/.aws; the usual places when there is none
    default_kms_key = "arn:aws:kms:..."    # else --kms-key-id: another KMS has no key for volumes
    grantee = "arn:aws:iam::..."           # who serves volumes; without it no grants are made

    [mounts]
    key_check_seconds = 20                 # 1 to 30; how often --on-key-loss fence asks the KMS

    [kms]
    regions = ["eu-west-1"]                # served beside the home's own
    accounts = ["111111111111"]
    pin_file = "/run/keys/volcrypt-pin"    # mode 0600; or:
    pin_command = ["pass", "show", "pin"]  # prints the PIN

    [kms.clusters.cluster-secondtoken]     # a PKCS#11 token for custom key stores
    module = "/usr/lib/softhsm/libsofthsm2.so"
    token_label = "second"
    softhsm_configuration = "/etc/softhsm2-second.conf"
    trust_anchor = "/etc/volcrypt/second.pem"
    validated = "FIPS 140-3, certificate 1234"   # what you know of the module; 'doctor' repeats it

Nothing below the command line reads configuration: it is given plain arguments. A name that is not
above is refused: a misspelt line must not silently leave a default in place.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from volcrypt.durable import read_file
from volcrypt.errors import ConfigurationError, InvalidArgumentError, MalformedError

DEFAULT_ACCOUNT: Final = "000000000000"
DEFAULT_REGION: Final = "us-east-1"
MAX_KEY_CHECK_SECONDS: Final = 30
"""With this one, a check that hangs and one more start are within 60 s (`daemons.watcher`)."""
CONFIG_FILE: Final = "config.toml"
OWN_KMS: Final = "home"
AWS_KMS: Final = "aws"
_ACCOUNT: Final = re.compile(r"\d{12}")
_REGION: Final = re.compile(r"[a-z0-9-]{1,32}")
_PRINCIPAL: Final = re.compile(r"[\w+=,.@-]{1,64}|arn:aws:(iam|sts)::\d{12}:\S{1,1024}", re.ASCII)
_GRANTEE: Final = re.compile(r"arn:aws[a-z-]*:(iam|sts)::\d{12}:\S{1,1024}", re.ASCII)
_ENDPOINT: Final = re.compile(
    r"home|aws|https://[^\s/@]+/?|http://(127(\.\d{1,3}){3}|localhost|\[::1\])(:\d+)?/?"
)


class Profile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a command acts as and where; `--profile` names it."""

    region: str | None = None
    account: str | None = None
    principal: str | None = None
    kms: str = OWN_KMS
    credentials: str | None = None
    default_kms_key: str | None = None
    grantee: str | None = None


class ClusterSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A token of a PKCS#11 module, on which custom key stores can be made. `validated` is what
    whoever wrote the file says of the module: nobody else can know."""

    module: str
    token_label: str
    softhsm_configuration: str | None = None
    trust_anchor: str | None = None
    validated: str | None = None


class KmsSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The home's own KMS."""

    regions: list[str] = []
    accounts: list[str] = []
    pin_file: str | None = None
    pin_command: list[str] | None = None
    clusters: dict[str, ClusterSettings] = {}


class MountSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Volumes that are in use."""

    key_check_seconds: float = 20


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole file."""

    profiles: dict[str, Profile] = {}
    kms: KmsSettings = KmsSettings()
    mounts: MountSettings = MountSettings()


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
    /run where that is one, as systemd makes it, else /dev/shm. A service that has a user of its own
    has one from systemd (RuntimeDirectory=)."""
    if os.geteuid() == 0:
        return Path("/run/volcrypt") if _is_tmpfs("/run") else Path("/dev/shm/volcrypt")  # noqa: S108 root's own, and checked to be private
    service = os.environ.get("RUNTIME_DIRECTORY")
    if service:
        return Path(service.partition(":")[0])
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
        settings = msgspec.toml.decode(read_file(path, limit_bytes=2**20), type=Settings)
    except (FileNotFoundError, NotADirectoryError):
        return Settings()
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}") from error
    except MalformedError as error:
        raise ConfigurationError(str(error)) from error  # it names the path
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigurationError(f"{path}: {error}") from error
    problem = next(problems_of(settings), None)
    if problem is not None:
        raise ConfigurationError(f"{path}: {problem}")
    return settings


def problems_of(settings: Settings) -> Iterator[str]:
    """What is wrong with values that parse; asks nothing outside of the file."""
    return iter(
        [*_profile_problems(settings), *_kms_problems(settings.kms), *_mount_problems(settings)]
    )


def _profile_problems(settings: Settings) -> Iterator[str]:
    for name, profile in settings.profiles.items():
        where = f"profiles.{name}"
        shapes = (
            ("region", profile.region, _REGION, "a region"),
            ("account", profile.account, _ACCOUNT, "an account of 12 digits"),
            ("principal", profile.principal, _PRINCIPAL, "a name or ARN of a principal"),
            ("grantee", profile.grantee, _GRANTEE, "the ARN of a principal"),
            (
                "kms",
                profile.kms,
                _ENDPOINT,
                "home, aws, https:// or local http://",
            ),
        )
        for member, value, shape, what in shapes:
            if value is not None and not shape.fullmatch(value):
                yield f"{where}.{member}: {value!r} is not {what}"
        if profile.kms == OWN_KMS:
            if profile.credentials is not None or profile.grantee is not None:
                yield f"{where}: credentials and grantee are for another KMS than the home's"
        elif profile.principal is not None or profile.account is not None:
            yield f"{where}: principal and account are for the home's KMS, others know credentials"


def _kms_problems(kms: KmsSettings) -> Iterator[str]:
    for region in kms.regions:
        if not _REGION.fullmatch(region):
            yield f"kms.regions: {region!r} is not a region"
    for account in kms.accounts:
        if not _ACCOUNT.fullmatch(account):
            yield f"kms.accounts: {account!r} is not an account of 12 digits"
    if kms.pin_file is not None and kms.pin_command is not None:
        yield "kms: pin_file and pin_command exclude each other"
    if kms.pin_command is not None and not kms.pin_command:
        yield "kms.pin_command: it names no program"
    for cluster in kms.clusters:
        if not re.fullmatch(r"cluster-[2-7a-zA-Z]{11,16}", cluster):
            yield f"kms.clusters: {cluster!r} is not cluster- and 11 to 16 letters or digits 2 to 7"


def _mount_problems(settings: Settings) -> Iterator[str]:
    if not 1 <= settings.mounts.key_check_seconds <= MAX_KEY_CHECK_SECONDS:
        yield (
            f"mounts.key_check_seconds: it must be 1 to {MAX_KEY_CHECK_SECONDS}, since a "
            "key that is lost is found within 60 s"
        )


def profile_of(settings: Settings, name: str) -> Profile:
    """The profile of that name; `default` exists also when the file says nothing of it.

    Raises InvalidArgumentError.
    """
    if name in settings.profiles:
        return settings.profiles[name]
    if name == "default":
        return Profile()
    known = ", ".join(sorted({"default", *settings.profiles}))
    raise InvalidArgumentError(
        f"there is no profile {name!r} in {CONFIG_FILE}", hint=f"there are: {known}"
    )


def _is_tmpfs(directory: str) -> bool:
    try:
        mounts = Path("/proc/self/mounts").read_text(errors="replace").splitlines()
    except OSError:
        return False
    return any(line.split(" ")[1:3] == [directory, "tmpfs"] for line in mounts)
