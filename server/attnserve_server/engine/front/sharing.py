# SPDX-License-Identifier: Apache-2.0
"""Equal requests share one answer: from the cache where it is known, else from the engine's work that is under way.

An answer follows from model, version, variant, source tokens and options, to the last bit, so the key is all of these and nothing
is approximate. The terms of a request are not in it: they shape when it is answered, not what the answer is.
"""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
from cachetools import LRUCache

from attnserve_server.engine.front.job import Job
from attnserve_server.engine.front.models import ServedModel
from attnserve_server.metrics.prometheus import Metrics
from attnserve_server.request import DecodeOptions, Hypothesis, Source, Terms

LARGEST_SHARE = 8
"""An answer that takes more than this part of the cache is not kept: it would push out too many others."""

ENTRY_BYTES = 250
"""What the cache's own books take for one answer, about."""

_ENCODER = msgspec.msgpack.Encoder()
_HYPOTHESES = msgspec.msgpack.Decoder(list[Hypothesis])


class ResponseCache:
    """The answers that were used last, as bytes, so that their size is known and nobody changes them.

    Args:
        max_bytes: of keys, answers and books together; 0 keeps nothing.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._answers: LRUCache[bytes, tuple[bytes, int]] = LRUCache(max_bytes, getsizeof=lambda entry: entry[1])

    def __len__(self) -> int:
        return len(self._answers)

    @property
    def num_bytes(self) -> int:
        """What is kept now."""
        return int(self._answers.currsize)

    def get(self, key: bytes) -> list[Hypothesis] | None:
        """The answer, if it is here; it counts as used then."""
        entry = self._answers.get(key)
        return _HYPOTHESES.decode(entry[0]) if entry is not None else None

    def put(self, key: bytes, hypotheses: list[Hypothesis]) -> None:
        """Keeps an answer, in place of those that were not used for longest."""
        data = _ENCODER.encode(hypotheses)
        size = len(key) + len(data) + ENTRY_BYTES
        if size <= self.max_bytes // LARGEST_SHARE:
            self._answers[key] = data, size


class Sharing:
    """The cache, and the work under way that others may join.

    Args:
        max_bytes: of the cache; 0 for no sharing at all.
        max_tickets: that may wait for one job; more become jobs of their own, for which the queue has limits.
        metrics: counts hits, misses and the rest.
    """

    def __init__(self, max_bytes: int, max_tickets: int, metrics: Metrics) -> None:
        self._cache, self._max_tickets, self._metrics = ResponseCache(max_bytes), max_tickets, metrics
        self._under_way: dict[bytes, Job] = {}

    def key(self, model: ServedModel, source: Source, options: DecodeOptions) -> bytes | None:
        """What shapes the answer; None where nothing is shared."""
        if not self._cache.max_bytes or (options.sampling is not None and options.sampling.is_drawn):
            return None
        parts: tuple[Any, ...] = (model.id, model.version, model.variant, source, options)
        key = _ENCODER.encode(parts)
        return key if isinstance(source, list) else hashlib.sha256(key).digest()  # pixels are many

    def answer(self, model: ServedModel, key: bytes | None) -> list[Hypothesis] | None:
        """The answer, if it is known."""
        hypotheses = self._cache.get(key) if key is not None else None
        if hypotheses is not None:
            self._count(model, "hit")
        return hypotheses

    def job_for(self, key: bytes | None, terms: Terms) -> Job | None:
        """Work that a new request may wait for; None where it has to wait for its own.

        What waits in the queue is joined only by its own client and at no higher priority: others may well be served sooner. They
        are brought together when one of the two is dispatched (:meth:`twin`).
        """
        job = self._joinable(key, terms.is_streamed, 1)
        if job is None:
            return None
        is_queued = job.num_attempts == 0
        if is_queued and (job.terms.client != terms.client or job.terms.priority < terms.priority):
            return None
        self._count(job.model, "coalesced")
        return job

    def twin(self, job: Job) -> Job | None:
        """An equal job that is at a worker while this one is still queued, and that can take its place."""
        found = self._joinable(job.key, job.terms.is_streamed, len(job.tickets))
        if found is None or found is job or found.num_attempts == 0:
            return None
        self._count(job.model, "coalesced")  # who had joined it was counted then
        return found

    def began(self, job: Job) -> None:
        """A job was queued or sent to a worker: from now on others may join it."""
        if job.key is None:
            return
        if job.num_attempts == 1:
            self._count(job.model, "miss")
        if job.num_attempts or job.key not in self._under_way:
            self._under_way[job.key] = job

    def ended(self, job: Job, hypotheses: list[Hypothesis] | None = None) -> None:
        """Nobody may join a job any more; keeps its answer, where it has one."""
        if job.key is None:
            return
        if self._under_way.get(job.key) is job:
            del self._under_way[job.key]
        if hypotheses is not None:
            self._cache.put(job.key, hypotheses)
            self._metrics.set_cache(self._cache.num_bytes, len(self._cache))

    def _joinable(self, key: bytes | None, is_streamed: bool, num_tickets: int) -> Job | None:
        job = self._under_way.get(key) if key is not None else None
        if job is None or (is_streamed and not job.terms.is_streamed) or len(job.tickets) + num_tickets > self._max_tickets:
            return None
        return job

    def _count(self, model: ServedModel, result: str) -> None:
        self._metrics.cache_request(model.id, model.version, result)
