# SPDX-License-Identifier: Apache-2.0
"""A child process of the event loop, started and awaited without methods of the loop: uvloop forks, which stops gRPC's threads."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence


class Child:
    """A process that inherits the descriptors that are inheritable; its standard input is empty. Belongs to the running event loop.

    With these arguments the standard library takes ``posix_spawn``. Its other way falls back to ``fork`` where the system refuses a
    process, and gRPC's fork handlers then stop its threads for good. The call returns once the process runs its program.

    Args:
        command: the program, as a path with a folder in it, and its arguments.
        environ: all its environment variables.

    Raises:
        OSError, RuntimeError: it could not be started, or its end could not be watched.
    """

    def __init__(self, command: Sequence[str], environ: Mapping[str, str]) -> None:
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[int] = self._loop.create_future()
        self._descriptor = -1
        self._process = subprocess.Popen(command, close_fds=False, stdin=subprocess.DEVNULL, env=environ)
        try:
            self._watch()
        except BaseException:
            self.close()
            self._process.kill()
            self._process.wait()
            raise

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def send_signal(self, number: int) -> None:
        """Sends a signal, unless it has ended."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """Kills it, unless it has ended."""
        self.send_signal(signal.SIGKILL)

    async def wait(self) -> int:
        """Waits for its end; returns its exit code, or the negative number of the signal that ended it."""
        return await asyncio.shield(self._ended)

    def close(self) -> None:
        """Watches it no longer; :meth:`wait` may then wait for ever, unless it has ended."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            self._loop.remove_reader(descriptor)
            os.close(descriptor)

    def _watch(self) -> None:
        try:
            self._descriptor = os.pidfd_open(self.pid)
        except (AttributeError, OSError):  # another system than Linux, an old or restricted one, or no descriptor left
            threading.Thread(target=self._wait, name=f"child-{self.pid}", daemon=True).start()
        else:
            self._loop.add_reader(self._descriptor, self._on_end)

    def _wait(self) -> None:
        self._process.wait()
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._on_end)

    def _on_end(self) -> None:
        self.close()
        if not self._ended.done():
            self._ended.set_result(self._process.wait())
