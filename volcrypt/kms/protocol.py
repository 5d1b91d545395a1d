"""Requests and responses of the AWS KMS, by operation: members, limits, texts of refusals. Pure.

A struct is in Python what the operation's shape is on the wire: `key_id` is `KeyId`, blobs are
base64, times are seconds since 1970-01-01 UTC. Plaintext is a bytearray, so that it can be wiped,
and never shown by `repr`. `check_limits` applies the limits of the AWS KMS, with its texts.

`OPERATIONS` is the one list of what the service answers.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Final

import msgspec

from volcrypt.errors import KmsValidationError
from volcrypt.kms.limits import (
    SYMMETRIC_DEFAULT,
    UNSHOWN_MEMBERS,
    Limits,
    camel_case,
    check_members,
)

DATA_KEY_BYTES: Final = MappingProxyType({"AES_128": 16, "AES_256": 32})
NO_CONTEXT: Final[dict[str, str]] = {}
MAX_JSON_BYTES: Final = 2**20
_SECRET_MEMBERS: Final = frozenset({"plaintext"})


class _Message(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """A request or response; shows no secrets."""

    def __repr__(self) -> str:
        members = ", ".join(
            f"{name}={'<redacted>' if name in _SECRET_MEMBERS else repr(getattr(self, name))}"
            for name in self.__struct_fields__
        )
        return f"{type(self).__name__}({members})"

    def __rich_repr__(self) -> list[tuple[str, object]]:
        return [
            (name, "<redacted>" if name in _SECRET_MEMBERS else getattr(self, name))
            for name in self.__struct_fields__
        ]


class Request(_Message, frozen=True, kw_only=True, forbid_unknown_fields=True):
    LIMITS: ClassVar[Mapping[str, Limits]] = MappingProxyType({})
    """Where a member's limits are others than in the rest of the operations."""


class Response(_Message, frozen=True, kw_only=True, omit_defaults=True):
    """A member that is None is absent on the wire."""


class EmptyResponse(Response, frozen=True, kw_only=True):
    """What operations answer that have nothing to say."""


class KeyMetadata(_Message, frozen=True, kw_only=True, omit_defaults=True):
    """What DescribeKey and CreateKey tell of a key."""

    aws_account_id: str = msgspec.field(name="AWSAccountId")
    key_id: str
    arn: str
    creation_date: float
    enabled: bool
    description: str
    key_usage: str
    key_state: str
    origin: str
    key_manager: str
    customer_master_key_spec: str
    key_spec: str
    encryption_algorithms: list[str]
    multi_region: bool
    current_key_material_id: str | None = None


class CreateKeyRequest(Request, frozen=True, kw_only=True):
    LIMITS: ClassVar[Mapping[str, Limits]] = MappingProxyType(
        {"key_spec": Limits(minimum=0, maximum=64)}
    )

    description: str = ""
    key_usage: str = "ENCRYPT_DECRYPT"
    key_spec: str = SYMMETRIC_DEFAULT
    customer_master_key_spec: str = SYMMETRIC_DEFAULT
    origin: str = "AWS_KMS"
    multi_region: bool = False


class CreateKeyResponse(Response, frozen=True, kw_only=True):
    key_metadata: KeyMetadata


class DescribeKeyRequest(Request, frozen=True, kw_only=True):
    key_id: str


class DescribeKeyResponse(Response, frozen=True, kw_only=True):
    key_metadata: KeyMetadata


class PagedRequest(Request, frozen=True, kw_only=True):
    limit: int = 100
    marker: str | None = None


class ListKeysRequest(PagedRequest, frozen=True, kw_only=True):
    pass


class KeyListEntry(_Message, frozen=True, kw_only=True):
    key_id: str
    key_arn: str


class ListKeysResponse(Response, frozen=True, kw_only=True):
    keys: list[KeyListEntry]
    truncated: bool
    next_marker: str | None = None


class EnableKeyRequest(Request, frozen=True, kw_only=True):
    key_id: str


class DisableKeyRequest(Request, frozen=True, kw_only=True):
    key_id: str


class GetKeyPolicyRequest(Request, frozen=True, kw_only=True):
    key_id: str
    policy_name: str = "default"


class GetKeyPolicyResponse(Response, frozen=True, kw_only=True):
    policy: str
    policy_name: str


class CreateAliasRequest(Request, frozen=True, kw_only=True):
    alias_name: str
    target_key_id: str


class UpdateAliasRequest(Request, frozen=True, kw_only=True):
    alias_name: str
    target_key_id: str


class DeleteAliasRequest(Request, frozen=True, kw_only=True):
    alias_name: str


