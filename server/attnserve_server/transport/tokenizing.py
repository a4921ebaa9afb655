# SPDX-License-Identifier: Apache-2.0
"""Splitting and tokenizing beside the event loop: short texts inline, long ones in threads. Must not import grpc."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from attnserve_server.errors import Overloaded

T = TypeVar("T")

MAX_INLINE_CHARS = 512
"""A text of this size is tokenized in some 20 µs, less than the way to a thread and back costs."""

MAX_PENDING = 64
"""Long texts that may wait for a thread; more are refused, for no queue grows without bound."""

_NUM_THREADS = 2
_RETRY_S = 0.1


class Tokenizing:
    """Runs tokenizers for the event loop, which no text may hold up. Its threads start with the first long text."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(max_workers=_NUM_THREADS, thread_name_prefix="tokenizer")
        self._places = threading.BoundedSemaphore(MAX_PENDING)

    async def run(self, num_chars: int, work: Callable[[], T]) -> T:
        """Returns what ``work`` makes of a text of that size.

        Raises:
            Overloaded: too many long texts wait.
        """
        if num_chars <= MAX_INLINE_CHARS:
            return work()
        if not self._places.acquire(blocking=False):
            raise Overloaded("too many long texts at once; try again", retry_after_s=_RETRY_S)
        future = self._threads.submit(work)
        future.add_done_callback(lambda _: self._places.release())  # also where the client left before its turn
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Drops what waits, and lets the threads end."""
        self._threads.shutdown(wait=False, cancel_futures=True)
