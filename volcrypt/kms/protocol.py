"""The AWS KMS protocol: JSON in, requests out, and back. Pure.

`OPERATIONS` is the one list of what the service answers. `check_limits` applies the limits of the
AWS KMS, with its texts.
"""

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import msgspec

from volcrypt.errors import KmsValidationError
from volcrypt.kms.messages.aliases import ALIAS_OPERATIONS
from volcrypt.kms.messages.base import A, Request, Response
from volcrypt.kms.messages.data import DATA_OPERATIONS
from volcrypt.kms.messages.imports import IMPORT_OPERATIONS
from volcrypt.kms.messages.key_stores import KEY_STORE_OPERATIONS
from volcrypt.kms.messages.keys import KEY_OPERATIONS
from volcrypt.kms.messages.limits import UNSHOWN_MEMBERS, camel_case, check_members

MAX_JSON_BYTES: Final = 2**20
OPERATIONS: Final = MappingProxyType(
    {
        **KEY_OPERATIONS,
        **ALIAS_OPERATIONS,
        **DATA_OPERATIONS,
        **IMPORT_OPERATIONS,
        **KEY_STORE_OPERATIONS,
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


def decode_request(request_type: type[Request[A]], members: Mapping[str, Any]) -> Request[A]:
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


def check_limits(request: Request[Any]) -> None:
    """Raises KmsValidationError with the text of the AWS KMS."""
    check_members(request, request.LIMITS)


def audit_parameters(request: Request[Any]) -> dict[str, Any]:
    """The members that the audit log may hold: no plaintext, no blob, nothing that is absent."""
    return {
        camel_case(name): value
        for name in request.__struct_fields__
        if name not in UNSHOWN_MEMBERS
        and (value := getattr(request, name)) is not None
        and not (isinstance(value, dict) and not value)
    }


def snake_case(operation: str) -> str:
    """The name of the service's method for an operation: CreateKey is create_key."""
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in operation).lstrip("_")


def operation_of(request_type: type[Request[Any]]) -> str:
    """The operation that a request is for: CreateKeyRequest is for CreateKey."""
    return request_type.__name__.removesuffix("Request")
