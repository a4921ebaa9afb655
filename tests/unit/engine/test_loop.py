# SPDX-License-Identifier: Apache-2.0
"""The engine loop with a fake model: the events of each request, and the effect of a graph that raises on the others."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from attnserve_server.engine.worker.iterative import loop
from attnserve_server.execution.step import StepInputs, StepOutputs
from attnserve_server.metrics import logs
from attnserve_server.request import (
    AttentionDetail,
    DecodeOptions,
    Done,
    Failed,
    Sampling,
    SequenceEvent,
    SequenceWork,
    Terms,
    TokensProduced,
    sequence_work,
)
from attnserve_server.scheduling.scheduler import SchedulerConfig
from tests.fakes.clock import Clock
from tests.fakes.runner import FakeRunner, attention, log_probs

NUM_SLOTS = 8


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def engine(clock: Clock) -> loop.EngineLoop:
    """An engine over a fake runner."""
    return make_engine(clock, FakeRunner(NUM_SLOTS))


def make_engine(clock: Clock, runner: FakeRunner, stream_interval_s: float = 0.0) -> loop.EngineLoop:
    config: Any = SchedulerConfig(NUM_SLOTS, admit_wait_s=0.0)
    made_up: Any = runner
    started = loop.EngineLoop(made_up, config, clock, stream_interval_s=stream_interval_s)
    started.start()
    return started


def runner_of(engine: loop.EngineLoop) -> FakeRunner:
    runner: Any = engine.runner
    return runner


def request(request_id: int, beam_size: int = 1, **rest: Any) -> SequenceWork:
    rng = random.Random(request_id)
    options = DecodeOptions(
        beam_size, beam_size, max_tokens=rest.pop("max_tokens", 12), attention=rest.pop("attention", AttentionDetail.NONE)
    )
    return sequence_work(request_id, [rng.randint(4, 11) for _ in range(3)], options, Terms(**rest))


def drain(engine: loop.EngineLoop, clock: Clock, max_steps: int = 200) -> list[SequenceEvent]:
    events: list[SequenceEvent] = []
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
    assert engine.batch.num_rows == 0


def test_every_request_is_answered_once(engine: loop.EngineLoop, clock: Clock) -> None:
    for request_id in range(12):
        engine.submit(request(request_id, beam_size=[1, 2, 5][request_id % 3]))
    events = drain(engine, clock)
    assert sorted(event.request_id for event in events) == list(range(12))
    assert all(isinstance(event, Done) for event in events)
    assert_idle(engine)


def test_times_are_those_of_the_clock(engine: loop.EngineLoop, clock: Clock) -> None:
    engine.submit(request(1))
    (event,) = drain(engine, clock)
    assert isinstance(event, Done)
    assert event.admitted_at == 100.0
    assert event.first_token_at == 100.0
    assert event.num_steps == len(event.outcome.hypotheses[0].tokens)
    assert event.finished_at == 100.0 + event.num_steps - 1


STREAMED = {
    "greedy": DecodeOptions(max_tokens=12),
    "beam": DecodeOptions(3, 3, max_tokens=20),
    "penalized beam": DecodeOptions(4, 2, length_penalty=2.0, max_tokens=20, repetition_penalty=1.5, min_tokens=4),
    "sampled": DecodeOptions(max_tokens=12, sampling=Sampling(7)),
    "several samples": DecodeOptions(num_hypotheses=3, max_tokens=20, sampling=Sampling(7, top_k=2)),
    "prefix": DecodeOptions(2, max_tokens=12, prefix=(5, 4, 9)),
}


def parts(events: list[SequenceEvent], request_id: int = 0) -> list[list[int]]:
    return [event.tokens for event in events if isinstance(event, TokensProduced) and event.request_id == request_id]


def answer_to(events: list[SequenceEvent], request_id: int = 0) -> Done:
    (answer,) = (event for event in events if isinstance(event, Done) and event.request_id == request_id)
    return answer


@pytest.mark.parametrize("kind", STREAMED)
def test_stream_has_the_tokens_of_the_answer(engine: loop.EngineLoop, clock: Clock, kind: str) -> None:
    num_early = 0
    for seed in range(20):
        source = [random.Random(seed).randint(4, 11) for _ in range(3)]
        engine.submit(sequence_work(0, source, STREAMED[kind], Terms(is_streamed=True)))
        events = drain(engine, clock)
        answer = answer_to(events)
        assert [token for part in parts(events) for token in part] == answer.outcome.hypotheses[0].tokens
        assert all(parts(events)), "an empty part"
        assert events[-1] is answer
        num_early += len(parts(events)) > 1
        if kind in ("greedy", "sampled"):
            assert {len(part) for part in parts(events)} == {1}
    assert num_early > 2, "nothing was sent before the end"
    assert_idle(engine)


def test_tokens_of_one_interval_go_together_but_the_first_at_once(clock: Clock) -> None:
    """A step takes a second, an interval four: streams that begin in different steps are flushed in the same steps."""
    engine, sent, answers = make_engine(clock, FakeRunner(NUM_SLOTS), 4.0), dict[int, list[tuple[float, int]]](), 0
    waiting = [request(number, is_streamed=True) for number in range(NUM_SLOTS)]
    while waiting or engine.has_work:
        if waiting:
            engine.submit(waiting.pop(0))
        for event in engine.step():
            if isinstance(event, TokensProduced):
                sent.setdefault(event.request_id, []).append((clock.now, len(event.tokens)))
            answers += isinstance(event, Done)
        clock.now += 1
    assert answers == len(sent) == NUM_SLOTS
    for number, parts_sent in sent.items():
        assert parts_sent[0] == (100.0 + number, 1), "the first one waits for nothing"
        assert all(time % 4 == 0 for time, _ in parts_sent[1:-1])
        assert all(size == 4 for _, size in parts_sent[2:-1])
    assert any(len(parts_sent) > 3 for parts_sent in sent.values()), "no answer was long enough"
    assert_idle(engine)


def test_only_what_was_asked_for_is_streamed(engine: loop.EngineLoop, clock: Clock) -> None:
    engine.submit(request(1))
    assert parts(drain(engine, clock), 1) == []


def test_prefix_begins_the_answer(engine: loop.EngineLoop, clock: Clock) -> None:
    engine.submit(sequence_work(0, [7, 8], DecodeOptions(4, 4, max_tokens=12, prefix=(5, 5, 9))))
    hypotheses = answer_to(drain(engine, clock)).outcome.hypotheses
    assert len({tuple(one.tokens) for one in hypotheses}) == 4
    for one in hypotheses:
        assert one.tokens[:3] == [5, 5, 9]
        total = sum(float(log_probs((7, 8), tuple(one.tokens[:count]))[one.tokens[count]]) for count in range(len(one.tokens)))
        assert one.score == pytest.approx(total / len(one.tokens), abs=1e-5)


def test_samples_depend_on_the_seed_alone(engine: loop.EngineLoop, clock: Clock) -> None:
    def ask(request_id: int, seed: int) -> SequenceWork:
        return sequence_work(request_id, [7, 8], DecodeOptions(num_hypotheses=2, max_tokens=9, sampling=Sampling(seed)))

    alone = {}
    for seed in range(8):
        engine.submit(ask(0, seed))
        alone[seed] = [(one.tokens, one.score) for one in answer_to(drain(engine, clock)).outcome.hypotheses]
    assert len({str(each) for each in alone.values()}) > 6, "the seed changes nothing"
    engine.submit(request(99, beam_size=2))
    for seed in (5, 2, 7, 1):
        engine.submit(ask(seed, seed))
    events = drain(engine, clock)
    for seed in (5, 2, 7, 1):
        assert [(one.tokens, one.score) for one in answer_to(events, seed).outcome.hypotheses] == alone[seed]
    assert_idle(engine)


@pytest.mark.parametrize("options", [DecodeOptions(2, 2, min_tokens=2), DecodeOptions(2, 2)])
@pytest.mark.parametrize("is_streamed", [False, True])
def test_no_finite_scores_fail_their_request_alone(
    engine: loop.EngineLoop, clock: Clock, monkeypatch: pytest.MonkeyPatch, options: DecodeOptions, is_streamed: bool
) -> None:
    """A planted fault: the model's scores for one source are minus infinity, all of them."""
    runner, poison = runner_of(engine), [9, 9, 9]
    step = runner.step

    def faulty(inputs: StepInputs) -> StepOutputs:
        outputs = step(inputs)
        memory = runner.state.buffers["memory"].current
        for row, request_slot in enumerate(inputs.request_of_row):
            if memory[request_slot, :3].tolist() == poison:
                outputs.arrays["log_probs"][row] = -np.inf  # type: ignore[index]
        return outputs

    monkeypatch.setattr(runner, "step", faulty)
    engine.submit(sequence_work(0, poison, options, Terms(is_streamed=is_streamed)))
    engine.submit(request(1, beam_size=2))
    events = drain(engine, clock)
    assert [(event.request_id, event.reason) for event in events if isinstance(event, Failed)] == [(0, "EXECUTION_FAILED")]
    assert answer_to(events, 1)
    engine.submit(request(2, beam_size=2))
    assert answer_to(drain(engine, clock), 2)
    assert_idle(engine)


