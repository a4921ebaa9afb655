# SPDX-License-Identifier: Apache-2.0
"""Waits for the messages of calls, which one timer ends."""

from __future__ import annotations

import asyncio
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

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


@dataclass(eq=False)
class Waiting:
    """The current task, on the loop of a test."""

    loop: Timers
    task: asyncio.Task[Any]

    def get_loop(self) -> Timers:
        return self.loop

    def cancel(self) -> None:
        self.task.cancel()

    def uncancel(self) -> int:
        return self.task.uncancel()


class Timers:
    """Stands for asyncio in the module, with real tasks: the time of its loop passes only in :meth:`pass_until`."""

    CancelledError, Task, sleep = asyncio.CancelledError, asyncio.Task, staticmethod(asyncio.sleep)

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self._timers = 0.0, list[tuple[float, Callable[[], object]]]()
        monkeypatch.setattr(arrivals, "asyncio", self)

    def get_running_loop(self) -> Timers:
        return self

    def current_task(self) -> Waiting:
        task = asyncio.current_task()
        assert task is not None
        return Waiting(self, task)

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[[], object]) -> object:
        self._timers.append((when, callback))
        return callback

    async def pass_until(self, end: float) -> None:
        """Calls what is due one after the other, and lets the tasks do all that follows from each."""
        await self._turns()
        while due := [timer for timer in self._timers if timer[0] <= end]:
            timer = min(due, key=operator.itemgetter(0))
            self._timers.remove(timer)
            self.now = max(self.now, timer[0])
            timer[1]()
            await self._turns()
        self.now = end

    async def _turns(self) -> None:
        for _ in range(10):
            await asyncio.sleep(0)


class LateMessage:
    """A call whose message comes after ``after_s`` of such a loop; never if None."""

    def __init__(self, timers: Timers, after_s: float | None) -> None:
        self._has_come = asyncio.Event()
        if after_s is not None:
            timers.call_at(timers.now + after_s, self._has_come.set)

    async def read(self) -> bytes:
        await self._has_come.wait()
        return b"message"


async def test_each_wait_is_equally_long_whatever_became_of_the_ones_before(monkeypatch: pytest.MonkeyPatch) -> None:
    timers, waiting = Timers(monkeypatch), Arrivals()

    async def duration(after_s: float | None) -> tuple[bytes | None, float]:
        began = timers.now
        return await waiting.read(LateMessage(timers, after_s)), timers.now - began

    first, second = asyncio.create_task(duration(0.05)), asyncio.create_task(duration(None))
    await timers.pass_until(WAIT_S / 2)
    third, fourth = asyncio.create_task(duration(None)), asyncio.create_task(duration(WAIT_S * 0.9))
    await timers.pass_until(WAIT_S * 3)
    assert first.result() == (b"message", pytest.approx(0.05))
    assert fourth.result() == (b"message", pytest.approx(WAIT_S * 0.9))
    for late in (second, third):
        assert late.result() == (None, pytest.approx(WAIT_S))
    again = asyncio.create_task(duration(None))
    await timers.pass_until(WAIT_S * 5)
    assert again.result() == (None, pytest.approx(WAIT_S)), "the timer is started again"


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


# --- Whether calls still arrive ---


class Clock:
    """Stands for asyncio in the module: the time of its loop passes only where something sleeps. At each given time a call arrives."""

    CancelledError, Task = asyncio.CancelledError, asyncio.Task

    def __init__(self, monkeypatch: pytest.MonkeyPatch, arrivals_at: Sequence[float]) -> None:
        self.arrivals, self.now, self.num_sleeps = Arrivals(), 0.0, 0
        self._arrivals_at = list(arrivals_at)
        monkeypatch.setattr(arrivals, "asyncio", self)

    def get_running_loop(self) -> Clock:
        return self

    current_task = get_loop = get_running_loop

    def time(self) -> float:
        return self.now

    def call_at(self, *_: Any) -> None:
        """Starts no timer."""

    async def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.num_sleeps += 1
        await self.pass_until(self.now + seconds)

    async def pass_until(self, end: float) -> None:
        while self._arrivals_at and self._arrivals_at[0] <= end:
            self.now = self._arrivals_at.pop(0)
            assert await self.arrivals.read(Context(0.0)) == b"message"
        self.now = end


async def test_it_is_quiet_at_once_where_no_call_has_arrived_lately(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, [1.0])
    await clock.arrivals.quiet(5.0)
    assert (clock.now, clock.num_sleeps) == (0.0, 0)
    await clock.pass_until(1.0 + 1.01 * arrivals.QUIET_S)
    await clock.arrivals.quiet(5.0)
    assert clock.num_sleeps == 0


@pytest.mark.parametrize("later", [[], [0.5], [0.5, 0.9, 1.8], [0.5, 1.7]], ids=str)
async def test_it_is_quiet_when_no_call_has_arrived_for_a_time(monkeypatch: pytest.MonkeyPatch, later: list[float]) -> None:
    """The times are in units of it; the call at 1.7 comes after the end."""
    clock = Clock(monkeypatch, [0.0, *(each * arrivals.QUIET_S for each in later)])
    await clock.pass_until(0.0)
    await clock.arrivals.quiet(5.0)
    last = 0.5 if later == [0.5, 1.7] else max(later, default=0.0)
    assert clock.now == pytest.approx((last + 1) * arrivals.QUIET_S)


async def test_wait_for_quiet_ends_while_calls_keep_arriving(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, [number * arrivals.QUIET_S / 3 for number in range(1000)])
    await clock.pass_until(0.0)
    await clock.arrivals.quiet(1.0)
    assert clock.now == pytest.approx(1.0)
