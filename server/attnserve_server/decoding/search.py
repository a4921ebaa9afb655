# SPDX-License-Identifier: Apache-2.0
"""Search over sequences: greedy, beam, sampling. They see tokens and scores of one request's rows, never tensors of a model.

A search starts with one live hypothesis. After each step it is given the candidates of its live hypotheses and says which
hypotheses live on, each by its parent's place. Where the candidates are simply the most probable tokens, the caller takes them from
the step's own outputs; where ``needs_scores`` says that more is to be looked at, it asks :meth:`Search.candidates` for them, row
by row. The scores are sums of float32 log-probabilities in float64, so they depend on the request alone.
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
"""Tokens and their log-probabilities, best first."""
Coverage = Callable[["Path"], npt.NDArray[np.float64]]
"""How much attention each source token has received from a hypothesis: (num_source,)."""


@dataclass(frozen=True, slots=True)
class Symbols:
    """What a search must know of the vocabulary.

    Args:
        end_id: ends a hypothesis.
        banned: tokens that are never chosen: the unknown symbol, where nothing could be put in its place.
    """

    end_id: int
    banned: tuple[int, ...] = ()


@dataclass(slots=True)
class Path:
    """A hypothesis under way: its tokens, and the sum of their natural log-probabilities."""

    tokens: list[int] = field(default_factory=list)
    total: float = 0.0
    attention: list[object] = field(default_factory=list)
    """One entry a token, where it is kept; opaque here."""

    def extended(self, token: int, total: float) -> Path:
        """A child."""
        return Path([*self.tokens, token], total, list(self.attention))


@dataclass(slots=True)
class Finished:
    """A hypothesis that ended, with its score."""

    path: Path
    score: float
    reason: FinishReason
    coverage: float = 0.0
    """What of the score is the coverage penalty."""


class Search(abc.ABC):
    """What all searches share: forced first tokens, the rules, the ranking of what has finished.

    Args:
        options: of the request.
        symbols: of the model.
        coverage: needed where there is a coverage penalty.
    """

    def __init__(self, options: DecodeOptions, symbols: Symbols, coverage: Coverage | None = None) -> None:
        self._options, self._symbols, self._coverage = options, symbols, coverage
        self._rules = Rules(options, symbols.end_id, symbols.banned)
        self.live: list[Path] = [Path()]
        self.finished: list[Finished] = []

    @property
    @abc.abstractmethod
    def is_done(self) -> bool:
        """No further step is needed."""

    @property
    def needs_scores(self) -> bool:
        """Whether the next candidates must come from :meth:`candidates`."""
        num_tokens = len(self.live[0].tokens)
        return num_tokens < len(self._options.prefix) or self._rules.is_active(num_tokens)

    @property
    def is_vectorizable(self) -> bool:
        """Whether it needs nothing but the most probable tokens of each step, whatever comes."""
        options = self._options
        is_free = not has_rules(options)
        return is_free and not options.prefix and not options.coverage_penalty and options.sampling is None

    @property
    def num_candidates(self) -> int:
        """How many of its best tokens each live hypothesis is to be given."""
        return 1

    def resume(self, tokens: Sequence[list[int]], totals: Sequence[float]) -> None:
        """Goes on from hypotheses that were searched for elsewhere, with the sums of their log-probabilities, best first."""
        self.live = [Path(path, total) for path, total in zip(tokens, totals, strict=True)]

    def add_finished(self, tokens: list[int], total: float) -> None:
        """Takes a hypothesis that has ended with the end symbol elsewhere."""
        self._finish(Path(tokens, total), FinishReason.STOP)

    def candidates(self, index: int, logits: Row, log_probs: Row) -> Candidates:
        """The candidates of one live hypothesis, from all scores of its row (V,)."""
        tokens, prefix = self.live[index].tokens, self._options.prefix
        if len(tokens) < len(prefix):
            forced = prefix[len(tokens)]
            return [forced], [float(log_probs[forced])]
        return self._choose(index, self._rules.adjust(tokens, logits, log_probs))

    @abc.abstractmethod
    def advance(self, tokens: Sequence[Sequence[int]], log_probs: Sequence[Sequence[float]]) -> list[int]:
        """Takes the candidates of each live hypothesis, best first; returns for each one that lives on its parent's index."""

    def results(self) -> list[Finished]:
        """The answer, best first; ties in the order of finishing."""
        return sorted(self.finished, key=lambda each: -each.score)[: self._options.num_hypotheses]

    def certain(self, num_known: int) -> tuple[Path, int]:
        """How many of the best hypothesis' first tokens stand, whatever comes, and a path that has them.

        Args:
            num_known: what an earlier call returned: so many are not compared again.
        """
        contenders = [] if self.is_done else list(self.live)
        if self.finished:  # of these only the best may still win
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
        """Finishes a path if its last token, or its length, says so."""
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
    """The most probable token at each step."""

    @property
    def is_done(self) -> bool:
        """The one hypothesis has ended."""
        return bool(self.finished)

    def resume(self, tokens: Sequence[list[int]], totals: Sequence[float]) -> None:
        """See :class:`Search`; the last token may be the end."""
        super().resume(tokens, totals)
        if tokens[0]:
            self._end(self.live[0])

    def advance_one(self, token: int, log_prob: float) -> None:
        """As :meth:`advance`, for the one candidate that matters."""
        path = self.live[0]
        path.tokens.append(token)
        path.total += log_prob
        self._end(path)

    def advance(self, tokens: Sequence[Sequence[int]], log_probs: Sequence[Sequence[float]]) -> list[int]:
        """See :class:`Search`."""
        self.advance_one(tokens[0][0], log_probs[0][0])
        return [0]


