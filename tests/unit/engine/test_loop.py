# SPDX-License-Identifier: Apache-2.0
"""The engine loop with a made-up model: what each request is told, and what a graph that raises does to the others."""

from __future__ import annotations

import random
from typing import Any

import pytest

from attnserve_server.engine import loop
from attnserve_server.request import (
    AttentionDetail,
    DecodeOptions,
    RequestEvent,
    RequestFailed,
    RequestFinished,
    SequenceRequest,
    Terms,
    TokensProduced,
)
from attnserve_server.scheduling.scheduler import SchedulerConfig
from tests.unit.engine.fakes import Clock, FakeRunner

NUM_SLOTS = 8


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def engine(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> loop.EngineLoop:
    """An engine over a made-up runner."""
    runner = FakeRunner(NUM_SLOTS)
    monkeypatch.setattr(loop, "make_runner", lambda *_: runner)
    started = loop.EngineLoop(runner.bundle, SchedulerConfig(NUM_SLOTS, admit_wait_s=0.0), clock)  # type: ignore[arg-type]
    started.start()
    return started


def runner_of(engine: loop.EngineLoop) -> FakeRunner:
    runner: Any = engine._runner
    return runner


def request(request_id: int, beam_size: int = 1, **rest: Any) -> SequenceRequest:
    rng = random.Random(request_id)
    options = DecodeOptions(
        beam_size, beam_size, max_tokens=rest.pop("max_tokens", 12), attention=rest.pop("attention", AttentionDetail.NONE)
    )
    return SequenceRequest(request_id, [rng.randint(4, 11) for _ in range(3)], options, Terms(**rest))


def drain(engine: loop.EngineLoop, clock: Clock, max_steps: int = 200) -> list[RequestEvent]:
    events: list[RequestEvent] = []
    while engine.has_work:
        events += engine.step()
        clock.now += 1
        max_steps -= 1
        assert max_steps, "the engine does not come to an end"
    return events


def assert_idle(engine: loop.EngineLoop) -> None:
    stats = engine.stats()
    assert (stats.num_slots_used, stats.num_waiting) == (0, 0)
    assert not engine.has_work
    assert not engine._requests
    assert engine._batch.num_rows == 0


def test_every_request_is_answered_once(engine: loop.EngineLoop, clock: Clock) -> None:
    for request_id in range(12):
        engine.submit(request(request_id, beam_size=[1, 2, 5][request_id % 3]))
    events = drain(engine, clock)
    assert sorted(event.request_id for event in events) == list(range(12))
    assert all(isinstance(event, RequestFinished) for event in events)
    assert_idle(engine)


def test_times_are_those_of_the_clock(engine: loop.EngineLoop, clock: Clock) -> None:
    engine.submit(request(1))
    (event,) = drain(engine, clock)
    assert isinstance(event, RequestFinished)
    assert event.admitted_at == 100.0
    assert event.first_token_at == 100.0
    assert event.num_steps == len(event.hypotheses[0].tokens)
    assert event.finished_at == 100.0 + event.num_steps - 1


def test_stream_has_the_tokens_of_the_answer(engine: loop.EngineLoop, clock: Clock) -> None:
    engine.submit(request(1, is_streamed=True))
    engine.submit(request(2, beam_size=2, is_streamed=True))
    events = drain(engine, clock)
    streamed = [token for event in events if isinstance(event, TokensProduced) for token in event.tokens]
    assert {event.request_id for event in events if isinstance(event, TokensProduced)} == {1}
    (answer,) = (event for event in events if isinstance(event, RequestFinished) and event.request_id == 1)
    assert streamed == answer.hypotheses[0].tokens
    assert [event for event in events if event.request_id == 1][-1] is answer


def test_failed_encode_fails_its_group_only(engine: loop.EngineLoop, clock: Clock) -> None:
    engine.submit(request(1, beam_size=2, max_tokens=12))
    events = engine.step()
    runner_of(engine).fail_encodes = {2}
    engine.submit(request(2))
    engine.submit(request(3, beam_size=2))
    events += engine.step()
    assert {event.request_id for event in events if isinstance(event, RequestFailed)} == {2, 3}
    engine.submit(request(4))
    events += drain(engine, clock)
    assert {event.request_id for event in events if isinstance(event, RequestFinished)} == {1, 4}
    assert_idle(engine)


def test_failed_step_fails_those_that_were_in_it(engine: loop.EngineLoop, clock: Clock) -> None:
    for request_id in (1, 2):
        engine.submit(request(request_id, beam_size=4))
    for request_id in (3, 4):
        engine.submit(request(request_id))
    runner_of(engine).fail_steps = {2}
    events = engine.step() + engine.step()
    failed = [event for event in events if isinstance(event, RequestFailed)]
    assert {event.request_id for event in failed} == {1, 2}
    assert {event.reason for event in failed} == {"EXECUTION_FAILED"}
    assert "planted" not in failed[0].message
    events += drain(engine, clock)
    assert {event.request_id for event in events if isinstance(event, RequestFinished)} == {3, 4}
    assert len(events) == 4
    assert_idle(engine)


def test_engine_answers_as_before_after_failures(engine: loop.EngineLoop, clock: Clock) -> None:
    def ask(first_id: int) -> list[list[tuple[list[int], float]]]:
        for index in range(6):
            wanted = request(index, beam_size=[1, 3][index % 2], attention=AttentionDetail.ALL)
            engine.submit(SequenceRequest(first_id + index, wanted.tokens, wanted.options))
        found = {event.request_id: event for event in drain(engine, clock) if isinstance(event, RequestFinished)}
        return [[(one.tokens, one.score) for one in found[first_id + index].hypotheses] for index in range(6)]

    before = ask(0)
    runner = runner_of(engine)
    runner.fail_steps = {runner.num_steps + 2}
    runner.fail_encodes = {runner.num_encodes + 3}
    for request_id in range(100, 110):
        engine.submit(request(request_id, beam_size=2))
    events = drain(engine, clock)
    assert sorted(event.request_id for event in events) == list(range(100, 110))
    assert len({type(event) for event in events}) == 2, "all failed, or none"
    assert ask(200) == before
    assert_idle(engine)


@pytest.mark.parametrize("where", ["queue", "batch"])
def test_cancelled_request(engine: loop.EngineLoop, clock: Clock, where: str) -> None:
    engine.submit(request(1, beam_size=5))
    engine.step()
    engine.submit(request(2, beam_size=5))
    engine.submit(request(3))
    engine.cancel(2 if where == "queue" else 1, "client")
    engine.cancel(99, "client")
    events = drain(engine, clock)
    gone = 2 if where == "queue" else 1
    (failed,) = (event for event in events if isinstance(event, RequestFailed))
    assert (failed.request_id, failed.reason) == (gone, "CANCELLED")
    assert {event.request_id for event in events if isinstance(event, RequestFinished)} == {1, 2, 3} - {gone}
    assert engine.stats().cancelled == {"client": 1}
    assert_idle(engine)


def test_deadline_frees_the_slots(engine: loop.EngineLoop, clock: Clock) -> None:
    engine.submit(request(1, beam_size=8, deadline=clock.now + 1.5))
    engine.submit(request(2, beam_size=8))
    events = drain(engine, clock)
    (failed,) = (event for event in events if isinstance(event, RequestFailed))
    assert (failed.request_id, failed.reason) == (1, "DEADLINE_EXCEEDED")
    assert [event.request_id for event in events if isinstance(event, RequestFinished)] == [2]
    assert_idle(engine)


def test_cancel_of_a_finished_request_is_nothing(engine: loop.EngineLoop, clock: Clock) -> None:
    engine.submit(request(1, max_tokens=1))
    drain(engine, clock)
    engine.cancel(1, "client")
    engine.submit(request(1))
    assert [type(event) for event in drain(engine, clock)] == [RequestFinished]


def test_stats_are_reported_once(engine: loop.EngineLoop, clock: Clock) -> None:
    engine.submit(request(1, beam_size=3, max_tokens=4))
    engine.step()
    stats = engine.stats()
    assert (stats.model, stats.version, stats.num_slots, stats.num_slots_used) == ("made-up", "1", NUM_SLOTS, 3)
    assert [(step.num_rows, step.num_encoded) for step in stats.steps] == [(1, 1)]
    engine.step()
    assert [(step.num_rows, step.num_encoded) for step in engine.stats().steps] == [(3, 0)]
    drain(engine, clock)
    assert engine.stats().num_slots_used == 0
    assert engine.stats().steps == []
