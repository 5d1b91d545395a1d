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

README.md has them all in a table ("Configuration").

Nothing below the command line reads configuration: it is given plain arguments. A name that is not
above is refused: a misspelt line must not silently leave a default in place.
"""

import copy
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, get_args, get_origin

import msgspec

from volcrypt.durable import read_file
from volcrypt.errors import (
    ConfigurationError,
    ConfigurationFileError,
    HomeAccessError,
    InvalidArgumentError,
    MalformedError,
)

DEFAULT_ACCOUNT: Final = "000000000000"
DEFAULT_REGION: Final = "us-east-1"
MAX_KEY_CHECK_SECONDS: Final = 30
"""With this one, a check that hangs and one more start are within 60 s (`daemons.watcher`)."""
CONFIG_FILE: Final = "config.toml"
MAX_BYTES: Final = 2**20
MAX_TOLD: Final = 10
"""Problems of a file that are told at once."""
OWN_KMS: Final = "home"
AWS_KMS: Final = "aws"
_TYPES: Final = {
    "str": "a text",
    "int": "a number",
    "float": "a number",
    "bool": "true or false",
    "array": "a list",
    "object": "a table",
    "datetime": "a time",
    "date": "a date",
    "time": "a time of day",
}
_ACCOUNT: Final = re.compile(r"\d{12}")
_REGION: Final = re.compile(r"[a-z0-9-]{1,32}")
_PRINCIPAL: Final = re.compile(r"[\w+=,.@-]{1,64}|arn:aws:(iam|sts)::\d{12}:\S{1,1024}", re.ASCII)
_GRANTEE: Final = re.compile(r"arn:aws[a-z-]*:(iam|sts)::\d{12}:\S{1,1024}", re.ASCII)
_CLUSTER: Final = re.compile(r"cluster-[2-7a-zA-Z]{11,16}")
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
    """The settings of a home; all defaults when there is no file. Raises ConfigurationError;
    ConfigurationFileError names all problems of the file with their lines."""
    path = home / CONFIG_FILE
    try:
        data = bytes(read_file(path, limit_bytes=MAX_BYTES, follow=True))
    except (FileNotFoundError, NotADirectoryError):
        return Settings()
    except PermissionError as error:
        raise HomeAccessError(str(path)) from error
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}") from error
    except MalformedError as error:
        raise ConfigurationError(str(error)) from error  # it names the path
    import tomllib  # for those that have a file

    try:
        text = data.decode()
        document = tomllib.loads(text)
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigurationError(f"{path}: line {line}: no UTF-8 text") from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigurationError(f"{path}: {error}") from error  # with line and column
    problems = list(shape_problems(document, Settings))
    settings = None if problems else msgspec.convert(document, Settings)
    problems += problems_of(settings or _rest(document, problems))
    if settings is not None and not problems:
        return settings
    raise _file_error(path, text, problems)


def _rest(document: dict[str, Any], problems: Sequence["Problem"]) -> Settings:
    """What the file says beside that which has these problems of shape."""
    rest = copy.deepcopy(document)
    for problem in problems:
        *above, last = problem.path or ("",)
        table: Any = rest
        for name in above:
            table = table.get(name) if isinstance(table, dict) else None
        if isinstance(table, dict):
            table.pop(last, None)
    try:
        return msgspec.convert(rest, Settings)
    except msgspec.ValidationError:  # what was taken out is needed there
        return Settings()


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with the option or table of this path."""

    path: tuple[str, ...]
    text: str


def problems_in_file(home: Path, problems: Sequence[Problem]) -> ConfigurationFileError:
    """What else is wrong with the file, which was read, as `read_settings` says it."""
    path = home / CONFIG_FILE
    return _file_error(path, path.read_text(), problems)


def _file_error(path: Path, text: str, problems: Sequence[Problem]) -> ConfigurationFileError:
    found = sorted((_located(text, problem) for problem in problems), key=lambda each: each[0])
    told = [line_and_text for _, line_and_text in found[:MAX_TOLD]]
    left = len(problems) - MAX_TOLD
    return ConfigurationFileError(str(path), [*told, f"and {left} more"] if left > 0 else told)


