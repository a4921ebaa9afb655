# SPDX-License-Identifier: Apache-2.0
"""Starts, supervises and restarts the worker processes, and owns the sockets to them.

Each start has its own numbered name and its own sockets, so that messages of a dead process are never attributed to its successor.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import logging
import os
import socket
import sys
import time
from collections.abc import Callable, Iterable

from attnserve_server.engine.front.child import Child
from attnserve_server.engine.front.stacks import StackFile
from attnserve_server.engine.link.channel import FrontEnd
from attnserve_server.engine.link.messages import ENCODER, Freed, FromWorker, Hello, Progress, Stop, ToWorker, from_worker
from attnserve_server.engine.link.shared import FrontMemory
from attnserve_server.errors import StartupError
from attnserve_server.kinds import ITERATIVE, Kind
from attnserve_server.machine import usable_cpus
from attnserve_server.metrics import logs
from attnserve_server.process import COLLECTED_SIGNAL, STACKS_SIGNAL
from attnserve_server.request import Work

MAX_DEATHS_AT_START = 3
DEATHS_AT_START = "the workers die before they are ready; their log has the reason"
_MAX_BACKOFF_S = 5.0
HEALTHY_S = 10.0
_KILLED_S = 1.0
"""Time to wait for a killed process to end; one that waits for a device may take longer."""
log = logging.getLogger(__name__)


class WorkerPool:
    """The worker processes and the sockets to them; belongs to the front's event loop.

    Args:
        num_workers: number of processes; 0 for the device's default, which :meth:`open` determines.
        device: device of the workers; "auto" lets them choose.
        log_level: log level of the processes.
        log_format: their log format, "text" or "json".
        python: interpreter that runs them.
    """

    def __init__(
        self,
        num_workers: int,
        device: str = "auto",
        log_level: str = "INFO",
        log_format: str = "text",
        python: str = sys.executable,
    ) -> None:
        self.num_workers, self._asked_device, self._python = num_workers, device, python
        self.device = ""
        """Device of the workers; empty before :meth:`open`."""
        self._environ = {logs.LEVEL_VARIABLE: log_level, logs.FORMAT_VARIABLE: log_format}
        self._kinds = {ITERATIVE.path: ITERATIVE}
        self._decoder = from_worker()
        self.is_draining = False
        """Once it is set, no process is started any more."""
        self._processes: dict[str, Child] = {}
        self._ends: dict[str, FrontEnd] = {}
        self._memories: dict[str, FrontMemory] = {}
        self._stack_files: dict[str, StackFile] = {}
        self._heard: set[str] = set()
        """Workers that have sent a message."""
        self._tasks: list[asyncio.Task[None]] = []
        self._early: list[tuple[str, FromWorker]] = []
        self._num_lost, self._last_end = 0, ""
        self._is_open = asyncio.Event()
        self._on_message: Callable[[str, FromWorker], None] = self._keep
        self._on_lost: Callable[[str], None] = self._forget
        self._is_stopping = False

    async def open(self, timeout_s: float = 60.0) -> Hello:
        """Starts the processes (one, if the device determines their number), and returns the first one's Hello.

        Raises:
            StartupError: no worker connects in time, or they die (their log has the reason), or the device cannot be used.
        """
        self._tasks = [asyncio.create_task(self._supervise(index)) for index in range(self.num_workers or 1)]
        try:
            await asyncio.wait_for(self._is_open.wait(), timeout_s)
        except TimeoutError as error:
            raise StartupError(f"no worker connected within {timeout_s:.0f} s") from error
        hello = next((message for _, message in self._early if isinstance(message, Hello)), None)
        if hello is None:
            raise StartupError(f"{DEATHS_AT_START}; the last one {self._last_end}")
        if hello.problem:
            raise StartupError(f"the device {hello.device!r} cannot be used: {hello.problem}")
        self.num_workers = self.num_workers or auto_workers(hello.device)
        self.device = hello.device
        return hello

    async def start(self, on_message: Callable[[str, FromWorker], None], on_lost: Callable[[str], None]) -> None:
        """Starts the remaining processes; ``on_message`` and ``on_lost`` are called with the worker's name."""
        self._on_message, self._on_lost = on_message, on_lost
        self._tasks += [asyncio.create_task(self._supervise(index)) for index in range(len(self._tasks), self.num_workers)]
        early, self._early = self._early, []
        for worker, message in early:
            on_message(worker, message)

    def learn(self, kinds: Iterable[Kind]) -> None:
        """Decodes messages about models of these kinds too, from now on."""
        new = {kind.path: kind for kind in kinds if kind.path not in self._kinds}
        if new:
            self._kinds |= new
            self._decoder = from_worker(self._kinds.values())

    def _keep(self, worker: str, message: FromWorker) -> None:
        """Keeps a message that arrives before :meth:`start`."""
        self._early.append((worker, message))
        self._is_open.set()

    def _forget(self, worker: str) -> None:
        """Drops the kept messages of a worker that dies before :meth:`start`."""
        self._early = [(name, message) for name, message in self._early if name != worker]
        self._num_lost += 1
        if self._num_lost >= MAX_DEATHS_AT_START:
            self._is_open.set()

    def send(self, worker: str, message: ToWorker) -> None:
        """Sends a message to a worker; a message to a dead worker is dropped."""
        if worker in self._ends:
            memory = self._memories.get(worker)
            shared = memory.share(message) if memory is not None and isinstance(message, Work) else message
            self._ends[worker].send(ENCODER.encode(shared))

    def pids(self) -> dict[str, int]:
        """Returns the process id of each running worker; another thread may call it."""
        return {name: process.pid for name, process in list(self._processes.items())}

    def kill(self, worker: str) -> None:
        """Kills a worker that hangs; it is replaced like any worker that dies."""
        if worker in self._processes:
            self._processes[worker].kill()

    def show_stacks(self) -> None:
        """Asks the workers for the stacks of their threads; not those that have sent nothing yet, which the signal could end."""
        for name in self._heard & self._processes.keys():
            self._processes[name].send_signal(STACKS_SIGNAL)

    def stacks(self, timeout_s: float = 1.0) -> dict[str, str]:
        """Returns the stacks of the threads of each worker, with its process id; empty for one that writes none in time.

        Blocks; one other thread at a time may call it.
        """
        asked = [(name, pid, self._stack_files.get(name)) for name, pid in self.pids().items() if name in self._heard]
        for _, pid, file in asked:
            if file is not None:
                file.clear()
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, COLLECTED_SIGNAL)
        until = time.monotonic() + timeout_s
        return {f"{name} ({pid})": "" if file is None else file.text(until) for name, pid, file in asked}

    async def stop(self, grace_s: float = 3.0) -> None:
        """Asks the workers to exit, and kills those that do not within the grace period."""
        self._is_stopping = self.is_draining = True
        for name in list(self._processes):
            self.send(name, Stop())
        await self._wait_for_ends(grace_s)
        for name in list(self._processes):
            self.kill(name)
        await self._wait_for_ends(_KILLED_S)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _wait_for_ends(self, timeout_s: float) -> None:
        waiting = [asyncio.ensure_future(process.wait()) for process in self._processes.values()]
        if waiting:
            _, late = await asyncio.wait(waiting, timeout=timeout_s)
            for each in late:
                each.cancel()

    def _receive(self, worker: str, data: bytes) -> None:
        self._heard.add(worker)
        try:
            message, memory = self._decoder.decode(data), self._memories.get(worker)
            if isinstance(message, Freed):
                if memory is not None:
                    memory.free(message.request_ids)
                return
            if isinstance(message, Progress) and memory is not None and memory.num_blocks:
                message.events = memory.receive(message.events)
            self._on_message(worker, message)
        except Exception:
            log.exception("a message of worker %s could not be handled", worker)

    async def _supervise(self, index: int) -> None:
        """Keeps one worker alive: whatever fails is logged, and tried again after a while."""
        backoff = 0.0
        for number in itertools.count():
            name, started = f"worker-{index}.{number}", time.monotonic()
            try:
                self._last_end = await self._live(name)
            except Exception as error:  # noqa: BLE001  descriptors, memory, processes or the interpreter may be back soon
                self._last_end = f"could not be started: {type(error).__name__}: {error}"
            if self._is_stopping:
                return
            log.error("%s %s; %s", name, self._last_end, "draining" if self.is_draining else "starting another")
            try:
                self._on_lost(name)
            except Exception:
                log.exception("the loss of %s could not be handled", name)
            backoff = 0.0 if time.monotonic() - started > HEALTHY_S else min(_MAX_BACKOFF_S, backoff * 2 + 0.1)
            await asyncio.sleep(backoff)
            if self.is_draining:
                return

    async def _live(self, name: str) -> str:
        """The life of one process; returns how it ended.

        Raises:
            OSError, RuntimeError: it could not be started.
        """
        end, theirs = await FrontEnd.open(functools.partial(self._receive, name))
        self._ends[name] = end
        with contextlib.suppress(OSError):  # without it all goes through the socket
            self._memories[name] = FrontMemory()
            self._stack_files[name] = StackFile()
        try:
            with theirs:  # closed before another process is started
                process = self._processes[name] = self._spawn(name, theirs)
            return f"(pid {process.pid}) ended with code {await process.wait()}"
        finally:
            self._ends.pop(name, None)
            if (child := self._processes.pop(name, None)) is not None:
                child.close()
            self._heard.discard(name)
            end.close()
            if (memory := self._memories.pop(name, None)) is not None:
                memory.close()
            if (file := self._stack_files.pop(name, None)) is not None:
                file.close()

    def _spawn(self, name: str, theirs: socket.socket) -> Child:
        """Starts a process that inherits one socket, the memory that it shares with the front, and the file of its stacks.

        Nothing else runs on the event loop meanwhile, so that none inherits another's. (Other descriptors are not inheritable.)
        """
        memory, file = self._memories.get(name), self._stack_files.get(name)
        shared, stacks = (-1 if each is None else each.descriptor for each in (memory, file))
        arguments = str(theirs.fileno()), name, self._asked_device, str(shared), str(stacks)
        command = self._python, "-m", "attnserve_server.engine.worker", *arguments
        try:
            theirs.set_inheritable(True)
            for descriptor in {shared, stacks} - {-1}:
                os.set_inheritable(descriptor, True)
            return Child(command, os.environ | self._environ)
        finally:
            if file is not None:
                os.set_inheritable(stacks, False)  # it stays open here
            if memory is not None:
                memory.close_descriptor()


def auto_workers(device: str) -> int:
    """Returns the default number of workers: one on a GPU, else one per whole processor that this process may use."""
    return 1 if device == "cuda" else max(1, int(usable_cpus().value))
