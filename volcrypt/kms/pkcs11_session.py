"""The door to a PKCS#11 library: loading it, logging in, making a SoftHSM token, and its errors.

One lock around every call: SoftHSM, initialised without OS locking as python-pkcs11 does, corrupts
its heap under two threads. One session, logged in for life: closing the session that logged in
logs everybody out. The library is one per process, so a process holds one token at a time; further
tokens have processes of their own (`key_store_process`).
"""

import ctypes
import os
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pkcs11
from pkcs11 import Attribute, KeyType, MechanismFlag
from pkcs11.exceptions import (
    NoSuchToken,
    PinIncorrect,
    PinInvalid,
    PinLenRange,
    PinLocked,
    PKCS11Error,
)

from volcrypt.errors import (
    ComponentMissingError,
    HsmUnavailableError,
    PinLockedError,
    TokenMissingError,
    WrongPinError,
)
from volcrypt.kms.pin import HeldPin, check_pin

HOME_LABEL: Final = "volcrypt"
HOME_PREFIX: Final = "wrapping-"
"""What the labels of a home's wrapping keys begin with, before their generation."""
LOCK: Final = threading.RLock()
"""Held around every PKCS#11 call of this process."""

PRIVATE: Final = {
    Attribute.PRIVATE: True,
    Attribute.SENSITIVE: True,
    Attribute.EXTRACTABLE: False,
}

_SOFTHSM_PATHS: Final = (
    Path("/usr/lib/softhsm/libsofthsm2.so"),
    Path("/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so"),
    Path("/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so"),
    Path("/usr/lib64/pkcs11/libsofthsm2.so"),
    Path("/usr/local/lib/softhsm/libsofthsm2.so"),
)
_CONFIGURATION_VARIABLE: Final = "SOFTHSM2_CONF"
_PIN_FAILURE: Final = (PinIncorrect, PinInvalid, PinLenRange)
_held = threading.Lock()


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """Where a token is: a PKCS#11 module, the token's label in it, and SoftHSM's configuration file
    where the module is SoftHSM."""

    module: Path
    label: str
    configuration: Path | None = None


def softhsm_token(configuration: Path) -> Token:
    """The token of a home. Raises ComponentMissingError when SoftHSM is not installed."""
    return Token(module=softhsm_module(), label=HOME_LABEL, configuration=configuration)


def softhsm_module() -> Path:
    """Raises ComponentMissingError when SoftHSM is not installed."""
    for path in _SOFTHSM_PATHS:
        if path.exists():
            return path
    raise ComponentMissingError("SoftHSM (libsofthsm2.so)", package="softhsm2")


@contextmanager
def logged_in(token: Token, pin: HeldPin) -> Iterator[pkcs11.Session]:
    """A session on the token, which is the only one of this process until the end of the block.

    Raises WrongPinError, PinLockedError, TokenMissingError, HsmUnavailableError.
    """
    with _library(token) as library, _session(library, token.label, pin) as session:
        yield session


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleInfo:
    """What a PKCS#11 module says of itself, and the labels of the tokens in it."""

    description: str
    version: str
    labels: list[str]


def module_info(module: Path, configuration: Path | None) -> ModuleInfo:
    """Loads the module, and logs in nowhere. Raises TokenMissingError without the module,
    HsmUnavailableError."""
    token = Token(module=module, label="", configuration=configuration)
    with _library(token) as library, LOCK, answering():
        found = [slot.get_token() for slot in library.get_slots(token_present=True)]
        return ModuleInfo(
            description=f"{library.manufacturer_id} {library.library_description}".strip(),
            version="{}.{}".format(*library.library_version),
            labels=[each.label for each in found if each.label],
        )


@contextmanager
def answering() -> Iterator[None]:
    """Turn what PKCS#11 reports, and nobody handled, into HsmUnavailableError."""
    try:
        yield
    except PKCS11Error as error:
        raise HsmUnavailableError(f"the HSM did not answer: {type(error).__name__}") from error


