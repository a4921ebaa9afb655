# SPDX-License-Identifier: Apache-2.0
# Generated from aio_connection.py by make_sync.py: do not edit.
"""The part of a client that depends on no task: connect, list models, check health."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator
from types import TracebackType
from typing import Self, TypeVar

import grpc
from google.protobuf.wrappers_pb2 import StringValue

from attnserve.v1 import model_pb2
from attnserve_client import convert, health, methods
from attnserve_client.channel import DEFAULT_ADDRESS, DEFAULT_TIMEOUT_S, checked_address, metadata_of, options_of
from attnserve_client.errors import AttnserveError
from attnserve_client.fields import new_request
from attnserve_client.methods import ResponseT
from attnserve_client.retry import NO_RETRIES, RetryPolicy, policy_of
from attnserve_client.sync_calls import SyncCalls
from attnserve_client.types import Model, ModelDetails

ValueT = TypeVar("ValueT")


class SyncConnection:
    """The part of ``Client`` that depends on no task; see there for the arguments."""

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
            self._channel = grpc.insecure_channel(address, options=options)
        else:
            self._channel = grpc.secure_channel(address, credentials, options=options)
        self._calls = SyncCalls(self._channel, address, policy_of(retries), timeout, metadata)

    def __repr__(self) -> str:
        """Returns the kind of client, its address, and whether it is closed."""
        return f"<{type(self).__name__} of {self.address}, {'closed' if self._calls.is_closed else 'open'}>"

    def close(self) -> None:
        """Cancels the running calls and closes the connection; later calls raise ``ClientClosed``."""
        self._calls.is_closed = True
        self._channel.close()

    def __enter__(self) -> Self:
        """Returns the client, which is closed at the end of the block."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Closes the client."""
        self.close()

    def list_models(self, *, timeout: float | None = None) -> list[Model]:
        """Returns all models and versions that the server has, sorted by id, then by version."""
        request = model_pb2.ListModelsRequest()
        return convert.models_from_proto(self._calls.unary(methods.LIST_MODELS, request, timeout))

    def get_model(self, model: str, version: str = "", *, timeout: float | None = None) -> ModelDetails:
        """Returns one model with its manifest; the newest version if ``version`` is empty."""
        request = new_request(model_pb2.GetModelRequest, model, version)
        return convert.details_from_proto(self._calls.unary(methods.GET_MODEL, request, timeout))

    def is_healthy(self, service: str = "", *, timeout: float = health.CHECK_TIMEOUT_S) -> bool:
        """Tells whether the server, or one of its services or models, reports SERVING; False if the server does not answer."""
        try:
            answer = self._calls.unary(methods.HEALTH_CHECK, StringValue(value=service), timeout, NO_RETRIES)
        except AttnserveError as error:
            if health.means_down(error):
                return False
            raise
        return answer.value == methods.HEALTH_SERVING

    def wait_ready(self, timeout: float = DEFAULT_TIMEOUT_S, service: str = "") -> None:
        """Waits until ``is_healthy`` is true.

        Raises:
            DeadlineExceeded: the server was not healthy within ``timeout`` seconds.
        """
        deadline = time.monotonic() + timeout
        while not self.is_healthy(service, timeout=max(health.POLL_S, deadline - time.monotonic())):
            if time.monotonic() + health.POLL_S > deadline:
                raise health.not_ready(self.address, timeout)
            time.sleep(health.POLL_S)


def events(messages: Generator[ResponseT], make: Callable[[ResponseT], ValueT | None]) -> Generator[ValueT]:
    """Yields the values that ``make`` returns for a stream's messages, except None; closes the stream at its end."""
    with contextlib.closing(messages):
        for message in messages:
            event = make(message)
            if event is not None:
                yield event


def values(
    outcomes: Generator[ResponseT | AttnserveError], make: Callable[[ResponseT], ValueT], is_raising: bool
) -> Generator[ValueT | AttnserveError]:
    """Converts the answers to many calls by ``make``; yields values and errors; closes ``outcomes`` at its end.

    Raises:
        AttnserveError: the first error in order, if ``is_raising``.
    """
    with contextlib.closing(outcomes):
        for outcome in outcomes:
            yield convert.value_of_outcome(outcome, make, is_raising)
