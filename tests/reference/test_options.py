# SPDX-License-Identifier: Apache-2.0
"""The reference under all options, against answers found in other ways: by enumeration, by hand, and by perturbing the numbers."""

from __future__ import annotations

import collections
import itertools
import math
import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from attnserve_server.request import DecodeOptions, FinishReason, Sampling
from tests.reference import beam_search, sampling
from tests.reference.answer import reference_answer
from tests.reference.beam_search import BEGIN_ID, END_ID, Heads, SearchResult
from tests.reference.rules import Rules
from tests.reference.sampling import distribution, draw
from tests.reference.test_beam_search import CHAIN, SOURCE, A, B, C, Chain, random_chain, tokens_of

Scored = tuple[list[int], float]


def softmax(logits: list[float]) -> list[float]:
    powers = [math.exp(logit) for logit in logits]
    return [math.log(power / sum(powers)) if power else -math.inf for power in powers]


def ends_as_before(tokens: list[int], size: int) -> bool:
    """Whether the last n-gram occurs twice."""
    ngrams = [tuple(tokens[start : start + size]) for start in range(len(tokens) - size + 1)]
    return bool(size) and len(ngrams) > 1 and ngrams[-1] in ngrams[:-1]


def next_log_probs(chain: Chain, tokens: list[int], options: DecodeOptions) -> list[float]:
    """A second implementation of the rules, on lists: it checks the hypothesis extended by each token."""
    logits: list[float] = chain.logits[(tokens or [BEGIN_ID])[-1]].tolist()
    if len(tokens) < len(options.prefix):
        wanted = options.prefix[len(tokens)]
        return [value if token == wanted else -math.inf for token, value in enumerate(softmax(logits))]
    penalty, changed = options.repetition_penalty, []
    for token, logit in enumerate(logits):
        if token in tokens:
            logit = logit / penalty if logit > 0 else logit * penalty
        is_new = not ends_as_before([*tokens, token], options.no_repeat_ngram_size)
        may_end = token != END_ID or len(tokens) >= options.min_tokens
        changed.append(logit if is_new and may_end else -math.inf)
    return softmax(changed if max(changed) > -math.inf else logits)


def coverage(num_tokens: int, num_source: int) -> float:
    """Of a chain's alignments: half of the weight goes to one source token after the other, the other half to all alike."""
    pointed = [sum(step % num_source == at for step in range(num_tokens)) for at in range(num_source)]
    received = [0.5 * times + 0.5 * num_tokens / num_source for times in pointed]
    return sum(math.log(min(value, 1.0)) for value in received)


def enumerate_all(chain: Chain, options: DecodeOptions) -> list[Scored]:
    """Every possible sequence, with its score, best first."""
    results: list[Scored] = []
    live: list[Scored] = [([], 0.0)]
    while live:
        tokens, total = live.pop()
        for token, value in enumerate(next_log_probs(chain, tokens, options)):
            if value == -math.inf:
                continue
            said = [*tokens, token]
            if token != END_ID and len(said) < options.max_tokens:
                live.append((said, total + value))
                continue
            score = (total + value) / len(said) ** options.length_penalty
            results.append((said, score + options.coverage_penalty * coverage(len(said), len(SOURCE))))
    return sorted(results, key=lambda result: -result[1])


def random_options(rng: random.Random) -> DecodeOptions:
    return DecodeOptions(
        beam_size=200,
        num_hypotheses=200,
        length_penalty=rng.choice([0.0, 1.0, 1.4]),
        coverage_penalty=rng.choice([0.0, 0.5]),
        max_tokens=4,
        min_tokens=rng.choice([0, 0, 2, 4]),
        no_repeat_ngram_size=rng.choice([0, 1, 2]),
        repetition_penalty=rng.choice([1.0, 1.5, 0.6]),
        prefix=tuple(rng.choice([A, B, C]) for _ in range(rng.choice([0, 0, 1, 3]))),
    )


def lifted_chain(rng: random.Random) -> Chain:
    """A chain whose logits have both signs."""
    chain = random_chain(rng)
    chain.logits = chain.logits + 1.5
    return chain


