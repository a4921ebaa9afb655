# SPDX-License-Identifier: Apache-2.0
"""Remote calls on a blocking channel: deadlines, retries, streams, and many calls in flight. Knows methods, not what they mean.

``aio_calls.py`` is its twin; what both decide alike lives in ``retry.py``, ``window.py`` and ``status.py``.
"""

from __future__ import annotations

import functools
import heapq
import queue
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic

import grpc

from attnserve_client.calls import Calls
from attnserve_client.errors import AttnserveError
from attnserve_client.methods import Method, RequestT, ResponseT
from attnserve_client.retry import Attempts, RetryPolicy
from attnserve_client.status import error_of_call
from attnserve_client.window import OrderedWindow


class SyncCalls(Calls):
    """Calls methods on one channel."""

    def unary(
        self,
        method: Method[RequestT, ResponseT],
        request: RequestT,
        timeout: float | None = None,
        policy: RetryPolicy | None = None,
    ) -> ResponseT:
        """Returns the answer to one request.

        Raises:
            AttnserveError: what the last attempt ended with.
        """
        attempts, invoke = self._attempts(timeout, policy), self._unary(method)
        while True:
            try:
                response: ResponseT = invoke(request, timeout=attempts.remaining_s(), metadata=self._metadata)
                return response
            except grpc.RpcError as rpc_error:
                error = error_of_call(rpc_error, self._address)
            self._pause(attempts, error)

    def stream(
        self, method: Method[RequestT, ResponseT], request: RequestT, timeout: float | None = None
    ) -> Generator[ResponseT, None, None]:
        """Yields the answers to one request as they come; closing the generator cancels the call.

        Raises:
            AttnserveError: what the stream ended with; it is tried again only as long as nothing arrived.
        """
        attempts, invoke = self._attempts(timeout), self._stream(method)
        while True:
            call, has_arrived = invoke(request, timeout=attempts.remaining_s(), metadata=self._metadata), False
            try:
                for response in call:
                    has_arrived = True
                    yield response
                return
            except grpc.RpcError as rpc_error:
                error = error_of_call(rpc_error, self._address)
            finally:
                call.cancel()
            if has_arrived:
                raise error
            self._pause(attempts, error)

    def many(
        self,
        method: Method[RequestT, ResponseT],
        requests: Iterable[RequestT],
        timeout: float | None = None,
        max_in_flight: int = 64,
    ) -> Generator[ResponseT | AttnserveError, None, None]:
        """Yields each request's answer or error, in the requests' order; closing the generator cancels what is under way.

        Requests are drawn as room comes free, and each has its own deadline from then on.
        """
        pipeline: _Pipeline[RequestT, ResponseT] = _Pipeline(
            requests,
            start=functools.partial(self._unary(method).future, metadata=self._metadata),
            new_attempts=lambda: self._attempts(timeout),
            address=self._address,
            window=OrderedWindow(max_in_flight),
        )
        try:
            yield from pipeline.outcomes()
        finally:
            pipeline.cancel()

    @staticmethod
    def _pause(attempts: Attempts, error: AttnserveError) -> None:
        """Waits until the next attempt, or raises ``error`` where there is none."""
        delay = attempts.delay_after(error)
        if delay is None:
            raise error
        time.sleep(delay)


@dataclass(slots=True)
class _Open(Generic[RequestT]):
    """A request that has no outcome yet; ``future`` is its latest attempt."""

    request: RequestT
    attempts: Attempts
    future: Any = None


class _Pipeline(Generic[RequestT, ResponseT]):
    """Many unary calls at once, driven by the thread that draws their outcomes.

    gRPC's own thread only puts the number of a finished attempt into a queue; all state belongs to the drawing thread.
    """

    def __init__(
        self,
        requests: Iterable[RequestT],
        *,
        start: Callable[..., Any],
        new_attempts: Callable[[], Attempts],
        address: str,
        window: OrderedWindow[ResponseT | AttnserveError],
    ) -> None:
        self._requests: Iterator[RequestT] = iter(requests)
        self._start, self._new_attempts, self._address, self._window = start, new_attempts, address, window
        self._open: dict[int, _Open[RequestT]] = {}
        self._finished: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._due: list[tuple[float, int]] = []  # a heap: when (monotonic seconds) to try which call again

    def outcomes(self) -> Generator[ResponseT | AttnserveError, None, None]:
        """Yields outcomes in order. What is ready is handed out before the next request is drawn, which may block."""
        while True:
            yield from self._window.take_ready()
            self._fill()
            if self._window.is_empty():
                return
            self._wait()

    def cancel(self) -> None:
        """Cancels all calls that are under way."""
        for call in self._open.values():
            call.future.cancel()

    def _fill(self) -> None:
        while self._window.has_room():
            try:
                request = next(self._requests)
            except StopIteration:
                return
            index = self._window.start()
            self._open[index] = _Open(request, self._new_attempts())
            self._attempt(index)

    def _attempt(self, index: int) -> None:
        call = self._open[index]
        call.future = self._start(call.request, timeout=call.attempts.remaining_s())
        call.future.add_done_callback(lambda _: self._finished.put(index))

    def _wait(self) -> None:
        """Waits for one thing to happen, an attempt's end or a retry's time, and deals with it."""
        timeout = max(0.0, self._due[0][0] - time.monotonic()) if self._due else None
        try:
            self._settle(self._finished.get(timeout=timeout))
        except queue.Empty:
            self._attempt(heapq.heappop(self._due)[1])

    def _settle(self, index: int) -> None:
        call = self._open[index]
        if call.future.code() is grpc.StatusCode.OK:
            outcome: ResponseT | AttnserveError = call.future.result()
        else:
            outcome = error_of_call(call.future, self._address)
            delay = call.attempts.delay_after(outcome)
            if delay is not None:
                heapq.heappush(self._due, (time.monotonic() + delay, index))
                return
        del self._open[index]
        self._window.finish(index, outcome)
