# SPDX-License-Identifier: Apache-2.0
"""Adds up the processor time of all runs of ONNX Runtime, in each process of a server, ours or a peer's.

Python imports this module at its start where its folder is on ``PYTHONPATH``. When ONNX Runtime is imported, the methods of its
sessions that run a model are wrapped. The sums of a process are in the file ``<pid>`` in the folder that ``RUN_CLOCK`` names, as
three doubles: seconds of the calling threads' processor time, seconds of wall time, and number of runs. A session has one thread,
the caller's, so its processor time is the run's.
"""

from __future__ import annotations

import functools
import importlib.abc
import importlib.machinery
import importlib.util
import mmap
import os
import struct
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

FOLDER = "RUN_CLOCK"
SUMS = struct.Struct("ddd")
_MODULE = "onnxruntime.capi.onnxruntime_inference_collection"
_METHODS = ("run", "run_with_iobinding", "run_with_ort_values")


class Clock:
    """The sums of this process; a forked process begins its own."""

    def __init__(self) -> None:
        self._lock, self._pid, self._sums, self._file = threading.Lock(), 0, (0.0, 0.0, 0.0), mmap.mmap(-1, SUMS.size)

    def add(self, processor: float, wall: float) -> None:
        """Adds a run."""
        with self._lock:
            if self._pid != os.getpid():
                self._pid, self._sums = os.getpid(), (0.0, 0.0, 0.0)
                path = Path(os.environ[FOLDER], str(self._pid))
                path.write_bytes(bytes(SUMS.size))
                with path.open("r+b") as file:
                    self._file = mmap.mmap(file.fileno(), SUMS.size)
            self._sums = (self._sums[0] + processor, self._sums[1] + wall, self._sums[2] + 1)
            SUMS.pack_into(self._file, 0, *self._sums)


def timed(method: Callable[..., Any], clock: Clock) -> Callable[..., Any]:
    """Returns a method that adds the times of its calls to the clock."""

    @functools.wraps(method)
    def call(*arguments: Any, **named: Any) -> Any:
        processor, wall = time.thread_time(), time.perf_counter()
        try:
            return method(*arguments, **named)
        finally:
            clock.add(time.thread_time() - processor, time.perf_counter() - wall)

    return call


class _Loader(importlib.abc.Loader):
    def __init__(self, inner: importlib.abc.Loader) -> None:
        self._inner = inner

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._inner.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._inner.exec_module(module)
        clock = Clock()
        for name in _METHODS:
            setattr(module.Session, name, timed(getattr(module.Session, name), clock))


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != _MODULE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


if FOLDER in os.environ:
    sys.meta_path.insert(0, _Finder())
