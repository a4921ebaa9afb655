# SPDX-License-Identifier: Apache-2.0
"""The running batch: which request holds which slots, and what a step's outputs mean for each of them.

Requests are a prefix of the request slots and rows a prefix of the row slots, always. Who leaves is replaced by the last one.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from attnserve_server.decoding.search import GreedySearch, Path, Search, Symbols, make_search
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
    keeps_attention: bool
    """Whether every token's attention is kept: it was asked for, or something is made from it."""
    encode_s: float = 0.0
    first_token_at: float = 0.0
    num_steps: int = 0

    @property
    def length(self) -> int:
        """Tokens of each live hypothesis."""
        return len(self.search.live[0].tokens) if self.search.live else 0


class RunningBatch:
    """Everything that decodes now, over one runner's slots."""

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
        self.sequences: dict[int, Sequence] = {}
        self._slots: list[Sequence] = []
        self._owners: list[Sequence] = []
        self._tokens: list[int] = []

    @property
    def num_rows(self) -> int:
        """Live rows."""
        return len(self._owners)

    def admit(self, requests: list[SequenceRequest], now: float, aligned: Set[int] = frozenset()) -> None:
        """Encodes a group and gives each member a request slot and a first row.

        Args:
            requests: the group.
            now: when, by the engine's clock.
            aligned: ids of requests whose attention is kept though they did not ask for it.
        """
        encoded = self._runner.encode([request.tokens for request in requests])
        for index, request in enumerate(requests):
            options = request.options
            search = make_search(options, self._symbols, self._coverage)
            keeps = bool(options.attention or options.coverage_penalty or request.request_id in aligned)
            sequence = Sequence(request, search, len(self._slots), [len(self._owners)], now, keeps)
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

    def clear(self) -> None:
        """Drops everything, after a step that failed half-way."""
        self.sequences.clear()
        del self._slots[:], self._owners[:], self._tokens[:]

    def step(self) -> None:
        """One decode step of all live rows, and the search of every request."""
        outputs = self._runner.step(self._inputs())
        best_tokens, best_log_probs = outputs.best()
        left: list[int] = []
        for sequence in self._slots:
            sequence.num_steps += 1
            search, row = sequence.search, sequence.rows[0]
            if sequence.keeps_attention:
                self._note_attention(sequence, outputs)
            if isinstance(search, GreedySearch) and not search.needs_scores and best_tokens[row] not in self._symbols.banned:
                search.advance_one(best_tokens[row], best_log_probs[row])
                self._tokens[row] = best_tokens[row]
            else:
                left += self._advance(sequence, outputs)
        self._close_gaps(sorted(left))

    def hypotheses(self, sequence: Sequence) -> list[Hypothesis]:
        """The answer of a finished search."""
        results = []
        for found in sequence.search.results():
            weights = None
            if sequence.request.options.attention:
                matrix = np.ascontiguousarray(np.stack([np.asarray(row) for row in found.path.attention]), dtype=np.float32)
                weights = AttentionWeights(matrix.shape, matrix.tobytes())
            copied = self.copied_from(sequence, found.path, 0)
            results.append(Hypothesis(found.path.tokens, found.score, found.reason, weights, copied, found.coverage))
        return results

    def lacks_alignment(self, sequence: Sequence, tokens: list[int]) -> bool:
        """Whether there are unknown symbols among tokens, and no attention was kept that says what stands in their place."""
        return not sequence.keeps_attention and self._unknown_id in tokens and self._unknown_id not in self._symbols.banned

    def copied_from(self, sequence: Sequence, path: Path, start: int) -> dict[int, int]:
        """For each unknown symbol from index ``start`` on: its index from there, and the source token that it attended to most."""
        num_source = len(sequence.request.tokens) - 1  # the end symbol stands for no characters
        unknown = [index for index, token in enumerate(path.tokens[start:]) if token == self._unknown_id]
        if not unknown or not num_source or not sequence.keeps_attention:
            return {}
        return {index: int(self._mean(path.attention[start + index])[:num_source].argmax()) for index in unknown}

    def _inputs(self) -> StepInputs:
        return StepInputs(
            tokens=self._tokens,
            positions=[owner.length for owner in self._owners],
            request_of_row=[owner.slot for owner in self._owners],
            rows_of_request=[sequence.rows for sequence in self._slots],
            source_lengths=[len(sequence.request.tokens) for sequence in self._slots],
            wants_attention=any(sequence.keeps_attention for sequence in self._slots),
        )

    def _advance(self, sequence: Sequence, outputs: StepOutputs) -> list[int]:
        """The search of one request, and its hypotheses to their rows. Returns the rows that it does not need any more."""
        search, rows = sequence.search, sequence.rows
        parents = search.advance(*self._candidates(search, rows, outputs))
        if search.is_done:
            return []  # whoever releases the request frees its rows
        new_rows, sources, targets = self._place(sequence, parents)
        self._runner.state.copy_rows(sources, targets, sequence.length)
        sequence.rows = new_rows
        for row, path in zip(new_rows, search.live, strict=True):
            self._tokens[row] = path.tokens[-1]
        return [row for row in rows if row not in new_rows]

    def _candidates(self, search: Search, rows: list[int], outputs: StepOutputs) -> tuple[list[list[int]], list[list[float]]]:
        """Tokens and log-probabilities for each live hypothesis, best first."""
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
        lengths = [self._owners[row].length for row in movers]
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
        keeps_all = sequence.request.options.attention == AttentionDetail.ALL
        for row, path in zip(sequence.rows, sequence.search.live, strict=True):
            weights = outputs.attention[row, ..., :num_source]
            path.attention.append(weights.copy() if keeps_all else self._mean(weights))

    def _mean(self, weights: Any) -> npt.NDArray[np.float32]:
        """One token's attention (num_source,), from that or from (layers, heads, num_source)."""
        if weights.ndim == 1:
            return np.array(weights, np.float32)
        mean: npt.NDArray[np.float32] = weights[self._mean_of].mean((0, 1), dtype=np.float32)
        return mean

    def _coverage(self, path: Path) -> npt.NDArray[np.float64]:
        covered: npt.NDArray[np.float64] = np.stack([self._mean(weights) for weights in path.attention]).sum(0, dtype=np.float64)
        return covered
