# SPDX-License-Identifier: Apache-2.0
"""Work for an engine, and the tickets of all who wait for it: one, or several where equal requests share their answer."""

from __future__ import annotations

import itertools

import msgspec

from attnserve_server.engine.front.models import ServedModel
from attnserve_server.engine.front.ticket import Ticket, joined
from attnserve_server.errors import ServiceError
from attnserve_server.request import RequestFinished, SequenceRequest, Terms, TokensProduced
from attnserve_server.stats import RequestStats


class Job:
    """One request on its way through queue and engine.

    Args:
        model: whose engine does it.
        request: what a worker is sent.
        terms: those of who asked first; queue and engine go by them.
        queued_at: when it was taken.
        key: equal for requests with equal answers; None where it is not shared.
    """

    def __init__(
        self, model: ServedModel, request: SequenceRequest, terms: Terms, queued_at: float, key: bytes | None = None
    ) -> None:
        self.model, self.request, self.terms, self.queued_at, self.key = model, request, terms, queued_at, key
        self.tickets: list[Ticket] = []
        self.deadline = terms.deadline
        """The latest of all who wait or waited for it; None where one has none."""
        self.worker: str | None = None
        self.num_attempts = 0
        self.delivered_at: list[float] = []
        self._produced: TokensProduced | None = None

    @property
    def id(self) -> int:
        """Its number, on both sides of the socket."""
        return self.request.request_id

    @property
    def num_rows(self) -> int:
        """Rows that it may hold at once."""
        return self.request.options.num_rows

    @property
    def cost(self) -> float:
        """What it takes to serve it, in rows times source tokens: translations are about as long as what they translate."""
        return self.num_rows * self.request.source_length

    def attach(self, ticket: Ticket) -> None:
        """One more waits for it, and gets at once what was delivered already."""
        ticket.job = self
        self.tickets.append(ticket)
        mine, other = self.deadline, ticket.terms.deadline
        self.deadline = None if mine is None or other is None else max(mine, other)
        if self._produced is not None and ticket.terms.is_streamed:
            ticket.deliver(self._produced)

    def detach(self, ticket: Ticket) -> None:
        """One waits no longer."""
        self.tickets.remove(ticket)

    def deliver(self, event: TokensProduced, now: float) -> None:
        """Tokens have come from the worker."""
        self.delivered_at.append(now)
        if self.key is not None:  # others may come and want what was delivered
            self._produced = event if self._produced is None else joined(self._produced, event)
        for ticket in self.tickets:
            if ticket.terms.is_streamed:
                ticket.deliver(event)

    def finish(self, answer: RequestFinished) -> None:
        """The answer has come."""
        for ticket in self.tickets:
            ticket.finish(answer if ticket.received_at <= self.queued_at else _seen_from(ticket.received_at, answer))
        self.tickets.clear()  # which know the job: the two would wait for the garbage collector, and it holds up everybody

    def fail(self, error: ServiceError) -> None:
        """No answer will come."""
        for ticket in self.tickets:
            ticket.fail(error)
        self.tickets.clear()

    def stats(self, answer: RequestFinished) -> RequestStats:
        """What was measured of it."""
        return RequestStats(
            model=self.model.id,
            version=self.model.version,
            queue_s=max(0.0, answer.admitted_at - self.queued_at),
            encode_s=answer.encode_s,
            decode_s=max(0.0, answer.finished_at - answer.admitted_at - answer.encode_s),
            time_to_first_token_s=max(0.0, answer.first_token_at - self.queued_at),
            num_source_tokens=self.request.source_length,
            num_generated_tokens=len(answer.hypotheses[0].tokens),
            inter_token_s=[after - before for before, after in itertools.pairwise(self.delivered_at)],
        )


def _seen_from(moment: float, answer: RequestFinished) -> RequestFinished:
    """The answer with the times of one who came only then: what was over before took no time."""
    admitted_at = max(answer.admitted_at, moment)
    encoded_at = max(answer.admitted_at + answer.encode_s, moment)
    return msgspec.structs.replace(
        answer,
        admitted_at=admitted_at,
        encode_s=encoded_at - admitted_at,
        first_token_at=max(answer.first_token_at, moment),
        finished_at=max(answer.finished_at, moment),
    )
