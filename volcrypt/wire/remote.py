"""Another KMS: the client of any that speaks AWS's protocol, through botocore.

`RemoteKms.perform` takes the same requests and gives the same responses and errors as the home's
own `KmsService`; the AWS KMS, a daemon of ours on another host and moto's server are alike to it.
Who asks is known to the other side by credentials, which come from where AWS's tools look for them
or from a named profile of theirs; the `Caller` is not sent.

A KMS that cannot be reached is no refusal: that is TryAgainError, and nothing is lost by it.
"""

import logging
import re
import threading
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final, get_args, get_origin

import botocore.exceptions
import botocore.session
import msgspec
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    HTTPClientError,
    InvalidRegionError,
    NoCredentialsError,
    NoRegionError,
    ParamValidationError,
    PartialCredentialsError,
    ProfileNotFound,
    ReadTimeoutError,
)

from volcrypt import errors
from volcrypt.errors import (
    ConfigurationError,
    KmsError,
    KmsInternalError,
    KmsValidationError,
    TryAgainError,
)
from volcrypt.kms.messages.base import A, Request
from volcrypt.kms.model import Caller
from volcrypt.kms.protocol import operation_of, snake_case
from volcrypt.wire.home_client import response_type

# Below that, botocore logs requests and answers whole, with the data keys that are in them.
logging.getLogger("botocore").setLevel(logging.INFO)

CONNECT_SECONDS: Final = 5
READ_SECONDS: Final = 15
ATTEMPTS: Final = 4
_OTHER_TIME: Final = ("Signature expired:", "Signature not yet current:")
"""So AWS's refusal begins when it is the clock; its code is that of every wrong signature."""
_TLS_REASON: Final = re.compile(r"\] (.+) \(_ssl\.c")
_EMPTY: Final = (str, bool, int, float)


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteEndpoint:
    """Where the other KMS is. `url` None is AWS itself; `credentials_profile` None is the default
    of AWS's tools; `ca_bundle` vouches for the server's certificate. With `patience_seconds` there
    are two attempts, and that long for each."""

    region: str
    url: str | None = None
    credentials_profile: str | None = None
    ca_bundle: Path | None = None
    patience_seconds: float | None = None


class RemoteKms:
    """A KMS behind an endpoint, for one account and region. Safe for several threads."""

    def __init__(self, endpoint: RemoteEndpoint) -> None:
        self._endpoint = endpoint
        self._mutex = threading.Lock()
        self._made: Any = None

    def perform(self, _caller: Caller, request: Request[A], /) -> A:
        """Raises KmsError with the other side's reason, TryAgainError when it does not answer, and
        ConfigurationError where credentials or region are missing."""
        operation = operation_of(type(request))
        method = getattr(self._client(), snake_case(operation), None)
        if method is None:
            raise errors.UnsupportedOperationError(f"the operation {operation} is not supported")
        answer = self._answer(method, parameters_of(request))
        return decode_response(answer, response_type(type(request)))

    def _answer(self, method: Any, parameters: dict[str, Any]) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = method(**parameters)
        except ClientError as error:
            raise _refusal(error) from None
        except ParamValidationError as error:
            raise KmsValidationError(" ".join(str(error).split())) from None
        except (NoCredentialsError, PartialCredentialsError) as error:
            raise ConfigurationError(
                f"no credentials for the KMS at {self._place}",
                hint="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or name a profile of AWS's "
                "tools that has them",
            ) from error
        except botocore.exceptions.SSLError as error:
            found = _TLS_REASON.search(str(error))
            reason = found[1] if found is not None else type(error).__name__
            raise TryAgainError(
                f"the KMS at {self._place} does not answer in TLS: {reason}",
                hint="AWS_CA_BUNDLE names a file with the certificate of who signed its own, which "
                "is to be for the name in the URL"
                if "certificate" in reason
                else None,
            ) from error
        except (botocore.exceptions.ConnectionError, HTTPClientError) as error:
            raise TryAgainError(
                f"the KMS at {self._place} does not answer: {self._why(error)}"
            ) from error
        except BotoCoreError as error:
            raise ConfigurationError(f"the KMS at {self._place}: {error}") from error
        answer.pop("ResponseMetadata", None)
        return answer

    def _why(self, error: Exception) -> str:
        """What botocore says has the address once more, and no time."""
        if isinstance(error, ReadTimeoutError):
            return f"nothing came within {self._read_seconds:g} s"
        if isinstance(error, ConnectTimeoutError):
            return f"no connection within {self._connect_seconds:g} s"
        return type(error).__name__

    @property
    def _connect_seconds(self) -> float:
        return min(CONNECT_SECONDS, self._endpoint.patience_seconds or CONNECT_SECONDS)

    @property
    def _read_seconds(self) -> float:
        return self._endpoint.patience_seconds or READ_SECONDS

    def _client(self) -> Any:
        with self._mutex:
            if self._made is None:
                self._made = self._make()
            return self._made

    def _make(self) -> Any:
        endpoint = self._endpoint
        patience = endpoint.patience_seconds
        try:
            session = botocore.session.Session(profile=endpoint.credentials_profile)
            return session.create_client(
                "kms",
                region_name=endpoint.region,
                endpoint_url=endpoint.url,
                verify=None if endpoint.ca_bundle is None else str(endpoint.ca_bundle),
                config=Config(
                    connect_timeout=self._connect_seconds,
                    read_timeout=self._read_seconds,
                    retries={
                        "mode": "standard",
                        "total_max_attempts": ATTEMPTS if patience is None else 2,
                    },
                    user_agent_extra="volcrypt",
                ),
            )
        except (ProfileNotFound, NoRegionError, InvalidRegionError, ValueError) as error:
            raise ConfigurationError(f"the KMS at {self._place}: {error}") from error

    @property
    def _place(self) -> str:
        return self._endpoint.url or f"AWS in {self._endpoint.region}"


