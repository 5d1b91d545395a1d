"""Messages of the operations with keys: data keys, encryption, random bytes. Pure."""

from types import MappingProxyType
from typing import Final

import msgspec

from volcrypt.kms.messages.base import NO_CONTEXT, Operation, Request, Response
from volcrypt.kms.messages.choices import SYMMETRIC_DEFAULT

DATA_KEY_BYTES: Final = MappingProxyType({"AES_128": 16, "AES_256": 32})


class GenerateRandomResponse(Response, frozen=True, kw_only=True):
    plaintext: bytearray


class GenerateRandomRequest(Request[GenerateRandomResponse], frozen=True, kw_only=True):
    number_of_bytes: int | None = None


class GenerateDataKeyResponse(Response, frozen=True, kw_only=True):
    ciphertext_blob: bytes
    plaintext: bytearray
    key_id: str
    key_material_id: str


class GenerateDataKeyRequest(Request[GenerateDataKeyResponse], frozen=True, kw_only=True):
    """Exactly one of `number_of_bytes` and `key_spec`."""

    key_id: str
    encryption_context: dict[str, str] = NO_CONTEXT
    number_of_bytes: int | None = None
    key_spec: str | None = None
    grant_tokens: list[str] = msgspec.field(default_factory=list)
    dry_run: bool = False


class GenerateDataKeyWithoutPlaintextResponse(Response, frozen=True, kw_only=True):
    ciphertext_blob: bytes
    key_id: str
    key_material_id: str


class GenerateDataKeyWithoutPlaintextRequest(
    Request[GenerateDataKeyWithoutPlaintextResponse], frozen=True, kw_only=True
):
    """Exactly one of `number_of_bytes` and `key_spec`."""

    key_id: str
    encryption_context: dict[str, str] = NO_CONTEXT
    number_of_bytes: int | None = None
    key_spec: str | None = None
    grant_tokens: list[str] = msgspec.field(default_factory=list)
    dry_run: bool = False


class EncryptResponse(Response, frozen=True, kw_only=True):
    ciphertext_blob: bytes
    key_id: str
    encryption_algorithm: str


class EncryptRequest(Request[EncryptResponse], frozen=True, kw_only=True):
    key_id: str
    plaintext: bytearray
    encryption_context: dict[str, str] = NO_CONTEXT
    encryption_algorithm: str = SYMMETRIC_DEFAULT
    grant_tokens: list[str] = msgspec.field(default_factory=list)
    dry_run: bool = False


class DecryptResponse(Response, frozen=True, kw_only=True):
    key_id: str
    plaintext: bytearray
    encryption_algorithm: str
    key_material_id: str


class DecryptRequest(Request[DecryptResponse], frozen=True, kw_only=True):
    ciphertext_blob: bytes
    encryption_context: dict[str, str] = NO_CONTEXT
    key_id: str | None = None
    encryption_algorithm: str = SYMMETRIC_DEFAULT
    grant_tokens: list[str] = msgspec.field(default_factory=list)
    dry_run: bool = False


class ReEncryptResponse(Response, frozen=True, kw_only=True):
    ciphertext_blob: bytes
    source_key_id: str
    key_id: str
    source_encryption_algorithm: str
    destination_encryption_algorithm: str
    source_key_material_id: str
    destination_key_material_id: str


class ReEncryptRequest(Request[ReEncryptResponse], frozen=True, kw_only=True):
    ciphertext_blob: bytes
    source_encryption_context: dict[str, str] = NO_CONTEXT
    source_key_id: str | None = None
    destination_key_id: str
    destination_encryption_context: dict[str, str] = NO_CONTEXT
    source_encryption_algorithm: str = SYMMETRIC_DEFAULT
    destination_encryption_algorithm: str = SYMMETRIC_DEFAULT
    grant_tokens: list[str] = msgspec.field(default_factory=list)
    dry_run: bool = False


DATA_OPERATIONS: Final = MappingProxyType(
    {
        "GenerateRandom": Operation(GenerateRandomRequest, True),
        "GenerateDataKey": Operation(GenerateDataKeyRequest, True),
        "GenerateDataKeyWithoutPlaintext": Operation(
            GenerateDataKeyWithoutPlaintextRequest,
            True,
        ),
        "Encrypt": Operation(EncryptRequest, True),
        "Decrypt": Operation(DecryptRequest, True),
        "ReEncrypt": Operation(ReEncryptRequest, True),
    }
)
