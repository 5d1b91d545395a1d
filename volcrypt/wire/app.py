"""What becomes of an HTTP request: an ASGI application. Knows no sockets.

    who        authenticate (credentials), with a limit for those who fail (flood)
    what       operation and members; what cannot be read is recorded as a refusal
    do         one turn of the engine
    answer     as AWS writes it, with the request id that the audit log has

A request that does not say truly who it is from is counted, not recorded: see `flood`.
"""

import json
import os
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, replace
from typing import Any, Final

from volcrypt.errors import (
    IncompleteSignatureError,
    InvalidSignatureError,
    KmsError,
    KmsInternalError,
    MissingAuthenticationError,
    ThrottlingError,
    UnknownOperationError,
    UnrecognizedClientError,
    UnsupportedOperationError,
    VolcryptError,
)
from volcrypt.kms.messages.base import Request
from volcrypt.kms.protocol import MAX_JSON_BYTES, OPERATIONS, decode_request, parse_json
from volcrypt.kms.service import Call, KmsService, Refusal
from volcrypt.wire.claim import Claim, HttpRequest, check_is_signed
from volcrypt.wire.credentials import Credentials, Known, caller_of
from volcrypt.wire.engine import Checked, Engine
from volcrypt.wire.flood import FloodGuard
from volcrypt.wire.messages import (
    JSON_TYPE,
    KMS,
    STS,
    Answer,
    check_sts_action,
    kms_answer,
    kms_error,
    kms_operation,
    service_of,
    sts_answer,
    sts_error,
)

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_LOCAL: Final = "localhost"
_OF_NOBODY: Final = (
    MissingAuthenticationError,
    IncompleteSignatureError,
    UnrecognizedClientError,
    InvalidSignatureError,
    UnknownOperationError,
)
TOO_LARGE: Final = "RequestEntityTooLargeException"
ON_AUTHENTICATED: Final = "on_authenticated"
"""What the server may put into a request's `state`: called once it is known who it is from."""
SHARED_BODY_BYTES: Final = 64 * 2**20
_FREE_BODY_BYTES: Final = 16 * 1024
"""Taken from no one's share: hardly a request is larger, and who fills the share with large ones
that never end keeps out no small ones."""


class BodyBudget:
    """What the bodies of all connections may hold in memory together."""

    def __init__(self, limit: int = SHARED_BODY_BYTES) -> None:
        self._left = limit

    def take(self, size: int) -> bool:
        """Whether there was so much."""
        if size > self._left:
            return False
        self._left -= size
        return True

    def give_back(self, size: int) -> None:
        self._left += size


class RequestIds:
    """Random UUIDs (RFC 9562, version 4), drawn in bulk: each call of the system lets go of the
    interpreter lock, and getting it back costs more than the digits."""

    _COUNT: Final = 256

    def __init__(self) -> None:
        self._left: list[str] = []

    def next(self) -> str:
        if not self._left:
            digits = os.urandom(16 * self._COUNT).hex()
            self._left = [digits[at : at + 32] for at in range(0, len(digits), 32)]
        text = self._left.pop()
        variant = "89ab"[int(text[16], 16) & 3]
        return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-{variant}{text[17:20]}-{text[20:]}"


@dataclass(frozen=True, slots=True)
class _Sender:
    """Where a request came from; `on_authenticated` is called once it is known who it is from."""

    address: str
    on_authenticated: Callable[[], object]


