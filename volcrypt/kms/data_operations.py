"""Operations with keys: data keys, encryption, decryption, random bytes."""

from collections.abc import Callable
from typing import TypeVar

from volcrypt.errors import (
    FormatError,
    KmsError,
    KmsValidationError,
)
from volcrypt.formats.ciphertext_blob import (
    decode_ciphertext_blob,
)
from volcrypt.kms.attempt import Attempt, Effect
from volcrypt.kms.ciphers import Ciphers, Encryption, wipe
from volcrypt.kms.facts import NOTHING_GIVEN, Given
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

T = TypeVar("T")


class DataOperations(Ciphers):
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
                wipe(plaintext)
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
            algorithm=request.encryption_algorithm,
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
            algorithm=request.encryption_algorithm,
        )
        if request.dry_run:
            self._check_opens(attempt, decryption)

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
            algorithm=request.source_encryption_algorithm,
        )
        encryption = self._decide_encryption(
            attempt,
            request.destination_key_id,
            "ReEncryptTo",
            context=request.destination_encryption_context,
            grant_tokens=request.grant_tokens,
            facts=on_same_key,
            algorithm=request.destination_encryption_algorithm,
        )
        if request.dry_run:
            self._check_opens(attempt, decryption)

        def act() -> ReEncryptResponse:
            plaintext = self._open(decryption)
            try:
                blob = self._seal(encryption, plaintext)
            finally:
                wipe(plaintext)
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

    def _counted(self, encryption: Encryption, act: Callable[[], T]) -> Effect[T]:
        """`act` as an effect that is counted as one encryption under its material."""
        return Effect(change=lambda change: self._calls.take(change, encryption.material), act=act)


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
