# SPDX-License-Identifier: Apache-2.0
"""Jobs, the front's records of work for an engine, and the tickets that wait for them: several if equal requests are coalesced."""

from __future__ import annotations

import asyncio
import enum
import itertools
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol

import msgspec

from attnserve_server.engine.front.served_models import ServedModel
from attnserve_server.errors import ServiceError
from attnserve_server.kinds import Outcome, Part
from attnserve_server.request import Done, Terms, Work
from attnserve_server.stats import RequestStats

MAX_MERGED = 2
"""Maximum tokens of a merged stream part; larger parts would make a stream stutter."""


MAX_DEATHS = 2
"""A job with which so many workers have died runs alone from then on; what they all died of dies alone."""


class Status(enum.IntEnum):
    """State of a job; the front's accounting holds every job that is not ``DONE``."""

    QUEUED = 0
    SENT = 1
    LEAVING = 2
    """Cancelled, but its worker has not yet freed its rows."""
    DONE = 3


class Watcher(Protocol):
    """Receives the events of a job that several tickets may share (``sharing.py``)."""

    def is_answered(self, job: Job) -> bool:
        """Called before a queued job is sent: gives its tickets a cached answer or an equal job; returns whether it did."""
        ...

    def sent(self, job: Job) -> None:
        """Called when the job was sent to a worker."""
        ...

    def ended(self, job: Job, outcome: Outcome | None) -> None:
        """Called when the job has finished or was cancelled."""
        ...


class Job:
    """One request in the queue or at a worker.

    Args:
        model: the model that answers.
        work: the envelope for a worker.
        terms: those of the first ticket; queue and engine use them.
        queued_at: when it was queued.
        watcher: receives the events of a job that may be shared; None for any other.
        key: the watcher's key of the job.
    """

    __slots__ = (
        *(
            "_produced",
            "num_deaths",
            "deadline",
            "delivered_at",
            "id",
            "key",
            "model",
            "num_attempts",
            "queued_at",
            "status",
            "terms",
            "tickets",
        ),
        *("watcher", "work", "worker"),
    )

    def __init__(
        self,
        model: ServedModel,
        work: Work[Any],
        terms: Terms,
        queued_at: float,
        watcher: Watcher | None = None,
        key: bytes = b"",
    ) -> None:
        self.id = work.request_id
        """Number of the request on both sides of the link."""
        self.model, self.work, self.terms, self.queued_at = model, work, terms, queued_at
        self.watcher, self.key = watcher, key
        self.status = Status.QUEUED
        self.tickets: list[Ticket] = []
        self.deadline = terms.deadline
        """The latest deadline of all its tickets so far; None if any of them has none."""
        self.worker: str | None = None
        self.num_attempts = 0
        self.num_deaths = 0
        """Workers that died while they had it."""
        self.delivered_at: list[float] = []
        self._produced: Part | None = None

    @property
    def runs_alone(self) -> bool:
        """Whether a worker may have nothing else beside it: it may be what kills them."""
        return self.num_deaths >= MAX_DEATHS

    def survives(self, *, is_suspect: bool, was_alone: bool) -> bool:
        """Whether it runs once more: a worker has died with it.

        It does not where part of it was sent, or nothing waits for it; nor where several workers have died with it and the last one
        had nothing else. So of what shared those workers, only what killed them fails.

        Args:
            is_suspect: what the worker died of may have been this job.
            was_alone: it had no other.
        """
        self.num_deaths += is_suspect
        is_culprit = is_suspect and was_alone and self.runs_alone
        return bool(self.tickets) and not self.delivered_at and not is_culprit

    def attach(self, ticket: Ticket) -> None:
        """Adds a ticket, and delivers to it what the job has already streamed."""
        ticket.job = self
        self.tickets.append(ticket)
        mine, other = self.deadline, ticket.terms.deadline
        self.deadline = None if mine is None or other is None else max(mine, other)
        if self._produced is not None and ticket.terms.is_streamed:
            ticket.deliver(self._produced)

    def detach(self, ticket: Ticket) -> None:
        """Removes a ticket."""
        self.tickets.remove(ticket)

    def deliver(self, part: Part, now: float) -> None:
        """Delivers a part of a stream to the streaming tickets."""
        self.delivered_at.append(now)
        if self.watcher is not None:  # later tickets need the parts so far
            self._produced = part if self._produced is None else self._produced.merged(part)
        for ticket in self.tickets:
            if ticket.terms.is_streamed:
                ticket.deliver(part)

    def finish(self, answer: Done[Any]) -> None:
        """Ends all tickets with the answer."""
        for ticket in self.tickets:
            ticket.finish(answer if ticket.received_at <= self.queued_at else _seen_from(ticket.received_at, answer))
        self.tickets.clear()  # breaks the cycle of job and tickets: the garbage collector would stall all requests

    def fail(self, error: ServiceError) -> None:
        """Ends all tickets with an error."""
        for ticket in self.tickets:
            ticket.fail(error)
        self.tickets.clear()

    def stats(self, answer: Done[Any]) -> RequestStats:
        """Returns the statistics of the answered job."""
        return RequestStats(
            model=self.model.id,
            version=self.model.version,
            queue_s=max(0.0, answer.admitted_at - self.queued_at),
            encode_s=answer.encode_s,
            decode_s=max(0.0, answer.finished_at - answer.admitted_at - answer.encode_s),
            time_to_first_token_s=max(0.0, answer.first_token_at - self.queued_at),
            num_source_tokens=self.work.payload.num_source,
            num_generated_tokens=answer.outcome.num_generated,
            inter_token_s=[after - before for before, after in itertools.pairwise(self.delivered_at)],
        )


