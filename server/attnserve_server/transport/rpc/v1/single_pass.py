# SPDX-License-Identifier: Apache-2.0
"""Converts what the answers of single-pass models share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from attnserve.v1 import single_pass_pb2
from attnserve_server.errors import InvalidRequest
from attnserve_server.metrics.timings import Timings

MessageT = TypeVar("MessageT")


def few(messages: Sequence[MessageT], most: int, field: str) -> Sequence[MessageT]:
    """Returns the messages of a repeated field. It runs before they are converted: a request has room for millions, which would
    keep the event loop busy for seconds.

    Raises:
        InvalidRequest: there are more than ``most``.
    """
    if len(messages) > most:
        raise InvalidRequest(f"{field} must be at most {most}; there are {len(messages)}", field=field)
    return messages


def pass_timings_message(timings: Timings, batch_size: int) -> single_pass_pb2.PassTimings:
    """Converts timings; the run is the only phase after the queue."""
    return single_pass_pb2.PassTimings(
        preparation_seconds=timings.preparation_s,
        queue_seconds=timings.queue_s,
        run_seconds=timings.encode_s,
        total_seconds=timings.total_s,
        batch_size=batch_size,
    )
