"""A home that is open for long work, and its vault."""

import secrets
from functools import partial
from pathlib import Path

import pytest

from tests.command import disposable_home
from volcrypt.errors import InvalidArgumentError, TryAgainError
from volcrypt.kms.lock import SERVING, held_home
from volcrypt.operations.home import Home
from volcrypt.operations.home_directory import init_home
from volcrypt.settings import DEFAULT_ACCOUNT, DEFAULT_REGION, runtime_root


def could_be_served(home: Home) -> bool:
    """Whether `kms serve` could have the home now."""
    try:
        with held_home(home.path / "kms" / SERVING, exclusive=True, patience_seconds=0):
            return True
    except TryAgainError:
        return False


def test_a_vault_that_rests_is_opened_again(home: Home) -> None:
    key = bytes(home.vault.derive_home_key(b"test"))
    assert not could_be_served(home)
    for _ in range(3):
        home.rest()
        assert not home.is_open
        assert could_be_served(home)
        assert home.register.entries("volume") == []
        assert bytes(home.vault.derive_home_key(b"test")) == key
    home.rest()
    home.rest()


@pytest.mark.parametrize("is_typed", [True, False])
def test_a_vault_for_which_somebody_typed_the_pin_stays_open(
    tmp_path: Path, is_typed: bool
) -> None:
    pin = secrets.token_urlsafe(16).encode()
    asked = []

    def find_pin(may_ask: bool) -> bytearray | None:
        if is_typed and not may_ask:
            return None
        asked.append(may_ask)
        return bytearray(pin)

    with disposable_home(tmp_path / "home") as command:
        init_home(
            command.home,
            runtime_root(),
            account=DEFAULT_ACCOUNT,
            region=DEFAULT_REGION,
            pin=bytearray(pin),
        )
        with Home(command.home, runtime_root(), pin=find_pin) as home:
            assert home.register.entries("volume") == []
            home.rest()
            assert home.is_open is is_typed
            assert home.register.entries("volume") == []
            assert asked.count(True) == (1 if is_typed else 2)


def test_a_home_that_lost_its_document_is_finished(home: Home) -> None:
    """Whatever else a home may have is no stranger's."""
    for name in ("jobs", "scratch"):
        (home.path / name).mkdir(exist_ok=True)
    (home.path / "home").unlink()
    init = partial(
        init_home, home.path, runtime_root(), account=DEFAULT_ACCOUNT, region=DEFAULT_REGION
    )
    (home.path / "else").touch()
    with pytest.raises(InvalidArgumentError, match="is not empty"):
        init(pin=None)
    (home.path / "else").unlink()
    assert init(pin=None)
