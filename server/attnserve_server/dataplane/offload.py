# SPDX-License-Identifier: Apache-2.0
"""Work beside the event loop: a few threads, and a bounded number of requests that wait for one."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from attnserve_server.errors import Overloaded

T = TypeVar("T")

MAX_PENDING = 64
"""That may wait for a thread or have one; more are refused, for no queue grows without bound."""

MAX_INLINE_CHARS = 512
"""A text of this size is tokenized in some 20 µs, less than the way to a thread and back costs."""

_NUM_THREADS = 2
_NICE = 5
_RETRY_S = 0.1


def _step_back() -> None:
    """Lets this thread run after the event loop and the workers, where the system has priorities of threads."""
    with contextlib.suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)


class Offload:
    """Runs what would hold up the event loop. Its threads start with the first work.

    Args:
        name: of its threads.
        what: plural noun for the error message ("too many images at once").
    """

    def __init__(self, name: str, what: str) -> None:
        self._what = what
        self._threads = ThreadPoolExecutor(max_workers=_NUM_THREADS, thread_name_prefix=name, initializer=_step_back)
        self._places = threading.BoundedSemaphore(MAX_PENDING)

    async def run(self, work: Callable[[], T]) -> T:
        """Returns what ``work`` returns.

        Raises:
            Overloaded: too much waits.
        """
        if not self._places.acquire(blocking=False):
            raise Overloaded(f"too many {self._what} at once; try again", retry_after_s=_RETRY_S)
        try:
            future = self._threads.submit(work)
        except RuntimeError as error:  # the system refuses a thread
            self._places.release()
            raise Overloaded(f"no thread for {self._what} now; try again", retry_after_s=_RETRY_S) from error
        future.add_done_callback(lambda _: self._places.release())  # also where the client left before its turn
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Drops what waits, and lets the threads end."""
        self._threads.shutdown(wait=False, cancel_futures=True)


class Preparing:
    """Prepares requests for the event loop, which none of them may hold up: small ones inline, others in threads.

    Args:
        name: of the threads.
        what: plural noun for the error message ("too many images at once").
    """

    def __init__(self, name: str, what: str) -> None:
        self._offload = Offload(name, what)

    def is_inline(self, effort: int | None) -> bool:
        """Whether something of this many characters is done at once; None is for what never is."""
        return effort is not None and effort <= MAX_INLINE_CHARS

    async def run(self, effort: int | None, work: Callable[[], T]) -> T:
        """Returns what ``work`` makes of something of this size.

        Raises:
            Overloaded: too much waits.
        """
        return work() if self.is_inline(effort) else await self._offload.run(work)

    def close(self) -> None:
        """See :meth:`Offload.close`."""
        self._offload.close()
