"""The configuration file: what it may say, and what is refused by name."""

from pathlib import Path

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
        ("[profiles.a]\ncredentials = 'b'", "profiles.a: credentials"),
        ("[profiles.a]\ngrantee = 'me'", "profiles.a.grantee"),
        ("[kms]\nregions = ['A']", "kms.regions"),
        ("[kms]\naccounts = ['A']", "kms.accounts"),
        ("[kms]\npin_file = 'a'\npin_command = ['b']", "exclude each other"),
        ("[kms]\npin_command = []", "kms.pin_command"),
        ("[kms.clusters.second]\nmodule = 'a'\ntoken_label = 'b'", "letters or digits"),
        ("[kms.clusters.cluster-secondtoken]\nmodule = 'a'", "token_label"),
        ("profiles = 1", "profiles"),
        ("[", "config.toml"),
    ],
)
def test_what_is_refused_is_named(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(ConfigurationError, match=named.replace(".", r"\.")):
        written(tmp_path, text)


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
