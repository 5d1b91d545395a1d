"""KeyStore on a PKCS#11 token, and the making of a SoftHSM token. The one door to the HSM.

One lock around every call: SoftHSM, initialised without OS locking as python-pkcs11 does, corrupts
its heap under two threads. One session, logged in for life: closing the session that logged in
logs everybody out. The library is one per process, so a process holds one token at a time.

The token holds three keys of its own, none of them extractable:

    wrapping-N   AES-256, wraps and unwraps key material, nothing else; N is its generation
    mac          HMAC-SHA-256 over what the catalogue keeps
    derive       HMAC-SHA-256 from which home keys are derived

Key material is the one written exception to "never extractable": it is generated as an extractable
session object, wrapped once under `wrapping-N`, and destroyed; for use the wrapping is unwrapped as
a session object that is not extractable. SoftHSM lets only the security officer mark a key as
trusted, who cannot see private objects, and python-pkcs11 cannot set an unwrap template: so who
holds the PIN and a wrapped blob can extract the material, and the documents say so.

A GCM tag that does not fit comes back as CKR_GENERAL_ERROR, the code of a broken token too. It
means an invalid ciphertext only after a decryption with a known answer has shown that the token
lives.
"""

import ctypes
import os
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import pkcs11
from pkcs11 import Attribute, GCMParams, KeyType, Mechanism, MechanismFlag, ObjectClass
from pkcs11.exceptions import (
    EncryptedDataInvalid,
    EncryptedDataLenRange,
    GeneralError,
    NoSuchKey,
    NoSuchToken,
    PinIncorrect,
    PinInvalid,
    PinLenRange,
    PinLocked,
    PKCS11Error,
    WrappedKeyInvalid,
    WrappedKeyLenRange,
)

from volcrypt.errors import (
    ComponentMissingError,
    ConfigurationError,
    HsmUnavailableError,
    IntegrityError,
    InvalidArgumentError,
    InvalidCiphertextError,
)
from volcrypt.formats.ciphertext_blob import IV_BYTES, TAG_BYTES
from volcrypt.kms.keystore import KeyStore
from volcrypt.kms.model import WrappedMaterial

_LABEL: Final = "volcrypt"
WRAPPED_BYTES: Final = 40
HANDLE_LIMIT: Final = 256
"""Materials that stay unwrapped in the HSM; an unwrap costs 0.2 ms."""

_SOFTHSM_PATHS: Final = (
    Path("/usr/lib/softhsm/libsofthsm2.so"),
    Path("/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so"),
    Path("/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so"),
    Path("/usr/lib64/pkcs11/libsofthsm2.so"),
    Path("/usr/local/lib/softhsm/libsofthsm2.so"),
)
_CONFIGURATION_VARIABLE: Final = "SOFTHSM2_CONF"
_PIN_BYTES: Final = range(4, 256)
_WRAPPING_KEY: Final = 1
_GENERIC_FAILURE: Final = (GeneralError, EncryptedDataInvalid, EncryptedDataLenRange)
_UNWRAP_FAILURE: Final = (GeneralError, WrappedKeyInvalid, WrappedKeyLenRange)
_PIN_FAILURE: Final = (PinIncorrect, PinInvalid, PinLenRange, PinLocked)
_PROBE_TEXT: Final = b"volcrypt known answer"
_PRIVATE: Final = {
    Attribute.PRIVATE: True,
    Attribute.SENSITIVE: True,
    Attribute.EXTRACTABLE: False,
}

_LOCK: Final = threading.RLock()
_held = threading.Lock()


def softhsm_module() -> Path:
    """Raises ComponentMissingError when SoftHSM is not installed."""
    for path in _SOFTHSM_PATHS:
        if path.exists():
            return path
    raise ComponentMissingError("SoftHSM (libsofthsm2.so)", package="softhsm2")


