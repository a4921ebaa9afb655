# SPDX-License-Identifier: Apache-2.0
"""The events of a request and of a step, and every interval between two of them: the one place where these are defined.

Help texts of metrics and the documentation are made from it. All times are of the monotonic clock.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Event(enum.Enum):
    """A moment in the life of a request or of a step; the value says when it is."""

    RECEIVED = "the server's handler gets the request's bytes"
    QUEUED = "the front takes the request: parsed, validated and tokenized, or its image decoded"
    ADMITTED = "an engine takes it out of the queue, for the encoder's next run"
    ENCODED = "the encoder's run is over and the request has its slots"
    FIRST_TOKEN = "the first step that it took part in is over"
    DELIVERED = "tokens of a streamed request arrive at the front"
    FINISHED = "its search is over and its slots are free"
    ANSWERED = "the last message and the status are handed to gRPC"
    STEP_BEGAN = "an engine starts a decode step"
    STEP_ENDED = "graph run and search of the step are over"


@dataclass(frozen=True, slots=True)
class Interval:
    """What a duration metric measures."""

    metric: str
    begin: Event
    end: Event
    meaning: str

    @property
    def help(self) -> str:
        """The metric's help text."""
        return f"{self.meaning}, from {self.begin.name} to {self.end.name}, in seconds."


INTERVALS = (
    Interval("attnserve_request_duration_seconds", Event.RECEIVED, Event.ANSWERED, "An RPC, whatever its status"),
    Interval(
        "attnserve_refusal_duration_seconds",
        Event.RECEIVED,
        Event.ANSWERED,
        "An RPC that was refused before anything was done for it",
    ),
    Interval(
        "attnserve_image_preparation_duration_seconds",
        Event.RECEIVED,
        Event.QUEUED,
        "A request with an image before its queue: the wait for a decoder, decoding and scaling",
    ),
    Interval("attnserve_queue_duration_seconds", Event.QUEUED, Event.ADMITTED, "Wait of an answered request for slots"),
    Interval(
        "attnserve_encode_duration_seconds", Event.ADMITTED, Event.ENCODED, "The encoder's run that an answered request was in"
    ),
    Interval("attnserve_decode_duration_seconds", Event.ENCODED, Event.FINISHED, "All decode steps of an answered request"),
    Interval(
        "attnserve_time_to_first_token_seconds", Event.QUEUED, Event.FIRST_TOKEN, "Time of an answered request to its first token"
    ),
    Interval(
        "attnserve_inter_token_latency_seconds", Event.DELIVERED, Event.DELIVERED, "Between two deliveries of a streamed request"
    ),
    Interval("attnserve_decode_step_duration_seconds", Event.STEP_BEGAN, Event.STEP_ENDED, "One decode step of a whole batch"),
)
"""Every duration that is a metric of its own, in the order of the documentation."""

HELP = {interval.metric: interval.help for interval in INTERVALS}
"""Help text by metric name."""
