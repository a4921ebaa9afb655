# SPDX-License-Identifier: Apache-2.0
"""The worker processes: started, watched, started again when one dies; and the sockets that reach them.

Each start has a name of its own, with its number in it, and sockets of its own, so that nothing a dead process said is taken for
its successor's.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import sys
import time
from collections.abc import Callable

from attnserve_server.engine.link.channel import FrontEnd
from attnserve_server.engine.link.messages import ENCODER, FROM_WORKER, FromWorker, Stop, ToWorker

_MAX_BACKOFF_S = 5.0
_HEALTHY_S = 10.0
log = logging.getLogger(__name__)


class WorkerPool:
    """``num_workers`` processes and the sockets to them; belongs to the front's event loop."""

    def __init__(self, num_workers: int, log_level: str = "INFO") -> None:
        self.num_workers = num_workers
        self._log_level = log_level
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self._ends: dict[str, FrontEnd] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._is_stopping = False

    async def start(self, on_message: Callable[[str, FromWorker], None], on_lost: Callable[[str], None]) -> None:
        """Starts the processes; ``on_message`` and ``on_lost`` are called with the worker's name."""
        self._on_message, self._on_lost = on_message, on_lost
        self._tasks = [asyncio.create_task(self._keep_alive(index)) for index in range(self.num_workers)]

    def send(self, worker: str, message: ToWorker) -> None:
        """Sends to a worker; what is sent to one that has died is lost with it."""
        if worker in self._ends:
            self._ends[worker].send(ENCODER.encode(message))

    @property
    def is_started(self) -> bool:
        """Workers were started."""
        return bool(self._tasks)

    def pids(self) -> dict[str, int]:
        """Process id of each living worker."""
        return {name: process.pid for name, process in self._processes.items()}

    async def stop(self, grace_s: float = 3.0) -> None:
        """Asks the workers to leave, and ends those that do not."""
        self._is_stopping = True
        for name in list(self._processes):
            self.send(name, Stop())
        waiting = [process.wait() for process in self._processes.values()]
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.gather(*waiting), grace_s)
        for process in self._processes.values():
            if process.returncode is None:
                process.kill()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for end in self._ends.values():
            end.close()

    def _receive(self, worker: str, data: bytes) -> None:
        try:
            self._on_message(worker, FROM_WORKER.decode(data))
        except Exception:
            log.exception("a message of worker %s could not be handled", worker)

    async def _keep_alive(self, index: int) -> None:
        backoff, number = 0.0, 0
        while True:
            name = f"worker-{index}.{number}"
            started = time.monotonic()
            self._ends[name], theirs = await FrontEnd.open(functools.partial(self._receive, name))
            with theirs:
                process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-m",
                    "attnserve_server.engine.worker",
                    str(theirs.fileno()),
                    name,
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,
                    stdin=asyncio.subprocess.DEVNULL,
                    env={**os.environ, "ATTNSERVE_LOG_LEVEL": self._log_level},
                )
            self._processes[name] = process
            code = await process.wait()
            del self._processes[name]
            self._ends.pop(name).close()
            if self._is_stopping:
                return
            log.error("%s (pid %d) ended with code %d; starting another", name, process.pid, code)
            self._on_lost(name)
            backoff = 0.0 if time.monotonic() - started > _HEALTHY_S else min(_MAX_BACKOFF_S, backoff * 2 + 0.1)
            await asyncio.sleep(backoff)
            number += 1
