# SPDX-License-Identifier: Apache-2.0
"""One request of a client, whatever protocol it came by: its client, its deadline, and the tickets that it has at the front."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol

from attnserve_server.kinds import Payload
from attnserve_server.request import Done, Terms
from attnserve_server.tasks.interface import Model


class Ticket(Protocol):
    """A request that the front has taken (``engine/front/job.py``)."""

    @property
    def received_at(self) -> float:
        """When it was taken into the queue, in seconds of the monotonic clock: the event QUEUED of ``metrics.intervals``."""
        ...

    async def result(self) -> Done[Any]:
        """Waits for the answer; raises the ServiceError that it ended with."""
        ...

    def deltas(self) -> AsyncIterator[Any]:
        """Yields the parts of a streamed request as they become certain, and ends when it is finished or has failed."""
        ...

    def cancel(self, reason: str) -> None:
        """Frees the request's slots within one step; does nothing where it is finished or cancelled."""
        ...


Submit = Callable[[Any, Payload, Terms], Ticket]
"""``Front.submit``, or a wrapper around it."""


class Call:
    """One request of a client.

    Attributes:
        request_id: the client's id for the request where it sent a sane one, else a new one.
        client: whose request it is: what the client calls itself where that is sane, else its connection.
        received_at: when it came, in seconds of the monotonic clock.
        deadline: absolute, on the same clock; None where the client set none.
        model: the model that answers, once it is known; metrics and log are labelled by it.
        is_submitted: whether the front was asked; from then on it counts refusals and cancellations itself.
    """

    __slots__ = ("_tickets", "client", "deadline", "is_submitted", "model", "received_at", "request_id")

    def __init__(self, request_id: str, client: str = "", deadline: float | None = None) -> None:
        self.request_id, self.client, self.deadline = request_id, client, deadline
        self.received_at = time.monotonic()
        self.model: Model | None = None
        self.is_submitted = False
        self._tickets: list[Ticket] = []

    def terms(self, *, is_streamed: bool, priority: int) -> Terms:
        """Returns the terms that hold for all that is submitted for this request."""
        return Terms(self.deadline, is_streamed, priority, self.client)

    def submit(self, submit: Submit, model: Model, payload: Payload, terms: Terms) -> Ticket:
        """Hands a payload to the front, the whole request or a part; its ticket is cancelled if this ends without the answer.

        Raises:
            ServiceError: as ``Front.submit`` does.
        """
        self.is_submitted = True
        self._tickets.append(submit(model, payload, terms))
        return self._tickets[-1]

    def cancel(self, reason: str) -> None:
        """Cancels all tickets that have no answer yet."""
        for ticket in self._tickets:
            ticket.cancel(reason)

    @property
    def labels(self) -> tuple[str, str]:
        """Model id and version for metrics and log; empty where no model was found."""
        return (self.model.id, self.model.version) if self.model is not None else ("", "")

    def is_past_deadline(self, slack_s: float = 0.0) -> bool:
        """Whether the client's deadline has passed, or passes within ``slack_s``, but at most in half of what it gave us."""
        if self.deadline is None:
            return False
        return time.monotonic() >= self.deadline - min(slack_s, (self.deadline - self.received_at) / 2)
