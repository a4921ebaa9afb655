# SPDX-License-Identifier: Apache-2.0
"""Beam search as it is meant, in plain PyTorch: one sentence at a time, the whole prefix run again at each step.

The rules, which the server implements too, for a beam of size K (``beam_size``; 1 is greedy search):

* The search starts with one live hypothesis, which is empty. At each step log_softmax(logits), in float32, is added to the
  sum of each live hypothesis, in float64. These are the candidates: (live hypotheses) x (vocabulary). No token is special
  but the end symbol: padding, unknown and begin may be produced like any other.
* Candidates are ordered by sum, descending; then by the index of their hypothesis; then by token id. The first 2K are gone
  through in this order. One that is the end symbol becomes a finished hypothesis if its rank, from 0, is below K, else it
  is ignored. The others become the next live hypotheses, until there are K.
* The search stops after the first step that leaves K or more finished hypotheses. Where that has not happened after
  ``max_tokens`` steps, the live hypotheses (which have ``max_tokens`` tokens, and get no further chance to end) are added to
  the finished ones, in their order, with reason LENGTH.
* The score of a hypothesis is sum / num_tokens**length_penalty, where the end symbol counts as a token if it was produced.
  The answer is the first ``num_hypotheses`` by score, descending; of equal ones, the one that finished earlier comes first.

The margin of a search is the smallest of these gaps, infinite where there is none. The tokens of the answer and their order
change only if one of them closes, so they must be the same wherever the margin exceeds twice the largest error of a sum.

1. *Cut*, at each step but the one that stops the search (its live hypotheses are not used): the sum of the last candidate that
   was kept live, minus that of the best candidate other than the end symbol that was not.
2. *End*, at each step: the sum of the worst end symbol of rank below K, minus that of the candidate of rank K; and the sum of
   the candidate of rank K - 1, minus that of the best end symbol of rank K or more. (For K = 1, 1. and 2. together are the gap
   between the two best tokens.)
3. *Order*, once: the difference of the scores of neighbours in the final list, from the first pair to the one of the last
   returned hypothesis and the first that is not.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from attnserve_server.request import FinishReason

BEGIN_ID, END_ID = 2, 3


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
    """One result: ``alignments`` is (T_tgt, layers, heads, T_src) float32, one row for every token, the end symbol's included."""

    tokens: list[int]
    score: float
    finish_reason: FinishReason
    alignments: Tensor | None = None


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The answer, best hypothesis first, and the margin of the choices that led to it (see the module's description)."""

    hypotheses: list[Hypothesis]
    margin: float


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
        num_hypotheses: results wanted; fewer come back only where the search had fewer.
        length_penalty: the exponent of the length that a sum is divided by; 0 for none.
        with_alignments: whether to compute them, by :func:`teacher_forced_alignments`.
        begin_id: token that starts a target.
        end_id: token that ends it.
    """
    src = torch.tensor([source], dtype=torch.int64)
    memory = model.encode(src)
    live = [_Live((), 0.0)]
    finished: list[Hypothesis] = []
    margin = math.inf

    def finish(tokens: tuple[int, ...], total: float, reason: FinishReason) -> None:
        finished.append(Hypothesis(list(tokens), total / len(tokens) ** length_penalty, reason))

    for _ in range(max_tokens):
        candidates = _candidates(model, memory, src, live, begin_id, beam_size, end_id)
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
        if len(finished) >= beam_size:
            break
        margin = min(margin, _cut_gap(candidates, beam_size, end_id))
    else:
        for hypothesis in live:
            finish(hypothesis.tokens, hypothesis.sum, FinishReason.LENGTH)

    finished.sort(key=lambda hypothesis: -hypothesis.score)  # stable: of equal scores the one that finished earlier
    for better, worse in itertools.pairwise(finished[: num_hypotheses + 1]):
        margin = min(margin, better.score - worse.score)
    chosen = finished[:num_hypotheses]
    if with_alignments:
        chosen = [
            Hypothesis(
                one.tokens, one.score, one.finish_reason, teacher_forced_alignments(model, source, one.tokens, begin_id=begin_id)
            )
            for one in chosen
        ]
    return SearchResult(chosen, margin)


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


def _candidates(
    model: EncoderDecoder, memory: Tensor, src: Tensor, live: list[_Live], begin_id: int, beam_size: int, end_id: int
) -> list[_Candidate]:
    """The candidates of a step in their order: as many as the 2K that are used and the gaps beside them need."""
    tgt = torch.tensor([[begin_id, *hypothesis.tokens] for hypothesis in live], dtype=torch.int64)
    num_rows = len(live)
    hidden, _ = model.decode(memory.expand(num_rows, *memory.shape[1:]), src.expand(num_rows, -1), tgt)
    log_probs = model.project(hidden[:, -1]).float().log_softmax(-1)
    sums = torch.tensor([hypothesis.sum for hypothesis in live], dtype=torch.float64)[:, None] + log_probs.double()
    # A stable sort of the flattened matrix keeps equal sums in the order of hypothesis, then token.
    values, order = sums.flatten().sort(descending=True, stable=True)
    vocab_size = log_probs.shape[-1]
    # The first 2K, and for the gaps: K + 1 candidates that are not the end symbol stand among the first 2K + 1, because there
    # is one end symbol a hypothesis; and of the end symbols all are kept.
    is_kept = (torch.arange(len(order)) <= 2 * beam_size) | (order % vocab_size == end_id)
    kept = zip(order[is_kept].tolist(), values[is_kept].tolist(), strict=True)
    return [_Candidate(index // vocab_size, index % vocab_size, value) for index, value in kept]


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