class Ticket:
    """The caller's handle of a request: receives the answer, and cancels the request. ``Front.submit`` returns it.

    Belongs to the event loop. Its timer counts from now, because uvloop reads its clock once in each turn only.

    Args:
        terms: terms of the request.
        received_at: when it was queued.
        on_leave: called with the ticket and the reason ("client", "deadline" …) if it is cancelled before it is done.
    """

    def __init__(self, terms: Terms, received_at: float, on_leave: Callable[[Ticket, str], None]) -> None:
        self.terms, self.received_at = terms, received_at
        self.job: Job | None = None
        """The job that it waits for; None if the answer was cached."""
        self.accept: Callable[[Done[Any]], object] | None = None
        """Called with the answer before it is kept; a ServiceError that it raises takes its place."""
        self._on_leave = on_leave
        self._answer: Done[Any] | None = None
        self._error: ServiceError | None = None
        self._parts: deque[Any] = deque()
        self._waiters: list[asyncio.Future[None]] = []
        """Of the tasks that wait for the answer, or for a part of it."""
        self._loop, end = asyncio.get_running_loop(), terms.deadline
        self._timer = None if end is None else self._loop.call_later(end - time.monotonic(), self.cancel, "deadline")

    @property
    def is_done(self) -> bool:
        """Whether it was answered, has failed or was cancelled."""
        return self._answer is not None or self._error is not None

    async def result(self) -> Done[Any]:
        """Waits for the answer. If the waiting task is cancelled, the caller must call :meth:`cancel`.

        Raises:
            ServiceError: the request failed.
        """
        while self._answer is None:
            if self._error is not None:
                raise self._error.with_traceback(None)
            await self._changed()
        return self._answer

    async def deltas(self) -> AsyncIterator[Any]:
        """Yields the parts of a streamed answer as they arrive; ends when the request has finished or failed.

        Parts that arrived since the last one was taken are merged, up to ``MAX_MERGED`` tokens.
        """
        parts = self._parts
        while parts or not self.is_done:
            if not parts:
                await self._changed()
                continue
            part = parts.popleft()
            while parts and part.size + parts[0].size <= MAX_MERGED:
                part = part.merged(parts.popleft())
            yield part

    def cancel(self, reason: str) -> None:
        """Cancels the request; its slots are free within one step unless other tickets share the job. Idempotent."""
        if not self.is_done:
            self._on_leave(self, reason)

    def deliver(self, part: Part) -> None:
        """Adds a part of a stream."""
        if not self.is_done:
            self._parts.append(part)
            self._wake()

    def finish(self, answer: Done[Any]) -> None:
        """Ends the ticket with the answer."""
        if not self.is_done:
            try:
                if self.accept is not None:
                    self.accept(answer)
            except ServiceError as error:
                self.fail(error.with_traceback(None))  # its frames hold the answer
                return
            self._answer = answer
            self._end()

    def fail(self, error: ServiceError) -> None:
        """Ends the ticket with an error."""
        if not self.is_done:
            self._error = error
            self._end()

    def _end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None  # it refers to this ticket
        self._wake()

    async def _changed(self) -> None:
        """Waits for the next part or for the end. A task that is cancelled here ends nothing but its own wait."""
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._waiters.append(waiter)
        await waiter

    def _wake(self) -> None:
        if self._waiters:
            waiters, self._waiters = self._waiters, []
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)


def _seen_from(moment: float, answer: Done[Any]) -> Done[Any]:
    """Returns the answer with all times clamped to ``moment``, when a ticket joined: earlier phases took no time for it."""
    admitted_at = max(answer.admitted_at, moment)
    encoded_at = max(answer.admitted_at + answer.encode_s, moment)
    return msgspec.structs.replace(
        answer,
        admitted_at=admitted_at,
        encode_s=encoded_at - admitted_at,
        first_token_at=max(answer.first_token_at, moment),
        finished_at=max(answer.finished_at, moment),
    )
