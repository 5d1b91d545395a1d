"""The page of figures and its HTTP answers, without a socket."""

from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families as parse_old

from tests.metrics_page import parsed, total, value
from volcrypt.daemons.openmetrics import Families, Figures, MetricsApp, render


def some_figures() -> Figures:
    figures = Figures()
    figures.count("volcrypt_made", "What was made.", 3, kind="copy")
    figures.count("volcrypt_made", "What was made.", 4, kind="snapshot")
    figures.gauge("volcrypt_left", "What is left.", 2.5)
    figures.info("volcrypt_thing", "A thing.", {"name": 'a "b"\n\\c'}, volume="vol-1")
    figures.times("volcrypt_t_seconds", "Times.", [10_000, 10**9], [1, 2, 4], 5 * 10**9)
    return figures


def test_what_is_built_is_what_a_scraper_reads() -> None:
    text, content_type = render(some_figures().families())
    assert content_type.startswith("application/openmetrics-text")
    page = parsed(text.decode())
    assert value(page, "volcrypt_made_total", kind="copy") == 3
    assert total(page, "volcrypt_made_total") == 7
    assert value(page, "volcrypt_left") == 2.5
    assert value(page, "volcrypt_thing_info", name='a "b"\n\\c', volume="vol-1") == 1
    assert value(page, "volcrypt_t_seconds_bucket", le="1e-05") == 1
    assert value(page, "volcrypt_t_seconds_bucket", le="1.0") == 3
    assert value(page, "volcrypt_t_seconds_bucket", le="+Inf") == 7
    assert value(page, "volcrypt_t_seconds_count") == 7
    assert value(page, "volcrypt_t_seconds_sum") == 5


def test_who_knows_the_older_format_alone_gets_it() -> None:
    text, content_type = render(some_figures().families(), "text/plain;version=0.0.4")
    assert content_type.startswith("text/plain")
    found = {s.name: s.value for family in parse_old(text.decode()) for s in family.samples}
    assert found["volcrypt_left"] == 2.5


async def answer(app: MetricsApp, method: str, path: str) -> tuple[int, bytes]:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError("nothing of a request is needed but its head")

    await app(
        {"type": "http", "method": method, "path": path, "headers": [(b"accept", b"\xff*/*")]},
        receive,
        send,
    )
    return sent[0]["status"], sent[1]["body"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/metrics", 200),
        ("GET", "/", 200),
        ("HEAD", "/metrics", 200),
        ("POST", "/metrics", 405),
        ("GET", "/metrics/../etc/passwd", 404),
        ("GET", "/other", 404),
    ],
)
async def test_nothing_else_is_answered(method: str, path: str, status: int) -> None:
    async def look() -> Families:
        return some_figures().families()

    app = MetricsApp(look, report=lambda error: pytest.fail(str(error)))
    found, body = await answer(app, method, path)
    assert found == status
    assert bool(body) == (method == "GET" and status == 200)


async def test_a_look_that_fails_is_told_to_us_alone() -> None:
    async def look() -> Families:
        raise OSError("the secret place is gone")

    told: list[BaseException] = []
    status, body = await answer(MetricsApp(look, report=told.append), "GET", "/metrics")
    assert (status, body, len(told)) == (500, b"", 1)
