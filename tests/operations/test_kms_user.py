"""A home whose keys are another user's: everything goes through that user's daemon."""

import os
from pathlib import Path

import pytest

from volcrypt.errors import TryAgainError
from volcrypt.operations.home import Home
from volcrypt.operations.home_directory import init_home
from volcrypt.operations.kms_user import kms_has_own_user, socket_of_kms_user
from volcrypt.operations.vault import Vault

KMS_USER = 12345


@pytest.fixture
def home(tmp_path: Path) -> Path:
    init_home(
        tmp_path / "home",
        tmp_path / "run/volcrypt",
        account="000000000000",
        region="us-east-1",
        pin=None,
    )
    return tmp_path / "home"


def test_whose_keys_they_are(home: Path) -> None:
    assert not kms_has_own_user(home)
    os.chown(home / "kms", KMS_USER, KMS_USER)
    assert kms_has_own_user(home)
    os.chown(home, KMS_USER, KMS_USER)  # all of it is another user's, as root sees a user's home
    assert not kms_has_own_user(home)
    assert not kms_has_own_user(home / "nowhere")


def test_the_socket_is_named_after_the_home() -> None:
    root = Path("/run/volcrypt")
    units = Path(__file__).parents[2] / "systemd"
    default = socket_of_kms_user(Path("/var/lib/volcrypt"), root)
    assert f"\nListenStream={default}\n" in (units / "volcrypt-kms.socket").read_text()
    assert socket_of_kms_user(Path("/srv/a-b/c"), root).name == r"srv-a\x2db-c.sock"


def test_nobody_else_opens_them(home: Path) -> None:
    """Not even with the PIN at hand, as here, where the home keeps it."""
    asked = []

    def daemon(socket: Path, _account: str, _region: str) -> Vault:
        asked.append(socket)
        raise TryAgainError("it is not there")

    root = home.parent / "run/volcrypt"
    with Home(home, root, daemon=daemon) as opened:
        assert opened.vault.register.entries("volume") == []  # the control: still ours
    os.chown(home / "kms", KMS_USER, KMS_USER)
    with Home(home, root, daemon=daemon) as opened:
        assert opened.opens_quietly
        assert opened.opens_unattended
        with pytest.raises(TryAgainError):
            _ = opened.vault
    assert asked == [socket_of_kms_user(home, root)]
