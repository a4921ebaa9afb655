# SPDX-License-Identifier: Apache-2.0
"""Concurrent calls on a blocking channel, driven by the thread that reads their outcomes.

``aio_many.py`` does the same on an aio channel; the shared decisions are in ``retry.py``, ``window.py`` and ``status.py``.
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

from attnserve_client.errors import AttnserveError
from attnserve_client.methods import Method, RequestT, ResponseT
from attnserve_client.retry import Attempts
from attnserve_client.status import error_of_call
from attnserve_client.sync_calls import SyncCalls
from attnserve_client.window import OrderedWindow


def many(
    calls: SyncCalls,
    method: Method[RequestT, ResponseT],
    requests: Iterable[RequestT | AttnserveError],
    timeout: float | None,
    max_in_flight: int,
) -> Generator[ResponseT | AttnserveError]:
    """Yields each request's answer or error, in the requests' order; closing the generator cancels the running calls.

    A request is taken from ``requests`` only when a call can start, and its deadline starts then. An error among the requests is
    yielded in its place.
    """
    invoke = functools.partial(calls.unary_callable(method).future, metadata=calls.metadata)

    def start(request: RequestT, timeout: float | None) -> Any:
        calls.check_open()
        return invoke(request, timeout=timeout)

    pipeline: _Pipeline[RequestT, ResponseT] = _Pipeline(
        requests,
        start=start,
        new_attempts=lambda: calls.attempts(timeout),
        address=calls.address,
        window=OrderedWindow(max_in_flight),
    )
    try:
        yield from pipeline.outcomes()
    finally:
        pipeline.cancel()


@dataclass(slots=True)
class _Open(Generic[RequestT]):
    """A request without an outcome; ``future`` is its latest attempt."""

    request: RequestT
    attempts: Attempts
    future: Any = None


class _Pipeline(Generic[RequestT, ResponseT]):
    """Concurrent unary calls, driven by the thread that reads their outcomes.

    gRPC's own thread only puts the number of a finished attempt into a queue; all state belongs to the reading thread.
    """

    def __init__(
        self,
        requests: Iterable[RequestT | AttnserveError],
        *,
        start: Callable[..., Any],
        new_attempts: Callable[[], Attempts],
        address: str,
        window: OrderedWindow[ResponseT | AttnserveError],
    ) -> None:
        self._requests: Iterator[RequestT | AttnserveError] = iter(requests)
        self._start, self._new_attempts, self._address, self._window = start, new_attempts, address, window
        self._open: dict[int, _Open[RequestT]] = {}
        self._finished: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._due: list[tuple[float, int]] = []  # a heap of (monotonic seconds of the next attempt, call)

    def outcomes(self) -> Generator[ResponseT | AttnserveError]:
        """Yields outcomes in order. Available outcomes are yielded before the next request is taken, which may block."""
        while True:
            yield from self._window.take_ready()
            if self._fill():
                continue
            if self._window.is_empty():
                return
            self._wait()

    def cancel(self) -> None:
        """Cancels all running calls."""
        for call in self._open.values():
            if call.future is not None:  # the client was closed before the first attempt
                call.future.cancel()

    def _fill(self) -> bool:
        """Starts calls while there is room; ends early, and returns True, if an error is in a request's place."""
        while self._window.has_room():
            try:
                request = next(self._requests)
            except StopIteration:
                return False
            index = self._window.start()
            if isinstance(request, AttnserveError):
                self._window.finish(index, request)
                return True
            self._open[index] = _Open(request, self._new_attempts())
            self._attempt(index)
        return False

    def _attempt(self, index: int) -> None:
        call = self._open[index]
        call.future = self._start(call.request, timeout=call.attempts.remaining_s())
        call.future.add_done_callback(lambda _: self._finished.put(index))

    def _wait(self) -> None:
        """Waits for one event, the end of an attempt or the time of a retry, and handles it."""
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
