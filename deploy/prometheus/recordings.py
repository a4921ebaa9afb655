# SPDX-License-Identifier: Apache-2.0
"""The recording rules: what alerts and dashboard share.

A counter's series appears with its first event, so a sum over it may have no value: ``or 0 * …`` gives it that of no event. For the
same reason the first request of a status after a server's start is not counted as an increase. A ratio has no value while there is
no request: nothing can be said of an idle model.
"""

from __future__ import annotations

from dataclasses import dataclass

BY = "job, namespace, model"
"""Labels that remain: all servers of one job answer for a model together."""

SLOW_S = 2.5
"""Requests that take longer are slow, in seconds; a bucket of the histograms."""

ERROR_WINDOWS = ("5m", "30m", "1h", "2h", "6h", "1d", "3d")
"""Windows of the error ratio; the alerts combine them in pairs."""

FAULTS = "INTERNAL|UNAVAILABLE|UNKNOWN"
"""Statuses that the server is to blame for. Overload and deadlines have alerts of their own: clients can cause both."""

REQUESTS = "attnserve_requests_total"
DURATION, REFUSAL = "attnserve_request_duration_seconds", "attnserve_refusal_duration_seconds"


@dataclass(frozen=True, slots=True)
class Recording:
    """A recording rule."""

    name: str
    expression: str


def rate(series: str, window: str = "5m", by: str = BY) -> str:
    """Returns the summed rate of a counter, per second."""
    return f"sum by ({by}) (rate({series}[{window}]))"


def or_none(expression: str, like: str) -> str:
    """Returns an expression that is 0 where it has no value and ``like`` has one."""
    return f"({expression} or 0 * {like})"


def share_of_statuses(statuses: str, window: str = "5m") -> str:
    """Returns the share of the requests of a model that ended with one of the statuses, from 0 to 1."""
    everything = rate(REQUESTS, window)
    some = or_none(rate(f'{REQUESTS}{{code=~"{statuses}"}}', window), everything)
    return f"{some}\n/ ({everything} > 0)"


def share_of_slow() -> str:
    """Returns the share of slow requests among those of a model that were not refused, from 0 to 1."""
    all_requests = rate(f"{DURATION}_count")
    quick = rate(f'{DURATION}_bucket{{le="{SLOW_S}"}}')
    refused = or_none(rate(f"{REFUSAL}_count"), all_requests)
    return f"({all_requests} - {quick})\n/ (({all_requests} - {refused}) > 0)"


def quantile(histogram: str, share: float, by: str = BY) -> str:
    """Returns a quantile of a histogram over five minutes."""
    return f"histogram_quantile({share}, {rate(f'{histogram}_bucket', by=f'{by}, le')})"


RECORDINGS = (
    *(Recording(f"attnserve:request_faults:ratio_rate{window}", share_of_statuses(FAULTS, window)) for window in ERROR_WINDOWS),
    Recording("attnserve:requests_exhausted:ratio_rate5m", share_of_statuses("RESOURCE_EXHAUSTED")),
    Recording("attnserve:requests_late:ratio_rate5m", share_of_statuses("DEADLINE_EXCEEDED")),
    Recording("attnserve:requests_slow:ratio_rate5m", share_of_slow()),
    Recording("attnserve:requests:rate5m", rate(REQUESTS)),
    *(
        Recording(f"attnserve:request_duration_seconds:p{percent}_rate5m", quantile(DURATION, percent / 100))
        for percent in (50, 99)
    ),
    Recording("attnserve:queue_seconds:avg5m", f"max by ({BY}) (avg_over_time(attnserve_queue_seconds[5m]))"),
)
