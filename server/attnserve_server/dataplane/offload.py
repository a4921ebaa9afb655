# SPDX-License-Identifier: Apache-2.0
"""Work off the event loop: a few threads with a bounded queue."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from attnserve_server.errors import Overloaded, ServiceError, ShuttingDown
from attnserve_server.tasks.ending import Ending

T = TypeVar("T")

MAX_PENDING = 64
"""Requests that wait for a thread or run on one; further ones are refused."""

MAX_INLINE_CHARS = 512
"""A text of this size is tokenized in about 20 µs, less than the hand-over to a thread costs."""

_NUM_THREADS = 2
_NICE = 5
_RETRY_S = 0.1
_STOPPED = "the server stopped before the answer was ready"


def _step_back() -> None:
    """Gives this thread a lower priority than the event loop and the workers, if the system has thread priorities."""
    with contextlib.suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)


class Offload:
    """Runs work that would block the event loop. Threads start on first use.

    Args:
        name: prefix of the thread names.
        what: plural noun for the error message ("too many images at once").
    """

    def __init__(self, name: str, what: str) -> None:
        self._what = what
        self._threads = ThreadPoolExecutor(max_workers=_NUM_THREADS, thread_name_prefix=name, initializer=_step_back)
        self._places = threading.BoundedSemaphore(MAX_PENDING)
        self._running = dict[asyncio.Future[Any], Ending]()
        self._is_closed = False

    async def run(self, work: Callable[[], T]) -> T:
        """Runs ``work`` on a thread and returns its result. If this call is cancelled, ``work`` is stopped (:mod:`tasks.ending`).

        Raises:
            Overloaded: too many calls are pending.
            ShuttingDown: :meth:`close` ended it.
        """
        if not self._places.acquire(blocking=False):
            raise Overloaded(f"too many {self._what} at once; try again", retry_after_s=_RETRY_S)
        ending = Ending()
        try:
            future = self._start(functools.partial(ending.run, work))
        except ServiceError:
            self._places.release()
            raise
        future.add_done_callback(lambda _: self._places.release())  # also if the call was cancelled before it ran
        waiting = asyncio.wrap_future(future)
        self._running[waiting] = ending
        try:
            return await self._result(waiting)
        except asyncio.CancelledError:
            ending.end()
            raise
        finally:
            del self._running[waiting]

    async def finish(self, work: Callable[[], T]) -> T:
        """Runs ``work`` of an admitted request on a thread, however many calls are pending, and returns its result.

        Raises:
            Overloaded: the system refuses a thread.
            ShuttingDown: :meth:`close` came first.
        """
        return await self._result(asyncio.wrap_future(self._start(work)))

    async def _result(self, waiting: asyncio.Future[T]) -> T:
        """Waits for a result; tells a call that :meth:`close` has ended from one that was cancelled."""
        try:
            return await waiting
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._is_closed and task is not None and not task.cancelling():
                raise ShuttingDown(_STOPPED) from None
            raise

    def _start(self, work: Callable[[], T]) -> Future[T]:
        if self._is_closed:
            raise ShuttingDown(_STOPPED)
        try:
            return self._threads.submit(work)
        except RuntimeError as error:
            raise Overloaded(f"no thread for {self._what} now; try again", retry_after_s=_RETRY_S) from error

    def close(self) -> None:
        """Ends the calls of :meth:`run`, drops those of :meth:`finish` that wait for a thread, and lets the threads end."""
        self._is_closed = True
        self._threads.shutdown(wait=False, cancel_futures=True)
        for waiting, ending in self._running.items():
            ending.end()
            waiting.cancel()


class Preparing:
    """Prepares requests without blocking the event loop: small ones inline, others on threads.

    Answers are made on other threads: an image may take seconds to decode, and no answer waits for those of other requests.

    Args:
        name: prefix of the thread names.
        what: plural noun for the error message ("too many images at once").
        stop: ends what the threads wait for.
    """

    def __init__(self, name: str, what: str, stop: Callable[[], None] = lambda: None) -> None:
        self._stop = stop
        self._offload, self._answers = Offload(name, what), Offload(f"{name}-answers", "answers")
        self.num_expected = 0
        """Answers that are expected or being made (:meth:`expecting`)."""

    def is_inline(self, effort: int | None) -> bool:
        """Whether work on this many characters runs inline; None never does."""
        return effort is not None and effort <= MAX_INLINE_CHARS

    async def run(self, effort: int | None, work: Callable[[], T]) -> T:
        """Runs ``work`` inline or on a thread, by its size in characters, and returns its result.

        Raises:
            Overloaded, ShuttingDown: see :meth:`Offload.run`.
        """
        return work() if self.is_inline(effort) else await self._offload.run(work)

    @contextlib.contextmanager
    def expecting(self) -> Iterator[None]:
        """Counts an answer, from the wait for the engine on, until it is made: a shutdown waits for it."""
        self.num_expected += 1
        try:
            yield
        finally:
            self.num_expected -= 1

    async def finish(self, work: Callable[[], T]) -> T:
        """See :meth:`Offload.finish`."""
        return await self._answers.finish(work)

    def close(self) -> None:
        """See :meth:`Offload.close`."""
        self._offload.close()
        self._answers.close()
        self._stop()
