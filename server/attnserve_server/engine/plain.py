# SPDX-License-Identifier: Apache-2.0
"""Plain greedy rows, decided all at once: no Python runs for a row until it ends."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


class PlainRows:
    """Tokens and scores of the row slots whose hypothesis takes the best token of each step and nothing else.

    Args:
        num_slots: rows at most.
        max_tokens: tokens of a hypothesis at most.
        end_id: the symbol that ends one.
    """

    def __init__(self, num_slots: int, max_tokens: int, end_id: int) -> None:
        self._end_id = end_id
        self._tokens = np.zeros((num_slots, max_tokens), np.int32)
        self._lengths, self._limits = np.zeros(num_slots, np.int32), np.zeros(num_slots, np.int32)
        self.totals = np.zeros(num_slots, np.float64)
        """Sum of the natural log-probabilities of each row's tokens: (num_slots,)."""
        self.is_plain = np.zeros(num_slots, bool)
        """Which rows are plain: (num_slots,)."""

    def begin(self, row: int, limit: int | None) -> None:
        """A row begins with no tokens; it is plain and takes ``limit`` of them at most, or it is not plain."""
        self.is_plain[row], self._limits[row] = limit is not None, limit or 0
        self._lengths[row] = self.totals[row] = 0

    def move(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        """Rows have moved to other slots; none of them is both source and target."""
        for values in (self._tokens, self._lengths, self._limits, self.totals, self.is_plain):
            values[targets] = values[sources]

    def rows_with(self, tokens: npt.NDArray[np.int64], token: int) -> list[int]:
        """The plain rows whose best token is this one, of the first ``len(tokens)`` rows."""
        rows: list[int] = np.flatnonzero(self.is_plain[: len(tokens)] & (tokens == token)).tolist()
        return rows

    def advance(self, tokens: npt.NDArray[np.int64], log_probs: npt.NDArray[np.float32]) -> list[int]:
        """Every plain row takes its token. Returns those that have ended with it.

        Args:
            tokens: the best token of each row (S,), rows that are not plain included.
            log_probs: its log-probability (S,).
        """
        rows = np.flatnonzero(self.is_plain[: len(tokens)])
        lengths = self._lengths[rows]
        chosen = tokens[rows]
        self._tokens[rows, lengths] = chosen
        self._lengths[rows] = lengths + 1
        self.totals[rows] += log_probs[rows]
        ended: list[int] = rows[(chosen == self._end_id) | (lengths + 1 >= self._limits[rows])].tolist()
        return ended

    def tokens(self, row: int) -> list[int]:
        """The tokens of a row."""
        tokens: list[int] = self._tokens[row, : self._lengths[row]].tolist()
        return tokens
