# SPDX-License-Identifier: Apache-2.0
"""Answers `attnserve debug`: a local socket on a thread of its own, so that a stuck event loop is shown too.

The socket is abstract (Linux): it has no file, and ends with the process. Its peer must be of the same user, or root.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import logging
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping

from attnserve_server import __version__

logger = logging.getLogger(__name__)

END = "end of snapshot"
"""Last line of a whole answer."""

LOOP_S = 1.0
"""Time that the event loop has to answer; after that its state is read beside it."""

_SEND_S = 5.0
_END_S = 0.2
"""Longest wait for an answer under way when the server ends."""
_CREDENTIALS = struct.Struct("3i")
_WITHOUT_STACKS = "(no stacks: the process is stopped, or hangs within the system)"

State = Callable[[], Iterable[str]]
Stacks = Callable[[], Mapping[str, str]]


def address(pid: int) -> str:
    """Returns the address of a server's socket."""
    return f"\0attnserve-debug-{pid}"


def peer_of(connection: socket.socket) -> tuple[int, int]:
    """Returns process id and user id of the other end, from the kernel."""
    pid, uid, _ = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return pid, uid


class DebugSocket:
    """Answers each connection with a snapshot. :meth:`start` it on the event loop whose state it shows.

    Args:
        state: returns the lines about queues, slots and requests.
        stacks: returns the stacks of each worker, by name; called on any thread, and may take a second.
    """

    def __init__(self, state: State, stacks: Stacks) -> None:
        self._state, self._stacks = state, stacks
        self._listener: socket.socket | None = None

    def start(self) -> None:
        """Listens from now on; where that is not possible, a line of the log says so."""
        self._loop, self._began = asyncio.get_running_loop(), time.monotonic()
        if not hasattr(socket, "SO_PEERCRED"):
            return  # no Linux
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(address(os.getpid()))
            listener.listen(4)
        except OSError as error:
            listener.close()
            logger.warning("attnserve debug cannot reach this server: %s", error)
            return
        self._listener = listener
        self._thread = threading.Thread(target=self._run, args=(listener,), name="debug", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Listens no longer."""
        listener, self._listener = self._listener, None
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)  # wakes the thread
            listener.close()
            self._thread.join(_END_S)

    def _run(self, listener: socket.socket) -> None:
        while self._listener is listener:
            try:
                connection, _ = listener.accept()
            except OSError:
                if self._listener is listener:  # descriptors may be free again soon
                    time.sleep(0.1)
                continue
            with connection, contextlib.suppress(OSError):
                connection.settimeout(_SEND_S)
                self._answer(connection)

    def _answer(self, connection: socket.socket) -> None:
        _, uid = peer_of(connection)
        if uid not in (os.getuid(), 0):
            logger.warning("attnserve debug of user %d was refused", uid)
            return
        for part in self._parts():
            connection.sendall((part.rstrip("\n") + "\n").encode("utf-8", "backslashreplace"))
        connection.sendall(END.encode() + b"\n")

    def _parts(self) -> Iterator[str]:
        yield f"attnserve {__version__}, process {os.getpid()}, for {time.monotonic() - self._began:.1f} s"
        yield from self._lines()
        yield f"\nstacks of the front ({os.getpid()})\n{_own_stacks()}"
        for worker, text in sorted(self._stacks().items()):
            yield f"\nstacks of {worker}\n{text or _WITHOUT_STACKS}"

    def _lines(self) -> Iterator[str]:
        """Yields the state as the event loop sees it, or else as this thread does."""
        answered, lines = threading.Event(), list[str]()

        def see() -> None:
            try:
                lines.extend(self._state())
            finally:
                answered.set()

        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(see)
        if answered.wait(LOOP_S):
            yield from lines
            return
        yield f"the event loop has not run for {LOOP_S:g} s; another thread sees:"
        try:
            yield from list(self._state())
        except Exception as error:  # noqa: BLE001  what it reads may change meanwhile
            yield f"nothing: {type(error).__name__}"


def _own_stacks() -> str:
    with os.fdopen(os.memfd_create("attnserve-stacks"), "r+b") as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        return file.read().decode("utf-8", "replace")
