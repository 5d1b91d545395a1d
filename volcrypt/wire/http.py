"""What one HTTP connection may do: uvicorn's protocol with limits on size, time and number.

uvicorn bounds neither headers nor bodies, and waits for ever for a request that was begun. Here:

- what a request has besides its body (headers, the framing of chunks) is bounded, and so is what is
  pipelined behind it; a body that says that it is too large is refused before it is read, one that
  turns out to be while it is;
- trailers are refused: what comes after the body would count as headers that nobody has checked;
- a request must be there in full, and its answer be taken, within `REQUEST_SECONDS`: a sweep now
  and then closes what has waited longer, which costs a request nothing;
- beyond `MAX_CONNECTIONS` the oldest connection that never had a request of somebody makes room for
  a new one; only when there is none, the new one is told so and closed.

What is refused here is counted as a request of nobody, and never logged.
"""

import asyncio
import itertools
import logging
import time
from collections.abc import Callable
from email.utils import formatdate
from typing import Any, Final
from uuid import uuid4

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from volcrypt.kms.protocol import MAX_JSON_BYTES
from volcrypt.wire.app import ON_AUTHENTICATED, TOO_LARGE, too_large

MAX_HEADER_BYTES: Final = 32 * 1024
MAX_CONNECTIONS: Final = 1024
MAX_PIPELINED: Final = 16
REQUEST_SECONDS: Final = 20.0
KEEP_ALIVE_SECONDS: Final = 75
_LINGER_SECONDS: Final = 1.0
_FED_BYTES: Final = 4096
"""The parser does not say where in its input a request begins: a request may be charged with this
much of the one before it."""
_SERIALS: Final = itertools.count()  # the clock of the loop does not tell apart what comes at once
_NO_BODY: Final = b"content-length: 0\r\nconnection: close\r\n\r\n"
_HEADERS_TOO_LARGE: Final = b"HTTP/1.1 431 Request Header Fields Too Large\r\n" + _NO_BODY
_BAD_REQUEST: Final = b"HTTP/1.1 400 Bad Request\r\n" + _NO_BODY
_TOO_MANY: Final = b"HTTP/1.1 503 Service Unavailable\r\n" + _NO_BODY
_BODY_TOO_LARGE: Final = (
    b"HTTP/1.1 413 Request Entity Too Large\r\nx-amzn-requestid: %s\r\ncontent-type: %s\r\n"
    b"content-length: %d\r\nconnection: close\r\n\r\n%s"
)

Count = Callable[[str, str], None]
"""Counts a request of nobody: (address, error code)."""


