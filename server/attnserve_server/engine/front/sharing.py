# SPDX-License-Identifier: Apache-2.0
"""Equal requests share one answer: from the cache where it is known, else from the engine's work that is under way.

A wrapper around ``Front.submit``; without a cache there is none. An answer follows from model, version, variant and payload, to the
last bit, so the key is all of these and nothing is approximate. The terms of a request are not in it: they shape when it is
answered, not what the answer is.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass

import msgspec
from cachetools import LRUCache

from attnserve_server.engine.front.front import Front
from attnserve_server.engine.front.job import Job, Ticket
from attnserve_server.engine.front.served_models import ServedModel
from attnserve_server.errors import ServiceError
from attnserve_server.kinds import Outcome, Payload
from attnserve_server.metrics.prometheus import Metrics
from attnserve_server.request import Done, Terms

LARGEST_SHARE = 8
"""An answer that takes more than this part of the cache is not kept: it would push out too many others."""

ENTRY_BYTES = 250
"""What the cache's own books take for one answer, about."""

LARGEST_KEY = 1 << 16
"""Longer keys (pixels are many) are replaced by their digests."""

_ENCODER = msgspec.msgpack.Encoder()


@dataclass(frozen=True, slots=True)
class _Entry:
    """An answer as bytes, of which kind it is, and what it takes."""

    data: bytes
    kind: type[Outcome]
    size: int


class ResponseCache:
    """The answers that were used last, as bytes: their size is known, and no reader can change them.

    Args:
        max_bytes: of keys, answers and books together; 0 keeps nothing.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._answers: LRUCache[bytes, _Entry] = LRUCache(max_bytes, getsizeof=lambda entry: entry.size)

    def __len__(self) -> int:
        return len(self._answers)

    @property
    def num_bytes(self) -> int:
        """What is kept now."""
        return int(self._answers.currsize)

    def get(self, key: bytes) -> Outcome | None:
        """The answer, if it is here; it counts as used then."""
        entry = self._answers.get(key)
        return msgspec.msgpack.decode(entry.data, type=entry.kind) if entry is not None else None

    def put(self, key: bytes, outcome: Outcome) -> None:
        """Keeps an answer, in place of those that were not used for longest."""
        data = _ENCODER.encode(outcome)
        size = len(key) + len(data) + ENTRY_BYTES
        if size <= self.max_bytes // LARGEST_SHARE:
            self._answers[key] = _Entry(data, type(outcome), size)


class SharedAnswers:
    """The cache, and the work under way that others may join. It watches the jobs that it makes (:class:`Watcher`).

    Args:
        front: does what is not known.
        max_bytes: of the cache.
        max_tickets: that may wait for one job; more become jobs of their own, for which the queue has limits.
        metrics: counts hits, misses and the rest.
    """

    def __init__(self, front: Front, max_bytes: int, max_tickets: int, metrics: Metrics) -> None:
        self._front, self._cache, self._max_tickets, self._metrics = front, ResponseCache(max_bytes), max_tickets, metrics
        self._under_way: dict[bytes, Job] = {}

    @property
    def num_under_way(self) -> int:
        """Jobs that may be joined."""
        return len(self._under_way)

    def submit(self, model: ServedModel, payload: Payload, terms: Terms) -> Ticket:
        """As :meth:`Front.submit`, but for what is known, or is being found out."""
        if not payload.is_reproducible:
            return self._front.submit(model, payload, terms)
        received_at, key = time.monotonic(), _key(model, payload)
        job: Job | None = None
        try:
            self._front.check(model, payload)
            known = self._answer(model, key)
            if known is None:
                job = self._coalesced(key, terms) or self._queued(model, payload, terms, key)
        except ServiceError as error:
            self._front.count_refusal(model, error)
            raise
        ticket = self._front.ticket(terms, received_at)
        if job is not None:
            job.attach(ticket)
            self._front.dispatch(model)
        elif known is not None:
            _answer_with(ticket, known)
        return ticket

    def is_answered(self, job: Job) -> bool:
        """See :class:`Watcher`: since a queued job came, an equal one was answered, or is at a worker."""
        known = self._answer(job.model, job.key)
        twin = self._twin(job) if known is None else None
        if known is None and twin is None:
            return False
        self._front.forget(job)
        for ticket in job.tickets:
            if twin is not None:
                twin.attach(ticket)
            elif known is not None:
                _answer_with(ticket, known)
        job.tickets.clear()  # which know the job: a cycle would wait for the garbage collector
        return True

    def sent(self, job: Job) -> None:
        """See :class:`Watcher`: others may join it, before any that is still queued."""
        if job.num_attempts == 1:
            self._count(job.model, "miss")
        self._under_way[job.key] = job

    def ended(self, job: Job, outcome: Outcome | None) -> None:
        """See :class:`Watcher`: it can be joined no longer; its answer is kept, where it has one."""
        if self._under_way.get(job.key) is job:
            del self._under_way[job.key]
        if outcome is not None:
            self._cache.put(job.key, outcome)
            self._metrics.set_cache(self._cache.num_bytes, len(self._cache))

    def _answer(self, model: ServedModel, key: bytes) -> Outcome | None:
        """The answer, if it is known."""
        outcome = self._cache.get(key)
        if outcome is not None:
            self._count(model, "hit")
        return outcome

    def _queued(self, model: ServedModel, payload: Payload, terms: Terms, key: bytes) -> Job:
        """Work of its own, which others may join unless there is some already."""
        job = self._front.queue(model, payload, terms, self, key)
        self._under_way.setdefault(key, job)
        return job

    def _coalesced(self, key: bytes, terms: Terms) -> Job | None:
        """Work that a new request may wait for; None where it has to wait for its own.

        What waits in the queue is joined only by its own client and at no higher priority: others may well be served sooner. They
        are brought together when one of the two is dispatched (:meth:`is_answered`).
        """
        job = self._shareable(key, terms.is_streamed, 1)
        if job is None:
            return None
        is_queued = job.num_attempts == 0
        if is_queued and (job.terms.client != terms.client or job.terms.priority < terms.priority):
            return None
        self._count(job.model, "coalesced")
        return job

    def _twin(self, job: Job) -> Job | None:
        """An equal job that is at a worker while this one is still queued, and that can take its place."""
        found = self._shareable(job.key, job.terms.is_streamed, len(job.tickets))
        if found is None or found is job or found.num_attempts == 0:
            return None
        self._count(job.model, "coalesced")  # what had joined it was counted then
        return found

    def _shareable(self, key: bytes, is_streamed: bool, num_tickets: int) -> Job | None:
        job = self._under_way.get(key)
        if job is None or (is_streamed and not job.terms.is_streamed) or len(job.tickets) + num_tickets > self._max_tickets:
            return None
        return job

    def _count(self, model: ServedModel, result: str) -> None:
        self._metrics.cache_request(model.id, model.version, result)


def _key(model: ServedModel, payload: Payload) -> bytes:
    """What shapes the answer."""
    key = _ENCODER.encode((model.id, model.version, model.generation, model.variant, payload))
    return key if len(key) <= LARGEST_KEY else hashlib.sha256(key).digest()


def _answer_with(ticket: Ticket, outcome: Outcome) -> None:
    """A known answer took no time; a stream gets all of it at once."""
    now = time.monotonic()
    part = outcome.as_part(0) if ticket.terms.is_streamed else None
    if part is not None:
        ticket.deliver(part)
    ticket.finish(Done(0, outcome, now, 0.0, now, now, 0))
