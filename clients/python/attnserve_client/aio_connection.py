# SPDX-License-Identifier: Apache-2.0
"""The part of a client that depends on no task: connect, list models, check health."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable
from types import TracebackType
from typing import Self, TypeVar

import grpc
import grpc.aio
from google.protobuf.wrappers_pb2 import StringValue

from attnserve.v1 import model_pb2
from attnserve_client import convert, health, methods
from attnserve_client.aio_calls import AioCalls
from attnserve_client.channel import DEFAULT_ADDRESS, DEFAULT_TIMEOUT_S, checked_address, metadata_of, options_of
from attnserve_client.errors import AttnserveError
from attnserve_client.fields import new_request
from attnserve_client.methods import ResponseT
from attnserve_client.retry import NO_RETRIES, RetryPolicy, policy_of
from attnserve_client.types import Model, ModelDetails

ValueT = TypeVar("ValueT")


class AioConnection:
    """The part of ``AsyncClient`` that depends on no task; see there for the arguments."""

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        credentials: grpc.ChannelCredentials | None = None,
        *,
        timeout: float = DEFAULT_TIMEOUT_S,
        retries: int | RetryPolicy = RetryPolicy(),  # noqa: B008 - frozen
        client_id: str = "",
        token: str = "",
    ) -> None:
        self.address, metadata = checked_address(address), metadata_of(client_id, token)
        options = options_of(address)
        if credentials is None:
            self._channel = grpc.aio.insecure_channel(address, options=options)
        else:
            self._channel = grpc.aio.secure_channel(address, credentials, options=options)
        self._calls = AioCalls(self._channel, address, policy_of(retries), timeout, metadata)

    def __repr__(self) -> str:
        """Returns the kind of client, its address, and whether it is closed."""
        return f"<{type(self).__name__} of {self.address}, {'closed' if self._calls.is_closed else 'open'}>"

    async def close(self) -> None:
        """Cancels the running calls and closes the connection; later calls raise ``ClientClosed``."""
        self._calls.is_closed = True
        await self._channel.close()

    async def __aenter__(self) -> Self:
        """Returns the client, which is closed at the end of the block."""
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Closes the client."""
        await self.close()

    async def list_models(self, *, timeout: float | None = None) -> list[Model]:
        """Returns all models and versions that the server has, sorted by id, then by version."""
        request = model_pb2.ListModelsRequest()
        return convert.models_from_proto(await self._calls.unary(methods.LIST_MODELS, request, timeout))

    async def get_model(self, model: str, version: str = "", *, timeout: float | None = None) -> ModelDetails:
        """Returns one model with its manifest; the newest version if ``version`` is empty."""
        request = new_request(model_pb2.GetModelRequest, model, version)
        return convert.details_from_proto(await self._calls.unary(methods.GET_MODEL, request, timeout))

    async def is_healthy(self, service: str = "", *, timeout: float = health.CHECK_TIMEOUT_S) -> bool:
        """Tells whether the server, or one of its services or models, reports SERVING; False if the server does not answer."""
        try:
            answer = await self._calls.unary(methods.HEALTH_CHECK, StringValue(value=service), timeout, NO_RETRIES)
        except AttnserveError as error:
            if health.means_down(error):
                return False
            raise
        return answer.value == methods.HEALTH_SERVING

    async def wait_ready(self, timeout: float = DEFAULT_TIMEOUT_S, service: str = "") -> None:
        """Waits until ``is_healthy`` is true.

        Raises:
            DeadlineExceeded: the server was not healthy within ``timeout`` seconds.
        """
        deadline = time.monotonic() + timeout
        while not await self.is_healthy(service, timeout=max(health.POLL_S, deadline - time.monotonic())):
            if time.monotonic() + health.POLL_S > deadline:
                raise health.not_ready(self.address, timeout)
            await asyncio.sleep(health.POLL_S)


async def events(messages: AsyncGenerator[ResponseT], make: Callable[[ResponseT], ValueT | None]) -> AsyncGenerator[ValueT]:
    """Yields the values that ``make`` returns for a stream's messages, except None; closes the stream at its end."""
    async with contextlib.aclosing(messages):
        async for message in messages:
            event = make(message)
            if event is not None:
                yield event


async def values(
    outcomes: AsyncGenerator[ResponseT | AttnserveError], make: Callable[[ResponseT], ValueT], is_raising: bool
) -> AsyncGenerator[ValueT | AttnserveError]:
    """Converts the answers to many calls by ``make``; yields values and errors; closes ``outcomes`` at its end.

    Raises:
        AttnserveError: the first error in order, if ``is_raising``.
    """
    async with contextlib.aclosing(outcomes):
        async for outcome in outcomes:
            yield convert.value_of_outcome(outcome, make, is_raising)
