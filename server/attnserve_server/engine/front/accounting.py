# SPDX-License-Identifier: Apache-2.0
"""The front's accounting: every job that is not done, and the admission control of each model that takes jobs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attnserve_server.config import EngineConfig
from attnserve_server.engine.front.admission import Admission
from attnserve_server.engine.front.job import Job, Status
from attnserve_server.engine.front.rows import Rows
from attnserve_server.engine.front.served_models import ServedModel
from attnserve_server.kinds import Outcome
from attnserve_server.request import Done, ModelKey
from attnserve_server.scheduling.queue import QueueConfig


class Accounting:
    """Holds each job from its admission to its end; a job that ends leaves queue, rows and table at once.

    Args:
        config: limits of the queues.
        rows: the rows that jobs hold at workers.
        clock: monotonic.
    """

    def __init__(self, config: EngineConfig, rows: Rows, clock: Callable[[], float]) -> None:
        self._config = QueueConfig(config.queue_limit, config.ageing_seconds)
        self._rows = rows
        self._clock = clock
        self._admissions: dict[ModelKey, Admission] = {}
        self.jobs: dict[int, Job] = {}
        """All jobs that are not done, by number; also those that were cancelled and whose worker holds their rows."""

    @property
    def is_idle(self) -> bool:
        """Whether no job is queued or running, and no worker holds a row."""
        return not self.jobs and not any(map(len, self._admissions.values())) and not self._rows.total

    def open(self, model: ServedModel) -> None:
        """Lets a model take jobs."""
        self._admissions[model.key] = Admission(model.id, self._config, self._clock)

    def close(self, model: ServedModel) -> None:
        """Lets a model take no more jobs. Call it once the model has none."""
        self._admissions.pop(model.key, None)

    def has(self, key: ModelKey) -> bool:
        """Whether a model of this key takes jobs, or is still being removed."""
        return key in self._admissions

    def admission(self, model: ServedModel) -> Admission | None:
        """Returns a model's admission control; None if the model takes no jobs."""
        return self._admissions.get(model.key)

    def add(self, job: Job) -> None:
        """Queues a new job, or refuses it.

        Raises:
            Overloaded, DeadlineUnreachable: see :meth:`Admission.add`.
            ModelNotReady: the model was removed after the request had resolved it.
        """
        admission = self._admissions.get(job.model.key)
        if admission is None:
            raise job.model.gone()
        admission.add(job)
        self.jobs[job.id] = job

    def put_back(self, job: Job) -> None:
        """Queues a job again, ahead of all others: its worker died."""
        job.status = Status.QUEUED
        self._admissions[job.model.key].put_back(job)

    def answered(self, job: Job, answer: Done[Any]) -> None:
        """Removes a job with its answer, whose times later estimates use."""
        self.forget(job, answer.outcome)
        self._admissions[job.model.key].answered(job, answer)

    def forget(self, job: Job, outcome: Outcome | None = None) -> None:
        """Removes a job from queue, rows and table, and tells its watcher; ``outcome`` is that of an answered one."""
        self.jobs.pop(job.id, None)
        if job.watcher is not None:
            job.watcher.ended(job, outcome)
        if job.status == Status.QUEUED:
            self._admissions[job.model.key].remove(job)
        self._rows.give_back(job)
        job.status = Status.DONE

    def of(self, model: ServedModel) -> list[Job]:
        """Returns a model's jobs."""
        return [job for job in self.jobs.values() if job.model is model]

    def held_by(self, worker: str) -> list[Job]:
        """Returns the jobs that a worker has."""
        return [job for job in self.jobs.values() if job.worker == worker]
