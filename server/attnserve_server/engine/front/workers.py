# SPDX-License-Identifier: Apache-2.0
"""The workers as the front sees them: which are warm for which model, and how many rows each of them holds.

Each model has a credit of its own on each worker: its slots and a quarter more, so that a freed slot is filled without a round
trip. What one model's requests hold is no hindrance to another's.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from attnserve_server.engine.front.job import Job
from attnserve_server.engine.front.models import ModelRegistry, ServedModel
from attnserve_server.engine.front.pool import WorkerPool
from attnserve_server.engine.link.messages import Cancel, Configure, Failed, FromWorker, Hello, ModelToLoad, Progress, Ready, Submit
from attnserve_server.errors import StartupError
from attnserve_server.metrics.prometheus import Metrics

MAX_DEATHS_AT_START = 3


@dataclass(frozen=True, slots=True)
class WorkersConfig:
    """What workers are told."""

    num_slots: int
    admit_wait_s: float
    stream_interval_s: float
    device: str


@dataclass(frozen=True, slots=True)
class Listener:
    """Who is told what the workers do."""

    progress: Callable[[Progress], None]
    ready: Callable[[ServedModel], None]
    """A worker is warm for a model and can be sent requests."""
    lost: Callable[[str], None]
    """A worker has died; what it held is gone with it."""


class Workers:
    """Sends jobs to workers and keeps the books on them.

    Args:
        registry: the models.
        pool: the processes.
        config: what they are told.
        metrics: takes their statistics.
        on_state: called when a model becomes ready, or is no longer.
    """

    def __init__(
        self,
        registry: ModelRegistry,
        pool: WorkerPool,
        config: WorkersConfig,
        metrics: Metrics,
        on_state: Callable[[ServedModel, bool], None],
    ) -> None:
        self._models, self._pool, self._config, self._metrics, self._on_state = registry.all(), pool, config, metrics, on_state
        self._credit = config.num_slots + max(2, config.num_slots // 4)
        self._rows: dict[tuple[str, int], int] = {}
        self._are_ready = asyncio.Event()
        self._failure: str | None = None
        self._num_lost = 0

    async def start(self, listener: Listener, timeout_s: float) -> None:
        """Starts the processes and waits until every model is warm on every one of them.

        Raises:
            StartupError: a worker could not load a model, or they took too long.
        """
        self._listener = listener
        await self._pool.start(self._on_message, self._on_lost)
        try:
            await asyncio.wait_for(self._are_ready.wait(), timeout_s)
        except TimeoutError as error:
            raise StartupError(f"the workers were not ready after {timeout_s:.0f} s") from error
        if self._failure:
            raise StartupError(self._failure)

    async def stop(self) -> None:
        """Ends the processes."""
        await self._pool.stop()

    def choose(self, job: Job) -> str | None:
        """The worker with most credit for the job's model; None where it is not enough, or no worker is warm."""
        worker = min(job.model.ready_workers, key=lambda name: self._held(name, job), default=None)
        if worker is None:
            return None
        held = self._held(worker, job)
        return worker if not held or held + job.num_rows <= self._credit else None

    def send(self, worker: str, job: Job) -> None:
        """Sends a job to the worker that was chosen for it."""
        job.worker = worker
        job.num_attempts += 1
        self._rows[worker, job.model.index] = self._held(worker, job) + job.num_rows
        self._pool.send(worker, Submit(job.model.index, job.request))

    def cancel(self, job: Job, reason: str) -> None:
        """Tells a job's worker to drop it; it holds its rows until the worker says that they are free."""
        if job.worker is not None:
            self._pool.send(job.worker, Cancel(job.model.index, job.id, reason))

    def give_back(self, job: Job) -> None:
        """A worker has done with a job."""
        if job.worker is not None:
            self._rows[job.worker, job.model.index] -= job.num_rows

    def _held(self, worker: str, job: Job) -> int:
        return self._rows.get((worker, job.model.index), 0)

    def _on_message(self, worker: str, message: FromWorker) -> None:
        match message:
            case Progress():
                self._metrics.engine(worker, message.stats)
                self._listener.progress(message)
            case Hello():
                config = self._config
                folders = [ModelToLoad(str(m.bundle.folder), config.device, m.variant) for m in self._models]
                self._pool.send(worker, Configure(folders, config.num_slots, config.admit_wait_s, config.stream_interval_s))
            case Ready(model, load_s):
                self._on_model_ready(worker, self._models[model], load_s)
            case Failed(text):
                self._failure = text
                self._are_ready.set()

    def _on_model_ready(self, worker: str, model: ServedModel, load_s: float) -> None:
        model.ready_workers.add(worker)
        self._metrics.model_loaded(model.id, model.version, load_s)
        self._show(model)
        if all(len(each.ready_workers) >= self._pool.num_workers for each in self._models):
            self._are_ready.set()
        self._listener.ready(model)

    def _on_lost(self, worker: str) -> None:
        self._metrics.forget_worker(worker)
        self._num_lost += 1
        if not self._are_ready.is_set() and self._num_lost >= MAX_DEATHS_AT_START:
            self._failure = self._failure or "the workers die before they are ready; their log says why"
            self._are_ready.set()
        for model in self._models:
            self._rows.pop((worker, model.index), None)
            if worker in model.ready_workers:
                model.ready_workers.discard(worker)
                model.lost_at = time.monotonic()
                self._show(model)
        self._listener.lost(worker)

    def _show(self, model: ServedModel) -> None:
        self._metrics.set_model_ready(model.id, model.version, model.is_ready)
        self._on_state(model, model.is_ready)
