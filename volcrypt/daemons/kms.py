"""`volcrypt kms serve`: the process that holds a home and serves its KMS.

    loop      connections (wire.http, wire.app), the home's socket, timers, signals
    engine    one thread: HSM, catalogue, audit log (wire.engine)

The process holds HOME/kms/serving exclusively from before the KMS is opened until after it is
closed; other processes of the home then go through its socket. It ends at SIGTERM, SIGINT or
SIGHUP: no new requests, what was begun is finished, the home is closed. A kill at any moment loses
nothing that was acknowledged; what it leaves (the socket's file, a lock) is taken over by the next
one.
"""

import asyncio
import logging
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import uvloop
from uvicorn.server import ServerState

from volcrypt.confinement import forbid_dumps, lock_memory
from volcrypt.daemons.journal import JournalHandler, log_to_journal
from volcrypt.daemons.notify import notify
from volcrypt.errors import VolcryptError
from volcrypt.kms.home import open_kms
from volcrypt.kms.key_stores import NO_CLUSTERS
from volcrypt.kms.remote_store import Cluster
from volcrypt.kms.service import KmsService
from volcrypt.wire.app import KmsApp
from volcrypt.wire.call_counts import CallCounts
from volcrypt.wire.credentials import AccessKeys, Credentials
from volcrypt.wire.engine import Engine
from volcrypt.wire.flood import FloodGuard
from volcrypt.wire.home_messages import SOCKET_NAME
from volcrypt.wire.home_socket import HomeSocket
from volcrypt.wire.http import MAX_CONNECTIONS, REQUEST_SECONDS, BoundedProtocol, make_config, tick
from volcrypt.wire.listener import (
    DEFAULT_LISTEN,
    Listener,
    Passed,
    listen_tcp,
    listen_unix,
    make_tls,
    passed_listeners,
)

if TYPE_CHECKING:
    from volcrypt.daemons.metrics_server import MetricsServer

MAINTENANCE_SECONDS: Final = 60.0
SUMMARY_SECONDS: Final = 60.0
STOP_SECONDS: Final = 15.0
_OTHER_DESCRIPTORS: Final = 128
_TICK_SECONDS: Final = 1.0
_TLS_HANDSHAKE_SECONDS: Final = 10.0
_STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_UNAUTHENTICATED: Final = "UnauthenticatedRequests"
_PLAIN_FORMAT: Final = "volcrypt kms: %(message)s"

_log: Final = logging.getLogger("volcrypt.daemons.kms")
_journal: JournalHandler | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where to listen, for whom, and what a connection may do. `regions` are those that are served,
    all when empty. `metrics` is the address of the figures, if they are served."""

    listen: str | None = None
    socket: Path | None = None
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    regions: frozenset[str] = frozenset()
    request_seconds: float = REQUEST_SECONDS
    max_connections: int = MAX_CONNECTIONS
    metrics: str | None = None


def open_listeners(endpoint: Endpoint) -> Passed:
    """Everything that can be wrong with an address, before the HSM is touched.

    Raises ConfigurationError and InvalidArgumentError.
    """
    tls = None
    if endpoint.tls_certificate is not None and endpoint.tls_key is not None:
        tls = make_tls(endpoint.tls_certificate, endpoint.tls_key)
    passed = passed_listeners(os.environ, os.getpid(), tls)
    if endpoint.socket is not None:
        passed.http.append(listen_unix(endpoint.socket))
    if endpoint.listen is not None or not passed.http:
        passed.http.append(listen_tcp(endpoint.listen or DEFAULT_LISTEN, tls))
    return passed


def serve(
    directory: Path,
    runtime: Path,
    *,
    account: str,
    region: str,
    pin: bytearray | None,
    endpoint: Endpoint,
    access_keys: Callable[[KmsService], AccessKeys],
    ready: Callable[[Sequence[str]], None],
    clusters: Mapping[str, Cluster] = NO_CLUSTERS,
) -> None:
    """Serve the KMS in `directory` until a signal says stop; `ready` is told the URLs.

    Raises ConfigurationError for addresses that cannot be listened on, TryAgainError when another
    process holds the home, and what `open_kms` raises.
    """
    global _journal
    _journal = log_to_journal("volcrypt-kms", plain_format=_PLAIN_FORMAT)
    forbid_dumps()
    lock_memory()
    endpoint = replace(endpoint, max_connections=_connections_for(endpoint.max_connections))
    passed = open_listeners(endpoint)
    listeners = passed.http
    with ExitStack() as stack:
        stack.callback(_close_all, listeners, endpoint)
        figures = None
        if endpoint.metrics is not None:
            from volcrypt.daemons.metrics_server import listening

            figures = stack.enter_context(listening(endpoint.metrics))
        with open_kms(
            directory,
            runtime,
            account=account,
            region=region,
            pin=pin,
            exclusive=True,
            clusters=clusters,
        ) as service:
            home_listener = passed.home or listen_unix(runtime / SOCKET_NAME)
            daemon = Daemon(service, access_keys(service), endpoint)
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(daemon.run(listeners, home_listener, ready, figures))
            if passed.home is None:
                (runtime / SOCKET_NAME).unlink(missing_ok=True)


def _close_all(listeners: Sequence[Listener], endpoint: Endpoint) -> None:
    for listener in listeners:
        listener.socket.close()
    if endpoint.socket is not None:
        endpoint.socket.unlink(missing_ok=True)


def _connections_for(wanted: int) -> int:
    """As many connections as are wanted, if the limit on descriptors lets us."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = wanted + _OTHER_DESCRIPTORS
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    return max(limit - _OTHER_DESCRIPTORS, 1)


