# SPDX-License-Identifier: Apache-2.0
"""A request's answer does not depend on its batch mates: tokens, scores and attention weights are the same to the last bit.

All 200 sentences for the default model (fewer for the others), with every CPU variant of every shipped bundle, are translated alone,
all at once, and joining a batch in flight.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from attnserve_server.bundle.loader import load_bundle
from attnserve_server.engine.worker.iterative.loop import EngineLoop
from attnserve_server.execution.step import StepInputs, StepOutputs
from attnserve_server.request import AttentionDetail, DecodeOptions, FinishReason, Sampling, SequenceWork, sequence_work
from tests.driving import (
    BUNDLES,
    DEFAULT_MODEL,
    NUM_SLOTS,
    SENTENCES_ARE_GOLDEN,
    Answer,
    content,
    cpu_variants,
    one_by_one,
    run,
    started_engine,
)

NUM_OF_OTHERS = 70
SOME_PREFIX = (27, 73)  # "Ein Mann", of the default model; any two pieces of the others
MODES = {
    "greedy": DecodeOptions(),
    "beam": DecodeOptions(beam_size=5, num_hypotheses=5),
    "draws": DecodeOptions(num_hypotheses=2, max_tokens=40, sampling=Sampling(2**60 + 1, temperature=0.9, top_p=0.9)),
    "penalties": DecodeOptions(
        beam_size=2, num_hypotheses=2, coverage_penalty=0.2, min_tokens=12, no_repeat_ngram_size=2, repetition_penalty=1.3
    ),
    "prefix": DecodeOptions(beam_size=2, num_hypotheses=2, prefix=SOME_PREFIX),
}


@pytest.fixture(scope="module", params=cpu_variants(), ids=" ".join)
def engine(request: pytest.FixtureRequest) -> EngineLoop:
    model, variant = request.param
    return started_engine(load_bundle(BUNDLES[model], variant=variant))


@pytest.fixture(scope="module")
def sources(engine: EngineLoop, all_sources: list[list[int]]) -> list[list[int]]:
    is_default = engine.bundle.manifest.model_id == DEFAULT_MODEL
    return all_sources if is_default or not SENTENCES_ARE_GOLDEN else all_sources[:NUM_OF_OTHERS]


def has_attention(engine: EngineLoop) -> bool:
    return engine.bundle.manifest.HasField("attention")


def options_of(engine: EngineLoop, mode: str) -> DecodeOptions:
    """Removes options that need attention, for a model without it."""
    options = MODES[mode]
    return options if has_attention(engine) else replace(options, coverage_penalty=0.0)


@pytest.fixture(scope="module")
def alone(engine: EngineLoop, sources: list[list[int]]) -> Alone:
    return Alone(engine, sources)


class Alone(dict[str, dict[int, Answer]]):
    """The answers of each mode to single requests, computed when they are first needed."""

    def __init__(self, engine: EngineLoop, sources: list[list[int]]) -> None:
        super().__init__()
        self._engine, self._sources = engine, sources

    def __missing__(self, mode: str) -> dict[int, Answer]:
        self[mode] = content(one_by_one(self._engine, requests_of(self._sources, options_of(self._engine, mode))))
        return self[mode]


@pytest.fixture
def idle(engine: EngineLoop) -> Iterator[EngineLoop]:
    assert not engine.has_work
    engine.stats()
    yield engine
    assert not engine.has_work
    assert engine.stats().num_slots_used == 0


def requests_of(sources: list[list[int]], options: DecodeOptions) -> list[SequenceWork]:
    return [sequence_work(index, tokens, options) for index, tokens in enumerate(sources)]


NONE, MEAN, ALL = AttentionDetail
DETAILS = {"no attention": [NONE], "attention": [MEAN, ALL], "attention for some": [NONE, NONE, MEAN, ALL]}


def mixed_requests(engine: EngineLoop, sources: list[list[int]], seed: int | str, details: str) -> list[SequenceWork]:
    """Requests with all options; each option keeps its default about every other time."""
    if details != "no attention" and not has_attention(engine):
        pytest.skip("the model has no attention")
    rng = random.Random(seed)
    requests = []
    for index, tokens in enumerate(sources):
        beam_size, max_tokens = rng.choice([1, 1, 2, 3, 5, 8]), rng.choice([1, 7, 128, 128, 128])
        sampling = Sampling(rng.getrandbits(64), rng.choice([0.7, 1.0, 1.5]), rng.choice([0, 40]), rng.choice([1.0, 0.9]))
        is_search = rng.random() < 0.7
        options = DecodeOptions(
            beam_size=beam_size if is_search else 1,
            num_hypotheses=rng.randint(1, beam_size),
            length_penalty=rng.choice([0.0, 0.6, 1.0, 2.0]),
            coverage_penalty=rng.choice([0.0, 0.0, 0.0, 0.3]) if has_attention(engine) else 0.0,
            max_tokens=max_tokens,
            min_tokens=min(max_tokens, rng.choice([0, 0, 0, 5, 15])),
            no_repeat_ngram_size=rng.choice([0, 0, 2, 3]),
            repetition_penalty=rng.choice([1.0, 1.0, 1.3, 0.9]),
            sampling=None if is_search else sampling,
            prefix=tuple(rng.choice(sources)[:-1][: min(max_tokens, rng.choice([0, 0, 0, 2, 4]))]) if index % 2 else (),
            attention=rng.choice(DETAILS[details]),
            omit_score=is_search and beam_size == 1 and rng.random() < 0.5,
        )
        requests.append(sequence_work(index, tokens, options))
    return requests


def assert_same(found: dict[int, Answer], expected: dict[int, Answer]) -> None:
    assert set(found) == set(expected)
    different = [request_id for request_id in expected if found[request_id] != expected[request_id]]
    assert not different, f"{len(different)} of {len(expected)} answers depend on their batch mates, the first is {different[0]}"


@pytest.mark.parametrize("mode", MODES)
def test_all_at_once(idle: EngineLoop, sources: list[list[int]], alone: Alone, mode: str) -> None:
    answers = run(idle, requests_of(sources, options_of(idle, mode)))
    steps = idle.stats().steps
    rows = [step.num_rows for step in steps]
    assert max(rows) > NUM_SLOTS * 3 // 4, "the batch was never nearly full"
    assert max(step.num_encoded for step in steps) > 1, "no two requests were encoded together"
    assert_same(content(answers), alone[mode])


@pytest.mark.parametrize("mode", MODES)
def test_joining_in_flight(idle: EngineLoop, sources: list[list[int]], alone: Alone, mode: str) -> None:
    rng = random.Random(f"joining/{mode}")
    requests = requests_of(sources, options_of(idle, mode))
    rng.shuffle(requests)
    answers = run(idle, requests, num_joining=lambda: rng.randint(0, 3))
    blocks = {step.block_rows for step in idle.bundle.variant.steps}
    num_batches = len({step.num_rows for step in idle.stats().steps})
    assert num_batches > (4 if MODES[mode].beam_size in blocks - {0} else 8), "too few different batches"  # blocks join whole
    assert_same(content(answers), alone[mode])


def test_without_scores(idle: EngineLoop, sources: list[list[int]], alone: Alone, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tokens are those of greedy search with scores, whichever graph runs: alone, with the same options, with other options."""
    runner: Any = idle.runner
    choose, graphs = runner.choose, set[bool]()
    monkeypatch.setattr(runner, "choose", lambda inputs: (step := choose(inputs), graphs.add(step.gives_log_probs))[0])
    expected = {request_id: answer[0][0] for request_id, answer in alone["greedy"].items()}
    quick = requests_of(sources, DecodeOptions(omit_score=True))
    mixed = [
        sequence_work(each.request_id, each.payload.tokens, MODES["greedy"] if index % 3 else each.payload.options)
        for index, each in enumerate(quick)
    ]
    company = [sequence_work(1000 + index, tokens, MODES["beam"]) for index, tokens in enumerate(sources[:20])]
    found = [one_by_one(idle, quick[:20]), run(idle, quick), run(idle, [*mixed[:40], *company, *mixed[40:]])]
    for answers in found:
        tokens = {request_id: one.outcome.hypotheses[0].tokens for request_id, one in answers.items() if request_id < 1000}
        assert tokens == {request_id: expected[request_id] for request_id in tokens}
    assert {one.outcome.hypotheses[0].score for one in found[1].values()} == {0.0}
    assert all(
        (one.outcome.hypotheses[0].score == 0.0) == (request_id % 3 == 0)
        for request_id, one in found[2].items()
        if request_id < 1000
    )
    has_quick_graph = any("log_probs" not in {each.name for each in step.graph.outputs} for step in idle.bundle.variant.steps)
    assert graphs == ({True, False} if has_quick_graph else {True})


