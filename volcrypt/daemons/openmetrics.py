"""What a monitoring system reads: families of figures, their page, and its HTTP answer.

The one door to prometheus_client, which knows the formats: OpenMetrics, or Prometheus's older text
for who asks for that. Labels have few values that we choose: volumes, operations, error codes,
states; never a name from a request.
"""

from collections.abc import Awaitable, Callable, Iterable, MutableMapping, Sequence
from typing import Any, Final

from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

OPENMETRICS_TYPE: Final = CONTENT_TYPE_LATEST
_PATHS: Final = ("/metrics", "/")
_TEXT: Final = "text/plain; charset=utf-8"

Families = Iterable[Metric]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class Figures:
    """Families under construction, each made when it is first named."""

    def __init__(self) -> None:
        self._families: dict[str, Metric] = {}

    def families(self) -> list[Metric]:
        return list(self._families.values())

    def count(self, name: str, help_: str, value: float, **labels: str) -> None:
        """A number that only grows while the process lives that counts it."""
        self._family(CounterMetricFamily, name, help_, labels).add_metric(
            list(labels.values()), value
        )

    def gauge(self, name: str, help_: str, value: float, **labels: str) -> None:
        self._family(GaugeMetricFamily, name, help_, labels).add_metric(
            list(labels.values()), value
        )

    def info(self, name: str, help_: str, known: dict[str, str], **labels: str) -> None:
        """What is known of something beside its figures."""
        self._family(InfoMetricFamily, name, help_, labels).add_metric(list(labels.values()), known)

    def times(
        self,
        name: str,
        help_: str,
        bounds_ns: Sequence[int],
        counts: Sequence[int],
        sum_ns: int,
        **labels: str,
    ) -> None:
        """A histogram in seconds: `counts` kept each bound and none before, the last one none."""
        buckets, total = [], 0
        for bound, count in zip([*(b / 1e9 for b in bounds_ns), None], counts, strict=True):
            total += count
            buckets.append(("+Inf" if bound is None else repr(bound), float(total)))
        self._family(HistogramMetricFamily, name, help_, labels).add_metric(
            list(labels.values()), buckets, sum_ns / 1e9
        )

    def _family(self, kind: Any, name: str, help_: str, labels: dict[str, str]) -> Any:
        family = self._families.get(name)
        if family is None:
            family = self._families[name] = kind(name, help_, labels=list(labels))
        return family


class _Page(Collector):
    def __init__(self, families: Families) -> None:
        self._families = families

    def collect(self) -> Families:
        return self._families


def render(families: Families, accept: str = OPENMETRICS_TYPE) -> tuple[bytes, str]:
    """The page, in the format that the header `Accept` asks for, and its content type."""
    encode, content_type = choose_encoder(accept)
    return encode(_Page(families)), content_type


class MetricsApp:
    """An ASGI application: GET /metrics."""

    def __init__(
        self,
        look: Callable[[], Awaitable[Families]],
        *,
        report: Callable[[BaseException], None],
    ) -> None:
        """`look` gives the figures of this moment; `report` is told why it could not."""
        self._look = look
        self._report = report

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http", "internal error: only HTTP is served"
        body, content_type, status = b"", _TEXT, 200
        if scope["path"] not in _PATHS:
            status = 404
        elif scope["method"] not in ("GET", "HEAD"):
            status = 405
        else:
            accept = next((v for k, v in scope["headers"] if k == b"accept"), b"")
            try:
                body, content_type = render(await self._look(), accept.decode("latin-1"))
            except Exception as error:
                self._report(error)
                status = 500
        headers = [
            (b"content-type", content_type.encode()),
            (b"content-length", str(len(body)).encode()),
        ]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        sent = b"" if scope["method"] == "HEAD" else body
        await send({"type": "http.response.body", "body": sent})
