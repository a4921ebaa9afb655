# SPDX-License-Identifier: Apache-2.0
"""Row accounting: how many rows each worker holds of each model, which worker gets a job, and which is reserved for one job.

Each model has its own credit on each worker, by its kind (``kinds.py: Kind.credit``): enough that the worker never waits for the
front, and no more, so that requests wait where priority and fairness order them. Models do not use each other's credit. A job that
may kill workers runs alone: a worker is reserved for it and gets no other job until it is done.
"""

from __future__ import annotations

from collections.abc import Callable

from attnserve_server.config import EngineConfig
from attnserve_server.engine.front.job import Job
from attnserve_server.request import ModelKey


class Rows:
    """Rows by worker and model.

    Args:
        config: of the engines.
        on_freed: called when a job may be chosen a worker for that could not be before, because of a reservation.
    """

    def __init__(self, config: EngineConfig, on_freed: Callable[[], None]) -> None:
        self._config = config
        self._rows: dict[tuple[str, ModelKey], int] = {}
        self._reserved: dict[str, int] = {}
        """Numbers of jobs, by the workers that are kept for them."""
        self._on_freed = on_freed

    @property
    def total(self) -> int:
        """Rows that workers hold."""
        return sum(self._rows.values())

    def busy(self) -> set[str]:
        """Workers that hold rows; another thread may call it."""
        return {worker for (worker, _), rows in list(self._rows.items()) if rows}

    def holds(self, worker: str) -> bool:
        """Whether a worker holds rows."""
        return any(rows for (name, _), rows in self._rows.items() if rows and name == worker)

    def choose(self, job: Job) -> str | None:
        """The worker with most credit for the job's model; None where it is not enough, or no worker is warm."""
        if job.runs_alone:
            return self._choose_alone(job)
        ready = job.model.ready_workers
        if self._reserved:
            ready = ready - self._reserved.keys()
        key, worker, held = job.model.key, None, 0
        for name in ready:
            rows = self._rows.get((name, key), 0)
            if worker is None or rows < held:
                worker, held = name, rows
        if worker is None:
            return None
        credit = job.model.kind.credit(job.model.bundle, self._config)
        return worker if not held or held + job.work.num_rows <= credit else None

    def take(self, worker: str, job: Job) -> None:
        """A job is sent to a worker."""
        key = worker, job.model.key
        self._rows[key] = self._rows.get(key, 0) + job.work.num_rows

    def give_back(self, job: Job) -> None:
        """A job is done with, whether or not a worker had it."""
        if job.worker is not None:
            self._rows[job.worker, job.model.key] -= job.work.num_rows
        if self._reserved:
            self._reserved = {worker: number for worker, number in self._reserved.items() if number != job.id}
            self._on_freed()

    def forget(self, worker: str, model: ModelKey) -> None:
        """A worker does not have a model any more."""
        self._rows.pop((worker, model), None)

    def forget_worker(self, worker: str) -> None:
        """A worker is gone."""
        self._rows = {key: rows for key, rows in self._rows.items() if key[0] != worker}
        self._reserved.pop(worker, None)

    def _choose_alone(self, job: Job) -> str | None:
        """Reserves a worker; returns it once it holds nothing."""
        ready = job.model.ready_workers
        worker = next((name for name, number in self._reserved.items() if number == job.id and name in ready), None)
        if worker is None:
            worker = min(ready - self._reserved.keys(), key=self._held_by, default=None)
            if worker is None:
                return None
            self._reserved[worker] = job.id
        return None if self._held_by(worker) else worker

    def _held_by(self, worker: str) -> int:
        return sum(rows for (name, _), rows in self._rows.items() if name == worker)
