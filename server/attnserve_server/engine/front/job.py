# SPDX-License-Identifier: Apache-2.0
"""Work for an engine as the front keeps it, and the tickets that wait for it: one, or several where equal requests share it."""

from __future__ import annotations

import asyncio
import enum
import itertools
from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol

import msgspec

from attnserve_server.engine.front.models import ServedModel
from attnserve_server.errors import Cancelled, DeadlineExceeded, ExecutionFailed, ServiceError
from attnserve_server.kinds import Outcome, Part
from attnserve_server.request import Done, Terms, Work
from attnserve_server.stats import RequestStats

MAX_MERGED = 2
"""Tokens that come one by one are sent by twos at most: a stream should read as one."""


MAX_DEATHS = 2
"""A job with which so many workers have died runs alone from then on; what they all died of dies alone."""


class Status(enum.IntEnum):
    """How far a job has come; what is before ``DONE`` is in the front's books."""

    QUEUED = 0
    SENT = 1
    LEAVING = 2
    """Given up, but its worker has not yet freed its rows."""
    DONE = 3


class Watcher(Protocol):
    """What is told of a job that several tickets may share (``sharing.py``)."""

    def is_answered(self, job: Job) -> bool:
        """Asked before a queued job is sent: whether it needs no worker any more, as its tickets wait elsewhere or are done."""
        ...

    def sent(self, job: Job) -> None:
        """A worker has it."""
        ...

    def ended(self, job: Job, outcome: Outcome | None) -> None:
        """It is done or given up."""
        ...


class Job:
    """One request on its way through queue and engine.

    Args:
        model: whose engine does it.
        work: what a worker is sent.
        terms: those of the first ticket; queue and engine go by them.
        queued_at: when it was taken.
        watcher: of a job that may be shared; None for any other.
        key: what the watcher knows it by.
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
        """Its number, on both sides of the link."""
        self.model, self.work, self.terms, self.queued_at = model, work, terms, queued_at
        self.watcher, self.key = watcher, key
        self.status = Status.QUEUED
        self.tickets: list[Ticket] = []
        self.deadline = terms.deadline
        """The latest of all that wait or waited for it; None where one has none."""
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

    def deliver(self, part: Part, now: float) -> None:
        """A part of a stream has come from the worker."""
        self.delivered_at.append(now)
        if self.watcher is not None:  # others may come and want what was delivered
            self._produced = part if self._produced is None else self._produced.joined(part)
        for ticket in self.tickets:
            if ticket.terms.is_streamed:
                ticket.deliver(part)

    def finish(self, answer: Done[Any]) -> None:
        """The answer has come."""
        for ticket in self.tickets:
            ticket.finish(answer if ticket.received_at <= self.queued_at else _seen_from(ticket.received_at, answer))
        self.tickets.clear()  # which know the job: a cycle, left to the garbage collector, which stalls all requests

    def fail(self, error: ServiceError) -> None:
        """No answer will come."""
        for ticket in self.tickets:
            ticket.fail(error)
        self.tickets.clear()

    def stats(self, answer: Done[Any]) -> RequestStats:
        """What was measured of it."""
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
    """What the one that asked holds: where its answer arrives, and how it is given up. Handed out by ``Front.submit``.

    Belongs to the event loop, whose clock is the monotonic one.

    Args:
        terms: when its client wants what.
        received_at: when it was taken.
        on_leave: called with the ticket and the reason ("client", "deadline" …) when it is given up before it is done.
    """

    def __init__(self, terms: Terms, received_at: float, on_leave: Callable[[Ticket, str], None]) -> None:
        self.terms, self.received_at = terms, received_at
        self.job: Job | None = None
        """What it waits for; None where the answer was there already."""
        self._on_leave = on_leave
        loop = asyncio.get_running_loop()
        self._answer: asyncio.Future[Done[Any]] = loop.create_future()
        self._parts: asyncio.Queue[Any] = asyncio.Queue()
        timer = loop.call_at(terms.deadline, self.cancel, "deadline") if terms.deadline is not None else None
        self._answer.add_done_callback(lambda answer: _close(answer, timer))

    @property
    def is_done(self) -> bool:
        """Answered, failed or cancelled."""
        return self._answer.done()

    async def result(self) -> Done[Any]:
        """Waits for the answer. The waiting task may be cancelled; :meth:`cancel` follows then.

        Raises:
            ServiceError: it will not come.
        """
        return await asyncio.shield(self._answer)

    async def deltas(self) -> AsyncIterator[Any]:
        """The parts of a streamed request as they come; ends when it is finished or has failed.

        Where more has come than was taken, two tokens at a time are one part.
        """
        part = await self._parts.get()
        while part is not None:
            following = None if self._parts.empty() else self._parts.get_nowait()
            if following is None:
                is_last = self.is_done and self._parts.empty()
                yield part
                part = None if is_last else await self._parts.get()
            elif part.size + following.size <= MAX_MERGED:
                part = part.joined(following)
            else:
                yield part
                part = following

    def cancel(self, reason: str) -> None:
        """Gives the request up; its slots are free within one step, unless others wait for the same. Idempotent."""
        if not self.is_done:
            self._on_leave(self, reason)

    def deliver(self, part: Part) -> None:
        """A part of a stream has come."""
        if not self.is_done:
            self._parts.put_nowait(part)

    def finish(self, answer: Done[Any]) -> None:
        """The answer has come."""
        if not self.is_done:
            self._answer.set_result(answer)
            self._parts.put_nowait(None)

    def fail(self, error: ServiceError) -> None:
        """No answer will come."""
        if not self.is_done:
            self._answer.set_exception(error)
            self._parts.put_nowait(None)


def _close(answer: asyncio.Future[Any], timer: asyncio.TimerHandle | None) -> None:
    """Marks an error as seen (a client that left does not ask for it), and forgets the deadline."""
    if timer is not None:
        timer.cancel()
    if not answer.cancelled():
        answer.exception()


def _seen_from(moment: float, answer: Done[Any]) -> Done[Any]:
    """The answer with the times of one that came only then: what was over before took no time."""
    admitted_at = max(answer.admitted_at, moment)
    encoded_at = max(answer.admitted_at + answer.encode_s, moment)
    return msgspec.structs.replace(
        answer,
        admitted_at=admitted_at,
        encode_s=encoded_at - admitted_at,
        first_token_at=max(answer.first_token_at, moment),
        finished_at=max(answer.finished_at, moment),
    )


def error_of(reason: str) -> ServiceError:
    """What a ticket ends with that was given up."""
    if reason == "deadline":
        return DeadlineExceeded("the deadline passed before the answer was ready")
    return Cancelled("the request was cancelled")


def failure_of(reason: str, message: str) -> ServiceError:
    """The error that a worker names."""
    kinds: list[type[ServiceError]] = [Cancelled, DeadlineExceeded]
    return next((kind for kind in kinds if kind.reason == reason), ExecutionFailed)(message)
