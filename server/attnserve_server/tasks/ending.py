# SPDX-License-Identifier: Apache-2.0
"""Tells a thread that the request that it prepares has ended, so that it stops."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import TypeVar

from attnserve_server.errors import Cancelled

T = TypeVar("T")


class Ending:
    """The end of one request, told by the event loop to the thread that prepares it. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stop: Callable[[], object] | None = None
        self.has_ended = False
        """Whether the request has ended; nothing needs its preparation then."""

    def end(self) -> None:
        """Ends the request, and calls the function of :meth:`stopping` if the thread is within it."""
        with self._lock:
            self.has_ended = True
            if self._stop is not None:
                self._stop()

    def check(self) -> None:
        """Raises Cancelled if the request has ended."""
        if self.has_ended:
            raise Cancelled("the request ended while it was prepared")

    @contextlib.contextmanager
    def stopping(self, stop: Callable[[], object]) -> Iterator[None]:
        """Lets the end of the request call ``stop`` on any thread, at once if it has ended; not after the context has closed."""
        with self._lock:
            self._stop = stop
            if self.has_ended:
                stop()
        try:
            yield
        finally:
            with self._lock:
                self._stop = None

    def run(self, work: Callable[[], T]) -> T:
        """Returns the result of ``work``, in which :func:`current` is this object.

        Raises:
            Cancelled: the request has ended before; ``work`` is not begun.
        """
        self.check()
        token = _CURRENT.set(self)
        try:
            return work()
        finally:
            _CURRENT.reset(token)


_CURRENT: ContextVar[Ending | None] = ContextVar("ending", default=None)


def current() -> Ending:
    """Returns that of the request that this thread prepares; one that never ends where there is none."""
    return _CURRENT.get() or Ending()
