# SPDX-License-Identifier: Apache-2.0
"""The served bundle against PyTorch: the engine's answers equal those of a simple search that runs the whole prefix at each step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from attnserve_server.engine.worker.iterative.loop import EngineLoop
from attnserve_server.request import AttentionDetail, DecodeOptions, Done, Sampling, sequence_work
from tests.driving import BUNDLES, DEFAULT_MODEL, SENTENCES, SENTENCES_ARE_GOLDEN, attention_of, run
from tests.reference.answer import reference_answer
from tests.reference.beam_search import Heads, SearchResult, teacher_forced_alignments

MARGIN = 1e-4
MARGIN_OF_DRAWS = 1e-5
"""Below :data:`MARGIN`, because most draws have an improbable token, whose interval of the distribution function is narrow."""
SCORE_TOLERANCE = 1e-3
ATTENTION_TOLERANCE = 1e-4
MAX_NEAR_TIES, MAX_NEAR_TIES_OF_DRAWS = 0.01, 0.1
MODES = {
    "greedy": DecodeOptions(),
    "greedy, cut": DecodeOptions(max_tokens=6),
    "beam": DecodeOptions(beam_size=5, num_hypotheses=5),
    "beam, no length": DecodeOptions(beam_size=3, num_hypotheses=2, length_penalty=0.0, max_tokens=11),
    "repetition": DecodeOptions(repetition_penalty=1.8),
    "repetition, beam": DecodeOptions(beam_size=4, num_hypotheses=4, repetition_penalty=1.3),
    "n-grams": DecodeOptions(no_repeat_ngram_size=1),
    "n-grams, beam": DecodeOptions(beam_size=3, num_hypotheses=3, no_repeat_ngram_size=2, repetition_penalty=0.8, max_tokens=24),
    "least length": DecodeOptions(beam_size=3, num_hypotheses=2, min_tokens=17),
    "prefix": DecodeOptions(),
    "prefix, beam": DecodeOptions(beam_size=4, num_hypotheses=4),
    "coverage": DecodeOptions(beam_size=4, num_hypotheses=4, coverage_penalty=0.4),
    "all": DecodeOptions(
        beam_size=4,
        num_hypotheses=3,
        length_penalty=0.8,
        coverage_penalty=0.2,
        min_tokens=14,
        no_repeat_ngram_size=3,
        repetition_penalty=1.2,
        max_tokens=24,
    ),
    "draws": DecodeOptions(num_hypotheses=3, sampling=Sampling(2**63 + 5)),
    "draws, cold": DecodeOptions(num_hypotheses=2, sampling=Sampling(11, temperature=0.7, top_k=20, top_p=0.9)),
    "draws, hot": DecodeOptions(num_hypotheses=2, max_tokens=16, sampling=Sampling(12, temperature=1.8, top_p=0.95)),
    "draws, all": DecodeOptions(
        num_hypotheses=2,
        coverage_penalty=0.3,
        min_tokens=12,
        no_repeat_ngram_size=2,
        repetition_penalty=1.4,
        max_tokens=20,
        sampling=Sampling(13, temperature=1.3, top_k=50),
    ),
}
OF_ALL_TOKENS = {"draws", "draws, hot"}
"""Draws from the whole vocabulary. With a weaker model most fall into intervals of the distribution function below rounding."""
HAVE_PREFIXES = {"prefix", "prefix, beam", "all", "draws, all"}
NUM_SENTENCES = 20
NUM_OF_MODE = {"greedy": 80, "beam": 40} if SENTENCES_ARE_GOLDEN else dict.fromkeys(("greedy", "beam"), len(SENTENCES))


@pytest.fixture(scope="module", params=BUNDLES)
def model_id(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def sources(model_id: str, all_sources: list[list[int]]) -> list[list[int]]:
    """The sentences; of other models than the default one half as many as a mode asks for."""
    return all_sources if model_id == DEFAULT_MODEL or not SENTENCES_ARE_GOLDEN else all_sources[: NUM_OF_MODE["greedy"] // 2]


@pytest.fixture(scope="module")
def prefixes(engine: EngineLoop, sources: list[list[int]]) -> list[tuple[int, ...]]:
    """The first pieces of another sentence's translation: none to six of them."""
    answers = run(engine, [sequence_work(index, tokens, DecodeOptions()) for index, tokens in enumerate(sources[:NUM_SENTENCES])])
    said = [answers[index].outcome.hypotheses[0].tokens[:-1] for index in range(len(answers))]
    return [tuple(said[index - 7][: index % 7]) for index in range(len(said))]


