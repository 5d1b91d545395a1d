"""A real S3 server in a process of its own: SeaweedFS, from the package index, data on disk.

It checks signatures and permissions, honours conditional puts, and encrypts when it is asked to.
"""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import botocore.session

from volcrypt.snapshot.s3 import AwsCredential, Bucket, Patience, S3Objects

WEED = Path(sys.executable).with_name("weed")
BUCKET = "volcrypt-tests"
REGION = "us-east-1"
ACCESS_KEY, SECRET_KEY = "VOLCRYPTTEST", "a secret of tests"
READER_KEY, READER_SECRET = "VOLCRYPTREAD", "another secret of tests"
IMPATIENT = Patience(connect_seconds=2, request_seconds=2, retry_seconds=5, retries=1)
"""For tests of what goes wrong."""

_IDENTITIES = f"""{{"identities": [
  {{"name": "writer", "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    "credentials": [{{"accessKey": "{ACCESS_KEY}", "secretKey": "{SECRET_KEY}"}}]}},
  {{"name": "reader", "actions": ["Read", "List"],
    "credentials": [{{"accessKey": "{READER_KEY}", "secretKey": "{READER_SECRET}"}}]}}
]}}"""
_START_SECONDS = 60


@dataclass
class S3Server:
    """A running server. `certificate` and its key make it speak TLS on a port of its own too."""

    directory: Path
    certificate: Path | None = None
    certificate_key: Path | None = None

    def __enter__(self) -> Self:
        data = self.directory / "data"
        data.mkdir(parents=True)
        (self.directory / "identities.json").write_text(_IDENTITIES)
        ports = _free_ports(9)
        self.port, self.tls_port = ports[0], ports[8]
        arguments: dict[str, object] = {
            "dir": data,
            "ip": "127.0.0.1",
            "ip.bind": "127.0.0.1",
            "master.port": ports[1],
            "master.port.grpc": ports[2],
            "master.volumeSizeLimitMB": 1024,
            "volume.port": ports[3],
            "volume.port.grpc": ports[4],
            "volume.max": 100,
            "filer.port": ports[5],
            "filer.port.grpc": ports[6],
            "filer.localSocket": self.directory / "filer.sock",
            "s3.port": self.port,
            "s3.port.grpc": ports[7],
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
            "s3.config": self.directory / "identities.json",
            "s3.autoCreateBucket": "false",
            "s3.localSocket": self.directory / "s3.sock",
        }
        if self.certificate is not None:
            arguments["s3.port.https"] = self.tls_port
            arguments["s3.cert.file"] = self.certificate
            arguments["s3.key.file"] = self.certificate_key
        with open(self.directory / "log", "wb") as log:
            self._process = subprocess.Popen(
                [str(WEED), "-logtostderr=true", "-v=4", "server", "-filer", "-s3"]
                + [f"-{name}={value}" for name, value in arguments.items()],
                stdout=log,
                stderr=log,
                env=os.environ | {"WEED_S3_SSE_KEY": "secret", "TMPDIR": str(self.directory)},
            )
        self._await_start()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def tls_endpoint(self) -> str:
        return f"https://127.0.0.1:{self.tls_port}"

    @property
    def environment(self) -> dict[str, str]:
        """What a command needs to find the credentials, and nothing of this machine's."""
        return aws_environment(ACCESS_KEY, SECRET_KEY)

    def client(self) -> Any:
        """botocore's client: another's view of what lies there."""
        return botocore.session.Session().create_client(
            "s3",
            region_name=REGION,
            endpoint_url=self.endpoint,
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
        )

    def make_bucket(self, name: str) -> None:
        self.client().create_bucket(Bucket=name)

    def objects(self, prefix: str, **changes: Any) -> S3Objects:
        """Our objects in the bucket; `changes` to where they are looked for, or to how."""
        patience = changes.pop("patience", None)
        access_key = changes.pop("access_key", ACCESS_KEY)
        secret_key = changes.pop("secret_key", SECRET_KEY)
        place = {"name": BUCKET, "prefix": prefix, "region": REGION, "endpoint": self.endpoint}
        return S3Objects(
            Bucket(**(place | changes)),
            lambda: AwsCredential(
                access_key_id=access_key, secret_access_key=secret_key, token=None, expires_at=None
            ),
            patience=patience,
        )

    def _await_start(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                with urllib.request.urlopen(self.endpoint, timeout=5):
                    return
            except urllib.error.HTTPError as error:
                with error:
                    # It has no bucket for a nameless caller, but it is there and says so.
                    if error.code == 403:
                        return
            except OSError:
                pass
            time.sleep(0.05)
        self._process.kill()
        self._process.wait()
        raise RuntimeError("weed did not start:\n" + (self.directory / "log").read_text()[-2000:])


def aws_environment(access_key: str, secret_key: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    return kept | {
        "AWS_ACCESS_KEY_ID": access_key,
        "AWS_SECRET_ACCESS_KEY": secret_key,
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