def compare_with_enumeration(num_cases: int) -> None:
    rng = random.Random(7)
    for _ in range(num_cases):
        chain, options = lifted_chain(rng), random_options(rng)
        expected = enumerate_all(chain, options)
        result = reference_answer(chain, SOURCE, options)
        assert [one.score for one in result.hypotheses] == pytest.approx([score for _, score in expected], abs=1e-5)
        assert sorted(tokens_of(result)) == sorted(tokens for tokens, _ in expected)
        assert result.finished == result.hypotheses


def test_wide_beam_is_exhaustive_under_all_options() -> None:
    compare_with_enumeration(40)


FAULTS: dict[str, tuple[object, str, Callable[..., object]]] = {
    "penalty for all": (Rules, "_penalized", lambda self, tokens, logits: logits / self.repetition_penalty),
    "no n-grams": (Rules, "_repeated", lambda self, tokens: []),
    "n-grams are lists of all tokens": (Rules, "_repeated", lambda self, tokens: list(tokens) if self.no_repeat_ngram_size else []),
    "coverage of the last token": (
        beam_search,
        "teacher_forced_alignments",
        lambda model, source, tokens, *, begin_id: alignments(model, source, tokens, begin_id=begin_id)[-1:],
    ),
}
alignments = beam_search.teacher_forced_alignments


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_seen(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    where, name, value = FAULTS[fault]
    monkeypatch.setattr(where, name, value)
    with pytest.raises(AssertionError):
        compare_with_enumeration(40)


def test_repetition_penalty_by_hand() -> None:
    rules = Rules(repetition_penalty=2.0)
    logits = torch.tensor([1.0, -1.0, 3.0, 0.5])
    expected = torch.tensor([0.5, -2.0, 3.0, 0.5]).log_softmax(-1)
    assert torch.allclose(rules.log_probs([A, B, A, A], logits, END_ID), expected)
    assert torch.equal(rules.log_probs([], logits, END_ID), logits.log_softmax(-1))


def test_ngrams_by_hand() -> None:
    rules, logits = Rules(no_repeat_ngram_size=3), torch.zeros(4)
    # After A B C A B the trigram A B C is forbidden; after A B C A nothing is.
    assert rules.log_probs([A, B, C, A, B], logits, END_ID).isfinite().tolist() == [True, True, False, True]
    assert bool(rules.log_probs([A, B, C, A], logits, END_ID).isfinite().all())
    assert Rules(no_repeat_ngram_size=1).log_probs([A, C], logits, END_ID).isfinite().tolist() == [False, True, False, True]
    assert Rules(no_repeat_ngram_size=2).log_probs([A, A], logits, END_ID).isfinite().tolist() == [False, True, True, True]


def test_rules_that_leave_nothing_are_lifted_for_the_step() -> None:
    logits = torch.tensor([1.0, 2.0, 0.0, 9.0])
    rules = Rules(repetition_penalty=3.0, no_repeat_ngram_size=1, min_tokens=5)
    assert torch.equal(rules.log_probs([A, B, C], logits, END_ID), logits.log_softmax(-1))
    assert rules.log_probs([A, B], logits, END_ID).isfinite().tolist() == [False, False, True, False]


def test_prefix_is_said_and_scored_whatever_the_rules_say() -> None:
    chain = Chain(CHAIN)
    options = DecodeOptions(max_tokens=9, prefix=(A, A, A), no_repeat_ngram_size=1, repetition_penalty=5.0, length_penalty=0.0)
    (one,) = reference_answer(chain, SOURCE, options).hypotheses
    assert one.tokens[:3] == [A, A, A]
    # Then A is forbidden, and the end symbol (.4) is the best of the rest.
    assert one.tokens == [A, A, A, END_ID]
    assert one.sum == pytest.approx(math.log(0.5 * 0.1 * 0.1) + math.log(0.4 / 0.9), abs=1e-6)


def test_prefix_that_fills_the_length_is_the_answer() -> None:
    for options in (
        DecodeOptions(3, 3, max_tokens=2, prefix=(B, C)),
        DecodeOptions(num_hypotheses=3, max_tokens=2, prefix=(B, C), sampling=Sampling(1)),
    ):
        (one,) = reference_answer(Chain(CHAIN), SOURCE, options).hypotheses
        assert (one.tokens, one.finish_reason) == ([B, C], FinishReason.LENGTH)
        assert one.score == pytest.approx(math.log(0.3 * 0.1) / 2, abs=1e-6)


def test_nothing_but_the_end_symbol_left_ends_the_search() -> None:
    options = DecodeOptions(4, 4, max_tokens=9, no_repeat_ngram_size=1, prefix=(A, B, C))
    (one,) = reference_answer(Chain(CHAIN), SOURCE, options).hypotheses
    assert one.tokens == [A, B, C, END_ID]
    assert one.sum == pytest.approx(math.log(0.5 * 0.2 * 0.1), abs=1e-6)


class Blinking(Chain):
    """Two layers: the first looks at the first source token only, the second at none at all."""

    def decode(self, memory: Tensor, src: Tensor, tgt: Tensor) -> tuple[Tensor, list[Tensor]]:
        hidden, (weights,) = super().decode(memory, src, tgt)
        first = torch.zeros_like(weights)
        first[..., 0] = 1.0
        return hidden, [first, torch.zeros_like(weights)]


def test_coverage_by_hand() -> None:
    options = DecodeOptions(max_tokens=9, coverage_penalty=2.0)
    (one,) = reference_answer(Chain(CHAIN), SOURCE, options).hypotheses
    assert one.tokens == [A, END_ID]
    # Two steps, three source tokens: 1/2 + 1/3 for the first two, 1/3 for the last one.
    expected = math.log(0.5 * 0.4) / 2 + 2.0 * (2 * math.log(5 / 6) + math.log(1 / 3))
    assert one.score == pytest.approx(expected, abs=1e-6)
    assert one.error_factor == pytest.approx(1.0 + 2.0 * (2 * 6 / 5 + 3))
    assert one.score == pytest.approx(enumerate_score(one.tokens, options), abs=1e-6)


def enumerate_score(tokens: list[int], options: DecodeOptions) -> float:
    return next(score for said, score in enumerate_all(Chain(CHAIN), options) if said == tokens)


@pytest.mark.parametrize(("layers", "received"), [((0,), 2.0), ((1,), 0.0), ((), 1.0), ((0, 1), 1.0)])
def test_coverage_is_that_of_the_named_layers_and_bounded(layers: tuple[int, ...], received: float) -> None:
    options = DecodeOptions(max_tokens=9, coverage_penalty=1.0)
    (one,) = reference_answer(Blinking(CHAIN), SOURCE, options, heads=Heads(layers)).hypotheses
    first = math.log(min(max(received, 1e-9), 1.0))
    assert one.score == pytest.approx(math.log(0.5 * 0.4) / 2 + first + 2 * math.log(1e-9), abs=1e-5)


def test_coverage_may_change_the_order_but_not_what_finishes() -> None:
    options = DecodeOptions(3, 3, max_tokens=6, length_penalty=0.0)
    plain = reference_answer(Chain(CHAIN), SOURCE, options)
    covered = reference_answer(Chain(CHAIN), SOURCE, DecodeOptions(3, 3, max_tokens=6, length_penalty=0.0, coverage_penalty=5.0))
    assert plain.margin_of_finished == covered.margin_of_finished
    assert sorted(tokens_of(plain)) == sorted(tokens_of(covered))
    assert tokens_of(plain) != tokens_of(covered)
    assert len(covered.hypotheses[0].tokens) > len(plain.hypotheses[0].tokens)


def moved(chain: Chain, rng: random.Random, error: float) -> Chain:
    other = Chain(CHAIN)
    other.logits = chain.logits + error * torch.tensor([[rng.choice([-1.0, 1.0]) for _ in range(4)] for _ in range(3)])
    return other


def is_unmoved(before: SearchResult, after: SearchResult) -> bool:
    return tokens_of(before) == tokens_of(after)


def test_nothing_changes_within_the_margin() -> None:
    rng = random.Random(11)
    for _ in range(60):
        chain, beam_size, max_tokens = lifted_chain(rng), rng.choice([1, 2, 4]), rng.randint(2, 6)
        options = DecodeOptions(
            beam_size,
            beam_size,
            max_tokens=max_tokens,
            coverage_penalty=rng.choice([0.0, 0.7]),
            no_repeat_ngram_size=rng.choice([0, 2]),
            repetition_penalty=rng.choice([1.0, 2.0]),
            min_tokens=rng.choice([0, 2]),
        )
        result = reference_answer(chain, SOURCE, options)
        # As without rules, but a penalty makes a logit's error twice as large.
        error = 0.99 * result.margin / (4 * max_tokens * options.repetition_penalty)
        assert is_unmoved(result, reference_answer(moved(chain, rng, min(error, 1.0)), SOURCE, options))


def log_of(probabilities: list[float]) -> Tensor:
    return torch.tensor(probabilities, dtype=torch.float64).log().float()


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        (Sampling(0), [0.2, 0.4, 0.1, 0.3]),
        (Sampling(0, temperature=0.5), [4 / 30, 16 / 30, 1 / 30, 9 / 30]),
        (Sampling(0, top_k=2), [0, 4 / 7, 0, 3 / 7]),
        (Sampling(0, top_k=4), [0.2, 0.4, 0.1, 0.3]),
        (Sampling(0, top_k=9), [0.2, 0.4, 0.1, 0.3]),
        (Sampling(0, top_p=0.39), [0, 1, 0, 0]),
        (Sampling(0, top_p=0.41), [0, 4 / 7, 0, 3 / 7]),
        (Sampling(0, top_p=0.69), [0, 4 / 7, 0, 3 / 7]),
        (Sampling(0, top_p=0.71), [2 / 9, 4 / 9, 0, 3 / 9]),
        # 4/7 of what top_k left is more than a half, of the whole .4 would not be.
        (Sampling(0, top_k=2, top_p=0.5), [0, 1, 0, 0]),
        # With squared probabilities 16/30 is more than a half.
        (Sampling(0, temperature=0.5, top_p=0.5), [0, 1, 0, 0]),
        (Sampling(0, temperature=0.5, top_k=3, top_p=0.9), [4 / 29, 16 / 29, 0, 9 / 29]),
    ],
    ids=str,
)
def test_distributions_by_hand(how: Sampling, expected: list[float]) -> None:
    found = distribution(log_of([0.2, 0.4, 0.1, 0.3]), how)
    assert found.tolist() == pytest.approx(expected, abs=1e-6)


