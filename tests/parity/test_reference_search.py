# SPDX-License-Identifier: Apache-2.0
"""The served bundle against PyTorch: the engine's answers, and those of a plain search that runs the whole prefix at each step."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from attnserve_export.models.transformer import Transformer
from attnserve_server.bundle.loader import load_bundle
from attnserve_server.engine.loop import EngineLoop
from attnserve_server.request import AttentionDetail, DecodeOptions, RequestFinished, SequenceRequest
from attnserve_server.tasks.translation import TranslationTask
from tests.parity.driving import DEFAULT_BUNDLE, SENTENCES, attention_of, run, started_engine
from tests.parity.torch_module import module_of_bundle
from tests.reference.beam_search import SearchResult, beam_search, teacher_forced_alignments

MARGIN = 1e-4
SCORE_TOLERANCE = 1e-3
ATTENTION_TOLERANCE = 1e-4
MAX_NEAR_TIES = 0.01
MODES = {
    "greedy": DecodeOptions(),
    "greedy, cut": DecodeOptions(max_tokens=6),
    "beam": DecodeOptions(beam_size=5, num_hypotheses=5),
    "beam, no length": DecodeOptions(beam_size=3, num_hypotheses=2, length_penalty=0.0, max_tokens=11),
}
NUM_SENTENCES = {"greedy": len(SENTENCES), "greedy, cut": 40, "beam": len(SENTENCES), "beam, no length": 40}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def engine() -> EngineLoop:
    return started_engine(load_bundle(DEFAULT_BUNDLE, variant="fp32"))


@pytest.fixture(scope="module")
def sources(engine: EngineLoop) -> list[list[int]]:
    task = TranslationTask(engine.bundle)
    return [task.encode(text).tokens for text in SENTENCES]


@pytest.fixture(scope="module")
def model(engine: EngineLoop) -> Transformer:
    return module_of_bundle(engine.bundle.folder, engine.bundle.manifest)


def reference(model: Transformer, source: list[int], options: DecodeOptions) -> SearchResult:
    return beam_search(
        model,
        source,
        beam_size=options.beam_size,
        max_tokens=options.max_tokens,
        num_hypotheses=options.num_hypotheses,
        length_penalty=options.length_penalty,
    )


def is_same(answer: RequestFinished, expected: SearchResult) -> bool:
    ours = [(one.tokens, one.finish_reason) for one in answer.hypotheses]
    return ours == [(one.tokens, one.finish_reason) for one in expected.hypotheses]


def compare(answers: dict[int, RequestFinished], expected: list[SearchResult]) -> int:
    """How many answers differ, all of them where a choice was too close to call."""
    num_near_ties = 0
    for index, theirs in enumerate(expected):
        if not is_same(answers[index], theirs):
            assert theirs.margin <= MARGIN, f"sentence {index} differs, and its margin is {theirs.margin:.3g}"
            num_near_ties += 1
            continue
        for one, other in zip(answers[index].hypotheses, theirs.hypotheses, strict=True):
            assert one.score == pytest.approx(other.score, abs=SCORE_TOLERANCE)
    return num_near_ties


@pytest.mark.parametrize("mode", MODES)
def test_same_answers(
    engine: EngineLoop, model: Transformer, sources: list[list[int]], mode: str, record_property: pytest.RecordProperty
) -> None:
    options, chosen = MODES[mode], sources[: NUM_SENTENCES[mode]]
    answers = run(engine, [SequenceRequest(index, tokens, options) for index, tokens in enumerate(chosen)])
    expected = [reference(model, tokens, options) for tokens in chosen]
    num_near_ties = compare(answers, expected)
    record_property("near_ties", num_near_ties)
    assert num_near_ties <= MAX_NEAR_TIES * len(chosen)
    assert sum(one.margin > MARGIN for one in expected) > len(chosen) * 0.9, "hardly anything was compared in earnest"


def test_another_module_is_seen(engine: EngineLoop, model: Transformer, sources: list[list[int]]) -> None:
    """A planted fault: one weight of the module is off by as much as 16 bits could lose."""
    matrix = model.decoder_layers[0].cross_attention.output.weight
    kept = matrix.clone()
    answers = run(engine, [SequenceRequest(index, tokens, MODES["greedy"]) for index, tokens in enumerate(sources[:20])])
    try:
        matrix.mul_(1.25)
        with pytest.raises(AssertionError):
            compare(answers, [reference(model, tokens, MODES["greedy"]) for tokens in sources[:20]])
    finally:
        matrix.copy_(kept)


@pytest.mark.parametrize("beam_size", [1, 4])
def test_same_alignments(engine: EngineLoop, model: Transformer, sources: list[list[int]], beam_size: int) -> None:
    chosen = sources[3:15]
    requests = [
        SequenceRequest(
            index,
            tokens,
            DecodeOptions(
                beam_size=beam_size,
                num_hypotheses=beam_size,
                attention=AttentionDetail.MEAN if index % 2 else AttentionDetail.ALL,
            ),
        )
        for index, tokens in enumerate(chosen)
    ]
    mean_layers = list(engine.bundle.manifest.attention.mean_layers) or list(range(model.config.num_decoder_layers))
    for request_id, answer in run(engine, requests).items():
        source = chosen[request_id]
        for hypothesis in answer.hypotheses:
            expected = teacher_forced_alignments(model, source, hypothesis.tokens).numpy()
            if request_id % 2:
                expected = expected[:, mean_layers].mean((1, 2))
            weights = attention_of(hypothesis)
            assert weights.shape == expected.shape
            assert np.abs(weights - expected).max() < ATTENTION_TOLERANCE
            assert np.abs(weights.sum(-1) - 1).max() < ATTENTION_TOLERANCE
