# SPDX-License-Identifier: Apache-2.0
"""The front's view of the workers: which models each has loaded or is loading, and which workers hang."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from attnserve_server.config import EngineConfig
from attnserve_server.engine.front.job import Job, Status
from attnserve_server.engine.front.pool import DEATHS_AT_START, MAX_DEATHS_AT_START, WorkerPool
from attnserve_server.engine.front.rows import Rows
from attnserve_server.engine.front.served_models import ModelRegistry, ServedModel
from attnserve_server.engine.front.watch import Watch
from attnserve_server.engine.link.messages import (
    Broken,
    Cancel,
    Configure,
    FromWorker,
    Hello,
    Load,
    Loading,
    Progress,
    Ready,
    Unload,
)
from attnserve_server.errors import StartupError
from attnserve_server.metrics.prometheus import Metrics
from attnserve_server.request import ModelKey

RELOAD_S = 5.0
"""Delay before a worker retries to load a model that failed there, if the model was ever ready on any worker."""
MAX_DEATHS_LOADING = 2
"""Number of workers that die in a row while loading a model before the model is set aside."""
SET_ASIDE_S = 60.0
"""Delay before a model that was set aside is loaded again, if it was ever ready on any worker: memory may be free by then."""
SET_ASIDE = f"{MAX_DEATHS_LOADING} workers died while they loaded it"
OnState = Callable[[ServedModel, bool | None], None]
"""Called with a model and whether it is ready; None if it is no longer served."""
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Listener:
    """Callbacks for worker events."""

    progress: Callable[[Progress[Any]], None]
    ready: Callable[[ServedModel], None]
    """A worker has warmed a model and accepts requests for it, or is no longer reserved for another job."""
    unserved: Callable[[ServedModel], None]
    """No worker has the model, and none is going to have it soon."""
    lost: Callable[[str, bool], None]
    """A worker has died and its requests are lost; the flag says whether it died while loading a model."""


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
        on_state: OnState,
    ) -> None:
        self._registry, self._pool, self._config, self._metrics, self._on_state = registry, pool, config, metrics, on_state
        self.rows = Rows(config, self._on_freed)
        self._names: set[str] = set()
        self._watch = Watch(config.hang_seconds)
        self._watching: asyncio.Task[None] | None = None
        self._loads: dict[str, set[ModelKey]] = defaultdict(set)
        """What each worker was told to load and has not answered."""
        self._parts: dict[str, ModelKey] = {}
        """Of which model a worker runs a part of loading."""
        self._settled = asyncio.Event()
        self._is_started = False
        self._failure: str | None = None
        self._num_lost = 0
        self._loaded: dict[ModelKey, ServedModel] = {}
        """Models that workers are loading or have loaded, including those being removed."""

    async def start(self, listener: Listener) -> None:
        """Starts the processes and waits until each has loaded, or failed to load, every model.

        Raises:
            StartupError: they die.
        """
        self._listener = listener
        self._pool.learn(model.kind for model in self._registry.all())
        await self._pool.start(self._on_message, self._on_lost)
        self._metrics.liveness.watch(self._pool.num_workers, self._pool.pids, self._busy)
        self._metrics.processes.watch(self._pool.pids)
        self._watching = asyncio.create_task(self._keep_watch(), name="watch")
        await self._wait_for(self._registry.all)
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
        try:
            await asyncio.wait_for(self._wait_for(lambda: [model]), timeout_s)
        except TimeoutError as error:
            raise StartupError(f"the workers were not ready after {timeout_s:.0f} s") from error
        if not model.is_ready:
            raise model.load_error()

    def unload(self, model: ServedModel) -> None:
        """Unloads a model from all workers, also from those that are still loading it."""
        for worker in self._names:
            self._pool.send(worker, Unload(model.key))
            self._loads[worker].discard(model.key)
            self.rows.forget(worker, model.key)
        model.ready_workers.clear()
        self._loaded.pop(model.key, None)

    async def _wait_for(self, models: Callable[[], list[ServedModel]]) -> None:
        while not self._failure and not all(self._is_settled(model) for model in models()):
            self._settled.clear()
            await self._settled.wait()
        if self._failure:
            raise StartupError(self._failure)

    def _is_settled(self, model: ServedModel) -> bool:
        return len(model.ready_workers) + len(model.broken) >= self._pool.num_workers

    def drain(self) -> None:
        """Stops replacing workers that die."""
        self._pool.is_draining = True

    def can_serve(self, model: ServedModel) -> bool:
        """Returns whether a worker has warmed a model, or may still do so."""
        return any(worker not in model.broken for worker in self._pool.pids())

    async def stop(self, grace_s: float) -> None:
        """Ends the processes."""
        if self._watching is not None:
            self._watching.cancel()
        await self._pool.stop(grace_s)

    def send(self, worker: str, job: Job) -> None:
        """Sends a job to a worker."""
        job.worker, job.status = worker, Status.SENT
        job.num_attempts += 1
        if not self.rows.holds(worker) and worker not in self._busy():
            self._metrics.liveness.given_work(worker)
        self.rows.take(worker, job)
        self._pool.send(worker, job.work)

    def cancel(self, job: Job, reason: str) -> None:
        """Tells a job's worker to drop it; its rows count as held until the worker reports them free."""
        if job.worker is not None:
            self._pool.send(job.worker, Cancel(job.model.key, job.id, reason))

    async def _keep_watch(self) -> None:
        """Kills workers that hang; the pool replaces them."""
        while True:
            await asyncio.sleep(self._watch.interval_s)
            try:
                living = list(self._pool.pids())
                for worker in self._watch.tick(living, set(living) - self._names, self._busy()):
                    log.error("%s hangs: it has work and has sent nothing for %g s", worker, self._config.hang_seconds)
                    self._pool.kill(worker)
            except Exception:
                log.exception("the workers could not be watched")

    def _busy(self) -> set[str]:
        """Returns the workers that have work, or load a model; another thread may call it."""
        return self.rows.busy() | {name for name, loads in list(self._loads.items()) if loads}

    def _on_message(self, worker: str, message: FromWorker) -> None:
        self._watch.heard(worker)
        self._metrics.liveness.heard(worker)
        if isinstance(message, Progress):
            if ModelKey(message.stats.model, message.stats.version) in self._loaded:
                self._metrics.engine(worker, message.stats)
            self._listener.progress(message)
        elif isinstance(message, Loading):
            self._parts.pop(worker, None)
            if message.model is not None:
                self._parts[worker] = message.model
        elif isinstance(message, Hello):
            self._names.add(worker)
            self._pool.send(worker, Configure(self._config))
            for model in self._registry.all():
                self._tell(worker, model)
        else:
            self._on_loaded(worker, message)

    def _on_loaded(self, worker: str, message: Ready | Broken) -> None:
        model = self._registry.get(message.model)
        if model is None or model.generation != message.generation:
            return  # it was removed in the meantime; if it was added again, the worker has been told
        self._loads[worker].discard(model.key)
        if isinstance(message, Ready):
            self._on_ready(worker, model, message.load_s)
        else:
            self._on_broken(worker, model, message.problems)

    def _tell(self, worker: str, model: ServedModel) -> None:
        """Tells a worker to load a model, unless loading it has killed workers."""
        self._loaded[model.key] = model
        if model.num_deaths >= MAX_DEATHS_LOADING:
            self._on_broken(worker, model, [SET_ASIDE], SET_ASIDE_S)
            return
        if worker not in self._busy():
            self._metrics.liveness.given_work(worker)
        self._loads[worker].add(model.key)
        folder, variant = str(model.bundle.folder), model.variant
        self._pool.send(worker, Load(model.key, model.kind.path, folder, self._pool.device, variant, model.generation))

    def _on_ready(self, worker: str, model: ServedModel, load_s: float) -> None:
        self._loaded[model.key] = model
        model.ready_workers.add(worker)
        model.was_ready, model.num_deaths = True, 0
        self._metrics.model_loaded(model.id, model.version, load_s)
        self._show(model)
        self._settled.set()
        self._listener.ready(model)

    def _on_broken(self, worker: str, model: ServedModel, problems: list[str], reload_s: float | None = None) -> None:
        log.error("%s cannot load %s, version %s: %s", worker, *model.key, "; ".join(problems))
        model.broken[worker] = problems
        self._settled.set()
        if not self.can_serve(model):
            self._listener.unserved(model)
        if model.was_ready:  # it can be loaded in principle: the failure may be temporary, such as lack of memory
            asyncio.get_running_loop().call_later(reload_s or RELOAD_S, self._tell_again, worker, model)

    def _tell_again(self, worker: str, model: ServedModel) -> None:
        if worker in self._names and self._registry.get(model.key) is model:
            model.broken.pop(worker, None)
            model.num_deaths = min(model.num_deaths, MAX_DEATHS_LOADING - 1)
            self._tell(worker, model)

    def _on_lost(self, worker: str) -> None:
        self._metrics.forget_worker(worker)
        self._watch.forget(worker)
        self._names.discard(worker)
        self._loads.pop(worker, None)
        self.rows.forget_worker(worker)
        part = self._parts.pop(worker, None)
        if part is None:
            self._num_lost += 1
        elif (culprit := self._registry.get(part)) is not None:
            culprit.num_deaths += 1
        if not self._is_started and self._num_lost >= MAX_DEATHS_AT_START:
            self._failure = self._failure or DEATHS_AT_START
            self._settled.set()
        for model in self._loaded.values():
            model.broken.pop(worker, None)
            if worker in model.ready_workers:
                model.ready_workers.discard(worker)
                model.lost_at = time.monotonic()
                self._show(model)
        self._listener.lost(worker, part is not None)

    def _on_freed(self) -> None:
        for model in self._registry.all():
            asyncio.get_running_loop().call_soon(self._listener.ready, model)

    def _show(self, model: ServedModel) -> None:
        self._metrics.set_model_ready(model.id, model.version, model.is_ready)
        self._on_state(model, model.is_ready)
