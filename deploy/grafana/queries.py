# SPDX-License-Identifier: Apache-2.0
"""Parts of a dashboard, and the expressions that several panels share."""

from __future__ import annotations

from dataclasses import dataclass

WINDOW = "$__rate_interval"
OF_SERVER = 'job=~"$job", instance=~"$instance"'
OF_MODEL = f'{OF_SERVER}, model=~"$model"'
OF_JOB = 'job=~"$job", model=~"$model"'
"""Labels that the recordings keep."""


@dataclass(frozen=True, slots=True)
class Query:
    """An expression, and the name of each of its curves."""

    expression: str
    legend: str


@dataclass(frozen=True, slots=True)
class Panel:
    """A panel; ``unit`` is one of Grafana's."""

    title: str
    description: str
    unit: str
    queries: tuple[Query, ...]
    is_stacked: bool = False
    is_number: bool = False
    """Shows the last value in place of a curve."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row of panels."""

    title: str
    panels: tuple[Panel, ...]


def rate(series: str, by: str) -> str:
    """Returns the summed rate of a counter, per second."""
    return f"sum by ({by}) (rate({series}[{WINDOW}]))"


def quantiles(histogram: str, matchers: str = OF_MODEL, by: str = "model", legend: str = "{{model}}") -> tuple[Query, ...]:
    """Returns the median and the 99th percentile of a histogram."""
    buckets = rate(f"{histogram}_bucket{{{matchers}}}", f"{by}, le")
    return tuple(Query(f"histogram_quantile({share}, {buckets})", f"{legend} p{int(share * 100)}") for share in (0.5, 0.99))


def mean(histogram: str) -> str:
    """Returns the mean of a histogram by model."""
    return f"{rate(f'{histogram}_sum{{{OF_MODEL}}}', 'model')} / {rate(f'{histogram}_count{{{OF_MODEL}}}', 'model')}"
