# SPDX-License-Identifier: Apache-2.0
"""The definition of beam search, in simple PyTorch: one sentence at a time, the whole prefix is run again at each step.

The rules, which the server implements too, for a beam of size K (``beam_size``; 1 is greedy search):

* The search starts with one live hypothesis, which is empty. At each step log_softmax(logits), in float32, is added to the
  sum of each live hypothesis, in float64. These are the candidates: (live hypotheses) x (vocabulary), without those of probability
  zero. No token is special but the end symbol: padding, unknown and begin may be produced like any other. A forced prefix, the
  least length, and the rules against repetition change the logits before: see ``rules.py``.
* Candidates are ordered by sum, descending; then by the index of their hypothesis; then by token id. The first 2K are gone
  through in this order. One that is the end symbol becomes a finished hypothesis if its rank, from 0, is below K, else it
  is ignored. The others become the next live hypotheses, until there are K.
* The search stops after the first step that leaves K or more finished hypotheses, or no live one. Where that has not happened
  after ``max_tokens`` steps, the live hypotheses (which have ``max_tokens`` tokens, and get no further chance to end) are added to
  the finished ones, in their order, with reason LENGTH. Tokens of the prefix are steps like others.
* The score of a hypothesis is sum / num_tokens**length_penalty, where the end symbol counts as a token if it was produced, and the
  prefix in both. Added is coverage_penalty times the coverage (Wu et al. 2016, equation 14): the sum over all source tokens, the
  end symbol included, of log(min(c, 1)), where c is the attention that the token received while all tokens of the hypothesis were
  produced, in the mean over heads and over the layers that the model names for it; at least 1e-9, because otherwise one token
  without attention would make the score minus infinity.
* The answer is the first ``num_hypotheses`` by score, descending; of equal ones, the one that finished earlier comes first.

The margin of a search is the smallest of these gaps, infinite where there is none. The tokens of the answer and their order
change only if one of them closes, so they must be the same wherever the margin exceeds twice the largest error of a sum, of
log-probabilities or of attention.

1. *Cut*, at each step but the one that stops the search (its live hypotheses are not used): the sum of the last candidate that
   was kept live, minus that of the best candidate other than the end symbol that was not.
2. *End*, at each step: the sum of the worst end symbol of rank below K, minus that of the candidate of rank K; and the sum of
   the candidate of rank K - 1, minus that of the best end symbol of rank K or more. (For K = 1, 1. and 2. together are the gap
   between the two best tokens.)
3. *Order*, once: the difference of the scores of adjacent hypotheses in the final list, from the first pair to the one of the last
   returned hypothesis and the first that is not. With a coverage penalty, an error of a sum of attention moves a score by up to
   the penalty times the sum of 1 / c, over the tokens with c below 1, times that error: so the difference is divided by one more
   than that factor, the larger one of the two hypotheses'.

What a repetition penalty does to an error: that of a logit grows by the penalty (or by its inverse, where that is larger) at most,
and there is no gap at a logit of zero, because both of its sides meet there. What n-grams and the least length forbid follows from
tokens alone.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from attnserve_server.request import FinishReason
from tests.reference.rules import NO_RULES, Rules

BEGIN_ID, END_ID = 2, 3
LEAST_COVERAGE = 1e-9


class EncoderDecoder(Protocol):
    """What a model must have to be searched, see ``attnserve_export/models/transformer.py``."""

    def encode(self, src: Tensor) -> Tensor:
        """int64 (B, T_src), 0 where padded -> memory (B, T_src, ...)."""
        ...

    def decode(self, memory: Tensor, src: Tensor, tgt: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Hidden states (B, T_tgt, ...), and the alignments (B, heads, T_tgt, T_src) of each layer, if there are any."""
        ...

    def project(self, hidden: Tensor) -> Tensor:
        """(..., hidden) -> logits (..., vocabulary)."""
        ...


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """One result: ``alignments`` is (T_tgt, layers, heads, T_src) float32, one row for every token, the end symbol's included.

    ``sum`` is that of its log-probabilities; ``error_factor``, how much more than an error of a sum its score may be off.
    """

    tokens: list[int]
    score: float
    finish_reason: FinishReason
    alignments: Tensor | None = None
    sum: float = 0.0
    error_factor: float = 1.0


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The answer, best hypothesis first, and the margin of the choices that led to it (see the module's description).

    ``finished`` are all hypotheses that ended, best first, and ``margin_of_finished`` is the margin without the order.
    """

    hypotheses: list[Hypothesis]
    margin: float
    finished: list[Hypothesis]
    margin_of_finished: float


@dataclass(frozen=True, slots=True)
class Heads:
    """Heads whose alignments are averaged to one: these heads of these layers; all heads if none are named."""

    layers: tuple[int, ...] = ()
    heads: tuple[int, ...] = ()

    def mean(self, alignments: Tensor) -> Tensor:
        """(T_tgt, layers, heads, T_src) -> (T_tgt, T_src)."""
        by_layer = alignments[:, list(self.layers)] if self.layers else alignments
        return (by_layer[:, :, list(self.heads)] if self.heads else by_layer).mean((1, 2))


ALL_HEADS = Heads()


@dataclass(frozen=True, slots=True)
class Ranking:
    """The rule that ranks finished hypotheses.

    Args:
        length_penalty: the exponent of the length that a sum is divided by; 0 for none.
        coverage_penalty: the factor of the coverage.
        heads: heads whose alignments give the coverage.
    """

    length_penalty: float = 1.0
    coverage_penalty: float = 0.0
    heads: Heads = ALL_HEADS

    def ranked(
        self, model: EncoderDecoder, source: list[int], tokens: Sequence[int], total: float, reason: FinishReason, begin_id: int
    ) -> Hypothesis:
        """A finished hypothesis with its score."""
        score, error_factor = total / len(tokens) ** self.length_penalty, 1.0
        if self.coverage_penalty:
            alignments = teacher_forced_alignments(model, source, list(tokens), begin_id=begin_id).double()
            received = self.heads.mean(alignments).sum(0).clamp(min=LEAST_COVERAGE)
            score += self.coverage_penalty * float(received.clamp(max=1.0).log().sum())
            error_factor += self.coverage_penalty * float((1.0 / received[received < 1.0]).sum())
        return Hypothesis(list(tokens), score, reason, None, total, error_factor)


BY_MEAN = Ranking()
"""The mean log-probability."""


@dataclass(frozen=True, slots=True)
class _Live:
    tokens: tuple[int, ...]
    sum: float


@dataclass(frozen=True, slots=True)
class _Candidate:
    hypothesis: int
    token: int
    sum: float


@torch.no_grad()
def beam_search(
    model: EncoderDecoder,
    source: list[int],
    *,
    beam_size: int,
    max_tokens: int,
    num_hypotheses: int = 1,
    length_penalty: float = 1.0,
    coverage_penalty: float = 0.0,
    heads: Heads = ALL_HEADS,
    rules: Rules = NO_RULES,
    with_alignments: bool = False,
    begin_id: int = BEGIN_ID,
    end_id: int = END_ID,
) -> SearchResult:
    """Searches the best targets of one source.

    Args:
        model: in evaluation mode, on the CPU, float32.
        source: token ids, with their end symbol if the model was trained so.
        beam_size: K of the module's description.
        max_tokens: tokens of a hypothesis at most, at least one.
        num_hypotheses: number of results; fewer are returned only if the search had fewer.
        length_penalty: see :class:`Ranking`.
        coverage_penalty: see :class:`Ranking`.
        heads: see :class:`Ranking`.
        rules: the options that change the scores of a step.
        with_alignments: whether to compute them, by :func:`teacher_forced_alignments`.
        begin_id: token that starts a target.
        end_id: token that ends it.
    """
    ranking = Ranking(length_penalty, coverage_penalty, heads)
    src = torch.tensor([source], dtype=torch.int64)
    memory = model.encode(src)
    live = [_Live((), 0.0)]
    finished: list[Hypothesis] = []
    margin = math.inf

    def finish(tokens: tuple[int, ...], total: float, reason: FinishReason) -> None:
        finished.append(ranking.ranked(model, source, tokens, total, reason, begin_id))

    for _ in range(max_tokens):
        log_probs = next_log_probs(model, memory, src, [one.tokens for one in live], rules, begin_id, end_id)
        candidates = _candidates(live, log_probs, beam_size, end_id)
        next_live: list[_Live] = []
        for rank, candidate in enumerate(candidates[: 2 * beam_size]):
            tokens = (*live[candidate.hypothesis].tokens, candidate.token)
            if candidate.token == end_id:
                if rank < beam_size:
                    finish(tokens, candidate.sum, FinishReason.STOP)
            elif len(next_live) < beam_size:
                next_live.append(_Live(tokens, candidate.sum))
        margin = min(margin, _end_gap(candidates, beam_size, end_id))
        live = next_live
        if len(finished) >= beam_size or not live:
            break
        margin = min(margin, _cut_gap(candidates, beam_size, end_id))
    else:
        for hypothesis in live:
            finish(hypothesis.tokens, hypothesis.sum, FinishReason.LENGTH)

    result = answer_of(finished, num_hypotheses, margin)
    if not with_alignments:
        return result
    aligned = [
        replace(one, alignments=teacher_forced_alignments(model, source, one.tokens, begin_id=begin_id))
        for one in result.hypotheses
    ]
    return replace(result, hypotheses=aligned)


def answer_of(finished: list[Hypothesis], num_hypotheses: int, margin: float) -> SearchResult:
    """The answer from what has finished, in the order of finishing, and the margin of the choices until then."""
    finished = sorted(finished, key=lambda one: -one.score)  # stable: of equal scores the one that finished earlier
    order = math.inf
    for better, worse in itertools.pairwise(finished[: num_hypotheses + 1]):
        if better.tokens != worse.tokens:  # draws may be the same, and their order does not matter
            order = min(order, (better.score - worse.score) / max(better.error_factor, worse.error_factor))
    return SearchResult(finished[:num_hypotheses], min(margin, order), finished, margin)


@torch.no_grad()
def teacher_forced_alignments(model: EncoderDecoder, source: list[int], tokens: list[int], *, begin_id: int = BEGIN_ID) -> Tensor:
    """The attention with which ``model`` produces each of ``tokens``, given those before it.

    Returns:
        (T_tgt, layers, heads, T_src) float32, T_tgt = len(tokens): row t is that of the step which produced ``tokens[t]``.

    Raises:
        ValueError: if the model's ``decode`` gives no alignments.
    """
    src = torch.tensor([source], dtype=torch.int64)
    tgt = torch.tensor([[begin_id, *tokens[:-1]]], dtype=torch.int64)
    _, layers = model.decode(model.encode(src), src, tgt)
    if not layers:
        raise ValueError("the model gives no alignments")
    return torch.stack([layer[0] for layer in layers]).permute(2, 0, 1, 3)


@torch.no_grad()
def next_log_probs(
    model: EncoderDecoder,
    memory: Tensor,
    src: Tensor,
    hypotheses: Sequence[Sequence[int]],
    rules: Rules,
    begin_id: int,
    end_id: int,
) -> Tensor:
    """Log-probabilities (hypotheses, vocabulary) of what follows hypotheses of one length, under the rules."""
    tgt = torch.tensor([[begin_id, *tokens] for tokens in hypotheses], dtype=torch.int64)
    num_rows = len(hypotheses)
    hidden, _ = model.decode(memory.expand(num_rows, *memory.shape[1:]), src.expand(num_rows, -1), tgt)
    logits = model.project(hidden[:, -1]).float()
    return torch.stack([rules.log_probs(tokens, row, end_id) for tokens, row in zip(hypotheses, logits, strict=True)])


def _candidates(live: list[_Live], log_probs: Tensor, beam_size: int, end_id: int) -> list[_Candidate]:
    """The candidates of a step in their order: as many as the 2K that are used and the gaps beside them need."""
    sums = torch.tensor([hypothesis.sum for hypothesis in live], dtype=torch.float64)[:, None] + log_probs.double()
    flat, vocab_size = sums.flatten(), log_probs.shape[-1]
    # The first 2K, and for the gaps: K + 1 candidates that are not the end symbol stand among the first 2K + 1, because there
    # is one end symbol a hypothesis; and of the end symbols all are kept. What is as large as the last one of them is kept too.
    is_kept = flat >= flat.topk(min(len(flat), 2 * beam_size + 1)).values[-1]
    is_kept[end_id::vocab_size] = True
    kept = (is_kept & flat.isfinite()).nonzero().flatten()
    # A stable sort of what was flattened keeps equal sums in the order of hypothesis, then token.
    values, order = flat[kept].sort(descending=True, stable=True)
    return [
        _Candidate(index // vocab_size, index % vocab_size, value)
        for index, value in zip(kept[order].tolist(), values.tolist(), strict=True)
    ]


def _cut_gap(candidates: list[_Candidate], beam_size: int, end_id: int) -> float:
    """Gap 1 of the module's description."""
    others = [candidate.sum for candidate in candidates if candidate.token != end_id]
    return others[beam_size - 1] - others[beam_size] if len(others) > beam_size else math.inf


def _end_gap(candidates: list[_Candidate], beam_size: int, end_id: int) -> float:
    """Gap 2 of the module's description."""
    if len(candidates) <= beam_size:
        return math.inf
    gap = math.inf
    ends = [candidate.sum for candidate in candidates[:beam_size] if candidate.token == end_id]
    if ends:
        gap = ends[-1] - candidates[beam_size].sum
    later_ends = [candidate.sum for candidate in candidates[beam_size:] if candidate.token == end_id]
    if later_ends:
        gap = min(gap, candidates[beam_size - 1].sum - later_ends[0])
    return gap
