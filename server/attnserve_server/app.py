# SPDX-License-Identifier: Apache-2.0
"""The composition root: builds every part, starts them in order, drains and stops them. Open this file first."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from attnserve_server import __version__
from attnserve_server.collector import quiet_collector
from attnserve_server.config import ServerConfig
from attnserve_server.dataplane.ends import Ends
from attnserve_server.dataplane.plane import DataPlane
from attnserve_server.engine.front.front import Front
from attnserve_server.engine.front.pool import WorkerPool
from attnserve_server.engine.front.served_models import ServedModel
from attnserve_server.engine.front.sharing import SharedAnswers
from attnserve_server.engine.front.snapshot import snapshot
from attnserve_server.machine import summary, usable_cpus, usable_memory
from attnserve_server.metrics.exposition import Exposition
from attnserve_server.metrics.prometheus import Metrics
from attnserve_server.metrics.traces import FLUSH_S, Traces, open_traces
from attnserve_server.process import ReadyFile, raise_descriptor_limit, return_memory, show_stacks_on_signal, stop_event
from attnserve_server.repository import Repository
from attnserve_server.tasks.clips.wire import ClipLimits
from attnserve_server.tasks.images import ImageLimits
from attnserve_server.tasks.interface import Limits
from attnserve_server.tasks.registry import TASKS, TaskSpec, TaskTable
from attnserve_server.transport.debug import DebugSocket
from attnserve_server.transport.http.server import HttpServer
from attnserve_server.transport.http.watchdog import Watchdog, end_process
from attnserve_server.transport.rpc.health import HealthBoard
from attnserve_server.transport.rpc.server import GrpcServer
from attnserve_server.transport.trust import Trust

log = logging.getLogger(__name__)


class App:
    """One server process. :meth:`start`, then :meth:`drain_and_stop`; :meth:`run` does both around a signal.

    Args:
        config: the whole configuration.
        tasks: the tasks that it serves.
    """

    def __init__(self, config: ServerConfig, tasks: Iterable[TaskSpec] = TASKS) -> None:
        self.config = config
        self._tasks = TaskTable(tasks)
        self.grpc_port = 0
        self.http_port = 0
        self.plain_http_port = 0
        self.traces: Traces | None = None

    async def start(self) -> None:
        """Loads the models, opens the ports and starts the workers; returns when every model is warm or reported as broken.

        Raises:
            StartupError: no bundle can be served, or an address or a setting cannot be used.
        """
        config, engine = self.config, self.config.engine
        collectors = CollectorRegistry()
        metrics = self.metrics = Metrics(collectors)
        if config.trace.endpoint:
            self.traces = open_traces(config.trace.endpoint, config.trace.sample_ratio, metrics.spans)
        self.trust = Trust(config.tls, config.tokens, metrics.trust)
        self.trust.warn_about(config.grpc.host)
        repository = Repository(config, self._tasks)
        self.pool = WorkerPool(engine.workers, engine.device, config.log_level, config.log_format)
        hello = await self.pool.open()
        registry = await repository.load(hello.device)
        metrics.build_info(__version__, hello.onnxruntime)
        metrics.devices.watch(hello.device)
        self.board = HealthBoard()
        self.front = Front(registry, self.pool, engine, metrics, self._show)
        sharing = None
        if config.cache.max_bytes:
            sharing = SharedAnswers(self.front, config.cache.max_bytes, engine.queue_limit, metrics)
        self.plane = DataPlane(self.front, metrics, limits_of(config), sharing)
        ends = Ends(config.slow_request_seconds, self.traces)
        self.grpc = GrpcServer(self.plane, self.board, config.grpc, self.trust.credentials(), self.trust.access, ends)
        pages = Exposition(collectors), self._health
        self.http = HttpServer(config.http.host, config.http.port, *pages, tls=self.trust.context())
        self.http_port = await self.http.start()
        if config.http.plain_port >= 0:
            self.plain_http = HttpServer(config.http.host, config.http.plain_port, *pages)
            self.plain_http_port = await self.plain_http.start()
        self.grpc_port = await self.grpc.start()
        await self.front.start()
        self.trust.start()
        log.info(
            "ready: gRPC on port %d, HTTP on port %d, %d worker(s) on %s; %s",
            self.grpc_port,
            self.http_port,
            self.pool.num_workers,
            hello.device,
            summary(usable_cpus(), usable_memory()),
        )

    async def drain_and_stop(self) -> None:
        """Reports NOT_SERVING, refuses new requests, answers those that came before, then stops."""
        self.board.drain()
        until = time.monotonic() + self.config.drain_seconds
        await self.front.drain(self.config.drain_seconds, lambda: self.plane.num_preparing > 0)
        await self.plane.drain(until - time.monotonic())
        self.plane.close()  # what is still being prepared gets its status before the port closes
        await self.grpc.stop(1.0)
        await asyncio.gather(self.front.stop(), self._close_traces(min(FLUSH_S, until - time.monotonic())))
        await self._stop_http()

    async def run(self, ready_file: Path | None = None) -> None:
        """Serves until SIGTERM, SIGINT, SIGHUP or SIGQUIT: the first one drains, a second one ends the process at once.

        Raises:
            StartupError: as :meth:`start`, or the ready file cannot be written.
            RuntimeError: HTTP was served no longer; what was admitted has been answered.
        """
        raise_descriptor_limit()
        return_memory()
        show_stacks_on_signal(self._show_state)
        debug = DebugSocket(self._state, self._stacks)
        debug.start()
        try:
            await self._run(ready_file)
        finally:
            debug.stop()

    async def _run(self, ready_file: Path | None) -> None:
        ready = ReadyFile(ready_file)
        watchdog = Watchdog(functools.partial(end_process, ready.remove))
        stop = asyncio.create_task(stop_event(ready.remove).wait(), name="stop")
        try:
            await _first_of(asyncio.create_task(self.start(), name="start"), stop)
            if stop.done():
                log.info("stopped before it was ready")
                await self.stop_what_started()
                return
            quiet_collector()
            watchdog.start([listener for server in self._http_servers() for listener in server.listeners])
            pids = self.pool.pids()
            ports = {"grpc_port": self.grpc_port, "http_port": self.http_port}
            if self.plain_http_port:
                ports["plain_http_port"] = self.plain_http_port
            ready.write({**ports, "pid": os.getpid(), "workers": pids})
            await _first_of(asyncio.create_task(self.http.ended(), name="http"), stop)
        except BaseException:
            with contextlib.suppress(Exception):
                await self.stop_what_started()
            raise
        finally:
            watchdog.stop()
            ready.remove()
        if not stop.done():
            log.critical("the HTTP server has ended: nothing shows whether this process serves")
        log.info("draining")
        await self.drain_and_stop()
        log.info("stopped")
        if not stop.done():
            raise RuntimeError("the HTTP server has ended")

    async def stop_what_started(self) -> None:
        """After a start that failed or was stopped: refuses what was admitted, ends the workers and closes the ports, at once."""
        if hasattr(self, "front"):
            self.board.drain()
            await self.front.drain(0)
        if hasattr(self, "plane"):
            self.plane.close()
        if hasattr(self, "grpc"):
            await self.grpc.stop(0)
        if hasattr(self, "front"):
            await self.front.stop(0)
        elif hasattr(self, "pool"):
            await self.pool.stop(0)
        await self._close_traces(0)
        await self._stop_http()

    async def _close_traces(self, timeout_s: float) -> None:
        """Sends the spans that are queued, for ``timeout_s`` at most, and no more from then on."""
        if self.traces is not None:
            await asyncio.to_thread(self.traces.close, max(timeout_s, 0.0))

    async def _stop_http(self) -> None:
        """Closes the ports of HTTP that are open, and looks at no more files."""
        if hasattr(self, "trust"):
            await self.trust.stop()
        for server in self._http_servers():
            await server.stop()

    def _state(self) -> Iterator[str]:
        """Yields lines about queues, slots and requests, without user text."""
        if not hasattr(self, "front"):
            yield "starting"
            return
        if self.front.draining.has_begun:
            yield "draining"
        yield f"{self.plane.num_preparing} requests are being prepared"
        yield from snapshot(list(self.front.accounting.jobs.values()), time.monotonic())
        yield from self.metrics.reports.lines()

    def _show_state(self) -> None:
        """Logs the state, and asks the workers for their stacks."""
        for line in self._state():
            log.warning("state: %s", line)
        if hasattr(self, "pool"):
            self.pool.show_stacks()

    def _stacks(self) -> dict[str, str]:
        return self.pool.stacks() if hasattr(self, "pool") else {}

    def _http_servers(self) -> list[HttpServer]:
        return [getattr(self, name) for name in ("http", "plain_http") if hasattr(self, name)]

    def _health(self) -> tuple[bool, str]:
        return self.board.is_serving, self.board.summary()

    def _show(self, model: ServedModel, is_ready: bool | None) -> None:
        if is_ready is None:
            self.board.remove(model.id, model.version)
        else:
            self.board.set_ready(model.id, is_ready, model.version)


def limits_of(config: ServerConfig) -> Limits:
    """Returns the limits of requests."""
    image = ImageLimits(config.max_image_bytes, config.max_image_pixels)
    video = config.video
    clip = ClipLimits(video.max_bytes, video.max_frames, video.max_pixels, video.max_seconds)
    return Limits(config.max_text_chars, image, clip)


async def _first_of(task: asyncio.Task[None], stop: asyncio.Task[Any]) -> None:
    """Waits until a task is done, and raises what it raised; where ``stop`` is done first, cancels it."""
    await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
    if not stop.done():
        return await task
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