def test_step_that_fails_half_way_leaves_no_rows(engine: loop.EngineLoop, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    for request_id in (1, 2):
        engine.submit(sequence_work(request_id, [5, 6, 7], DecodeOptions(3, 3, min_tokens=9)))
    engine.step()
    monkeypatch.setattr(engine.batch.sequences[2].search, "advance", lambda *_: 1 / 0)
    assert {event.request_id for event in engine.step() if isinstance(event, Failed)} == {1, 2}
    assert_idle(engine)
    engine.submit(request(3, beam_size=2))
    assert answer_to(drain(engine, clock), 3)


UNKNOWN = 6


@pytest.mark.parametrize("options", [DecodeOptions(max_tokens=10), DecodeOptions(3, 3, max_tokens=10)])
@pytest.mark.parametrize("is_streamed", [False, True])
def test_unknown_symbols_are_aligned(clock: Clock, options: DecodeOptions, is_streamed: bool) -> None:
    engine = make_engine(clock, FakeRunner(NUM_SLOTS, unknown_id=UNKNOWN))
    other = make_engine(clock, FakeRunner(NUM_SLOTS))
    num_unknown = 0
    for seed in range(30):
        source = [random.Random(seed).randint(4, 11) for _ in range(4)]
        for each in (engine, other):
            each.submit(sequence_work(0, source, options, Terms(is_streamed=is_streamed)))
        events = drain(engine, clock)
        found, expected = answer_to(events).outcome.hypotheses, answer_to(drain(other, clock)).outcome.hypotheses
        assert [(one.tokens, one.score, one.attention) for one in found] == [(one.tokens, one.score, None) for one in expected]
        for one in found:
            places = [index for index, token in enumerate(one.tokens) if token == UNKNOWN]
            weights = [attention(tuple(source), tuple(one.tokens[:index])).mean((0, 1))[:-1] for index in places]
            assert one.copied_from == dict(zip(places, [int(each.argmax()) for each in weights], strict=True))
            num_unknown += len(places)
        if is_streamed:
            streamed, start = dict[int, int](), 0
            for event in events[:-1]:
                assert isinstance(event, TokensProduced)
                streamed |= {start + index: place for index, place in event.copied_from.items()}
                start += len(event.tokens)
            assert streamed == found[0].copied_from
            assert [token for part in parts(events) for token in part] == found[0].tokens
    assert num_unknown > 10
    assert_idle(engine)


@pytest.mark.parametrize("options", [DecodeOptions(max_tokens=10), DecodeOptions(3, 3, max_tokens=10)])
def test_unknown_symbols_without_attention_are_passed_over(clock: Clock, options: DecodeOptions) -> None:
    engine = make_engine(clock, FakeRunner(NUM_SLOTS, unknown_id=UNKNOWN, gives_attention=False))
    for seed in range(20):
        engine.submit(sequence_work(0, [random.Random(seed).randint(4, 11) for _ in range(4)], options))
        hypotheses = answer_to(drain(engine, clock)).outcome.hypotheses
        assert len(hypotheses) == options.num_hypotheses
        assert not any(UNKNOWN in one.tokens for one in hypotheses)


def test_failed_encode_fails_its_group_only(engine: loop.EngineLoop, clock: Clock) -> None:
    engine.submit(request(1, beam_size=2, max_tokens=12))
    events = engine.step()
    runner_of(engine).fail_encodes = {2}
    engine.submit(request(2))
    engine.submit(request(3, beam_size=2))
    events += engine.step()
    assert {event.request_id for event in events if isinstance(event, Failed)} == {2, 3}
    engine.submit(request(4))
    events += drain(engine, clock)
    assert {event.request_id for event in events if isinstance(event, Done)} == {1, 4}
    assert_idle(engine)


def test_failed_step_fails_those_that_were_in_it(engine: loop.EngineLoop, clock: Clock) -> None:
    for request_id in (1, 2):
        engine.submit(request(request_id, beam_size=4))
    for request_id in (3, 4):
        engine.submit(request(request_id))
    runner_of(engine).fail_steps = {2}
    events = engine.step() + engine.step()
    failed = [event for event in events if isinstance(event, Failed)]
    assert {event.request_id for event in failed} == {1, 2}
    assert {event.reason for event in failed} == {"EXECUTION_FAILED"}
    assert "planted" not in failed[0].message
    events += drain(engine, clock)
    assert {event.request_id for event in events if isinstance(event, Done)} == {3, 4}
    assert len(events) == 4
    assert_idle(engine)


def test_engine_answers_as_before_after_failures(engine: loop.EngineLoop, clock: Clock) -> None:
    def ask(first_id: int) -> list[list[tuple[list[int], float]]]:
        for index in range(6):
            wanted = request(index, beam_size=[1, 3][index % 2], attention=AttentionDetail.ALL)
            engine.submit(sequence_work(first_id + index, wanted.payload.tokens, wanted.payload.options))
        found = {event.request_id: event for event in drain(engine, clock) if isinstance(event, Done)}
        return [[(one.tokens, one.score) for one in found[first_id + index].outcome.hypotheses] for index in range(6)]

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
    (failed,) = (event for event in events if isinstance(event, Failed))
    assert (failed.request_id, failed.reason) == (gone, "CANCELLED")
    assert {event.request_id for event in events if isinstance(event, Done)} == {1, 2, 3} - {gone}
    assert engine.stats().cancelled == {"client": 1}
    assert_idle(engine)


def test_deadline_frees_the_slots(engine: loop.EngineLoop, clock: Clock) -> None:
    engine.submit(request(1, beam_size=8, deadline=clock.now + 1.5))
    engine.submit(request(2, beam_size=8))
    events = drain(engine, clock)
    (failed,) = (event for event in events if isinstance(event, Failed))
    assert (failed.request_id, failed.reason) == (1, "DEADLINE_EXCEEDED")
    assert [event.request_id for event in events if isinstance(event, Done)] == [2]
    assert_idle(engine)


def test_cancel_of_a_finished_request_has_no_effect(engine: loop.EngineLoop, clock: Clock) -> None:
    engine.submit(request(1, max_tokens=1))
    drain(engine, clock)
    engine.cancel(1, "client")
    engine.submit(request(1))
    assert [type(event) for event in drain(engine, clock)] == [Done]


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


def test_failed_execution_is_logged_under_the_id_of_each_request(
    engine: loop.EngineLoop, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.handler.addFilter(logs.RequestIdFilter())
    for number in (1, 2):
        work = request(number)
        work.log_id = f"id-{number}"
        engine.submit(work)
    runner_of(engine).fail_steps = {1}
    assert {type(event) for event in engine.step()} == {Failed}
    assert [record.__dict__["request_id"] for record in caplog.records] == ["id-1", "id-2"]
    assert all("RuntimeError: planted" in record.getMessage() for record in caplog.records)
    assert [record.exc_info is not None for record in caplog.records] == [True, False], "one traceback is enough"
    assert logs.request_id.get() == "-"


def test_a_step_is_three_calls(engine: loop.EngineLoop, clock: Clock) -> None:
    """Cancelled requests are removed before the graphs run, and no search advances before that."""
    engine.submit(request(1, beam_size=2))
    engine.step()
    engine.submit(request(2))
    engine.cancel(1, "client")
    output = engine.schedule()
    assert (output.dropped, output.admitted) == ([(1, "client")], [2])
    assert engine.batch.num_rows == 0
    executed = engine.execute(output)
    (sequence,) = engine.batch.sequences.values()
    assert (sequence.request_id, sequence.num_steps, executed.num_rows) == (2, 0, 1)
    engine.update(executed)
    assert (sequence.num_steps, sequence.first_token_at) == (1, clock.now)
    assert {event.request_id for event in engine.step() + drain(engine, clock)} == {1, 2}
    assert_idle(engine)


def test_full_batch_repeats_its_step_while_others_wait(
    engine: loop.EngineLoop, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduled: list[float] = []
    schedule = engine.schedule
    monkeypatch.setattr(engine, "schedule", lambda: (scheduled.append(clock.now), schedule())[1])
    for request_id in range(40):
        engine.submit(request(request_id))
    events: list[SequenceEvent] = []
    num_full = 0
    while engine.has_work:
        is_full = engine.batch.is_steady and engine.batch.num_rows == NUM_SLOTS
        num_full += is_full
        events += engine.step()
        assert not (is_full and clock.now in scheduled), "nothing can be admitted"
        clock.now += 1
    assert num_full > 5
    assert sorted(event.request_id for event in events) == list(range(40))
    assert_idle(engine)