def test_equal_tokens_at_the_edge_go_by_their_id() -> None:
    assert distribution(log_of([0.25] * 4), Sampling(0, top_k=3)).tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0])


def test_draws_by_hand() -> None:
    log_probs = log_of([0.2, 0.4, 0.1, 0.3])
    # In the order of ids the steps are .2, .6, .7 and 1.
    token, margin = draw(log_probs, Sampling(0), 0.59)
    assert (token, margin) == (B, pytest.approx(0.01, abs=1e-6))
    assert draw(log_probs, Sampling(0), 0.05)[0] == A
    assert draw(log_probs, Sampling(0), 0.05)[1] == pytest.approx(0.15, abs=1e-6), "zero is no step"
    assert draw(log_probs, Sampling(0), 0.99)[1] == pytest.approx(0.29, abs=1e-6), "nor is one"
    assert draw(log_probs, Sampling(0, temperature=2.0), 0.0)[0] == A
    # By probability they are .4 (B), .7 (the end symbol), .9 (A): nearest is the one at .7.
    token, margin = draw(log_probs, Sampling(0, top_k=3), 0.7 / 0.9 + 0.02)
    assert (token, margin) == (A, pytest.approx(0.02, abs=1e-6))
    # The nucleus: .7 stays, top_p is .69.
    assert draw(log_probs, Sampling(0, top_p=0.69), 0.2)[1] == pytest.approx(0.01, abs=1e-6)
    # Adjacent tokens: B and the end symbol differ by .01.
    close = torch.tensor([-3.0, -1.0, -2.0, -1.01])
    assert draw(close, Sampling(0, top_k=2), 0.2) == (B, pytest.approx(0.01, abs=1e-6))


