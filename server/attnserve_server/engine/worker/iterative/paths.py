# SPDX-License-Identifier: Apache-2.0
"""Searches that need nothing but the most probable tokens of a step, decided for all rows at once.

Greedy search and beam search without further rules are what servers are mostly asked for, and a step of all rows is short: each
search for itself, in Python, would take a third as long. Here tokens and scores of all rows lie in arrays. What a step means for
them is what ``decoding/search.py`` says; a search gets its tokens back when it ends, or when it needs more than this.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.integer]
Floats = npt.NDArray[np.floating]


class RowPaths:
    """The hypothesis of each row slot: its tokens and the sum of their log-probabilities.

    Args:
        num_slots: rows at most.
        max_tokens: tokens of a hypothesis at most.
    """

    def __init__(self, num_slots: int, max_tokens: int) -> None:
        self.tokens = np.zeros((num_slots, max_tokens), np.int32)
        """(num_slots, max_tokens); valid as far as ``positions`` says."""
        self.totals = np.zeros(num_slots, np.float64)
        """Sums of natural log-probabilities: (num_slots,)."""
        self.positions = np.zeros(num_slots, np.int32)
        """How many tokens each row has: (num_slots,). Counted for every row, however it is searched."""

    def of(self, row: int) -> list[int]:
        """The tokens of a row."""
        tokens: list[int] = self.tokens[row, : self.positions[row]].tolist()
        return tokens

    def put(self, row: int, tokens: Sequence[int], total: float) -> None:
        """Notes a hypothesis that was searched for elsewhere."""
        self.tokens[row, : len(tokens)], self.totals[row] = tokens, total

    def copy(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        """Copies rows, none of which is both source and target."""
        for values in (self.tokens, self.totals, self.positions):
            values[targets] = values[sources]


class GreedyRows:
    """The rows that take the best token of each step.

    Args:
        paths: of all rows.
        end_id: the symbol that ends a hypothesis.
    """

    def __init__(self, paths: RowPaths, end_id: int) -> None:
        num_slots = len(paths.positions)
        self._paths, self._end_id = paths, end_id
        self._limits, self._rows = np.zeros(num_slots, np.int32), np.arange(num_slots)
        self.mask = np.zeros(num_slots, bool)
        """Which rows they are: (num_slots,)."""
        self.count = 0
        """How many."""

    def begin(self, row: int, limit: int) -> None:
        """A row joins them, with no tokens yet; it takes ``limit`` of them at most."""
        self.count += 1
        self.mask[row], self._limits[row], self._paths.totals[row] = True, limit, 0.0

    def end(self, row: int) -> None:
        """A row is none of them any longer; nothing where it was not."""
        self.count -= int(self.mask[row])
        self.mask[row] = False

    def clear(self) -> None:
        """None is left."""
        self.mask[:], self.count = False, 0

    def move(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        """Rows have moved to other slots, which were free."""
        for values in (self._limits, self.mask):
            values[targets] = values[sources]
        self.mask[sources] = False

    def having(self, tokens: Ints, token: int) -> list[int]:
        """Those whose best token is this one, of the first ``len(tokens)`` rows."""
        rows: list[int] = np.flatnonzero(self.mask[: len(tokens)] & (tokens == token)).tolist()
        return rows

    def advance(self, tokens: Ints, log_probs: Floats) -> list[int]:
        """Every one takes its token; positions are the caller's to count. Returns those that end with it.

        Args:
            tokens: the best token of each row (S,), those of other rows too.
            log_probs: its log-probability (S,).
        """
        count, paths = len(tokens), self._paths
        positions, mask = paths.positions[:count], self.mask[:count]
        rows = self._rows[:count] if self.count == count else self._rows[:count][mask]
        paths.tokens[rows, positions[rows]] = tokens[rows]
        paths.totals[rows] += log_probs[rows]
        ended = ((tokens == self._end_id) | (positions + 1 >= self._limits[:count])) & mask
        return ended.nonzero()[0].tolist() if ended.any() else []


@dataclass(frozen=True, slots=True)
class BeamStep:
    """What a step means for n beams of K hypotheses each.

    Attributes:
        parents: for each hypothesis that lives on, best first, its parent's index (n, K).
        tokens: its last token (n, K).
        totals: the sum of its log-probabilities (n, K).
        places: index of the row that it takes, among those of its beam (n, K): a first child stays in its parent's row, the others
            take rows without children.
        ended: (beam, parent, total) of each hypothesis that has ended with the end symbol, in the order of finishing.
    """

    parents: Ints
    tokens: Ints
    totals: Floats
    places: Ints
    ended: list[tuple[int, int, float]]


def advance_beams(totals: Floats, tokens: Ints, log_probs: Floats, end_id: int) -> BeamStep:
    """One step of beam search for n beams of the same width K, as :meth:`BeamSearch.advance` defines it.

    Args:
        totals: of the live hypotheses (n, K).
        tokens: candidates of each, best first (n, K, 2K); of equal ones the lower token first.
        log_probs: their log-probabilities (n, K, 2K), all finite.
        end_id: the symbol that ends a hypothesis.
    """
    size, width, num_candidates = log_probs.shape
    sums = (totals[:, :, None] + log_probs).reshape(size, -1)  # (n, K * 2K)
    best = np.argsort(-sums, axis=1, kind="stable")[:, :num_candidates]  # (n, 2K)
    parents, best_tokens = best // num_candidates, np.take_along_axis(tokens.reshape(size, -1), best, 1)
    best_sums = np.take_along_axis(sums, best, 1)
    ends = best_tokens == end_id
    finished = [(int(i), int(parents[i, rank]), float(best_sums[i, rank])) for i, rank in np.argwhere(ends[:, :width])]
    lives = ~ends
    lives &= lives.cumsum(1) <= width
    chosen = lives.nonzero()  # K of each beam: no parent has the end symbol twice
    survivors = parents[chosen].reshape(size, width)
    return BeamStep(
        survivors,
        best_tokens[chosen].reshape(size, width),
        best_sums[chosen].reshape(size, width),
        _places(survivors),
        finished,
    )


def _places(parents: Ints) -> Ints:
    """The row that each child takes, by its index among those of its beam: (n, K) -> (n, K)."""
    width = parents.shape[1]
    is_same = parents[:, :, None] == parents[:, None, :]  # (n, child, child)
    is_later = (is_same & np.tri(width, k=-1, dtype=bool)).any(2)  # the parent has an earlier child
    has_child = (parents[:, :, None] == np.arange(width)).any(1)  # (n, row)
    free = np.argsort(has_child, axis=1, kind="stable")  # rows without children first
    turn = np.maximum(is_later.cumsum(1) - 1, 0)
    return np.where(is_later, np.take_along_axis(free, turn, 1), parents)
