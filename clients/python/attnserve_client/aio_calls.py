# SPDX-License-Identifier: Apache-2.0
"""Remote calls on an aio channel: deadlines, retries, streams, and many calls in flight. Twin of ``sync_calls.py``."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncGenerator, Iterable, Iterator
from typing import Any

import grpc
import grpc.aio

from attnserve_client.calls import Calls
from attnserve_client.errors import AttnserveError
from attnserve_client.methods import Method, RequestT, ResponseT
from attnserve_client.retry import Attempts, RetryPolicy
from attnserve_client.status import error_of_call
from attnserve_client.window import OrderedWindow


class AioCalls(Calls):
    """Calls methods on one channel, within one event loop."""

    async def unary(
        self,
        method: Method[RequestT, ResponseT],
        request: RequestT,
        timeout: float | None = None,
        policy: RetryPolicy | None = None,
    ) -> ResponseT:
        """Returns the answer to one request; cancelling the task cancels the call.

        Raises:
            AttnserveError: what the last attempt ended with.
        """
        attempts, invoke = self._attempts(timeout, policy), self._unary(method)
        while True:
            try:
                response: ResponseT = await invoke(request, timeout=attempts.remaining_s(), metadata=self._metadata)
                return response
            except grpc.aio.AioRpcError as rpc_error:
                error = error_of_call(rpc_error, self._address)
            await self._pause(attempts, error)

    async def stream(
        self, method: Method[RequestT, ResponseT], request: RequestT, timeout: float | None = None
    ) -> AsyncGenerator[ResponseT, None]:
        """Yields the answers to one request as they come; closing the generator cancels the call.

        Raises:
            AttnserveError: what the stream ended with; it is tried again only as long as nothing arrived.
        """
        attempts, invoke = self._attempts(timeout), self._stream(method)
        while True:
            call, has_arrived = invoke(request, timeout=attempts.remaining_s(), metadata=self._metadata), False
            try:
                async for response in call:
                    has_arrived = True
                    yield response
                return
            except grpc.aio.AioRpcError as rpc_error:
                error = error_of_call(rpc_error, self._address)
            finally:
                call.cancel()
            if has_arrived:
                raise error
            await self._pause(attempts, error)

    async def many(
        self,
        method: Method[RequestT, ResponseT],
        requests: Iterable[RequestT],
        timeout: float | None = None,
        max_in_flight: int = 64,
    ) -> AsyncGenerator[ResponseT | AttnserveError, None]:
        """Yields each request's answer or error, in the requests' order; closing the generator cancels what is under way.

        Requests are drawn as room comes free, and each has its own deadline from then on.
        """
        window: OrderedWindow[asyncio.Task[ResponseT | AttnserveError]] = OrderedWindow(max_in_flight)
        running: set[asyncio.Task[ResponseT | AttnserveError]] = set()
        has_finished, remaining = asyncio.Event(), iter(requests)

        def finish(index: int, task: asyncio.Task[ResponseT | AttnserveError]) -> None:
            running.discard(task)
            window.finish(index, task)
            has_finished.set()

        try:
            while True:
                for task in window.take_ready():
                    yield task.result()
                for request in _drawn(remaining, window):
                    task = asyncio.create_task(self._outcome(method, request, timeout))
                    running.add(task)
                    task.add_done_callback(functools.partial(finish, window.start()))
                if window.is_empty():
                    return
                await has_finished.wait()
                has_finished.clear()
        finally:
            for task in running:
                task.cancel()

    async def _outcome(
        self, method: Method[RequestT, ResponseT], request: RequestT, timeout: float | None
    ) -> ResponseT | AttnserveError:
        try:
            return await self.unary(method, request, timeout)
        except AttnserveError as error:
            return error

    @staticmethod
    async def _pause(attempts: Attempts, error: AttnserveError) -> None:
        """Waits until the next attempt, or raises ``error`` where there is none."""
        delay = attempts.delay_after(error)
        if delay is None:
            raise error
        await asyncio.sleep(delay)


def _drawn(requests: Iterator[RequestT], window: OrderedWindow[Any]) -> Iterator[RequestT]:
    """Yields requests for as long as the window has room for them."""
    while window.has_room():
        try:
            yield next(requests)
        except StopIteration:
            return