class Pkcs11KeyStore:
    """The keys of one token, in one session that is logged in."""

    def __init__(self, session: pkcs11.Session) -> None:
        """Raises IntegrityError when the token lacks a key of its own, HsmUnavailableError."""
        self._session = session
        self._handles: OrderedDict[WrappedMaterial, Any] = OrderedDict()
        with _LOCK, _answering():
            try:
                self._wrapping: Any = session.get_key(label=_wrapping_label(_WRAPPING_KEY))
                self._mac_key: Any = session.get_key(label="mac")
                self._derive_key: Any = session.get_key(label="derive")
            except NoSuchKey as error:
                raise IntegrityError("the token lacks a key of volcrypt's own") from error
            self._probe_key = _generate_probe_key(session)
            self._probe_iv = session.generate_random(IV_BYTES * 8)
            self._probe_answer = _gcm(self._probe_key.encrypt, _PROBE_TEXT, self._probe_iv, b"")

    def __repr__(self) -> str:
        return "<Pkcs11KeyStore>"

    def generate_material(self) -> WrappedMaterial:
        with _LOCK, _answering():
            key = self._session.generate_key(
                KeyType.AES,
                256,
                capabilities=MechanismFlag(0),
                template={Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: True},
            )
            try:
                blob = self._wrapping.wrap_key(key, mechanism=Mechanism.AES_KEY_WRAP_PAD)
            finally:
                key.destroy()
        material = WrappedMaterial(blob=blob, wrapping_key=_WRAPPING_KEY)
        # SoftHSM unwraps material of any length, so that is checked here, and that it works.
        trial = bytearray(_PROBE_TEXT)
        sealed = self.encrypt(material, plaintext=trial, aad=b"")
        if len(blob) != WRAPPED_BYTES or self.decrypt(material, sealed=sealed, aad=b"") != trial:
            raise HsmUnavailableError("the HSM made key material that it cannot use")
        return material

    def encrypt(self, material: WrappedMaterial, *, plaintext: bytearray, aad: bytes) -> bytes:
        with _LOCK, _answering():
            key = self._unwrapped(material)
            iv = self._session.generate_random(IV_BYTES * 8)
            return iv + _gcm(key.encrypt, bytes(plaintext), iv, aad)

    def decrypt(self, material: WrappedMaterial, *, sealed: bytes, aad: bytes) -> bytearray:
        if len(sealed) <= IV_BYTES + TAG_BYTES:
            raise InvalidCiphertextError("the ciphertext is too short")
        with _LOCK, _answering():
            key = self._unwrapped(material)
            try:
                return bytearray(_gcm(key.decrypt, sealed[IV_BYTES:], sealed[:IV_BYTES], aad))
            except _GENERIC_FAILURE as error:
                self._check_alive()
                raise InvalidCiphertextError(
                    "the ciphertext is not valid: it was changed, or the encryption context "
                    "is not the one it was made with"
                ) from error

    def mac(self, data: bytes) -> bytes:
        with _LOCK, _answering():
            return bytes(self._mac_key.sign(data, mechanism=Mechanism.SHA256_HMAC))

    def derive(self, info: bytes) -> bytearray:
        with _LOCK, _answering():
            return bytearray(self._derive_key.sign(info, mechanism=Mechanism.SHA256_HMAC))

    def random(self, count: int) -> bytearray:
        with _LOCK, _answering():
            return bytearray(self._session.generate_random(count * 8))

    def _unwrapped(self, material: WrappedMaterial) -> Any:
        """The handle of the material as a session object; the least recently used ones go."""
        if material in self._handles:
            self._handles.move_to_end(material)
            return self._handles[material]
        if material.wrapping_key != _WRAPPING_KEY or len(material.blob) != WRAPPED_BYTES:
            raise IntegrityError("key material is wrapped under a key that the token does not have")
        try:
            key = self._wrapping.unwrap_key(
                ObjectClass.SECRET_KEY,
                KeyType.AES,
                material.blob,
                mechanism=Mechanism.AES_KEY_WRAP_PAD,
                capabilities=MechanismFlag.ENCRYPT | MechanismFlag.DECRYPT,
                template=_PRIVATE,
            )
        except _UNWRAP_FAILURE as error:
            self._check_alive()
            raise IntegrityError("key material does not unwrap: it was changed") from error
        self._handles[material] = key
        if len(self._handles) > HANDLE_LIMIT:
            self._handles.popitem(last=False)[1].destroy()
        return key

    def _check_alive(self) -> None:
        """Raises HsmUnavailableError unless the token still gives a known answer."""
        answer = _gcm(self._probe_key.decrypt, self._probe_answer, self._probe_iv, b"")
        if answer != _PROBE_TEXT:
            raise HsmUnavailableError("the HSM gives wrong answers")


def _conforms(store: Pkcs11KeyStore) -> KeyStore:
    return store


@contextmanager
def open_token(configuration: Path, pin: bytearray) -> Iterator[Pkcs11KeyStore]:
    """Log in to the SoftHSM token that `configuration` (a softhsm2.conf) leads to.

    Raises ConfigurationError for a PIN that does not open it, InvalidArgumentError for one that no
    token takes, HsmUnavailableError, IntegrityError.
    """
    check_pin(pin)
    with _library(configuration) as library, _session(library, pin) as session:
        yield Pkcs11KeyStore(session)


