"""A proxy in front of an S3 server that fails, stalls and lies as it is told."""

import http.client
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


@dataclass
class Answer:
    """What the server said, or what is said instead."""

    status: int
    headers: dict[str, str]
    body: bytes
    length: int | None = None
    """What Content-Length says, when that is not how long the body is."""


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


Fault = Callable[[Request, Callable[[], Answer]], Answer | None]
"""Answers a request itself, or calls its second argument to forward it; None: the connection is
closed without an answer."""


def failure(status: int, code: str) -> Answer:
    """An error as S3 writes it."""
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>no</Message></Error>".encode()
    return Answer(status, {"Content-Type": "application/xml"}, body)


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # who asked has gone
            super().handle_error(request, client_address)


@dataclass
class FaultyProxy:
    """Forwards to `port`; `fault`, while there is one, sees every request first."""

    port: int
    fault: Fault | None = None
    trickle: float | None = None
    """Bodies go out byte by byte, with so many seconds before each."""
    requests: list[Request] = field(default_factory=list)

    def __enter__(self) -> Self:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def answer(self) -> None:
                proxy.handle(self)

            do_GET = do_PUT = do_DELETE = do_POST = do_HEAD = answer  # noqa: N815 the library's names

            def log_message(self, *_: object) -> None:
                pass

        self._server = _Server(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def count(self, method: str, part: str = "") -> int:
        """How many requests of a method came, for paths that contain `part`."""
        return sum(1 for each in self.requests if each.method == method and part in each.path)

    def handle(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        assert handler.command is not None
        request = Request(handler.command, handler.path, dict(handler.headers), body)
        self.requests.append(request)
        answer = (
            self.forward(request)
            if self.fault is None
            else self.fault(request, lambda: self.forward(request))
        )
        if answer is None:
            handler.close_connection = True
            return
        try:
            handler.send_response(answer.status)
            for name, value in answer.headers.items():
                if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                    handler.send_header(name, value)
            length = len(answer.body) if answer.length is None else answer.length
            if handler.command == "HEAD":  # there it is the length of a body that is not sent
                length = int(answer.headers.get("Content-Length", length))
            handler.send_header("Content-Length", str(length))
            handler.end_headers()
            if handler.command != "HEAD":
                for piece in [answer.body] if self.trickle is None else _bytes_of(answer.body):
                    time.sleep(self.trickle or 0)
                    handler.wfile.write(piece)
        except OSError:
            handler.close_connection = True  # who asked has lost patience
        if answer.length is not None:
            handler.close_connection = True

    def forward(self, request: Request) -> Answer:
        """What the real server says. The signature covers the Host header, which stays."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(request.method, request.path, request.body, request.headers)
            response = connection.getresponse()
            return Answer(response.status, dict(response.getheaders()), response.read())
        finally:
            connection.close()


def _bytes_of(body: bytes) -> list[bytes]:
    return [body[at : at + 1] for at in range(len(body))]


def stalled(seconds: float) -> Fault:
    """Everything is answered, later."""

    def stall(_request: Request, forward: Callable[[], Answer]) -> Answer:
        time.sleep(seconds)
        return forward()

    return stall
