# SPDX-License-Identifier: Apache-2.0
"""Metrics of the worker processes: how many live, how many have died, and how long each has been silent."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Set

from prometheus_client import Counter, Gauge

from attnserve_server.metrics.processes import worker_of
from attnserve_server.metrics.sampled import Sample, SampledGauge


class Liveness:
    """Makes the metrics; values of gauges are computed at each scrape, on the thread that renders.

    Args:
        gauge: makes a gauge from its name, its text and its labels.
        counter: makes a counter.
        register: adds a collector to the registry.
    """

    def __init__(
        self,
        gauge: Callable[[str, str, tuple[str, ...]], Gauge],
        counter: Callable[[str, str, tuple[str, ...]], Counter],
        register: Callable[[SampledGauge], None],
    ) -> None:
        self._workers = gauge("workers", "Number of worker processes: live, and expected.", ("state",))
        self._deaths = counter("worker_deaths", "Worker processes that died or were killed; each is replaced.", ("worker",))
        age = "Time since the last message of a worker; idle workers send none."
        silence = "Time for which a worker that has work, or loads a model, has sent nothing; 0 for idle workers."
        register(SampledGauge("attnserve_worker_last_message_age_seconds", age, ("worker",), self._ages))
        register(SampledGauge("attnserve_worker_silence_seconds", silence, ("worker",), self._silences))
        self._last_message: dict[str, float] = {}
        self._given_work: dict[str, float] = {}
        self._busy: Callable[[], Set[str]] = frozenset

    def watch(self, num_expected: int, living: Callable[[], Mapping[str, int]], busy: Callable[[], Set[str]]) -> None:
        """Sets the expected number of workers.

        Args:
            num_expected: their number.
            living: returns the process ids of the running ones by name; called at each scrape.
            busy: returns the names of those that have work, or load a model; called at each scrape.
        """
        self._workers.labels("expected").set(num_expected)
        self._workers.labels("live").set_function(lambda: len(living()))
        self._busy = busy

    def heard(self, worker_id: str) -> None:
        """Records that a worker sent a message."""
        name = worker_of(worker_id)
        if name not in self._last_message:
            self._deaths.labels(name)  # at zero before the first death, or an increase from nothing would not be seen
        self._last_message[name] = time.monotonic()

    def given_work(self, worker_id: str) -> None:
        """Records that a worker that had no work was given some; its silence counts from now on."""
        self._given_work[worker_of(worker_id)] = time.monotonic()

    def forget(self, worker_id: str) -> None:
        """Counts a worker that is gone, and ends its series."""
        name = worker_of(worker_id)
        self._deaths.labels(name).inc()
        self._last_message.pop(name, None)
        self._given_work.pop(name, None)

    def _ages(self) -> list[Sample]:
        now = time.monotonic()
        return [((name,), max(0.0, now - since)) for name, since in list(self._last_message.items())]

    def _silences(self) -> list[Sample]:
        busy, now = {worker_of(name) for name in self._busy()}, time.monotonic()
        return [
            ((name,), max(0.0, now - max(since, self._given_work.get(name, since))) if name in busy else 0.0)
            for name, since in list(self._last_message.items())
        ]
