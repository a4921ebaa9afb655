# SPDX-License-Identifier: Apache-2.0
"""Remote calls on a channel, one at a time: deadlines, retries, streams. Knows methods, not what they mean.

Many calls in flight are in the two ``*_many.py``, which are written by hand: they share no concurrency.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import grpc

from attnserve_client.calls import Calls
from attnserve_client.methods import Method, RequestT, ResponseT
from attnserve_client.retry import RetryPolicy
from attnserve_client.status import error_of_call


class AioCalls(Calls):
    """Calls methods on one channel."""

    async def unary(
        self,
        method: Method[RequestT, ResponseT],
        request: RequestT,
        timeout: float | None = None,
        policy: RetryPolicy | None = None,
    ) -> ResponseT:
        """Returns the answer to one request. Cancelling a task that awaits it cancels the call.

        Raises:
            AttnserveError: what the last attempt ended with.
        """
        attempts, invoke = self.attempts(timeout, policy), self.unary_callable(method)
        while True:
            try:
                response: ResponseT = await invoke(request, timeout=attempts.remaining_s(), metadata=self.metadata)
                return response
            except grpc.RpcError as rpc_error:
                error = error_of_call(rpc_error, self.address)
            await asyncio.sleep(attempts.delay_or_raise(error))

    async def stream(
        self, method: Method[RequestT, ResponseT], request: RequestT, timeout: float | None = None
    ) -> AsyncGenerator[ResponseT]:
        """Yields the answers to one request as they come; closing the generator cancels the call.

        Raises:
            AttnserveError: what the stream ended with; it is tried again only as long as nothing arrived.
        """
        attempts, invoke = self.attempts(timeout), self.stream_callable(method)
        while True:
            call, has_arrived = invoke(request, timeout=attempts.remaining_s(), metadata=self.metadata), False
            try:
                async for response in call:
                    has_arrived = True
                    yield response
                return
            except grpc.RpcError as rpc_error:
                error = error_of_call(rpc_error, self.address)
            finally:
                call.cancel()
            if has_arrived:
                raise error
            await asyncio.sleep(attempts.delay_or_raise(error))
