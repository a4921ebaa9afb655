# SPDX-License-Identifier: Apache-2.0
"""A log handler that never waits for its output: a thread writes, the memory is bounded, and lines that do not fit are counted.

A pipe that is not read, or a disk that hangs, would otherwise stop the event loop or a worker at its next log line.
"""

from __future__ import annotations

import itertools
import logging
import os
import select
import threading
import time
from collections.abc import Callable, Sequence

MAX_BYTES = 4 * 1024 * 1024
"""Lines that wait to be written; further ones are dropped."""

PAUSE_S = 0.02
"""Pause of the thread after each write, so that it takes the interpreter lock from the event loop 50 times a second at most."""

FLUSH_S = 1.0
"""Longest wait for the output when the process ends."""

_observers: list[Callable[[int], object]] = []


def report_drops_to(observer: Callable[[int], object]) -> None:
    """Calls ``observer`` with the number of lines whenever this process drops some; on the thread that drops them."""
    _observers[:] = [observer]


class WriterThread(logging.Handler):
    """Writes formatted records to a descriptor, on a thread.

    A line is dropped if ``max_bytes`` are waiting, or if the output refuses it (a full disk, a closed pipe). A line with the number
    of dropped ones follows once the output takes lines again.

    Args:
        descriptor: the output; it stays open.
        max_bytes: size of the lines that may wait.
    """

    def __init__(self, descriptor: int, max_bytes: int = MAX_BYTES) -> None:
        super().__init__()
        self._descriptor, self._max_bytes = descriptor, max_bytes
        self._lock = threading.Lock()
        self._lines: list[bytes] = []
        self._size = self._num_missing = 0
        self._has_lines, self._is_idle = threading.Event(), threading.Event()
        self._is_idle.set()
        threading.Thread(target=self._run, name="log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Queues a record, or counts it as dropped."""
        try:
            line = (self.format(record) + "\n").encode("utf-8", "backslashreplace")
        except Exception:  # noqa: BLE001  as logging's own handlers do: a wrong record ends nothing
            self.handleError(record)
            return
        with self._lock:
            if self._size + len(line) > self._max_bytes:
                self._missed(1)
                return
            self._lines.append(line)
            self._size += len(line)
            self._is_idle.clear()
        if not self._has_lines.is_set():
            self._has_lines.set()

    def flush(self) -> None:
        """Waits until everything is written, at most ``FLUSH_S``; logging calls it when the process ends."""
        self._is_idle.wait(FLUSH_S)

    def _run(self) -> None:
        while True:
            self._has_lines.wait()
            self._has_lines.clear()
            with self._lock:
                lines, self._lines = self._lines, []
            written = self._write(lines)
            with self._lock:
                self._size -= sum(map(len, lines))
                self._missed(len(lines) - written)
                num_missing, self._num_missing = (self._num_missing, 0) if written == len(lines) else (0, self._num_missing)
                if not self._lines:
                    self._is_idle.set()
            if num_missing:
                logging.getLogger(__name__).warning("%d log lines were dropped: the output was not read, or failed", num_missing)
            time.sleep(PAUSE_S)

    def _missed(self, number: int) -> None:
        self._num_missing += number
        for observer in _observers if number else ():
            observer(number)

    def _write(self, lines: Sequence[bytes]) -> int:
        """Writes lines; returns how many the output took."""
        data = memoryview(b"".join(lines))
        num_bytes = len(data)
        while data:
            try:
                data = data[os.write(self._descriptor, data) :]
            except BlockingIOError:
                select.select([], [self._descriptor], [])
            except OSError:
                break
        ends = itertools.accumulate(map(len, lines))
        return sum(end <= num_bytes - len(data) for end in ends) if data else len(lines)
