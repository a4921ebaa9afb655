# SPDX-License-Identifier: Apache-2.0
"""Search over sequences: greedy and beam. They see tokens and log-probabilities of one request's rows, never tensors of a model.

A search starts with one live hypothesis. After each step it is given the candidates of its live hypotheses and says which
hypotheses live on, each as (index of its parent, token). The scores are sums of float32 log-probabilities in float64, so they
depend on the request alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from attnserve_server.request import DecodeOptions, FinishReason

MAX_CANDIDATES_PER_BEAM = 2


@dataclass(slots=True)
class Path:
    """A hypothesis under way: its tokens, and the sum of their natural log-probabilities."""

    tokens: list[int] = field(default_factory=list)
    total: float = 0.0
    attention: list[object] = field(default_factory=list)
    """One entry a token, where attention was asked for; opaque here."""


@dataclass(slots=True)
class Finished:
    """A hypothesis that ended, with its normalized score."""

    path: Path
    score: float
    reason: FinishReason


class Search(Protocol):
    """What the running batch needs of a search."""

    live: list[Path]
    finished: list[Finished]

    @property
    def is_done(self) -> bool:
        """No further step is needed."""
        ...

    def advance(self, tokens: Sequence[Sequence[int]], log_probs: Sequence[Sequence[float]]) -> list[int]:
        """Takes the candidates of each live hypothesis, best first; returns for each one that lives on its parent's index."""
        ...

    def results(self) -> list[Finished]:
        """The answer, best first."""
        ...


def normalize(total: float, num_tokens: int, length_penalty: float) -> float:
    """The score of a hypothesis: sum of log-probabilities over length (end symbol included) to the power of the penalty."""
    return total / math.pow(num_tokens, length_penalty)


class GreedySearch:
    """The most probable token at each step."""

    def __init__(self, options: DecodeOptions, end_id: int) -> None:
        self._options, self._end_id = options, end_id
        self.live: list[Path] = [Path()]
        self.finished: list[Finished] = []

    @property
    def is_done(self) -> bool:
        """The one hypothesis has ended."""
        return bool(self.finished)

    def advance_one(self, token: int, log_prob: float) -> None:
        """As :meth:`advance`, for the one candidate that matters: the path that batches of greedy rows take."""
        path = self.live[0]
        path.tokens.append(token)
        path.total += log_prob
        if token == self._end_id:
            self._finish(path, FinishReason.STOP)
        elif len(path.tokens) >= self._options.max_tokens:
            self._finish(path, FinishReason.LENGTH)

    def advance(self, tokens: Sequence[Sequence[int]], log_probs: Sequence[Sequence[float]]) -> list[int]:
        """See :class:`Search`."""
        self.advance_one(tokens[0][0], log_probs[0][0])
        return [0]

    def results(self) -> list[Finished]:
        """See :class:`Search`."""
        return self.finished

    def _finish(self, path: Path, reason: FinishReason) -> None:
        score = normalize(path.total, len(path.tokens), self._options.length_penalty)
        self.finished.append(Finished(path, score, reason))


class BeamSearch:
    """Beam search with the stopping rule of "as many finished as the beam is wide".

    At each step the best 2K continuations are taken in order of (sum descending, parent, token). One that is the end symbol
    finishes its hypothesis if it is among the first K, and is passed over otherwise; the others live on until there are K.
    """

    def __init__(self, options: DecodeOptions, end_id: int) -> None:
        self._options, self._end_id, self._width = options, end_id, options.beam_size
        self.live: list[Path] = [Path()]
        self.finished: list[Finished] = []
        self._is_cut = False

    @property
    def is_done(self) -> bool:
        """Enough hypotheses have finished, or the limit of tokens is reached."""
        return len(self.finished) >= self._width or self._is_cut

    def advance(self, tokens: Sequence[Sequence[int]], log_probs: Sequence[Sequence[float]]) -> list[int]:
        """See :class:`Search`."""
        candidates = [
            (path.total + log_prob, -parent, -token)
            for parent, (path, row_tokens, row_log_probs) in enumerate(zip(self.live, tokens, log_probs, strict=True))
            for token, log_prob in zip(row_tokens, row_log_probs, strict=True)
        ]
        candidates.sort(reverse=True)
        parents: list[int] = []
        survivors: list[Path] = []
        for rank, (total, minus_parent, minus_token) in enumerate(candidates[: MAX_CANDIDATES_PER_BEAM * self._width]):
            parent, token = -minus_parent, -minus_token
            if token == self._end_id and rank >= self._width:
                continue
            path = Path([*self.live[parent].tokens, token], total, list(self.live[parent].attention))
            if token == self._end_id:
                self._finish(path, FinishReason.STOP)
            elif len(survivors) < self._width:
                survivors.append(path)
                parents.append(parent)
        self.live = survivors
        if len(self.finished) < self._width and len(survivors[0].tokens) >= self._options.max_tokens:
            self._is_cut = True
            for path in survivors:
                self._finish(path, FinishReason.LENGTH)
        return parents

    def results(self) -> list[Finished]:
        """See :class:`Search`; ties in the order of finishing."""
        ranked = sorted(self.finished, key=lambda each: -each.score)
        return ranked[: self._options.num_hypotheses]

    def _finish(self, path: Path, reason: FinishReason) -> None:
        score = normalize(path.total, len(path.tokens), self._options.length_penalty)
        self.finished.append(Finished(path, score, reason))


def make_search(options: DecodeOptions, end_id: int) -> Search:
    """The search that the options ask for."""
    return GreedySearch(options, end_id) if options.beam_size == 1 else BeamSearch(options, end_id)
