# SPDX-License-Identifier: Apache-2.0
"""Traces: whether the span of an ended request is sent, decided before anything is made of it.

Nothing here imports OpenTelemetry; ``otlp.py`` does, once traces are on.
"""

from __future__ import annotations

import random

from attnserve_server.errors import ConfigError
from attnserve_server.metrics.ended import Ended
from attnserve_server.metrics.trace_context import NO_TRACE, SpanRecorder, Spans, Trace, parse_traceparent

FLUSH_S = 5.0
"""Longest time that a server that stops tries to send its last spans."""

_ID_LIMIT = 1 << 64


class Traces:
    """Decides for each request, and passes on what is sampled.

    Args:
        spans: receives the sampled requests.
        sample_ratio: share of the traces that begin here that are sent; of others the caller decides.
    """

    def __init__(self, spans: Spans, sample_ratio: float) -> None:
        self._spans, self._bound = spans, round(sample_ratio * _ID_LIMIT)

    def of(self, traceparent: str) -> Trace:
        """Returns the trace of a request: the caller's, or by the ratio a new one; without an id if none is to be sent.

        Args:
            traceparent: the value of the request's metadata; empty if it has none.
        """
        if traceparent and (parent := parse_traceparent(traceparent)) is not None:
            return parent
        trace_id = random.getrandbits(128)
        # As OpenTelemetry's TraceIdRatioBased: by the lower half of the id.
        return Trace(trace_id, 0, True) if trace_id % _ID_LIMIT < self._bound and trace_id else NO_TRACE

    def add(self, trace: Trace, ended: Ended) -> None:
        """Sends the span of a request whose trace is sampled."""
        self._spans.add(trace, ended)

    def close(self, timeout_s: float) -> None:
        """Sends what is queued, within ``timeout_s``, and ends. Blocks."""
        self._spans.close(timeout_s)


def open_traces(endpoint: str, sample_ratio: float, recorder: SpanRecorder) -> Traces:
    """Starts to send spans to an OTLP receiver over gRPC; it need not be there yet.

    Raises:
        ConfigError: OpenTelemetry is not installed.
    """
    try:
        from attnserve_server.metrics.otlp import OtlpSpans
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "opentelemetry":
            raise
        raise ConfigError(f'trace.endpoint needs {error.name}, which is not installed: pip install "attnserve[trace]"') from error
    return Traces(OtlpSpans(endpoint, recorder), sample_ratio)
