# SPDX-License-Identifier: Apache-2.0
"""/metrics and /healthz."""

from __future__ import annotations

import asyncio
import gzip
import http.client
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from email.message import Message

import pytest
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.metrics_core import Metric

from attnserve_server.errors import StartupError
from attnserve_server.metrics.exposition import Exposition
from attnserve_server.metrics.prometheus import Metrics
from attnserve_server.process import new_event_loop
from attnserve_server.transport.http import server as http_server
from attnserve_server.transport.http.metrics import accepts_gzip
from attnserve_server.transport.http.server import HttpServer

EMPTY = Exposition(CollectorRegistry())


class Page:
    """A running server on a free port, on a separate event loop."""

    def __init__(self, registry: CollectorRegistry | None = None, idle_s: float = http_server.IDLE_S) -> None:
        self.registry = registry or CollectorRegistry()
        Metrics(self.registry).request_done("m", "1", "Translate", "OK", 0.1)
        self.health = (True, "serving")
        self.server = HttpServer("127.0.0.1", 0, Exposition(self.registry), lambda: self.health, idle_s)
        self.loop = new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        self.port = asyncio.run_coroutine_threadsafe(self.server.start(), self.loop).result(30)

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self.server.stop(), self.loop).result(30)

    def close(self) -> None:
        self.stop()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def ask(self, path: str, method: str = "GET", **headers: str) -> tuple[int, bytes, Message]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
            response = connection.getresponse()
            return response.status, response.read(), response.headers
        finally:
            connection.close()


@pytest.fixture
def page() -> Iterator[Page]:
    page = Page()
    yield page
    page.close()


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


def test_a_body_is_not_compressed_for_a_client_that_refuses_gzip(page: Page) -> None:
    _, body, headers = page.ask("/metrics", Accept_Encoding="gzip;q=0")
    assert headers["Content-Encoding"] is None
    assert body.startswith(b"# HELP")


@pytest.mark.parametrize("accept_encoding", ["", "gzip"])
def test_caches_are_told_which_headers_choose_the_form(page: Page, accept_encoding: str) -> None:
    assert page.ask("/metrics", Accept_Encoding=accept_encoding)[2]["Vary"] == "Accept, Accept-Encoding"


@pytest.mark.parametrize(
    ("accept_encoding", "is_accepted"),
    [
        ("", False),
        ("gzip", True),
        ("GZip", True),
        ("x-gzip", True),
        ("deflate, gzip;q=0.001", True),
        ("gzip; q=1.0, identity; q=0.5", True),
        ("*", True),
        ("*;q=0.1, deflate", True),
        ("gzip;q=0", False),
        ("gzip ; Q=0.000", False),
        ("*, gzip;q=0", False),
        ("gzip;q=0, x-gzip", False),
        ("*;q=0", False),
        ("identity;q=1, gzip;q=0.5", False),
        ("gzip;q=", False),
        ("gzip;q=nan", False),
        ("gzip;q=high", False),
        ("br, deflate", False),
        ("gzipped, not-gzip", False),
        (",;,;q=1,", False),
    ],
)
def test_weights_of_codings_decide_about_gzip(accept_encoding: str, is_accepted: bool) -> None:
    assert accepts_gzip(accept_encoding) is is_accepted


def test_healthz(page: Page) -> None:
    status, body, headers = page.ask("/healthz")
    assert (status, body, headers["Content-Type"]) == (200, b"serving\n", "text/plain; charset=utf-8")
    page.health = (False, "draining")
    assert page.ask("/healthz")[:2] == (503, b"draining\n")


def test_head_has_no_body(page: Page) -> None:
    status, body, headers = page.ask("/healthz", "HEAD")
    assert (status, body, headers["Content-Length"]) == (200, b"", "8")


@pytest.mark.parametrize("path", ["/", "/metricsx", "/metrics/", "/favicon.ico", "/../etc/passwd", "/healthz/x"])
def test_other_paths(page: Page, path: str) -> None:
    status, body, headers = page.ask(path)
    assert (status, headers["Content-Type"]) == (404, "text/plain; charset=utf-8")
    assert b"/metrics and /healthz" in body


