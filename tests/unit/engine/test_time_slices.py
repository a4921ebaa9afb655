# SPDX-License-Identifier: Apache-2.0
"""Models share a worker's time, whatever the length of their steps: the policy, and the worker's loop with fake engines."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest

from attnserve.v1 import manifest_pb2
from attnserve_server.engine.link.messages import Stop
from attnserve_server.engine.worker.iterative.loop import EngineLoop
from attnserve_server.engine.worker.single_pass.engine import PassEngine
from attnserve_server.engine.worker.worker import Worker
from attnserve_server.execution.runner import IterativeRunner
from attnserve_server.kinds import SINGLE_PASS
from attnserve_server.passes import PassPayload
from attnserve_server.request import DecodeOptions, ModelKey, Terms, Work, sequence_work
from attnserve_server.scheduling.scheduler import SchedulerConfig
from attnserve_server.scheduling.time_slices import TimeSlices
from attnserve_server.stats import EngineStats
from tests.fakes.channel import Channel
from tests.fakes.clock import Clock
from tests.fakes.models import make_bundle
from tests.fakes.runner import FakeRunner


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
    channel: Any = Channel(kinds=[SINGLE_PASS])
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


BATCH_S, STEP_S = 0.1, 0.001


def waits_of_steps() -> tuple[list[float], float]:
    """How long each decode step waits beside batches that are always due, and the steps' share of the time.

    Both engines are the real ones, over fake graphs.
    """
    clock = Clock()
    passes = PassEngine(fake_passes(clock, BATCH_S), 0.0, clock)
    fake_runner = FakeRunner(4)
    loop = EngineLoop(cast(IterativeRunner, fake_runner), SchedulerConfig(4, admit_wait_s=0.0), clock)
    loop.start()
    worker = make_worker(clock, passes, loop)
    steps, run_step = list[tuple[float, float]](), fake_runner.step

    def timed(inputs: Any) -> Any:
        began, clock.now = clock.now, clock.now + STEP_S
        steps.append((began, clock.now))
        return run_step(inputs)

    fake_runner.step = timed  # type: ignore[method-assign]
    for number in range(1000):
        passes.submit(Work(number, ModelKey("made-up", "0"), Terms(), 1, 1.0, PassPayload({}), "-"))
        if number % 20 == 0:
            options = DecodeOptions(max_tokens=20, min_tokens=20)
            loop.submit(sequence_work(10_000 + number, [5, 6, 3], options))
    began = clock.now
    while loop.has_work:
        worker.step()
    waits = [after[0] - before[1] for before, after in itertools.pairwise([(0.0, began), *steps])]
    return waits, sum(after - before for before, after in steps) / (clock.now - began)


def test_decode_step_waits_for_one_batch_of_a_single_pass_model_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    waits, share = waits_of_steps()
    assert len(waits) > 200
    assert max(waits) == pytest.approx(BATCH_S), "one batch, and never two"
    assert share == pytest.approx(0.5, abs=0.15), "and the time is shared"
    monkeypatch.setattr(TimeSlices, "choose", lambda _, active: active[0])
    assert max(waits_of_steps()[0]) > 2 * BATCH_S, "the test sees it"


def fake_passes(clock: Clock, batch_s: float) -> Any:
    """A runner whose batches, of four requests, take ``batch_s``."""

    class Runner:
        bundle = make_bundle(manifest_pb2.Manifest(model_id="made-up", version="0", variants=[manifest_pb2.Variant()]))

        def key(self, payload: PassPayload) -> int:
            return 0

        def max_batch(self, *, wants_attention: bool) -> int:
            return 4

        def run(self, key: int, payloads: Sequence[PassPayload]) -> tuple[list[dict[str, Any]], bool]:
            clock.now += batch_s
            return [{} for _ in payloads], False

    return Runner()


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
