"""The AWS KMS protocol: JSON in, requests out, and back. Pure.

`OPERATIONS` is the one list of what the service answers to who speaks the protocol; those on
principals are another service's, and not among them. `check_limits` applies the limits of the
AWS KMS, with its texts.
"""

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import msgspec

from volcrypt.errors import (
    SerializationError,
    UnknownOperationError,
    UnsupportedOperationError,
)
from volcrypt.kms.messages.aliases import ALIAS_OPERATIONS
from volcrypt.kms.messages.base import A, Message, Operation, Request, Response
from volcrypt.kms.messages.data import DATA_OPERATIONS
from volcrypt.kms.messages.deletion import DELETION_OPERATIONS
from volcrypt.kms.messages.grants import GRANT_OPERATIONS
from volcrypt.kms.messages.imports import IMPORT_OPERATIONS
from volcrypt.kms.messages.key_stores import KEY_STORE_OPERATIONS
from volcrypt.kms.messages.keys import KEY_OPERATIONS
from volcrypt.kms.messages.limits import UNSHOWN_MEMBERS, camel_case, check_members
from volcrypt.kms.messages.policies import POLICY_OPERATIONS
from volcrypt.kms.messages.principals import PRINCIPAL_OPERATIONS
from volcrypt.kms.messages.reading import read_request
from volcrypt.kms.messages.rotation import ROTATION_OPERATIONS
from volcrypt.kms.messages.tags import TAG_OPERATIONS
from volcrypt.kms.messages.volume_settings import VOLUME_SETTINGS_OPERATIONS

MAX_JSON_BYTES: Final = 256 * 1024
"""The largest request that the AWS KMS allows, of PutKeyPolicy, has a policy of 128 KiB."""
OPERATIONS: Final = MappingProxyType(
    {
        **KEY_OPERATIONS,
        **ALIAS_OPERATIONS,
        **DATA_OPERATIONS,
        **IMPORT_OPERATIONS,
        **GRANT_OPERATIONS,
        **POLICY_OPERATIONS,
        **TAG_OPERATIONS,
        **ROTATION_OPERATIONS,
        **DELETION_OPERATIONS,
        **KEY_STORE_OPERATIONS,
    }
)
HOME_OPERATIONS: Final = MappingProxyType(
    {**OPERATIONS, **PRINCIPAL_OPERATIONS, **VOLUME_SETTINGS_OPERATIONS}
)
"""What the home itself may ask: those on principals and settings are none of the AWS KMS's."""
_MODEL: Final = """
    CancelKeyDeletion ConnectCustomKeyStore CreateAlias CreateCustomKeyStore CreateGrant CreateKey
    Decapsulate Decrypt DeleteAlias DeleteCustomKeyStore DeleteImportedKeyMaterial
    DeriveSharedSecret DescribeCustomKeyStores DescribeKey DisableKey DisableKeyRotation
    DisconnectCustomKeyStore EnableKey EnableKeyRotation Encapsulate Encrypt GenerateDataKey
    GenerateDataKeyPair GenerateDataKeyPairWithoutPlaintext GenerateDataKeyWithoutPlaintext
    GenerateMac GenerateRandom GetKeyLastUsage GetKeyPolicy GetKeyRotationStatus
    GetParametersForImport GetPublicKey ImportKeyMaterial ListAliases ListGrants ListKeyPolicies
    ListKeyRotations ListKeys ListResourceTags ListRetirableGrants PutKeyPolicy ReEncrypt
    ReplicateKey RetireGrant RevokeGrant RotateKeyOnDemand ScheduleKeyDeletion Sign TagResource
    UntagResource UpdateAlias UpdateCustomKeyStore UpdateKeyDescription UpdatePrimaryRegion Verify
    VerifyMac
"""
ALL_OPERATIONS: Final = frozenset(_MODEL.split())
"""Of the service model of the AWS KMS, whether we do them or not: who asks for one that is not in
`OPERATIONS` is told that it is not supported, not that there is no such operation."""
READ_ONLY_OPERATIONS: Final = frozenset(
    name for name, operation in HOME_OPERATIONS.items() if operation.read_only
)


def parse_json(data: bytes) -> dict[str, Any]:
    """The JSON object of a request; a key that stands twice in an object is refused, because the
    one who checked it may have seen the other value. Raises SerializationError."""
    if len(data) > MAX_JSON_BYTES:
        raise SerializationError("the request is too long")
    try:
        value = json.loads(data, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        # Not chained: the cause may quote the text, with plaintext in it.
        raise SerializationError(f"the request is not valid JSON: {_reason(error)}") from None
    if not isinstance(value, dict):
        raise SerializationError("the request is not a JSON object")
    return value


class _RepeatedKeyError(ValueError):
    """A text of ours; that of any other error is the interpreter's, and no business of a caller."""


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, _RepeatedKeyError) else "it does not parse"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise _RepeatedKeyError("a key stands twice in one object")
    return result


def find_operation(name: str) -> Operation:
    """Raises UnsupportedOperationError for one that the AWS KMS has and volcrypt has not,
    UnknownOperationError for any other name."""
    if name in OPERATIONS:
        return OPERATIONS[name]
    if name in ALL_OPERATIONS:
        raise UnsupportedOperationError(f"the operation {name} is not supported")
    raise UnknownOperationError("there is no operation of that name")


def decode_request(request_type: type[Request[A]], members: Mapping[str, Any]) -> Request[A]:
    """The request from its members as in JSON, blobs in base64.

    Raises UnsupportedOperationError, SerializationError, KmsValidationError; see `reading`.
    """
    return read_request(request_type, members)


def encode_response(response: Response) -> dict[str, Any]:
    """The members as in JSON."""
    result: dict[str, Any] = msgspec.to_builtins(response)
    return result


def check_limits(request: Request[Any]) -> None:
    """Raises KmsValidationError with the text of the AWS KMS."""
    check_members(request)


def audit_parameters(request: Request[Any]) -> dict[str, Any]:
    """The members that the audit log may hold: no plaintext, no blob, nothing that is absent."""
    return _members(request)


def _members(message: Message) -> dict[str, Any]:
    return {
        camel_case(name): _recorded(value)
        for name, value in message.members().items()
        if name not in UNSHOWN_MEMBERS and value is not None and value not in ({}, [])
    }


def _recorded(value: Any) -> Any:
    if isinstance(value, Message):
        return _members(value)
    return [_recorded(entry) for entry in value] if isinstance(value, list) else value


def snake_case(operation: str) -> str:
    """The name of the service's method for an operation: CreateKey is create_key."""
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in operation).lstrip("_")


def operation_of(request_type: type[Request[Any]]) -> str:
    """The operation that a request is for: CreateKeyRequest is for CreateKey."""
    return request_type.__name__.removesuffix("Request")
