# SPDX-License-Identifier: Apache-2.0
"""A thread that watches the event loop, and answers probes in its place while it is stuck. ``app.py`` starts and stops it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import selectors
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from typing import cast

logger = logging.getLogger(__name__)

STUCK_S = 3.0
"""Age of the last heartbeat above which the loop is stuck."""

END_S = 60.0
"""Age of the last heartbeat above which the process ends, so that a supervisor can start another."""

PROBE_S = 0.5
"""Longest wait for a probe's request."""


class Watchdog:
    """Watches the event loop that starts it.

    The loop sends a heartbeat several times within ``stuck_s``. Without one, the thread logs where the loop is, and answers every
    new HTTP connection with 503. After ``end_s`` it ends the process. It counts its own rounds, so a process that was stopped and
    continued, or a clock that jumps, counts as no more than one round.

    Args:
        end: called on the thread after ``end_s``; must end the process.
        stuck_s: age of the last heartbeat, in seconds, above which the loop is stuck.
        end_s: age of the last heartbeat, in seconds, above which ``end`` is called.
    """

    def __init__(self, end: Callable[[], object], stuck_s: float = STUCK_S, end_s: float = END_S) -> None:
        self._end, self._stuck_s, self._end_s = end, stuck_s, end_s
        self._tick_s = stuck_s / 6
        self._num_beats = 0
        self._timer: asyncio.TimerHandle | None = None
        self._has_stopped = threading.Event()

    def start(self, listeners: Sequence[socket.socket]) -> None:
        """Begins to watch the event loop; call it on that loop.

        Args:
            listeners: the sockets of the HTTP server.
        """
        self._loop, self._watched = asyncio.get_running_loop(), threading.get_ident()
        self._beat()
        threading.Thread(target=self._run, args=(listeners,), name="watchdog", daemon=True).start()

    def stop(self) -> None:
        """Ends the thread; call it on the event loop. Does nothing if it has not started."""
        if self._timer is not None:
            self._timer.cancel()
        self._has_stopped.set()

    def _beat(self) -> None:
        self._num_beats += 1
        self._timer = self._loop.call_later(self._tick_s, self._beat)

    def _run(self, listeners: Sequence[socket.socket]) -> None:
        last, age_s = -1, 0.0
        with selectors.DefaultSelector() as probes:
            for listener in listeners:
                probes.register(listener, selectors.EVENT_READ)
            while not self._has_stopped.is_set():
                began = time.monotonic()
                if age_s > self._stuck_s:
                    self._answer(probes, age_s)
                else:
                    self._has_stopped.wait(self._tick_s)
                before_s, age_s = age_s, age_s + min(time.monotonic() - began, 2 * self._tick_s)
                if last != self._num_beats:
                    last, age_s = self._num_beats, 0.0
                elif not self._has_stopped.is_set():
                    self._act(before_s, age_s)

    def _answer(self, probes: selectors.BaseSelector, age_s: float) -> None:
        """Answers connections that arrive within a tick, unless the loop runs again."""
        num_beats = self._num_beats
        for key, _ in probes.select(self._tick_s):
            if num_beats != self._num_beats:
                return
            with contextlib.suppress(OSError):  # the client is slow or gone, or the loop has taken the connection
                connection, _ = cast(socket.socket, key.fileobj).accept()
                with connection:
                    connection.settimeout(PROBE_S)
                    connection.recv(65536)
                    connection.sendall(_refusal(age_s))

    def _act(self, before_s: float, age_s: float) -> None:
        if before_s <= self._stuck_s < age_s:
            frame = sys._current_frames().get(self._watched)  # noqa: SLF001  the documented way to another thread's stack
            stack = "".join(traceback.format_stack(frame)) if frame is not None else "unknown"
            logger.critical("the event loop has not run for %.1f s; it is at:\n%s", age_s, stack)
        if before_s <= self._end_s < age_s:
            logger.critical("the event loop has not run for %.1f s: the process ends", age_s)
            self._end()


def end_process(before: Callable[[], object]) -> None:
    """Ends the process with code 1, after ``before`` and after what was logged is written; waits for no other thread."""
    before()
    for handler in logging.getLogger().handlers:
        handler.flush()
    os._exit(1)


def _refusal(age_s: float) -> bytes:
    body = f"the event loop has not run for {age_s:.1f} s\n"
    head = f"HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {len(body)}\r\n"
    return f"{head}Connection: close\r\n\r\n{body}".encode()
