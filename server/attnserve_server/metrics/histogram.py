# SPDX-License-Identifier: Apache-2.0
"""Histograms that cost little to observe: several thousand values a second arrive on the event loop, a scrape every few seconds.

An observation is one search in the bounds and two additions. That of ``prometheus_client`` compares bound by bound and takes two
locks: ten times as long.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence

from prometheus_client.metrics_core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString


class HistogramSeries:
    """The counts of one combination of label values.

    Args:
        bounds: upper bounds of the buckets, inclusive and ascending; one more bucket has no bound.
    """

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds, self._counts, self._sum = bounds, [0] * (len(bounds) + 1), 0.0

    def observe(self, value: float) -> None:
        """Counts a value. Only one thread may call it."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def read(self) -> tuple[list[int], float]:
        """Returns the number of values up to each bound and of all values, and their sum; any thread may call it."""
        return list(itertools.accumulate(self._counts.copy())), self._sum


class Histogram(Collector):
    """A histogram with labels.

    Args:
        name: with the prefix.
        text: help text.
        labels: names of the labels.
        bounds: upper bounds of the buckets, inclusive and ascending.
    """

    def __init__(self, name: str, text: str, labels: tuple[str, ...], bounds: Sequence[float]) -> None:
        self.name, self.text, self.label_names, self._bounds = name, text, labels, tuple(bounds)
        self._shown = [*map(floatToGoString, self._bounds), "+Inf"]
        self._series: dict[tuple[str, ...], HistogramSeries] = {}

    def labels(self, *values: str) -> HistogramSeries:
        """Returns the series of these label values, which exists from now on."""
        found = self._series.get(values)
        return found or self._series.setdefault(values, HistogramSeries(self._bounds))

    def remove_by_labels(self, labels: Mapping[str, str]) -> None:
        """Removes all series that have these values of these labels."""
        wanted = labels.items()
        for values in [each for each in self._series if wanted <= dict(zip(self.label_names, each, strict=True)).items()]:
            del self._series[values]

    def describe(self) -> Iterator[Metric]:
        """Yields the family without series; the registry takes the names from it."""
        yield HistogramMetricFamily(self.name, self.text, labels=self.label_names)

    def collect(self) -> Iterator[Metric]:
        """Yields the family with all series."""
        family = HistogramMetricFamily(self.name, self.text, labels=self.label_names)
        for values, series in list(self._series.items()):
            counts, total = series.read()
            family.add_metric(values, list(zip(self._shown, counts, strict=True)), total)
        yield family
