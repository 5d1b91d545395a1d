"""Real SoftHSM tokens for tests."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from volcrypt.kms.home_token import HomeToken, open_home_token
from volcrypt.kms.pin import HeldPin
from volcrypt.kms.pkcs11 import Pkcs11KeyStore
from volcrypt.kms.pkcs11_session import logged_in, make_token, softhsm_token
from volcrypt.kms.token import configuration_of, private_copy, save_master

PIN = bytearray(b"a test pin")


@contextmanager
def open_copy(configuration: Path, pin: bytearray = PIN) -> Iterator[Pkcs11KeyStore]:
    """The keys of the token in a private copy, logged in."""
    with HeldPin(pin) as held, logged_in(softhsm_token(configuration), held) as session:
        yield Pkcs11KeyStore(session)


def make_master(directory: Path, runtime: Path) -> None:
    """A home's token, as `create_kms` makes it."""
    with private_copy(runtime, master=None) as copy:
        make_token(configuration_of(copy), PIN)
        save_master(directory, copy)


@contextmanager
def new_home_token(directory: Path) -> Iterator[HomeToken]:
    """A token that was just made, with its master in `directory`/token."""
    make_master(directory / "token", directory / "run")
    with open_home_token(directory / "token", directory / "run", PIN) as token:
        yield token
