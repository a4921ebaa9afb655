# SPDX-License-Identifier: Apache-2.0
"""The metrics of traces: spans that were sent, and spans that were lost."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import Counter


class SpanMetrics:
    """Counts spans (``trace_context.SpanRecorder``); on any thread.

    Args:
        counter: makes a counter.
    """

    def __init__(self, counter: Callable[[str, str, tuple[str, ...]], Counter]) -> None:
        self._sent = counter("spans_sent", "Spans of requests that the trace receiver has taken.", ())
        self._dropped = counter(
            "spans_dropped", "Spans that were lost: their queue was full, or the receiver did not take them.", ()
        )

    def sent(self, number: int) -> None:
        """See :class:`SpanRecorder`."""
        self._sent.inc(number)

    def dropped(self, number: int) -> None:
        """See :class:`SpanRecorder`."""
        self._dropped.inc(number)
