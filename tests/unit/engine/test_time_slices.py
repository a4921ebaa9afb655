# SPDX-License-Identifier: Apache-2.0
"""Models share a worker's time, whatever the length of their steps: the policy, and the worker's loop with fake engines."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from attnserve_server.engine.link.messages import Stop
from attnserve_server.engine.worker.worker import Worker
from attnserve_server.request import ModelKey
from attnserve_server.scheduling.time_slices import TimeSlices
from attnserve_server.stats import EngineStats
from tests.fakes.channel import Channel
from tests.fakes.clock import Clock


def test_time_is_shared_and_not_turns() -> None:
    slices, used = TimeSlices(), [0.0, 0.0, 0.0]
    steps = [0.010, 0.001, 0.003]
    for _ in range(3000):
        engine = slices.choose([0, 1, 2])
        used[engine] += steps[engine]
        slices.charge(engine, steps[engine])
        assert max(used) - min(used) <= 0.011
    assert min(used) > 1.0


def test_idle_model_accumulates_no_time() -> None:
    slices = TimeSlices()
    for _ in range(100):
        slices.charge(slices.choose([0]), 1.0)
    turns = []
    for _ in range(10):
        turns.append(slices.choose([0, 1]))
        slices.charge(turns[-1], 1.0)
    assert turns.count(1) == 5


def test_time_used_alone_is_not_charged() -> None:
    slices = TimeSlices()
    for engine in (0, 1):
        for _ in range(1000 if engine == 0 else 10):
            slices.charge(slices.choose([engine]), 1.0)
    turns = []
    for _ in range(10):
        turns.append(slices.choose([0, 1]))
        slices.charge(turns[-1], 1.0)
    assert turns.count(0) == pytest.approx(5, abs=1)


def test_alternating_between_idle_and_busy_gains_no_time() -> None:
    """An engine with long steps that is idle after each of them still gets half of the time."""
    slices, used = TimeSlices(), [0.0, 0.0]
    has_long_work, waited = True, 0
    for _ in range(5000):
        engine = slices.choose([0, 1] if has_long_work else [1])
        seconds = 0.010 if engine == 0 else 0.001
        used[engine] += seconds
        slices.charge(engine, seconds)
        waited = 0 if engine == 0 else waited + 1
        has_long_work = engine != 0
    assert used[0] == pytest.approx(used[1], rel=0.1)


class MadeUpEngine:
    """An engine with work whose steps take ``step_s``."""

    def __init__(self, clock: Clock, step_s: float) -> None:
        self.clock, self.step_s, self.used_s, self.num_steps = clock, step_s, 0.0, 0
        self.has_work, self.due_in_s = True, 0.0

    def step(self) -> list[Any]:
        self.clock.now += self.step_s
        self.used_s += self.step_s
        self.num_steps += 1
        return []

    def stats(self) -> EngineStats:
        return EngineStats("made-up", "1", [], 1, 0, 0, 0.0, 1.0, {})


def make_worker(clock: Clock, *engines: Any) -> Worker:
    channel: Any = Channel()
    worker = Worker(channel, clock=clock)
    for index, engine in enumerate(engines):
        worker.serve(ModelKey("made-up", str(index)), engine)
    return worker


def test_models_share_a_worker() -> None:
    clock = Clock()
    slow, fast = MadeUpEngine(clock, 0.010), MadeUpEngine(clock, 0.001)
    worker = make_worker(clock, slow, fast)
    for _ in range(2000):
        worker.step()
    assert slow.used_s == pytest.approx(fast.used_s, rel=0.02)
    assert fast.num_steps == pytest.approx(10 * slow.num_steps, rel=0.02)


def test_no_model_waits_longer_than_one_step_of_the_other() -> None:
    clock = Clock()
    slow, fast = MadeUpEngine(clock, 0.010), MadeUpEngine(clock, 0.001)
    worker = make_worker(clock, slow, fast)
    fast.has_work = False
    for _ in range(100):
        worker.step()
    fast.has_work = True
    before = slow.num_steps
    for _ in itertools.count():
        worker.step()
        if fast.num_steps:
            break
    assert slow.num_steps <= before + 1


class Planned(Channel):
    """A channel that calls ``plan`` with the number of each wait, after it."""

    def __init__(self, plan: Callable[[int], None], *groups: Sequence[Any]) -> None:
        super().__init__(*groups)
        self.plan = plan

    def receive(self, timeout_s: float | None = 0.0) -> list[bytes]:
        messages = super().receive(timeout_s)
        self.plan(len(self.timeouts))
        return messages


def test_engine_whose_work_is_not_due_is_not_stepped_and_the_worker_waits_for_it() -> None:
    clock = Clock()
    first, second = MadeUpEngine(clock, 0.001), MadeUpEngine(clock, 0.001)
    first.due_in_s, second.due_in_s = 0.5, 0.2
    plan = {1: (0.3, 0.0, True), 2: (0.1, 0.0, False), 3: (0.0, 0.0, False), 4: (0.0, 0.0, False)}
    steps = []

    def change(number: int) -> None:
        steps.append((first.num_steps, second.num_steps))
        first.due_in_s, second.due_in_s, second.has_work = plan[number]
        first.has_work = number < 4

    channel: Any = Planned(change, [], [], [], [Stop()])
    worker = Worker(channel, clock=clock)
    worker.serve(ModelKey("made-up", "0"), first)
    worker.serve(ModelKey("made-up", "1"), second)
    worker.run()
    assert channel.timeouts == [0.2, 0.0, 0.1, 0.0], "until the first one is due; not at all while one is"
    assert steps == [(0, 0), (0, 1), (0, 1), (1, 1)]


def test_worker_without_work_steps_nothing() -> None:
    clock = Clock()
    engine = MadeUpEngine(clock, 1.0)
    engine.has_work = False
    make_worker(clock, engine).step()
    make_worker(clock).step()
    assert engine.num_steps == 0
