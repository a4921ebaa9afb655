# SPDX-License-Identifier: Apache-2.0
"""The front's view of the workers: which models each has loaded, and how many rows each holds.

Each model has its own credit on each worker, 1.25 times its slots, so that a freed slot is filled without a round trip. Models do
not use each other's credit.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from attnserve_server.config import EngineConfig
from attnserve_server.engine.front.job import Job, Status
from attnserve_server.engine.front.pool import DEATHS_AT_START, MAX_DEATHS_AT_START, WorkerPool
from attnserve_server.engine.front.served_models import ModelRegistry, ServedModel
from attnserve_server.engine.link.messages import (
    Broken,
    Cancel,
    Configure,
    FromWorker,
    Hello,
    Load,
    Progress,
    Ready,
    Unload,
)
from attnserve_server.errors import StartupError
from attnserve_server.metrics.prometheus import Metrics
from attnserve_server.request import ModelKey

RELOAD_S = 5.0
"""Delay before a worker retries to load a model that failed there, if the model was ever ready on any worker."""
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Listener:
    """Callbacks for worker events."""

    progress: Callable[[Progress[Any]], None]
    ready: Callable[[ServedModel], None]
    """A worker has warmed a model and accepts requests for it."""
    lost: Callable[[str], None]
    """A worker has died; its requests are lost."""


class Workers:
    """Sends jobs to workers and accounts for the rows that they hold.

    Args:
        registry: the models.
        pool: the processes.
        config: settings for the workers' engines.
        metrics: receives the workers' statistics.
        on_state: called when a model becomes ready or stops being ready.
    """

    def __init__(
        self,
        registry: ModelRegistry,
        pool: WorkerPool,
        config: EngineConfig,
        metrics: Metrics,
        on_state: Callable[[ServedModel, bool | None], None],
    ) -> None:
        self._registry, self._pool, self._config, self._metrics, self._on_state = registry, pool, config, metrics, on_state
        self._credit = config.slots + max(2, config.slots // 4)
        self._rows: dict[tuple[str, ModelKey], int] = {}
        self._names: set[str] = set()
        self._settled = asyncio.Event()
        self._is_started = False
        self._failure: str | None = None
        self._num_lost = 0
        self._loaded: dict[ModelKey, ServedModel] = {}
        """Models that workers are loading or have loaded, including those being removed."""

    async def start(self, listener: Listener, timeout_s: float) -> None:
        """Starts the processes and waits until each has loaded, or failed to load, every model.

        Raises:
            StartupError: the workers die, or the timeout expires.
        """
        self._listener = listener
        self._pool.learn(model.kind for model in self._registry.all())
        await self._pool.start(self._on_message, self._on_lost)
        await self._wait_for(self._registry.all, timeout_s)
        self._is_started = True

    async def load(self, model: ServedModel, timeout_s: float) -> None:
        """Loads a model on all workers, and waits for it.

        Raises:
            BundleError: no worker could load it.
            StartupError: the timeout expired.
        """
        self._pool.learn([model.kind])
        for worker in self._names:
            self._tell(worker, model)
        await self._wait_for(lambda: [model], timeout_s)
        if not model.is_ready:
            raise model.load_error()

    def unload(self, model: ServedModel) -> None:
        """Unloads a model from all workers."""
        for worker in model.ready_workers:
            self._pool.send(worker, Unload(model.key))
            self._rows.pop((worker, model.key), None)
        model.ready_workers.clear()
        self._loaded.pop(model.key, None)

    async def _wait_for(self, models: Callable[[], list[ServedModel]], timeout_s: float) -> None:
        until = time.monotonic() + timeout_s
        while not self._failure and not all(self._is_settled(model) for model in models()):
            self._settled.clear()
            try:
                await asyncio.wait_for(self._settled.wait(), until - time.monotonic())
            except TimeoutError as error:
                raise StartupError(f"the workers were not ready after {timeout_s:.0f} s") from error
        if self._failure:
            raise StartupError(self._failure)

    def _is_settled(self, model: ServedModel) -> bool:
        return len(model.ready_workers) + len(model.broken) >= self._pool.num_workers

    async def stop(self) -> None:
        """Ends the processes."""
        await self._pool.stop()

    def choose(self, job: Job) -> str | None:
        """Returns the worker with the most credit for the job's model; None if no worker is warm or has enough credit."""
        worker = min(job.model.ready_workers, key=lambda name: self._held(name, job), default=None)
        if worker is None:
            return None
        held = self._held(worker, job)
        return worker if not held or held + job.work.num_rows <= self._credit else None

    def send(self, worker: str, job: Job) -> None:
        """Sends a job to a worker."""
        job.worker, job.status = worker, Status.SENT
        job.num_attempts += 1
        self._rows[worker, job.model.key] = self._held(worker, job) + job.work.num_rows
        self._pool.send(worker, job.work)

    def cancel(self, job: Job, reason: str) -> None:
        """Tells a job's worker to drop it; its rows count as held until the worker reports them free."""
        if job.worker is not None:
            self._pool.send(job.worker, Cancel(job.model.key, job.id, reason))

    def give_back(self, job: Job) -> None:
        """Returns the credit of a job that has left its worker."""
        if job.worker is not None:
            self._rows[job.worker, job.model.key] -= job.work.num_rows

    @property
    def num_rows(self) -> int:
        """Number of rows that workers hold."""
        return sum(self._rows.values())

    def _held(self, worker: str, job: Job) -> int:
        return self._rows.get((worker, job.model.key), 0)

    def _on_message(self, worker: str, message: FromWorker) -> None:
        if isinstance(message, Progress):
            if ModelKey(message.stats.model, message.stats.version) in self._loaded:
                self._metrics.engine(worker, message.stats)
            self._listener.progress(message)
        elif isinstance(message, Hello):
            self._names.add(worker)
            self._pool.send(worker, Configure(self._config))
            for model in self._registry.all():
                self._tell(worker, model)
        elif isinstance(message, Ready):
            self._on_loaded(worker, message)
        else:
            self._on_broken(worker, message)

    def _tell(self, worker: str, model: ServedModel) -> None:
        """Tells a worker to load a model."""
        self._loaded[model.key] = model
        folder, variant = str(model.bundle.folder), model.variant
        self._pool.send(worker, Load(model.key, model.kind.path, folder, self._pool.device, variant))

    def _on_loaded(self, worker: str, message: Ready) -> None:
        model = self._registry.get(message.model)
        if model is None:  # it was removed in the meantime
            self._pool.send(worker, Unload(message.model))
            return
        self._loaded[model.key] = model
        model.ready_workers.add(worker)
        model.was_ready = True
        self._metrics.model_loaded(model.id, model.version, message.load_s)
        self._show(model)
        self._settled.set()
        self._listener.ready(model)

    def _on_broken(self, worker: str, message: Broken) -> None:
        log.error("%s cannot load %s, version %s: %s", worker, *message.model, "; ".join(message.problems))
        model = self._registry.get(message.model)
        if model is None:
            return
        model.broken[worker] = message.problems
        self._settled.set()
        if model.was_ready:  # it can be loaded in principle: the failure may be temporary, such as lack of memory
            asyncio.get_running_loop().call_later(RELOAD_S, self._tell_again, worker, model)

    def _tell_again(self, worker: str, model: ServedModel) -> None:
        if worker in self._names and self._registry.get(model.key) is model:
            model.broken.pop(worker, None)
            self._tell(worker, model)

    def _on_lost(self, worker: str) -> None:
        self._metrics.forget_worker(worker)
        self._names.discard(worker)
        self._num_lost += 1
        if not self._is_started and self._num_lost >= MAX_DEATHS_AT_START:
            self._failure = self._failure or DEATHS_AT_START
            self._settled.set()
        for model in self._loaded.values():
            self._rows.pop((worker, model.key), None)
            model.broken.pop(worker, None)
            if worker in model.ready_workers:
                model.ready_workers.discard(worker)
                model.lost_at = time.monotonic()
                self._show(model)
        self._listener.lost(worker)

    def _show(self, model: ServedModel) -> None:
        self._metrics.set_model_ready(model.id, model.version, model.is_ready)
        self._on_state(model, model.is_ready)
