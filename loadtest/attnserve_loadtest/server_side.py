# SPDX-License-Identifier: Apache-2.0
"""The server's percentiles for the time of a load test: from the difference of two readings of its Prometheus histograms."""

from __future__ import annotations

import math
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

from attnserve_client.security import Security
from attnserve_loadtest.recording import BETWEEN_PIECES, FIRST_PIECE, REQUESTS

METRICS: Mapping[str, tuple[str, dict[str, str]]] = {
    **{request: ("attnserve_request_duration_seconds", {"method": request}) for request in REQUESTS},
    FIRST_PIECE: ("attnserve_time_to_first_token_seconds", {}),
    BETWEEN_PIECES: ("attnserve_inter_token_latency_seconds", {}),
}
"""By event: the histogram that measures the same, and the labels of its series."""
_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Quantile:
    """A percentile from a histogram: interpolated, and the bounds of the bucket that it lies in; all in milliseconds."""

    value: float
    low: float
    high: float


Buckets = dict[float, float]
"""Upper bound in seconds -> number of values up to it."""


class Reading:
    """The server's metrics at one moment."""

    def __init__(self, text: str) -> None:
        self._samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]

    def buckets(self, event: str) -> Buckets:
        """The histogram of an event, all models together."""
        name, labels = METRICS[event]
        found: Buckets = {}
        for sample in self._samples:
            if sample.name == f"{name}_bucket" and labels.items() <= sample.labels.items():
                bound = float(sample.labels["le"])
                found[bound] = found.get(bound, 0.0) + sample.value
        return found

    def total(self, name: str, **labels: str) -> float:
        """Sum over the series of a sample name that carry these labels."""
        return sum(each.value for each in self._samples if each.name == name and labels.items() <= each.labels.items())


def read(url: str, security: Security = Security()) -> Reading:  # noqa: B008 - frozen
    """Reads a server's metrics.

    Args:
        url: of the metrics.
        security: files of TLS, for a URL with ``https``.

    Raises:
        OSError: the metrics cannot be read; the message names the address.
    """
    try:
        https = urllib.request.HTTPSHandler(context=security.context())
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), https)
        with opener.open(url, timeout=_TIMEOUT_S) as response:
            return Reading(response.read().decode())
    except (OSError, ValueError) as error:
        raise OSError(f"no metrics at {url}: {error}") from error


def difference(before: Buckets, after: Buckets) -> Buckets:
    """What was counted between two readings."""
    return {bound: value - before.get(bound, 0.0) for bound, value in after.items()}


def quantile(buckets: Buckets, share: float) -> Quantile | None:
    """A percentile of a histogram, linear inside its bucket; None without values."""
    bounds = sorted(buckets)
    total = buckets[bounds[-1]] if bounds else 0.0
    if total <= 0:
        return None
    wanted, low, before = share * total, 0.0, 0.0
    for bound in bounds:
        if buckets[bound] >= wanted:
            high = low if math.isinf(bound) else bound
            inside = buckets[bound] - before
            value = low + (high - low) * ((wanted - before) / inside if inside else 1.0)
            return Quantile(1e3 * value, 1e3 * low, 1e3 * high)
        low, before = bound, buckets[bound]
    return None