def parameters_of(request: Request[Any]) -> dict[str, Any]:
    """The request's members for botocore; what has its default is left to the other side."""
    parameters = {}
    for field in msgspec.structs.fields(type(request)):
        value = getattr(request, field.name)
        if field.required or value != field.default:
            shown = msgspec.to_builtins(value, builtin_types=(bytes, bytearray))
            parameters[field.encode_name] = bytes(shown) if type(shown) is bytearray else shown
    return parameters


def decode_response(members: Mapping[str, Any], wanted: type[A]) -> A:
    """The response from what botocore gives. What the other side does not say (an older KMS, moto)
    is an empty text, a no or zero. Raises KmsInternalError for an answer that makes no sense."""
    try:
        return msgspec.convert(_plain(dict(members), wanted), wanted)
    except (msgspec.ValidationError, UnicodeEncodeError, RecursionError) as error:
        raise KmsInternalError(f"the KMS gave a strange answer: {error}") from None


def _plain(value: Any, wanted: Any) -> Any:
    """botocore's values as JSON has them; `wanted` is the type that they are for."""
    if isinstance(value, bytes | bytearray):
        return b64encode(value).decode()
    if isinstance(value, datetime):
        return value.timestamp()
    if isinstance(value, list):
        inner = next(iter(get_args(_without_none(wanted))), None)
        return [_plain(item, inner) for item in value]
    if not isinstance(value, dict):
        return value
    struct = _without_none(wanted)
    if not (isinstance(struct, type) and issubclass(struct, msgspec.Struct)):
        return {name: _plain(item, None) for name, item in value.items()}
    fields = msgspec.structs.fields(struct)
    missing = {f.encode_name: f.type() for f in fields if f.required and f.type in _EMPTY}
    types = {field.encode_name: field.type for field in fields}
    return missing | {name: _plain(item, types.get(name)) for name, item in value.items()}


def _without_none(wanted: Any) -> Any:
    if get_origin(wanted) in (list, dict):
        return wanted
    parts = [part for part in get_args(wanted) if part is not type(None)]
    return parts[0] if len(parts) == 1 else wanted


def _refusal(error: ClientError) -> KmsError:
    """The error of ours that has the code; an unknown one is a plain KmsError, or a fault when it
    came with a status of 5xx."""
    code = str(error.response.get("Error", {}).get("Code", ""))
    text = str(error.response.get("Error", {}).get("Message", "")) or code
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    kind = _BY_CODE.get(code)
    if kind is errors.InvalidSignatureError and text.startswith(_OTHER_TIME):
        return errors.SignatureTimeError(text)
    if kind is None:
        return KmsInternalError(text) if status >= 500 else KmsError(f"{code}: {text}")
    return kind(text)


def _by_code() -> dict[str, type[KmsError]]:
    found: dict[str, type[KmsError]] = {}
    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(kind, KmsError) and kind is not KmsError:
            found.setdefault(kind.code, kind)
    return found


_BY_CODE: Final = _by_code()
