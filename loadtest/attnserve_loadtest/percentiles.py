# SPDX-License-Identifier: Apache-2.0
"""Percentiles of latencies with a known relative error, in constant memory, that several processes can add up.

Locust rounds to whole milliseconds; a decode step takes less.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

GROWTH = 1.01
"""Ratio of the bounds of a bucket: the relative error is at most half of one percent."""
_LEAST_S = 1e-7


class Latencies:
    """A histogram with buckets of equal ratio; seconds."""

    def __init__(self, buckets: Mapping[int, int] | None = None, total: float = 0.0) -> None:
        self._buckets, self._total = Counter(buckets or {}), total

    def __len__(self) -> int:
        return self._buckets.total()

    def add(self, seconds: float) -> None:
        """Counts a latency."""
        self._buckets[round(math.log(max(seconds, _LEAST_S), GROWTH))] += 1
        self._total += seconds

    def merge(self, other: Latencies) -> None:
        """Counts all that another one did."""
        self._buckets.update(other._buckets)
        self._total += other._total

    @property
    def mean(self) -> float:
        """Seconds; 0 of nothing."""
        return self._total / len(self) if self._buckets else 0.0

    def percentile(self, share: float) -> float:
        """Seconds that this share (0 to 1) of all latencies do not exceed; 0 of nothing."""
        wanted, seen = share * len(self), 0
        for bucket in sorted(self._buckets):
            seen += self._buckets[bucket]
            if seen >= wanted:
                return GROWTH**bucket
        return 0.0

    def to_wire(self) -> tuple[dict[int, int], float]:
        """What :meth:`from_wire` takes: plain values."""
        return dict(self._buckets), self._total

    @classmethod
    def from_wire(cls, wire: tuple[Mapping[int, int], float]) -> Latencies:
        """The other end of :meth:`to_wire`; keys may have become text."""
        return cls({int(bucket): count for bucket, count in wire[0].items()}, wire[1])
