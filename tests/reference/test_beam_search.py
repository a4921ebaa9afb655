# SPDX-License-Identifier: Apache-2.0
"""The reference search against answers found in other ways: by enumeration, by hand, and by perturbing the numbers."""

from __future__ import annotations

import itertools
import math
import random

import pytest
import torch
from torch import Tensor

from attnserve_server.request import FinishReason
from tests.reference.beam_search import BEGIN_ID, END_ID, SearchResult, beam_search, teacher_forced_alignments

SOURCE = [7, 5, END_ID]
A, B, C = 0, 1, 2  # the ordinary tokens of the toy vocabulary: padding, unknown and begin

# Probabilities of the next token A, B, C, end after each of A, B, C; C is also the begin symbol. Worked by hand below.
CHAIN = [
    [0.10, 0.20, 0.30, 0.40],
    [0.05, 0.15, 0.10, 0.70],
    [0.50, 0.30, 0.15, 0.05],
]


class Chain:
    """A Markov chain in the form of an encoder-decoder: the next token depends on the last one only.

    It has one layer with two heads of alignments: the first looks at source position t mod T_src at target position t, the
    second at all alike.
    """

    def __init__(self, probabilities: list[list[float]]) -> None:
        self.logits = torch.tensor(probabilities, dtype=torch.float64).log().float()
        self.log_probs: list[list[float]] = self.logits.log_softmax(-1).tolist()
        self.num_rows: list[int] = []

    def encode(self, src: Tensor) -> Tensor:
        return torch.zeros(*src.shape, 1)

    def decode(self, memory: Tensor, src: Tensor, tgt: Tensor) -> tuple[Tensor, list[Tensor]]:
        assert memory.shape[:2] == src.shape
        assert len(tgt) == len(src)
        assert bool((tgt[:, 0] == BEGIN_ID).all())
        self.num_rows.append(len(tgt))
        (rows, length), num_source = tgt.shape, src.shape[1]
        pointed = torch.eye(num_source)[torch.arange(length) % num_source].expand(rows, 1, -1, -1)
        return torch.nn.functional.one_hot(tgt, 3).float(), [torch.cat([pointed, torch.full_like(pointed, 1 / num_source)], 1)]

    def project(self, hidden: Tensor) -> Tensor:
        return hidden @ self.logits


def random_chain(rng: random.Random) -> Chain:
    rows = [[rng.random() ** 2 + 0.01 for _ in range(4)] for _ in range(3)]
    return Chain([[value / sum(row) for value in row] for row in rows])


def log_prob(chain: Chain, tokens: list[int]) -> float:
    return sum(chain.log_probs[last][token] for last, token in itertools.pairwise([BEGIN_ID, *tokens]))


def enumerate_all(chain: Chain, max_tokens: int, length_penalty: float) -> list[tuple[list[int], float, FinishReason]]:
    """Every sequence of the chain, with its score, best first."""
    results = []
    for length in range(max_tokens + 1):
        for body in itertools.product((A, B, C), repeat=length):
            is_full = length == max_tokens
            tokens = [*body] if is_full else [*body, END_ID]
            reason = FinishReason.LENGTH if is_full else FinishReason.STOP
            results.append((tokens, log_prob(chain, tokens) / len(tokens) ** length_penalty, reason))
    return sorted(results, key=lambda result: -result[1])


def tokens_of(result: SearchResult) -> list[list[int]]:
    return [hypothesis.tokens for hypothesis in result.hypotheses]


@pytest.mark.parametrize("length_penalty", [0.0, 0.6, 1.0, 2.0])
def test_wide_beam_is_exhaustive(length_penalty: float) -> None:
    rng = random.Random(1)
    for _ in range(2):
        chain = random_chain(rng)
        expected = enumerate_all(chain, 4, length_penalty)
        assert len(expected) == 1 + 3 + 9 + 27 + 81
        result = beam_search(chain, SOURCE, beam_size=200, max_tokens=4, num_hypotheses=200, length_penalty=length_penalty)
        assert len(result.hypotheses) == len(expected)
        assert [one.score for one in result.hypotheses] == pytest.approx([score for _, score, _ in expected], abs=1e-12)
        for one in result.hypotheses:  # by content, because rounding may swap what is equal: A·B and B·A share factors
            assert one.score == pytest.approx(log_prob(chain, one.tokens) / len(one.tokens) ** length_penalty, abs=1e-12)
            assert one.finish_reason == (FinishReason.STOP if one.tokens[-1] == END_ID else FinishReason.LENGTH)
        assert sorted(tokens_of(result)) == sorted(tokens for tokens, _, _ in expected)
        best = beam_search(chain, SOURCE, beam_size=200, max_tokens=4, length_penalty=length_penalty)
        assert best.hypotheses[0].score == pytest.approx(expected[0][1], abs=1e-12)
        assert best.margin == pytest.approx(expected[0][1] - expected[1][1], abs=1e-12)


