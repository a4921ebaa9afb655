# SPDX-License-Identifier: Apache-2.0
"""The served bundle against CTranslate2 with the same weights: options of the same name give the same tokens.

Where an answer differs, the margin of a choice must be within rounding (``tests/reference``). Differences by definition, each tested
below; "here" is this project, ``tests/reference/beam_search.py`` has the exact definition:

* *Early end.* With ``length_penalty`` 0 (and no coverage penalty) CTranslate2 stops once the first of the beam has ended and there
  are ``num_hypotheses`` in all; here a search continues until as many have ended as the beam is wide, for any exponent. The best
  hypothesis is the same, because sums only decrease; those after it may be worse there.
* *Limit of length.* In the last step CTranslate2 ends the first K candidates, K the width of the beam, whether or not they are the end
  symbol. Here those that are the end symbol end; the K best others end too, but only if there are fewer than K hypotheses. So if a
  search ends in the last step, an unfinished hypothesis may be among the answers there.
* *Prefix.* In CTranslate2 its pieces have a log-probability of 0, though they count in the length; here they have the model's. With
  one hypothesis, and for equal lengths, that changes no order. In the first step after the prefix CTranslate2 lets no candidate but
  the best one be the end symbol; here that step is like others. It replaces them by piece 0 with a score of -1e10, so that a beam
  may have fewer valid hypotheses.
* *Coverage.* The same formula; the attention is that of some heads of one layer in CTranslate2, and the mean over all heads of the
  layers that the manifest names here (all of them, in the bundle that is served). A source token that received exactly none is left
  out there, and counts as 1e-9 here. And beams that CTranslate2 4.8.5 searches in one batch have the attention of another
  sentence at their first piece: it is compared one by one.
* *Empty source.* CTranslate2 answers it with an empty target; here the model decodes it.
* *Sampling.* The distribution is the same; the random numbers are not, so a seed means nothing across the two.
* *Everything forbidden.* If n-grams and the least length forbid every piece, all are equally probable there, and the rules are
  suspended here; with a vocabulary of this size it does not happen.

Definitions that agree: the length in the norm counts the end symbol; ``max_decoding_length`` and
``min_decoding_length`` count the prefix and, for the former, a last end symbol in the place of a piece; the begin symbol is no
"previous" piece for penalty and n-grams, the pieces of the prefix are; both apply before the softmax, and scores are of what is left
after it, before the temperature. CTranslate2's own log-softmax is an approximation that is some 2e-5 off, evenly: see SCORE_TOLERANCE.
"""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import ctranslate2
import pytest
import torch
from msgspec.structs import replace

from attnserve.v1 import manifest_pb2
from attnserve_export.models.transformer import Transformer
from attnserve_loadtest.bench.ctranslate2_model import pieces_of, save_ctranslate2, translator
from attnserve_server.engine.worker.iterative.loop import EngineLoop
from attnserve_server.request import DecodeOptions, Done, Sampling, sequence_work
from tests.driving import run, started_engine
from tests.parity.draws import p_value
from tests.reference.answer import reference_answer
from tests.reference.beam_search import BEGIN_ID, END_ID, Heads, next_log_probs
from tests.reference.rules import NO_RULES
from tests.reference.sampling import distribution

MARGIN = 1e-4
SCORE_TOLERANCE = 1e-4
"""Tolerance of a mean log-probability."""
NUM_SENTENCES = 60
MAX_NEAR_TIES = 0.02
MODES = {
    "greedy": DecodeOptions(),
    "beam": DecodeOptions(4, 4),
    "beam, best": DecodeOptions(5, 1),
    "beam, half length": DecodeOptions(5, 5, length_penalty=0.5),
    "beam, long ones": DecodeOptions(3, 2, length_penalty=2.0),
    "repetition": DecodeOptions(repetition_penalty=1.7),
    "repetition, beam": DecodeOptions(4, 4, repetition_penalty=1.3),
    "repetition welcome": DecodeOptions(2, 2, repetition_penalty=0.9, max_tokens=40),
    "n-grams": DecodeOptions(no_repeat_ngram_size=1),
    "n-grams, beam": DecodeOptions(4, 4, no_repeat_ngram_size=2),
    "least length": DecodeOptions(min_tokens=18),
    "least length, beam": DecodeOptions(4, 4, min_tokens=16),
    "all": DecodeOptions(4, 4, length_penalty=0.8, min_tokens=14, no_repeat_ngram_size=3, repetition_penalty=1.2),
}
Answers = list[list[tuple[list[int], float]]]