def _located(text: str, problem: Problem) -> tuple[int, str]:
    """The line, 0 where there is none, and what to say."""
    from volcrypt.formats.toml_lines import line_of

    line = line_of(text, problem.path)
    where = "" if line is None else f"line {line}: "
    return line or 0, f"{where}{'.'.join(problem.path)}: {problem.text}"


def shape_problems(
    value: object, kind: type[msgspec.Struct], path: tuple[str, ...] = ()
) -> Iterator[Problem]:
    """Options that are unknown, missing, or of another type than `kind` has them."""
    if not isinstance(value, dict):
        yield Problem(path, "it is no table")
        return
    fields = {field.name: field for field in msgspec.structs.fields(kind)}
    for name, item in value.items():
        if name not in fields:
            import difflib

            near = difflib.get_close_matches(name, fields, n=1)
            meant = f"; did you mean {near[0]}?" if near else f"; there are: {', '.join(fields)}"
            yield Problem((*path, name), f"there is no such option{meant}")
            continue
        yield from _value_problems(item, fields[name].type, (*path, name))
    for name, field in fields.items():
        if field.required and name not in value:
            yield Problem(path, f"it lacks {name}")


def _value_problems(value: object, kind: Any, path: tuple[str, ...]) -> Iterator[Problem]:
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        yield from shape_problems(value, kind, path)
    elif get_origin(kind) is dict:
        if not isinstance(value, dict):
            yield Problem(path, "it is no table")
            return
        for name, item in value.items():
            yield from _value_problems(item, get_args(kind)[1], (*path, name))
    else:
        try:
            msgspec.convert(value, kind)
        except msgspec.ValidationError as error:
            yield Problem(path, _plain(str(error)))


def _plain(text: str) -> str:
    """What a type error says, without names of types."""
    found = re.match(r"Expected `(\w+)[^`]*`, got `(\w+)`", text)
    if found is None or not set(found.groups()) <= _TYPES.keys():
        return text.partition(" - at")[0]
    wanted, got = (_TYPES[name] for name in found.groups())
    return f"it must be {wanted}, and is {got}"


def problems_of(settings: Settings) -> Iterator[Problem]:
    """What is wrong with values that have the right types; asks nothing outside of the file."""
    yield from _profile_problems(settings)
    yield from _kms_problems(settings.kms)
    yield from _mount_problems(settings)


def _profile_problems(settings: Settings) -> Iterator[Problem]:
    for name, profile in settings.profiles.items():
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
                yield Problem(("profiles", name, member), f"{value!r} is not {what}")
        if profile.kms == OWN_KMS:
            others = "credentials and grantee are for another KMS than the home's"
            for member in ("credentials", "grantee"):
                if getattr(profile, member) is not None:
                    yield Problem(("profiles", name, member), others)
        else:
            own = "principal and account are for the home's KMS, others know credentials"
            for member in ("principal", "account"):
                if getattr(profile, member) is not None:
                    yield Problem(("profiles", name, member), own)


def _kms_problems(kms: KmsSettings) -> Iterator[Problem]:
    for region in kms.regions:
        if not _REGION.fullmatch(region):
            yield Problem(("kms", "regions"), f"{region!r} is not a region")
    for account in kms.accounts:
        if not _ACCOUNT.fullmatch(account):
            yield Problem(("kms", "accounts"), f"{account!r} is not an account of 12 digits")
    if kms.pin_file is not None and kms.pin_command is not None:
        yield Problem(("kms", "pin_command"), "pin_file and pin_command exclude each other")
    if kms.pin_command is not None and not kms.pin_command:
        yield Problem(("kms", "pin_command"), "it names no program")
    for cluster in kms.clusters:
        if not _CLUSTER.fullmatch(cluster):
            yield Problem(
                ("kms", "clusters", cluster),
                "the name is not cluster- and 11 to 16 letters or digits 2 to 7",
            )


def _mount_problems(settings: Settings) -> Iterator[Problem]:
    if not 1 <= settings.mounts.key_check_seconds <= MAX_KEY_CHECK_SECONDS:
        yield Problem(
            ("mounts", "key_check_seconds"),
            f"it must be 1 to {MAX_KEY_CHECK_SECONDS}, since a key that is lost is found within "
            "60 s",
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
        lines = Path("/proc/self/mounts").read_bytes().split(b"\n")  # no other character ends one
    except OSError:
        return False
    return any(line.split(b" ")[1:3] == [directory.encode(), b"tmpfs"] for line in lines)
