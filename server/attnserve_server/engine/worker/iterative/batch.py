# SPDX-License-Identifier: Apache-2.0
"""The running batch: assigns slots to requests, and applies a step's outputs to their searches.

In every step the live requests are a prefix of the request slots, and the live rows a prefix of the row slots.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from attnserve_server.decoding.search import GreedySearch, Path, Search, Symbols, make_search
from attnserve_server.engine.worker.iterative.sequence import Copies, Decoding
from attnserve_server.engine.worker.iterative.vectorized import VectorizedSearches
from attnserve_server.execution.runner import IterativeRunner, StepInputs, StepOutputs
from attnserve_server.request import AttentionDetail, AttentionWeights, Hypothesis


class RunningBatch:
    """The running requests, over one runner's slots.

    Freed slots are reused by the next admission; remaining holes are compacted before the next step.
    """

    def __init__(self, runner: IterativeRunner) -> None:
        self._runner = runner
        manifest = runner.bundle.manifest
        self._begin_id, self._end_id = manifest.vocabulary.begin_id, manifest.vocabulary.end_id
        self._unknown_id = manifest.vocabulary.unknown_id
        can_align = any(step.gives_attention for step in runner.bundle.variant.steps)
        self._symbols = Symbols(self._end_id, () if can_align else (self._unknown_id,))
        attention = manifest.attention
        self._mean_of = np.ix_(
            list(attention.mean_layers) or range(attention.num_layers), list(attention.mean_heads) or range(attention.num_heads)
        )
        self.sequences: dict[int, Decoding] = {}
        self._slots: list[Decoding | None] = []
        self._owners: list[Decoding | None] = []
        self._free_slots: list[int] = []
        self._free_rows: list[int] = []
        self._tokens = np.zeros(runner.num_slots, np.int64)
        self._requests = np.zeros(runner.num_slots, np.int64)
        self._source_lengths = np.zeros(runner.num_slots, np.int32)
        self.vectorized = VectorizedSearches(runner.num_slots, manifest.limits.max_target_tokens, self._symbols)
        self._positions = self.vectorized.paths.positions
        self._wants_scores = True

    @property
    def num_rows(self) -> int:
        """Number of live rows."""
        return len(self._owners) - len(self._free_rows)

    def admit(self, group: Sequence[Decoding], now: float) -> None:
        """Encodes a group and gives each member a request slot and a first row.

        Args:
            group: the admitted sequences.
            now: time of admission, by the engine's clock.
        """
        encoded = self._runner.encode([sequence.payload.source for sequence in group])
        slots, rows = [], []
        num_sequences = len(self.sequences) + len(group)
        for sequence in group:
            self._begin(sequence, now)
            row = self._new_row(sequence, self._begin_id, 0)
            sequence.rows.append(row)
            self._source_lengths[sequence.slot] = sequence.num_tokens
            self.vectorized.add_greedy(sequence, num_sequences)
            self.sequences[sequence.request_id] = sequence
            slots.append(sequence.slot)
            rows.append(row)
        self._runner.state.insert(slots, rows, encoded)

    def _begin(self, sequence: Decoding, now: float) -> None:
        """Initializes the decoding of a sequence, also for a restart, and assigns its request slot."""
        options = sequence.payload.options
        search = sequence.search = make_search(options, self._symbols, self._coverage)
        sequence.rows, sequence.num_steps, sequence.is_vectorized, sequence.admitted_at = [], 0, False, now
        sequence.keeps_attention = bool(options.attention or options.coverage_penalty or sequence.needs_alignment)
        sequence.can_be_vectorized = (
            search.is_vectorizable and not sequence.keeps_attention and not sequence.request.terms.is_streamed
        )
        sequence.needs_scores = not (search.is_vectorizable and options.omit_score)
        sequence.slot = _take(self._free_slots, self._slots, sequence)

    def release(self, request_id: int) -> None:
        """Frees a request's slots."""
        sequence = self.sequences.pop(request_id)
        self._slots[sequence.slot] = None
        heapq.heappush(self._free_slots, sequence.slot)
        self._free(sequence.rows)

    def clear(self) -> None:
        """Drops all requests after a step that failed."""
        self.sequences.clear()
        del self._slots[:], self._owners[:], self._free_slots[:], self._free_rows[:]
        self.vectorized.clear()

    def compact(self) -> None:
        """Moves live requests and rows into the holes, so that both are a prefix of their slots."""
        if self._free_slots:
            for source, target in _moves(self._free_slots, self._slots):
                self._runner.state.move_request(source, target, int(self._source_lengths[source]))
                self._source_lengths[target] = self._source_lengths[source]
                sequence = self._slots[target]
                assert sequence is not None, "only live slots move"
                sequence.slot = target
                self._requests[sequence.rows] = target
        if self._free_rows:
            moves = _moves(self._free_rows, self._owners)
            sources, targets = [source for source, _ in moves], [target for _, target in moves]
            self._copy_rows(sources, targets)
            self._tokens[targets], self._requests[targets] = self._tokens[sources], self._requests[sources]
            self.vectorized.move(sources, targets)
            for source, target in moves:
                owner = self._owners[target]
                assert owner is not None, "only live slots move"
                owner.rows[owner.rows.index(source)] = target

    def run(self) -> StepOutputs:
        """Runs the step graph on all live rows; :meth:`advance` applies its outputs."""
        self.compact()
        self._wants_scores = any(sequence.needs_scores for sequence in self.sequences.values())
        return self._runner.step(self._inputs(self._wants_scores))

    def advance(self, outputs: StepOutputs) -> list[Decoding]:
        """Advances every search by one step, after :meth:`run`; returns the sequences that are ready to emit."""
        best_tokens, best_log_probs = outputs.best(wants_scores=self._wants_scores)
        copies = Copies([], [])
        self.vectorized.decide_greedy(self._owners, (best_tokens, best_log_probs), self._tokens)
        self.vectorized.decide_beams(self.sequences.values(), outputs, self._tokens, copies)
        ready = [sequence for sequence in self.sequences.values() if not sequence.is_vectorized]
        for sequence in ready:
            search, row = sequence.search, sequence.rows[0]
            if search.is_done:
                continue  # it left the vectorized search in this step
            sequence.num_steps += 1
            if sequence.keeps_attention:
                self._note_attention(sequence, outputs)
            if isinstance(search, GreedySearch) and not search.needs_scores and best_tokens[row] not in self._symbols.banned:
                search.advance_one(int(best_tokens[row]), float(best_log_probs[row]))
                self._tokens[row] = best_tokens[row]
            else:
                self._advance(sequence, outputs, copies)
        self._positions[: len(self._owners)] += 1
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
            copied = self.copied_from(sequence, found.path, 0)
            score = 0.0 if sequence.payload.options.omit_score else found.score
            results.append(Hypothesis(found.path.tokens, score, found.reason, weights, copied, found.coverage))
        return results

    def lacks_alignment(self, sequence: Decoding, tokens: list[int]) -> bool:
        """Whether ``tokens`` contain unknown symbols for which no attention was kept to choose a replacement."""
        return not sequence.keeps_attention and self._unknown_id in tokens and self._unknown_id not in self._symbols.banned

    def copied_from(self, sequence: Decoding, path: Path, start: int) -> dict[int, int]:
        """Finds for each unknown symbol in ``path.tokens[start:]`` the source token with most attention, the one to copy.

        Returns:
            Index in that slice -> index in the source's tokens; empty if no attention was kept, or the source is an image.
        """
        num_source = len(sequence.payload.tokens) - 1  # the end symbol has no characters
        unknown = [index for index, token in enumerate(path.tokens[start:]) if token == self._unknown_id]
        if not unknown or num_source < 1 or not sequence.keeps_attention:
            return {}
        return {index: int(self._mean(path.attention[start + index])[:num_source].argmax()) for index in unknown}

    def _inputs(self, wants_scores: bool) -> StepInputs:
        sequences, rows = self._live_sequences(), len(self._owners)
        return StepInputs(
            tokens=self._tokens[:rows],
            positions=self._positions[:rows],
            request_of_row=self._requests[:rows],
            rows_of_request=[sequence.rows for sequence in sequences],
            source_lengths=self._source_lengths[: len(sequences)],
            wants_attention=any(sequence.keeps_attention for sequence in sequences),
            wants_scores=wants_scores,
        )

    def _live_sequences(self) -> list[Decoding]:
        return [sequence for sequence in self._slots if sequence is not None]

    def _new_row(self, sequence: Decoding, token: int, position: int) -> int:
        row = _take(self._free_rows, self._owners, sequence)
        self._tokens[row], self._positions[row], self._requests[row] = token, position, sequence.slot
        return row

    def _free(self, rows: Iterable[int]) -> None:
        for row in rows:
            self._owners[row] = None
            self.vectorized.free(row)
            heapq.heappush(self._free_rows, row)

    def _copy_rows(self, sources: list[int], targets: list[int]) -> None:
        if sources:
            self._runner.state.copy_rows(sources, targets, int(self._positions[sources].max()))

    def _advance(self, sequence: Decoding, outputs: StepOutputs, copies: Copies) -> None:
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

    def _note_attention(self, sequence: Decoding, outputs: StepOutputs) -> None:
        if outputs.attention is None:
            return
        num_source = sequence.num_tokens
        keeps_all = sequence.payload.options.attention == AttentionDetail.ALL
        for row, path in zip(sequence.rows, sequence.search.live, strict=True):
            weights = outputs.attention[row, ..., :num_source]
            path.attention.append(weights.copy() if keeps_all else self._mean(weights))

    def _mean(self, weights: Any) -> npt.NDArray[np.float32]:
        """Returns one token's attention (num_source,), the mean if it is (layers, heads, num_source)."""
        if weights.ndim == 1:
            return np.array(weights, np.float32)
        mean: npt.NDArray[np.float32] = weights[self._mean_of].mean((0, 1), dtype=np.float32)
        return mean

    def _coverage(self, path: Path) -> npt.NDArray[np.float64]:
        covered: npt.NDArray[np.float64] = np.stack([self._mean(weights) for weights in path.attention]).sum(0, dtype=np.float64)
        return covered


def _take(free: list[int], slots: list[Decoding | None], sequence: Decoding) -> int:
    """Assigns the lowest free slot, or a new one at the end, to a sequence; returns it."""
    if not free:
        slots.append(sequence)
        return len(slots) - 1
    slot = heapq.heappop(free)
    slots[slot] = sequence
    return slot


def _moves(free: list[int], slots: list[Decoding | None]) -> list[tuple[int, int]]:
    """Moves the last live slots into the holes and clears ``free``; returns the (source, target) pairs."""
    keep = len(slots) - len(free)
    movers = [slot for slot in range(keep, len(slots)) if slots[slot] is not None]
    moves = list(zip(movers, sorted(slot for slot in free if slot < keep), strict=True))
    for source, target in moves:
        slots[target] = slots[source]
    del slots[keep:], free[:]
    return moves
