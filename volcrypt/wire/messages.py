"""What stands in requests and answers: operations, results and errors as AWS writes them. Pure.

The KMS speaks JSON 1.1: the operation in `X-Amz-Target`, errors as `__type` and `message`. STS, of
which GetCallerIdentity is there, speaks the query protocol: a form in, XML out.
"""

import hashlib
from base64 import b32encode
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final
from urllib.parse import parse_qsl
from xml.sax.saxutils import escape

import msgspec

from volcrypt.errors import (
    IncompleteSignatureError,
    InvalidCiphertextError,
    InvalidSignatureError,
    KmsError,
    KmsInternalError,
    MissingAuthenticationError,
    NotAuthorizedError,
    ThrottlingError,
    UnknownOperationError,
    UnrecognizedClientError,
    VolcryptError,
)
from volcrypt.kms.messages.base import Response
from volcrypt.kms.protocol import ALL_OPERATIONS
from volcrypt.wire.claim import HttpRequest

JSON_TYPE: Final = b"application/x-amz-json-1.1"
XML_TYPE: Final = b"text/xml"
KMS: Final = "kms"
STS: Final = "sts"
GET_CALLER_IDENTITY: Final = "GetCallerIdentity"
_TARGET_PREFIX: Final = "TrentService."
_JSON_TYPES: Final = frozenset(
    {"application/x-amz-json-1.0", "application/x-amz-json-1.1", "application/json"}
)
_FORM_TYPE: Final = "application/x-www-form-urlencoded"
_MAX_FORM_FIELDS: Final = 32
_SILENT: Final = (InvalidCiphertextError, NotAuthorizedError, UnknownOperationError)
"""Errors that AWS gives no text to."""
_FAULT: Final = (
    "The request was rejected because an internal exception occurred. The request can be retried."
)
_FAULTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "KeyUnavailableException": "The request was rejected because the specified KMS key was "
        "not available. You can retry the request.",
    }
)
_STS_NAMESPACE: Final = "https://sts.amazonaws.com/doc/2011-06-15/"
_STS_ERRORS: Final[Mapping[type[KmsError], tuple[str, int]]] = MappingProxyType(
    {
        MissingAuthenticationError: ("MissingAuthenticationToken", 403),
        IncompleteSignatureError: ("IncompleteSignature", 400),
        UnrecognizedClientError: ("InvalidClientTokenId", 403),
        InvalidSignatureError: ("SignatureDoesNotMatch", 403),
        UnknownOperationError: ("InvalidAction", 400),
        ThrottlingError: ("Throttling", 400),
    }
)
_ENCODER: Final = msgspec.json.Encoder()


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What goes back."""

    status: int
    content_type: bytes
    body: bytes
    closes: bool = False
    """Whether the connection ends with it."""


def service_of(request: HttpRequest) -> str:
    """`kms` or `sts`. Raises UnknownOperationError for what is meant for neither."""
    if request.method != "POST" or request.path != "/":
        raise UnknownOperationError("only POST / is served")
    content_type = (request.header("content-type") or "").partition(";")[0].strip().lower()
    if request.header("x-amz-target") is not None and content_type in _JSON_TYPES:
        return KMS
    if request.header("x-amz-target") is None and content_type == _FORM_TYPE:
        return STS
    raise UnknownOperationError("neither a request to the KMS nor to STS")


def kms_operation(request: HttpRequest) -> str:
    """The operation's AWS name. Raises UnknownOperationError for what AWS has not either."""
    target = request.header("x-amz-target") or ""
    operation = target.removeprefix(_TARGET_PREFIX)
    if operation == target or operation not in ALL_OPERATIONS:
        raise UnknownOperationError("no operation of the KMS")
    return operation


def check_sts_action(request: HttpRequest) -> None:
    """Raises UnknownOperationError unless it is GetCallerIdentity."""
    try:
        form = dict(parse_qsl(request.body.decode(), max_num_fields=_MAX_FORM_FIELDS))
    except ValueError:
        form = {}
    if form.get("Action") != GET_CALLER_IDENTITY:
        raise UnknownOperationError("of STS only GetCallerIdentity is served")


def kms_answer(response: Response) -> Answer:
    return Answer(status=200, content_type=JSON_TYPE, body=_ENCODER.encode(response))


def kms_error(error: VolcryptError) -> Answer:
    """An error as the AWS KMS writes it; of a fault of ours only that there is one."""
    code, status = _code_and_status(error)
    members = {"__type": code}
    if status >= 500:
        members["message"] = _FAULTS.get(code, _FAULT)
    elif not isinstance(error, _SILENT):
        members["message"] = str(error).encode(errors="replace").decode()
    return Answer(status=status, content_type=JSON_TYPE, body=_ENCODER.encode(members))


def sts_answer(*, account: str, arn: str, request_id: str) -> Answer:
    """Who the caller is."""
    user_id = "AIDA" + b32encode(hashlib.sha256(arn.encode()).digest()).decode()[:17]
    body = (
        f'<GetCallerIdentityResponse xmlns="{_STS_NAMESPACE}"><GetCallerIdentityResult>'
        f"<Arn>{escape(arn)}</Arn><UserId>{user_id}</UserId><Account>{account}</Account>"
        "</GetCallerIdentityResult><ResponseMetadata>"
        f"<RequestId>{request_id}</RequestId></ResponseMetadata></GetCallerIdentityResponse>"
    )
    return Answer(status=200, content_type=XML_TYPE, body=body.encode())


def sts_error(error: VolcryptError, *, request_id: str) -> Answer:
    code, status = "InternalFailure", 500
    for kind, (name, its_status) in _STS_ERRORS.items():
        if isinstance(error, kind):
            code, status = name, its_status
    text = "" if status >= 500 else str(error).encode(errors="replace").decode()
    text = "".join(c for c in text if c.isprintable())
    who = "Receiver" if status >= 500 else "Sender"
    body = (
        f'<ErrorResponse xmlns="{_STS_NAMESPACE}"><Error><Type>{who}</Type><Code>{code}</Code>'
        f"<Message>{escape(text)}</Message></Error><RequestId>{request_id}</RequestId>"
        "</ErrorResponse>"
    )
    return Answer(status=status, content_type=XML_TYPE, body=body.encode())


def _code_and_status(error: VolcryptError) -> tuple[str, int]:
    if isinstance(error, KmsError):
        return error.code, error.http_status
    return KmsInternalError.code, KmsInternalError.http_status