class KmsApp:
    """The ASGI application."""

    def __init__(
        self,
        service: KmsService,
        engine: Engine,
        credentials: Credentials,
        guard: FloodGuard,
        *,
        report: Callable[[BaseException], None],
        monotonic: Callable[[], float],
        budget: BodyBudget | None = None,
    ) -> None:
        self._service = service
        self._engine = engine
        self._credentials = credentials
        self._guard = guard
        self._report = report
        self._monotonic = monotonic
        self._budget = budget or BodyBudget()
        self._ids = RequestIds()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http", "internal error: only HTTP is served"
        request_id = self._ids.next()
        address = scope["client"][0] if scope.get("client") else _LOCAL
        sender = _Sender(address, scope.get("state", {}).get(ON_AUTHENTICATED, lambda: None))
        head = _request(scope, b"")
        answer = self._refuse_head(head, request_id, address)
        if answer is None:
            body = _Body(self._budget)
            try:
                answer = await self._read_and_answer(head, body, receive, request_id, sender)
            finally:
                body.give_back()
        if answer is None:
            return  # the client is gone, and nothing was begun
        headers = [
            (b"x-amzn-requestid", request_id.encode()),
            (b"content-type", answer.content_type),
            (b"content-length", str(len(answer.body)).encode()),
        ]
        if answer.closes:
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body})

    def _refuse_head(self, head: HttpRequest, request_id: str, address: str) -> Answer | None:
        """The answer to what no body could make a request of somebody."""
        service = KMS
        try:
            service = service_of(head)
            if service == KMS:
                kms_operation(head)
            check_is_signed(head)
        except _OF_NOBODY as error:
            return self._refuse_nobody(error, service, request_id, address)
        return None

    async def _read_and_answer(
        self, head: HttpRequest, body: "_Body", receive: Receive, request_id: str, sender: _Sender
    ) -> Answer | None:
        try:
            if not await body.read(receive):
                return None
        except ThrottlingError as error:
            return replace(_error(error, service_of(head), request_id), status=503)
        if len(body.data) > MAX_JSON_BYTES:
            self._guard.note_failure(sender.address, TOO_LARGE, self._monotonic())
            return too_large()
        return await self._answer(replace(head, body=bytes(body.data)), request_id, sender)

    async def _answer(self, request: HttpRequest, request_id: str, sender: _Sender) -> Answer:
        service = KMS
        try:
            service = service_of(request)
            if service == STS:
                return await self._identify(request, request_id, sender)
            return await self._perform(request, request_id, sender)
        except _OF_NOBODY as error:
            return self._refuse_nobody(error, service, request_id, sender.address)
        except VolcryptError as error:
            return _error(error, service, request_id)
        except Exception as error:
            self._report(error)
            return _error(KmsInternalError("internal error"), service, request_id)

    async def _perform(self, request: HttpRequest, request_id: str, sender: _Sender) -> Answer:
        operation = kms_operation(request)
        known, claim = await self._authenticate(request, KMS, sender)
        caller = caller_of(known.access_key, request, address=sender.address)
        service = self._service.scope(caller.account, claim.region)
        call = Call(
            service=service,
            caller=caller,
            request=_decoded(operation, request.body),
            request_id=request_id,
        )
        checked = Checked(call, self._credentials.check_current, known)
        try:
            return kms_answer(await self._engine.perform(checked))
        except UnrecognizedClientError:
            self._credentials.forget(claim)
            raise

    async def _identify(self, request: HttpRequest, request_id: str, sender: _Sender) -> Answer:
        check_sts_action(request)
        known, claim = await self._authenticate(request, STS, sender)
        try:
            await self._engine.submit(lambda: self._credentials.check_current(known))
        except UnrecognizedClientError:
            self._credentials.forget(claim)
            raise
        access_key = known.access_key
        return sts_answer(
            account=access_key.account, arn=access_key.principal, request_id=request_id
        )

    async def _authenticate(
        self, request: HttpRequest, service: str, sender: _Sender
    ) -> tuple[Known, Claim]:
        authenticated = await self._credentials.authenticate(
            request,
            service=service,
            may_look_up=lambda: self._guard.is_open(sender.address, self._monotonic()),
        )
        sender.on_authenticated()
        return authenticated

    def _refuse_nobody(
        self, error: KmsError, service: str, request_id: str, address: str
    ) -> Answer:
        """Counted; who fails too often is told to wait, and loses the connection."""
        if self._guard.note_failure(address, error.code, self._monotonic()):
            return _error(error, service, request_id)
        return replace(_error(ThrottlingError("Rate exceeded"), service, request_id), closes=True)


def too_large() -> Answer:
    """For a body of more than `MAX_JSON_BYTES`."""
    body = json.dumps({"__type": TOO_LARGE, "message": "The request is too large."}).encode()
    return Answer(status=413, content_type=JSON_TYPE, body=body, closes=True)


def _error(error: VolcryptError, service: str, request_id: str) -> Answer:
    return sts_error(error, request_id=request_id) if service == STS else kms_error(error)


def _decoded(operation: str, body: bytes) -> Request[Any] | Refusal:
    """The request, or why it cannot be read."""
    try:
        if operation not in OPERATIONS:
            raise UnsupportedOperationError(f"the operation {operation} is not supported")
        return decode_request(OPERATIONS[operation].request, parse_json(body))
    except KmsError as error:
        return Refusal(operation=operation, error=error)


class _Body:
    """The body of one request, and its share of the budget."""

    def __init__(self, budget: BodyBudget) -> None:
        self.data = bytearray()
        self._budget = budget
        self._taken = 0

    async def read(self, receive: Receive) -> bool:
        """The whole body, or somewhat more than the limit; False when the client went away first.
        Raises ThrottlingError when the budget is used up."""
        more = True
        while more and len(self.data) <= MAX_JSON_BYTES:
            message = await receive()
            if message["type"] == "http.disconnect":
                return False
            part: bytes = message.get("body", b"")
            self._take(len(self.data) + len(part) - _FREE_BODY_BYTES)
            self.data += part
            more = message.get("more_body", False)
        return True

    def give_back(self) -> None:
        self._budget.give_back(self._taken)
        self._taken = 0

    def _take(self, size: int) -> None:
        wanted = max(size - self._taken, 0)
        if not self._budget.take(wanted):
            raise ThrottlingError("Rate exceeded")
        self._taken += wanted


def _request(scope: Message, body: bytes) -> HttpRequest:
    raw_path: bytes = scope["raw_path"]
    query: bytes = scope["query_string"]
    return HttpRequest(
        method=scope["method"],
        path=raw_path.decode("latin-1"),
        query=query.decode("latin-1"),
        headers=[
            (name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]
        ],
        body=body,
        is_secure=scope.get("scheme") == "https" or not scope.get("client"),
    )
