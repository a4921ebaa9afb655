# SPDX-License-Identifier: Apache-2.0
"""The definition of random sampling, in simple PyTorch: the distribution of a token, and whole draws from given random numbers.

The distribution, from log-probabilities under the rules (``rules.py``), all in float64:

1. *Temperature.* p = softmax(log-probabilities / temperature).
2. *top_k.* Of p the k largest stay (of equal ones, the lower token id), and are divided by their sum; 0 keeps all.
3. *top_p.* Of what is left, ordered by probability, descending (of equal ones, the lower token id first), the fewest first ones stay
   whose sum is top_p or more, and are divided by their sum.

A draw inverts the distribution function: the token is the first one whose cumulated probability exceeds the number. The tokens
are in the order of their ids, unless ``top_k`` (if it is less than the vocabulary) or ``top_p`` (if it is less than 1) applies: then
they are in descending order of probability.

An answer has ``num_hypotheses`` draws. Number n takes its numbers from Philox with the key (seed, n), one for each token after the
prefix, and ends with the end symbol or with ``max_tokens`` tokens. Its sum is of the log-probabilities under the rules, as step 1
finds them; scores and their order are those of ``beam_search.py``, and among equal scores what ended at an earlier step comes first.
A prefix of ``max_tokens`` tokens leaves nothing to draw: one hypothesis is the answer.

The margin, as in ``beam_search.py``, in units of a log-probability:

1. *Step*, for each token drawn: how far the number is from where the token's own part of the distribution function begins and ends
   (unless those are the function's own ends), times the temperature: an error of the log-probabilities moves the function by less
   than itself divided by the temperature.
2. *Adjacent tokens*, where tokens are in the order of their probability: the differences of the log-probability to that of the next
   more and the next less probable token, whether those could be drawn or not.
3. *Nucleus*, with ``top_p``: how far it is from the sums of what stays with and without the last one, times the temperature.
4. *Order*, as there; draws with the same tokens have none.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from attnserve_server.request import FinishReason, Sampling
from tests.reference.beam_search import (
    BEGIN_ID,
    BY_MEAN,
    END_ID,
    EncoderDecoder,
    Hypothesis,
    Ranking,
    SearchResult,
    answer_of,
    next_log_probs,
)
from tests.reference.rules import NO_RULES, Rules


@dataclass(frozen=True, slots=True)
class _Chosen:
    """The tokens that may be drawn, in the order of the distribution function, their probabilities, and the gap of the nucleus."""

    tokens: Tensor
    probs: Tensor
    is_by_probability: bool
    nucleus_gap: float


def distribution(log_probs: Tensor, sampling: Sampling) -> Tensor:
    """Probability (V,) float64 of each token to be drawn; zero for what cannot be."""
    chosen = _choose(log_probs, sampling)
    return torch.zeros(len(log_probs), dtype=torch.float64).scatter(0, chosen.tokens, chosen.probs)


def draw(log_probs: Tensor, sampling: Sampling, number: float) -> tuple[int, float]:
    """The token that a number of [0, 1) stands for, and its margin (gaps 1 to 3 of the module's description)."""
    chosen = _choose(log_probs, sampling)
    steps = chosen.probs.cumsum(0)
    steps = steps / steps[-1]
    place = int((steps <= number).sum())
    gaps = [chosen.nucleus_gap]
    if place and float(steps[place - 1]) > 0.0:
        gaps.append((number - float(steps[place - 1])) * sampling.temperature)
    if float(steps[place]) < 1.0:
        gaps.append((float(steps[place]) - number) * sampling.temperature)
    token = int(chosen.tokens[place])
    if chosen.is_by_probability:
        others = torch.cat([log_probs[:token], log_probs[token + 1 :]]).double()
        gaps.append(float((others - log_probs[token].double()).abs().min()))
    return token, min(gaps)


@torch.no_grad()
def sample(
    model: EncoderDecoder,
    source: list[int],
    sampling: Sampling,
    *,
    max_tokens: int,
    num_hypotheses: int = 1,
    ranking: Ranking = BY_MEAN,
    rules: Rules = NO_RULES,
    begin_id: int = BEGIN_ID,
    end_id: int = END_ID,
) -> SearchResult:
    """Draws targets of one source; arguments as in :func:`tests.reference.beam_search.beam_search`."""
    src = torch.tensor([source], dtype=torch.int64)
    memory = model.encode(src)
    num_draws = num_hypotheses if len(rules.prefix) < max_tokens else 1
    streams = [
        np.random.Generator(np.random.Philox(key=np.array([sampling.seed, number], np.uint64))) for number in range(num_draws)
    ]
    live: list[tuple[int, list[int], float]] = [(number, [], 0.0) for number in range(num_draws)]
    drawn: list[Hypothesis] = []
    margin = math.inf
    while live:
        rows = next_log_probs(model, memory, src, [tokens for _, tokens, _ in live], rules, begin_id, end_id)
        going_on = []
        for (number, tokens, total), log_probs in zip(live, rows, strict=True):
            if len(tokens) < len(rules.prefix):
                token = rules.prefix[len(tokens)]
            else:
                token, gap = draw(log_probs, sampling, streams[number].random())
                margin = min(margin, gap)
            tokens, total = [*tokens, token], total + float(log_probs[token])
            if token == end_id:
                drawn.append(ranking.ranked(model, source, tokens, total, FinishReason.STOP, begin_id))
            elif len(tokens) == max_tokens:
                drawn.append(ranking.ranked(model, source, tokens, total, FinishReason.LENGTH, begin_id))
            else:
                going_on.append((number, tokens, total))
        live = going_on
    return answer_of(drawn, num_hypotheses, margin)


def _choose(log_probs: Tensor, sampling: Sampling) -> _Chosen:
    vocab_size = len(log_probs)
    probs = (log_probs.double() / sampling.temperature).softmax(-1)
    if not 0 < sampling.top_k < vocab_size and sampling.top_p >= 1.0:
        return _Chosen(torch.arange(vocab_size), probs, False, math.inf)
    tokens = log_probs.argsort(descending=True, stable=True)[: sampling.top_k or vocab_size]
    probs = probs[tokens] / probs[tokens].sum()
    if sampling.top_p >= 1.0:
        return _Chosen(tokens, probs, True, math.inf)
    sums = probs.cumsum(0)
    count = min(int((sums < sampling.top_p).sum()) + 1, len(tokens))
    gap = float((sums[max(0, count - 2) : count] - sampling.top_p).abs().min()) * sampling.temperature
    return _Chosen(tokens[:count], probs[:count] / probs[:count].sum(), True, gap)