@pytest.mark.parametrize("details", DETAILS)
def test_requests_with_different_options_in_one_batch(idle: EngineLoop, sources: list[list[int]], details: str) -> None:
    rng = random.Random(details)
    requests = mixed_requests(idle, sources, details, details)[::2]
    expected = content(one_by_one(idle, requests))
    num_axes = {len(one[3][0]) for answer in expected.values() for one in answer if one[3]}
    several = {2, 4} if idle.bundle.manifest.attention.num_layers else {2}
    assert num_axes == (set() if details == "no attention" else several)
    reasons = {one[2] for answer in expected.values() for one in answer}
    assert reasons == {FinishReason.STOP, FinishReason.LENGTH}
    rng.shuffle(requests)
    assert_same(content(run(idle, requests)), expected)
    rng.shuffle(requests)
    assert_same(content(run(idle, requests, num_joining=lambda: rng.randint(0, 3))), expected)


@pytest.mark.parametrize("details", ["no attention", "attention"])
def test_request_that_leaves_changes_no_other_answer(idle: EngineLoop, sources: list[list[int]], details: str) -> None:
    rng = random.Random(3)
    requests = mixed_requests(idle, sources, 3, details)[:80]
    expected = content(one_by_one(idle, requests))
    leaving = {request.request_id: rng.randint(1, 60) for request in rng.sample(requests, 30)}
    found = content(run(idle, requests, num_joining=lambda: rng.randint(0, 3), leaving=leaving))
    assert set(expected) - set(leaving) <= set(found)
    assert len(found) < len(expected), "no request left in time"
    assert_same(found, {request_id: expected[request_id] for request_id in found})


