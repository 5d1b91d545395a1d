"""Encryption and decryption with keys: how they are decided, and how they are done.

Encryption is AES-256-GCM in the HSM; the blob names key and material, and the additional
authenticated data (`context`) binds account, region, key, material and encryption context.
"""

from dataclasses import dataclass
from typing import Final

from volcrypt.errors import (
    AccessDeniedError,
    FormatError,
    IncorrectKeyError,
    InvalidCiphertextError,
    InvalidKeyUsageError,
    KmsValidationError,
)
from volcrypt.formats.ciphertext_blob import (
    CiphertextBlob,
    decode_ciphertext_blob,
    encode_ciphertext_blob,
)
from volcrypt.kms.attempt import Attempt
from volcrypt.kms.context import encode_aad
from volcrypt.kms.facts import NOTHING_GIVEN, Given
from volcrypt.kms.keyring import get_key
from volcrypt.kms.messages.choices import SYMMETRIC_DEFAULT
from volcrypt.kms.model import KeyMaterial, KmsKey, WrappedMaterial
from volcrypt.kms.scope import Scope
from volcrypt.kms.view import View

_UNKNOWN_KEY: Final = (
    "The ciphertext refers to a customer master key that does not exist, does not exist in this "
    "region, or you are not allowed to access."
)
_KEY_NEEDED: Final = (
    "A key ID is required to decrypt a ciphertext that was encrypted under an asymmetric KMS key."
)
_INCORRECT_KEY: Final = (
    "The key ID in the request does not identify a CMK that can perform this operation."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Encryption:
    """A decided encryption: one call under the key's current material."""

    key: KmsKey
    aad: bytes

    @property
    def material(self) -> KeyMaterial:
        return self.key.current_material


@dataclass(frozen=True, slots=True, kw_only=True)
class Decryption:
    """A decided decryption of a blob's sealed bytes."""

    key: KmsKey
    material: KeyMaterial
    sealed: bytes
    aad: bytes


class Ciphers(Scope):
    """What the operations that encrypt and decrypt are made of."""

    def _decide_encryption(
        self,
        attempt: Attempt,
        key_text: str,
        action: str,
        *,
        context: dict[str, str],
        grant_tokens: list[str],
        facts: Given = NOTHING_GIVEN,
        algorithm: str = SYMMETRIC_DEFAULT,
    ) -> Encryption:
        key = self._find_key(attempt, key_text)
        attempt.authorise(key, action, context=context, grant_tokens=grant_tokens, facts=facts)
        attempt.check_state(key)
        _check_algorithm(algorithm)
        return Encryption(key=key, aad=_aad(key, key.current_material, context))

    def _decide_decryption(
        self,
        attempt: Attempt,
        data: bytes,
        action: str,
        *,
        context: dict[str, str],
        expected_key: str | None,
        grant_tokens: list[str],
        facts: Given = NOTHING_GIVEN,
        algorithm: str = SYMMETRIC_DEFAULT,
    ) -> Decryption:
        """Raises InvalidCiphertextError, IncorrectKeyError, AccessDeniedError, ..."""
        if algorithm != SYMMETRIC_DEFAULT and expected_key is None:
            raise KmsValidationError(_KEY_NEEDED)
        expected = None if expected_key is None else self._find_key(attempt, expected_key)
        try:
            blob = decode_ciphertext_blob(data)
        except FormatError as error:
            raise InvalidCiphertextError(str(error)) from error
        if expected is not None and expected.key_id != blob.key_id:
            attempt.authorise(
                expected, action, context=context, grant_tokens=grant_tokens, facts=facts
            )
            raise IncorrectKeyError(_INCORRECT_KEY)
        key = get_key(attempt.change, blob.key_id)
        if key is None or key.region != self._region:
            raise AccessDeniedError(_UNKNOWN_KEY)
        try:
            attempt.authorise(key, action, context=context, grant_tokens=grant_tokens, facts=facts)
        except AccessDeniedError as error:
            raise AccessDeniedError(_UNKNOWN_KEY) from error
        attempt.check_state(key)
        _check_algorithm(algorithm)
        material = key.material(blob.material_id)
        if material is None:
            raise InvalidCiphertextError("the ciphertext names key material that its key lacks")
        return Decryption(
            key=key, material=material, sealed=blob.sealed, aad=_aad(key, material, context)
        )

    def _seal(self, encryption: Encryption, plaintext: bytearray) -> bytes:
        sealed = self._store_of(encryption.key).encrypt(
            _wrapped(encryption.material), plaintext=plaintext, aad=encryption.aad
        )
        return encode_ciphertext_blob(
            CiphertextBlob(
                key_id=encryption.key.key_id,
                material_id=encryption.material.material_id,
                sealed=sealed,
            )
        )

    def _check_opens(self, attempt: Attempt, decryption: Decryption) -> None:
        """For a dry run, which tells whether the request would succeed: whether the ciphertext is
        one, under this context. Raises InvalidCiphertextError."""
        wipe(self._open(decryption, attempt.change))

    def _open(self, decryption: Decryption, view: View | None = None) -> bytearray:
        return self._store_of(decryption.key, view).decrypt(
            _wrapped(decryption.material), sealed=decryption.sealed, aad=decryption.aad
        )


def wipe(plaintext: bytearray) -> None:
    plaintext[:] = bytes(len(plaintext))


def _check_algorithm(algorithm: str) -> None:
    """Raises InvalidKeyUsageError for an algorithm that is not one of symmetric keys."""
    if algorithm != SYMMETRIC_DEFAULT:
        raise InvalidKeyUsageError(
            f"Algorithm {algorithm} is incompatible with key spec {SYMMETRIC_DEFAULT}."
        )


def _wrapped(material: KeyMaterial) -> WrappedMaterial:
    assert material.wrapped is not None, "internal error: a usable key lacks its material"
    return material.wrapped


def _aad(key: KmsKey, material: KeyMaterial, context: dict[str, str]) -> bytes:
    return encode_aad(
        context,
        account=key.account,
        region=key.region,
        key_id=key.key_id,
        material_id=material.material_id,
    )
