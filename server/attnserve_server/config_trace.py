# SPDX-License-Identifier: Apache-2.0
"""Section of the configuration for traces; see ``docs/traces.md``."""

from __future__ import annotations

from typing import Annotated

import msgspec

from attnserve_server.setting_types import Flag

Endpoint = Annotated[
    str, msgspec.Meta(pattern=r"^(https?://[^/\s]+/?)?$", description="http://HOST:PORT, or https://HOST:PORT for TLS")
]


class TraceConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Spans of requests, sent over OTLP; the extra ``trace`` is needed."""

    endpoint: Annotated[Endpoint, Flag("OTLP receiver (gRPC), as http://HOST:4317; turns traces on", "trace_endpoint")] = ""
    """https for TLS; empty for no traces."""
    sample_ratio: Annotated[
        float, msgspec.Meta(ge=0, le=1), Flag("Share of requests with a span; callers' traces keep their choice", "trace_ratio")
    ] = 1.0
    """Of the traces that begin here; for others the flag in ``traceparent`` decides."""
