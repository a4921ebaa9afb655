# SPDX-License-Identifier: Apache-2.0
"""The shared part of calls on a blocking and on an aio channel; see ``aio_calls.py`` and the two ``*_many.py``.

The clients retry by ``retry.py`` and not by gRPC's ``retryPolicy`` in the channel's service config, because ``retryPolicy``
obeys ``grpc-retry-pushback-ms`` but not ``google.rpc.RetryInfo``, reads a status code but not its reason (a message over the size
limit is ``RESOURCE_EXHAUSTED`` too, and always fails again), and makes at most five attempts. Both
together would multiply the attempts. gRPC's transparent retries, of calls that never left the client, stay enabled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from attnserve_client import trace
from attnserve_client.errors import ClientClosed
from attnserve_client.methods import Method, RequestT, ResponseT
from attnserve_client.retry import Attempts, RetryPolicy


class Calls:
    """Calls methods on one channel.

    Args:
        channel: blocking or aio; the caller closes it.
        address: the server's address, for messages.
        policy: default retry policy.
        timeout_s: default timeout in seconds; ``math.inf`` for no deadline.
        metadata: sent with every call, beside the trace of the current span.
    """

    def __init__(
        self, channel: Any, address: str, policy: RetryPolicy, timeout_s: float, metadata: Sequence[tuple[str, str]] = ()
    ) -> None:
        self._channel, self._policy, self._timeout_s = channel, policy, timeout_s
        self.address, self._metadata = address, tuple(metadata)
        self._callables: dict[str, Any] = {}
        self.is_closed = False
        """Whether the caller has closed the channel."""

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Metadata of a call that begins now."""
        return self._metadata + trace.current()

    def check_open(self) -> None:
        """Checks before each attempt that the channel is open; gRPC raises other errors, one on each kind of channel.

        Raises:
            ClientClosed: it is not.
        """
        if self.is_closed:
            raise ClientClosed("the client is closed")

    def attempts(self, timeout: float | None, policy: RetryPolicy | None = None) -> Attempts:
        """Starts the clock of one call."""
        return Attempts(policy or self._policy, self._timeout_s if timeout is None else timeout)

    def unary_callable(self, method: Method[RequestT, ResponseT]) -> Any:
        """Returns gRPC's callable of a unary method."""
        return self._callable(method, self._channel.unary_unary)

    def stream_callable(self, method: Method[RequestT, ResponseT]) -> Any:
        """Returns gRPC's callable of a streaming method."""
        return self._callable(method, self._channel.unary_stream)

    def _callable(self, method: Method[RequestT, ResponseT], make: Callable[..., Any]) -> Any:
        if method.path not in self._callables:
            self._callables[method.path] = make(
                method.path,
                request_serializer=method.request_type.SerializeToString,
                response_deserializer=method.response_type.FromString,
            )
        return self._callables[method.path]
