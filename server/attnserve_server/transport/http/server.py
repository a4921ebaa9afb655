# SPDX-License-Identifier: Apache-2.0
"""The HTTP server: Starlette's routes over Uvicorn, on the front's event loop. ``app.py`` makes, starts and stops it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import socket
import ssl
from collections.abc import Iterator
from typing import Any, cast

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol

from attnserve_server.metrics.exposition import Exposition
from attnserve_server.transport.http.health import Health, HealthPage
from attnserve_server.transport.http.metrics import MetricsPage
from attnserve_server.transport.listen import addresses_of, bound_socket, cannot_listen

logger = logging.getLogger(__name__)

BACKLOG = 1024
"""Connections that may wait to be accepted; the kernel's ``net.core.somaxconn`` is another limit."""

IDLE_S = 10.0
"""Seconds after which a connection with an incomplete request or an unread answer is closed."""

GRACE_S = 1
"""Seconds that answers in progress get when the server stops."""


class HttpServer:
    """Serves a registry and a health check.

    Args:
        host: name or address to bind; all addresses that it resolves to.
        port: 0 for a free one.
        exposition: content of ``/metrics``.
        health: state for ``/healthz``, shown as 200 or 503.
        idle_s: seconds after which a connection with an incomplete request or an unread answer is closed.
        tls: the context of its connections; None for plain ones.
    """

    def __init__(
        self,
        host: str,
        port: int,
        exposition: Exposition,
        health: Health,
        idle_s: float = IDLE_S,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._address, self._idle_s, self._tls = (host, port), idle_s, tls
        self._exposition, self._health = exposition, health
        self._server: _Server | None = None
        self.listeners: list[socket.socket] = []

    @property
    def num_connections(self) -> int:
        """Number of open connections."""
        return len(self._server.server_state.connections) if self._server else 0

    async def start(self) -> int:
        """Binds and serves; returns the port.

        Raises:
            StartupError: the address cannot be bound.
        """
        self.listeners = await self._bind()
        port = int(self.listeners[0].getsockname()[1])
        self._metrics = MetricsPage(self._exposition)
        self._server = _Server(_config(_routes(self._metrics, HealthPage(self._health)), self._idle_s, self._tls))
        self._serving = asyncio.create_task(self._server.serve(self.listeners), name="http")
        await asyncio.wait({self._serving, self._server.is_listening}, return_when=asyncio.FIRST_COMPLETED)
        if self._serving.done():
            await self._serving
        return port

    async def ended(self) -> None:
        """Returns when it serves no longer, for whatever reason."""
        await asyncio.wait({self._serving})

    async def stop(self) -> None:
        """Stops serving and closes all sockets; does nothing if it is not serving."""
        server, self._server = self._server, None
        if server is None:
            return
        server.end()
        try:
            await self._serving
        finally:
            for listener in self.listeners:
                listener.close()
        for connection in list(server.server_state.connections):  # those with unread answers
            connection.transport.abort()
        self._metrics.close()

    async def _bind(self) -> list[socket.socket]:
        """Returns a listening socket for each address of the host, all with one port."""
        host, port = self._address
        addresses, listeners = await addresses_of(host, port, "HTTP"), list[socket.socket]()
        for address in addresses:
            try:
                listeners.append(bound_socket(address, port))
                listeners[-1].listen(BACKLOG)
            except OSError as error:
                for listener in listeners:
                    listener.close()
                raise cannot_listen("HTTP", address.at(port), error) from error
            port = int(listeners[0].getsockname()[1])
        logger.info("HTTP listens on %s", ", ".join(address.at(port) for address in addresses))
        return listeners


class _Server(uvicorn.Server):
    """Uvicorn without signal handlers, so that the process's own handlers stay, which drain first."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.is_listening: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._ends = asyncio.Event()

    def end(self) -> None:
        """Makes :meth:`serve` shut down and return."""
        self.should_exit = True
        self._ends.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Installs no signal handlers."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listens, and sets ``is_listening``."""
        await super().startup(sockets)
        self.is_listening.set_result(None)

    async def main_loop(self) -> None:
        """Updates the Date header every second until :meth:`end`; Uvicorn's own loop wakes ten times a second."""
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ends.wait(), 1.0)


class _Connection(H11Protocol):
    """One connection with an idle timeout; Uvicorn has none for incomplete requests and unread answers."""

    def __init__(self, idle_s: float, **rest: Any) -> None:
        super().__init__(**rest)
        self._idle_s = idle_s

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Starts the idle timer."""
        super().connection_made(transport)
        self._idle_since = self.loop.time()
        self._check = self.loop.call_later(self._idle_s, self._end_if_idle)

    def on_response_complete(self) -> None:
        """Restarts the idle time."""
        self._idle_since = self.loop.time()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancels the idle timer."""
        self._check.cancel()
        super().connection_lost(exc)

    def _end_if_idle(self) -> None:
        is_answering = self.cycle is not None and not self.cycle.response_complete
        left_s = self._idle_s if is_answering else self._idle_since + self._idle_s - self.loop.time()
        if left_s > 0:
            self._check = self.loop.call_later(left_s, self._end_if_idle)
        else:
            self.transport.abort()


def _config(routes: Starlette, idle_s: float, tls: ssl.SSLContext | None) -> uvicorn.Config:
    """Returns Uvicorn's settings: it logs only errors, and uses no environment variables and no lifespan events."""
    config = uvicorn.Config(
        routes,
        http=cast(Any, functools.partial(_Connection, idle_s)),  # called like the class
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        log_level=logging.ERROR,
        access_log=False,
        workers=1,
        proxy_headers=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=int(idle_s),
        timeout_graceful_shutdown=GRACE_S,
    )
    config.load()
    config.ssl = tls  # Uvicorn itself makes a context from files only
    return config


def _routes(metrics: MetricsPage, health: HealthPage) -> Starlette:
    """Returns the two endpoints; any other path is 404, any other method 501."""
    routes = [Route("/metrics", metrics.get), Route("/healthz", health.get)]
    app = Starlette(routes=routes, exception_handlers={404: _refuse, 405: _refuse})
    app.router.redirect_slashes = False
    return app


async def _refuse(request: Request, error: Exception) -> Response:
    del error
    if request.method not in ("GET", "HEAD"):
        return PlainTextResponse("not supported; use GET or HEAD\n", 501)
    return PlainTextResponse("not found; the paths are /metrics and /healthz\n", 404)
