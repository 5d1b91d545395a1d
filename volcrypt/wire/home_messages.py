"""What goes through the socket of a home: one line of JSON each way for every call.

    {"call": NAME, "arguments": {...}}          blobs in base64, members as the call's struct says
    {"result": ...}  or  {"error": {"class": ..., "message": ..., "hint": ..., "fields": {...}}}

Errors come out as the classes of `errors` that went in, with text, hint and fields.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import msgspec

from volcrypt import errors
from volcrypt.errors import VolcryptError
from volcrypt.kms.model import Caller
from volcrypt.kms.register import RegisterEntry

MAX_LINE_BYTES: Final = 64 * 2**20
"""Long enough for the register of a home with 100,000 volumes."""
SOCKET_NAME: Final = "kms.sock"


class Arguments(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of one call; the classes below are named after it in `CALLS`."""


class PerformArguments(Arguments, frozen=True, kw_only=True):
    """`request` are the members as in AWS's JSON."""

    account: str
    region: str
    caller: Caller
    operation: str
    request: msgspec.Raw


class RegisterGetArguments(Arguments, frozen=True, kw_only=True):
    kind: str
    id: str


class RegisterFindArguments(Arguments, frozen=True, kw_only=True):
    kind: str
    name: str


class RegisterEntriesArguments(Arguments, frozen=True, kw_only=True):
    kind: str


class RegisterApplyArguments(Arguments, frozen=True, kw_only=True):
    """`delete` are (kind, id), `expect` (kind, id, counter or None)."""

    put: list[RegisterEntry]
    delete: list[tuple[str, str]]
    expect: list[tuple[str, str, int | None]]


class DeriveHomeKeyArguments(Arguments, frozen=True, kw_only=True):
    info: bytes


class HasPrincipalArguments(Arguments, frozen=True, kw_only=True):
    arn: str


class AuthoriseArguments(Arguments, frozen=True, kw_only=True):
    account: str
    region: str
    caller: Caller
    action: str
    key_arn: str | None = None
    context: dict[str, str] = {}


class AuditHeadArguments(Arguments, frozen=True, kw_only=True):
    """None."""


class VolumeSettingsArguments(Arguments, frozen=True, kw_only=True):
    account: str
    region: str


class MaintainArguments(Arguments, frozen=True, kw_only=True):
    """None."""


CALLS: Final[Mapping[str, type[Arguments]]] = MappingProxyType(
    {
        "perform": PerformArguments,
        "register_get": RegisterGetArguments,
        "register_find": RegisterFindArguments,
        "register_entries": RegisterEntriesArguments,
        "register_apply": RegisterApplyArguments,
        "derive_home_key": DeriveHomeKeyArguments,
        "has_principal": HasPrincipalArguments,
        "authorise": AuthoriseArguments,
        "audit_head": AuditHeadArguments,
        "volume_settings": VolumeSettingsArguments,
        "maintain": MaintainArguments,
    }
)
_NAMES: Final = MappingProxyType({arguments: name for name, arguments in CALLS.items()})


class _CallLine(msgspec.Struct, frozen=True, kw_only=True):
    call: str
    arguments: msgspec.Raw


class _ErrorLine(msgspec.Struct, frozen=True, kw_only=True):
    """`fields` are the attributes of the error that are plain values."""

    kind: str = msgspec.field(name="class")
    message: str
    hint: str | None = None
    fields: dict[str, str | int | float | bool | None] = {}


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """Either of them."""

    result: msgspec.Raw = msgspec.Raw(b"null")
    error: _ErrorLine | None = None


_ENCODER: Final = msgspec.json.Encoder()
_CALL_DECODER: Final = msgspec.json.Decoder(_CallLine)
_REPLY_DECODER: Final = msgspec.json.Decoder(Reply)


def encode_call(arguments: Arguments) -> bytes:
    """The line, with its end."""
    return _ENCODER.encode({"call": _NAMES[type(arguments)], "arguments": arguments}) + b"\n"


def decode_call(line: bytes) -> Arguments:
    """Raises MalformedError."""
    try:
        parsed = _CALL_DECODER.decode(line)
        return msgspec.json.decode(parsed.arguments, type=CALLS[parsed.call])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, KeyError):
        raise errors.MalformedError("call to the KMS of the home", "it does not parse") from None


def encode_result(result: Any) -> bytes:
    return b'{"result":' + _ENCODER.encode(result) + b"}\n"


def encode_error(error: VolcryptError) -> bytes:
    fields = {
        name: value
        for name, value in vars(error).items()
        if name != "hint" and isinstance(value, str | int | float | bool | None)
    }
    line = _ErrorLine(
        kind=type(error).__name__,
        message=str(error).encode(errors="replace").decode(),
        hint=error.hint,
        fields=fields,
    )
    return _ENCODER.encode({"error": line}) + b"\n"


def decode_reply(line: bytes | bytearray) -> Reply:
    """Raises MalformedError."""
    try:
        return _REPLY_DECODER.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise errors.MalformedError("answer of the KMS of the home", "it does not parse") from None


def error_of(line: _ErrorLine) -> VolcryptError:
    """The error that a reply carries; one of a class that this release lacks is a plain one."""
    found = getattr(errors, line.kind, VolcryptError)
    if not (isinstance(found, type) and issubclass(found, VolcryptError)):
        found = VolcryptError
    # Not through __init__: each class makes its message from other arguments.
    error = found.__new__(found)
    Exception.__init__(error, line.message)
    for name, value in line.fields.items():
        setattr(error, name, value)
    error.hint = line.hint
    return error