def test_draws_have_the_frequencies_of_the_chain() -> None:
    chain = Chain(CHAIN)
    options = DecodeOptions(num_hypotheses=400, max_tokens=3, min_tokens=1, sampling=Sampling(5), length_penalty=0.0)
    expected = {tuple(tokens): math.exp(score) for tokens, score in enumerate_all(chain, options)}
    assert sum(expected.values()) == pytest.approx(1.0)
    result = reference_answer(chain, SOURCE, options)
    found = collections.Counter(tuple(one.tokens) for one in result.hypotheses)
    assert set(found) <= set(expected)
    distance = sum(abs(found[tokens] / 400 - share) for tokens, share in expected.items()) / 2
    assert distance < 0.09, "far from what 400 draws of this chain can be"
    scores = [one.score for one in result.hypotheses]
    assert scores == sorted(scores, reverse=True)
    for one in result.hypotheses:
        assert one.score == pytest.approx(math.log(expected[tuple(one.tokens)]), abs=1e-5)


def test_draws_are_independent_of_how_many_there_are() -> None:
    def drawn(seed: int, count: int) -> set[tuple[int, ...]]:
        options = DecodeOptions(num_hypotheses=count, max_tokens=12, sampling=Sampling(seed, temperature=3.0))
        return {tuple(one.tokens) for one in reference_answer(Chain(CHAIN), SOURCE, options).hypotheses}

    assert drawn(2**64 - 1, 3) < drawn(2**64 - 1, 8)
    assert drawn(1, 3) != drawn(2, 3)


