# SPDX-License-Identifier: Apache-2.0
"""The gRPC server: all services on one port. ``app.py`` makes, starts and stops it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2

from attnserve.v1 import caption_pb2, classification_pb2, generation_pb2, model_pb2, segmentation_pb2, translation_pb2
from attnserve_server.config_listen import GrpcConfig
from attnserve_server.dataplane.ends import Ends
from attnserve_server.dataplane.plane import DataPlane
from attnserve_server.errors import StartupError
from attnserve_server.transport.listen import addresses_of
from attnserve_server.transport.rpc.access import Access
from attnserve_server.transport.rpc.arguments import channel_arguments
from attnserve_server.transport.rpc.arrivals import Arrivals
from attnserve_server.transport.rpc.calls import Setup, service_handler
from attnserve_server.transport.rpc.health import HealthBoard, HealthServicer
from attnserve_server.transport.rpc.reflection import enable_reflection
from attnserve_server.transport.rpc.unread import Unread
from attnserve_server.transport.rpc.v1.caption import CaptionServicer
from attnserve_server.transport.rpc.v1.classification import ClassificationServicer
from attnserve_server.transport.rpc.v1.generation import GenerationServicer
from attnserve_server.transport.rpc.v1.model import ModelServicer
from attnserve_server.transport.rpc.v1.segmentation import SegmentationServicer
from attnserve_server.transport.rpc.v1.translation import TranslationServicer

TRANSLATION = translation_pb2.DESCRIPTOR.services_by_name["TranslationService"]
CAPTION = caption_pb2.DESCRIPTOR.services_by_name["CaptionService"]
SEGMENTATION = segmentation_pb2.DESCRIPTOR.services_by_name["SegmentationService"]
CLASSIFICATION = classification_pb2.DESCRIPTOR.services_by_name["ClassificationService"]
GENERATION = generation_pb2.DESCRIPTOR.services_by_name["GenerationService"]
MODEL = model_pb2.DESCRIPTOR.services_by_name["ModelService"]
HEALTH: Any = health_pb2.DESCRIPTOR.services_by_name["Health"]
SERVICERS: tuple[tuple[Any, Callable[[DataPlane], object]], ...] = (
    (TRANSLATION, TranslationServicer),
    (CAPTION, CaptionServicer),
    (SEGMENTATION, SegmentationServicer),
    (CLASSIFICATION, ClassificationServicer),
    (GENERATION, GenerationServicer),
    (MODEL, ModelServicer),
)
"""All services that use the data plane; health does not."""

logger = logging.getLogger(__name__)

LINGER_S = 1.0
"""Longest time for which a server that stops refuses calls itself."""


class GrpcServer:
    """One server on one port.

    Args:
        plane: handles the requests.
        board: states for ``grpc.health.v1``.
        config: address and limits.
        credentials: for TLS; None for plain connections.
        access: names the client of each call, and refuses some.
        ends: records the ends of calls; None for log lines alone.
    """

    def __init__(
        self,
        plane: DataPlane,
        board: HealthBoard,
        config: GrpcConfig,
        credentials: Any = None,
        access: Access | None = None,
        ends: Ends | None = None,
    ) -> None:
        self._credentials, self._access, self._ends = credentials, access or Access(), ends
        self._config, self._plane, self._board = config, plane, board
        self._server: grpc.aio.Server | None = None
        self._unread, self._arrivals = Unread(config), Arrivals()
        self._is_cancelling = False
        plane.recorder.watch_answers(lambda: self._unread.num_bytes)

    async def start(self) -> int:
        """Binds and serves; returns the port.

        Raises:
            StartupError: the address cannot be bound.
        """
        server = grpc.aio.server(options=channel_arguments(self._config))
        server.add_generic_rpc_handlers(self._handlers())
        if self._config.reflection:
            enable_reflection([*(service.full_name for service, _ in SERVICERS), HEALTH.full_name], server)
        host, port = self._config.host, self._config.port
        addresses = await addresses_of(host, port, "gRPC")
        for address in addresses:  # the first one chooses a free port for all
            try:
                port = self._add_port(server, address.at(port))
            except RuntimeError as error:
                raise StartupError(f"gRPC cannot listen on {address.at(port)}; is another server there?") from error
        await server.start()
        self._server = server
        self._watching = asyncio.create_task(self._unread.watch(), name="unread answers")
        logger.info("gRPC listens on %s", ", ".join(address.at(port) for address in addresses))
        return port

    def _add_port(self, server: grpc.aio.Server, address: str) -> int:
        if self._credentials is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, self._credentials)

    async def stop(self, grace_s: float) -> None:
        """Refuses new RPCs, waits ``grace_s`` for running ones, then cancels them. Call ``board.drain()`` first.

        As long as calls arrive, for ``LINGER_S`` at most, the services go on refusing them with UNAVAILABLE: gRPC itself ends a
        call that arrives after the stop with CANCELLED, which clients do not retry. Without a grace it stops at once.
        """
        if grace_s:
            await self._arrivals.quiet(LINGER_S)
        self._board.close()
        if self._server is not None:
            cancels = asyncio.get_running_loop().call_later(grace_s, self._begin_cancelling)  # before gRPC's own timer
            await self._server.stop(grace_s)
            cancels.cancel()
            self._watching.cancel()

    def _begin_cancelling(self) -> None:
        self._is_cancelling = True

    def _handlers(self) -> tuple[grpc.GenericRpcHandler, ...]:
        plane, setup = self._plane, Setup(lambda: self._is_cancelling, self._unread, self._arrivals, self._access, self._ends)
        handlers = [service_handler(service, make(plane), plane.recorder, setup) for service, make in SERVICERS]
        return (*handlers, service_handler(HEALTH, HealthServicer(self._board), None, setup._replace(access=None)))