class BeamSearch(Search):
    """Beam search with the stopping rule of "as many finished as the beam is wide".

    At each step the best 2K continuations are taken in order of (sum descending, parent, token). One that is the end symbol
    finishes its hypothesis if it is among the first K, and is passed over otherwise; the others live on until there are K.
    """

    def __init__(self, options: DecodeOptions, symbols: Symbols, coverage: Coverage | None = None) -> None:
        super().__init__(options, symbols, coverage)
        self.width = options.beam_size
        """K."""
        self._is_cut = False

    @property
    def is_done(self) -> bool:
        """Enough hypotheses have finished, the limit of tokens is reached, or nothing is left to go on with."""
        return len(self.finished) >= self.width or self._is_cut or not self.live

    @property
    def num_candidates(self) -> int:
        """Enough for K that live on if every hypothesis also ends."""
        return MAX_CANDIDATES_PER_BEAM * self.width

    def advance(self, tokens: Sequence[Sequence[int]], log_probs: Sequence[Sequence[float]]) -> list[int]:
        """See :class:`Search`."""
        candidates = [
            (path.total + log_prob, -parent, -token)
            for parent, (path, row_tokens, row_log_probs) in enumerate(zip(self.live, tokens, log_probs, strict=True))
            for token, log_prob in zip(row_tokens, row_log_probs, strict=True)
            if log_prob > -math.inf  # false for NaN too
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
    """Independent draws, ``num_hypotheses`` of them; one hypothesis until the prefix is over, then each has a stream of its own.

    A hypothesis' score is that of the model's distribution under the rules, before temperature, ``top_k`` and ``top_p``.
    """

    def __init__(self, options: DecodeOptions, symbols: Symbols, sampling: Sampling, coverage: Coverage | None = None) -> None:
        super().__init__(options, symbols, coverage)
        self._sampling = sampling
        self._generators = [UniformGenerator(sampling.seed, number) for number in range(options.num_hypotheses)]

    @property
    def is_done(self) -> bool:
        """Every draw has ended."""
        return not self.live

    @property
    def needs_scores(self) -> bool:
        """Always: what is drawn may be any token."""
        return True

    def advance(self, tokens: Sequence[Sequence[int]], log_probs: Sequence[Sequence[float]]) -> list[int]:
        """See :class:`Search`; every candidate lives on, unless it ends."""
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
    """The search that the options ask for."""
    if options.sampling is not None:
        return SampleSearch(options, symbols, options.sampling, coverage)
    return (GreedySearch if options.beam_size == 1 else BeamSearch)(options, symbols, coverage)
