"""Real SoftHSM tokens for tests."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from volcrypt.kms.home_token import HomeToken, open_home_token
from volcrypt.kms.pin import HeldPin
from volcrypt.kms.pkcs11 import Pkcs11KeyStore
from volcrypt.kms.pkcs11_session import (
    Token,
    initialise_softhsm_token,
    logged_in,
    make_token,
    softhsm_module,
    softhsm_token,
)
from volcrypt.kms.remote_store import Cluster
from volcrypt.kms.token import configuration_of, private_copy, save_master

PIN = bytearray(b"a test pin")
CLUSTER_PIN = "the kmsuser's pin"


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


def make_cluster(directory: Path, *, trust_anchor_certificate: str | None = None) -> Cluster:
    """A token beside the home's, as an administrator has it; not while a token is open here."""
    tokens = directory / "tokens"
    tokens.mkdir(parents=True)
    configuration = directory / "softhsm2.conf"
    configuration.write_text(f"directories.tokendir = {tokens}\nobjectstore.backend = file\n")
    token = Token(module=softhsm_module(), label="cluster", configuration=configuration)
    initialise_softhsm_token(token, bytearray(CLUSTER_PIN.encode()))
    return Cluster(
        module=token.module,
        token_label=token.label,
        softhsm_configuration=configuration,
        trust_anchor_certificate=trust_anchor_certificate,
    )
