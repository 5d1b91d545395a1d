"""A real daemon on a home of its own, and the ways to talk to it."""

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

from tests.fakes.kms import REGION
from tests.wire.signing import ACCESS_KEY, SECRET
from volcrypt.operations.home_directory import init_home, runtime_directory
from volcrypt.settings import DEFAULT_ACCOUNT, runtime_root

ROOT_OF_TESTS = Path(__file__).parents[2]


class Served:
    """A daemon that runs, until `stop` or `kill`; `start` makes it run again."""

    def __init__(self, home: Path, **endpoint: Any) -> None:
        self.home = home
        self.endpoint = {"listen": "127.0.0.1:0", **endpoint}
        self.urls: list[str] = []
        self._process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        return self.urls[0]

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.url.partition("://")[2].rpartition(":")
        return host, int(port)

    @property
    def runtime(self) -> Path:
        return runtime_directory(self.home, runtime_root())

    def start(self, *, prefix: tuple[str, ...] = ()) -> None:
        """`prefix` is a program to run it under."""
        self._process = subprocess.Popen(
            [
                *prefix,
                sys.executable,
                "-m",
                "tests.wire.serve_program",
                self.home,
                json.dumps(self.endpoint),
            ],
            cwd=ROOT_OF_TESTS,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(self._process.communicate()[1])
        self.urls = json.loads(line)

    def stop(self, number: int = signal.SIGTERM) -> str:
        """Ask it to end; what it complained of on standard error."""
        assert self._process is not None
        self._process.send_signal(number)
        complaints = self._process.communicate(timeout=30)[1]
        assert self._process.returncode == 0, complaints
        self._process = None
        return complaints

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def client(self, service: str = "kms", **overrides: Any) -> Any:
        """A boto3 client of the daemon."""
        arguments: dict[str, Any] = {
            "endpoint_url": self.url,
            "region_name": REGION,
            "aws_access_key_id": ACCESS_KEY,
            "aws_secret_access_key": SECRET,
            "config": Config(retries={"total_max_attempts": 1}, max_pool_connections=64),
        }
        return boto3.session.Session().client(service, **{**arguments, **overrides})

    def connect(self) -> socket.socket:
        """A plain connection."""
        return socket.create_connection(self.address, timeout=10)


@contextmanager
def served(directory: Path, **endpoint: Any) -> Iterator[Served]:
    """A new home, and a daemon on it; afterwards both are gone."""
    home = directory / "home"
    init_home(home, runtime_root(), account=DEFAULT_ACCOUNT, region=REGION, pin=None)
    daemon = Served(home, **endpoint)
    try:
        daemon.start()
        yield daemon
    finally:
        daemon.kill()
        subprocess.run(["rm", "-rf", daemon.runtime], check=True)
