# SPDX-License-Identifier: Apache-2.0
"""A long run of the real model that changes between its step graphs: greedy, in blocks of rows, and routed.

``tests/unit/engine/test_switching.py`` does the same with a fake model in seconds.
"""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest

from attnserve_server.bundle.loader import load_bundle
from attnserve_server.engine.worker.iterative.loop import EngineLoop
from attnserve_server.execution.step import StepInputs, StepOutputs
from attnserve_server.request import DecodeOptions, SequenceWork, sequence_work
from tests.driving import DEFAULT_BUNDLE, DEFAULT_MODEL, Answer, content, cpu_variants, one_by_one, run, started_engine

pytestmark = pytest.mark.long
VARIANTS = [variant for model, variant in cpu_variants() if model == DEFAULT_MODEL]
KINDS = {
    "greedy": DecodeOptions(),
    "greedy, no score": DecodeOptions(omit_score=True),
    "4": DecodeOptions(4, 4),
    "5": DecodeOptions(5, 5),
    "8": DecodeOptions(8, 8),
    "3": DecodeOptions(3, 3),
    "general": DecodeOptions(2, 2, repetition_penalty=1.2),
}
PHASES = [("greedy", "greedy, no score"), ("4",), ("5",), ("8",), ("4", "greedy"), ("4", "5", "8"), tuple(KINDS)]
NUM_PHASES, REQUESTS_OF_PHASE = 24, 30


@pytest.fixture(scope="module", params=VARIANTS)
def engine(request: pytest.FixtureRequest) -> EngineLoop:
    return started_engine(load_bundle(DEFAULT_BUNDLE, variant=request.param))


@pytest.fixture(scope="module")
def graphs(engine: EngineLoop) -> Counter[int]:
    """Counts the steps by the rows of their blocks."""
    runner: Any = engine.runner
    step, found = runner.step, Counter[int]()

    def noted(inputs: StepInputs) -> StepOutputs:
        found[inputs.block_rows] += 1
        outputs: StepOutputs = step(inputs)
        return outputs

    runner.step = noted
    return found


@pytest.mark.timeout(1800)
def test_every_answer_is_the_one_alone(engine: EngineLoop, all_sources: list[list[int]], graphs: Counter[int]) -> None:
    rng = random.Random(7)
    expected: dict[tuple[str, int], Answer] = {}
    requests: list[SequenceWork] = []
    asked: dict[int, tuple[str, int]] = {}
    for _ in range(NUM_PHASES):
        phase = rng.choice(PHASES)
        for _ in range(REQUESTS_OF_PHASE):
            kind, source = rng.choice(phase), rng.randrange(len(all_sources))
            asked[len(requests)] = kind, source
            requests.append(sequence_work(len(requests), all_sources[source], KINDS[kind]))
    leaving = {number: rng.randint(1, 400) for number in rng.sample(range(len(requests)), 60)}
    found = content(run(engine, requests, num_joining=lambda: rng.randint(0, 2), leaving=leaving))
    for kind, options in KINDS.items():
        sources = sorted({source for other, source in asked.values() if other == kind})
        alone = content(one_by_one(engine, [sequence_work(source, all_sources[source], options) for source in sources]))
        expected |= {(kind, source): answer for source, answer in alone.items()}
    assert len(found) > len(requests) - len(leaving) - 1
    assert all(answer == expected[asked[number]] for number, answer in found.items())
    assert all(graphs[size] > 20 for size in (0, 4, 5, 8)), graphs
