# SPDX-License-Identifier: Apache-2.0
"""Objectives that a run must reach, such as ``Translate:p99<250`` (milliseconds), ``Translate:rate>100`` (answers a second) or
``Translate:failures<0.01`` (a share of the calls).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_FORM = re.compile(r"(?P<name>[^:]+):(?P<metric>p\d+(?:\.\d+)?|mean|rate|failures)(?P<sign>[<>])(?P<value>\d+(?:\.\d+)?)")


@dataclass(frozen=True, slots=True)
class Measured:
    """What is known of one kind of call after a run."""

    percentiles_ms: dict[float, float]
    mean_ms: float
    rate: float
    failures: float


@dataclass(frozen=True, slots=True)
class Objective:
    """One bound on one figure of one kind of call."""

    name: str
    metric: str
    is_upper: bool
    bound: float

    def __str__(self) -> str:
        return f"{self.name}:{self.metric}{'<' if self.is_upper else '>'}{self.bound:g}"

    @property
    def percentile(self) -> float | None:
        """The percentile that it is about, if it is."""
        return float(self.metric[1:]) if re.fullmatch(r"p[\d.]+", self.metric) else None

    def figure(self, measured: Measured) -> float:
        """The figure that is bounded."""
        if self.percentile is not None:
            return measured.percentiles_ms[self.percentile]
        return {"mean": measured.mean_ms, "rate": measured.rate, "failures": measured.failures}[self.metric]

    def holds(self, measured: Measured) -> bool:
        """Whether the bound is kept."""
        return self.figure(measured) < self.bound if self.is_upper else self.figure(measured) > self.bound


def parse(text: str) -> Objective:
    """Reads one objective.

    Raises:
        ValueError: it has another form, or a percentile beyond 100.
    """
    found = _FORM.fullmatch(text.strip())
    if found is None or (found["metric"][0] == "p" and float(found["metric"][1:]) > 100):
        raise ValueError(f"{text!r} is no objective: write NAME:pNN<MS, NAME:mean<MS, NAME:rate>N or NAME:failures<SHARE")
    return Objective(found["name"], found["metric"], found["sign"] == "<", float(found["value"]))
