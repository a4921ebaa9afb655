# SPDX-License-Identifier: Apache-2.0
"""The trace of the calling code, if it uses OpenTelemetry; the client neither imports nor needs it."""

from __future__ import annotations

import sys

KEY = "traceparent"
"""Metadata key of a call's trace (W3C Trace Context)."""


def current() -> tuple[tuple[str, str], ...]:
    """Returns the metadata by which a server continues the trace of the current span; empty if there is no span.

    Where nothing has imported OpenTelemetry there can be no span, and it is not imported here.
    """
    api = sys.modules.get("opentelemetry.trace")
    if api is None:
        return ()
    context = api.get_current_span().get_span_context()
    if not context.is_valid:
        return ()
    return ((KEY, f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"),)
