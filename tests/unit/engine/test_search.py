# SPDX-License-Identifier: Apache-2.0
"""Greedy and beam search against the reference, over a made-up model."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from attnserve_server.decoding.scoring import coverage_term, normalize
from attnserve_server.decoding.search import BeamSearch, GreedySearch, SampleSearch, Symbols, make_search
from attnserve_server.execution.runner import StepOutputs
from attnserve_server.request import DecodeOptions, FinishReason, Sampling
from tests.reference.beam_search import SearchResult, beam_search
from tests.unit.engine.fakes import BEGIN_ID, END_ID, VOCAB_SIZE, Toy, log_probs

MARGIN = 1e-5
SYMBOLS = Symbols(END_ID)


def search_of(source: tuple[int, ...], options: DecodeOptions, num_candidates: int) -> list[tuple[list[int], float, FinishReason]]:
    """Drives a search as the batch does: the best candidates of each live hypothesis."""
    search = make_search(options, SYMBOLS)
    while not search.is_done:
        scores = np.stack([log_probs(source, tuple(path.tokens)) for path in search.live])
        tokens, values = StepOutputs({"log_probs": scores}, None).top(range(len(scores)), num_candidates)
        parents = search.advance(tokens.tolist(), values.tolist())
        assert len(parents) == len(search.live)
    return [(found.path.tokens, found.score, found.reason) for found in search.results()]


def reference(source: tuple[int, ...], options: DecodeOptions) -> SearchResult:
    return beam_search(
        Toy(),
        list(source),
        beam_size=options.beam_size,
        max_tokens=options.max_tokens,
        num_hypotheses=options.num_hypotheses,
        length_penalty=options.length_penalty,
        begin_id=BEGIN_ID,
        end_id=END_ID,
    )


@pytest.mark.parametrize("beam_size", [1, 2, 3, 5, 8])
def test_same_as_the_reference(beam_size: int) -> None:
    rng = random.Random(beam_size)
    reasons, num_compared = set(), 0
    for _ in range(60):
        source = tuple(rng.randrange(VOCAB_SIZE) for _ in range(rng.randint(1, 6)))
        options = DecodeOptions(
            beam_size=beam_size,
            num_hypotheses=rng.randint(1, beam_size),
            length_penalty=rng.choice([0.0, 0.6, 1.0, 2.0]),
            max_tokens=rng.choice([1, 2, 5, 12]),
        )
        expected = reference(source, options)
        if expected.margin <= MARGIN:
            continue
        found = search_of(source, options, 2 * beam_size)
        assert [(tokens, reason) for tokens, _, reason in found] == [(one.tokens, one.finish_reason) for one in expected.hypotheses]
        assert [score for _, score, _ in found] == pytest.approx([one.score for one in expected.hypotheses], abs=1e-5)
        reasons |= {reason for _, _, reason in found}
        num_compared += 1
    assert num_compared > 50
    assert reasons == {FinishReason.STOP, FinishReason.LENGTH}


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
