# SPDX-License-Identifier: Apache-2.0
"""A request on its client's side: where its answer arrives, and how it is given up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

from attnserve_server.errors import ServiceError
from attnserve_server.request import RequestFinished, Terms, TokensProduced

if TYPE_CHECKING:
    from attnserve_server.engine.front.job import Job


MAX_MERGED = 2
"""Tokens that come one by one are sent by twos at most: a stream should read as one."""


class Ticket:
    """Handed out by ``Front.submit``; belongs to the event loop, whose clock is the monotonic one.

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
        self._answer: asyncio.Future[RequestFinished] = loop.create_future()
        self._events: asyncio.Queue[TokensProduced | None] = asyncio.Queue()
        timer = loop.call_at(terms.deadline, self.cancel, "deadline") if terms.deadline is not None else None
        self._answer.add_done_callback(lambda answer: _close(answer, timer))

    @property
    def is_done(self) -> bool:
        """Answered, failed or cancelled."""
        return self._answer.done()

    async def result(self) -> RequestFinished:
        """Waits for the answer; raises the ServiceError that it ended with."""
        return await asyncio.shield(self._answer)

    async def deltas(self) -> AsyncIterator[TokensProduced]:
        """The tokens of a streamed request as they come; ends when it is finished or has failed.

        Where more has come than was taken, two tokens at a time are one event.
        """
        event = await self._events.get()
        while event is not None:
            following = None if self._events.empty() else self._events.get_nowait()
            if following is None:
                is_last = self.is_done and self._events.empty()
                yield event
                event = None if is_last else await self._events.get()
            elif len(event.tokens) + len(following.tokens) <= MAX_MERGED:
                event = joined(event, following)
            else:
                yield event
                event = following

    def cancel(self, reason: str) -> None:
        """Gives the request up; its slots are free within one step, unless others wait for the same. Idempotent."""
        if not self.is_done:
            self._on_leave(self, reason)

    def deliver(self, event: TokensProduced) -> None:
        """Tokens have come."""
        if not self.is_done:
            self._events.put_nowait(event)

    def finish(self, answer: RequestFinished) -> None:
        """The answer has come."""
        if not self.is_done:
            self._answer.set_result(answer)
            self._events.put_nowait(None)

    def fail(self, error: ServiceError) -> None:
        """No answer will come."""
        if not self.is_done:
            self._answer.set_exception(error)
            self._events.put_nowait(None)


def joined(event: TokensProduced, following: TokensProduced) -> TokensProduced:
    """Both as one event: indices of the second count from the first one's tokens."""
    shifted = {len(event.tokens) + index: origin for index, origin in following.copied_from.items()}
    return TokensProduced(event.request_id, event.tokens + following.tokens, event.copied_from | shifted)


def _close(answer: asyncio.Future[RequestFinished], timer: asyncio.TimerHandle | None) -> None:
    """Marks an error as seen (a client that left does not ask for it), and forgets the deadline."""
    if timer is not None:
        timer.cancel()
    if not answer.cancelled():
        answer.exception()
