"""Fixtures of tests of S3 through a proxy that fails."""

from collections.abc import Iterator

import pytest

from tests.faulty_proxy import FaultyProxy
from tests.s3_server import IMPATIENT, S3Server
from volcrypt.snapshot.s3 import S3Objects


@pytest.fixture
def proxy(s3_server: S3Server) -> Iterator[FaultyProxy]:
    with FaultyProxy(s3_server.port) as running:
        yield running


@pytest.fixture
def objects(s3_server: S3Server, proxy: FaultyProxy, prefix: str) -> S3Objects:
    """Objects behind the proxy, one of them named `a`."""
    objects = s3_server.objects(prefix, endpoint=proxy.endpoint, patience=IMPATIENT)
    objects.put_if_absent("a", b"0")
    return objects