@pytest.fixture(scope="module")
def sources(all_sources: list[list[int]]) -> list[list[int]]:
    return all_sources[:NUM_SENTENCES]


@pytest.fixture(scope="module")
def other(engine: EngineLoop, model: Transformer, tmp_path_factory: pytest.TempPathFactory) -> Other:
    folder = tmp_path_factory.mktemp("ctranslate2")
    save_ctranslate2(model, engine.bundle, folder)
    return Other(folder, pieces_of(engine.bundle))


class Other:
    """CTranslate2, called with the options of this project."""

    def __init__(self, folder: Path, pieces: list[str]) -> None:
        self.translator, self._pieces = translator(folder), pieces
        self._ids = {piece: index for index, piece in enumerate(pieces)}

    def ask(
        self, sources: list[list[int]], options: DecodeOptions, prefixes: list[tuple[int, ...]] | None = None, **more: Any
    ) -> Answers:
        """Tokens and scores of each answer; sources end with the end symbol, which CTranslate2 adds itself."""
        results = self.translator.translate_batch(
            [self._written(source[:-1]) for source in sources],
            target_prefix=prefixes and [self._written(prefix) for prefix in prefixes],
            beam_size=options.beam_size,
            num_hypotheses=options.num_hypotheses,
            length_penalty=options.length_penalty,
            coverage_penalty=options.coverage_penalty,
            repetition_penalty=options.repetition_penalty,
            no_repeat_ngram_size=options.no_repeat_ngram_size,
            max_decoding_length=options.max_tokens,
            min_decoding_length=options.min_tokens,
            return_scores=True,
            return_end_token=True,
            **{"max_batch_size": 32} | more,
        )
        return [
            [([self._ids[piece] for piece in said], score) for said, score in zip(each.hypotheses, each.scores, strict=True)]
            for each in results
        ]

    def _written(self, tokens: list[int] | tuple[int, ...]) -> list[str]:
        return [self._pieces[token] for token in tokens]


def ask(engine: EngineLoop, sources: list[list[int]], options: list[DecodeOptions]) -> list[Done]:
    pairs = zip(sources, options, strict=True)
    answers = run(engine, [sequence_work(index, tokens, each) for index, (tokens, each) in enumerate(pairs)])
    return [answers[index] for index in range(len(sources))]


def tokens_of(answer: Done) -> list[list[int]]:
    return [one.tokens for one in answer.outcome.hypotheses]


def compare(model: Transformer, sources: list[list[int]], options: DecodeOptions, ours: list[Done], theirs: Answers) -> int:
    """The number of answers that differ; fails unless each has a choice whose margin is within rounding."""
    num_near_ties = 0
    for index, (our, their) in enumerate(zip(ours, theirs, strict=True)):
        if tokens_of(our) != [tokens for tokens, _ in their]:
            margin = reference_answer(model, sources[index], options).margin
            assert margin <= MARGIN, f"sentence {index} differs, and its margin is {margin:.3g}"
            num_near_ties += 1
            continue
        for one, (_, score) in zip(our.outcome.hypotheses, their, strict=True):
            norm = len(one.tokens) ** (1 - options.length_penalty)
            assert score == pytest.approx(one.score, abs=SCORE_TOLERANCE * norm)
    return num_near_ties


@pytest.mark.parametrize("mode", MODES)
def test_same_answers(
    engine: EngineLoop,
    model: Transformer,
    other: Other,
    sources: list[list[int]],
    mode: str,
    record_property: pytest.RecordProperty,
) -> None:
    options = MODES[mode]
    ours = ask(engine, sources, [options] * len(sources))
    num_near_ties = compare(model, sources, options, ours, other.ask(sources, options))
    record_property("near_ties", num_near_ties)
    assert num_near_ties <= MAX_NEAR_TIES * len(sources)
    if mode not in ("greedy", "beam", "beam, best"):
        told = DecodeOptions(options.beam_size, options.num_hypotheses)
        plain = ask(engine, sources[:30], [told] * 30)
        changed = sum(tokens_of(one) != tokens_of(another) for one, another in zip(ours, plain, strict=False))
        assert changed > 1, "the options change too few answers"