class BoundedProtocol(HttpToolsProtocol):
    """One connection."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        *,
        count: Count,
        loop: asyncio.AbstractEventLoop,
        max_connections: int = MAX_CONNECTIONS,
        request_seconds: float = REQUEST_SECONDS,
    ) -> None:
        super().__init__(config, server_state, {}, _loop=loop)
        self._count = count
        self._max_connections = max_connections
        self._request_seconds = request_seconds
        self._waits_since: float | None = loop.time()
        self._is_in_message = False
        self._is_in_headers = True
        self._overhead_bytes = 0
        self._body_bytes_fed = 0
        self._is_refused = False
        self._is_evicted = False
        self._is_of_somebody = False
        self.serial = 0
        self._has_cycle = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        super().connection_made(transport)
        self.serial = next(_SERIALS)
        if len(self.connections) > self._max_connections and not self._make_room():
            self._refuse("TooManyConnections", _TOO_MANY)

    def data_received(self, data: bytes) -> None:
        if self._waits_since is None and not self._is_answering():
            self._waits_since = self.loop.time()
        for start in range(0, len(data), _FED_BYTES):
            self._feed(data[start : start + _FED_BYTES])

    def _feed(self, data: bytes) -> None:
        if self._is_refused:
            return  # read, so that the other side gets to read its answer
        self._body_bytes_fed = 0
        super().data_received(data)
        self._overhead_bytes += len(data) - self._body_bytes_fed
        if self._overhead_bytes > MAX_HEADER_BYTES:
            self._refuse("RequestHeaderFieldsTooLarge", _HEADERS_TOO_LARGE)

    def on_message_begin(self) -> None:
        self._is_in_message = self._is_in_headers = True
        self._overhead_bytes = 0
        super().on_message_begin()
        self.scope["state"][ON_AUTHENTICATED] = self._note_authenticated

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._is_refused:
            return
        if self._is_in_headers:
            super().on_header(name, value)
        else:
            self._refuse("TrailersNotSupported", _BAD_REQUEST)

    def on_headers_complete(self) -> None:
        if self._is_refused:
            return
        self._is_in_headers = False
        if self._stated_length() > MAX_JSON_BYTES:
            answer = too_large()
            values = (answer.content_type, len(answer.body), answer.body)
            self._refuse(TOO_LARGE, _BODY_TOO_LARGE % (str(uuid4()).encode(), *values))
        elif len(self.pipeline) >= MAX_PIPELINED:
            self._refuse("TooManyPipelinedRequests", _BAD_REQUEST)
        else:
            super().on_headers_complete()
            self._has_cycle = True

    def on_body(self, body: bytes) -> None:
        self._body_bytes_fed += len(body)
        if not self._is_refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._is_in_message = False
        self._waits_since = None
        if not self._is_refused:
            super().on_message_complete()

    def on_response_complete(self) -> None:
        if self._is_in_message:  # the next one was begun while this one was answered
            self._waits_since = self.loop.time()
        super().on_response_complete()

    def resume_writing(self) -> None:
        if not self._is_in_message:
            self._waits_since = None
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """uvicorn's answer to what is no HTTP."""
        self._refuse("MalformedRequest", _BAD_REQUEST)

    def sweep(self, now: float) -> None:
        """Close the connection if it has kept us waiting for too long."""
        if self._waits_since is None and self.flow.write_paused:
            self._waits_since = now
        if self._waits_since is not None and now - self._waits_since > self._request_seconds:
            if not self._is_refused:
                self._count(self._address(), "RequestTimeout")
            self.transport.abort()

    def _is_answering(self) -> bool:
        return self._has_cycle and not self.cycle.response_complete

    def _stated_length(self) -> int:
        for name, value in self.headers:
            if name == b"content-length":
                return int(value) if value.isdigit() and len(value) < 16 else MAX_JSON_BYTES + 1
        return 0

    def _refuse(self, code: str, answer: bytes) -> None:
        """Say no, unless an earlier request of the connection is being answered, and close."""
        if self._is_refused:
            return
        self._is_refused = True
        self._count(self._address(), code)
        if self._is_answering():
            self.transport.close()
            return
        self.transport.write(answer)
        # Closed at once, what is still on its way to us would reset the connection, and the
        # answer would be lost.
        self.loop.call_later(_LINGER_SECONDS, self.transport.close)

    def _note_authenticated(self) -> None:
        self._is_of_somebody = True

    def _make_room(self) -> bool:
        """End the oldest connection that never had a request of somebody; whether there was one."""
        others = [
            other
            for other in self.connections
            if isinstance(other, BoundedProtocol) and other is not self and other.is_evictable()
        ]
        if not others:
            return False
        min(others, key=lambda other: other.serial).evict()
        return True

    def is_evictable(self) -> bool:
        return not self._is_of_somebody and not self._is_evicted

    def evict(self) -> None:
        self._is_evicted = True
        if not self._is_refused:
            self._is_refused = True
            self._count(self._address(), "TooManyConnections")
        self.transport.abort()

    def _address(self) -> str:
        return self.client[0] if self.client else "localhost"


def tick(state: ServerState) -> None:
    """To be called once a second on the loop: the Date header, and connections that keep us
    waiting."""
    state.default_headers = [(b"date", formatdate(time.time(), usegmt=True).encode())]
    now = asyncio.get_running_loop().time()
    for connection in list(state.connections):
        if isinstance(connection, BoundedProtocol):
            connection.sweep(now)


def make_config(app: Any) -> Config:
    """What uvicorn has to know. Nothing that a client sends is logged."""
    config = Config(
        app,
        http=BoundedProtocol,
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
    )
    config.load()
    logging.getLogger("uvicorn.error").disabled = True
    return config
