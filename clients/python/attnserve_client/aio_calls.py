# SPDX-License-Identifier: Apache-2.0
"""Single remote calls on a channel: deadlines, retries, streams. It depends on no particular method.

Concurrent calls are in ``aio_many.py`` and ``sync_many.py``, which are written by hand: their concurrency differs.
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
            AttnserveError: the error of the last attempt.
        """
        attempts, invoke = self.attempts(timeout, policy), self.unary_callable(method)
        while True:
            self.check_open()
            try:
                response: ResponseT = await invoke(request, timeout=attempts.remaining_s(), metadata=self.metadata)
                return response
            except grpc.RpcError as rpc_error:
                error = error_of_call(rpc_error, self.address)
            await asyncio.sleep(attempts.delay_or_raise(error))

    async def stream(
        self, method: Method[RequestT, ResponseT], request: RequestT, timeout: float | None = None
    ) -> AsyncGenerator[ResponseT]:
        """Yields the answers to one request as they arrive; closing the generator cancels the call.

        Raises:
            AttnserveError: the error of the stream; it is retried only if no message has arrived.
        """
        attempts, invoke = self.attempts(timeout), self.stream_callable(method)
        while True:
            self.check_open()
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