@pytest.mark.parametrize(
    "told",
    [
        DecodeOptions(4, 4, length_penalty=0.9),
        DecodeOptions(4, 4, repetition_penalty=1.25),
        DecodeOptions(4, 4, no_repeat_ngram_size=3),
        DecodeOptions(4, 4, min_tokens=17),
    ],
    ids=str,
)
def test_another_option_is_seen(
    engine: EngineLoop, model: Transformer, other: Other, sources: list[list[int]], told: DecodeOptions
) -> None:
    """A planted fault: CTranslate2 gets slightly different options."""
    options = DecodeOptions(
        4,
        4,
        repetition_penalty=1.2 if told.repetition_penalty != 1 else 1.0,
        no_repeat_ngram_size=2 if told.no_repeat_ngram_size else 0,
        min_tokens=16 if told.min_tokens else 0,
    )
    ours = ask(engine, sources[:30], [options] * 30)
    with pytest.raises(AssertionError):
        compare(model, sources, options, ours, other.ask(sources[:30], told))


@pytest.fixture(scope="module")
def prefixes(engine: EngineLoop, sources: list[list[int]]) -> list[tuple[int, ...]]:
    """The first pieces of another sentence's translation: one to six of them."""
    said = [tokens_of(answer)[0] for answer in ask(engine, sources, [DecodeOptions()] * len(sources))]
    return [tuple(said[index - 7][:-1][: 1 + index % 6]) for index in range(len(sources))]


def test_greedy_with_a_prefix(
    engine: EngineLoop, model: Transformer, other: Other, sources: list[list[int]], prefixes: list[tuple[int, ...]]
) -> None:
    """The same pieces; the score lacks the prefix there. Penalties see the prefix, and the least length counts it."""
    num_near_ties = 0
    for options in (DecodeOptions(), DecodeOptions(repetition_penalty=1.4, no_repeat_ngram_size=2, min_tokens=15)):
        ours = ask(engine, sources, [replace(options, prefix=prefix) for prefix in prefixes])
        theirs = other.ask(sources, options, prefixes)
        for index, (our, ((tokens, score),)) in enumerate(zip(ours, theirs, strict=True)):
            (one,) = our.outcome.hypotheses
            prefix = prefixes[index]
            assert one.tokens[: len(prefix)] == tokens[: len(prefix)] == list(prefix)
            if one.tokens != tokens:
                assert reference_answer(model, sources[index], replace(options, prefix=prefix)).margin <= MARGIN
                num_near_ties += 1
                continue
            forced = score_of_prefix(model, sources[index], prefix)
            assert forced < -0.1
            assert score == pytest.approx(one.score - forced / len(tokens), abs=SCORE_TOLERANCE)
    assert num_near_ties <= MAX_NEAR_TIES * len(sources) * 2


def score_of_prefix(model: Transformer, source: list[int], prefix: tuple[int, ...]) -> float:
    """Sum of the model's log-probabilities of the prefix."""
    src = torch.tensor([source])
    rows = [
        next_log_probs(model, model.encode(src), src, [prefix[:count]], NO_RULES, BEGIN_ID, END_ID)[0]
        for count in range(len(prefix))
    ]
    return sum(float(row[token]) for row, token in zip(rows, prefix, strict=True))