@pytest.mark.parametrize("path", ["/metrics", "/healthz", "/elsewhere"])
def test_other_methods(page: Page, path: str) -> None:
    assert page.ask(path, "POST")[0] == 501


def test_a_request_that_is_no_http_is_refused_and_logged_nowhere(page: Page, caplog: pytest.LogCaptureFixture) -> None:
    with page.connect() as connection:
        connection.sendall(b"\x00\x01\x02\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 400 ")
    assert not caplog.records


def test_a_port_that_is_taken(page: Page) -> None:
    with pytest.raises(StartupError, match=f"HTTP cannot listen on 127.0.0.1:{page.port}: Address already in use$"):
        asyncio.run(HttpServer("127.0.0.1", page.port, EMPTY, lambda: (True, "")).start())


def test_an_address_that_is_none() -> None:
    with pytest.raises(StartupError, match=r"HTTP cannot listen on host\.invalid:0: "):
        asyncio.run(HttpServer("host.invalid", 0, EMPTY, lambda: (True, "")).start())


async def test_stop_may_come_twice_or_before_start() -> None:
    server = HttpServer("127.0.0.1", 0, EMPTY, lambda: (True, ""))
    await server.stop()
    await server.start()
    await server.stop()
    await server.stop()


async def test_the_port_is_free_after_stop() -> None:
    first = HttpServer("127.0.0.1", 0, EMPTY, lambda: (True, ""))
    port = await first.start()
    await first.stop()
    second = HttpServer("127.0.0.1", port, EMPTY, lambda: (True, ""))
    assert await second.start() == port
    await second.stop()


async def test_signal_handlers_stay_those_of_the_process() -> None:
    def handlers() -> list[object]:
        return [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]

    before, server = handlers(), HttpServer("127.0.0.1", 0, EMPTY, lambda: (True, ""))
    await server.start()
    assert handlers() == before
    await server.stop()
    assert handlers() == before


@pytest.mark.load
def test_twenty_probes_at_once_are_answered_within_a_second(page: Page) -> None:
    def probe(connection: socket.socket) -> float:
        began = time.monotonic()
        connection.connect(("127.0.0.1", page.port))
        connection.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 200 ")
        return time.monotonic() - began

    at_once = threading.Event()
    page.loop.call_soon_threadsafe(at_once.wait, 20)  # no connection is accepted until all of them have been requested
    connections = [socket.socket() for _ in range(20)]
    with ThreadPoolExecutor(len(connections)) as threads:
        for connection in connections:
            connection.settimeout(10)
        probes = [threads.submit(probe, connection) for connection in connections]
        _wait_until_connected(connections)
        at_once.set()
        assert max(done.result() for done in probes) < 1.0
    for connection in connections:
        connection.close()


def _wait_until_connected(connections: list[socket.socket], seconds: float = 5.0) -> None:
    """A connection beyond the backlog is not established: its packets are dropped, and sent again after a second."""
    until = time.monotonic() + seconds
    for connection in connections:
        while time.monotonic() < until:
            try:
                connection.getpeername()
                break
            except OSError:
                time.sleep(0.001)


