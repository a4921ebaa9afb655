# SPDX-License-Identifier: Apache-2.0
"""The HTTP page: ``/metrics`` for Prometheus and ``/healthz`` for probes, on threads of their own beside the event loop."""

from __future__ import annotations

import gzip
import logging
import socket
import socketserver
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import cast

import prometheus_client
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import CollectorRegistry

from attnserve_server.errors import StartupError

logger = logging.getLogger(__name__)

Health = Callable[[], tuple[bool, str]]
"""Says whether the server serves, and why not, in a few words. Called from any thread."""

_PLAIN_TEXT = "text/plain; charset=utf-8"
_SOCKET_TIMEOUT_S = 10.0


class MetricsServer:
    """Serves a registry and a health check.

    Args:
        host: address to bind.
        port: 0 picks a free one.
        registry: what ``/metrics`` shows.
        health: what ``/healthz`` shows, as 200 or 503.
    """

    def __init__(self, host: str, port: int, registry: CollectorRegistry, health: Health) -> None:
        self._address = host, port
        self._registry, self._health = registry, health
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> int:
        """Binds and serves; returns the port.

        Raises:
            StartupError: the address cannot be bound.
        """
        # Without this, every series has a second one with the moment of its creation, which is of no use here.
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
        try:
            server = _Server(self._address, self._registry, self._health)
        except OSError as error:
            raise StartupError(f"HTTP cannot listen on {':'.join(map(str, self._address))}: {error.strerror or error}") from error
        self._server = server
        self._thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, name="http", daemon=True)
        self._thread.start()
        port = int(server.server_address[1])
        logger.info("HTTP listens on %s:%d", self._address[0], port)
        return port

    def stop(self) -> None:
        """Stops serving and closes the socket; does nothing where it does not serve."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()
        if self._thread is not None:
            self._thread.join()


class _Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """One thread for each connection; none of them keeps the process alive."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, address: tuple[str, int], registry: CollectorRegistry, health: Health) -> None:
        self.registry, self.health = registry, health
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, _Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """Logs what went wrong; mostly a client that left."""
        logger.debug("HTTP request of %s failed", client_address, exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    timeout = _SOCKET_TIMEOUT_S

    @property
    def _page(self) -> _Server:
        return cast(_Server, self.server)

    def do_GET(self) -> None:
        """Answers the two paths there are."""
        path = self.path.partition("?")[0]
        if path == "/metrics":
            self._send_metrics()
        elif path == "/healthz":
            is_serving, text = self._page.health()
            self._send(HTTPStatus.OK if is_serving else HTTPStatus.SERVICE_UNAVAILABLE, text.encode() + b"\n", _PLAIN_TEXT)
        else:
            self._send(HTTPStatus.NOT_FOUND, b"not found; there are /metrics and /healthz\n", _PLAIN_TEXT)

    def do_HEAD(self) -> None:
        """Answers as GET without the body."""
        self.do_GET()

    def _send_metrics(self) -> None:
        encode, content_type = choose_encoder(self.headers.get("Accept", ""))
        body = encode(self._page.registry)
        if "gzip" in self.headers.get("Accept-Encoding", ""):
            self._send(HTTPStatus.OK, gzip.compress(body, 1), content_type, ("Content-Encoding", "gzip"))
        else:
            self._send(HTTPStatus.OK, body, content_type)

    def _send(self, status: HTTPStatus, body: bytes, content_type: str, *headers: tuple[str, str]) -> None:
        self.send_response(status)
        for name, value in (("Content-Type", content_type), ("Content-Length", str(len(body))), *headers):
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Logs no scrapes."""
