# SPDX-License-Identifier: Apache-2.0
"""Concurrent calls on an aio channel, with a task for each. ``sync_many.py`` does the same on a blocking channel."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncGenerator, Iterable, Iterator
from typing import Any, TypeVar

from attnserve_client.aio_calls import AioCalls
from attnserve_client.errors import AttnserveError
from attnserve_client.methods import Method, RequestT, ResponseT
from attnserve_client.window import OrderedWindow

_T = TypeVar("_T")


async def many(
    calls: AioCalls,
    method: Method[RequestT, ResponseT],
    requests: Iterable[RequestT | AttnserveError],
    timeout: float | None,
    max_in_flight: int,
) -> AsyncGenerator[ResponseT | AttnserveError]:
    """Yields each request's answer or error, in the requests' order; closing the generator cancels the running calls.

    A request is taken from ``requests`` only when a call can start, and its deadline starts then. An error among the requests is
    yielded in its place.
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
                task = asyncio.create_task(_outcome(calls, method, request, timeout))
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
    calls: AioCalls, method: Method[RequestT, ResponseT], request: RequestT | AttnserveError, timeout: float | None
) -> ResponseT | AttnserveError:
    if isinstance(request, AttnserveError):
        return request
    try:
        return await calls.unary(method, request, timeout)
    except AttnserveError as error:
        return error


def _drawn(requests: Iterator[_T], window: OrderedWindow[Any]) -> Iterator[_T]:
    """Yields requests while the window has room for them."""
    while window.has_room():
        try:
            yield next(requests)
        except StopIteration:
            return
