# SPDX-License-Identifier: Apache-2.0
"""One ended request, as its log line and its span show it: its names, its status, its phases and its counts; no text of a user."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from attnserve_server.metrics.intervals import Event
from attnserve_server.metrics.timings import Timings


class MethodName(NamedTuple):
    """Names of a method: the full one of its service ("attnserve.v1.TranslationService"), and its own."""

    service: str
    method: str


@dataclass(slots=True)
class Ended:
    """A request that has ended.

    Attributes:
        name: of its method.
        request_id: id in log and trailers.
        client: its token's name, its certificate's identity, or its host.
        code: name of its status.
        reason: why it failed; "-" if it did not.
        model: id and version; empty if no model was found.
        task: name of its model's task; empty if no model was found.
        received_at: monotonic, in seconds: the event RECEIVED; ``ended_at`` is ANSWERED.
        queued_at: the event QUEUED; 0 if it was not queued.
        timings: of an answered request; None for any other.
        is_single_pass: whether its model has runs, and no steps.
        num_parts: payloads, such as sentences; their rows, source tokens (or cells of images) and generated tokens are sums.
    """

    name: MethodName
    request_id: str
    client: str
    code: str
    reason: str
    model: tuple[str, str]
    task: str
    received_at: float
    ended_at: float
    queued_at: float
    timings: Timings | None
    is_single_pass: bool
    num_parts: int
    num_rows: int
    num_source: int
    num_generated: int

    @property
    def duration_s(self) -> float:
        """From RECEIVED to ANSWERED."""
        return self.ended_at - self.received_at

    def events(self) -> list[tuple[Event, float]]:
        """Returns the events that happened between RECEIVED and ANSWERED, with their times, in order."""
        queued_at, timings = self.queued_at, self.timings
        if not queued_at:
            return []
        if timings is None:
            return [(Event.QUEUED, queued_at)]
        admitted_at = queued_at + timings.queue_s
        encoded_at = admitted_at + timings.encode_s
        if self.is_single_pass:
            return [
                (Event.QUEUED, queued_at),
                (Event.BATCHABLE, admitted_at - timings.window_s),
                (Event.RUN_BEGAN, admitted_at),
                (Event.RUN_ENDED, encoded_at),
            ]
        return [
            (Event.QUEUED, queued_at),
            (Event.ADMITTED, admitted_at),
            (Event.ENCODED, encoded_at),
            (Event.FIRST_TOKEN, queued_at + timings.first_token_s),
            (Event.FINISHED, encoded_at + timings.decode_s),
        ]

    def phases_ms(self) -> dict[str, float]:
        """Returns the durations of the phases that are known, in milliseconds, by name."""
        found = {} if not self.queued_at else {"preparation_ms": self.queued_at - self.received_at}
        if (timings := self.timings) is not None:
            found["queue_ms"] = timings.queue_s
            if self.is_single_pass:
                found |= {"window_ms": timings.window_s, "run_ms": timings.encode_s}
            else:
                found |= {
                    "encode_ms": timings.encode_s,
                    "first_token_ms": timings.first_token_s,
                    "decode_ms": timings.decode_s,
                }
        return {name: round(seconds * 1e3, 3) for name, seconds in found.items()}

    def fields(self, trace_id: str = "") -> dict[str, Any]:
        """Returns the fields of the request's JSON line."""
        counts = {
            "parts": self.num_parts,
            "rows": self.num_rows,
            "source_tokens": self.num_source,
            "generated_tokens": self.num_generated,
        }
        return {
            **({"trace_id": trace_id} if trace_id else {}),
            "method": self.name.method,
            "code": self.code,
            "reason": self.reason,
            "model": self.model[0],
            "version": self.model[1],
            "task": self.task,
            "client": self.client,
            "duration_ms": round(self.duration_s * 1e3, 3),
            **self.phases_ms(),
            **(counts if self.num_parts else {}),
        }