class ListAliasesRequest(PagedRequest, frozen=True, kw_only=True):
    LIMITS: ClassVar[Mapping[str, Limits]] = MappingProxyType(
        {"limit": Limits(minimum=1, maximum=100)}
    )

    key_id: str | None = None
    limit: int = 50


class AliasListEntry(_Message, frozen=True, kw_only=True):
    alias_name: str
    alias_arn: str
    target_key_id: str
    creation_date: float
    last_updated_date: float


class ListAliasesResponse(Response, frozen=True, kw_only=True):
    aliases: list[AliasListEntry]
    truncated: bool
    next_marker: str | None = None


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


@dataclass(frozen=True, slots=True)
class Operation:
    """`method` is the name of the service's method."""

    request: type[Request]
    response: type[Response]
    method: str
    read_only: bool


OPERATIONS: Final = MappingProxyType(
    {
        "CreateKey": Operation(CreateKeyRequest, CreateKeyResponse, "create_key", False),
        "DescribeKey": Operation(DescribeKeyRequest, DescribeKeyResponse, "describe_key", True),
        "ListKeys": Operation(ListKeysRequest, ListKeysResponse, "list_keys", True),
        "EnableKey": Operation(EnableKeyRequest, EmptyResponse, "enable_key", False),
        "DisableKey": Operation(DisableKeyRequest, EmptyResponse, "disable_key", False),
        "GetKeyPolicy": Operation(
            GetKeyPolicyRequest, GetKeyPolicyResponse, "get_key_policy", True
        ),
        "CreateAlias": Operation(CreateAliasRequest, EmptyResponse, "create_alias", False),
        "UpdateAlias": Operation(UpdateAliasRequest, EmptyResponse, "update_alias", False),
        "DeleteAlias": Operation(DeleteAliasRequest, EmptyResponse, "delete_alias", False),
        "ListAliases": Operation(ListAliasesRequest, ListAliasesResponse, "list_aliases", True),
        "GenerateRandom": Operation(
            GenerateRandomRequest, GenerateRandomResponse, "generate_random", True
        ),
        "GenerateDataKey": Operation(
            GenerateDataKeyRequest, GenerateDataKeyResponse, "generate_data_key", True
        ),
        "GenerateDataKeyWithoutPlaintext": Operation(
            GenerateDataKeyWithoutPlaintextRequest,
            GenerateDataKeyWithoutPlaintextResponse,
            "generate_data_key_without_plaintext",
            True,
        ),
        "Encrypt": Operation(EncryptRequest, EncryptResponse, "encrypt", True),
        "Decrypt": Operation(DecryptRequest, DecryptResponse, "decrypt", True),
        "ReEncrypt": Operation(ReEncryptRequest, ReEncryptResponse, "re_encrypt", True),
    }
)

READ_ONLY_OPERATIONS: Final = frozenset(
    name for name, operation in OPERATIONS.items() if operation.read_only
)


def parse_json(data: bytes) -> dict[str, Any]:
    """The JSON object of a request; a key that stands twice in an object is refused, because the
    one who checked it may have seen the other value. Raises KmsValidationError."""
    if len(data) > MAX_JSON_BYTES:
        raise KmsValidationError("the request is too long")
    try:
        value = json.loads(data, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        # Not chained: the cause may quote the text, with plaintext in it.
        raise KmsValidationError(f"the request is not valid JSON: {_reason(error)}") from None
    if not isinstance(value, dict):
        raise KmsValidationError("the request is not a JSON object")
    return value


def _reason(error: Exception) -> str:
    return str(error) if type(error) is ValueError else "it does not parse"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return result


def decode_request(request_type: type[Request], members: Mapping[str, Any]) -> Request:
    """The request from its members as in JSON, blobs in base64. Raises KmsValidationError, which
    names the member and not its value."""
    try:
        return msgspec.convert(members, request_type)
    except msgspec.ValidationError as error:
        raise KmsValidationError(str(error)) from None


def encode_response(response: Response) -> dict[str, Any]:
    """The members as in JSON."""
    result: dict[str, Any] = msgspec.to_builtins(response)
    return result


def check_limits(request: Request) -> None:
    """Raises KmsValidationError with the text of the AWS KMS."""
    check_members(request, request.LIMITS)


def audit_parameters(request: Request) -> dict[str, Any]:
    """The members that the audit log may hold: no plaintext, no blob, nothing that is absent."""
    return {
        camel_case(name): value
        for name in request.__struct_fields__
        if name not in UNSHOWN_MEMBERS
        and (value := getattr(request, name)) is not None
        and not (isinstance(value, dict) and not value)
    }
