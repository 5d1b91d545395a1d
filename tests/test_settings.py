"""The configuration file: what it may say, and what is refused by name."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args, get_origin

import msgspec
import pytest

from volcrypt.access import access_of
from volcrypt.errors import ConfigurationError, InvalidArgumentError
from volcrypt.settings import Profile, Settings, profile_of, read_settings

WHOLE = """
[profiles.default]
principal = "alice"
region = "eu-west-1"
account = "111111111111"
default_kms_key = "alias/mine"

[profiles.cloud]
kms = "aws"
credentials = "backup-account"
default_kms_key = "arn:aws:kms:eu-west-1:111111111111:alias/volumes"
grantee = "arn:aws:iam::111111111111:role/host"

[kms]
regions = ["eu-west-1"]
accounts = ["111111111111"]
pin_command = ["cat", "/run/pin"]

[kms.clusters.cluster-secondtoken]
module = "/usr/lib/softhsm/libsofthsm2.so"
token_label = "second"
"""


def written(path: Path, text: str) -> Settings:
    (path / "config.toml").write_text(text)
    return read_settings(path)


def test_a_whole_file(tmp_path: Path) -> None:
    settings = written(tmp_path, WHOLE)
    access = access_of(settings, profile_of(settings, "default"), region=None)
    assert (access.principal, access.region, access.account) == (
        "alice",
        "eu-west-1",
        "111111111111",
    )
    assert access.served_regions == {"eu-west-1"}
    assert access.other_kms is None
    assert access_of(settings, profile_of(settings, "default"), region="x").region == "x"
    assert access_of(settings, profile_of(settings, "cloud"), region=None).other_kms is not None
    assert settings.kms.clusters["cluster-secondtoken"].token_label == "second"


def test_no_file_is_all_defaults(tmp_path: Path) -> None:
    assert read_settings(tmp_path) == Settings()
    assert profile_of(Settings(), "default") == Profile()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[profiles.a]\nprincipel = 'alice'", "principel"),
        ("[kmss]", "kmss"),
        ("[kms]\npin = 'secret'", "pin"),
        ("[profiles.a]\nregion = 'Nowhere!'", "profiles.a.region"),
        ("[profiles.a]\naccount = '12'", "profiles.a.account"),
        ("[profiles.a]\nprincipal = 'a b'", "profiles.a.principal"),
        ("[profiles.a]\nprincipal = 'arn:aws:kms::1:x'", "profiles.a.principal"),
        ("[profiles.a]\nkms = 'http://kms.example.com'", "profiles.a.kms"),
        ("[profiles.a]\nkms = 'http://127.0.0.1.example.com'", "profiles.a.kms"),
        ("[profiles.a]\nkms = 'https://user:word@kms.example.com'", "profiles.a.kms"),
        ("[profiles.a]\nkms = 'aws'\nprincipal = 'b'\ndefault_kms_key = 'c'", "principal"),
        ("[profiles.a]\ncredentials = 'b'", "line 2: profiles.a.credentials"),
        ("[profiles.a]\ngrantee = 'me'", "profiles.a.grantee"),
        ("[kms]\nregions = ['A']", "kms.regions"),
        ("[kms]\naccounts = ['A']", "kms.accounts"),
        ("[kms]\npin_file = 'a'\npin_command = ['b']", "exclude each other"),
        ("[kms]\npin_command = []", "kms.pin_command"),
        ("[kms.clusters.second]\nmodule = 'a'\ntoken_label = 'b'", "letters or digits"),
        ("[kms.clusters.cluster-secondtoken]\nmodule = 'a'", "token_label"),
        ("profiles = 1", "line 1: profiles: it is no table"),
        ("profiles.a = 1", "line 1: profiles.a: it is no table"),
        ("[a\n", "line 1, column"),
        ("[kms]\n\nregions = [\n 'A']", "line 3: kms.regions"),
        (
            "[mounts]\nkey_check_seconds = 'x'",
            "line 2: mounts.key_check_seconds: it must be a number, and is a text",
        ),
        ("[mounts]\n# x\nkey_check_seconds = 31", "line 3: mounts.key_check_seconds: it must"),
        ("[kms]\n[profiles.a]\nprincipel = 'b'", "line 3: profiles.a.principel: there is no such"),
        ("[profiles.a]\nprincipel = 'b'", "did you mean principal?"),
        ("[mounts]\nzzz = 1", "there are: key_check_seconds"),
    ],
)
def test_what_is_refused_is_named(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(ConfigurationError, match=named.replace(".", r"\.")):
        written(tmp_path, text)


def test_all_problems_are_told_with_their_lines(tmp_path: Path) -> None:
    known = "region, account, principal, kms, credentials, default_kms_key, grantee"
    why = "since a key that is lost is found within 60 s"
    with pytest.raises(ConfigurationError) as raised:
        written(
            tmp_path,
            "[profiles.a]\nregion = 5\nother = 1\n[kms]\naccounts = 1\n"
            "[kms.clusters.cluster-secondtoken]\nmodule = 'm'\n"
            "[profiles.b]\nkms = 'ftp://x'\n[mounts]\nkey_check_seconds = 0\n",
        )
    assert [line.partition("config.toml: ")[2] for line in raised.value.lines] == [
        "line 2: profiles.a.region: it must be a text, and is a number",
        f"line 3: profiles.a.other: there is no such option; there are: {known}",
        "line 5: kms.accounts: it must be a list, and is a number",
        "line 6: kms.clusters.cluster-secondtoken: it lacks token_label",
        "line 9: profiles.b.kms: 'ftp://x' is not home, aws, https:// or local http://",
        f"line 11: mounts.key_check_seconds: it must be 1 to 30, {why}",
    ]


def test_many_problems_are_not_all_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"and 90 more$"):
        written(tmp_path, "".join(f"option{number} = 1\n" for number in range(100)))


def test_what_is_no_text_has_a_line_too(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_bytes(b"# a\n# \xff\n")
    with pytest.raises(ConfigurationError, match="line 2: no UTF-8"):
        read_settings(tmp_path)


def options(kind: type[msgspec.Struct], prefix: str) -> Iterator[str]:
    """Every option that a file may have, as the README names them."""
    for field in msgspec.structs.fields(kind):
        name = f"{prefix}{field.name}"
        inner = get_args(field.type)[1] if get_origin(field.type) is dict else field.type
        if isinstance(inner, type) and issubclass(inner, msgspec.Struct):
            yield from options(inner, f"{name}.{'NAME.' if inner is not field.type else ''}")
        else:
            yield name


def test_every_option_is_in_the_readme() -> None:
    text = (Path(__file__).parents[1] / "README.md").read_text()
    table = text.partition("**Configuration")[2].partition("\n\n**")[0]
    rows = re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE)
    assert rows == list(options(Settings, ""))


def test_what_is_no_file_is_named_once(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.mkdir()
    with pytest.raises(ConfigurationError) as raised:
        read_settings(tmp_path)
    assert str(raised.value) == f"{path}: not a regular file"


@pytest.mark.parametrize(
    "kms",
    ["home", "aws", "https://kms.example.com:8443", "http://127.0.0.1:8080"],
)
def test_places_of_a_kms(tmp_path: Path, kms: str) -> None:
    assert written(tmp_path, f"[profiles.a]\nkms = '{kms}'").profiles["a"].kms == kms


def test_an_unknown_profile_names_the_known_ones(tmp_path: Path) -> None:
    settings = written(tmp_path, WHOLE)
    with pytest.raises(InvalidArgumentError) as caught:
        profile_of(settings, "nobody")
    assert caught.value.hint == "there are: cloud, default"
