# SPDX-License-Identifier: Apache-2.0
"""The front's side of the engine: one queue a model, admission, credits, and the fate of requests whose worker dies.

Everything here runs on the event loop of the front process. A worker is given requests while its credit lasts: its slots and a
few more, so that a freed slot is filled without a round trip.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from attnserve_server import errors
from attnserve_server.engine.messages import Cancel, Configure, Failed, FromWorker, Hello, ModelToLoad, Progress, Ready, Submit
from attnserve_server.engine.models import ModelRegistry, ServedModel
from attnserve_server.engine.pool import WorkerPool
from attnserve_server.engine.ticket import Ticket
from attnserve_server.metrics.prometheus import Metrics
from attnserve_server.request import (
    DecodeOptions,
    RequestEvent,
    RequestFailed,
    RequestFinished,
    SequenceRequest,
    Terms,
    TokensProduced,
)
from attnserve_server.stats import RequestStats

MAX_ATTEMPTS = 2
MAX_DEATHS_AT_START = 3
RETRY_AFTER_S = 0.1
PATIENCE_S = 5.0
"""So long a model without workers (one is being restarted) still queues requests."""
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FrontConfig:
    """Limits of the front."""

    num_slots: int
    queue_limit: int
    admit_wait_s: float
    device: str


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
        self._registry, self._pool, self._config, self._metrics, self._on_ready = registry, pool, config, metrics, on_ready
        self._ids = itertools.count(1)
        self._tickets: dict[int, Ticket] = {}
        self._rows: dict[tuple[str, int], int] = {}
        self._credit = config.num_slots + max(2, config.num_slots // 4)
        self._ready = asyncio.Event()
        self._failure: str | None = None
        self._num_lost = 0
        self.is_draining = False

    async def start(self, timeout_s: float = 120.0) -> None:
        """Starts the workers and waits until every model is warm on every one of them.

        Raises:
            StartupError: a worker could not load a model, or they took too long.
        """
        await self._pool.start(self._on_message, self._on_lost)
        try:
            await asyncio.wait_for(self._ready.wait(), timeout_s)
        except TimeoutError as error:
            raise errors.StartupError(f"the workers were not ready after {timeout_s:.0f} s") from error
        if self._failure:
            raise errors.StartupError(self._failure)

    async def drain(self, timeout_s: float) -> None:
        """Refuses what comes new and waits for what was admitted; after ``timeout_s`` the rest is cancelled."""
        self.is_draining = True
        until = time.monotonic() + timeout_s
        while self._tickets and time.monotonic() < until:
            await asyncio.sleep(0.005)
        for ticket in list(self._tickets.values()):
            self._metrics.request_cancelled(ticket.model.id, ticket.model.version, "shutdown")
            self._end(ticket, errors.ShuttingDown("the server stopped before the answer was ready"))

    async def stop(self) -> None:
        """Ends the workers."""
        self.is_draining = True
        await self._pool.stop()

    def models(self) -> list[ServedModel]:
        """All models and versions."""
        return self._registry.all()

    def resolve(self, model: str, version: str) -> ServedModel:
        """See :meth:`ModelRegistry.resolve`."""
        return self._registry.resolve(model, version)

    def submit(self, model: ServedModel, tokens: list[int], options: DecodeOptions, terms: Terms) -> Ticket:
        """Takes a request, or refuses it at once.

        Args:
            model: from :meth:`resolve`.
            tokens: source tokens with their end symbol.
            options: validated options.
            terms: deadline, streaming, priority and whose request it is.

        Raises:
            SequenceTooLong, Overloaded, ShuttingDown, ModelNotReady: see ``errors``.
        """
        try:
            self._check(model, tokens)
        except errors.ServiceError as error:
            self._metrics.request_rejected(model.id, model.version, error.reason.lower())
            raise
        request = SequenceRequest(next(self._ids), tokens, options, terms)
        ticket = Ticket(model, request, time.monotonic(), self._cancel)
        self._tickets[request.request_id] = ticket
        model.queue.append(ticket)
        self._dispatch(model)
        self._watch_deadline(ticket)
        return ticket

    def _check(self, model: ServedModel, tokens: list[int]) -> None:
        if self.is_draining:
            raise errors.ShuttingDown("the server is shutting down")
        if len(tokens) - 1 > model.max_source_tokens:
            raise errors.SequenceTooLong(
                f"the text has {len(tokens) - 1} pieces; {model.id} takes {model.max_source_tokens}", field="text"
            )
        if not model.is_ready and time.monotonic() - model.lost_at > PATIENCE_S:
            raise errors.ModelNotReady(f"{model.id} is not ready", retry_after_s=1.0)
        if len(model.queue) >= self._config.queue_limit:
            raise errors.Overloaded(f"{model.id}: {len(model.queue)} requests are waiting", retry_after_s=RETRY_AFTER_S)

    def _dispatch(self, model: ServedModel) -> None:
        while model.queue and model.ready_workers:
            ticket = model.queue[0]
            rows = ticket.request.options.num_rows
            worker = min(model.ready_workers, key=lambda name: self._rows.get((name, model.index), 0))
            held = self._rows.get((worker, model.index), 0)
            if held and held + rows > self._credit:
                break
            model.queue.popleft()
            self._rows[worker, model.index] = held + rows
            ticket.worker = worker
            ticket.num_attempts += 1
            self._pool.send(worker, Submit(model.index, ticket.request))
        self._metrics.set_queue_length(model.id, model.version, len(model.queue))

    def _cancel(self, ticket: Ticket, reason: str) -> None:
        if ticket.worker is not None:
            self._pool.send(ticket.worker, Cancel(ticket.model.index, ticket.request.request_id, reason))
            ticket.fail(errors.Cancelled("the request was cancelled"))
            return  # its rows are given back when the worker says that they are free
        self._metrics.request_cancelled(ticket.model.id, ticket.model.version, reason)
        self._end(ticket, errors.Cancelled("the request was cancelled"))

    def _watch_deadline(self, ticket: Ticket) -> None:
        """In the batch the worker watches it; here, while the ticket is queued."""
        if ticket.worker is None and ticket.request.terms.deadline is not None:
            asyncio.get_running_loop().call_at(ticket.request.terms.deadline, self._expire, ticket)

    def _expire(self, ticket: Ticket) -> None:
        if not ticket.is_done and ticket.worker is None:
            self._metrics.request_cancelled(ticket.model.id, ticket.model.version, "deadline")
            self._end(ticket, errors.DeadlineExceeded("the deadline passed while the request was waiting"))

    def _end(self, ticket: Ticket, error: errors.ServiceError | None) -> None:
        """Takes a ticket off the books; with an error, that is how it ends."""
        self._tickets.pop(ticket.request.request_id, None)
        if ticket.worker is not None:
            self._rows[ticket.worker, ticket.model.index] -= ticket.request.options.num_rows
        elif ticket in ticket.model.queue:
            ticket.model.queue.remove(ticket)
        if error is not None:
            ticket.fail(error)

    def _on_message(self, worker: str, message: FromWorker) -> None:
        match message:
            case Progress(model, events, stats):
                self._metrics.engine(worker, stats)
                for event in events:
                    self._on_event(event)
                self._dispatch(self._registry.all()[model])
            case Hello():
                folders = [ModelToLoad(str(m.bundle.folder), self._config.device, m.variant) for m in self.models()]
                self._pool.send(worker, Configure(folders, self._config.num_slots, self._config.admit_wait_s))
            case Ready(model, load_s):
                self._on_model_ready(worker, self.models()[model], load_s)
            case Failed(text):
                self._failure = text
                self._ready.set()

    def _on_model_ready(self, worker: str, model: ServedModel, load_s: float) -> None:
        model.ready_workers.add(worker)
        self._metrics.model_loaded(model.id, model.version, load_s)
        self._set_ready(model)
        if all(len(each.ready_workers) >= self._pool.num_workers for each in self.models()):
            self._ready.set()
        self._dispatch(model)

    def _set_ready(self, model: ServedModel) -> None:
        self._metrics.set_model_ready(model.id, model.version, model.is_ready)
        self._on_ready(model, model.is_ready)

    def _on_event(self, event: RequestEvent) -> None:
        ticket = self._tickets.get(event.request_id)
        if ticket is None:
            return
        match event:
            case TokensProduced(_, tokens):
                ticket.deliver(tokens, time.monotonic())
            case RequestFinished():
                self._end(ticket, None)
                self._note_answer(ticket, event)
                ticket.finish(event)
            case RequestFailed(_, reason, message):
                self._end(ticket, _error_of(reason, message))

    def _note_answer(self, ticket: Ticket, answer: RequestFinished) -> None:
        times = ticket.delivered_at
        self._metrics.answered(
            RequestStats(
                model=ticket.model.id,
                version=ticket.model.version,
                queue_s=max(0.0, answer.admitted_at - ticket.received_at),
                encode_s=answer.encode_s,
                decode_s=max(0.0, answer.finished_at - answer.admitted_at - answer.encode_s),
                time_to_first_token_s=max(0.0, answer.first_token_at - ticket.received_at),
                num_source_tokens=len(ticket.request.tokens),
                num_generated_tokens=len(answer.hypotheses[0].tokens),
                inter_token_s=[after - before for before, after in itertools.pairwise(times)],
            )
        )

    def _on_lost(self, worker: str) -> None:
        """A worker has died: what it held runs once more elsewhere, unless part of it was already sent."""
        self._metrics.forget_worker(worker)
        self._num_lost += 1
        if not self._ready.is_set() and self._num_lost >= MAX_DEATHS_AT_START:
            self._failure = self._failure or "the workers die before they are ready; their log says why"
            self._ready.set()
        for model in self.models():
            self._rows.pop((worker, model.index), None)
            if worker in model.ready_workers:
                model.ready_workers.discard(worker)
                model.lost_at = time.monotonic()
                self._set_ready(model)
        held = sorted((t for t in self._tickets.values() if t.worker == worker), key=lambda t: -t.request.request_id)
        for ticket in held:
            ticket.worker = None
            if ticket.is_done or ticket.delivered_at or ticket.num_attempts >= MAX_ATTEMPTS:
                self._end(ticket, errors.WorkerLost("the worker that decoded this request died"))
            else:
                ticket.model.queue.appendleft(ticket)
                self._watch_deadline(ticket)
        for model in self.models():
            self._dispatch(model)


def _error_of(reason: str, message: str) -> errors.ServiceError:
    kinds: list[type[errors.ServiceError]] = [errors.Cancelled, errors.DeadlineExceeded]
    return next((kind for kind in kinds if kind.reason == reason), errors.ExecutionFailed)(message)