def test_beam_with_a_prefix(
    engine: EngineLoop, model: Transformer, other: Other, sources: list[list[int]], prefixes: list[tuple[int, ...]]
) -> None:
    """The same hypotheses end; without the score of the prefix their order is CTranslate2's."""
    options, num_near_ties, num_reordered, num_compared = DecodeOptions(4, 3), 0, 0, 24
    theirs = other.ask(sources[:num_compared], options, prefixes[:num_compared])
    for source, prefix, their in zip(sources, prefixes, theirs, strict=False):
        expected = reference_answer(model, source, replace(options, prefix=prefix))
        forced = score_of_prefix(model, source, prefix)
        ranked = sorted(
            ((one.sum - forced) / len(one.tokens), one.tokens) for one in expected.finished
        )[::-1]  # fmt: skip
        gaps = [better - worse for (better, _), (worse, _) in itertools.pairwise(ranked[: options.num_hypotheses + 1])]
        num_reordered += [tokens for _, tokens in ranked[:3]] != [one.tokens for one in expected.hypotheses]
        if [tokens for tokens, _ in their] == [tokens for _, tokens in ranked[:3]]:
            assert [score for _, score in their] == pytest.approx([score for score, _ in ranked[:3]], abs=SCORE_TOLERANCE)
        else:
            assert min([expected.margin_of_finished, *gaps]) <= MARGIN
            num_near_ties += 1
    assert num_near_ties <= 1
    assert num_reordered > 0, "the score of the prefix makes no difference"


def test_the_end_right_after_a_prefix(engine: EngineLoop, other: Other, sources: list[list[int]]) -> None:
    """Here an end symbol that is not the best candidate may end a hypothesis in the first free step, there it may not."""
    said = [tokens_of(answer)[0] for answer in ask(engine, sources, [DecodeOptions()] * len(sources))]
    prefixes = [tuple(tokens[:-2]) for tokens in said]  # without the full stop
    ours = ask(engine, sources, [DecodeOptions(4, 4, prefix=prefix) for prefix in prefixes])
    theirs = other.ask(sources, DecodeOptions(4, 4), prefixes)
    ended = [[*prefix, END_ID] for prefix in prefixes]
    assert sum(tokens in tokens_of(our) for tokens, our in zip(ended, ours, strict=True)) > len(sources) // 5
    assert not any(tokens in [each for each, _ in their] for tokens, their in zip(ended, theirs, strict=True))


def test_no_length_penalty_ends_early_there(engine: EngineLoop, model: Transformer, other: Other, sources: list[list[int]]) -> None:
    options = DecodeOptions(5, 5, length_penalty=0.0)
    ours = ask(engine, sources, [options] * len(sources))
    best = other.ask(sources, DecodeOptions(5, 1, length_penalty=0.0))
    num_worse = num_near_ties = 0
    for index, (our, ((tokens, _),)) in enumerate(zip(ours, best, strict=True)):
        if tokens != our.outcome.hypotheses[0].tokens:
            assert reference_answer(model, sources[index], replace(options, num_hypotheses=1)).margin <= MARGIN
            num_near_ties += 1
    assert num_near_ties <= 1
    pairs = other.ask(sources, DecodeOptions(5, 2, length_penalty=0.0))
    for our, (_, (tokens, score)) in zip(ours, pairs, strict=True):
        assert score <= our.outcome.hypotheses[1].score + SCORE_TOLERANCE * len(tokens)
        num_worse += score < our.outcome.hypotheses[1].score - SCORE_TOLERANCE * len(tokens)
    assert num_worse > 0, "the second best is never worse there"


def test_limit_of_length(engine: EngineLoop, model: Transformer, other: Other, sources: list[list[int]]) -> None:
    """Answers differ only where a search ends in the last step."""
    num_different = 0
    for beam_size, max_tokens in ((4, 12), (4, 13), (5, 12), (5, 13), (3, 9)):
        options = DecodeOptions(beam_size, beam_size, max_tokens=max_tokens)
        ours = ask(engine, sources, [options] * len(sources))
        for source, our, their in zip(sources, ours, other.ask(sources, options), strict=True):
            if tokens_of(our) == [tokens for tokens, _ in their]:
                continue
            cut = [tokens for tokens, _ in their if tokens[-1] != END_ID]
            is_at_the_limit = max(map(len, tokens_of(our))) == max_tokens and {
                one.finish_reason for one in our.outcome.hypotheses
            } == {1}
            if not (is_at_the_limit and cut):
                assert reference_answer(model, source, options).margin <= MARGIN
                continue
            num_different += 1
            kept = [tokens for tokens, _ in their if tokens not in cut]
            assert kept == [tokens for tokens in tokens_of(our) if tokens in kept]
    assert num_different > 2


