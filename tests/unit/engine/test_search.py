# SPDX-License-Identifier: Apache-2.0
"""The searches against the reference, over a fake model."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from msgspec.structs import replace

from attnserve_server.decoding import rules
from attnserve_server.decoding import search as search_module
from attnserve_server.decoding.candidates import UniformGenerator
from attnserve_server.decoding.rules import Row
from attnserve_server.decoding.scoring import coverage_term, normalize
from attnserve_server.decoding.search import (
    BeamSearch,
    Candidates,
    GreedySearch,
    Path,
    SampleSearch,
    Search,
    Symbols,
    make_search,
)
from attnserve_server.execution.step import StepOutputs
from attnserve_server.request import DecodeOptions, FinishReason, Sampling
from tests.fakes.options import any_options
from tests.fakes.runner import BEGIN_ID, END_ID, VOCAB_SIZE, Toy, attention, log_probs
from tests.reference.answer import reference_answer
from tests.reference.beam_search import SearchResult

MARGIN = 1e-5
SYMBOLS = Symbols(END_ID)


def search_of(source: tuple[int, ...], options: DecodeOptions, num_candidates: int) -> list[tuple[list[int], float, FinishReason]]:
    """Drives a search as the batch does: the best candidates of each live hypothesis, or those that it chooses itself."""
    search = make_search(options, SYMBOLS, lambda path: coverage_of(source, path))
    while not search.is_done:
        scores = np.stack([log_probs(source, tuple(path.tokens)) for path in search.live])
        if search.needs_scores:
            candidates = [search.candidates(index, row, row) for index, row in enumerate(scores)]
            parents = search.advance([tokens for tokens, _ in candidates], [values for _, values in candidates])
        else:
            tokens, values = StepOutputs({"log_probs": scores}, None).top(range(len(scores)), num_candidates)
            parents = search.advance(tokens.tolist(), values.tolist())
        assert search.is_done or len(parents) == len(search.live)
    return [(found.path.tokens, found.score, found.reason) for found in search.results()]


def coverage_of(source: tuple[int, ...], path: Path) -> np.ndarray:
    rows = [attention(source, tuple(path.tokens[:count])) for count in range(len(path.tokens))]
    return np.stack(rows).mean((1, 2), dtype=np.float64).sum(0)


def reference(source: tuple[int, ...], options: DecodeOptions) -> SearchResult:
    return reference_answer(Toy(bool(options.coverage_penalty)), list(source), options, begin_id=BEGIN_ID, end_id=END_ID)


def random_source(rng: random.Random) -> tuple[int, ...]:
    return tuple(rng.randrange(VOCAB_SIZE) for _ in range(rng.randint(1, 6)))


def is_compared(source: tuple[int, ...], options: DecodeOptions, found: list[tuple[list[int], float, FinishReason]]) -> bool:
    """Compares an answer with the reference's, unless the margin of a choice is within rounding."""
    expected = reference(source, options)
    if expected.margin <= MARGIN:
        return False
    assert [(tokens, reason) for tokens, _, reason in found] == [(one.tokens, one.finish_reason) for one in expected.hypotheses]
    assert [score for _, score, _ in found] == pytest.approx([one.score for one in expected.hypotheses], abs=1e-5)
    return True


@pytest.mark.parametrize("beam_size", [1, 2, 3, 5, 8])
def test_same_as_the_reference(beam_size: int) -> None:
    rng = random.Random(beam_size)
    reasons, num_compared = set(), 0
    for _ in range(60):
        source = random_source(rng)
        options = DecodeOptions(
            beam_size=beam_size,
            num_hypotheses=rng.randint(1, beam_size),
            length_penalty=rng.choice([0.0, 0.6, 1.0, 2.0]),
            max_tokens=rng.choice([1, 2, 5, 12]),
        )
        found = search_of(source, options, 2 * beam_size)
        if is_compared(source, options, found):
            reasons |= {reason for _, _, reason in found}
            num_compared += 1
    assert num_compared > 50
    assert reasons == {FinishReason.STOP, FinishReason.LENGTH}


def compare_any_options(
    seed: int, count: int, told: Callable[[DecodeOptions], DecodeOptions] = lambda options: options
) -> Counter[str]:
    """Counts the compared answers, by option; ``told`` maps the options to those that the search gets."""
    rng, compared = random.Random(seed), Counter[str]()
    for _ in range(count):
        source, options = random_source(rng), any_options(rng.choice)
        if is_compared(source, options, search_of(source, told(options), 2 * options.beam_size)):
            compared.update(name for name in options.__struct_fields__ if getattr(options, name) != getattr(DecodeOptions(), name))
            compared["all"] += 1
    return compared


@pytest.mark.parametrize("seed", range(4))
def test_all_options_are_those_of_the_reference(seed: int) -> None:
    compared = compare_any_options(seed, 100)
    assert compared["all"] > 75
    assert min(compared.values()) > 15, compared


def changed_sampling(**changes: Callable[[Sampling], float]) -> Callable[[DecodeOptions], DecodeOptions]:
    def change(options: DecodeOptions) -> DecodeOptions:
        sampling = options.sampling
        if sampling is None:
            return options
        return replace(options, sampling=replace(sampling, **{name: value(sampling) for name, value in changes.items()}))

    return change


