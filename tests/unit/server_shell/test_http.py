# SPDX-License-Identifier: Apache-2.0
"""/metrics and /healthz."""

from __future__ import annotations

import gzip
import http.client
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry

from attnserve_server.errors import StartupError
from attnserve_server.metrics.http import MetricsServer
from attnserve_server.metrics.prometheus import Metrics


class Page:
    """A running server on a free port."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        Metrics(registry).request_done("m", "1", "Translate", "OK", 0.1)
        self.health = (True, "serving")
        self.server = MetricsServer("127.0.0.1", 0, registry, lambda: self.health)
        self.port = self.server.start()

    def ask(self, path: str, method: str = "GET", **headers: str) -> tuple[int, bytes, dict[str, str]]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
            response = connection.getresponse()
            return response.status, response.read(), dict(response.getheaders())
        finally:
            connection.close()


@pytest.fixture
def page() -> Iterator[Page]:
    page = Page()
    yield page
    page.server.stop()


def test_metrics(page: Page) -> None:
    status, body, headers = page.ask("/metrics")
    assert status == 200
    assert headers["Content-Type"].startswith("text/plain; version=")
    assert b'attnserve_requests_total{code="OK",method="Translate",model="m"} 1.0' in body
    assert b"_created" not in body
    assert page.ask("/metrics?x=1")[0] == 200


def test_metrics_in_other_forms(page: Page) -> None:
    _, body, headers = page.ask("/metrics", Accept_Encoding="gzip")
    assert headers["Content-Encoding"] == "gzip"
    assert b"attnserve_requests_total" in gzip.decompress(body)
    _, body, headers = page.ask("/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert headers["Content-Type"].startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")


def test_healthz(page: Page) -> None:
    assert page.ask("/healthz")[:2] == (200, b"serving\n")
    page.health = (False, "draining")
    assert page.ask("/healthz")[:2] == (503, b"draining\n")


def test_head_has_no_body(page: Page) -> None:
    assert page.ask("/healthz", "HEAD")[:2] == (200, b"")


@pytest.mark.parametrize("path", ["/", "/metricsx", "/metrics/", "/favicon.ico", "/../etc/passwd", "/healthz/x"])
def test_other_paths(page: Page, path: str) -> None:
    assert page.ask(path)[0] == 404


def test_other_methods(page: Page) -> None:
    assert page.ask("/metrics", "POST")[0] == 501


def test_a_port_that_is_taken(page: Page) -> None:
    with pytest.raises(StartupError, match=f"127.0.0.1:{page.port}"):
        MetricsServer("127.0.0.1", page.port, CollectorRegistry(), lambda: (True, "")).start()


def test_stop_may_come_twice_or_before_start(page: Page) -> None:
    page.server.stop()
    page.server.stop()
    MetricsServer("127.0.0.1", 0, CollectorRegistry(), lambda: (True, "")).stop()