def make_token(configuration: Path, pin: bytearray) -> None:
    """Make the token and its own keys in the empty token directory of `configuration`.

    The security officer's PIN is drawn and thrown away: the PIN cannot be set anew without the old
    one. Raises InvalidArgumentError for a PIN that the token does not take, HsmUnavailableError.
    """
    check_pin(pin)
    officer_pin = secrets.token_urlsafe(32)
    with _library(configuration) as library:
        with _LOCK, _answering():
            slot = library.get_slots()[0]
            _initialise_token(slot.slot_id, officer_pin.encode())
            with slot.get_token().open(rw=True, so_pin=officer_pin) as session:
                session.init_pin(pin.decode())
        with _session(library, pin) as session, _LOCK, _answering():
            session.generate_key(
                KeyType.AES,
                256,
                label=_wrapping_label(_WRAPPING_KEY),
                store=True,
                capabilities=MechanismFlag.WRAP | MechanismFlag.UNWRAP,
                template=_PRIVATE,
            )
            for label in ("mac", "derive"):
                session.generate_key(
                    KeyType.GENERIC_SECRET,
                    256,
                    label=label,
                    store=True,
                    capabilities=MechanismFlag.SIGN | MechanismFlag.VERIFY,
                    template=_PRIVATE,
                )


def check_pin(pin: bytearray) -> None:
    """Raises InvalidArgumentError for a PIN that no token would take."""
    try:
        pin.decode()
    except UnicodeDecodeError:
        # Not chained: the cause would show bytes of the PIN.
        raise InvalidArgumentError("the PIN is not valid UTF-8 text") from None
    if len(pin) not in _PIN_BYTES or 0 in pin:
        raise InvalidArgumentError("the PIN must have 4 to 255 bytes")


def _wrapping_label(generation: int) -> str:
    return f"wrapping-{generation}"


def _generate_probe_key(session: pkcs11.Session) -> Any:
    return session.generate_key(
        KeyType.AES,
        256,
        capabilities=MechanismFlag.ENCRYPT | MechanismFlag.DECRYPT,
        template={Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: False},
    )


def _gcm(function: Callable[..., Any], data: bytes, iv: bytes, aad: bytes) -> bytes:
    parameters = GCMParams(iv, aad, TAG_BYTES * 8)
    return bytes(function(data, mechanism=Mechanism.AES_GCM, mechanism_param=parameters))


@contextmanager
def _answering() -> Iterator[None]:
    """Turn what PKCS#11 reports, and nobody handled, into HsmUnavailableError."""
    try:
        yield
    except PKCS11Error as error:
        raise HsmUnavailableError(f"the HSM did not answer: {type(error).__name__}") from error


@contextmanager
def _library(configuration: Path) -> Iterator[Any]:
    """SoftHSM's library, initialised for the token directory of `configuration`; finalised after.

    SoftHSM reads the variable while it initialises and never again, so the environment is changed
    for that moment only, and no child inherits it.
    """
    if not _held.acquire(blocking=False):
        raise RuntimeError("internal error: this process holds a token already")
    module = softhsm_module()
    try:
        with _LOCK, _answering():
            before = os.environ.get(_CONFIGURATION_VARIABLE)
            os.environ[_CONFIGURATION_VARIABLE] = os.fspath(configuration)
            try:
                library = pkcs11.lib(os.fspath(module))
            finally:
                if before is None:
                    del os.environ[_CONFIGURATION_VARIABLE]
                else:
                    os.environ[_CONFIGURATION_VARIABLE] = before
        try:
            yield library
        finally:
            with _LOCK, suppress(PKCS11Error):
                library.finalize()
    finally:
        _held.release()


@contextmanager
def _session(library: Any, pin: bytearray) -> Iterator[pkcs11.Session]:
    with _LOCK, _answering():
        try:
            session = library.get_token(token_label=_LABEL).open(rw=True, user_pin=pin.decode())
        except NoSuchToken as error:
            raise IntegrityError("the master copy holds no token of volcrypt") from error
        except _PIN_FAILURE:
            raise ConfigurationError("the PIN does not open the token") from None
    try:
        yield session
    finally:
        with _LOCK, suppress(PKCS11Error):
            session.close()


def _initialise_token(slot_id: int, officer_pin: bytes) -> None:
    """C_InitToken, which python-pkcs11 does not offer.

    Called in the library that python-pkcs11 has loaded and initialised (the loader gives the same
    instance); softhsm2-util would show the PIN in its argument list.
    """
    library = ctypes.CDLL(os.fspath(softhsm_module()))
    result = library.C_InitToken(
        ctypes.c_ulong(slot_id),
        officer_pin,
        ctypes.c_ulong(len(officer_pin)),
        _LABEL.encode().ljust(32),
    )
    if result != 0:
        raise HsmUnavailableError(f"the token cannot be initialised: PKCS#11 error {result:#x}")
