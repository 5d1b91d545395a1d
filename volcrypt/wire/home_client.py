"""The KMS of a home as its other processes see it while `kms serve` holds it.

The same methods as `KmsService` and its register, with the same errors, through the socket that
`home_socket` serves. Blocking; for several threads, which take turns.
"""

import os
import socket
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, TypeVar, cast, get_args

import msgspec

from volcrypt.errors import TryAgainError
from volcrypt.formats.audit_record import AuditHead
from volcrypt.kms.messages.base import NO_CONTEXT, A, Request
from volcrypt.kms.model import Caller, VolumeSettings
from volcrypt.kms.protocol import operation_of
from volcrypt.kms.register import RegisterEntry
from volcrypt.wire.home_messages import (
    Arguments,
    AuditHeadArguments,
    AuthoriseArguments,
    DeriveHomeKeyArguments,
    HasPrincipalArguments,
    MaintainArguments,
    PerformArguments,
    RegisterApplyArguments,
    RegisterEntriesArguments,
    RegisterFindArguments,
    RegisterGetArguments,
    VolumeSettingsArguments,
    decode_reply,
    encode_call,
    error_of,
)

T = TypeVar("T")
PATIENCE_SECONDS: Final = 120.0
_HINT: Final = (
    "'systemctl status volcrypt-kms' says why it ended; start the process that serves it, as with "
    "'systemctl start volcrypt-kms'"
)
_PIECE_BYTES: Final = 2**16
_ENCODER: Final = msgspec.json.Encoder()
_NOTHING: Final[dict[tuple[str, str], int | None]] = {}


class HomeChannel:
    """One connection to the daemon, made at the first call."""

    def __init__(self, path: Path, *, patience_seconds: float = PATIENCE_SECONDS) -> None:
        self._path = path
        self._patience_seconds = patience_seconds
        self._mutex = threading.Lock()
        self._socket: socket.socket | None = None

    def close(self) -> None:
        with self._mutex:
            self._drop()

    def call(self, arguments: Arguments, result_type: type[T]) -> T:
        """Raises what the daemon raised, and TryAgainError when it does not answer."""
        with self._mutex:
            try:
                line = self._exchange(encode_call(arguments))
            except BaseException:
                self._drop()  # a late answer must not be taken for that of the next call
                raise
        try:
            reply = decode_reply(line)
            if reply.error is not None:
                raise error_of(reply.error)
            return msgspec.json.decode(reply.result, type=result_type)
        finally:
            line[:] = bytes(len(line))  # it may hold a plaintext key

    def _exchange(self, line: bytes) -> bytearray:
        try:
            if self._socket is None:
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                self._socket.settimeout(self._patience_seconds)
                self._socket.connect(os.fspath(self._path))
            self._socket.sendall(line)
            answer = bytearray()
            while not answer.endswith(b"\n"):
                piece = self._socket.recv(_PIECE_BYTES)
                if not piece:
                    raise TryAgainError(f"the KMS of the home closed {self._path}", hint=_HINT)
                answer += piece
            return answer
        except OSError as error:
            raise TryAgainError(
                f"the KMS of the home does not answer on {self._path}: {error.strerror or error}",
                hint=_HINT,
            ) from error

    def _drop(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class HomeClient:
    """`KmsService` for one account and region."""

    def __init__(self, channel: HomeChannel, *, account: str, region: str) -> None:
        self._channel = channel
        self._account = account
        self._region = region
        self.register = RegisterClient(channel)

    def close(self) -> None:
        self._channel.close()

    def scope(self, account: str, region: str) -> "HomeClient":
        """The same KMS for another account or region."""
        return HomeClient(self._channel, account=account, region=region)

    def perform(self, caller: Caller, request: Request[A]) -> A:
        """Carry out a request. Raises KmsError, and TryAgainError when the daemon is not there."""
        arguments = PerformArguments(
            account=self._account,
            region=self._region,
            caller=caller,
            operation=operation_of(type(request)),
            request=msgspec.Raw(_ENCODER.encode(request)),
        )
        return self._channel.call(arguments, response_type(type(request)))

    def derive_home_key(self, info: bytes) -> bytearray:
        return self._channel.call(DeriveHomeKeyArguments(info=info), bytearray)

    def audit_head(self) -> AuditHead:
        return self._channel.call(AuditHeadArguments(), AuditHead)

    def has_principal(self, arn: str) -> bool:
        return self._channel.call(HasPrincipalArguments(arn=arn), bool)

    def authorise(
        self,
        caller: Caller,
        action: str,
        *,
        key_arn: str | None = None,
        context: Mapping[str, str] = NO_CONTEXT,
    ) -> None:
        """Raises AccessDeniedError."""
        arguments = AuthoriseArguments(
            account=self._account,
            region=self._region,
            caller=caller,
            action=action,
            key_arn=key_arn,
            context=dict(context),
        )
        self._channel.call(arguments, type(None))

    def volume_settings(self, account: str, region: str) -> VolumeSettings:
        arguments = VolumeSettingsArguments(account=account, region=region)
        return self._channel.call(arguments, VolumeSettings)

    def maintain(self) -> None:
        self._channel.call(MaintainArguments(), type(None))


class RegisterClient:
    """`kms.register.Register`."""

    def __init__(self, channel: HomeChannel) -> None:
        self._channel = channel

    def get(self, kind: str, id: str) -> RegisterEntry | None:  # noqa: A002 the contract's word
        return self._entry(RegisterGetArguments(kind=kind, id=id))

    def find(self, kind: str, name: str) -> RegisterEntry | None:
        return self._entry(RegisterFindArguments(kind=kind, name=name))

    def entries(self, kind: str) -> list[RegisterEntry]:
        return self._channel.call(RegisterEntriesArguments(kind=kind), list[RegisterEntry])

    def apply(
        self,
        *,
        put: Sequence[RegisterEntry] = (),
        delete: Sequence[tuple[str, str]] = (),
        expect: Mapping[tuple[str, str], int | None] = _NOTHING,
    ) -> None:
        arguments = RegisterApplyArguments(
            put=list(put),
            delete=list(delete),
            expect=[(kind, id_, counter) for (kind, id_), counter in expect.items()],
        )
        self._channel.call(arguments, type(None))

    def _entry(self, arguments: Arguments) -> RegisterEntry | None:
        wanted = cast(type[RegisterEntry | None], RegisterEntry | None)
        return self._channel.call(arguments, wanted)


def response_type(request_type: type[Request[A]]) -> type[A]:
    """What answers a request: the argument of its base class."""
    for base in vars(request_type).get("__orig_bases__", ()):
        for argument in get_args(base):
            return cast(type[A], argument)
    raise AssertionError(f"internal error: {request_type.__name__} does not say its answer")
