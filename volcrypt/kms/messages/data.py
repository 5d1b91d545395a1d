"""Messages of the operations with keys: data keys, encryption, random bytes. Pure."""

from types import MappingProxyType
from typing import Final

from volcrypt.kms.messages.base import NO_CONTEXT, Operation, Request, Response
from volcrypt.kms.messages.limits import SYMMETRIC_DEFAULT

DATA_KEY_BYTES: Final = MappingProxyType({"AES_128": 16, "AES_256": 32})


class GenerateRandomRequest(Request, frozen=True, kw_only=True):
    number_of_bytes: int | None = None


class GenerateRandomResponse(Response, frozen=True, kw_only=True):
    plaintext: bytearray


class GenerateDataKeyRequest(Request, frozen=True, kw_only=True):
    """Exactly one of `number_of_bytes` and `key_spec`."""

    key_id: str
    encryption_context: dict[str, str] = NO_CONTEXT
    number_of_bytes: int | None = None
    key_spec: str | None = None
    dry_run: bool = False


class GenerateDataKeyResponse(Response, frozen=True, kw_only=True):
    ciphertext_blob: bytes
    plaintext: bytearray
    key_id: str
    key_material_id: str


class GenerateDataKeyWithoutPlaintextRequest(Request, frozen=True, kw_only=True):
    """Exactly one of `number_of_bytes` and `key_spec`."""

    key_id: str
    encryption_context: dict[str, str] = NO_CONTEXT
    number_of_bytes: int | None = None
    key_spec: str | None = None
    dry_run: bool = False


class GenerateDataKeyWithoutPlaintextResponse(Response, frozen=True, kw_only=True):
    ciphertext_blob: bytes
    key_id: str
    key_material_id: str


class EncryptRequest(Request, frozen=True, kw_only=True):
    key_id: str
    plaintext: bytearray
    encryption_context: dict[str, str] = NO_CONTEXT
    encryption_algorithm: str = SYMMETRIC_DEFAULT
    dry_run: bool = False


class EncryptResponse(Response, frozen=True, kw_only=True):
    ciphertext_blob: bytes
    key_id: str
    encryption_algorithm: str


class DecryptRequest(Request, frozen=True, kw_only=True):
    ciphertext_blob: bytes
    encryption_context: dict[str, str] = NO_CONTEXT
    key_id: str | None = None
    encryption_algorithm: str = SYMMETRIC_DEFAULT
    dry_run: bool = False


class DecryptResponse(Response, frozen=True, kw_only=True):
    key_id: str
    plaintext: bytearray
    encryption_algorithm: str
    key_material_id: str


class ReEncryptRequest(Request, frozen=True, kw_only=True):
    ciphertext_blob: bytes
    source_encryption_context: dict[str, str] = NO_CONTEXT
    source_key_id: str | None = None
    destination_key_id: str
    destination_encryption_context: dict[str, str] = NO_CONTEXT
    source_encryption_algorithm: str = SYMMETRIC_DEFAULT
    destination_encryption_algorithm: str = SYMMETRIC_DEFAULT
    dry_run: bool = False


class ReEncryptResponse(Response, frozen=True, kw_only=True):
    ciphertext_blob: bytes
    source_key_id: str
    key_id: str
    source_encryption_algorithm: str
    destination_encryption_algorithm: str
    source_key_material_id: str
    destination_key_material_id: str


DATA_OPERATIONS: Final = MappingProxyType(
    {
        "GenerateRandom": Operation(GenerateRandomRequest, GenerateRandomResponse, True),
        "GenerateDataKey": Operation(GenerateDataKeyRequest, GenerateDataKeyResponse, True),
        "GenerateDataKeyWithoutPlaintext": Operation(
            GenerateDataKeyWithoutPlaintextRequest,
            GenerateDataKeyWithoutPlaintextResponse,
            True,
        ),
        "Encrypt": Operation(EncryptRequest, EncryptResponse, True),
        "Decrypt": Operation(DecryptRequest, DecryptResponse, True),
        "ReEncrypt": Operation(ReEncryptRequest, ReEncryptResponse, True),
    }
)
