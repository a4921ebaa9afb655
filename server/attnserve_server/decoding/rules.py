# SPDX-License-Identifier: Apache-2.0
"""Rules on the next token of a hypothesis: minimum length, repeated n-grams, repetition penalty, unknown symbols.

Each rule changes the logits of a few tokens before the softmax, as in CTranslate2. Here the log-probabilities of one row are
corrected instead: the changed tokens individually, and all tokens by one constant that renormalizes the row.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from attnserve_server.request import DecodeOptions

Row = npt.NDArray[np.float32]
"""One value for each token of the vocabulary: (V,)."""

_LEAST_MASS = 0.5
"""If the rules leave less probability than this, it is summed again, because the incremental difference would lose precision."""


def has_rules(options: DecodeOptions) -> bool:
    """Whether any step of a request may need :meth:`Rules.adjust`."""
    return options.repetition_penalty != 1.0 or options.no_repeat_ngram_size > 0 or options.min_tokens > 0


class Rules:
    """The rules of one request.

    Args:
        options: ``min_tokens``, ``no_repeat_ngram_size`` and ``repetition_penalty`` are used.
        end_id: the end symbol, which ``min_tokens`` forbids.
        banned: tokens that are never chosen; the log-probabilities of the others do not change.
    """

    def __init__(self, options: DecodeOptions, end_id: int, banned: Sequence[int] = ()) -> None:
        self._min_tokens, self._ngram_size = options.min_tokens, options.no_repeat_ngram_size
        self._penalty, self._end_id, self._banned = options.repetition_penalty, end_id, list(banned)

    def is_active(self, num_tokens: int) -> bool:
        """Whether a hypothesis of ``num_tokens`` tokens needs :meth:`adjust`; banned tokens alone do not require it."""
        return self._penalty != 1.0 or self._ngram_size > 0 or num_tokens < self._min_tokens

    def adjust(self, tokens: Sequence[int], logits: Row, log_probs: Row) -> Row:
        """Returns the log-probabilities of the next token under the rules.

        Args:
            tokens: of the hypothesis so far.
            logits: (V,).
            log_probs: their log-softmax (V,).

        Returns:
            A new row (V,); minus infinity for forbidden tokens. If the rules forbid all tokens, the row is unchanged.
        """
        adjusted = log_probs.copy()
        changed: set[int] = set()
        if self._penalty != 1.0 and tokens:
            used = sorted(set(tokens))
            old = logits[used]
            adjusted[used] += np.where(old < 0, old * self._penalty, old / self._penalty) - old
            changed.update(used)
        forbidden = self._forbidden(tokens)
        adjusted[forbidden] = -np.inf
        changed.update(forbidden)
        if changed:
            adjusted -= np.float32(_log_mass(adjusted, log_probs, sorted(changed)))
        adjusted[self._banned] = -np.inf
        return adjusted if np.isfinite(adjusted.max()) else log_probs

    def _forbidden(self, tokens: Sequence[int]) -> list[int]:
        forbidden = [self._end_id] if len(tokens) < self._min_tokens else []
        size = self._ngram_size
        if 0 < size <= len(tokens):
            begun = list(tokens[len(tokens) - size + 1 :])
            ends = range(size - 1, len(tokens))
            forbidden += sorted({tokens[end] for end in ends if list(tokens[end - size + 1 : end]) == begun})
        return forbidden


def _log_mass(adjusted: Row, log_probs: Row, changed: list[int]) -> float:
    """Returns the logarithm of the sum of the probabilities of ``adjusted``, computed from the changed tokens if precise enough."""
    top = float(adjusted.max())
    if top <= 0.0:  # else a penalty below 1 has raised a token's probability above 1
        before, after = (np.exp(row[changed].astype(np.float64)).sum() for row in (log_probs, adjusted))
        mass = float(1.0 - before + after)
        if mass >= _LEAST_MASS:
            return float(np.log(mass))
    return top + float(np.log(np.exp(adjusted.astype(np.float64) - top).sum())) if np.isfinite(top) else 0.0
