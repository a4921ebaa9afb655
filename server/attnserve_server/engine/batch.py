# SPDX-License-Identifier: Apache-2.0
"""The running batch: which request holds which slots, and what a step's outputs mean for each of them.

Requests are a prefix of the request slots and rows a prefix of the row slots, always. Who leaves is replaced by the last one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from attnserve_server.decoding.search import GreedySearch, Search, make_search
from attnserve_server.execution.runner import IterativeRunner, StepInputs, StepOutputs
from attnserve_server.request import AttentionDetail, AttentionWeights, Hypothesis, SequenceRequest


@dataclass(slots=True)
class Sequence:
    """One request's decoding."""

    request: SequenceRequest
    search: Search
    slot: int
    rows: list[int]
    """Row slot of each live hypothesis."""
    admitted_at: float
    encode_s: float = 0.0
    first_token_at: float = 0.0
    num_steps: int = 0


class RunningBatch:
    """Everything that decodes now, over one runner's slots."""

    def __init__(self, runner: IterativeRunner) -> None:
        self._runner = runner
        manifest = runner.bundle.manifest
        self._begin_id, self._end_id = manifest.vocabulary.begin_id, manifest.vocabulary.end_id
        self._mean_layers = list(manifest.attention.mean_layers)
        self.sequences: dict[int, Sequence] = {}
        self._slots: list[Sequence] = []
        self._owners: list[Sequence] = []
        self._tokens: list[int] = []

    @property
    def num_rows(self) -> int:
        """Live rows."""
        return len(self._owners)

    def admit(self, requests: list[SequenceRequest], now: float) -> None:
        """Encodes a group and gives each member a request slot and a first row."""
        encoded = self._runner.encode([request.tokens for request in requests])
        for index, request in enumerate(requests):
            search = make_search(request.options, self._end_id)
            sequence = Sequence(request, search, len(self._slots), [len(self._owners)], now)
            self._runner.state.insert(sequence.slot, sequence.rows[0], encoded, index)
            self.sequences[request.request_id] = sequence
            self._slots.append(sequence)
            self._owners.append(sequence)
            self._tokens.append(self._begin_id)

    def release(self, request_id: int) -> None:
        """Frees a request's slots and closes the gaps."""
        sequence = self.sequences.pop(request_id)
        last = self._slots.pop()
        if last is not sequence:
            self._runner.state.move_request(last.slot, sequence.slot)
            last.slot = sequence.slot
            self._slots[last.slot] = last
        self._close_gaps(sorted(sequence.rows))

    def step(self) -> None:
        """One decode step of all live rows, and the search of every request."""
        outputs = self._runner.step(self._inputs())
        best_tokens, best_log_probs = outputs.best()
        for sequence in list(self._slots):
            sequence.num_steps += 1
            if sequence.request.options.attention:
                self._note_attention(sequence, outputs)
            if isinstance(sequence.search, GreedySearch):
                row = sequence.rows[0]
                sequence.search.advance_one(best_tokens[row], best_log_probs[row])
                self._tokens[row] = best_tokens[row]
            else:
                self._advance(sequence, outputs)

    def hypotheses(self, sequence: Sequence) -> list[Hypothesis]:
        """The answer of a finished search."""
        results = []
        for found in sequence.search.results():
            weights = None
            if sequence.request.options.attention:
                matrix = np.ascontiguousarray(np.stack([np.asarray(row) for row in found.path.attention]), dtype=np.float32)
                weights = AttentionWeights(matrix.shape, matrix.tobytes())
            results.append(Hypothesis(found.path.tokens, found.score, found.reason, weights))
        return results

    def _inputs(self) -> StepInputs:
        return StepInputs(
            tokens=self._tokens,
            positions=[len(owner.search.live[0].tokens) for owner in self._owners],
            request_of_row=[owner.slot for owner in self._owners],
            rows_of_request=[sequence.rows for sequence in self._slots],
            source_lengths=[len(sequence.request.tokens) for sequence in self._slots],
            wants_attention=any(sequence.request.options.attention for sequence in self._slots),
        )

    def _advance(self, sequence: Sequence, outputs: StepOutputs) -> None:
        search, rows = sequence.search, sequence.rows
        tokens, log_probs = outputs.top(rows, 2 * sequence.request.options.beam_size)
        parents = search.advance(tokens.tolist(), log_probs.tolist())
        if search.is_done:
            return
        length = len(search.live[0].tokens)
        new_rows, sources, targets = self._place(sequence, parents)
        self._runner.state.copy_rows(sources, targets, length)
        sequence.rows = new_rows
        for row, path in zip(new_rows, search.live, strict=True):
            self._tokens[row] = path.tokens[-1]

    def _place(self, sequence: Sequence, parents: list[int]) -> tuple[list[int], list[int], list[int]]:
        """A first child stays in its parent's row; the others take rows without children, or new ones at the end."""
        rows = sequence.rows
        free = [row for index, row in enumerate(rows) if index not in parents]
        taken: set[int] = set()
        new_rows, sources, targets = [], [], []
        for parent in parents:
            row = rows[parent]
            if parent in taken:
                if free:
                    target = free.pop(0)
                else:
                    target = len(self._owners)
                    self._owners.append(sequence)
                    self._tokens.append(self._end_id)
                sources.append(row)
                targets.append(target)
                row = target
            taken.add(parent)
            new_rows.append(row)
        return new_rows, sources, targets

    def _close_gaps(self, gaps: list[int]) -> None:
        keep = len(self._owners) - len(gaps)
        movers = [row for row in range(keep, len(self._owners)) if row not in gaps]
        holes = [row for row in gaps if row < keep]
        lengths = [len(self._owners[row].search.live[0].tokens) for row in movers]
        self._runner.state.copy_rows(movers, holes, max(lengths, default=0))
        for source, target in zip(movers, holes, strict=True):
            owner = self._owners[target] = self._owners[source]
            self._tokens[target] = self._tokens[source]
            owner.rows[owner.rows.index(source)] = target
        del self._owners[keep:], self._tokens[keep:]

    def _note_attention(self, sequence: Sequence, outputs: StepOutputs) -> None:
        if outputs.attention is None:
            return
        num_source = len(sequence.request.tokens)
        for row, path in zip(sequence.rows, sequence.search.live, strict=True):
            weights = outputs.attention[row, ..., :num_source].copy()
            if weights.ndim == 1:
                path.attention.append(weights)
            elif sequence.request.options.attention == AttentionDetail.MEAN:
                chosen = weights[self._mean_layers] if self._mean_layers else weights
                path.attention.append(chosen.mean((0, 1), dtype=np.float32))
            else:
                path.attention.append(weights)
