# SPDX-License-Identifier: Apache-2.0
"""The gRPC server: all services on one port. ``app.py`` makes, starts and stops it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection

from attnserve.v1 import caption_pb2, model_pb2, translation_pb2
from attnserve_server.config import GrpcConfig
from attnserve_server.dataplane.plane import DataPlane
from attnserve_server.errors import StartupError
from attnserve_server.transport.rpc.access import Access
from attnserve_server.transport.rpc.calls import service_handler
from attnserve_server.transport.rpc.health import HealthBoard, HealthServicer
from attnserve_server.transport.rpc.v1.caption import CaptionServicer
from attnserve_server.transport.rpc.v1.model import ModelServicer
from attnserve_server.transport.rpc.v1.translation import TranslationServicer

TRANSLATION = translation_pb2.DESCRIPTOR.services_by_name["TranslationService"]
CAPTION = caption_pb2.DESCRIPTOR.services_by_name["CaptionService"]
MODEL = model_pb2.DESCRIPTOR.services_by_name["ModelService"]
HEALTH: Any = health_pb2.DESCRIPTOR.services_by_name["Health"]
SERVICERS: tuple[tuple[Any, Callable[[DataPlane], object]], ...] = (
    (TRANSLATION, TranslationServicer),
    (CAPTION, CaptionServicer),
    (MODEL, ModelServicer),
)
"""All services that use the data plane; health does not."""

logger = logging.getLogger(__name__)


class GrpcServer:
    """One server on one port.

    Args:
        plane: handles the requests.
        board: states for ``grpc.health.v1``.
        config: address and limits.
        credentials: for TLS; None for plain connections.
        access: names the client of each call, and refuses some.
    """

    def __init__(
        self,
        plane: DataPlane,
        board: HealthBoard,
        config: GrpcConfig,
        credentials: Any = None,
        access: Access | None = None,
    ) -> None:
        self._credentials, self._access = credentials, access or Access()
        self._config, self._plane, self._board = config, plane, board
        self._server: grpc.aio.Server | None = None

    async def start(self) -> int:
        """Binds and serves; returns the port.

        Raises:
            StartupError: the address cannot be bound.
        """
        server = grpc.aio.server(options=_options(self._config))
        server.add_generic_rpc_handlers(self._handlers())
        if self._config.reflection:
            names = [*(service.full_name for service, _ in SERVICERS), HEALTH.full_name]
            reflection.enable_server_reflection([*names, reflection.SERVICE_NAME], server)
        address = _address(self._config.host, self._config.port)
        try:
            port = self._add_port(server, address)
        except RuntimeError as error:
            raise StartupError(f"gRPC cannot listen on {address}; is another server there?") from error
        await server.start()
        self._server = server
        logger.info("gRPC listens on %s", _address(self._config.host, port))
        return port

    def _add_port(self, server: grpc.aio.Server, address: str) -> int:
        if self._credentials is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, self._credentials)

    async def stop(self, grace_s: float) -> None:
        """Refuses new RPCs, waits ``grace_s`` for running ones, then cancels them. Call ``board.drain()`` first."""
        self._board.close()
        if self._server is not None:
            await self._server.stop(grace_s)

    def _handlers(self) -> tuple[grpc.GenericRpcHandler, ...]:
        plane, is_stopping = self._plane, lambda: self._plane.is_draining
        access = self._access
        handlers = [service_handler(service, make(plane), plane.recorder, is_stopping, access) for service, make in SERVICERS]
        return (*handlers, service_handler(HEALTH, HealthServicer(self._board), None, is_stopping))


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _options(config: GrpcConfig) -> list[tuple[str, int]]:
    """Returns gRPC's settings; without SO_REUSEPORT a second server on the port is an error instead of sharing its connections."""
    ping_ms = int(config.min_ping_interval_seconds * 1000)
    return [
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", config.max_message_bytes),
        ("grpc.max_concurrent_streams", config.max_concurrent_streams),
        ("grpc.keepalive_time_ms", int(config.keepalive_seconds * 1000)),
        ("grpc.keepalive_timeout_ms", int(config.keepalive_timeout_seconds * 1000)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", ping_ms),
    ]
