# SPDX-License-Identifier: Apache-2.0
"""Durations of the phases of one answered request, for its answer, its log line and its span."""

from __future__ import annotations

import time
from typing import Any

import msgspec

from attnserve_server.request import Done


class Timings(msgspec.Struct, frozen=True, gc=False):
    """Durations of the phases of a request, in seconds, between the events of ``metrics.intervals``.

    Of a single-pass model ``encode_s`` is the run of its batch, and ``decode_s`` is 0.
    """

    preparation_s: float
    queue_s: float
    encode_s: float
    decode_s: float
    total_s: float
    first_token_s: float = 0.0
    """From QUEUED to FIRST_TOKEN."""
    window_s: float = 0.0
    """The part of ``queue_s`` that a single-pass model's request spends at a worker, from BATCHABLE to RUN_BEGAN."""

    @classmethod
    def of(cls, received_at: float, queued_at: float, done: Done[Any]) -> Timings:
        """Computes them up to now, from the events RECEIVED and QUEUED and those of the answer."""
        encoded_at, queue_s = done.admitted_at + done.encode_s, max(done.admitted_at - queued_at, 0.0)
        return cls(
            max(queued_at - received_at, 0.0),
            queue_s,
            done.encode_s,
            max(done.finished_at - encoded_at, 0.0),
            time.monotonic() - received_at,
            max(done.first_token_at - queued_at, 0.0),
            min(max(done.admitted_at - done.batchable_at, 0.0), queue_s) if done.batchable_at else 0.0,
        )
