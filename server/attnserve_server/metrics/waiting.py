# SPDX-License-Identifier: Apache-2.0
"""How long the oldest waiting request of each model has waited."""

from __future__ import annotations

import time
from collections.abc import Callable

from attnserve_server.metrics.sampled import Sample, SampledGauge
from attnserve_server.metrics.workers import Key


class Waiting:
    """Makes the gauge of the front's queues in seconds.

    It is the age of the oldest waiting request and no estimate of the time to serve the queue: an estimate needs answers, so it
    says nothing of a model that gives none, and an autoscaler or an alert must see just that.

    Args:
        register: adds a collector to the registry.
    """

    def __init__(self, register: Callable[[SampledGauge], None]) -> None:
        self._since: dict[Key, float | None] = {}
        text = "Age of the oldest request in the front's queue of a model, in seconds; 0 if none waits."
        register(SampledGauge("attnserve_queue_seconds", text, ("model", "version"), self._read))

    def set(self, key: Key, since: float | None) -> None:
        """Sets when the oldest waiting request was queued, by the monotonic clock; None if none waits."""
        self._since[key] = since

    def forget(self, key: Key) -> None:
        """Ends the series of a model."""
        self._since.pop(key, None)

    def _read(self) -> list[Sample]:
        now = time.monotonic()
        return [(key, 0.0 if since is None else max(0.0, now - since)) for key, since in list(self._since.items())]
