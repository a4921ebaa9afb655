# SPDX-License-Identifier: Apache-2.0
"""The front's side of the engine: takes requests, sends them to workers, returns the answers.

Everything here runs on the front's event loop; of a payload it reads only the properties of ``kinds.py: Payload``.
``accounting.py`` holds the jobs, ``admission.py`` refuses and orders them, ``rows.py`` chooses the worker, ``sharing.py`` answers
from the cache and coalesces equal requests.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable
from typing import Any

from attnserve_server import errors
from attnserve_server.config import EngineConfig
from attnserve_server.engine.front.accounting import Accounting
from attnserve_server.engine.front.draining import Draining
from attnserve_server.engine.front.ends import error_of, failure_of
from attnserve_server.engine.front.job import Job, Status, Ticket, Watcher
from attnserve_server.engine.front.pool import WorkerPool
from attnserve_server.engine.front.served_models import PATIENCE_S, ModelRegistry, ServedModel
from attnserve_server.engine.front.workers import Listener, OnState, Workers
from attnserve_server.engine.link.messages import Progress
from attnserve_server.kinds import Payload
from attnserve_server.metrics import logs
from attnserve_server.metrics.prometheus import Metrics
from attnserve_server.request import Done, Failed, ModelKey, Terms, Work


class Front:
    """Takes requests, sends them to workers, returns the answers.

    Args:
        registry: the models; :meth:`add_model` adds more.
        pool: the worker processes.
        config: settings of engines and queues.
        metrics: receives counts and times.
        on_state: called when a model's state changes.
    """

    def __init__(
        self, registry: ModelRegistry, pool: WorkerPool, config: EngineConfig, metrics: Metrics, on_state: OnState
    ) -> None:
        self._registry = registry
        self._metrics = metrics
        self._on_state = on_state
        self._ids = itertools.count(1)
        self._workers = Workers(registry, pool, config, metrics, on_state)
        self.accounting = Accounting(config, self._workers.rows, time.monotonic)
        self.draining = Draining()
        for model in registry.all():
            self._open(model)
            on_state(model, False)  # a model that is added later is reported once it is ready

    async def start(self) -> None:
        """Starts the workers and waits until every worker has warmed or failed to load every model.

        A model that no worker could load is reported and no longer served.

        Raises:
            StartupError: no model is left, or the workers die.
        """
        await self._workers.start(Listener(self._on_progress, self.dispatch, self._end_queued, self._on_lost))
        unloaded = [model for model in self._registry.all() if not model.is_ready]
        if unloaded and len(unloaded) == len(self._registry.all()):
            raise errors.StartupError("; ".join(str(model.load_error()) for model in unloaded))
        for model in unloaded:
            self._close(model)

    async def add_model(self, model: ServedModel, timeout_s: float = 120.0) -> None:
        """Adds a model; returns when it is warm on every worker that can load it.

        Raises:
            ConfigError: it is already served, or is still being removed.
            BundleError: no worker could load it; it is not served.
            StartupError: the timeout expired; it is not served.
        """
        if self.accounting.has(model.key):
            raise errors.ConfigError(f"{model.id}, version {model.version}, is already served, or still being removed")
        self._registry.add(model)
        self._open(model)
        try:
            await self._workers.load(model, timeout_s)
        except BaseException:
            self._close(model)
            raise

    async def remove_model(self, key: ModelKey, timeout_s: float = 30.0) -> None:
        """Removes a model: refuses new and queued requests, and waits at most ``timeout_s`` for those that workers have.

        Raises:
            ModelNotFound: there is no such model.
        """
        model = self._registry.remove(key)
        until = time.monotonic() + timeout_s
        while (jobs := self.accounting.of(model)) and time.monotonic() < until:
            for job in jobs:
                if job.status == Status.QUEUED:  # also a job that was queued again because its worker died
                    self._give_up(job, "unload", model.gone())
            await asyncio.sleep(0.005)
        self._close(model)

    async def drain(self, timeout_s: float, is_expecting: Callable[[], bool] = lambda: False) -> None:
        """Refuses new requests and waits for admitted ones, and while it expects some; cancels the rest after ``timeout_s``."""
        self.draining.begin(is_expecting)
        self._workers.drain()
        until = time.monotonic() + timeout_s
        while (self.accounting.jobs or is_expecting()) and time.monotonic() < until:
            for model in self.models():
                if not self._workers.can_serve(model):
                    self._give_up_all(model, "shutdown", errors.ShuttingDown("the last worker died while the server stopped"))
            await asyncio.sleep(0.005)
        self.draining.end()
        for job in list(self.accounting.jobs.values()):
            self._give_up(job, "shutdown", errors.ShuttingDown("the server stopped before the answer was ready"))
        for model in self.models():
            self.dispatch(model)

    async def stop(self, grace_s: float = 3.0) -> None:
        """Ends the workers; those that are not gone by themselves after ``grace_s`` are killed."""
        self.draining.end()
        await self._workers.stop(grace_s)

    def models(self) -> list[ServedModel]:
        """Returns all models and versions."""
        return self._registry.all()

    def resolve(self, model: str, version: str, task: int = 0) -> ServedModel:
        """See :meth:`ModelRegistry.resolve`."""
        return self._registry.resolve(model, version, task)

    def submit(self, model: ServedModel, payload: Payload, terms: Terms) -> Ticket:
        """Queues a request, or refuses it.

        Args:
            model: from :meth:`resolve`.
            payload: of the model's kind.
            terms: deadline, streaming, priority and client.

        Raises:
            SequenceTooLong, Overloaded, DeadlineUnreachable, ShuttingDown, ModelNotReady: see ``errors``.
        """
        try:
            self.check(model, payload)
            job = self.queue(model, payload, terms)
        except errors.ServiceError as error:
            self.count_refusal(model, error)
            raise
        ticket = self.ticket(terms, job.queued_at)
        job.attach(ticket)
        self.dispatch(model, is_freed=False)
        return ticket

    def check(self, model: ServedModel, payload: Payload) -> None:
        """Checks a prepared request.

        Raises:
            ShuttingDown: see :class:`Draining`.
            SequenceTooLong: the source is too long.
        """
        self.draining.check(is_prepared=True)
        model.check(payload)

    def queue(self, model: ServedModel, payload: Payload, terms: Terms, watcher: Watcher | None = None, key: bytes = b"") -> Job:
        """Makes a job of a request and queues it, or refuses it; ``watcher`` and ``key`` are those of a :class:`Job`.

        Raises:
            Overloaded, DeadlineUnreachable, ModelNotReady: see ``errors``.
        """
        now = time.monotonic()
        if not model.is_ready and now - model.lost_at > PATIENCE_S:
            raise errors.ModelNotReady(f"{model.id} is not ready", retry_after_s=1.0)
        # Requests with later deadlines may join a shared job, so the front alone enforces deadlines.
        sent = terms if watcher is None or terms.deadline is None else terms.without_deadline()
        num_rows = payload.num_rows
        work = Work(next(self._ids), model.key, sent, num_rows, num_rows * payload.num_source, payload, logs.request_id.get())
        job = Job(model, work, terms, now, watcher, key)
        self.accounting.add(job)
        return job

    def ticket(self, terms: Terms, received_at: float) -> Ticket:
        """Makes a ticket; the caller attaches it to a job (:meth:`Job.attach`)."""
        return Ticket(terms, received_at, self._leave)

    def count_refusal(self, model: ServedModel, error: errors.ServiceError) -> None:
        """Counts a request that was refused before it was queued."""
        self._metrics.request_rejected(model.id, model.version, error.reason.lower())

    def dispatch(self, model: ServedModel, *, is_freed: bool = True) -> None:
        """Sends queued jobs while there is credit, which may have come if ``is_freed``; drops those too late or answered."""
        admission = self.accounting.admission(model)
        if admission is None:
            return  # no longer served
        admission.is_blocked &= not is_freed
        while not admission.is_blocked and (job := admission.first()) is not None:
            if admission.is_too_late(job):
                self._give_up(job, "deadline", errors.DeadlineExceeded("the deadline is too close to be met"))
            elif job.watcher is None or not job.watcher.is_answered(job):
                worker = self._workers.rows.choose(job)
                if worker is None:
                    admission.is_blocked = job.work.num_rows == 1 and not job.runs_alone
                    break
                admission.take(job)
                self._workers.send(worker, job)
                if job.watcher is not None:
                    job.watcher.sent(job)
        self._metrics.set_queue(model.id, model.version, admission.settle(), admission.waiting_since)

    def _open(self, model: ServedModel) -> None:
        self.accounting.open(model)
        self._metrics.register_model(model.id, model.version, model.kind.measured)

    def _close(self, model: ServedModel) -> None:
        self._give_up_all(model, "unload", model.gone())
        self._registry.discard(model)
        self._workers.unload(model)
        self.accounting.close(model)
        self._metrics.forget_model(model.id, model.version)
        self._on_state(model, None)

    def _leave(self, ticket: Ticket, reason: str) -> None:
        """Cancels a ticket; its job continues while other tickets wait for it."""
        job = ticket.job
        assert job is not None, "a ticket that is not done has a job"
        job.detach(ticket)
        ticket.fail(error_of(reason))
        if job.tickets or job.status == Status.QUEUED:
            self._metrics.request_cancelled(job.model.id, job.model.version, reason)
        if not job.tickets and job.status == Status.SENT:
            job.status = Status.LEAVING
            if job.watcher is not None:
                job.watcher.ended(job, None)
            self._workers.cancel(job, reason)  # the worker counts it, and reports when its rows are free
        elif not job.tickets:
            self.accounting.forget(job)
            self.dispatch(job.model)

    def _give_up_all(self, model: ServedModel, reason: str, error: errors.ServiceError) -> None:
        for job in self.accounting.of(model):
            self._give_up(job, reason, error)

    def _end_queued(self, model: ServedModel) -> None:
        self._give_up_all(model, "unload", errors.ModelNotReady(f"{model.id} is not ready", retry_after_s=1.0))

    def _give_up(self, job: Job, reason: str, error: errors.ServiceError) -> None:
        """Ends a job, and all its tickets, with an error."""
        for _ in job.tickets:
            self._metrics.request_cancelled(job.model.id, job.model.version, reason)
        self.accounting.forget(job)
        job.fail(error)

    def _on_progress(self, progress: Progress[Any]) -> None:
        for event in progress.events:
            self._on_event(event)
        model = self._registry.get((progress.stats.model, progress.stats.version))
        if model is not None:
            self.dispatch(model)

    def _on_event(self, event: Any) -> None:
        job = self.accounting.jobs.get(event.request_id)
        if job is None:
            return
        if isinstance(event, Done):
            self.accounting.answered(job, event)
            self._metrics.answered(job.stats(event))
            job.finish(event)
        elif isinstance(event, Failed):
            self.accounting.forget(job)
            job.fail(failure_of(event.reason, event.message))
        else:
            job.deliver(event, time.monotonic())

    def _on_lost(self, worker: str, was_loading: bool) -> None:
        """Retries the jobs of a dead worker that may run again, see :meth:`Job.survives`."""
        held = self.accounting.held_by(worker)
        for job in held:
            job.worker = None
            if job.survives(is_suspect=not was_loading, was_alone=len(held) == 1):
                self.accounting.put_back(job)
            else:
                self.accounting.forget(job)
                job.fail(errors.WorkerLost("the worker that decoded this request died"))
        for model in self.models():
            self.dispatch(model)
