# SPDX-License-Identifier: Apache-2.0
"""Metrics of the worker processes: how many live, and how long ago each said something."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection

from prometheus_client import Gauge


class Liveness:
    """Sets two gauges, whose values are computed at each scrape, on whichever thread.

    Args:
        workers: a gauge with the label "state".
        ages: a gauge with the label "worker".
    """

    def __init__(self, workers: Gauge, ages: Gauge) -> None:
        self._workers, self._ages = workers, ages
        self._heard: dict[str, float] = {}

    def watch(self, num_expected: int, living: Callable[[], Collection[str]]) -> None:
        """From now on there should be so many workers; ``living`` names those that live."""
        self._workers.labels("expected").set(num_expected)
        self._workers.labels("live").set_function(lambda: len(living()))

    def heard(self, worker_id: str) -> None:
        """A worker has said something."""
        name, is_new = _name(worker_id), _name(worker_id) not in self._heard
        self._heard[name] = time.monotonic()
        if is_new:
            self._ages.labels(name).set_function(lambda: time.monotonic() - self._heard.get(name, time.monotonic()))

    def forget(self, worker_id: str) -> None:
        """A worker is gone."""
        if self._heard.pop(_name(worker_id), None) is not None:
            self._ages.remove(_name(worker_id))


def _name(worker_id: str) -> str:
    """A worker's name without the number of its start, so that its successor has the same series."""
    return worker_id.partition(".")[0]