def make_token(configuration: Path, pin: bytearray) -> None:
    """Make a home's token and its own keys in the empty token directory of `configuration`.

    The security officer's PIN is drawn and thrown away: the PIN cannot be set anew without the old
    one. Raises InvalidArgumentError for a PIN that the token does not take, HsmUnavailableError.
    """
    check_pin(pin)
    token = softhsm_token(configuration)
    initialise_softhsm_token(token, pin)
    with HeldPin(pin) as held, logged_in(token, held) as session, LOCK, answering():
        generate_wrapping_key(session, 1)
        for label in ("mac", "derive"):
            session.generate_key(
                KeyType.GENERIC_SECRET,
                256,
                label=label,
                store=True,
                capabilities=MechanismFlag.SIGN | MechanismFlag.VERIFY,
                template=PRIVATE,
            )


def initialise_softhsm_token(token: Token, pin: bytearray) -> None:
    """An empty token in the next free slot of SoftHSM. Raises HsmUnavailableError."""
    officer_pin = secrets.token_urlsafe(32)
    with _library(token) as library, LOCK, answering():
        slot = library.get_slots()[-1]
        _initialise_token(slot.slot_id, officer_pin.encode(), token.label)
        with slot.get_token().open(rw=True, so_pin=officer_pin) as session:
            session.init_pin(pin.decode())


def generate_wrapping_key(
    session: pkcs11.Session, generation: int, *, prefix: str = HOME_PREFIX
) -> Any:
    return session.generate_key(
        KeyType.AES,
        256,
        label=f"{prefix}{generation}",
        store=True,
        capabilities=MechanismFlag.WRAP | MechanismFlag.UNWRAP,
        template=PRIVATE,
    )


@contextmanager
def _library(token: Token) -> Iterator[Any]:
    """The module's library, initialised; finalised after.

    SoftHSM reads the variable while it initialises and never again, so the environment is changed
    for that moment only, and no child inherits it.
    """
    if not _held.acquire(blocking=False):
        raise RuntimeError("internal error: this process holds a token already")
    try:
        with LOCK, answering(), _variable(_CONFIGURATION_VARIABLE, token.configuration):
            if not token.module.exists():
                raise TokenMissingError(f"the PKCS#11 module {token.module} is missing")
            library = pkcs11.lib(os.fspath(token.module))
        try:
            yield library
        finally:
            with LOCK, suppress(PKCS11Error):
                library.finalize()
    finally:
        _held.release()


@contextmanager
def _variable(name: str, value: Path | None) -> Iterator[None]:
    """An environment variable, for a moment; as it is where `value` is None."""
    before = os.environ.get(name)
    try:
        if value is not None:
            os.environ[name] = os.fspath(value)
        yield
    finally:
        if before is not None:
            os.environ[name] = before
        else:
            os.environ.pop(name, None)


@contextmanager
def _session(library: Any, label: str, pin: HeldPin) -> Iterator[pkcs11.Session]:
    with LOCK, answering():
        try:
            session = library.get_token(token_label=label).open(rw=True, user_pin=pin.text())
        except NoSuchToken as error:
            raise TokenMissingError(f"there is no token '{label}'") from error
        except PinLocked:
            raise PinLockedError("the PIN is locked") from None
        except _PIN_FAILURE:
            raise WrongPinError("the PIN does not open the token") from None
    try:
        yield session
    finally:
        with LOCK, suppress(PKCS11Error):
            session.close()


def _initialise_token(slot_id: int, officer_pin: bytes, label: str) -> None:
    """C_InitToken, which python-pkcs11 does not offer.

    Called in the library that python-pkcs11 has loaded and initialised (the loader gives the same
    instance); softhsm2-util would show the PIN in its argument list.
    """
    library = ctypes.CDLL(os.fspath(softhsm_module()))
    result = library.C_InitToken(
        ctypes.c_ulong(slot_id),
        officer_pin,
        ctypes.c_ulong(len(officer_pin)),
        label.encode().ljust(32),
    )
    if result != 0:
        raise HsmUnavailableError(f"the token cannot be initialised: PKCS#11 error {result:#x}")