@pytest.fixture(scope="module")
def heads(engine: EngineLoop) -> Heads:
    attention = engine.bundle.manifest.attention
    return Heads(tuple(attention.mean_layers), tuple(attention.mean_heads))


def skip_without_attention(engine: EngineLoop, options: DecodeOptions) -> None:
    if options.coverage_penalty and not engine.bundle.manifest.HasField("attention"):
        pytest.skip("the coverage penalty needs attention")


def skip_draws_of_others(engine: EngineLoop, mode: str) -> None:
    if mode in OF_ALL_TOKENS and engine.bundle.manifest.model_id != DEFAULT_MODEL:
        pytest.skip("PyTorch's draws from all tokens are not comparable here")


def options_of(mode: str, prefixes: list[tuple[int, ...]]) -> list[DecodeOptions]:
    if mode in HAVE_PREFIXES:
        return [replace(MODES[mode], prefix=prefix) for prefix in prefixes]
    return [MODES[mode]] * NUM_OF_MODE.get(mode, NUM_SENTENCES)


def is_same(answer: Done, expected: SearchResult) -> bool:
    ours = [(one.tokens, one.finish_reason) for one in answer.outcome.hypotheses]
    return ours == [(one.tokens, one.finish_reason) for one in expected.hypotheses]


def compare(answers: dict[int, Done], expected: list[SearchResult], are_draws: bool = False) -> int:
    """The number of answers that differ: few, and each has a choice whose margin is within rounding."""
    num_near_ties = 0
    for index, theirs in enumerate(expected):
        if not is_same(answers[index], theirs):
            allowed = MARGIN_OF_DRAWS if are_draws else MARGIN
            assert theirs.margin <= allowed, f"sentence {index} differs, and its margin is {theirs.margin:.3g}"
            num_near_ties += 1
            continue
        for one, other in zip(answers[index].outcome.hypotheses, theirs.hypotheses, strict=True):
            assert one.score == pytest.approx(other.score, abs=SCORE_TOLERANCE)
    assert num_near_ties <= max(1, (MAX_NEAR_TIES_OF_DRAWS if are_draws else MAX_NEAR_TIES) * len(expected))
    return num_near_ties


@pytest.mark.parametrize("mode", MODES)
def test_same_answers(
    engine: EngineLoop,
    model: Any,
    sources: list[list[int]],
    prefixes: list[tuple[int, ...]],
    heads: Heads,
    mode: str,
    record_property: pytest.RecordProperty,
) -> None:
    skip_without_attention(engine, MODES[mode])
    skip_draws_of_others(engine, mode)
    pairs = list(zip(sources, options_of(mode, prefixes), strict=False))
    answers = run(engine, [sequence_work(index, *pair) for index, pair in enumerate(pairs)])
    expected = [reference_answer(model, *pair, heads=heads) for pair in pairs]
    are_draws = MODES[mode].sampling is not None
    record_property("near_ties", compare(answers, expected, are_draws))
    in_earnest = sum(one.margin > (MARGIN_OF_DRAWS if are_draws else MARGIN) for one in expected)
    record_property("in_earnest", in_earnest)
    assert are_draws or in_earnest > len(pairs) * 0.9, "too few answers were compared"
    if mode not in ("greedy", "beam"):
        plain = run(engine, [sequence_work(index, tokens, plain_of(options)) for index, (tokens, options) in enumerate(pairs)])
        changed = sum(not is_same(plain[index], one) for index, one in enumerate(expected))
        assert changed > len(pairs) // 20, "the options change too few answers"


