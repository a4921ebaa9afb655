# SPDX-License-Identifier: Apache-2.0
"""The HTTP page: ``/metrics`` for Prometheus and ``/healthz`` for probes, on threads of their own beside the event loop."""

from __future__ import annotations

import logging
import socket
import socketserver
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, cast
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import prometheus_client
from prometheus_client.registry import Collector

from attnserve_server.errors import StartupError

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

logger = logging.getLogger(__name__)

Health = Callable[[], tuple[bool, str]]
"""Says whether the server serves, and why not, in a few words. Called from any thread."""

_TEXT = ("Content-Type", "text/plain; charset=utf-8")
_SOCKET_TIMEOUT_S = 10.0


class MetricsServer:
    """Serves a registry and a health check.

    Args:
        host: address to bind.
        port: 0 picks a free one.
        registry: what ``/metrics`` shows.
        health: what ``/healthz`` shows, as 200 or 503.
    """

    def __init__(self, host: str, port: int, registry: Collector, health: Health) -> None:
        self._host, self._port = host, port
        self._app = page(registry, health)
        self._server: WSGIServer | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> int:
        """Binds and serves; returns the port.

        Raises:
            StartupError: the address cannot be bound.
        """
        # A second time series for every one, with the moment of its creation, is of no use here.
        prometheus_client.disable_created_metrics()
        server_class = _ThreadingServerV6 if ":" in self._host else _ThreadingServer
        try:
            server = make_server(self._host, self._port, self._app, server_class, _Handler)
        except OSError as error:
            raise StartupError(f"HTTP cannot listen on {self._host}, port {self._port}: {error.strerror or error}") from error
        self._server = server
        self._thread = threading.Thread(target=server.serve_forever, name="http", daemon=True)
        self._thread.start()
        logger.info("HTTP listens on %s, port %d", self._host, server.server_port)
        return server.server_port

    def stop(self) -> None:
        """Stops serving and closes the socket; does nothing where it does not serve."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()
        if self._thread is not None:
            self._thread.join()


def page(registry: Collector, health: Health) -> WSGIApplication:
    """Returns the WSGI application: two paths, 404 for others, 405 for other methods than GET and HEAD."""
    metrics = cast("WSGIApplication", prometheus_client.make_wsgi_app(registry))

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path not in ("/metrics", "/healthz"):
            return _answer(start_response, "404 Not Found", "not found; there are /metrics and /healthz")
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return _answer(start_response, "405 Method Not Allowed", "use GET", ("Allow", "GET, HEAD"))
        if path == "/metrics":
            environ["REQUEST_METHOD"] = "GET"  # the handler leaves out the body of a HEAD
            return metrics(environ, start_response)
        is_serving, text = health()
        return _answer(start_response, "200 OK" if is_serving else "503 Service Unavailable", text)

    return application


def _answer(start_response: StartResponse, status: str, text: str, *headers: tuple[str, str]) -> Iterable[bytes]:
    body = text.encode() + b"\n"
    start_response(status, [_TEXT, ("Content-Length", str(len(body))), *headers])
    return [body]


class _ThreadingServer(socketserver.ThreadingMixIn, WSGIServer):
    """One thread for each connection, none of which keeps the process alive."""

    daemon_threads = True


class _ThreadingServerV6(_ThreadingServer):
    address_family = socket.AF_INET6


class _Handler(WSGIRequestHandler):
    """Logs nothing, and gives up on a client that says nothing."""

    timeout = _SOCKET_TIMEOUT_S

    def log_message(self, format: str, *args: object) -> None:
        """Does nothing."""