def test_numbers_are_those_of_philox(monkeypatch: pytest.MonkeyPatch) -> None:
    """53 bits of each of the stream's words, one for a token and none for the prefix."""
    taken: list[float] = []
    whole = sampling.draw

    def noted(log_probs: Tensor, how: Sampling, number: float) -> tuple[int, float]:
        taken.append(number)
        return whole(log_probs, how, number)

    monkeypatch.setattr(sampling, "draw", noted)
    options = DecodeOptions(max_tokens=5, min_tokens=5, prefix=(A, B), sampling=Sampling(2**63 + 1))
    reference_answer(Chain(CHAIN), SOURCE, options)
    words = np.random.Philox(key=np.array([2**63 + 1, 0], np.uint64)).random_raw(3)
    assert taken == [(int(word) >> 11) / 2**53 for word in words]


@pytest.mark.parametrize("how", [Sampling(3), Sampling(3, 0.4), Sampling(3, 2.0, top_k=3), Sampling(3, top_p=0.7)], ids=str)
def test_no_draw_changes_within_the_margin(how: Sampling) -> None:
    rng = random.Random(str(how))
    margins = []
    for _ in range(40):
        chain = random_chain(rng)
        options = DecodeOptions(num_hypotheses=2, max_tokens=4, sampling=how, repetition_penalty=2.0)
        result = reference_answer(chain, SOURCE, options)
        margins.append(result.margin)
        error = 0.99 * result.margin / (4 * 4 * options.repetition_penalty)
        assert is_unmoved(result, reference_answer(moved(chain, rng, min(error, 1.0)), SOURCE, options))
    assert sum(margin > 1e-4 for margin in margins) > 35


def test_pairs_of_equal_draws_have_no_margin() -> None:
    options = DecodeOptions(num_hypotheses=6, max_tokens=1, sampling=Sampling(1, top_k=1))
    result = reference_answer(Chain(CHAIN), SOURCE, options)
    assert all(one.tokens == other.tokens for one, other in itertools.pairwise(result.hypotheses))
    assert result.margin > 0.1
