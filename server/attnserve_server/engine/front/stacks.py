# SPDX-License-Identifier: Apache-2.0
"""An anonymous file in which a worker writes the stacks of its threads when the front signals it, also while it hangs in a library.

The worker inherits the open file, and with it the place where the next byte goes, which the front sets back before each signal.
"""

from __future__ import annotations

import os
import threading
import time

_POLL_S = 0.01
_QUIET_S = 0.05
"""So long a worker that writes does not pause."""
_MOST_BYTES = 1 << 20


class StackFile:
    """The file of one worker. The event loop closes it; one other thread at a time may use it.

    Raises:
        OSError: the system has no such file.
    """

    def __init__(self) -> None:
        if not hasattr(os, "memfd_create"):
            raise OSError("this system has no anonymous files")
        self.descriptor = os.memfd_create("attnserve-stacks")
        self._lock = threading.Lock()
        self._is_open = True

    def clear(self) -> None:
        """Drops what was written, before the worker is signalled."""
        with self._lock:
            if self._is_open:
                os.ftruncate(self.descriptor, 0)
                os.lseek(self.descriptor, 0, os.SEEK_SET)

    def text(self, until: float) -> str:
        """Returns what was written, once no more comes; empty if nothing comes until then, by the monotonic clock."""
        size, changed_at = 0, time.monotonic()
        while (now := time.monotonic()) < until and (size == 0 or now - changed_at < _QUIET_S):
            time.sleep(_POLL_S)
            if (new := self._size()) != size:
                size, changed_at = new, now
        with self._lock:
            data = os.pread(self.descriptor, min(size, _MOST_BYTES), 0) if self._is_open else b""
        return data.decode("utf-8", "replace")

    def close(self) -> None:
        """Closes the file; a worker that still runs keeps its own."""
        with self._lock:
            self._is_open = False
            os.close(self.descriptor)

    def _size(self) -> int:
        with self._lock:
            return os.fstat(self.descriptor).st_size if self._is_open else 0
