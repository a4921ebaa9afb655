# SPDX-License-Identifier: Apache-2.0
"""A gauge whose series and values are read at each scrape."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

Sample = tuple[tuple[str, ...], float]
"""Values of the labels, and the gauge's value."""


class SampledGauge(Collector):
    """Asks a function for all series at each scrape, so that a series ends with the process or file that it is read from.

    Args:
        name: with the prefix.
        text: help text.
        labels: names of the labels.
        read: returns all series; called on the thread that renders, and must raise nothing.
    """

    def __init__(self, name: str, text: str, labels: tuple[str, ...], read: Callable[[], Iterable[Sample]]) -> None:
        self.name, self.text, self.labels = name, text, labels
        self._read = read

    def describe(self) -> Iterator[Metric]:
        """Yields the family without series; the registry takes the name from it."""
        yield self._family()

    def collect(self) -> Iterator[Metric]:
        """Yields the family with all series."""
        family = self._family()
        for values, value in self._read():
            family.add_metric(values, value)
        yield family

    def _family(self) -> GaugeMetricFamily:
        return GaugeMetricFamily(self.name, self.text, labels=self.labels)
