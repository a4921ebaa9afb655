# SPDX-License-Identifier: Apache-2.0
"""One request of a client, of any protocol: its client, its deadline, and its tickets at the front."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol, cast

from attnserve_server.kinds import Payload
from attnserve_server.metrics.timings import Timings
from attnserve_server.request import Done, Terms
from attnserve_server.tasks.interface import Model
from attnserve_server.tasks.registry import TaskSpec


class Ticket(Protocol):
    """A request that the front has accepted (``engine/front/job.py``)."""

    accept: Callable[[Done[Any]], object] | None
    """Called with the answer before it is kept; a ServiceError that it raises takes its place."""

    @property
    def received_at(self) -> float:
        """When it was queued, in seconds of the monotonic clock: the event QUEUED of ``metrics.intervals``."""
        ...

    async def result(self) -> Done[Any]:
        """Waits for the answer; raises the request's ServiceError if it failed."""
        ...

    def deltas(self) -> AsyncIterator[Any]:
        """Yields the parts of a streamed answer as they become certain; ends when the request has finished or failed."""
        ...

    def cancel(self, reason: str) -> None:
        """Frees the request's slots within one step; does nothing if the request has ended."""
        ...


Submit = Callable[[Any, Payload, Terms], Ticket]
"""``Front.submit``, or a wrapper around it."""


class Call:
    """One request of a client.

    Attributes:
        request_id: the client's request id if it sent a valid one, else a new one.
        client: the name of its token, the identity in its certificate, or its host.
        part: the client's own id if it sent a valid one, else its connection; divides the client's share of the queue.
        connection: its connection, as the transport names it.
        received_at: arrival time, in seconds of the monotonic clock.
        deadline: absolute, on the same clock; None if the client set none.
        model: the model that answers, once it is resolved; a label of metrics and log.
        spec: the task of the request, once its model is resolved.
        queued_at: when its first payload was queued; 0 before. The numbers of its payloads, their rows and source tokens follow.
        timings: durations of its phases, once it is answered, and with it the number of generated tokens.
        traceparent: the client's value of this metadata; empty if there is none, or traces are off.
        hold: counts the bytes of an answer until the function that it returns is called; raises a ServiceError if they are too
            many. None for answers that are sent as soon as they arrive.
        is_submitted: whether the request reached the front, which then counts refusals and cancellations itself.
        is_being_made: whether the front has answered and the answer is made on a thread; the front counts no cancellation then.
    """

    __slots__ = (
        "_releases",
        "_tickets",
        "client",
        "connection",
        "deadline",
        "hold",
        "is_being_made",
        "is_submitted",
        "model",
        "num_generated",
        "num_held",
        "num_parts",
        "num_rows",
        "num_source",
        "part",
        "queued_at",
        "received_at",
        "request_id",
        "spec",
        "timings",
        "traceparent",
    )

    def __init__(
        self, request_id: str, client: str = "", deadline: float | None = None, part: str = "", connection: str = ""
    ) -> None:
        self.request_id, self.client, self.deadline, self.part, self.connection = request_id, client, deadline, part, connection
        self.received_at = time.monotonic()
        self.model: Model | None = None
        self.spec: TaskSpec | None = None
        self.queued_at, self.timings, self.traceparent = 0.0, cast(Timings | None, None), ""
        self.num_parts = self.num_rows = self.num_source = self.num_generated = 0
        self.is_submitted = self.is_being_made = False
        self._tickets: list[Ticket] = []
        self.hold: Callable[[int], Callable[[], None]] | None = None
        self.num_held = 0
        """Bytes of answers that have arrived."""
        self._releases: list[Callable[[], None]] = []

    def terms(self, *, is_streamed: bool, priority: int) -> Terms:
        """Returns the terms of all payloads of this request."""
        return Terms(self.deadline, is_streamed, priority, self.client, self.part)

    def submit(self, submit: Submit, model: Model, payload: Payload, terms: Terms) -> Ticket:
        """Submits a payload, the whole request or one part, to the front; :meth:`cancel` cancels its ticket.

        Raises:
            ServiceError: as ``Front.submit``.
        """
        self.is_submitted = True
        ticket = submit(model, payload, terms)
        if self.hold is not None:
            ticket.accept = self._accept
        self._tickets.append(ticket)
        self.queued_at = self.queued_at or ticket.received_at
        self.num_parts += 1
        self.num_rows += payload.num_rows
        self.num_source += payload.num_source
        return ticket

    def release(self) -> None:
        """Counts its answers no longer."""
        for release in self._releases:
            release()
        self._releases.clear()

    def _accept(self, answer: Done[Any]) -> None:
        num_bytes = answer.outcome.num_bytes
        if num_bytes and self.hold is not None:
            self._releases.append(self.hold(num_bytes))
            self.num_held += num_bytes

    def cancel(self, reason: str) -> None:
        """Cancels all tickets that have no answer yet, and drops all: answers are large, and grpc keeps a call in cycles."""
        tickets, self._tickets = self._tickets, []
        for ticket in tickets:
            ticket.cancel(reason)

    @property
    def labels(self) -> tuple[str, str]:
        """Model id and version for metrics and log; empty if no model was found."""
        return (self.model.id, self.model.version) if self.model is not None else ("", "")

    def is_past_deadline(self, slack_s: float = 0.0) -> bool:
        """Whether the deadline has passed or passes within ``slack_s``, which is capped at half of the client's timeout."""
        if self.deadline is None:
            return False
        return time.monotonic() >= self.deadline - min(slack_s, (self.deadline - self.received_at) / 2)
