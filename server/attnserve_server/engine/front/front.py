# SPDX-License-Identifier: Apache-2.0
"""The front's side of the engine: takes requests, sends them to workers, brings the answers back.

Everything here runs on the event loop of the front process. Who waits and who goes next is in ``admission.py``, which worker may be
sent more in ``workers.py``, what need not be sent at all in ``cache.py``.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from attnserve_server import errors
from attnserve_server.engine.front.admission import Admission
from attnserve_server.engine.front.job import Job
from attnserve_server.engine.front.models import TRANSLATION, ModelRegistry, ServedModel
from attnserve_server.engine.front.pool import WorkerPool
from attnserve_server.engine.front.sharing import Sharing
from attnserve_server.engine.front.ticket import Ticket
from attnserve_server.engine.front.workers import Listener, Workers, WorkersConfig
from attnserve_server.engine.link.messages import Progress
from attnserve_server.metrics.prometheus import Metrics
from attnserve_server.request import (
    DecodeOptions,
    Hypothesis,
    RequestEvent,
    RequestFailed,
    RequestFinished,
    SequenceRequest,
    Source,
    Terms,
    TokensProduced,
)
from attnserve_server.scheduling.queue import QueueConfig

MAX_ATTEMPTS = 2
PATIENCE_S = 5.0
"""So long a model without workers (one is being restarted) still queues requests."""


@dataclass(frozen=True, slots=True)
class FrontConfig:
    """Limits of the front; ``cache_bytes`` 0 is for no cache."""

    workers: WorkersConfig
    queue: QueueConfig
    cache_bytes: int = 0


class Front:
    """Takes requests, hands them to workers, brings the answers back."""

    def __init__(
        self,
        registry: ModelRegistry,
        pool: WorkerPool,
        config: FrontConfig,
        metrics: Metrics,
        on_ready: Callable[[ServedModel, bool], None],
    ) -> None:
        self._registry, self._metrics = registry, metrics
        self._ids = itertools.count(1)
        self._jobs: dict[int, Job] = {}
        self._admissions = [Admission(model.id, config.queue, time.monotonic) for model in registry.all()]
        self._workers = Workers(registry, pool, config.workers, metrics, on_ready)
        self._sharing = Sharing(config.cache_bytes, config.queue.limit, metrics)
        self.is_draining = False

    async def start(self, timeout_s: float = 120.0) -> None:
        """Starts the workers and waits until every model is warm on every one of them.

        Raises:
            StartupError: a worker could not load a model, or they took too long.
        """
        await self._workers.start(Listener(self._on_progress, self._dispatch, self._on_lost), timeout_s)

    async def drain(self, timeout_s: float) -> None:
        """Refuses what comes new and waits for what was admitted; after ``timeout_s`` the rest is cancelled."""
        self.is_draining = True
        until = time.monotonic() + timeout_s
        while self._jobs and time.monotonic() < until:
            await asyncio.sleep(0.005)
        for job in list(self._jobs.values()):
            self._give_up(job, "shutdown", errors.ShuttingDown("the server stopped before the answer was ready"))
        for model in self.models():
            self._dispatch(model)

    async def stop(self) -> None:
        """Ends the workers."""
        self.is_draining = True
        await self._workers.stop()

    def models(self) -> list[ServedModel]:
        """All models and versions."""
        return self._registry.all()

    def resolve(self, model: str, version: str, task: int = TRANSLATION) -> ServedModel:
        """See :meth:`ModelRegistry.resolve`."""
        return self._registry.resolve(model, version, task)

    def submit(self, model: ServedModel, source: Source, options: DecodeOptions, terms: Terms) -> Ticket:
        """Takes a request, or refuses it at once.

        Args:
            model: from :meth:`resolve`.
            source: tokens with their end symbol, or an image.
            options: validated options.
            terms: deadline, streaming, priority and whose request it is.

        Raises:
            SequenceTooLong, Overloaded, DeadlineUnreachable, ShuttingDown, ModelNotReady: see ``errors``.
        """
        now, key = time.monotonic(), self._sharing.key(model, source, options)
        job: Job | None = None
        try:
            self._check(model, source)
            known = self._sharing.answer(model, key)
            if known is None:
                job = self._sharing.job_for(key, terms) or self._queue(
                    model, SequenceRequest.of(next(self._ids), source, options, terms), key
                )
        except errors.ServiceError as error:
            self._metrics.request_rejected(model.id, model.version, error.reason.lower())
            raise
        ticket = Ticket(terms, now, self._leave)
        if job is not None:
            job.attach(ticket)
            self._dispatch(model)
        elif known is not None:
            _answer_from_cache(ticket, known)
        return ticket

    def _check(self, model: ServedModel, source: Source) -> None:
        if self.is_draining:
            raise errors.ShuttingDown("the server is shutting down")
        if isinstance(source, list) and len(source) - 1 > model.max_source_tokens:
            raise errors.SequenceTooLong(
                f"the text has {len(source) - 1} pieces; {model.id} takes {model.max_source_tokens}", field="text"
            )

    def _queue(self, model: ServedModel, request: SequenceRequest, key: bytes | None) -> Job:
        """Makes a job of a request and queues it, or refuses it."""
        now, terms = time.monotonic(), request.terms
        if not model.is_ready and now - model.lost_at > PATIENCE_S:
            raise errors.ModelNotReady(f"{model.id} is not ready", retry_after_s=1.0)
        if key is not None:  # others with later deadlines may join it, so the front alone watches them
            request.terms = msgspec.structs.replace(terms, deadline=None)
        job = Job(model, request, terms, now, key)
        self._admissions[model.index].add(job)
        self._jobs[job.id] = job
        self._sharing.began(job)
        return job

    def _dispatch(self, model: ServedModel) -> None:
        """Sends what there is credit for; who is too late for that, or is answered by now, is done with."""
        admission = self._admissions[model.index]
        while (job := admission.first()) is not None:
            if admission.is_too_late(job):
                self._give_up(job, "deadline", errors.DeadlineExceeded("the deadline is too close to be met"))
            elif not self._is_shared(job):
                worker = self._workers.choose(job)
                if worker is None:
                    break
                admission.take(job)
                self._workers.send(worker, job)
                self._sharing.began(job)
        self._metrics.set_queue_length(model.id, model.version, admission.settle())

    def _is_shared(self, job: Job) -> bool:
        """Whether a queued job needs no worker: since it came, an equal one was answered, or is at a worker."""
        known = self._sharing.answer(job.model, job.key)
        twin = self._sharing.twin(job) if known is None else None
        if known is None and twin is None:
            return False
        self._forget(job)
        for ticket in job.tickets:
            if twin is not None:
                twin.attach(ticket)
            elif known is not None:
                _answer_from_cache(ticket, known)
        return True

    def _leave(self, ticket: Ticket, reason: str) -> None:
        """A ticket is given up; its job goes on while others wait for it."""
        job = ticket.job
        assert job is not None, "a ticket that is not done has a job"
        job.detach(ticket)
        ticket.fail(_error_of(reason))
        if job.tickets or job.worker is None:
            self._metrics.request_cancelled(job.model.id, job.model.version, reason)
        if not job.tickets and job.worker is not None:
            self._sharing.ended(job)
            self._workers.cancel(job, reason)  # the worker counts it, and says when its rows are free
        elif not job.tickets:
            self._forget(job)
            self._dispatch(job.model)

    def _give_up(self, job: Job, reason: str, error: errors.ServiceError) -> None:
        """The front itself ends a job that somebody waits for."""
        for _ in job.tickets:
            self._metrics.request_cancelled(job.model.id, job.model.version, reason)
        self._forget(job)
        job.fail(error)

    def _forget(self, job: Job, hypotheses: list[Hypothesis] | None = None) -> None:
        """Takes a job off all books; keeps its answer in the cache, if there is one."""
        self._jobs.pop(job.id, None)
        self._sharing.ended(job, hypotheses)
        self._workers.give_back(job)
        if job.worker is None:
            self._admissions[job.model.index].remove(job)

    def _on_progress(self, progress: Progress) -> None:
        for event in progress.events:
            self._on_event(event)
        self._dispatch(self._registry.all()[progress.model])

    def _on_event(self, event: RequestEvent) -> None:
        job = self._jobs.get(event.request_id)
        if job is None:
            return
        match event:
            case TokensProduced():
                job.deliver(event, time.monotonic())
            case RequestFinished():
                self._forget(job, event.hypotheses)
                self._admissions[job.model.index].answered(job, event)
                self._metrics.answered(job.stats(event))
                job.finish(event)
            case RequestFailed(_, reason, message):
                self._forget(job)
                job.fail(_failure_of(reason, message))

    def _on_lost(self, worker: str) -> None:
        """What a dead worker held runs once more elsewhere, unless part of it was already sent."""
        for job in [each for each in self._jobs.values() if each.worker == worker]:
            job.worker = None
            if not job.tickets or job.delivered_at or job.num_attempts >= MAX_ATTEMPTS:
                self._forget(job)
                job.fail(errors.WorkerLost("the worker that decoded this request died"))
            else:
                self._admissions[job.model.index].put_back(job)
        for model in self.models():
            self._dispatch(model)


def _answer_from_cache(ticket: Ticket, hypotheses: list[Hypothesis]) -> None:
    """A known answer took no time; a stream gets all of it at once."""
    now, best = time.monotonic(), hypotheses[0]
    if ticket.terms.is_streamed:
        ticket.deliver(TokensProduced(0, best.tokens, best.copied_from))
    ticket.finish(RequestFinished(0, hypotheses, now, 0.0, now, now, 0))


def _error_of(reason: str) -> errors.ServiceError:
    """What a ticket ends with that was given up."""
    if reason == "deadline":
        return errors.DeadlineExceeded("the deadline passed before the answer was ready")
    return errors.Cancelled("the request was cancelled")


def _failure_of(reason: str, message: str) -> errors.ServiceError:
    """The error that a worker names."""
    kinds: list[type[errors.ServiceError]] = [errors.Cancelled, errors.DeadlineExceeded]
    return next((kind for kind in kinds if kind.reason == reason), errors.ExecutionFailed)(message)
