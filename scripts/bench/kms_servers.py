"""What `scripts/bench/kms` measures, each in a process of its own."""

import asyncio
import contextlib
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from volcrypt.operations.home import Home
from volcrypt.operations.home_directory import init_home, make_runtime_directory, runtime_directory
from volcrypt.settings import DEFAULT_ACCOUNT, DEFAULT_REGION, runtime_root

ACCESS_KEY = "AKIAIOSFODNN7EXAMPLE"
SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"


@dataclass(frozen=True, kw_only=True)
class BenchAccessKey:
    id: str = ACCESS_KEY
    principal: str = f"arn:aws:iam::{DEFAULT_ACCOUNT}:root"
    account: str = DEFAULT_ACCOUNT
    is_active: bool = True
    is_for_volumes: bool = False
    created_at: float = 0.0
    secret: str = field(default=SECRET, repr=False)


class BenchAccessKeys:
    """The one access key that the benchmark signs with."""

    def find(self, id_: str, /) -> BenchAccessKey | None:
        return BenchAccessKey() if id_ == ACCESS_KEY else None

    def open_secret(self, _access_key: object, /) -> bytearray:
        return bytearray(SECRET.encode())


def serve_volcrypt(home_path: str, socket_path: str) -> None:
    """On TCP and on a Unix socket; prints the URL of the first."""
    from volcrypt.daemons.kms import Endpoint, serve

    home = Home(Path(home_path), runtime_root())
    make_runtime_directory(home.runtime, home=home.path)

    def ready(urls: Sequence[str]) -> None:
        print(next(url for url in urls if url.startswith("http")), flush=True)

    serve(
        home.path / "kms",
        home.runtime,
        account=home.account,
        region=home.region,
        pin=None,
        endpoint=Endpoint(listen="127.0.0.1:0", socket=Path(socket_path)),
        access_keys=lambda _service: BenchAccessKeys(),
        ready=ready,
    )


def serve_moto() -> None:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    print(f"http://{host}:{port}", flush=True)
    while True:
        time.sleep(3600)


async def _answer(_scope: Any, receive: Any, send: Any) -> None:
    await receive()
    body = b"{}"
    headers = [(b"content-length", b"2")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def serve_bare() -> None:
    """The HTTP server with nothing behind it; prints its URL."""
    import uvloop
    from uvicorn.server import ServerState

    from volcrypt.wire.http import BoundedProtocol, make_config

    async def run() -> None:
        loop = asyncio.get_running_loop()
        config, state = make_config(_answer), ServerState()

        def count(_address: str, _code: str) -> None:
            pass

        server = await loop.create_server(
            lambda: BoundedProtocol(config, state, count=count, loop=loop), "127.0.0.1", 0
        )
        port = server.sockets[0].getsockname()[1]
        print(f"http://127.0.0.1:{port}", flush=True)
        await server.serve_forever()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())


@contextlib.contextmanager
def running(*words: str) -> Iterator[str]:
    """The URL of a server that this module starts."""
    process = subprocess.Popen(
        [sys.executable, "-m", "scripts.bench.kms_servers", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        if not url:
            raise RuntimeError(f"the server {words[0]} did not start")
        yield url
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def volcrypt(directory: Path) -> Iterator[tuple[str, Path]]:
    """URL and Unix socket of a daemon on a new home below `directory`."""
    home, socket = directory / "home", directory / "http.sock"
    init_home(home, runtime_root(), account=DEFAULT_ACCOUNT, region=DEFAULT_REGION, pin=None)
    try:
        with running("volcrypt", str(home), str(socket)) as url:
            yield url, socket
    finally:
        shutil.rmtree(runtime_directory(home, runtime_root()), ignore_errors=True)


def moto() -> contextlib.AbstractContextManager[str]:
    return running("moto")


if __name__ == "__main__":
    if sys.argv[1] == "volcrypt":
        serve_volcrypt(sys.argv[2], sys.argv[3])
    elif sys.argv[1] == "moto":
        serve_moto()
    else:
        serve_bare()
