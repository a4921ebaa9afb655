# SPDX-License-Identifier: Apache-2.0
"""Signs of life from a worker while a part of loading takes long: making a session may take many seconds, in one call.

A thread sends them, which ONNX Runtime lets run while it makes a session. It ends after a while, so that a load that hangs is
found as well.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

LIMIT_S = 300.0
"""A part of loading that takes longer is silent from then on, and the front takes it for a hang."""


@contextlib.contextmanager
def beating(beat: Callable[[], None], interval_s: float, limit_s: float = LIMIT_S) -> Iterator[None]:
    """Within this, ``beat`` is called at once, and from a thread after each ``interval_s`` until ``limit_s`` have passed."""
    is_over = threading.Event()

    def run() -> None:
        with contextlib.suppress(OSError):  # the front is gone: the main thread will see it too
            for _ in range(round(limit_s / interval_s)):
                if is_over.wait(interval_s):
                    return
                beat()

    beat()
    thread = threading.Thread(target=run, name="beat", daemon=True)
    with contextlib.suppress(RuntimeError):  # no thread can be started: short parts need none
        thread.start()
    try:
        yield
    finally:
        is_over.set()
        if thread.ident is not None:
            thread.join()
