# SPDX-License-Identifier: Apache-2.0
"""What calls on a blocking channel and on an aio channel have in common; see ``aio_calls.py`` and the two ``*_many.py``.

Why these retry by themselves, with ``retry.py``, and not by gRPC's own ``retryPolicy`` in the channel's service config: that
one obeys ``grpc-retry-pushback-ms`` but not ``google.rpc.RetryInfo``, sees a status code and not the reason behind it (a message
over the size limit is ``RESOURCE_EXHAUSTED`` too, and fails again however often it is sent), and makes five attempts at most.
gRPC's transparent retries, of calls that never left the client, stay on underneath.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from attnserve_client.methods import Method, RequestT, ResponseT
from attnserve_client.retry import Attempts, RetryPolicy


class Calls:
    """Calls methods on one channel.

    Args:
        channel: of either kind, which has the same factories of callables; closing it is the caller's business.
        address: the server's address, for messages.
        policy: of calls that name no other one.
        timeout_s: seconds for a call that names no other timeout; ``math.inf`` for no deadline.
        metadata: goes with every call.
    """

    def __init__(
        self, channel: Any, address: str, policy: RetryPolicy, timeout_s: float, metadata: Sequence[tuple[str, str]] = ()
    ) -> None:
        self._channel, self._policy, self._timeout_s = channel, policy, timeout_s
        self.address, self.metadata = address, tuple(metadata)
        self._callables: dict[str, Any] = {}

    def attempts(self, timeout: float | None, policy: RetryPolicy | None = None) -> Attempts:
        """Starts the clock of one call."""
        return Attempts(policy or self._policy, self._timeout_s if timeout is None else timeout)

    def unary_callable(self, method: Method[RequestT, ResponseT]) -> Any:
        """Returns gRPC's callable of a method that answers once."""
        return self._callable(method, self._channel.unary_unary)

    def stream_callable(self, method: Method[RequestT, ResponseT]) -> Any:
        """Returns gRPC's callable of a method that answers with a stream."""
        return self._callable(method, self._channel.unary_stream)

    def _callable(self, method: Method[RequestT, ResponseT], make: Callable[..., Any]) -> Any:
        if method.path not in self._callables:
            self._callables[method.path] = make(
                method.path,
                request_serializer=method.request_type.SerializeToString,
                response_deserializer=method.response_type.FromString,
            )
        return self._callables[method.path]