def search_by_sorting(
    chain: Chain, beam_size: int, max_tokens: int, num_hypotheses: int, length_penalty: float
) -> list[tuple[list[int], float, FinishReason]]:
    """A second implementation of the rules, on lists and tuples only."""
    live: list[tuple[list[int], float]] = [([], 0.0)]
    finished: list[tuple[list[int], float, FinishReason]] = []
    for _ in range(max_tokens):
        ranked = sorted(
            (-(total + chain.log_probs[(tokens or [BEGIN_ID])[-1]][token]), index, token)
            for index, (tokens, total) in enumerate(live)
            for token in range(4)
        )[: 2 * beam_size]
        for negative, index, token in ranked[:beam_size]:
            if token == END_ID:
                tokens = [*live[index][0], END_ID]
                finished.append((tokens, -negative / len(tokens) ** length_penalty, FinishReason.STOP))
        live = [([*live[index][0], token], -negative) for negative, index, token in ranked if token != END_ID][:beam_size]
        if len(finished) >= beam_size:
            break
    if len(finished) < beam_size:
        finished += [(tokens, total / len(tokens) ** length_penalty, FinishReason.LENGTH) for tokens, total in live]
    return sorted(finished, key=lambda result: -result[1])[:num_hypotheses]


@pytest.mark.parametrize("beam_size", [1, 2, 3, 5])
def test_narrow_beams_follow_the_rules(beam_size: int) -> None:
    rng = random.Random(beam_size)
    for _ in range(40):
        chain, max_tokens, penalty = random_chain(rng), rng.randint(1, 7), rng.choice([0.0, 1.0, 1.4])
        result = beam_search(
            chain, SOURCE, beam_size=beam_size, max_tokens=max_tokens, num_hypotheses=beam_size, length_penalty=penalty
        )
        expected = search_by_sorting(chain, beam_size, max_tokens, beam_size, penalty)
        assert [(one.tokens, one.finish_reason) for one in result.hypotheses] == [(tokens, why) for tokens, _, why in expected]
        assert [one.score for one in result.hypotheses] == pytest.approx([score for _, score, _ in expected], abs=1e-12)
        assert max(chain.num_rows) <= beam_size


def test_greedy_by_hand() -> None:
    # begin -> A (.5), A -> end (.4): the gaps are .5 to .3, then .4 to .3.
    result = beam_search(Chain(CHAIN), SOURCE, beam_size=1, max_tokens=9)
    (hypothesis,) = result.hypotheses
    assert hypothesis.tokens == [A, END_ID]
    assert hypothesis.finish_reason == FinishReason.STOP
    assert hypothesis.score == pytest.approx(math.log(0.5 * 0.4) / 2, abs=1e-6)
    assert hypothesis.alignments is None
    assert result.margin == pytest.approx(math.log(0.4 / 0.3), abs=1e-6)


def test_beam_of_two_by_hand() -> None:
    # Step 1: A .5 and B .3 live. Step 2: [B end] .21 and [A end] .20 have ranks 0 and 1: both finish, K = 2 are there.
    # Rank 2 is [A C] .15: the end gap is .20 to .15; the cut of step 1 was .3 to .15; the two scores are log .21 / 2, log .20 / 2.
    result = beam_search(Chain(CHAIN), SOURCE, beam_size=2, max_tokens=9, num_hypotheses=2)
    assert tokens_of(result) == [[B, END_ID], [A, END_ID]]
    assert [one.score for one in result.hypotheses] == pytest.approx([math.log(0.21) / 2, math.log(0.20) / 2], abs=1e-6)
    assert result.margin == pytest.approx(math.log(0.21 / 0.20) / 2, abs=1e-6)


def test_end_symbol_beyond_the_beam_is_ignored() -> None:
    # Step 1: A .4 and B .35 live, the end symbol (.2) has rank 2 = K and is ignored, though its score would have been the best
    # by far: everything after A and B is unlikely to end.
    chain = Chain([[0.98, 0.009, 0.009, 0.002], [0.009, 0.98, 0.009, 0.002], [0.4, 0.35, 0.05, 0.2]])
    result = beam_search(chain, SOURCE, beam_size=2, max_tokens=2, num_hypotheses=5)
    assert tokens_of(result) == [[A, A], [B, B]]
    assert {one.finish_reason for one in result.hypotheses} == {FinishReason.LENGTH}
    # The smallest gap is that of the final scores: log(.4 / .35) / 2; were it not asked for, rank 1 to rank 2 of step 1.
    assert result.margin == pytest.approx(math.log(0.4 / 0.35) / 2, abs=1e-6)
    wider = beam_search(chain, SOURCE, beam_size=3, max_tokens=2, num_hypotheses=5)
    assert [END_ID] in tokens_of(wider)


