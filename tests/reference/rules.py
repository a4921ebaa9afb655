# SPDX-License-Identifier: Apache-2.0
"""The effect of options on the scores of a step, in simple PyTorch: on all logits of one hypothesis, before the softmax.

For a hypothesis of the tokens y_1 ... y_t, in this order:

1. *Prefix.* Where t is less than the length of the prefix, y_{t+1} is the prefix's next token, and its log-probability is that of
   log_softmax(logits) as the model gave them. The other rules do not apply.
2. *Repetition.* The logit x of each token among y_1 ... y_t (the prefix included, the begin symbol not) becomes x / penalty where
   x >= 0 and x * penalty where x < 0, once, however often the token is there.
3. *n-grams.* A token that would make the last n tokens the same as n successive tokens before gets the logit minus infinity.
4. *Least length.* Where t is less than ``min_tokens``, the end symbol gets the logit minus infinity.
5. Where no finite logit is left, 2. to 4. do not apply to this step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Rules:
    """The options of the module's description; the defaults change nothing."""

    prefix: tuple[int, ...] = ()
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    min_tokens: int = 0

    def log_probs(self, tokens: Sequence[int], logits: Tensor, end_id: int) -> Tensor:
        """Log-probabilities (V,) of the token after ``tokens``, float32; minus infinity for what cannot follow.

        Args:
            tokens: of the hypothesis so far.
            logits: (V,), as the model gave them.
            end_id: token that ends a target.
        """
        if len(tokens) < len(self.prefix):
            forced = torch.full_like(logits, -math.inf)
            token = self.prefix[len(tokens)]
            forced[token] = logits.log_softmax(-1)[token]
            return forced
        changed = self._penalized(tokens, logits)
        changed[self._repeated(tokens)] = -math.inf
        if len(tokens) < self.min_tokens:
            changed[end_id] = -math.inf
        return (changed if bool(changed.isfinite().any()) else logits).log_softmax(-1)

    def _penalized(self, tokens: Sequence[int], logits: Tensor) -> Tensor:
        if self.repetition_penalty == 1.0:
            return logits.clone()
        is_used = torch.zeros(len(logits), dtype=torch.bool)
        is_used[list(tokens)] = True
        penalized = torch.where(logits < 0, logits * self.repetition_penalty, logits / self.repetition_penalty)
        return torch.where(is_used, penalized, logits)

    def _repeated(self, tokens: Sequence[int]) -> list[int]:
        size = self.no_repeat_ngram_size
        if not size:
            return []
        seen = {tuple(tokens[start : start + size]) for start in range(len(tokens) - size + 1)}
        last = tuple(tokens[max(0, len(tokens) - size + 1) :])
        return [ngram[-1] for ngram in seen if ngram[:-1] == last]


NO_RULES = Rules()
