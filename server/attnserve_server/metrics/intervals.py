# SPDX-License-Identifier: Apache-2.0
"""Defines the events of a request and of a step, and all intervals between them that are metrics.

The metrics' help texts and the documentation are generated from it. All times are from the monotonic clock.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Event(enum.Enum):
    """An event of a request or of a step; the value defines when it happens."""

    RECEIVED = "the server's handler gets the request's bytes"
    QUEUED = "the front queues the request: parsed, validated, and tokenized or its image decoded"
    ADMITTED = "an engine takes it out of the queue, for the encoder's next run or for its batch"
    ENCODED = "the encoder's run has ended and the request has its slots"
    FIRST_TOKEN = "the request's first decode step has ended"
    DELIVERED = "tokens of a streamed request arrive at the front"
    FINISHED = "its search has ended and its slots are free"
    ANSWERED = "the last message and the status are handed to gRPC"
    BATCHABLE = "a worker's engine of single-pass models takes it, for a batch"
    RUN_BEGAN = "an engine starts the run of a batch"
    RUN_ENDED = "the run has ended and its outputs are copied"
    STEP_BEGAN = "an engine starts a decode step"
    STEP_ENDED = "graph run and search of the step have ended"


@dataclass(frozen=True, slots=True)
class Interval:
    """Definition of a duration metric."""

    metric: str
    begin: Event
    end: Event
    meaning: str

    @property
    def help(self) -> str:
        """The metric's help text."""
        return f"{self.meaning}, from {self.begin.name} to {self.end.name}, in seconds."


INTERVALS = (
    Interval("attnserve_request_duration_seconds", Event.RECEIVED, Event.ANSWERED, "Duration of an RPC with any status"),
    Interval(
        "attnserve_refusal_duration_seconds",
        Event.RECEIVED,
        Event.ANSWERED,
        "Duration of an RPC that was refused before any work was done for it",
    ),
    Interval(
        "attnserve_image_preparation_duration_seconds",
        Event.RECEIVED,
        Event.QUEUED,
        "Preparation of a request with an image: wait for a decoder thread, decoding and scaling",
    ),
    Interval(
        "attnserve_queue_duration_seconds", Event.QUEUED, Event.ADMITTED, "Wait of an answered request for slots, or for its batch"
    ),
    Interval("attnserve_encode_duration_seconds", Event.ADMITTED, Event.ENCODED, "Encoder run of an answered request"),
    Interval("attnserve_decode_duration_seconds", Event.ENCODED, Event.FINISHED, "Decode steps of an answered request"),
    Interval(
        "attnserve_time_to_first_token_seconds", Event.QUEUED, Event.FIRST_TOKEN, "Time to the first token of an answered request"
    ),
    Interval(
        "attnserve_inter_token_latency_seconds", Event.DELIVERED, Event.DELIVERED, "Between two deliveries of a streamed request"
    ),
    Interval("attnserve_decode_step_duration_seconds", Event.STEP_BEGAN, Event.STEP_ENDED, "Decode step of a batch"),
    Interval(
        "attnserve_window_duration_seconds",
        Event.BATCHABLE,
        Event.RUN_BEGAN,
        "Part of the wait of a single-pass model's request that it spends at a worker",
    ),
    Interval("attnserve_run_duration_seconds", Event.RUN_BEGAN, Event.RUN_ENDED, "Run of a batch of a single-pass model"),
)
"""All duration metrics, in the order of the documentation."""

HELP = {interval.metric: interval.help for interval in INTERVALS}
"""Help text by metric name."""
