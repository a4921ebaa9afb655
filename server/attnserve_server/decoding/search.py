# SPDX-License-Identifier: Apache-2.0
"""Search over sequences: greedy, beam, sampling. A search reads tokens and scores of one request's rows, no tensors of a model.

A search starts with one live hypothesis. After each step it takes the candidates of its live hypotheses and returns the surviving
hypotheses, each as its parent's index. If ``needs_scores`` is false, the candidates are the most probable tokens, which the caller
reads from the step's outputs; otherwise the caller gets them from :meth:`Search.candidates`, row by row. Scores are sums of float32
log-probabilities in float64, so they depend on the request alone.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from attnserve_server.decoding.candidates import UniformGenerator, draw, top
from attnserve_server.decoding.rules import Row, Rules, has_rules
from attnserve_server.decoding.scoring import coverage_term, normalize
from attnserve_server.request import DecodeOptions, FinishReason, Sampling

MAX_CANDIDATES_PER_BEAM = 2
Candidates = tuple[list[int], list[float]]
"""Tokens and their log-probabilities: best first, or in the order of the draws."""
Coverage = Callable[["Path"], npt.NDArray[np.float64]]
"""Returns the total attention of a hypothesis on each source token: (num_source,)."""


@dataclass(frozen=True, slots=True)
class Symbols:
    """The special symbols of a vocabulary.

    Args:
        end_id: ends a hypothesis.
        banned: tokens that are never chosen: the unknown symbol, if the model gives no alignment to replace it by.
    """

    end_id: int
    banned: tuple[int, ...] = ()


@dataclass(slots=True)
class Path:
    """A hypothesis in progress: its tokens, and the sum of their natural log-probabilities."""

    tokens: list[int] = field(default_factory=list)
    total: float = 0.0
    attention: list[object] = field(default_factory=list)
    """One entry per token, if attention is kept; opaque here."""

    def extended(self, token: int, total: float) -> Path:
        """Returns the hypothesis with one more token and its new total."""
        return Path([*self.tokens, token], total, list(self.attention))


@dataclass(slots=True)
class Finished:
    """A finished hypothesis with its score."""

    path: Path
    score: float
    reason: FinishReason
    coverage: float = 0.0
    """The weighted coverage penalty, which the score includes."""


class Search(abc.ABC):
    """Common part of all searches: forced prefix, rules, ranking of finished hypotheses.

    Args:
        options: of the request.
        symbols: of the model.
        coverage: required for a coverage penalty.
    """

    def __init__(self, options: DecodeOptions, symbols: Symbols, coverage: Coverage | None = None) -> None:
        self._options, self._symbols, self._coverage = options, symbols, coverage
        self._rules = Rules(options, symbols.end_id, symbols.banned)
        self.live: list[Path] = [Path()]
        self.finished: list[Finished] = []

    @property
    @abc.abstractmethod
    def is_done(self) -> bool:
        """Whether the search needs no further step."""

    @property
    def needs_scores(self) -> bool:
        """Whether the next candidates must come from :meth:`candidates`."""
        num_tokens = len(self.live[0].tokens)
        return num_tokens < len(self._options.prefix) or self._rules.is_active(num_tokens)

    @property
    def is_vectorizable(self) -> bool:
        """Whether it needs only the most probable tokens, in every step."""
        options = self._options
        is_free = not has_rules(options)
        return is_free and not options.prefix and not options.coverage_penalty and options.sampling is None

    @property
    def num_candidates(self) -> int:
        """Number of best tokens that each live hypothesis takes."""
        return 1

    def resume(self, tokens: Sequence[list[int]], totals: Sequence[float]) -> None:
        """Continues from hypotheses of the vectorized search and the sums of their log-probabilities, best first."""
        self.live = [Path(path, total) for path, total in zip(tokens, totals, strict=True)]

    def add_finished(self, tokens: list[int], total: float) -> None:
        """Adds a hypothesis that ended with the end symbol in the vectorized search."""
        self._finish(Path(tokens, total), FinishReason.STOP)

    def candidates(self, index: int, logits: Row, log_probs: Row) -> Candidates:
        """Returns the next tokens to consider for ``live[index]``, each with its own log-probability (not the path's sum).

        Within the prefix, returns the forced token alone. After it, applies the rules to ``log_probs`` (V,), the log-softmax of
        ``logits`` (V,), and returns the best ``num_candidates`` tokens (fewer if the rules forbid the others) or the drawn ones.
        """
        tokens, prefix = self.live[index].tokens, self._options.prefix
        if len(tokens) < len(prefix):
            forced = prefix[len(tokens)]
            return [forced], [float(log_probs[forced])]
        return self._choose(index, self._rules.adjust(tokens, logits, log_probs))

    @abc.abstractmethod
    def advance(self, tokens: Sequence[Sequence[int]], log_probs: Sequence[Sequence[float]]) -> list[int]:
        """Takes the candidates of each live hypothesis, best first; returns the parent's index of each surviving hypothesis."""

    def results(self) -> list[Finished]:
        """Returns the best finished hypotheses, best first; ties in the order of finishing."""
        return sorted(self.finished, key=lambda each: -each.score)[: self._options.num_hypotheses]

    def certain(self, num_known: int) -> tuple[Path, int]:
        """Returns a path and the number of its first tokens that are certain: no later step can change them.

        Args:
            num_known: the number that an earlier call returned; these tokens are not compared again.
        """
        contenders = [] if self.is_done else list(self.live)
        if self.finished:  # only the best of these can still win
            contenders.append(max(self.finished, key=lambda each: each.score).path)
        first, *others = contenders
        rest = [path.tokens for path in others]
        while num_known < len(first.tokens) and all(
            num_known < len(tokens) and tokens[num_known] == first.tokens[num_known] for tokens in rest
        ):
            num_known += 1
        return first, num_known

    def _choose(self, index: int, log_probs: Row) -> Candidates:
        best = top(log_probs, self.num_candidates)
        return best.tolist(), log_probs[best].tolist()

    def _end(self, path: Path) -> bool:
        """Finishes a path at the end symbol or at the length limit; returns whether it did."""
        if path.tokens[-1] == self._symbols.end_id:
            self._finish(path, FinishReason.STOP)
        elif len(path.tokens) >= self._options.max_tokens:
            self._finish(path, FinishReason.LENGTH)
        else:
            return False
        return True

    def _finish(self, path: Path, reason: FinishReason) -> None:
        value, weight = normalize(path.total, len(path.tokens), self._options.length_penalty), self._options.coverage_penalty
        coverage = coverage_term(self._coverage(path), weight) if weight and self._coverage else 0.0
        self.finished.append(Finished(path, value + coverage, reason, coverage))


class GreedySearch(Search):
    """Greedy search: the most probable token at each step."""

    @property
    def is_done(self) -> bool:
        """Whether its hypothesis has ended."""
        return bool(self.finished)

    def resume(self, tokens: Sequence[list[int]], totals: Sequence[float]) -> None:
        """See :class:`Search`; the last token may be the end symbol."""
        super().resume(tokens, totals)
        if tokens[0]:
            self._end(self.live[0])

    def advance_one(self, token: int, log_prob: float) -> None:
        """As :meth:`advance`, with the single candidate."""
        path = self.live[0]
        path.tokens.append(token)
        path.total += log_prob
        self._end(path)

    def advance(self, tokens: Sequence[Sequence[int]], log_probs: Sequence[Sequence[float]]) -> list[int]:
        """See :class:`Search`."""
        self.advance_one(tokens[0][0], log_probs[0][0])
        return [0]


class BeamSearch(Search):
    """Beam search of width K that stops when K hypotheses have finished.

    Each step considers the best 2K continuations in order of (sum descending, parent, token). A continuation with the end symbol
    finishes its hypothesis if it ranks among the first K, and is skipped otherwise. The first K others survive.
    """

    def __init__(self, options: DecodeOptions, symbols: Symbols, coverage: Coverage | None = None) -> None:
        super().__init__(options, symbols, coverage)
        self.width = options.beam_size
        """The beam width, K."""
        self._is_cut = False

    @property
    def is_done(self) -> bool:
        """Whether K hypotheses have finished, the token limit is reached, or no hypothesis is live."""
        return len(self.finished) >= self.width or self._is_cut or not self.live

    @property
    def num_candidates(self) -> int:
        """2K: enough for K survivors even if every hypothesis has the end symbol among its candidates."""
        return MAX_CANDIDATES_PER_BEAM * self.width

    def advance(self, tokens: Sequence[Sequence[int]], log_probs: Sequence[Sequence[float]]) -> list[int]:
        """See :class:`Search`."""
        candidates = [
            (path.total + log_prob, -parent, -token)
            for parent, (path, row_tokens, row_log_probs) in enumerate(zip(self.live, tokens, log_probs, strict=True))
            for token, log_prob in zip(row_tokens, row_log_probs, strict=True)
            if path.total + log_prob > -math.inf  # false for NaN too
        ]
        candidates.sort(reverse=True)
        parents: list[int] = []
        survivors: list[Path] = []
        for rank, (total, minus_parent, minus_token) in enumerate(candidates[: self.num_candidates]):
            parent, token = -minus_parent, -minus_token
            if token == self._symbols.end_id:
                if rank < self.width:
                    self._finish(self.live[parent].extended(token, total), FinishReason.STOP)
            elif len(survivors) < self.width:
                survivors.append(self.live[parent].extended(token, total))
                parents.append(parent)
        self.live = survivors
        if len(self.finished) < self.width and survivors and len(survivors[0].tokens) >= self._options.max_tokens:
            self._is_cut = True
            for path in survivors:
                self._finish(path, FinishReason.LENGTH)
        return parents


class SampleSearch(Search):
    """``num_hypotheses`` independent draws. One hypothesis follows the prefix; after it each draw has its own random generator.

    Scores are log-probabilities of the model under the rules, before temperature, ``top_k`` and ``top_p``.
    """

    def __init__(self, options: DecodeOptions, symbols: Symbols, sampling: Sampling, coverage: Coverage | None = None) -> None:
        super().__init__(options, symbols, coverage)
        self._sampling = sampling
        self._generators = [UniformGenerator(sampling.seed, number) for number in range(options.num_hypotheses)]

    @property
    def is_done(self) -> bool:
        """Whether every draw has ended."""
        return not self.live

    @property
    def needs_scores(self) -> bool:
        """Always true: any token may be drawn."""
        return True

    def advance(self, tokens: Sequence[Sequence[int]], log_probs: Sequence[Sequence[float]]) -> list[int]:
        """See :class:`Search`; every candidate survives unless it ends."""
        parents: list[int] = []
        survivors: list[Path] = []
        generators: list[UniformGenerator] = []
        is_forced = len(self.live[0].tokens) < len(self._options.prefix)
        for parent, (path, row_tokens, row_log_probs) in enumerate(zip(self.live, tokens, log_probs, strict=True)):
            for place, (token, log_prob) in enumerate(zip(row_tokens, row_log_probs, strict=True)):
                child = path.extended(token, path.total + log_prob)
                if not self._end(child):
                    survivors.append(child)
                    parents.append(parent)
                    generators.append(self._generators[parent + place])
        self.live = survivors
        if not is_forced:
            self._generators = generators
        return parents

    def _choose(self, index: int, log_probs: Row) -> Candidates:
        is_first = len(self.live[0].tokens) == len(self._options.prefix)
        generators = self._generators if is_first else [self._generators[index]]
        drawn = draw(log_probs, self._sampling, [generator.next() for generator in generators])
        return drawn, [float(log_probs[token]) for token in drawn]


def make_search(options: DecodeOptions, symbols: Symbols, coverage: Coverage | None = None) -> Search:
    """Makes the search that the options select."""
    if options.sampling is not None:
        return SampleSearch(options, symbols, options.sampling, coverage)
    return (GreedySearch if options.beam_size == 1 else BeamSearch)(options, symbols, coverage)
