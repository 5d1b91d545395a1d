"""Operations with keys: data keys, encryption, decryption, random bytes.

Encryption is AES-256-GCM in the HSM; the blob names key and material, and the additional
authenticated data (`context`) binds account, region, key, material and encryption context.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from volcrypt.errors import (
    AccessDeniedError,
    FormatError,
    IncorrectKeyError,
    InvalidCiphertextError,
    KmsError,
    KmsValidationError,
)
from volcrypt.formats.ciphertext_blob import (
    CiphertextBlob,
    decode_ciphertext_blob,
    encode_ciphertext_blob,
)
from volcrypt.kms.attempt import Attempt, Effect
from volcrypt.kms.context import encode_aad
from volcrypt.kms.facts import NOTHING_GIVEN, Given
from volcrypt.kms.keyring import get_key
from volcrypt.kms.messages.choices import SYMMETRIC_DEFAULT
from volcrypt.kms.messages.data import (
    DATA_KEY_BYTES,
    DecryptRequest,
    DecryptResponse,
    EncryptRequest,
    EncryptResponse,
    GenerateDataKeyRequest,
    GenerateDataKeyResponse,
    GenerateDataKeyWithoutPlaintextRequest,
    GenerateDataKeyWithoutPlaintextResponse,
    GenerateRandomRequest,
    GenerateRandomResponse,
    ReEncryptRequest,
    ReEncryptResponse,
)
from volcrypt.kms.model import KeyMaterial, KmsKey, WrappedMaterial
from volcrypt.kms.scope import Scope

T = TypeVar("T")
_UNKNOWN_KEY: Final = (
    "The ciphertext refers to a customer master key that does not exist, does not exist in this "
    "region, or you are not allowed to access."
)
_INCORRECT_KEY: Final = (
    "The key ID in the request does not identify a CMK that can perform this operation."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Encryption:
    """A decided encryption: one call under the key's current material."""

    key: KmsKey
    aad: bytes

    @property
    def material(self) -> KeyMaterial:
        return self.key.current_material


@dataclass(frozen=True, slots=True, kw_only=True)
class _Decryption:
    """A decided decryption of a blob's sealed bytes."""

    key: KmsKey
    material: KeyMaterial
    sealed: bytes
    aad: bytes


