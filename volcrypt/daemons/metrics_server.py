"""Where the figures are to be had: HTTP on a loopback address or a Unix socket, and the process
that serves those of volumes (`volcrypt status --metrics ADDRESS`).

Nobody has to say who he is, so nothing is shown that others of this host may not see, and plain
HTTP leaves it as little as the KMS's own. Few connections are taken, and each must be quick.
"""

import asyncio
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

import uvloop
from uvicorn.server import ServerState

from volcrypt.daemons.notify import notify
from volcrypt.daemons.openmetrics import Families, MetricsApp
from volcrypt.errors import VolcryptError
from volcrypt.wire.http import BoundedProtocol, make_config, tick
from volcrypt.wire.listener import Listener, listen_tcp, listen_unix

MAX_CONNECTIONS: Final = 16
SOCKET_MODE: Final = 0o666
"""The directory says who may read: a monitoring system runs as a user of its own."""
_TICK_SECONDS: Final = 1.0
_STOP_SECONDS: Final = 5.0
_STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@contextmanager
def listening(address: str) -> Iterator[Listener]:
    """On HOST:PORT, or on a Unix socket where there is a slash in it, which is gone afterwards.

    Raises InvalidArgumentError and ConfigurationError, also for an address that is no loopback's.
    """
    path = Path(address) if "/" in address else None
    listener = (
        listen_unix(path, mode=SOCKET_MODE)
        if path is not None
        else listen_tcp(address, None, may_have_tls=False)
    )
    try:
        yield listener
    finally:
        listener.socket.close()
        if path is not None:
            path.unlink(missing_ok=True)


class MetricsServer:
    """One listener on the loop that runs."""

    def __init__(self, app: MetricsApp) -> None:
        self._config = make_config(app)
        self._state = ServerState()
        self._server: asyncio.Server | None = None

    async def start(self, listener: Listener) -> None:
        loop = asyncio.get_running_loop()
        self.tick()
        self._server = await loop.create_server(
            partial(
                BoundedProtocol,
                self._config,
                self._state,
                count=lambda _address, _code: None,
                loop=loop,
                max_connections=MAX_CONNECTIONS,
            ),
            sock=listener.socket,
        )

    def tick(self) -> None:
        """Once a second: the Date header, and connections that keep us waiting."""
        tick(self._state)

    async def stop(self) -> None:
        """Finish what was begun; what takes too long is cut off."""
        if self._server is not None:
            self._server.close()
        for connection in list(self._state.connections):
            connection.shutdown()
        if self._state.tasks:
            await asyncio.wait(self._state.tasks, timeout=_STOP_SECONDS)
        for connection in list(self._state.connections):
            connection.transport.abort()


def serve(address: str, look: Callable[[], Families], ready: Callable[[str], None]) -> None:
    """Serve what `look` sees, in a thread, until a signal says stop; `ready` is told the URL.

    Raises what `listening` raises.
    """
    with listening(address) as listener, asyncio.Runner(loop_factory=uvloop.new_event_loop) as run:
        run.run(_serve(listener, look, ready))


async def _serve(
    listener: Listener, look: Callable[[], Families], ready: Callable[[str], None]
) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in _STOP_SIGNALS:
        loop.add_signal_handler(number, stop.set)
    one_at_a_time = asyncio.Lock()

    async def looked() -> Families:
        async with one_at_a_time:
            return await asyncio.to_thread(look)

    server = MetricsServer(MetricsApp(looked, report=_report))
    await server.start(listener)
    ready(listener.url)
    notify("READY=1")
    while not stop.is_set():
        try:
            await asyncio.wait_for(stop.wait(), _TICK_SECONDS)
        except TimeoutError:
            server.tick()
    notify("STOPPING=1")
    await server.stop()


def _report(error: BaseException) -> None:
    text = str(error) if isinstance(error, VolcryptError | OSError) else type(error).__name__
    sys.stderr.write(f"warning: no figures this time: {text}\n")