@pytest.fixture(scope="module")
def of_last_layer(engine: EngineLoop) -> EngineLoop:
    """An engine whose coverage is that of the last layer, all heads."""
    manifest = manifest_pb2.Manifest.FromString(engine.bundle.manifest.SerializeToString())
    del manifest.attention.mean_heads[:]
    manifest.attention.mean_layers[:] = [manifest.attention.num_layers - 1]
    return started_engine(dataclasses.replace(engine.bundle, manifest=manifest))


@pytest.mark.parametrize("length_penalty", [0.0, 1.0])
def test_coverage_of_one_layer(
    engine: EngineLoop,
    of_last_layer: EngineLoop,
    model: Transformer,
    other: Other,
    sources: list[list[int]],
    length_penalty: float,
) -> None:
    """With the attention of the same heads the answers are equal; with other heads they differ."""
    layers = [model.config.num_decoder_layers - 1]
    options = DecodeOptions(4, 4, length_penalty=length_penalty, coverage_penalty=0.3)
    theirs = other.ask(sources, options, max_batch_size=1)
    served = ask(engine, sources, [options] * len(sources))
    num_near_ties = num_other = 0
    for index, our in enumerate(ask(of_last_layer, sources, [options] * len(sources))):
        num_other += tokens_of(our) != tokens_of(served[index])
        if tokens_of(our) != [tokens for tokens, _ in theirs[index]]:
            assert reference_answer(model, sources[index], options, heads=Heads(tuple(layers))).margin <= MARGIN
            num_near_ties += 1
            continue
        for one, (_, score) in zip(our.outcome.hypotheses, theirs[index], strict=True):
            norm = len(one.tokens) ** (1 - length_penalty)
            assert score == pytest.approx(one.score, abs=SCORE_TOLERANCE * norm * 3)
    assert num_near_ties <= MAX_NEAR_TIES * len(sources)
    assert num_other > 0, "the heads that are served have the same coverage"


def test_coverage_of_ctranslate2_depends_on_batch_mates(other: Other, sources: list[list[int]]) -> None:
    options = DecodeOptions(4, 4, coverage_penalty=0.3)
    together, alone = (other.ask(sources[:8], options, max_batch_size=size) for size in (8, 1))
    different = [abs(one[0][1] - another[0][1]) for one, another in zip(together, alone, strict=True) if one[0][0] == another[0][0]]
    assert max(different) > 0.1


def test_empty_source(engine: EngineLoop, other: Other) -> None:
    assert other.ask([[3]], DecodeOptions()) == [[([], 0.0)]]
    (answer,) = ask(engine, [[3]], [DecodeOptions()])
    assert answer.outcome.hypotheses[0].tokens


DRAWS = [Sampling(1, temperature=2.0, top_k=40), Sampling(1, temperature=2.5, top_p=0.8), Sampling(1, 3.0, 12, 0.7)]


@pytest.mark.parametrize("sampling", DRAWS, ids=str)
def test_same_distribution_of_draws(model: Transformer, other: Other, sources: list[list[int]], sampling: Sampling) -> None:
    ctranslate2.set_random_seed(4)
    src, num_draws = torch.tensor([sources[0]]), 1000
    log_probs = next_log_probs(model, model.encode(src), src, [[]], NO_RULES, BEGIN_ID, END_ID)[0]
    expected = distribution(log_probs, sampling)
    (drawn,) = other.ask(
        [sources[0]],
        DecodeOptions(num_hypotheses=num_draws, max_tokens=1),
        sampling_topk=sampling.top_k,
        sampling_topp=sampling.top_p,
        sampling_temperature=sampling.temperature,
    )
    tokens = [token for (token,), _ in drawn]
    assert p_value(tokens, expected) > 1e-3
    assert p_value(tokens, distribution(log_probs, replace(sampling, temperature=1.0))) < 1e-6
    for (token,), score in drawn[:20]:
        assert score == pytest.approx(float(log_probs[token]), abs=SCORE_TOLERANCE)