class DataOperations(Scope):
    """Requests raise the errors of the AWS KMS; see the module `service`."""

    def generate_data_key(
        self, attempt: Attempt, request: GenerateDataKeyRequest
    ) -> Effect[GenerateDataKeyResponse]:
        size = _data_key_bytes(request)
        encryption = self._decide_encryption(
            attempt,
            request.key_id,
            "GenerateDataKey",
            context=request.encryption_context,
            grant_tokens=request.grant_tokens,
        )

        def act() -> GenerateDataKeyResponse:
            plaintext = self._keystore.random(size)
            return GenerateDataKeyResponse(
                ciphertext_blob=self._seal(encryption, plaintext),
                plaintext=plaintext,
                key_id=encryption.key.arn,
                key_material_id=encryption.material.material_id,
            )

        return self._counted(encryption, act)

    def generate_data_key_without_plaintext(
        self, attempt: Attempt, request: GenerateDataKeyWithoutPlaintextRequest
    ) -> Effect[GenerateDataKeyWithoutPlaintextResponse]:
        size = _data_key_bytes(request)
        encryption = self._decide_encryption(
            attempt,
            request.key_id,
            "GenerateDataKeyWithoutPlaintext",
            context=request.encryption_context,
            grant_tokens=request.grant_tokens,
        )

        def act() -> GenerateDataKeyWithoutPlaintextResponse:
            plaintext = self._keystore.random(size)
            try:
                blob = self._seal(encryption, plaintext)
            finally:
                _wipe(plaintext)
            return GenerateDataKeyWithoutPlaintextResponse(
                ciphertext_blob=blob,
                key_id=encryption.key.arn,
                key_material_id=encryption.material.material_id,
            )

        return self._counted(encryption, act)

    def generate_random(
        self, attempt: Attempt, request: GenerateRandomRequest
    ) -> Effect[GenerateRandomResponse]:
        attempt.authorise_account("GenerateRandom")
        count = request.number_of_bytes
        if count is None:
            raise KmsValidationError("NumberOfBytes is required.")
        return Effect(act=lambda: GenerateRandomResponse(plaintext=self._keystore.random(count)))

    def encrypt(self, attempt: Attempt, request: EncryptRequest) -> Effect[EncryptResponse]:
        encryption = self._decide_encryption(
            attempt,
            request.key_id,
            "Encrypt",
            context=request.encryption_context,
            grant_tokens=request.grant_tokens,
        )

        def act() -> EncryptResponse:
            return EncryptResponse(
                ciphertext_blob=self._seal(encryption, request.plaintext),
                key_id=encryption.key.arn,
                encryption_algorithm=SYMMETRIC_DEFAULT,
            )

        return self._counted(encryption, act)

    def decrypt(self, attempt: Attempt, request: DecryptRequest) -> Effect[DecryptResponse]:
        decryption = self._decide_decryption(
            attempt,
            request.ciphertext_blob,
            "Decrypt",
            context=request.encryption_context,
            expected_key=request.key_id,
            grant_tokens=request.grant_tokens,
        )

        def act() -> DecryptResponse:
            return DecryptResponse(
                key_id=decryption.key.arn,
                plaintext=self._open(decryption),
                encryption_algorithm=SYMMETRIC_DEFAULT,
                key_material_id=decryption.material.material_id,
            )

        return Effect(act=act)

    def re_encrypt(self, attempt: Attempt, request: ReEncryptRequest) -> Effect[ReEncryptResponse]:
        on_same_key = self._on_same_key(attempt, request)
        decryption = self._decide_decryption(
            attempt,
            request.ciphertext_blob,
            "ReEncryptFrom",
            context=request.source_encryption_context,
            expected_key=request.source_key_id,
            grant_tokens=request.grant_tokens,
            facts=on_same_key,
        )
        encryption = self._decide_encryption(
            attempt,
            request.destination_key_id,
            "ReEncryptTo",
            context=request.destination_encryption_context,
            grant_tokens=request.grant_tokens,
            facts=on_same_key,
        )

        def act() -> ReEncryptResponse:
            plaintext = self._open(decryption)
            try:
                blob = self._seal(encryption, plaintext)
            finally:
                _wipe(plaintext)
            return ReEncryptResponse(
                ciphertext_blob=blob,
                source_key_id=decryption.key.arn,
                key_id=encryption.key.arn,
                source_encryption_algorithm=SYMMETRIC_DEFAULT,
                destination_encryption_algorithm=SYMMETRIC_DEFAULT,
                source_key_material_id=decryption.material.material_id,
                destination_key_material_id=encryption.material.material_id,
            )

        return self._counted(encryption, act)

    def _on_same_key(self, attempt: Attempt, request: ReEncryptRequest) -> Given:
        """The condition key that says whether source and destination are one key; missing where
        that cannot be said, because then the request fails anyway."""
        try:
            source = decode_ciphertext_blob(request.ciphertext_blob).key_id
            destination = self._find_key(attempt, request.destination_key_id).key_id
        except (FormatError, KmsError):
            return NOTHING_GIVEN
        return {"kms:ReEncryptOnSameKey": ("true" if source == destination else "false",)}

    def _decide_encryption(
        self,
        attempt: Attempt,
        key_text: str,
        action: str,
        *,
        context: dict[str, str],
        grant_tokens: list[str],
        facts: Given = NOTHING_GIVEN,
    ) -> _Encryption:
        key = self._find_key(attempt, key_text)
        attempt.authorise(key, action, context=context, grant_tokens=grant_tokens, facts=facts)
        attempt.check_state(key)
        return _Encryption(key=key, aad=_aad(key, key.current_material, context))

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
    ) -> _Decryption:
        """Raises InvalidCiphertextError, IncorrectKeyError, AccessDeniedError, ..."""
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
        material = key.material(blob.material_id)
        if material is None:
            raise InvalidCiphertextError("the ciphertext names key material that its key lacks")
        return _Decryption(
            key=key, material=material, sealed=blob.sealed, aad=_aad(key, material, context)
        )

    def _counted(self, encryption: _Encryption, act: Callable[[], T]) -> Effect[T]:
        """`act` as an effect that is counted as one encryption under its material."""
        return Effect(change=lambda change: self._calls.take(change, encryption.material), act=act)

    def _seal(self, encryption: _Encryption, plaintext: bytearray) -> bytes:
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

    def _open(self, decryption: _Decryption) -> bytearray:
        return self._store_of(decryption.key).decrypt(
            _wrapped(decryption.material), sealed=decryption.sealed, aad=decryption.aad
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


def _data_key_bytes(
    request: GenerateDataKeyRequest | GenerateDataKeyWithoutPlaintextRequest,
) -> int:
    """Raises KmsValidationError unless exactly one of size and key spec is given."""
    if (request.number_of_bytes is None) == (request.key_spec is None):
        raise KmsValidationError("Please specify either number of bytes or key spec.")
    if request.key_spec is not None:
        return DATA_KEY_BYTES[request.key_spec]
    assert request.number_of_bytes is not None, "internal error: neither size nor key spec"
    return request.number_of_bytes


def _wipe(plaintext: bytearray) -> None:
    plaintext[:] = bytes(len(plaintext))
