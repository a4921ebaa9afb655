# SPDX-License-Identifier: Apache-2.0
"""What a process arranges with the system: event loop, signals, limit of open files, and the file that says that it is ready."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import faulthandler
import json
import os
import resource
import signal
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, TypeVar

from attnserve_server.errors import StartupError

_T = TypeVar("_T")

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
STACKS_SIGNAL = signal.SIGUSR1
COLLECTED_SIGNAL = signal.SIGUSR2
"""Lets a worker write its stacks for the front; see :func:`write_stacks_on_signal`."""
_M_MMAP_THRESHOLD, _MAPPED_BYTES = -3, 256 * 1024
CUT_SHORT = 130
"""The exit code after a second signal."""


def new_event_loop() -> asyncio.AbstractEventLoop:
    """Returns an event loop of uvloop, or of asyncio where uvloop is not installed.

    A process on it must start its children by itself (``engine/front/child.py``): uvloop starts them by ``fork``.
    """
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def run(main: Coroutine[Any, Any, _T]) -> _T:
    """Runs a coroutine on a new event loop, and returns its result.

    The stop signals then do again what they did before: uvloop leaves its handlers, without effect once the loop has ended.
    """
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    try:
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            return runner.run(main)
    finally:
        for number, handler in before.items():
            if handler is not None:  # it is not Python's
                signal.signal(number, handler)


def ignore_stop_signals() -> None:
    """For a worker and a decoder of clips: terminals and service managers signal a whole group, but the front alone ends them."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def show_stacks_on_signal(also: Callable[[], object] | None = None) -> None:
    """Lets SIGUSR1 print the stacks of all threads to standard error, at once, also while one is stuck in a library.

    Args:
        also: called by the running event loop after that.
    """
    if also is not None:
        asyncio.get_running_loop().add_signal_handler(STACKS_SIGNAL, also)
    faulthandler.register(STACKS_SIGNAL, file=2, all_threads=True, chain=also is not None)


def write_stacks_on_signal(descriptor: int) -> None:
    """Lets SIGUSR2 write the stacks of all threads to a descriptor, at once, also while one is stuck in a library."""
    faulthandler.register(COLLECTED_SIGNAL, file=descriptor, all_threads=True)


def stop_event(at_once: Callable[[], None]) -> asyncio.Event:
    """Returns an event that the first of the stop signals sets.

    A second one ends the process, except SIGHUP, which service managers send right after SIGTERM. A SIGHUP that was ignored when
    the process began (``nohup``) stays ignored.

    Args:
        at_once: called before a second signal ends the process.
    """
    loop, stop = asyncio.get_running_loop(), asyncio.Event()

    def on_signal(number: signal.Signals) -> None:
        if stop.is_set() and number != signal.SIGHUP:
            at_once()
            os._exit(CUT_SHORT)
        stop.set()

    for number in STOP_SIGNALS:
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            loop.add_signal_handler(number, on_signal, number)
    return stop


def raise_descriptor_limit() -> None:
    """Raises the soft limit of open files to the hard one: each connection takes one, each worker a few."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # macOS has a lower bound of its own
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def return_memory() -> None:
    """Lets the C library return large blocks to the system as soon as they are freed.

    By default glibc raises the size from which a block has its own mapping each time that such a block is freed, up to 32 MiB; the
    memory of large answers then stays with the process, in fragments.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _MAPPED_BYTES)


class ReadyFile:
    """A JSON file that is there while the server is ready.

    Args:
        path: None for no file. One of an earlier process is removed.

    Raises:
        StartupError: it could not be written.
    """

    def __init__(self, path: Path | None) -> None:
        self._path, self._is_written = path, False
        if path is not None:
            self._write(path, None)

    def write(self, facts: Mapping[str, Any]) -> None:
        """Writes it, whole or not at all.

        Raises:
            StartupError: it could not be written.
        """
        if self._path is not None:
            self._write(self._path, json.dumps(facts))
            self._is_written = True

    def remove(self) -> None:
        """Removes it, if it was written."""
        if self._path is not None and self._is_written:
            with contextlib.suppress(OSError):
                self._path.unlink()
            self._is_written = False

    def _write(self, path: Path, text: str | None) -> None:
        """Writes the file; None: removes it, and checks that one beside it can be written, so that it is never there too early."""
        temporary = path.with_name(f"{path.name}.tmp")
        try:
            temporary.write_text(text or "", encoding="utf-8")
            if text is None:
                temporary.unlink()
                path.unlink(missing_ok=True)
            else:
                temporary.replace(path)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise StartupError(f"--ready-file {path}: cannot be written: {error.strerror}") from None