def plain_of(options: DecodeOptions) -> DecodeOptions:
    return DecodeOptions(options.beam_size, min(options.beam_size, options.num_hypotheses))


MATRICES = ("decoder.0.cross_attention.output.weight", "context_gates.weight", "writer.1.weight_hh_l0")
"""One variant of each model."""


def test_another_module_is_seen(engine: EngineLoop, model: Any, sources: list[list[int]]) -> None:
    """A planted fault: one weight of the module has an error of the size of 16-bit rounding."""
    matrix = next(value for name, value in model.named_parameters() if name in MATRICES)
    kept = matrix.clone()
    answers = run(engine, [sequence_work(index, tokens, MODES["greedy"]) for index, tokens in enumerate(sources[:20])])
    try:
        matrix.mul_(1.25)
        with pytest.raises(AssertionError):
            compare(answers, [reference_answer(model, tokens, MODES["greedy"]) for tokens in sources[:20]])
    finally:
        matrix.copy_(kept)


MISUNDERSTOOD: dict[str, tuple[str, Callable[[DecodeOptions], DecodeOptions]]] = {
    "penalty": ("repetition, beam", lambda options: replace(options, repetition_penalty=1.35)),
    "n-grams": ("n-grams, beam", lambda options: replace(options, no_repeat_ngram_size=3)),
    "least length": ("least length", lambda options: replace(options, min_tokens=options.min_tokens + 1)),
    "prefix": ("prefix, beam", lambda options: replace(options, prefix=options.prefix[:-1])),
    "coverage": ("coverage", lambda options: replace(options, coverage_penalty=0.35)),
    "temperature": (
        "draws, cold",
        lambda options: replace(options, sampling=options.sampling and replace(options.sampling, temperature=0.49)),
    ),
    "top_p": ("draws, hot", lambda options: replace(options, sampling=options.sampling and replace(options.sampling, top_p=0.94))),
    "seed": ("draws", lambda options: replace(options, sampling=Sampling(2**63 + 4))),
}


@pytest.mark.parametrize("fault", MISUNDERSTOOD)
def test_a_misunderstood_option_is_seen(
    engine: EngineLoop,
    model: Any,
    sources: list[list[int]],
    prefixes: list[tuple[int, ...]],
    heads: Heads,
    fault: str,
) -> None:
    """A planted fault: the engine gets slightly different options."""
    mode, change = MISUNDERSTOOD[fault]
    skip_without_attention(engine, MODES[mode])
    skip_draws_of_others(engine, mode)
    pairs = list(zip(sources[:10], options_of(mode, prefixes), strict=False))
    answers = run(engine, [sequence_work(index, tokens, change(options)) for index, (tokens, options) in enumerate(pairs)])
    expected = [reference_answer(model, *pair, heads=heads) for pair in pairs]
    with pytest.raises(AssertionError):
        compare(answers, expected, MODES[mode].sampling is not None)


@pytest.mark.parametrize("beam_size", [1, 4])
def test_same_alignments(engine: EngineLoop, model: Any, sources: list[list[int]], heads: Heads, beam_size: int) -> None:
    if not engine.bundle.manifest.HasField("attention"):
        pytest.skip("the model has no attention")
    has_layers = engine.bundle.manifest.attention.num_layers > 0
    chosen = sources[3:15]
    requests = [
        sequence_work(
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
    for request_id, answer in run(engine, requests).items():
        source = chosen[request_id]
        for hypothesis in answer.outcome.hypotheses:
            of_heads = teacher_forced_alignments(model, source, hypothesis.tokens)
            expected = (heads.mean(of_heads) if request_id % 2 or not has_layers else of_heads).numpy()
            weights = attention_of(hypothesis)
            assert weights.shape == expected.shape
            assert np.abs(weights - expected).max() < ATTENTION_TOLERANCE
            assert np.abs(weights.sum(-1) - 1).max() < ATTENTION_TOLERANCE
