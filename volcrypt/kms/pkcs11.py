"""Key material and the KMS's own keys on a PKCS#11 token, through one session that is logged in.

The token holds keys of volcrypt's own, none of them extractable:

    wrapping-N   AES-256, wraps and unwraps key material, nothing else; N is its generation
    mac          HMAC-SHA-256 over what the catalogue keeps
    derive       HMAC-SHA-256 from which home keys are derived

Key material is the one written exception to "never extractable": it is generated as an extractable
session object, wrapped once under the newest `wrapping-N`, and destroyed; for use the wrapping is
unwrapped as a session object that is not extractable. SoftHSM lets only the security officer mark a
key as trusted, who cannot see private objects, and python-pkcs11 cannot set an unwrap template: so
who holds the PIN and a wrapped blob can extract the material, and the documents say so.

A GCM tag that does not fit comes back as CKR_GENERAL_ERROR, the code of a broken token too, and so
does a wrapping that does not unwrap. They mean an invalid ciphertext, or damage, only after the
same call with a known answer has shown that the token lives.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Final

import pkcs11
from pkcs11 import Attribute, GCMParams, KeyType, Mechanism, MechanismFlag, ObjectClass
from pkcs11.exceptions import (
    AttributeTypeInvalid,
    EncryptedDataInvalid,
    EncryptedDataLenRange,
    GeneralError,
    NoSuchKey,
    PKCS11Error,
    WrappedKeyInvalid,
    WrappedKeyLenRange,
)

from volcrypt.confinement import wipe_bytes
from volcrypt.errors import (
    HsmUnavailableError,
    IncorrectKeyMaterialError,
    IntegrityError,
    InvalidCiphertextError,
    UnknownGenerationError,
)
from volcrypt.formats.ciphertext_blob import IV_BYTES, TAG_BYTES
from volcrypt.formats.sealed_secret import WRAPPED_BYTES
from volcrypt.kms.keystore import Sealing
from volcrypt.kms.model import WrappedMaterial
from volcrypt.kms.pkcs11_session import (
    HOME_PREFIX,
    LOCK,
    PRIVATE,
    answering,
    generate_wrapping_key,
)

HANDLE_LIMIT: Final = 256
"""Materials that stay unwrapped in the HSM; an unwrap costs 0.2 ms."""

MATERIAL_BYTES: Final = 32
HOME_WRAPPING: Final = Mechanism.AES_KEY_WRAP_PAD
"""RFC 5649 in SoftHSM."""
PORTABLE_WRAPPING: Final = Mechanism.AES_KEY_WRAP
"""RFC 3394: the same 40 bytes everywhere, where "PAD" is something else in other modules."""

_GENERIC_FAILURE: Final = (GeneralError, EncryptedDataInvalid, EncryptedDataLenRange)
_UNWRAP_FAILURE: Final = (GeneralError, WrappedKeyInvalid, WrappedKeyLenRange)
_PROBE_TEXT: Final = b"volcrypt known answer"
_FOR_WRAPPING: Final = {Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: True}
_USE: Final = MechanismFlag.ENCRYPT | MechanismFlag.DECRYPT


class Pkcs11Materials:
    """Key material under the wrapping keys of one token."""

    def __init__(
        self,
        session: pkcs11.Session,
        *,
        prefix: str = HOME_PREFIX,
        mechanism: Mechanism = HOME_WRAPPING,
        make_key: bool = False,
    ) -> None:
        """The labels of the wrapping keys begin with `prefix`; with `make_key` a first one is made
        where there is none. Raises HsmUnavailableError, and IntegrityError for a token without."""
        self._session = session
        self._prefix = prefix
        self._mechanism = mechanism
        self._handles: OrderedDict[WrappedMaterial, Any] = OrderedDict()
        with LOCK, answering():
            self._wrapping = _wrapping_keys(session, prefix)
            if make_key and not self._wrapping:
                self._wrapping[1] = generate_wrapping_key(session, 1, prefix=prefix)
            if not self._wrapping:
                raise IntegrityError("the token lacks a key of volcrypt's own")
            self._make_probe()

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    def generate_material(self) -> WrappedMaterial:
        with LOCK, answering():
            return self._tried(self._wrap_and_destroy(self._generate()))

    def import_material(self, plaintext: bytearray) -> WrappedMaterial:
        if len(plaintext) != MATERIAL_BYTES:
            raise IncorrectKeyMaterialError(f"key material must have {MATERIAL_BYTES} bytes")
        with LOCK, answering():
            key = self._session.create_object(
                {
                    Attribute.CLASS: ObjectClass.SECRET_KEY,
                    Attribute.KEY_TYPE: KeyType.AES,
                    Attribute.TOKEN: False,
                    Attribute.VALUE: bytes(plaintext),
                    Attribute.ENCRYPT: True,
                    Attribute.DECRYPT: True,
                    **_FOR_WRAPPING,
                }
            )
            return self._tried(self._wrap_and_destroy(key))

    def encrypt(self, material: WrappedMaterial, *, plaintext: bytearray, aad: bytes) -> bytes:
        with LOCK, answering():
            key = self._unwrapped(material)
            iv = self._session.generate_random(IV_BYTES * 8)
            copy = bytes(plaintext)
            try:
                return iv + _gcm(key.encrypt, copy, iv, aad)
            finally:
                wipe_bytes(copy)

    def decrypt(self, material: WrappedMaterial, *, sealed: bytes, aad: bytes) -> bytearray:
        if len(sealed) <= IV_BYTES + TAG_BYTES:
            raise InvalidCiphertextError("the ciphertext is too short")
        with LOCK, answering():
            key = self._unwrapped(material)
            try:
                return _taken(_gcm(key.decrypt, sealed[IV_BYTES:], sealed[:IV_BYTES], aad))
            except _GENERIC_FAILURE as error:
                self._check_alive()
                raise InvalidCiphertextError(
                    "the ciphertext is not valid: it was changed, or the encryption context "
                    "is not the one it was made with"
                ) from error

    def random(self, count: int) -> bytearray:
        with LOCK, answering():
            return _taken(self._session.generate_random(count * 8))

    def generation(self) -> int:
        return max(self._wrapping)

    def add_generation(self) -> None:
        """A new wrapping key in the token, for all new material from now on."""
        with LOCK, answering():
            generation = self.generation() + 1
            self._wrapping[generation] = generate_wrapping_key(
                self._session, generation, prefix=self._prefix
            )

    def destroy_generations(self, *, older_than: int) -> None:
        """Destroy wrapping keys in the token, never the newest, and all unwrapped material."""
        with LOCK, answering():
            for generation in sorted(self._wrapping):
                if generation < min(older_than, self.generation()):
                    self._wrapping.pop(generation).destroy()
            self._forget_all()
            self._make_probe()

    def rewrapped(self, materials: Sequence[WrappedMaterial]) -> list[WrappedMaterial]:
        """The same materials under the newest wrapping key, each tried. Raises IntegrityError."""
        return [self._rewrapped(material) for material in materials]

    def _rewrapped(self, material: WrappedMaterial) -> WrappedMaterial:
        with LOCK, answering():
            key = self._unwrap(material, _FOR_WRAPPING)
            iv = self._session.generate_random(IV_BYTES * 8)
            answer = _gcm(key.encrypt, _PROBE_TEXT, iv, b"")
            new = self._wrap_and_destroy(key)
            trial = self._unwrap(new, PRIVATE)
            try:
                is_same = _gcm(trial.decrypt, answer, iv, b"") == _PROBE_TEXT
            finally:
                trial.destroy()
        if not is_same:
            raise HsmUnavailableError("the HSM wrapped other key material than it was given")
        return new

    def _generate(self) -> Any:
        return self._session.generate_key(
            KeyType.AES, 256, capabilities=_USE, template=_FOR_WRAPPING
        )

    def _wrap_and_destroy(self, key: Any) -> WrappedMaterial:
        generation = self.generation()
        try:
            blob = self._wrapping[generation].wrap_key(key, mechanism=self._mechanism)
        finally:
            key.destroy()
        return WrappedMaterial(blob=blob, wrapping_key=generation)

    def _tried(self, material: WrappedMaterial) -> WrappedMaterial:
        """The HSM unwraps material of any length, so that is checked here, and that it works."""
        trial = bytearray(_PROBE_TEXT)
        sealed = self.encrypt(material, plaintext=trial, aad=b"")
        works = self.decrypt(material, sealed=sealed, aad=b"") == trial
        if len(material.blob) != WRAPPED_BYTES or not works:
            raise HsmUnavailableError("the HSM made key material that it cannot use")
        return material

    def _unwrapped(self, material: WrappedMaterial) -> Any:
        """The handle of the material as a session object; the least recently used ones go."""
        if material in self._handles:
            self._handles.move_to_end(material)
            return self._handles[material]
        key = self._handles[material] = self._unwrap(material, PRIVATE)
        if len(self._handles) > HANDLE_LIMIT:
            self._handles.popitem(last=False)[1].destroy()
        return key

    def _unwrap(self, material: WrappedMaterial, template: dict[Attribute, bool]) -> Any:
        wrapping = self._wrapping.get(material.wrapping_key)
        if wrapping is None:
            raise UnknownGenerationError(material.wrapping_key)
        if len(material.blob) != WRAPPED_BYTES:
            raise IntegrityError("key material has a wrong length: it was changed")
        try:
            return wrapping.unwrap_key(
                ObjectClass.SECRET_KEY,
                KeyType.AES,
                material.blob,
                mechanism=self._mechanism,
                capabilities=_USE,
                template=template,
            )
        except _UNWRAP_FAILURE as error:
            self._check_alive()
            raise IntegrityError("key material does not unwrap: it was changed") from error

    def _forget_all(self) -> None:
        while self._handles:
            self._handles.popitem()[1].destroy()

    def _make_probe(self) -> None:
        """A key of which the answer is known, under the newest wrapping key."""
        probe = self._generate()
        self._probe_iv = self._session.generate_random(IV_BYTES * 8)
        self._probe_answer = _gcm(probe.encrypt, _PROBE_TEXT, self._probe_iv, b"")
        self._probe = self._wrap_and_destroy(probe)
        self._check_alive()

    def _check_alive(self) -> None:
        """Raises HsmUnavailableError unless the token still unwraps a known key and gives a known
        answer with it."""
        try:
            key = self._wrapping[self._probe.wrapping_key].unwrap_key(
                ObjectClass.SECRET_KEY,
                KeyType.AES,
                self._probe.blob,
                mechanism=self._mechanism,
                capabilities=_USE,
                template=PRIVATE,
            )
            answer = _gcm(key.decrypt, self._probe_answer, self._probe_iv, b"")
            key.destroy()
        except PKCS11Error as error:
            raise HsmUnavailableError("the HSM does not know its own keys any more") from error
        if answer != _PROBE_TEXT:
            raise HsmUnavailableError("the HSM gives wrong answers")


class Pkcs11KeyStore(Sealing, Pkcs11Materials):
    """All keys of a home's token."""

    def __init__(self, session: pkcs11.Session) -> None:
        """Raises IntegrityError when the token lacks a key of its own, HsmUnavailableError."""
        super().__init__(session)
        with LOCK, answering():
            try:
                self._mac_key: Any = session.get_key(label="mac")
                self._derive_key: Any = session.get_key(label="derive")
            except NoSuchKey as error:
                raise IntegrityError("the token lacks a key of volcrypt's own") from error

    def mac(self, data: bytes) -> bytes:
        with LOCK, answering():
            return bytes(self._mac_key.sign(data, mechanism=Mechanism.SHA256_HMAC))

    def derive(self, info: bytes) -> bytearray:
        with LOCK, answering():
            return _taken(self._derive_key.sign(info, mechanism=Mechanism.SHA256_HMAC))


def _wrapping_keys(session: pkcs11.Session, prefix: str) -> dict[int, Any]:
    """The wrapping keys of volcrypt's own, by generation."""
    found = {}
    for key in session.get_objects(
        {Attribute.CLASS: ObjectClass.SECRET_KEY, Attribute.TOKEN: True}
    ):
        try:
            label = key[Attribute.LABEL]
        except AttributeTypeInvalid:  # somebody else's, without a label
            continue
        number = label.removeprefix(prefix)
        if number != label and number.isascii() and number.isdecimal():
            found[int(number)] = key
    return found


def _taken(secret: bytes) -> bytearray:
    """What the library returned, in memory that can be wiped."""
    try:
        return bytearray(secret)
    finally:
        wipe_bytes(secret)


def _gcm(function: Callable[..., Any], data: bytes, iv: bytes, aad: bytes) -> bytes:
    parameters = GCMParams(iv, aad, TAG_BYTES * 8)
    return bytes(function(data, mechanism=Mechanism.AES_GCM, mechanism_param=parameters))
