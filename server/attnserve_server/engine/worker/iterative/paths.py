# SPDX-License-Identifier: Apache-2.0
"""Vectorized search: searches that need only the most probable tokens of a step are advanced for all rows at once.

Most requests use greedy or beam search without further rules. Advancing them one by one in Python would take a third of the time of
a step. Here tokens and scores of all rows are arrays. The semantics are those of ``decoding/search.py``; a search object gets its
tokens back when the search ends, or when it needs more than this module offers.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

MAX_TABLE_WIDTH = 5
"""Places of wider beams are computed: a table has K^K entries."""
Ints = npt.NDArray[np.integer]
Floats = npt.NDArray[np.floating]


class RowPaths:
    """The hypothesis in each row slot: its tokens and the sum of their log-probabilities.

    Args:
        positions: number of tokens of each row (num_slots,). The caller counts them for all rows, vectorized or not.
        max_tokens: maximum tokens of a hypothesis.
    """

    def __init__(self, positions: npt.NDArray[np.int32], max_tokens: int) -> None:
        num_slots = len(positions)
        self.tokens = np.zeros((num_slots, max_tokens), np.int32)
        """(num_slots, max_tokens); the first ``positions[row]`` of each row are valid."""
        self.totals = np.zeros(num_slots, np.float64)
        """Sums of natural log-probabilities: (num_slots,)."""
        self.positions = positions

    def of(self, row: int) -> list[int]:
        """Returns the tokens of a row."""
        tokens: list[int] = self.tokens[row, : self.positions[row]].tolist()
        return tokens

    def put(self, row: int, tokens: Sequence[int], total: float) -> None:
        """Stores a hypothesis of a search object."""
        self.tokens[row, : len(tokens)], self.totals[row] = tokens, total

    def copy(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        """Copies rows, none of which is both source and target."""
        for values in (self.tokens, self.totals, self.positions):
            values[targets] = values[sources]


class GreedyRows:
    """The rows under greedy search.

    Args:
        paths: hypotheses of all rows.
        end_id: the symbol that ends a hypothesis.
    """

    def __init__(self, paths: RowPaths, end_id: int) -> None:
        num_slots = len(paths.positions)
        self._paths, self._end_id = paths, end_id
        self._last, self._rows = np.zeros(num_slots, np.int32), np.arange(num_slots)
        self.mask = np.zeros(num_slots, bool)
        """Whether each row slot is one of them: (num_slots,)."""
        self.count = 0
        """Number of these rows."""

    def begin(self, row: int, limit: int) -> None:
        """Adds a row without tokens; ``limit`` is its maximum number of tokens."""
        self.count += 1
        self.mask[row], self._last[row], self._paths.totals[row] = True, limit - 1, 0.0

    def end(self, row: int) -> None:
        """Removes a row, if it is one of them."""
        self.count -= int(self.mask[row])
        self.mask[row] = False

    def clear(self) -> None:
        """Removes all rows."""
        self.mask[:], self.count = False, 0

    def move(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        """Follows the move of rows to free slots."""
        for values in (self._last, self.mask):
            values[targets] = values[sources]
        self.mask[sources] = False

    def having(self, tokens: Ints, token: int) -> list[int]:
        """Returns those of the first ``len(tokens)`` rows whose best token is ``token``."""
        rows: list[int] = np.flatnonzero(self.mask[: len(tokens)] & (tokens == token)).tolist()
        return rows

    def advance(self, tokens: Ints, log_probs: Floats | None, inputs: Ints) -> list[int]:
        """Appends its best token to each row. The caller increments the positions.

        Args:
            tokens: the best token of each row (S,), also of rows under other searches.
            log_probs: their log-probabilities (S,); None if nothing adds them up.
            inputs: receives the token of each row as its next input (num_slots,).

        Returns:
            The rows that end.
        """
        count, paths = len(tokens), self._paths
        if count == 1:
            return self._advance_one(int(tokens[0]), log_probs, inputs) if self.count else []
        positions = paths.positions[:count]
        ended = (tokens == self._end_id) | (positions >= self._last[:count])
        if self.count == count:
            paths.tokens[self._rows[:count], positions] = tokens
            inputs[:count] = tokens
            if log_probs is not None:
                paths.totals[:count] += log_probs
        else:
            mask = self.mask[:count]
            rows = mask.nonzero()[0]
            paths.tokens[rows, positions[rows]] = inputs[rows] = tokens[rows]
            if log_probs is not None:
                paths.totals[rows] += log_probs[rows]
            ended &= mask
        rows_ended: list[int] = ended.nonzero()[0].tolist()
        return rows_ended

    def _advance_one(self, token: int, log_probs: Floats | None, inputs: Ints) -> list[int]:
        """:meth:`advance` for the only row, without array operations."""
        paths, position = self._paths, self._paths.positions[0]
        paths.tokens[0, position] = inputs[0] = token
        if log_probs is not None:
            paths.totals[0] += log_probs[0]
        return [0] if token == self._end_id or position >= self._last[0] else []


@dataclass(frozen=True, slots=True)
class BeamStep:
    """Result of one step of n beams of K hypotheses each.

    Attributes:
        parents: parent's index of each surviving hypothesis, best first (n, K).
        tokens: its last token (n, K).
        totals: the sum of its log-probabilities (n, K).
        places: index, within its beam, of the row that it takes (n, K): the first child keeps its parent's row, others take rows
            without children.
        ended: (beam, parent, total) of each hypothesis that ended with the end symbol, in the order of finishing.
    """

    parents: Ints
    tokens: Ints
    totals: Floats
    places: Ints
    ended: list[tuple[int, int, float]]


def advance_beams(totals: Floats, tokens: Ints, log_probs: Floats, end_id: int) -> BeamStep:
    """Advances n beams of the same width K by one step of beam search; same result as :meth:`BeamSearch.advance`.

    Args:
        totals: sums of log-probabilities of the live hypotheses (n, K).
        tokens: candidates of each, best first (n, K, C), C the smaller of 2K and the vocabulary; ties by lower token.
        log_probs: their log-probabilities (n, K, C), all finite.
        end_id: the symbol that ends a hypothesis.
    """
    size, width, num_candidates = log_probs.shape
    sums = (totals[:, :, None] + log_probs).reshape(size, -1)  # (n, K * C)
    best = np.argsort(-sums, axis=1, kind="stable")[:, : 2 * width]  # (n, 2K)
    flat = best + _starts(size, width * num_candidates)
    best_tokens = tokens.take(flat)
    ends = best_tokens == end_id
    finished: list[tuple[int, int, float]] = []
    if ends.any():
        for beam, rank in zip(*(each.tolist() for each in ends[:, :width].nonzero()), strict=True):
            finished.append((beam, int(best[beam, rank]) // num_candidates, float(sums[beam, best[beam, rank]])))
        lives = np.argsort(ends, axis=1, kind="stable")  # at least K, because no parent has two candidates with the end symbol
        chosen = lives[:, :width] + _starts(size, ends.shape[1])
        best, flat, best_tokens = best.take(chosen), flat.take(chosen), best_tokens.take(chosen)
    survivors = best[:, :width] // num_candidates
    return BeamStep(survivors, best_tokens[:, :width], sums.take(flat[:, :width]), _places(survivors), finished)


@functools.cache
def _starts(size: int, width: int) -> Ints:
    """The first flat index of each row of a matrix (size, width): (size, 1)."""
    return np.arange(0, size * width, width)[:, None]


def _places(parents: Ints) -> Ints:
    """Returns the row of each child, as an index within its beam: (n, K) -> (n, K)."""
    width = parents.shape[1]
    if width > MAX_TABLE_WIDTH:
        return _computed_places(parents)
    powers, table = _table_of_places(width)
    places: Ints = table[parents.dot(powers)]
    return places


@functools.cache
def _table_of_places(width: int) -> tuple[Ints, Ints]:
    """Powers of the width, by which parents are numbered, and the places for each number (K^K, K)."""
    every = np.indices([width] * width).reshape(width, -1).T
    return width ** np.arange(width - 1, -1, -1), _computed_places(every)


def _computed_places(parents: Ints) -> Ints:
    width = parents.shape[1]
    is_same = parents[:, :, None] == parents[:, None, :]  # (n, child, child)
    is_later = (is_same & np.tri(width, k=-1, dtype=bool)).any(2)  # the parent has an earlier child
    has_child = (parents[:, :, None] == np.arange(width)).any(1)  # (n, row)
    free = np.argsort(has_child, axis=1, kind="stable")  # rows without children first
    turn = np.maximum(is_later.cumsum(1) - 1, 0)
    return np.where(is_later, np.take_along_axis(free, turn, 1), parents)
