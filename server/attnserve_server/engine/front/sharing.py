# SPDX-License-Identifier: Apache-2.0
"""Answer cache and request coalescing: equal requests share one answer, cached or in progress.

It wraps ``Front.submit``, and is used only if the cache is on. Model, version, variant and payload determine an answer bit for bit,
so together they are the key, and no match is approximate. A request's terms are not part of it: they affect when it is answered,
not the answer.
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
"""An answer above one eighth of the cache is not kept: it would evict too many others."""

ENTRY_BYTES = 250
"""Approximate overhead of one cache entry."""

LARGEST_KEY = 1 << 16
"""Longer keys (those with pixels) are replaced by their digests."""

_ENCODER = msgspec.msgpack.Encoder()


@dataclass(frozen=True, slots=True)
class _Entry:
    """A serialized answer, its type, and the bytes that it occupies."""

    data: bytes
    kind: type[Outcome]
    size: int


class ResponseCache:
    """LRU cache of serialized answers: their size is known, and no reader can modify them.

    Args:
        max_bytes: limit for keys, answers and overhead together; 0 keeps nothing.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._answers: LRUCache[bytes, _Entry] = LRUCache(max_bytes, getsizeof=lambda entry: entry.size)

    def __len__(self) -> int:
        return len(self._answers)

    @property
    def num_bytes(self) -> int:
        """Bytes in use."""
        return int(self._answers.currsize)

    def get(self, key: bytes) -> Outcome | None:
        """Returns the cached answer, or None; a hit counts as a use."""
        entry = self._answers.get(key)
        return msgspec.msgpack.decode(entry.data, type=entry.kind) if entry is not None else None

    def put(self, key: bytes, outcome: Outcome) -> None:
        """Adds an answer, and evicts the least recently used ones."""
        data = _ENCODER.encode(outcome)
        size = len(key) + len(data) + ENTRY_BYTES
        if size <= self.max_bytes // LARGEST_SHARE:
            self._answers[key] = _Entry(data, type(outcome), size)


class SharedAnswers:
    """The cache, and the jobs in progress that equal requests join. It is the :class:`Watcher` of the jobs that it makes.

    Args:
        front: computes answers that are not cached.
        max_bytes: size of the cache.
        max_tickets: tickets per job; further requests become jobs of their own, which the queue limits.
        metrics: counts hits, misses and coalesced requests.
    """

    def __init__(self, front: Front, max_bytes: int, max_tickets: int, metrics: Metrics) -> None:
        self._front, self._cache, self._max_tickets, self._metrics = front, ResponseCache(max_bytes), max_tickets, metrics
        self._under_way: dict[bytes, Job] = {}

    @property
    def num_under_way(self) -> int:
        """Number of jobs that requests can join."""
        return len(self._under_way)

    def key(self, model: ServedModel, payload: Payload) -> bytes:
        """Returns what :meth:`submit` finds an answer by: everything that determines it. Runs on any thread.

        It takes up to milliseconds for an image; empty if equal payloads may have different answers.
        """
        if not payload.is_reproducible:
            return b""
        key = _ENCODER.encode((model.id, model.version, model.generation, model.variant, payload))
        return key if len(key) <= LARGEST_KEY else hashlib.sha256(key).digest()

    def submit(self, model: ServedModel, payload: Payload, terms: Terms, key: bytes) -> Ticket:
        """As :meth:`Front.submit`, but uses a cached answer or an equal job in progress; ``key`` is that of :meth:`key`."""
        if not key:
            return self._front.submit(model, payload, terms)
        received_at = time.monotonic()
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
        """See :class:`Watcher`: true if an equal job was answered or sent since this one was queued."""
        known = self._answer(job.model, job.key)
        twin = self._twin(job) if known is None else None
        if known is None and twin is None:
            return False
        self._front.accounting.forget(job)
        for ticket in job.tickets:
            if twin is not None:
                twin.attach(ticket)
            elif known is not None:
                _answer_with(ticket, known)
        job.tickets.clear()  # breaks the cycle of job and tickets
        return True

    def sent(self, job: Job) -> None:
        """See :class:`Watcher`: requests join this job in preference to an equal queued one."""
        if job.num_attempts == 1:
            self._count(job.model, "miss")
        self._under_way[job.key] = job

    def ended(self, job: Job, outcome: Outcome | None) -> None:
        """See :class:`Watcher`: requests can no longer join it; its answer, if any, is cached."""
        if self._under_way.get(job.key) is job:
            del self._under_way[job.key]
        if outcome is not None:
            self._cache.put(job.key, outcome)
            self._metrics.set_cache(self._cache.num_bytes, len(self._cache))

    def _answer(self, model: ServedModel, key: bytes) -> Outcome | None:
        """Returns the cached answer, or None."""
        outcome = self._cache.get(key)
        if outcome is not None:
            self._count(model, "hit")
        return outcome

    def _queued(self, model: ServedModel, payload: Payload, terms: Terms, key: bytes) -> Job:
        """Queues a new job, which equal requests may join unless there is another one already."""
        job = self._front.queue(model, payload, terms, self, key)
        self._under_way.setdefault(key, job)
        return job

    def _coalesced(self, key: bytes, terms: Terms) -> Job | None:
        """Returns an equal job that a new request can join, or None.

        A queued job accepts only requests of its own part of a client, of at most its priority, because others may be served sooner
        by a job of their own. Such jobs are merged when one of them is dispatched (:meth:`is_answered`).
        """
        job = self._shareable(key, terms.is_streamed, 1)
        if job is None:
            return None
        is_queued = job.num_attempts == 0
        is_own = (job.terms.client, job.terms.part) == (terms.client, terms.part)
        if is_queued and (not is_own or job.terms.priority < terms.priority):
            return None
        self._count(job.model, "coalesced")
        return job

    def _twin(self, job: Job) -> Job | None:
        """Returns an equal job at a worker that can replace this queued one, or None."""
        found = self._shareable(job.key, job.terms.is_streamed, len(job.tickets))
        if found is None or found is job or found.num_attempts == 0:
            return None
        self._count(job.model, "coalesced")  # its other tickets were counted when they joined
        return found

    def _shareable(self, key: bytes, is_streamed: bool, num_tickets: int) -> Job | None:
        job = self._under_way.get(key)
        if job is None or (is_streamed and not job.terms.is_streamed) or len(job.tickets) + num_tickets > self._max_tickets:
            return None
        return job

    def _count(self, model: ServedModel, result: str) -> None:
        self._metrics.cache_request(model.id, model.version, result)


def _answer_with(ticket: Ticket, outcome: Outcome) -> None:
    """Ends a ticket with a cached answer: all durations are 0, and a stream gets one part."""
    now = time.monotonic()
    part = outcome.as_part(0) if ticket.terms.is_streamed else None
    if part is not None:
        ticket.deliver(part)
    ticket.finish(Done(0, outcome, now, 0.0, now, now, 0))
