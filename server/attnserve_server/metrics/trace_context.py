# SPDX-License-Identifier: Apache-2.0
"""The trace that a request belongs to (W3C Trace Context, level 1), and the interfaces of what sends and counts its spans."""

from __future__ import annotations

import re
from typing import NamedTuple, Protocol

from attnserve_server.metrics.ended import Ended

TRACEPARENT_KEY = "traceparent"
"""Metadata key of the trace that a request belongs to."""

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_SAMPLED = 1


class Trace(NamedTuple):
    """The trace of a request.

    Attributes:
        trace_id: of 128 bits; 0 if the request belongs to no trace.
        parent_id: of 64 bits, the caller's span; 0 for a trace that begins here.
        is_sampled: whether the request's span is sent.
    """

    trace_id: int
    parent_id: int
    is_sampled: bool

    @property
    def hex_id(self) -> str:
        """The trace id as in ``traceparent``; empty if there is none."""
        return f"{self.trace_id:032x}" if self.trace_id else ""


NO_TRACE = Trace(0, 0, False)


def parse_traceparent(value: str) -> Trace | None:
    """Returns the caller's trace; None for a value that the standard lets a server ignore (section 3.2.2)."""
    found = _TRACEPARENT.fullmatch(value)
    if found is None or found[1] == "ff" or (found[1] == "00" and found[5]):
        return None
    trace_id, parent_id = int(found[2], 16), int(found[3], 16)
    return Trace(trace_id, parent_id, bool(int(found[4], 16) & _SAMPLED)) if trace_id and parent_id else None


class Spans(Protocol):
    """Sends spans (``metrics.otlp.OtlpSpans``)."""

    def add(self, trace: Trace, ended: Ended) -> None:
        """Makes and queues the span of a request; it never waits."""
        ...

    def close(self, timeout_s: float) -> None:
        """Sends what is queued, within ``timeout_s``, and ends. Blocks."""
        ...


class SpanRecorder(Protocol):
    """Counts spans (``metrics.prometheus.Metrics.spans``); on any thread."""

    def sent(self, number: int) -> None:
        """Counts spans that the receiver has taken."""
        ...

    def dropped(self, number: int) -> None:
        """Counts spans that were lost: the queue was full, or the receiver did not take them."""
        ...