def test_an_end_symbol_near_the_edge_of_the_beam_is_in_the_margin() -> None:
    # K = 2, step 1: end .3001 has rank 0; A .2999 rank 1; B .2998 rank 2. Ranks 1 and 2 are both live whatever their order, but
    # the end symbol would be lost if it fell below both.
    chain = Chain([[0.01, 0.01, 0.01, 0.97], [0.1, 0.1, 0.1, 0.7], [0.2999, 0.2998, 0.1002, 0.3001]])
    result = beam_search(chain, SOURCE, beam_size=2, max_tokens=4, length_penalty=0.0)
    assert result.hypotheses[0].tokens == [END_ID]
    assert result.margin == pytest.approx(math.log(0.3001 / 0.2998), abs=2e-6)


def test_length_limit_ends_every_live_hypothesis() -> None:
    chain = Chain([[0.90, 0.05, 0.04, 0.01], [0.05, 0.90, 0.04, 0.01], [0.5, 0.4, 0.09, 0.01]])
    result = beam_search(chain, SOURCE, beam_size=2, max_tokens=5, num_hypotheses=2)
    assert tokens_of(result) == [[A] * 5, [B] * 5]
    assert [one.finish_reason for one in result.hypotheses] == [FinishReason.LENGTH] * 2
    assert result.hypotheses[0].score == pytest.approx(math.log(0.5 * 0.9**4) / 5, abs=1e-6)
    assert len(chain.num_rows) == 5


def test_ties_go_to_the_lower_hypothesis_then_the_lower_token_then_the_earlier_finish() -> None:
    # Exactly equal float32 numbers: all logits are zero.
    chain = Chain([[1.0] * 4] * 3)
    result = beam_search(chain, SOURCE, beam_size=3, max_tokens=2, num_hypotheses=3)
    # Step 1: A, B, C live, the end symbol has rank 3 and is ignored. Step 2: A A, A B, A C live; A end has rank 3.
    assert tokens_of(result) == [[A, A], [A, B], [A, C]]
    assert result.margin == 0.0
    wide = beam_search(chain, SOURCE, beam_size=4, max_tokens=2, num_hypotheses=4)
    # Score log(1/4) for all: the end symbol of step 1 finished first; A end of step 2 has rank 3, below K = 4.
    assert tokens_of(wide) == [[END_ID], [A, END_ID], [A, A], [A, B]]


@pytest.mark.parametrize("beam_size", [1, 2, 4])
def test_nothing_changes_within_the_margin(beam_size: int) -> None:
    rng = random.Random(100 + beam_size)
    for _ in range(30):
        chain, max_tokens, wanted = random_chain(rng), rng.randint(2, 6), rng.randint(1, beam_size)
        result = beam_search(chain, SOURCE, beam_size=beam_size, max_tokens=max_tokens, num_hypotheses=wanted)
        # A logit's error d moves a log-probability by 2d at most, a sum by 2d * max_tokens, a gap by twice that.
        error = 0.99 * result.margin / (4 * max_tokens)
        moved = Chain(CHAIN)
        moved.logits = chain.logits + error * torch.tensor([[rng.choice([-1.0, 1.0]) for _ in range(4)] for _ in range(3)])
        again = beam_search(moved, SOURCE, beam_size=beam_size, max_tokens=max_tokens, num_hypotheses=wanted)
        assert tokens_of(again) == tokens_of(result)


def test_alignments_are_those_of_the_producing_steps() -> None:
    chain = Chain(CHAIN)
    result = beam_search(chain, SOURCE, beam_size=2, max_tokens=9, num_hypotheses=2, with_alignments=True)
    for hypothesis in result.hypotheses:
        assert hypothesis.alignments is not None
        assert hypothesis.alignments.shape == (len(hypothesis.tokens), 1, 2, len(SOURCE))
        assert hypothesis.alignments[:, 0, 0].argmax(-1).tolist() == [step % 3 for step in range(len(hypothesis.tokens))]
        assert torch.equal(hypothesis.alignments, teacher_forced_alignments(chain, SOURCE, hypothesis.tokens))


def test_a_model_without_alignments_is_refused() -> None:
    class Blind(Chain):
        def decode(self, memory: Tensor, src: Tensor, tgt: Tensor) -> tuple[Tensor, list[Tensor]]:
            return super().decode(memory, src, tgt)[0], []

    with pytest.raises(ValueError, match="no alignments"):
        teacher_forced_alignments(Blind(CHAIN), SOURCE, [A, END_ID])
