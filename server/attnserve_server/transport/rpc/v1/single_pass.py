# SPDX-License-Identifier: Apache-2.0
"""Converts what the answers of single-pass models share."""

from __future__ import annotations

from attnserve.v1 import single_pass_pb2
from attnserve_server.metrics.timings import Timings


def pass_timings_message(timings: Timings, batch_size: int) -> single_pass_pb2.PassTimings:
    """Converts timings; the run is the only phase after the queue."""
    return single_pass_pb2.PassTimings(
        preparation_seconds=timings.preparation_s,
        queue_seconds=timings.queue_s,
        run_seconds=timings.encode_s,
        total_seconds=timings.total_s,
        batch_size=batch_size,
    )