MISUNDERSTOOD: dict[str, Callable[[DecodeOptions], DecodeOptions]] = {
    "repetition penalty twice": lambda options: replace(options, repetition_penalty=options.repetition_penalty**2),
    "n-grams one longer": lambda options: replace(options, no_repeat_ngram_size=-~options.no_repeat_ngram_size % 4),
    "least length off by one": lambda options: replace(options, min_tokens=max(0, options.min_tokens - 1)),
    "prefix cut": lambda options: replace(options, prefix=options.prefix[:-1]),
    "coverage halved": lambda options: replace(options, coverage_penalty=options.coverage_penalty / 2),
    "temperature twice": changed_sampling(temperature=lambda sampling: sampling.temperature**2),
    "top_k off by one": changed_sampling(top_k=lambda sampling: sampling.top_k and sampling.top_k + 1),
    "top_p slightly off": changed_sampling(top_p=lambda sampling: sampling.top_p * 0.9),
    "another seed": changed_sampling(seed=lambda sampling: sampling.seed ^ 1),
}


@pytest.mark.parametrize("fault", MISUNDERSTOOD)
def test_a_misunderstood_option_is_seen(fault: str) -> None:
    with pytest.raises(AssertionError):
        compare_any_options(0, 60, MISUNDERSTOOD[fault])


@pytest.mark.parametrize("fault", ["prefix without score", "not normalized again", "one stream for all", "looked at by the last"])
def test_a_planted_fault_is_seen(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    candidates, finish = Search.candidates, Search._finish  # noqa: SLF001 - the place of a planted fault

    def without_score(self: Search, index: int, logits: Row, log_probs: Row) -> Candidates:
        tokens, values = candidates(self, index, logits, log_probs)
        return tokens, [0.0] if len(self.live[index].tokens) < len(self._options.prefix) else values

    def from_the_last(self: Search, path: Path, reason: FinishReason) -> None:
        whole = self._coverage
        self._coverage = whole and (lambda path: whole(path) / len(path.tokens))
        finish(self, path, reason)
        self._coverage = whole

    if fault == "prefix without score":
        monkeypatch.setattr(Search, "candidates", without_score)
    elif fault == "not normalized again":
        monkeypatch.setattr(rules, "_log_mass", lambda *_: 0.0)
    elif fault == "one stream for all":
        monkeypatch.setattr(search_module, "UniformGenerator", lambda seed, number: UniformGenerator(seed, 0))
    else:
        monkeypatch.setattr(Search, "_finish", from_the_last)
    with pytest.raises(AssertionError):
        compare_any_options(0, 60)


def test_make_search() -> None:
    assert isinstance(make_search(DecodeOptions(), SYMBOLS), GreedySearch)
    assert isinstance(make_search(DecodeOptions(beam_size=2), SYMBOLS), BeamSearch)
    assert isinstance(make_search(DecodeOptions(sampling=Sampling(1)), SYMBOLS), SampleSearch)


def test_greedy_stops_at_the_end_symbol_or_at_the_limit() -> None:
    search = GreedySearch(DecodeOptions(max_tokens=3, length_penalty=1.0), SYMBOLS)
    assert search.advance([[5, 6]], [[-0.5, -0.7]]) == [0]
    assert not search.is_done
    search.advance_one(END_ID, -0.25)
    assert search.is_done
    (found,) = search.results()
    assert (found.path.tokens, found.score, found.reason) == ([5, END_ID], -0.375, FinishReason.STOP)
    search = GreedySearch(DecodeOptions(max_tokens=2), SYMBOLS)
    search.advance_one(5, -1.0)
    search.advance_one(6, -1.0)
    assert search.results()[0].reason == FinishReason.LENGTH


def test_end_at_the_limit_is_an_end() -> None:
    search = GreedySearch(DecodeOptions(max_tokens=1), SYMBOLS)
    search.advance_one(END_ID, -1.0)
    assert [found.reason for found in search.results()] == [FinishReason.STOP]


def test_ties_go_to_the_earlier_parent_then_to_the_smaller_token() -> None:
    search = BeamSearch(DecodeOptions(beam_size=2, num_hypotheses=2), SYMBOLS)
    assert search.advance([[7, 5, 6]], [[-1.0, -1.0, -1.0]]) == [0, 0]
    assert [path.tokens for path in search.live] == [[5], [6]]
    assert search.advance([[9, 8], [4, 10]], [[-1.0, -1.0], [-1.0, -1.0]]) == [0, 0]
    assert [path.tokens for path in search.live] == [[5, 8], [5, 9]]


def test_end_symbol_below_the_beam_is_passed_over() -> None:
    search = BeamSearch(DecodeOptions(beam_size=2, num_hypotheses=2), SYMBOLS)
    search.advance([[5, 6, END_ID, 7]], [[-0.1, -0.2, -0.3, -0.4]])
    assert search.finished == []
    search.advance([[5, END_ID], [END_ID, 6]], [[-1.0, -3.0], [-0.1, -0.5]])
    assert [(found.path.tokens, found.reason) for found in search.finished] == [([6, END_ID], FinishReason.STOP)]
    assert [path.tokens for path in search.live] == [[6, 6], [5, 5]]


def test_hypotheses_share_no_lists() -> None:
    search = BeamSearch(DecodeOptions(beam_size=2, num_hypotheses=2), SYMBOLS)
    search.live[0].attention.append("first")
    search.advance([[5, 6]], [[-0.1, -0.2]])
    one, other = search.live
    one.attention.append("second")
    assert other.attention == ["first"]
    one.tokens.append(9)
    assert other.tokens == [6]


def test_normalization() -> None:
    assert normalize(-6.0, 3, 1.0) == -2.0
    assert normalize(-6.0, 3, 0.0) == -6.0
    assert normalize(-6.0, 4, 0.5) == -3.0
    assert coverage_term(np.array([0.5, 2.0, 1.0]), 2.0) == pytest.approx(2.0 * math.log(0.5))
