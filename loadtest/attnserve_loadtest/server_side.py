# SPDX-License-Identifier: Apache-2.0
"""What the server measured itself during a run: percentiles out of the difference of two readings of its histograms."""

from __future__ import annotations

import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

from attnserve_loadtest import names

SERIES: Mapping[str, tuple[str, dict[str, str]]] = {
    names.UNARY: ("attnserve_request_duration_seconds", {"method": names.UNARY}),
    names.STREAM: ("attnserve_request_duration_seconds", {"method": names.STREAM}),
    names.FIRST_PIECE: ("attnserve_time_to_first_token_seconds", {}),
    names.BETWEEN_PIECES: ("attnserve_inter_token_latency_seconds", {}),
}
"""Which of the server's histograms is about which of the clients' latencies."""


@dataclass(frozen=True, slots=True)
class Histogram:
    """Cumulative counts by upper bound in seconds."""

    counts: dict[float, float]

    def __sub__(self, earlier: Histogram) -> Histogram:
        return Histogram({bound: count - earlier.counts.get(bound, 0.0) for bound, count in self.counts.items()})

    @property
    def total(self) -> float:
        """How many were observed."""
        return max(self.counts.values(), default=0.0)

    def percentile(self, share: float) -> float:
        """Seconds, in a straight line within the bucket, as PromQL's histogram_quantile; 0 of nothing."""
        wanted, below, low = share * self.total, 0.0, 0.0
        for bound, count in sorted(self.counts.items()):
            if count >= wanted and count > below:
                return low if bound == float("inf") else low + (bound - low) * (wanted - below) / (count - below)
            below, low = count, bound
        return 0.0


def read(url: str) -> dict[str, Histogram]:
    """The histograms of :data:`SERIES` as they are now, summed over their other labels.

    Raises:
        OSError: the server's /metrics cannot be read.
    """
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=10) as response:
        families = {family.name: family for family in text_string_to_metric_families(response.read().decode())}
    found: dict[str, Histogram] = {}
    for name, (series, labels) in SERIES.items():
        counts: dict[float, float] = {}
        for sample in families[series].samples if series in families else ():
            if sample.name == f"{series}_bucket" and labels.items() <= sample.labels.items():
                bound = float(sample.labels["le"])
                counts[bound] = counts.get(bound, 0.0) + sample.value
        found[name] = Histogram(counts)
    return found