class Daemon:
    """Everything that runs on the loop, from the first listener to the last answer."""

    def __init__(self, service: KmsService, access_keys: AccessKeys, endpoint: Endpoint) -> None:
        self._service = service
        self._endpoint = endpoint
        self._guard = FloodGuard()
        self._counts = CallCounts()
        self._engine = Engine(service, report=report_bug, counts=self._counts)
        credentials = Credentials(
            access_keys, self._engine, clock=time.time, regions=endpoint.regions
        )
        self._app = KmsApp(
            service,
            self._engine,
            credentials,
            self._guard,
            report=report_bug,
            monotonic=time.monotonic,
        )
        self._config = make_config(self._app)
        self._state = ServerState()
        self._home_socket = HomeSocket(
            service, self._engine, users=frozenset({0, os.geteuid()}), report=report_bug
        )
        self._servers: list[asyncio.Server] = []
        self._figures: MetricsServer | None = None

    async def run(
        self,
        listeners: Sequence[Listener],
        home_listener: Listener,
        ready: Callable[[Sequence[str]], None],
        figures: Listener | None = None,
    ) -> None:
        """Serve until a signal says stop; the figures on `figures`."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(_report_from_loop)
        stop = asyncio.Event()
        for number in _STOP_SIGNALS:
            loop.add_signal_handler(number, stop.set)
        self._engine.start()
        try:
            await self._start(listeners, home_listener)
            if figures is not None:
                await self._serve_figures(figures)
            async with asyncio.TaskGroup() as group:
                timers = [
                    group.create_task(_every(_TICK_SECONDS, self._tick)),
                    group.create_task(_every(SUMMARY_SECONDS, self._summarise)),
                    group.create_task(_every(MAINTENANCE_SECONDS, self._maintain)),
                    group.create_task(_every(_TICK_SECONDS, self._reopen)),
                ]
                ready([listener.url for listener in listeners])
                _log.info("the KMS is served at %s", ", ".join(each.url for each in listeners))
                notify("READY=1")
                await stop.wait()
                notify("STOPPING=1")
                for timer in timers:
                    timer.cancel()
            await self._stop()
            await self._summarise()
            _log.info("the KMS is served no more")
        finally:
            await self._engine.stop()

    async def _start(self, listeners: Sequence[Listener], home_listener: Listener) -> None:
        loop = asyncio.get_running_loop()
        await self._tick()
        for listener in listeners:
            self._servers.append(
                await loop.create_server(
                    partial(
                        BoundedProtocol,
                        self._config,
                        self._state,
                        count=self._count,
                        loop=loop,
                        max_connections=self._endpoint.max_connections,
                        request_seconds=self._endpoint.request_seconds,
                    ),
                    sock=listener.socket,
                    ssl=listener.tls,
                    ssl_handshake_timeout=_TLS_HANDSHAKE_SECONDS if listener.tls else None,
                )
            )
        self._servers.append(await self._home_socket.listen(home_listener.socket))

    async def _serve_figures(self, listener: Listener) -> None:
        from volcrypt.daemons.kms_metrics import KmsMetrics
        from volcrypt.daemons.metrics_server import MetricsServer
        from volcrypt.daemons.openmetrics import MetricsApp

        metrics = KmsMetrics(self._service, self._engine, self._guard, self._counts)
        self._figures = MetricsServer(MetricsApp(metrics.families, report=report_bug))
        await self._figures.start(listener)

    async def _stop(self) -> None:
        """Finish what was begun; what takes too long is cut off."""
        if self._figures is not None:
            await self._figures.stop()
        for server in self._servers:
            server.close()
        for connection in list(self._state.connections):
            connection.shutdown()
        if self._state.tasks:
            await asyncio.wait(self._state.tasks, timeout=STOP_SECONDS)
        self._home_socket.close_connections()
        for connection in list(self._state.connections):
            connection.transport.abort()

    async def _tick(self) -> None:
        """The Date header, and connections that keep us waiting."""
        tick(self._state)
        if self._figures is not None:
            self._figures.tick()

    async def _summarise(self) -> None:
        """One audit record for all requests of nobody since the last one."""
        summary = self._guard.take_summary()
        if summary is not None:
            await self._guarded(lambda: self._service.record_event(_UNAUTHENTICATED, summary))

    async def _maintain(self) -> None:
        await self._guarded(self._service.maintain)

    async def _reopen(self) -> None:
        """After an error of the disk nothing is believed until all is read from it again."""
        if not self._service.has_failed:
            return
        try:
            await self._engine.run(self._service.reopen)
        except VolcryptError as error:
            report_bug(error)  # the next turn tries again
        else:
            _log.warning("the disk had failed: catalogue and audit log were opened again")

    async def _guarded(self, work: Callable[[], None]) -> None:
        try:
            await self._engine.run(work)
        except VolcryptError as error:
            report_bug(error)  # the next turn tries again

    def _count(self, address: str, code: str) -> None:
        self._guard.note_failure(address, code, time.monotonic())


async def _every(seconds: float, work: Callable[[], Any]) -> None:
    while True:
        await asyncio.sleep(seconds)
        await work()


_LAST_REPORTS: dict[tuple[str, str], float] = {}
_REPORT_SECONDS: Final = 60.0
_MAX_REPORTS: Final = 100
_SHOWN_CHARACTERS: Final = 500


def report_bug(error: BaseException) -> None:
    """One line on standard error per error and minute, and no more than `_MAX_REPORTS` a minute. Of
    an error of ours its text, of any other only where it was raised."""
    kind = type(error).__name__
    text = str(error) if isinstance(error, VolcryptError) else _place_of(error)
    text = "".join(c if c.isprintable() else " " for c in text[:_SHOWN_CHARACTERS])
    now = time.monotonic()
    for old in [key for key, at in _LAST_REPORTS.items() if now - at >= _REPORT_SECONDS]:
        del _LAST_REPORTS[old]
    if (kind, text) not in _LAST_REPORTS and len(_LAST_REPORTS) < _MAX_REPORTS:
        _LAST_REPORTS[kind, text] = now
        if _journal is None:
            sys.stderr.write(f"volcrypt kms: {kind}: {text}\n")
        else:
            _log.error("%s: %s", kind, text)


def _place_of(error: BaseException) -> str:
    """Where it was raised: the text of a foreign error may quote a request."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    if traceback is None:
        return "internal error"
    code = traceback.tb_frame.f_code
    return f"internal error at {code.co_filename}:{traceback.tb_lineno}"


def _report_from_loop(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    error = context.get("exception")
    if isinstance(error, Exception) and not isinstance(error, OSError):
        report_bug(error)
