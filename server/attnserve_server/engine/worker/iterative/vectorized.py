# SPDX-License-Identifier: Apache-2.0
"""Which searches of a batch are decided all at once (``paths.py``), and when one of them goes on by itself again.

That is when it ends, when it comes near its limit of tokens, or when what it would have to take is not to be taken.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from attnserve_server.decoding.search import BeamSearch, GreedySearch, Symbols
from attnserve_server.engine.worker.iterative.paths import GreedyRows, Ints, RowPaths, advance_beams
from attnserve_server.engine.worker.iterative.sequence import Copies, Decoding
from attnserve_server.execution.runner import StepOutputs

FEW = 4
"""In a batch of so few sequences each greedy search goes on by itself: NumPy's calls would cost more than they save."""
_LEAST = np.float32(-3e38)
"""Log-probabilities above this are finite; NaN is not above it."""


class VectorizedSearches:
    """Greedy and beam searches that need nothing but the most probable tokens of each step.

    Args:
        num_slots: rows at most.
        max_tokens: tokens of a hypothesis at most.
        symbols: of the model.
    """

    def __init__(self, num_slots: int, max_tokens: int, symbols: Symbols) -> None:
        self._symbols = symbols
        self.paths = RowPaths(num_slots, max_tokens + 1)
        self._greedy = GreedyRows(self.paths, symbols.end_id)

    def add_greedy(self, sequence: Decoding, num_sequences: int) -> None:
        """Takes a new sequence, if it is greedy and not one of few; it has one row and no tokens."""
        if sequence.can_be_vectorized and num_sequences > FEW and isinstance(sequence.search, GreedySearch):
            sequence.is_vectorized = True
            self._greedy.begin(sequence.rows[0], sequence.payload.options.max_tokens)

    def add_beam(self, sequence: Decoding) -> None:
        """Takes a beam search that goes on by itself, if it can be taken."""
        search = sequence.search
        if sequence.can_be_vectorized and isinstance(search, BeamSearch) and len(sequence.rows) == search.width:
            for row, path in zip(sequence.rows, search.live, strict=True):
                self.paths.put(row, path.tokens, path.total)
            sequence.is_vectorized = True

    def free(self, row: int) -> None:
        """A row was freed."""
        self._greedy.end(row)

    def move(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        """Rows have moved to other slots, which were free."""
        self.paths.copy(sources, targets)
        self._greedy.move(sources, targets)

    def clear(self) -> None:
        """All rows were freed."""
        self._greedy.clear()

    def decide_greedy(self, owners: Sequence[Decoding | None], best: tuple[Ints, npt.NDArray[np.float32]], inputs: Ints) -> None:
        """The best token of every greedy row.

        Args:
            owners: of all rows.
            best: the best token of each row (S,) and its log-probability (S,).
            inputs: receives the tokens of the next step, by row.
        """
        tokens, log_probs = best
        if not self._greedy.count:
            return
        for banned in self._symbols.banned:
            for row in self._greedy.having(tokens, banned):
                self._leave_greedy(owners[row], self.paths.of(row))
        ended = self._greedy.advance(tokens, log_probs)
        np.copyto(inputs[: len(tokens)], tokens, where=self._greedy.mask[: len(tokens)])
        for row in ended:
            self._leave_greedy(owners[row], [*self.paths.of(row), int(tokens[row])])

    def decide_beams(self, sequences: Iterable[Decoding], outputs: StepOutputs, inputs: Ints, copies: Copies) -> None:
        """One step of all beams.

        Args:
            sequences: all that decode.
            outputs: of the step.
            inputs: receives the tokens of the next step, by row.
            copies: receives the rows that are to be copied.
        """
        by_width: dict[int, list[Decoding]] = {}
        for sequence in sequences:
            if sequence.is_vectorized and isinstance(sequence.search, BeamSearch):
                by_width.setdefault(len(sequence.rows), []).append(sequence)
        for width, beams in by_width.items():
            rows = np.array([sequence.rows for sequence in beams])  # (n, K)
            tokens, log_probs = (each.reshape(len(beams), width, -1) for each in outputs.top(rows.ravel(), 2 * width))
            limits = np.array([sequence.payload.options.max_tokens for sequence in beams])
            stays = (log_probs > _LEAST).all((1, 2)) & (self.paths.positions[rows[:, 0]] + 1 < limits)
            for banned in self._symbols.banned:
                stays &= (tokens != banned).all((1, 2))
            for sequence in [sequence for sequence, stay in zip(beams, stays, strict=True) if not stay]:
                self._leave_beams(sequence)
            if stays.any():
                staying = [sequence for sequence, stay in zip(beams, stays, strict=True) if stay]
                inputs[rows[stays]] = self._advance_beams(staying, rows[stays], (tokens[stays], log_probs[stays]), copies)

    def _advance_beams(
        self, sequences: Sequence[Decoding], rows: Ints, candidates: tuple[Any, Any], copies: Copies
    ) -> npt.NDArray[np.int32]:
        """Returns the new tokens of the rows, in the order of ``rows``."""
        paths, end_id = self.paths, self._symbols.end_id
        found = advance_beams(paths.totals[rows], *candidates, end_id)
        for index, parent, total in found.ended:
            sequences[index].search.add_finished([*paths.of(int(rows[index, parent])), end_id], total)
        new_rows = np.take_along_axis(rows, found.places, 1)
        is_moved = found.places != found.parents
        sources, targets = np.take_along_axis(rows, found.parents, 1)[is_moved].tolist(), new_rows[is_moved].tolist()
        paths.copy(sources, targets)
        paths.tokens[new_rows, paths.positions[new_rows]] = found.tokens
        paths.totals[new_rows] = found.totals
        copies.sources.extend(sources)
        copies.targets.extend(targets)
        for sequence, members in zip(sequences, new_rows.tolist(), strict=True):
            sequence.rows = members
            if sequence.search.is_done:
                sequence.is_vectorized, sequence.num_steps = False, int(paths.positions[members[0]]) + 1
        tokens: npt.NDArray[np.int32] = paths.tokens[rows, paths.positions[rows]]
        return tokens

    def _leave_greedy(self, sequence: Decoding | None, tokens: list[int]) -> None:
        assert sequence is not None, "greedy rows are live"
        (row,) = sequence.rows
        sequence.search.resume([tokens], [float(self.paths.totals[row])])
        sequence.is_vectorized, sequence.num_steps = False, len(tokens)
        self._greedy.end(row)

    def _leave_beams(self, sequence: Decoding) -> None:
        tokens = [self.paths.of(row) for row in sequence.rows]
        sequence.search.resume(tokens, self.paths.totals[sequence.rows].tolist())
        sequence.is_vectorized, sequence.can_be_vectorized, sequence.num_steps = False, False, len(tokens[0])
