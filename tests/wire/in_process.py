"""The wire without sockets: the ASGI application on a KMS in memory."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.fakes.access_keys import MemoryAccessKeys
from tests.fakes.kms import MemoryKms, memory_kms
from tests.wire.signing import NOW, signed
from volcrypt.wire.app import BodyBudget, KmsApp, Message
from volcrypt.wire.claim import HttpRequest
from volcrypt.wire.credentials import Credentials
from volcrypt.wire.engine import MAX_WAITING, Engine
from volcrypt.wire.flood import FloodGuard


@dataclass(frozen=True, kw_only=True)
class Got:
    """An answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The error's."""
        code: str = self.json["__type"]
        return code


class Wire:
    """The application, its engine, and all that they stand on."""

    def __init__(
        self,
        kms: MemoryKms,
        *,
        guard: FloodGuard | None = None,
        regions: frozenset[str] = frozenset(),
        max_waiting: int = MAX_WAITING,
        budget: BodyBudget | None = None,
    ) -> None:
        self.kms = kms
        self.runner = asyncio.Runner()
        self.access_keys = MemoryAccessKeys()
        self.guard = guard or FloodGuard()
        self.now = NOW
        self.bugs: list[BaseException] = []
        self.engine = Engine(kms.service, report=self.bugs.append, max_waiting=max_waiting)
        credentials = Credentials(
            self.access_keys, self.engine, clock=lambda: self.now, regions=regions
        )
        self.app = KmsApp(
            kms.service,
            self.engine,
            credentials,
            self.guard,
            report=self.bugs.append,
            monotonic=lambda: 0.0,
            budget=budget,
        )

    def start(self) -> None:
        async def run() -> None:
            self.engine.start()

        self.runner.run(run())

    def stop(self) -> None:
        self.runner.run(self.engine.stop())
        self.runner.close()

    def send(
        self,
        *requests: HttpRequest,
        address: str | None = "192.0.2.7",
        scheme: str = "http",
        is_half: bool = False,
    ) -> list[Got]:
        """The answers to requests that are sent at once, through a Unix socket without an address;
        of those sent by half, to those that do not wait for the rest, while the others wait."""

        async def run() -> list[Got]:
            tasks = [asyncio.create_task(self._send(r, address, scheme, is_half)) for r in requests]
            if not is_half:
                return await asyncio.gather(*tasks)
            for _ in range(10):  # turns of the loop: nothing else is waited for
                await asyncio.sleep(0)
            done = [task for task in tasks if task.done()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            return [task.result() for task in done]

        return self.runner.run(run())

    async def _send(
        self, request: HttpRequest, address: str | None, scheme: str, is_half: bool
    ) -> Got:
        sent: list[Any] = []
        incoming = [{"type": "http.request", "body": request.body, "more_body": is_half}]

        async def receive() -> Message:
            if not incoming:
                await asyncio.Future()
            return incoming.pop()

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "method": request.method,
            "raw_path": request.path.encode("latin-1"),
            "query_string": request.query.encode("latin-1"),
            "headers": [(n.encode("latin-1"), v.encode("latin-1")) for n, v in request.headers],
            "client": None if address is None else (address, 12345),
            "scheme": scheme,
        }
        await self.app(scope, receive, send)
        start, body = sent
        headers = {name.decode(): value.decode() for name, value in start["headers"]}
        assert headers["content-length"] == str(len(body["body"]))
        return Got(status=start["status"], headers=headers, body=body["body"])


def request(operation: str, members: Any = None, **options: Any) -> HttpRequest:
    """A signed request for an operation; `members` that are bytes go as they are."""
    body = members if isinstance(members, bytes) else json.dumps(members or {}).encode()
    headers = {
        "Content-Type": "application/x-amz-json-1.1",
        "X-Amz-Target": f"TrentService.{operation}",
    }
    return signed(headers=headers, body=body, **options)


@contextmanager
def wire_on(directory: Path, **options: Any) -> Iterator[Wire]:
    """Nothing that the wire is asked may end in a bug: that is checked at the end."""
    with memory_kms(directory) as kms:
        wire = Wire(kms, **options)
        wire.start()
        try:
            yield wire
        finally:
            wire.stop()
        assert wire.bugs == []
