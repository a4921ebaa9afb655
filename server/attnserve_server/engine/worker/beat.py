# SPDX-License-Identifier: Apache-2.0
"""Tells the front which model a worker loads, also while one part of loading takes long: making a session is one call.

ONNX Runtime lets other threads run while it makes a session. The messages end after a while: a load that hangs is found too.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable

from attnserve_server.engine.link.messages import Loading
from attnserve_server.request import ModelKey

LIMIT_S = 300.0
"""A part of loading that takes longer is silent from then on, and the front takes it for a hang."""


class Beat:
    """Says what is being loaded: at once where that changes, and again and again from a thread.

    Args:
        send: sends to the front, from any thread.
        clock: monotonic.
    """

    def __init__(self, send: Callable[[Loading], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._send, self._clock = send, clock
        self._model: ModelKey | None = None
        self._since = 0.0
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def start(self, interval_s: float) -> None:
        """Starts the thread, unless it runs; it sends after each ``interval_s``, while something is loaded."""
        if self._thread is None:
            thread = threading.Thread(target=self._run, args=(interval_s,), name="beat", daemon=True)
            with contextlib.suppress(RuntimeError):  # the system refuses one: short parts need none
                thread.start()
                self._thread = thread

    def loading(self, model: ModelKey | None) -> None:
        """A part of loading a model begins; or (None) something else does."""
        if model is None and self._model is None:
            return
        with self._lock:
            is_other, self._model, self._since = model != self._model, model, self._clock()
            if is_other:
                self._send(Loading(model))

    def _run(self, interval_s: float) -> None:
        with contextlib.suppress(OSError):  # the front is gone: the main thread will see it too
            while True:
                time.sleep(interval_s)
                with self._lock:
                    if self._model is not None and self._clock() - self._since < LIMIT_S:
                        self._send(Loading(self._model))
