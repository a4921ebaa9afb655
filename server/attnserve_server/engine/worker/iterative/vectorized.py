# SPDX-License-Identifier: Apache-2.0
"""Decides which searches of a batch are vectorized (``paths.py``), and when one of them returns to its search object.

A search returns when it ends, when it reaches its token limit, or when a candidate is a banned token or not finite.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from attnserve_server.decoding.search import BeamSearch, GreedySearch, Symbols
from attnserve_server.engine.worker.iterative.paths import GreedyRows, Ints, RowPaths, advance_beams
from attnserve_server.engine.worker.iterative.sequence import Copies, Decoding
from attnserve_server.execution.step import StepOutputs

_LEAST = np.float32(-3e38)
"""Log-probabilities above this are finite; for NaN the comparison is false."""


class VectorizedSearches:
    """Vectorized greedy and beam searches, which need only the most probable tokens of each step.

    Args:
        positions: number of tokens of each row (num_slots,); the caller counts.
        max_tokens: maximum tokens of a hypothesis.
        symbols: special symbols of the model.
    """

    def __init__(self, positions: npt.NDArray[np.int32], max_tokens: int, symbols: Symbols) -> None:
        self._symbols = symbols
        self.paths = RowPaths(positions, max_tokens + 1)
        self._greedy = GreedyRows(self.paths, symbols.end_id)

    @property
    def num_greedy(self) -> int:
        """Number of vectorized greedy searches."""
        return self._greedy.count

    def add_greedy(self, sequence: Decoding) -> None:
        """Adds a new sequence, with one row and no tokens, if it is greedy and eligible."""
        if sequence.can_be_vectorized and isinstance(sequence.search, GreedySearch):
            sequence.is_vectorized = True
            self._greedy.begin(sequence.rows[0], sequence.payload.options.max_tokens)

    def add_beam(self, sequence: Decoding) -> None:
        """Adds a beam search from its search object, if it is eligible and has its full width."""
        search = sequence.search
        if sequence.can_be_vectorized and isinstance(search, BeamSearch) and len(sequence.rows) == search.width:
            for row, path in zip(sequence.rows, search.live, strict=True):
                self.paths.put(row, path.tokens, path.total)
            sequence.is_vectorized = True

    def add_block(self, sequence: Decoding) -> None:
        """Adds a new beam search that has K rows already: the first is its only hypothesis, the sums of the others are -inf."""
        totals = [0.0] + [-math.inf] * (len(sequence.rows) - 1)
        self.paths.totals[sequence.rows] = totals
        sequence.search.resume([[] for _ in totals], totals)
        sequence.is_vectorized = True

    def free(self, rows: Iterable[int]) -> None:
        """Removes freed rows."""
        for row in rows:
            self._greedy.end(row)

    def move(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        """Follows the move of rows to free slots."""
        self.paths.copy(sources, targets)
        self._greedy.move(sources, targets)

    def clear(self) -> None:
        """Removes all rows."""
        self._greedy.clear()

    def decide_greedy(
        self, owners: Sequence[Decoding | None], outputs: StepOutputs, inputs: Ints, *, wants_scores: bool
    ) -> list[Decoding]:
        """Advances all greedy rows by their best token.

        Args:
            owners: sequence of each row.
            outputs: outputs of the step.
            inputs: receives the input tokens of the next step, by row.
            wants_scores: whether log-probabilities are added up.

        Returns:
            The sequences that are vectorized no longer.
        """
        if not self._greedy.count:
            return []
        tokens, log_probs = outputs.best(wants_scores=wants_scores)
        left = [
            self._leave_greedy(owners[row], self.paths.of(row))
            for banned in self._symbols.banned
            for row in self._greedy.having(tokens, banned)
        ]
        ended = self._greedy.advance(tokens, log_probs if wants_scores else None, inputs)
        return left + [self._leave_greedy(owners[row], [*self.paths.of(row), int(tokens[row])]) for row in ended]

    def decide_beams(self, sequences: Iterable[Decoding], outputs: StepOutputs, inputs: Ints, copies: Copies) -> None:
        """Advances all vectorized beams by one step.

        Args:
            sequences: all running sequences.
            outputs: outputs of the step.
            inputs: receives the input tokens of the next step, by row.
            copies: receives the row copies to make.
        """
        by_width: dict[int, list[Decoding]] = {}
        for sequence in sequences:
            if sequence.is_vectorized and isinstance(sequence.search, BeamSearch):
                by_width.setdefault(len(sequence.rows), []).append(sequence)
        for width, beams in by_width.items():
            rows = np.array([sequence.rows for sequence in beams])  # (n, K)
            tokens, log_probs = (each.reshape(len(beams), width, -1) for each in outputs.top(rows.ravel(), 2 * width))
            stays = self._can_stay(beams, rows, tokens, log_probs)
            if not stays.all():
                for sequence in [sequence for sequence, stay in zip(beams, stays, strict=True) if not stay]:
                    self._leave_beams(sequence)
                beams = [sequence for sequence, stay in zip(beams, stays, strict=True) if stay]
                rows, tokens, log_probs = rows[stays], tokens[stays], log_probs[stays]
            if beams:
                self._advance_beams(beams, rows, (tokens, log_probs), inputs, copies)

    def _can_stay(self, sequences: Sequence[Decoding], rows: Ints, tokens: Any, log_probs: Any) -> npt.NDArray[np.bool_]:
        """Whether each beam of some of one width has only candidates that are finite and not banned, and is below its limit."""
        limits = np.array([sequence.payload.options.max_tokens for sequence in sequences])
        stays: npt.NDArray[np.bool_] = self.paths.positions[rows[:, 0]] + 1 < limits
        if not log_probs.min() > _LEAST:
            stays &= (log_probs > _LEAST).all((1, 2))
        for banned in self._symbols.banned:
            stays &= (tokens != banned).all((1, 2))
        return stays

    def _advance_beams(
        self, sequences: Sequence[Decoding], rows: Ints, candidates: tuple[Any, Any], inputs: Ints, copies: Copies
    ) -> None:
        """Advances beams of one width."""
        paths, end_id = self.paths, self._symbols.end_id
        found = advance_beams(paths.totals[rows], *candidates, end_id)
        for index, parent, total in found.ended:
            sequences[index].search.add_finished([*paths.of(int(rows[index, parent])), end_id], total)
        is_moved = found.places != found.parents
        starts = np.arange(0, rows.size, rows.shape[1])[:, None]
        new_rows = rows.take(found.places + starts)
        if is_moved.any():
            sources, targets = rows.take(found.parents + starts)[is_moved], new_rows[is_moved]
            paths.tokens[targets] = paths.tokens[sources]  # all rows of a beam have the same position
            copies.sources.extend(sources.tolist())
            copies.targets.extend(targets.tolist())
        positions = paths.positions[rows[:, 0]]
        paths.tokens[new_rows, positions[:, None]] = inputs[new_rows] = found.tokens
        paths.totals[new_rows] = found.totals
        for sequence, members in zip(sequences, new_rows.tolist(), strict=True):
            sequence.rows = members
        for index in {index for index, _, _ in found.ended}:
            if sequences[index].search.is_done:
                sequences[index].is_vectorized, sequences[index].num_steps = False, int(positions[index]) + 1

    def _leave_greedy(self, sequence: Decoding | None, tokens: list[int]) -> Decoding:
        assert sequence is not None, "greedy rows are live"
        (row,) = sequence.rows
        sequence.search.resume([tokens], [float(self.paths.totals[row])])
        sequence.is_vectorized, sequence.num_steps = False, len(tokens)
        self._greedy.end(row)
        return sequence

    def _leave_beams(self, sequence: Decoding) -> None:
        tokens = [self.paths.of(row) for row in sequence.rows]
        sequence.search.resume(tokens, self.paths.totals[sequence.rows].tolist())
        sequence.is_vectorized, sequence.can_be_vectorized, sequence.num_steps = False, False, len(tokens[0])
