# SPDX-License-Identifier: Apache-2.0
"""A ticket: its events in order, waiting events joined, its deadline, and its end."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from attnserve_server.engine.front.job import Ticket
from attnserve_server.errors import Cancelled, ServiceError
from attnserve_server.request import Done, FinishReason, Hypothesis, SequenceOutcome, Terms, TokensProduced

pytestmark = pytest.mark.every_loop


class Leaving:
    """Records the tickets that left, and the reasons."""

    def __init__(self) -> None:
        self.reasons: list[str] = []

    def __call__(self, ticket: Ticket, reason: str) -> None:
        self.reasons.append(reason)
        ticket.fail(Cancelled("left"))


def make(leaving: Leaving | None = None, **terms: Any) -> Ticket:
    return Ticket(Terms(**terms), time.monotonic(), leaving or Leaving())


def produced(*tokens: int, **copied: int) -> TokensProduced:
    return TokensProduced(1, list(tokens), {int(index[1:]): origin for index, origin in copied.items()})


def answer(*tokens: int) -> Done:
    return Done(1, SequenceOutcome([Hypothesis(list(tokens), -1.0, FinishReason.STOP)]), 0.0, 0.0, 0.0, 0.0, len(tokens))


async def collect(ticket: Ticket) -> list[TokensProduced]:
    return [event async for event in ticket.deltas()]


async def test_fast_reader_gets_events_one_by_one() -> None:
    ticket = make()
    reader = asyncio.create_task(collect(ticket))
    for token in (5, 6, 7):
        await asyncio.sleep(0.001)
        ticket.deliver(produced(token))
    await asyncio.sleep(0.001)
    ticket.finish(answer(5, 6, 7))
    assert await reader == [produced(5), produced(6), produced(7)]
    assert (await ticket.result()).outcome.hypotheses[0].tokens == [5, 6, 7]


async def test_late_reader_gets_waiting_events_joined_in_pairs() -> None:
    ticket = make()
    for event in (produced(4, 5, 6, i1=3), produced(7, i0=4), produced(8, i0=5), produced(9)):
        ticket.deliver(event)
    events = ticket.deltas()
    assert await anext(events) == produced(4, 5, 6, i1=3), "one event is not split"
    assert await anext(events) == produced(7, 8, i0=4, i1=5)
    assert await anext(events) == produced(9)
    ticket.deliver(produced(10, i0=1))
    ticket.finish(answer(4, 5, 6, 7, 8, 9, 10))
    assert await anext(events) == produced(10, i0=1)
    with pytest.raises(StopAsyncIteration):
        await anext(events)


async def test_what_was_delivered_comes_before_the_failure() -> None:
    ticket = make()
    ticket.deliver(produced(5))
    ticket.fail(ServiceError("broken"))
    ticket.deliver(produced(6))
    assert await collect(ticket) == [produced(5)]
    with pytest.raises(ServiceError, match="broken"):
        await ticket.result()


async def test_stream_without_tokens_ends() -> None:
    ticket = make()
    ticket.finish(answer())
    assert await collect(ticket) == []


def test_joined_leaves_its_parts_alone() -> None:
    first, second = produced(1, i0=9), produced(2, i0=8)
    assert first.merged(second) == produced(1, 2, i0=9, i1=8)
    assert (first, second) == (produced(1, i0=9), produced(2, i0=8))


async def test_deadline_is_kept() -> None:
    leaving = Leaving()
    ticket = make(leaving, deadline=time.monotonic() + 0.02)
    with pytest.raises(Cancelled):
        await ticket.result()
    assert leaving.reasons == ["deadline"]
    assert make(leaving, deadline=time.monotonic() - 1).is_done is False, "not before the loop runs"
    await asyncio.sleep(0.001)
    assert leaving.reasons == ["deadline"] * 2


async def test_deadline_after_the_answer_has_no_effect() -> None:
    leaving = Leaving()
    ticket = make(leaving, deadline=time.monotonic() + 0.01)
    ticket.finish(answer(1))
    await asyncio.sleep(0.03)
    assert leaving.reasons == []


async def test_cancel_is_idempotent() -> None:
    leaving = Leaving()
    ticket = make(leaving)
    ticket.cancel("client")
    ticket.cancel("client")
    ticket.finish(answer(1))
    assert leaving.reasons == ["client"]
    done = make(leaving)
    done.finish(answer(1))
    done.cancel("client")
    assert leaving.reasons == ["client"]


async def test_answer_that_is_not_accepted_fails_and_is_not_kept() -> None:
    ticket, refused = make(), answer(5, 6)

    def refuse(given: Done) -> None:
        assert given is refused
        raise ServiceError("too large")

    ticket.accept = refuse
    ticket.deliver(produced(5))
    ticket.finish(refused)
    assert await collect(ticket) == [produced(5)]
    with pytest.raises(ServiceError, match="too large"):
        await ticket.result()
