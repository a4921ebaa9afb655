# SPDX-License-Identifier: Apache-2.0
"""The latest report of each worker, and their sums, which the gauges show."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from attnserve_server.stats import EngineStats

Key = tuple[str, str]
"""Model id and version, a :class:`~attnserve_server.request.ModelKey`."""
MODEL_LABELS = ("model", "version")


@dataclass(slots=True)
class Total:
    """Sums over the workers of one model."""

    num_slots: int = 0
    num_slots_used: int = 0
    num_waiting: int = 0
    busy_ratio: float = 0.0


class WorkerReports:
    """Keeps the latest report of each worker on each model, without its steps."""

    def __init__(self) -> None:
        self._reports: dict[Key, dict[str, Total]] = {}

    def put(self, worker_id: str, stats: EngineStats) -> None:
        """Replaces the worker's report on the model."""
        busy_ratio = min(stats.busy_s / stats.elapsed_s, 1.0) if stats.elapsed_s > 0 else 0.0
        report = Total(stats.num_slots, stats.num_slots_used, stats.num_waiting, busy_ratio)
        self._reports.setdefault((stats.model, stats.version), {})[worker_id] = report

    def forget(self, worker_id: str) -> None:
        """Drops all reports of a worker."""
        for reports in self._reports.values():
            reports.pop(worker_id, None)

    def forget_model(self, key: Key) -> None:
        """Drops all reports on a model."""
        self._reports.pop(key, None)

    def lines(self) -> Iterator[str]:
        """Yields what each worker last reported of each model."""
        for (model, version), reports in list(self._reports.items()):
            for worker, report in sorted(reports.items()):
                slots = f"{report.num_slots_used} of {report.num_slots} slots, " if report.num_slots else ""
                yield f"{worker}, {model}, version {version}: {slots}{report.num_waiting} wait, busy {report.busy_ratio:.0%}"

    def total(self, key: Key) -> Total:
        """Returns the sums over all workers, and the mean of their busy ratios; zeros without reports. For any thread."""
        reports = list(self._reports.get(key, {}).values())  # the event loop may add some meanwhile
        return Total(
            sum(report.num_slots for report in reports),
            sum(report.num_slots_used for report in reports),
            sum(report.num_waiting for report in reports),
            sum(report.busy_ratio for report in reports) / max(len(reports), 1),
        )
