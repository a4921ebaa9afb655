# SPDX-License-Identifier: Apache-2.0
"""``grpc.health.v1``: the readiness of each model, and the service that reports it.

The servicer of grpcio-health-checking 1.81 drops all watchers of a service when one of them disconnects, and its open watches block
a graceful stop; this module replaces it. Must not import grpc.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable

from grpc_health.v1 import health_pb2

from attnserve_server.dataplane.call import Call
from attnserve_server.errors import ModelNotFound

WatchResponses = AsyncGenerator[health_pb2.HealthCheckResponse, None]

WHOLE_SERVER = ""


class HealthBoard:
    """Readiness of models. Each model id is a service name, serving if all its versions are ready; "" is the whole server.

    All methods must be called on the event loop, except :attr:`is_serving` and :meth:`summary`, which any thread may call.

    Args:
        model_ids: expected models; none of them is ready initially.
    """

    def __init__(self, model_ids: Iterable[str] = ()) -> None:
        self._is_ready = {(model_id, ""): False for model_id in model_ids}
        self._is_draining = self._is_closed = False
        self._changed = asyncio.Event()

    @property
    def is_serving(self) -> bool:
        """Whether the whole server is serving: it has models, all are ready, and it is not draining."""
        return not self._is_draining and bool(self._is_ready) and all(self._is_ready.copy().values())

    @property
    def is_closed(self) -> bool:
        """Whether all watches have been ended."""
        return self._is_closed

    def summary(self) -> str:
        """Returns the state in one line."""
        if self._is_draining:
            return "draining"
        waiting = sorted({model_id for (model_id, _), is_ready in self._is_ready.copy().items() if not is_ready})
        return f"not ready: {', '.join(waiting)}" if waiting else "ok" if self._is_ready else "no models"

    def set_ready(self, model_id: str, is_ready: bool, version: str = "") -> None:
        """Sets whether a version of a model is ready; adds unknown ones."""
        self._is_ready[model_id, version] = is_ready
        self._wake()

    def remove(self, model_id: str, version: str = "") -> None:
        """Removes a version of a model that is no longer served."""
        self._is_ready.pop((model_id, version), None)
        self._wake()

    def drain(self) -> None:
        """Reports NOT_SERVING for everything from now on: the first step of a shutdown."""
        self._is_draining = True
        self._wake()

    def close(self) -> None:
        """Drains, and ends all watches, which would block the server's stop."""
        self._is_closed = True
        self.drain()

    def status(self, service: str) -> int | None:
        """Returns the status of a service name; None if it is unknown."""
        if service == WHOLE_SERVER:
            is_serving = self.is_serving
        else:
            versions = [is_ready for (model_id, _), is_ready in self._is_ready.items() if model_id == service]
            if not versions:
                return None
            is_serving = all(versions) and not self._is_draining
        return health_pb2.HealthCheckResponse.SERVING if is_serving else health_pb2.HealthCheckResponse.NOT_SERVING

    async def wait_for_change(self) -> None:
        """Waits until the state of any model changes."""
        await self._changed.wait()

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


class HealthServicer:
    """Answers the RPCs of ``grpc.health.v1.Health`` from a board."""

    def __init__(self, board: HealthBoard) -> None:
        self._board = board

    async def check(self, request: health_pb2.HealthCheckRequest, call: Call) -> health_pb2.HealthCheckResponse:
        """Answers with the current status.

        Raises:
            ModelNotFound: the service name is unknown.
        """
        del call
        status = self._board.status(request.service)
        if status is None:
            raise ModelNotFound("no such service; names are model ids, or empty for the whole server", field="service")
        return health_pb2.HealthCheckResponse(status=status)

    async def watch(self, request: health_pb2.HealthCheckRequest, call: Call) -> WatchResponses:
        """Yields the current status and every change; SERVICE_UNKNOWN while the service name is unknown."""
        del call
        last = None
        while True:
            status = self._board.status(request.service)
            if status is None:
                status = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
            if status != last:
                last = status
                yield health_pb2.HealthCheckResponse(status=status)
                continue  # the state may have changed while the message was sent
            if self._board.is_closed:
                return
            await self._board.wait_for_change()
