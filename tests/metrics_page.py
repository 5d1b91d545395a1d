"""A page of figures, as a monitoring system's own parser reads it."""

import http.client
import socket
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from prometheus_client.openmetrics.parser import text_string_to_metric_families

Page = dict[tuple[str, frozenset[tuple[str, str]]], float]

ALLOWED_LABELS = frozenset(
    {"volume", "operation", "data_plane", "kind", "check", "le", "phase", "state", "answer"}
)
INFO_LABELS = frozenset({"name", "encrypted", "read_only"})


def parsed(text: str) -> Page:
    """By name and labels; what the format forbids fails here, and labels that nobody bounds."""
    page: Page = {}
    for family in text_string_to_metric_families(text):  # type: ignore[no-untyped-call]
        assert family.documentation, family.name
        for sample in family.samples:
            extra = INFO_LABELS if sample.name.endswith("_info") else frozenset()
            assert set(sample.labels) <= ALLOWED_LABELS | extra, sample
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in page, sample
            page[key] = sample.value
    return page


def value(page: Page, name: str, /, **labels: str) -> float:
    """One figure. Raises KeyError."""
    return page[name, frozenset(labels.items())]


def total(page: Page, name: str, /, **labels: str) -> float:
    """The sum of a figure over all other labels."""
    wanted = labels.items()
    return sum(v for (n, found), v in page.items() if n == name and wanted <= found)


def names(page: Page) -> Iterable[str]:
    return {name for name, _ in page}


class UnixConnection(http.client.HTTPConnection):
    """HTTP on a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=30)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(30)
        self.sock.connect(str(self._path))


def ask(
    connection: http.client.HTTPConnection,
    path: str = "/metrics",
    *,
    method: str = "GET",
    accept: str = "application/openmetrics-text; version=1.0.0",
) -> tuple[int, str, str]:
    """Status, content type and body; the connection is closed."""
    with closing(connection):
        connection.request(method, path, headers={"Accept": accept, "Connection": "close"})
        response = connection.getresponse()
        body = response.read().decode()
        return response.status, response.getheader("content-type") or "", body
