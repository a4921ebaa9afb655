# SPDX-License-Identifier: Apache-2.0
"""The running batch: assigns slots to requests, and applies a step's outputs to their searches.

In every step the live requests are a prefix of the request slots, and the live rows a prefix of the row slots.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from attnserve_server.decoding.search import BeamSearch, GreedySearch, Search, Symbols, make_search
from attnserve_server.engine.worker.iterative.alignment import Alignment
from attnserve_server.engine.worker.iterative.sequence import Copies, Decoding
from attnserve_server.engine.worker.iterative.slots import Move, RowSlots, Slots
from attnserve_server.engine.worker.iterative.vectorized import VectorizedSearches
from attnserve_server.execution.runner import IterativeRunner
from attnserve_server.execution.step import StepInputs, StepOutputs
from attnserve_server.request import AttentionWeights, Hypothesis

COPY_STEP = 8
"""Rows whose lengths have the same quotient by this number are copied together."""


class RunningBatch:
    """The running requests, over one runner's slots.

    Freed slots are reused by the next admission; remaining holes are compacted before the next step.
    """

    def __init__(self, runner: IterativeRunner) -> None:
        self._runner = runner
        manifest = runner.bundle.manifest
        self._begin_id, self._end_id = manifest.vocabulary.begin_id, manifest.vocabulary.end_id
        unknown_id = manifest.vocabulary.unknown_id
        can_align = any(step.gives_attention for step in runner.bundle.variant.steps)
        self._symbols = Symbols(self._end_id, () if can_align else (unknown_id,))
        has_blocks = not self._symbols.banned  # else more than 2K candidates may be needed
        self._block_sizes = {step.block_rows for step in runner.bundle.variant.steps if step.block_rows and has_blocks}
        self.alignment = Alignment(manifest.attention, unknown_id, can_align=can_align)
        self.sequences: dict[int, Decoding] = {}
        self.streams: dict[int, Decoding] = {}
        """Those of the running sequences that are streamed."""
        self._slots, self._rows = Slots(), RowSlots(runner.num_slots)
        inputs = runner.inputs
        self._tokens, self._positions = inputs.tokens, inputs.positions
        self._requests, self._source_lengths = inputs.request_of_row, inputs.source_lengths
        self.vectorized = VectorizedSearches(inputs.positions, manifest.limits.max_target_tokens, self._symbols)
        self._layout: StepInputs | None = None
        """Inputs of the next step, if its rows are those of the last step."""
        self._wants_scores = True
        self._has_blocks = False
        """Whether the rows of each request are a block, see :class:`StepInputs`."""

    @property
    def num_rows(self) -> int:
        """Number of live rows."""
        return self._rows.num_owned

    @property
    def is_steady(self) -> bool:
        """Whether the next step has the rows of the last one."""
        return self._layout is not None

    def admit(self, group: Sequence[Decoding], now: float) -> None:
        """Encodes a group and gives each member a request slot and a first row.

        Args:
            group: the admitted sequences.
            now: time of admission, by the engine's clock.
        """
        encoded = self._runner.encode([sequence.payload.source for sequence in group])
        self._layout = None
        for sequence in group:
            self._begin(sequence, now)
            self._source_lengths[sequence.slot] = sequence.num_tokens
            if sequence.block_rows:
                rows = sequence.rows = self._rows.take_block(sequence, sequence.block_rows)
                self._tokens[rows], self._positions[rows], self._requests[rows] = self._begin_id, 0, sequence.slot
                self.vectorized.add_block(sequence)
            else:
                sequence.rows = [self._new_row(sequence, self._begin_id, 0)]
                self.vectorized.add_greedy(sequence)
            self.sequences[sequence.request_id] = sequence
            if sequence.request.terms.is_streamed:
                self.streams[sequence.request_id] = sequence
        first_rows = [sequence.rows[0] for sequence in group]
        self._runner.state.insert([sequence.slot for sequence in group], first_rows, encoded)
        copies = [(sequence.rows[0], row) for sequence in group for row in sequence.rows[1:]]
        if copies:  # the first step runs all rows of a block, though only the first is a hypothesis
            self._runner.state.copy_rows([source for source, _ in copies], [target for _, target in copies], 0)

    def _begin(self, sequence: Decoding, now: float) -> None:
        """Initializes the decoding of a sequence, also for a restart, and assigns its request slot."""
        options = sequence.payload.options
        search = sequence.search = make_search(options, self._symbols, self.alignment.coverage)
        sequence.num_steps, sequence.is_vectorized, sequence.admitted_at = 0, False, now
        sequence.keeps_attention = bool(options.attention or options.coverage_penalty or sequence.needs_alignment)
        is_sendable = isinstance(search, GreedySearch) or not sequence.request.terms.is_streamed
        sequence.can_be_vectorized = search.is_vectorizable and not sequence.keeps_attention and is_sendable
        is_block = sequence.can_be_vectorized and isinstance(search, BeamSearch) and search.width in self._block_sizes
        sequence.block_rows = options.beam_size if is_block else 0
        sequence.needs_scores = not (search.is_vectorizable and options.omit_score)
        sequence.slot = self._slots.take(sequence)

    def release(self, request_id: int) -> None:
        """Frees a request's slots."""
        sequence = self.sequences.pop(request_id)
        self.streams.pop(request_id, None)
        self._layout = None
        self._slots.free([sequence.slot])
        self._free(sequence.rows)

    def clear(self) -> None:
        """Drops all requests after a step that failed."""
        self.sequences.clear()
        self.streams.clear()
        self._slots.clear()
        self._rows.clear()
        self.vectorized.clear()
        self._layout = None

    def compact(self) -> None:
        """Moves live requests and rows into the holes, so that both are a prefix of their slots."""
        if self._slots.has_holes:
            for source, target in self._slots.compact():
                self._runner.state.move_request(source, target, int(self._source_lengths[source]))
                self._source_lengths[target] = self._source_lengths[source]
                sequence = self._slots.owners[target]
                assert sequence is not None, "only live slots move"
                sequence.slot = target
                self._requests[sequence.rows] = target
        width = self._block_rows()
        groups = self._rows.align(self.sequences.values(), width) if width else None
        self._has_blocks = groups is not None
        if groups is None:
            groups = [self._rows.compact()] if self._rows.has_holes else []
        for moves in groups:
            self._move_rows(moves)

    def _block_rows(self) -> int:
        """Returns K if all running searches are vectorized beams of K rows each for which a step graph takes blocks; else 0."""
        sizes = {sequence.block_rows if sequence.is_vectorized else 0 for sequence in self.sequences.values()}
        return sizes.pop() if len(sizes) == 1 else 0

    def _move_rows(self, moves: Sequence[Move]) -> None:
        """Moves rows between slots; the slots have their new owners already. No row is both source and target."""
        sources, targets = [source for source, _ in moves], [target for _, target in moves]
        self._copy_rows(sources, targets)
        self._tokens[targets], self._requests[targets] = self._tokens[sources], self._requests[sources]
        self.vectorized.move(sources, targets)

    def run(self) -> StepOutputs:
        """Runs the step graph on all live rows; :meth:`advance` applies its outputs."""
        if self._layout is None:
            self.compact()
            self._layout = self._inputs()
        return self._runner.step(self._layout)

    def advance(self, outputs: StepOutputs) -> list[Decoding]:
        """Advances every search by one step, after :meth:`run`.

        Returns:
            The sequences that are ready to emit: all that are not vectorized.
        """
        owners, copies, vectorized = self._rows.owners, Copies([], []), self.vectorized
        ready = vectorized.decide_greedy(owners, outputs, self._tokens, wants_scores=self._wants_scores)
        if vectorized.num_greedy + len(ready) < len(self.sequences):  # others than vectorized greedy searches
            vectorized.decide_beams(self.sequences.values(), outputs, self._tokens, copies)
            ready = [sequence for sequence in self.sequences.values() if not sequence.is_vectorized]
            if ready or not self._has_blocks:
                self._layout = None
        for sequence in ready:
            if not sequence.search.is_done:  # it did not leave the vectorized search in this step
                self._advance_alone(sequence, outputs, copies)
        if len(owners) == 1:
            self._positions[0] += 1  # a tenth of the time of the operation on arrays
        else:
            self._positions[: len(owners)] += 1
        self._copy_rows(copies.sources, copies.targets)
        return ready

    def hypotheses(self, sequence: Decoding) -> list[Hypothesis]:
        """Returns the hypotheses of a finished search, best first, at most ``num_hypotheses``."""
        results = []
        for found in sequence.search.results():
            weights = None
            if sequence.payload.options.attention:
                matrix = np.ascontiguousarray(np.stack([np.asarray(row) for row in found.path.attention]), dtype=np.float32)
                weights = AttentionWeights(matrix.shape, matrix.tobytes())
            copied = self.alignment.copied_from(sequence, found.path, 0)
            score = 0.0 if sequence.payload.options.omit_score else found.score
            results.append(Hypothesis(found.path.tokens, score, found.reason, weights, copied, found.coverage))
        return results

    def _inputs(self) -> StepInputs:
        sequences, rows = [each for each in self._slots.owners if each is not None], len(self._rows.owners)
        self._wants_scores = any(sequence.needs_scores for sequence in sequences)
        return StepInputs(
            tokens=self._tokens[:rows],
            positions=self._positions[:rows],
            request_of_row=self._requests[:rows],
            rows_of_request=[sequence.rows for sequence in sequences],
            source_lengths=self._source_lengths[: len(sequences)],
            wants_attention=any(sequence.keeps_attention for sequence in sequences),
            wants_scores=self._wants_scores,
            block_rows=len(sequences[0].rows) if self._has_blocks else 0,
        )

    def _new_row(self, sequence: Decoding, token: int, position: int) -> int:
        row = self._rows.take(sequence)
        self._tokens[row], self._positions[row], self._requests[row] = token, position, sequence.slot
        return row

    def _free(self, rows: Iterable[int]) -> None:
        rows = list(rows)
        self._rows.free(rows)
        self.vectorized.free(rows)

    def _copy_rows(self, sources: list[int], targets: list[int]) -> None:
        """Copies rows; those of similar lengths together, so that a long hypothesis does not make the copies of others longer."""
        if not sources:
            return
        groups: dict[int, list[tuple[int, int, int]]] = {}
        for length, source, target in zip(self._positions[sources].tolist(), sources, targets, strict=True):
            groups.setdefault(length // COPY_STEP, []).append((length, source, target))
        for group in groups.values():
            lengths, froms, tos = zip(*group, strict=True)
            self._runner.state.copy_rows(froms, tos, max(lengths))

    def _advance_alone(self, sequence: Decoding, outputs: StepOutputs, copies: Copies) -> None:
        """Advances a search that is not vectorized."""
        search, row = sequence.search, sequence.rows[0]
        sequence.num_steps += 1
        if sequence.keeps_attention:
            self.alignment.note(sequence, outputs.attention)
        if isinstance(search, GreedySearch) and not search.needs_scores:
            tokens, log_probs = outputs.best(wants_scores=self._wants_scores)
            if tokens[row] not in self._symbols.banned:
                search.advance_one(int(tokens[row]), float(log_probs[row]))
                self._tokens[row] = tokens[row]
                return
        self._advance_with_rows(sequence, outputs, copies)

    def _advance_with_rows(self, sequence: Decoding, outputs: StepOutputs, copies: Copies) -> None:
        """Advances one search, assigns rows to its hypotheses, and adds the row copies that this needs to ``copies``."""
        search, rows = sequence.search, sequence.rows
        parents = search.advance(*self._candidates(search, rows, outputs))
        if search.is_done:
            return  # the rows are freed with the request
        sequence.rows = self._place(sequence, parents, copies)
        self._tokens[sequence.rows] = [path.tokens[-1] for path in search.live]
        self._free(set(rows) - set(sequence.rows))
        self.vectorized.add_beam(sequence)

    def _candidates(self, search: Search, rows: list[int], outputs: StepOutputs) -> tuple[list[list[int]], list[list[float]]]:
        """Returns candidate tokens and log-probabilities for each live hypothesis, best first."""
        banned = self._symbols.banned
        if not search.needs_scores:
            best, scores = outputs.top(rows, search.num_candidates + (0 if outputs.gives_scores else len(banned)))
            if not banned or not np.isin(best, banned).any():
                return best[:, : search.num_candidates].tolist(), scores[:, : search.num_candidates].tolist()
            if not outputs.gives_scores:
                allowed = [~np.isin(row, banned) for row in best]
                return (
                    [row[keep].tolist() for row, keep in zip(best, allowed, strict=True)],
                    [row[keep].tolist() for row, keep in zip(scores, allowed, strict=True)],
                )
        found = [search.candidates(index, *outputs.row(row)) for index, row in enumerate(rows)]
        return [tokens for tokens, _ in found], [log_probs for _, log_probs in found]

    def _place(self, sequence: Decoding, parents: list[int], copies: Copies) -> list[int]:
        """Assigns a row to each child: the first child keeps its parent's row, others take rows without children, or new rows.

        So no row is both source and target of a copy.
        """
        rows = sequence.rows
        free = [row for index, row in enumerate(rows) if index not in parents]
        taken: set[int] = set()
        new_rows = []
        for parent in parents:
            row = rows[parent]
            if parent in taken:
                copies.sources.append(row)
                row = free.pop(0) if free else self._new_row(sequence, self._end_id, int(self._positions[row]))
                copies.targets.append(row)
            taken.add(parent)
            new_rows.append(row)
        return new_rows
