# SPDX-License-Identifier: Apache-2.0
"""What the end of a request leads to beside counts: a log line, a span if its trace is sampled, a warning if it was slow."""

from __future__ import annotations

import functools
import logging

from attnserve_server.dataplane.call import Call
from attnserve_server.metrics.ended import Ended, MethodName
from attnserve_server.metrics.logs import FIELDS
from attnserve_server.metrics.trace_context import NO_TRACE
from attnserve_server.metrics.traces import Traces
from attnserve_server.stats import Measured

logger = logging.getLogger(__name__)

TEXT = "%s %s %s model=%s/%s %.1fms"


class Ends:
    """Records the ends of requests, on the event loop.

    Args:
        slow_s: requests that take longer are logged as warnings, with their phases; 0 for none.
        traces: decides which requests have spans; None for no traces.
    """

    def __init__(self, slow_s: float = 0.0, traces: Traces | None = None) -> None:
        self._slow_s, self._traces = slow_s, traces

    @property
    def has_traces(self) -> bool:
        """Whether the metadata's ``traceparent`` is wanted."""
        return self._traces is not None

    def record(self, name: MethodName, call: Call, status: tuple[str, str], ended_at: float) -> None:
        """Records one ended request.

        Args:
            name: of its method.
            call: the request.
            status: name of its status, and the reason of a failure or "-".
            ended_at: monotonic, in seconds.
        """
        trace = NO_TRACE if self._traces is None else self._traces.of(call.traceparent)
        has_line, is_slow = logger.isEnabledFor(logging.INFO), 0 < self._slow_s < ended_at - call.received_at
        if not (has_line or is_slow or trace.is_sampled):
            return
        ended = _ended(name, call, status, ended_at)
        if trace.is_sampled and self._traces is not None:
            try:
                self._traces.add(trace, ended)
            except Exception:  # of a library that the answer does not need
                logger.exception("the span of a request was not made")
        if has_line or is_slow:
            values = name.method, *status, *ended.model, ended.duration_s * 1e3
            extra = {FIELDS: functools.partial(ended.fields, trace.hex_id)}
            if has_line:
                logger.info(TEXT, *values, extra=extra)
            if is_slow:
                phases = " ".join(f"{phase}={duration}" for phase, duration in ended.phases_ms().items())
                logger.warning(f"slow: {TEXT} %s", *values, phases, extra=extra)


def _ended(name: MethodName, call: Call, status: tuple[str, str], ended_at: float) -> Ended:
    spec = call.spec
    return Ended(
        name,
        call.request_id,
        call.client,
        *status,
        call.labels,
        "" if spec is None else spec.name,
        call.received_at,
        ended_at,
        call.queued_at,
        call.timings,
        spec is not None and spec.kind.measured is Measured.RUNS,
        call.num_parts,
        call.num_rows,
        call.num_source,
        call.num_generated,
    )