def test_two_hundred_scrapes_at_once_share_renderings(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    renderings = []
    render = Exposition.render

    def counted(self: Exposition, accept: str) -> tuple[bytes, str]:
        renderings.append(accept)
        return render(self, accept)

    monkeypatch.setattr(Exposition, "render", counted)
    with ThreadPoolExecutor(200) as threads:
        answers = list(threads.map(lambda _: page.ask("/metrics"), range(200)))
    assert [status for status, _, _ in answers] == [200] * 200
    assert {body for _, body, _ in answers} == {answers[0][1]}
    assert 1 <= len(renderings) < 200


def test_a_scrape_shows_what_was_counted_before_it_was_sent(page: Page) -> None:
    gauge = Gauge("moment", "What was set last.", registry=page.registry)
    for value in range(20):
        gauge.set(value)
        assert f"moment {value}.0\n".encode() in page.ask("/metrics")[1]


class Slow(CollectorRegistry):
    """A registry whose collection blocks until it is released."""

    def __init__(self) -> None:
        super().__init__()
        self.began, self.go_on = threading.Event(), threading.Event()

    def collect(self) -> Iterator[Metric]:
        self.began.set()
        assert self.go_on.wait(20)
        yield from super().collect()


def test_the_event_loop_runs_on_while_metrics_are_rendered() -> None:
    slow = Slow()
    page = Page(slow)
    try:
        with ThreadPoolExecutor(1) as thread:
            scrape = thread.submit(page.ask, "/metrics")
            assert slow.began.wait(15)
            assert page.ask("/healthz")[0] == 200
            assert not scrape.done()
            slow.go_on.set()
            assert scrape.result(20)[0] == 200
    finally:
        slow.go_on.set()
        page.close()


def test_a_health_check_that_fails_is_an_error_of_the_server(page: Page, caplog: pytest.LogCaptureFixture) -> None:
    page.health = ()  # type: ignore[assignment]
    assert page.ask("/healthz")[0] == 500
    page.stop()
    assert "Exception in ASGI application" in caplog.text


@pytest.mark.load
def test_a_kept_connection_does_not_wait_for_acknowledgements(page: Page) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", page.port, timeout=5)
    began = time.monotonic()
    for _ in range(100):
        connection.request("GET", "/healthz")
        assert connection.getresponse().read() == b"serving\n"
    assert time.monotonic() - began < 2.0  # with Nagle's algorithm, 40 ms each
    connection.close()


@pytest.mark.load
def test_open_connections_do_not_hold_up_the_stop(page: Page) -> None:
    kept, silent, half = page.connect(), page.connect(), page.connect()
    with kept, silent, half:
        kept.sendall(b"GET /healthz HTTP/1.1\r\nHost: here\r\n\r\n")
        answer = b""
        while not answer.endswith(b"serving\n"):
            answer += kept.recv(1000)
        half.sendall(b"GET /healthz HTTP/1.1\r\nHo")
        began = time.monotonic()
        page.stop()
        assert time.monotonic() - began < 1.0
        assert [connection.recv(10) for connection in (kept, silent, half)] == [b""] * 3


@pytest.mark.parametrize("sent", [b"", b"GET /healthz HTTP/1.1\r\nHo", b"GET /healthz HTTP/1.1\r\nHost: here\r\n\r\n"])
def test_a_connection_without_a_whole_request_is_closed_after_a_time(sent: bytes) -> None:
    page = Page(idle_s=0.2)
    try:
        with page.connect() as connection:
            connection.sendall(sent)
            while connection.recv(1000):
                pass
    finally:
        page.close()


def test_a_client_that_does_not_read_is_dropped_after_a_time() -> None:
    page = Page(idle_s=0.2)
    size = 16 << 20
    Gauge("large", "x" * size, registry=page.registry)
    try:
        with page.connect() as connection:
            connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n")
            assert connection.recv(1)
            until = time.monotonic() + 30
            while page.server.num_connections and time.monotonic() < until:
                time.sleep(0.01)
            assert read_all(connection) < size
    finally:
        page.close()


@pytest.mark.load
def test_a_client_that_does_not_read_holds_up_the_stop_for_no_longer_than_the_grace(page: Page) -> None:
    size = 16 << 20
    Gauge("large", "x" * size, registry=page.registry)
    with page.connect() as connection:
        connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n")
        assert connection.recv(1)
        began = time.monotonic()
        page.stop()
        assert time.monotonic() - began < http_server.GRACE_S + 2.0
        assert read_all(connection) < size


def read_all(connection: socket.socket) -> int:
    """Reads to the end; returns the number of bytes."""
    num_bytes = 0
    while data := connection.recv(1 << 20):
        num_bytes += len(data)
    return num_bytes
