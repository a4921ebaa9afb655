# SPDX-License-Identifier: Apache-2.0
"""Waits for the messages of calls, which one timer ends."""

from __future__ import annotations

import asyncio
import time

import pytest

from attnserve_server.transport.rpc import arrivals
from attnserve_server.transport.rpc.arrivals import Arrivals

pytestmark = pytest.mark.every_loop

WAIT_S = 0.2


@pytest.fixture(autouse=True)
def short_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrivals, "MESSAGE_S", WAIT_S)


class Context:
    """A call whose message comes after ``after_s``; never if None."""

    def __init__(self, after_s: float | None) -> None:
        self._after_s = after_s

    async def read(self) -> bytes:
        await (asyncio.Event().wait() if self._after_s is None else asyncio.sleep(self._after_s))
        return b"message"


async def test_each_wait_is_equally_long_whatever_became_of_the_ones_before() -> None:
    waiting = Arrivals()

    async def duration(after_s: float | None) -> tuple[bytes | None, float]:
        began = time.monotonic()
        return await waiting.read(Context(after_s)), time.monotonic() - began

    first, second = asyncio.create_task(duration(0.05)), asyncio.create_task(duration(None))
    await asyncio.sleep(WAIT_S / 2)
    third, fourth = asyncio.create_task(duration(None)), asyncio.create_task(duration(WAIT_S * 0.9))
    assert (await first)[0] == (await fourth)[0] == b"message"
    for late in (second, third):
        message, seconds = await late
        assert message is None
        assert WAIT_S * 0.95 <= seconds < WAIT_S * 3
    assert await duration(None) == (None, pytest.approx(WAIT_S, abs=WAIT_S)), "the timer is started again"


async def test_call_that_is_cancelled_while_it_waits_is_cancelled() -> None:
    waiting = Arrivals()
    task = asyncio.create_task(waiting.read(Context(None)))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_call_that_is_cancelled_when_its_wait_ends_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrivals, "MESSAGE_S", 0.0)
    waiting = Arrivals()
    task = asyncio.create_task(waiting.read(Context(None)))
    while not task.cancelling():
        await asyncio.sleep(0)
        if task.cancelling():
            task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
