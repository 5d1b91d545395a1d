"""Requests from JSON: which error a request gets that does not fit its type. Pure.

msgspec reads what fits, fast. What does not fit is read once more, slowly, member by member, to
answer as the AWS KMS does:

    a member that we do not know      UnsupportedOperationException; never ignored, since the caller
                                      believes that it counts
    another JSON type                 SerializationException
    a required member that is absent  ValidationException, together with all broken limits

null is an absent member. No text shows a value.
"""

import binascii
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, get_args, get_origin

import msgspec

from volcrypt.errors import SerializationError, UnsupportedOperationError
from volcrypt.kms.messages.base import A, Message, Request
from volcrypt.kms.messages.limits import Limits, camel_case, check_members

_TARGETS: Final = {
    str: "a String",
    int: "an Integer",
    float: "a Timestamp",
    bool: "a Boolean",
    bytes: "a Blob",
    bytearray: "a Blob",
}
_ACCEPTED: Final[dict[type, tuple[type, ...]]] = {
    str: (str,),
    int: (int,),
    float: (int, float),
    bool: (bool,),
    bytes: (str,),
    bytearray: (str,),
}


@dataclass(frozen=True, slots=True)
class _Draft:
    """A message whose members are read, and perhaps not all there."""

    kind: type[Message]
    found: dict[str, Any]

    def own_limits(self) -> Mapping[str, Limits]:
        return self.kind.LIMITS

    def members(self) -> Mapping[str, Any]:
        return {name: self.found.get(name) for name in self.kind.__struct_fields__}

    def missing_members(self) -> frozenset[str]:
        fields = msgspec.structs.fields(self.kind)
        return frozenset(f.name for f in fields if f.required and f.name not in self.found)

    def complete(self) -> Message:
        return self.kind(**{name: _completed(value) for name, value in self.found.items()})


def read_request(request_type: type[Request[A]], members: Mapping[str, Any]) -> Request[A]:
    """The request from its members as in JSON, blobs in base64.

    Raises UnsupportedOperationError, SerializationError and KmsValidationError.
    """
    try:
        return msgspec.convert(members, request_type)
    except (msgspec.ValidationError, UnicodeEncodeError):  # half a surrogate pair in a name
        pass
    draft = _read_message(request_type, members)
    check_members(draft)
    request = draft.complete()
    assert isinstance(request, request_type), "internal error: another request"
    return request


def _completed(value: Any) -> Any:
    if isinstance(value, list):
        return [_completed(element) for element in value]
    return value.complete() if isinstance(value, _Draft) else value


def _read_message(kind: type[Message], members: Mapping[str, Any]) -> _Draft:
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    for name, value in members.items():
        if name not in fields and value is not None:
            raise UnsupportedOperationError(f"the member {_name(name)} is not supported")
    return _Draft(
        kind,
        {
            field.name: _read(field.type, members[wire_name], camel_case(field.name))
            for wire_name, field in fields.items()
            if members.get(wire_name) is not None
        },
    )


def _name(name: str) -> str:
    return name if name.isascii() and name.isidentifier() and len(name) <= 64 else "of that name"


def _read(kind: Any, value: Any, where: str) -> Any:
    """The value of a member of that type. Raises SerializationError."""
    kind = _without_none(kind)
    origin = get_origin(kind)
    if origin is dict:
        if not isinstance(value, dict):
            raise SerializationError(f"Expected map or null at '{where}'")
        key_kind, value_kind = get_args(kind)
        return {_read(key_kind, k, where): _read(value_kind, v, where) for k, v in value.items()}
    if origin is list:
        if not isinstance(value, list):
            raise SerializationError(f"Expected list or null at '{where}'")
        (element_kind,) = get_args(kind)
        return [_read(element_kind, element, where) for element in value]
    if isinstance(kind, type) and issubclass(kind, Message):
        if not isinstance(value, dict):
            raise SerializationError(f"Expected structure or null at '{where}'")
        return _read_message(kind, value)
    return _read_scalar(kind, value, where)


def _read_scalar(kind: type, value: Any, where: str) -> Any:
    if not isinstance(value, _ACCEPTED[kind]) or (isinstance(value, bool) and kind is not bool):
        if isinstance(value, dict | list):
            raise SerializationError("Start of structure or map found where not expected.")
        raise SerializationError(f"{_token(value)} can not be converted to {_TARGETS[kind]}")
    if kind is bytes or kind is bytearray:
        try:
            return kind(b64decode(str(value), validate=True))
        except (binascii.Error, ValueError):
            raise SerializationError(f"'{where}' can not be converted to a Blob") from None
    return value


def _token(value: Any) -> str:
    """What a JSON value is called."""
    if value is None:
        return "NULL_VALUE"
    if isinstance(value, bool):
        return "TRUE_VALUE" if value else "FALSE_VALUE"
    return "STRING_VALUE" if isinstance(value, str) else "NUMBER_VALUE"


def _without_none(kind: Any) -> Any:
    parts = [part for part in get_args(kind) if part is not type(None)]
    if get_origin(kind) not in (list, dict) and len(parts) == 1:
        return parts[0]
    return kind
