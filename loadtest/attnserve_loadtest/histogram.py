# SPDX-License-Identifier: Apache-2.0
"""A mergeable histogram of latencies: the buckets' bounds grow by a constant factor, so the error is relative."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

GROWTH = 1.01
"""The ratio of successive bounds: the error of a percentile is at most half a percent."""
_LEAST_MS = 1e-3
_LOG_GROWTH = math.log(GROWTH)


class Histogram:
    """Counts of values in milliseconds."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()
        self.count = 0
        self.sum = self.max = 0.0

    def add(self, value_ms: float) -> None:
        """Adds a value; one below a microsecond counts as a microsecond."""
        value_ms = max(value_ms, _LEAST_MS)
        self._counts[int(math.log(value_ms / _LEAST_MS) / _LOG_GROWTH)] += 1
        self.count += 1
        self.sum += value_ms
        self.max = max(self.max, value_ms)

    @property
    def mean(self) -> float:
        """Milliseconds; 0 without values."""
        return self.sum / self.count if self.count else 0.0

    def percentile(self, share: float) -> float:
        """The value in milliseconds that this share of the values does not exceed; 0 without values."""
        left = share * self.count
        for index in sorted(self._counts):
            left -= self._counts[index]
            if left <= 0:
                return min(_LEAST_MS * math.exp(_LOG_GROWTH * (index + 0.5)), self.max)
        return self.max

    def merge(self, other: Histogram) -> None:
        """Adds the values of another histogram."""
        self._counts.update(other._counts)
        self.count += other.count
        self.sum += other.sum
        self.max = max(self.max, other.max)

    def to_dict(self) -> dict[str, Any]:
        """Returns the form that is sent to the master."""
        return {"counts": dict(self._counts), "sum": self.sum, "max": self.max}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Histogram:
        """Reads what :meth:`to_dict` returned."""
        made = cls()
        made._counts.update({int(index): count for index, count in values["counts"].items()})
        made.count, made.sum, made.max = made._counts.total(), values["sum"], values["max"]
        return made