def test_rest_of_the_batch_is_seen(
    idle: EngineLoop, sources: list[list[int]], alone: Alone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A planted fault: one unit in the last place, in batches of more than one row."""
    runner: Any = idle.runner
    step = runner.step

    def faulty(inputs: StepInputs) -> StepOutputs:
        outputs = step(inputs)
        if len(inputs.tokens) == 1:
            return outputs
        arrays = {
            name: np.nextafter(array, np.float32(-1e9)) if name.endswith("log_probs") else array
            for name, array in outputs.arrays.items()
        }
        return StepOutputs(arrays, outputs.attention)

    monkeypatch.setattr(runner, "step", faulty)
    requests = requests_of(sources, MODES["greedy"])[:20]
    expected = {request.request_id: alone["greedy"][request.request_id] for request in requests}
    assert_same(content(one_by_one(idle, requests)), expected)
    with pytest.raises(AssertionError, match="20 of 20 answers depend on their batch mates"):
        assert_same(content(run(idle, requests)), expected)


def test_a_mixed_up_row_is_seen(idle: EngineLoop, sources: list[list[int]], alone: Alone, monkeypatch: pytest.MonkeyPatch) -> None:
    """A planted fault: a row's cache keeps the state of the request that left, not that of the request that took the row."""
    monkeypatch.setattr(idle.runner.state, "copy_rows", lambda sources, targets, length: None)
    requests = requests_of(sources, MODES["greedy"])
    with pytest.raises(AssertionError, match="depend on their batch mates"):
        assert_same(content(run(idle, requests)), alone["greedy"])
