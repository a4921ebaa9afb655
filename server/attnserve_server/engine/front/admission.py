# SPDX-License-Identifier: Apache-2.0
"""Admission control of one model at the front: refuses requests, orders the queue, finds jobs that would miss their deadline."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attnserve_server.engine.front.job import Job
from attnserve_server.errors import DeadlineUnreachable, Overloaded
from attnserve_server.request import Done, Terms
from attnserve_server.scheduling.estimator import ServiceEstimator
from attnserve_server.scheduling.queue import FairQueue, QueueConfig

TRUST = 0.5
"""Fraction of the estimated wait that counts as certain; deadlines below it are refused."""

MIN_RETRY_S, MAX_RETRY_S = 0.1, 10.0


class Admission:
    """Jobs of one model that wait for a worker.

    Args:
        model: its id, for messages.
        config: limits of the queue.
        clock: monotonic.
    """

    def __init__(self, model: str, config: QueueConfig, clock: Callable[[], float]) -> None:
        self._model, self._clock = model, clock
        self._queue: FairQueue[Job] = FairQueue(config, clock)
        self._estimator = ServiceEstimator(clock)
        self.is_blocked = False
        """Whether no worker has credit for one row, so that no job can be sent before the next dispatch."""

    def __len__(self) -> int:
        return len(self._queue)

    def add(self, job: Job) -> None:
        """Queues a job, or refuses it.

        Raises:
            Overloaded: the queue, or the client's share of it, is full.
            DeadlineUnreachable: the deadline is below the estimated time to the answer.
        """
        terms = job.terms
        if not self._queue.has_room(terms.client, terms.part):
            raise self._overloaded(terms.client)
        if terms.deadline is not None:
            self._check_deadline(job, terms.deadline)
        self._queue.add(job.id, job, (terms.client, terms.part), terms.priority, job.work.cost)

    def put_back(self, job: Job) -> None:
        """Queues a job whose worker died, ahead of all others."""
        self._queue.put_back(job.id, job)

    def first(self) -> Job | None:
        """Returns the next job to send, if any."""
        return self._queue.first()

    def is_too_late(self, job: Job) -> bool:
        """Whether a queued job would miss its deadline even if it were sent now."""
        if job.deadline is None:
            return False
        return job.deadline - self._clock() < self._service_s(job)

    def take(self, job: Job) -> None:
        """Removes a job that is sent to a worker."""
        self._queue.take(job.id)

    def remove(self, job: Job) -> None:
        """Removes a job that is cancelled, or answered without a worker; does nothing if it is not queued."""
        self._queue.remove(job.id)

    def answered(self, job: Job, answer: Done[Any]) -> None:
        """Feeds the times of an answer to the estimator."""
        service_s, num_source = answer.finished_at - answer.admitted_at, job.work.payload.num_source
        self._estimator.answered(job.work.cost, service_s, answer.num_steps, num_source)

    @property
    def waiting_since(self) -> float | None:
        """When the oldest waiting job was queued; None if none waits."""
        return min((job.queued_at for job in self._queue.oldest()), default=None)

    def settle(self) -> int:
        """Passes the queue length after a dispatch to the estimator, and returns it."""
        num_waiting = len(self._queue)
        self._estimator.set_waiting(num_waiting)
        return num_waiting

    def _service_s(self, job: Job) -> float:
        return self._estimator.service_s(job.work.payload.max_steps, job.work.payload.num_source)

    def _overloaded(self, client: str) -> Overloaded:
        num_own, num_all = self._queue.num_waiting(client), len(self._queue)
        text = f"{self._model}: {num_all} requests are waiting, {num_own} of them this client's"
        return Overloaded(text, retry_after_s=self._retry_after())

    def _retry_after(self) -> float:
        """Returns the estimated time to serve a quarter of the queue, within bounds."""
        return min(max(MIN_RETRY_S, self._estimator.wait_s(self._queue.cost / 4)), MAX_RETRY_S)

    def _check_deadline(self, job: Job, deadline: float) -> None:
        terms: Terms = job.terms
        wait_s = TRUST * self._estimator.wait_s(self._queue.cost_ahead(terms.client, terms.part, terms.priority))
        needed_s = wait_s + self._service_s(job)
        remaining_s = deadline - self._clock()
        if needed_s > max(remaining_s, 0.0):
            raise DeadlineUnreachable(
                f"{self._model}: the deadline is in {max(remaining_s, 0.0):.3f} s, and an answer takes {needed_s:.3f} s at least"
            )
