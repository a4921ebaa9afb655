# SPDX-License-Identifier: Apache-2.0
"""Offline, without a network: all sentences at once, or one at a time. Answers are compared, then times."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from attnserve_client.evaluation import score
from attnserve_loadtest.bench.contestants import Contestant, Engine, Peer, Replicas, Tokens, Vocabulary
from attnserve_loadtest.bench.rounds import Cost, Ratio, best_of, interleave, quotients, ratio, spread, steadiest
from attnserve_server.bundle.loader import Bundle

NUM_SLOTS = (32, 64, 128)
"""Numbers of rows of our engine; the best one counts, as does the peer's best batch size."""
BATCH_SIZES = (32, 128)
"""Batch sizes of the peer."""
SINGLE_SHARE = 5
"""At batch 1, one of this many sentences is translated."""
BLOCK = 20
"""At batch 1, sentences that one side translates before the other side runs."""
_Costs = Mapping[str, Sequence[Cost]]
"""Of each round, by name of the setting."""


@dataclass(frozen=True, slots=True)
class Point:
    """A measurement of both sides with the same settings.

    Attributes:
        name: title in reports.
        variant: of the bundle; the peer computes in the same precision.
        beam_size: 1 for greedy search.
        bar: least median of the ratio that passes, on a processor with AVX-512 and VNNI.
        stretch: median that is aimed at; reported only.
        is_single: whether sentences are translated one at a time.
        workers: number of processes or replicas of each side.
    """

    name: str
    variant: str
    beam_size: int
    bar: float
    stretch: float
    is_single: bool = False
    workers: int = 1


POINTS = (
    Point("greedy offline, fp32", "fp32", 1, 1.0, 1.07),
    Point("greedy offline, int8", "int8", 1, 1.1, 1.3),
    Point("batch 1, fp32", "fp32", 1, 0.85, 0.95, is_single=True),
    Point("batch 1, int8", "int8", 1, 0.88, 0.95, is_single=True),
    Point("beam 4, fp32", "fp32", 4, 0.8, 0.88),
    Point("beam 4, int8", "int8", 4, 0.95, 1.05),
    Point("two workers on two cores, int8", "int8", 1, 0.95, 1.2, workers=2),
)


@dataclass(frozen=True, slots=True)
class Sentences:
    """The texts to translate, their tokens, and references if there are any."""

    texts: list[str]
    tokens: list[Tokens]
    references: list[str] | None


@dataclass(frozen=True, slots=True)
class PointResult:
    """The result of a point. Of each side the setting with the least median time counts.

    Attributes:
        point: the measured point.
        ratio: CTranslate2's processor time divided by this engine's within each round: median, least and greatest. Above 1 this
            engine is faster. With several workers it is that of wall time.
        wall: the same of wall time.
        ours: name of this engine's best setting, and its target tokens, end symbols included, per second of the median round.
        peer: the same of CTranslate2.
        seconds: duration of each round, by name of the setting, for all settings.
        processor_seconds: the same of processor time.
        num_attempts: measurements; the one with the least scatter is given.
        identical: share, 0 to 1, of the sentences for which both best settings return equal tokens.
        bleu: lower-case BLEU, 0 to 100, by "ours" and "peer"; empty without references.
    """

    point: Point
    ratio: Ratio
    wall: Ratio
    ours: tuple[str, float]
    peer: tuple[str, float]
    seconds: dict[str, list[float]]
    processor_seconds: dict[str, list[float]]
    num_attempts: int
    identical: float
    bleu: dict[str, float] = field(default_factory=dict)


def measure(
    point: Point, folders: tuple[Path, Path], bundle: Bundle, sentences: Sentences, num_rounds: int, note: Callable[[], None]
) -> PointResult:
    """Measures a point, again if its rounds scatter (``rounds.steadiest``).

    Args:
        point: what to measure.
        folders: folder of the bundle, and folder of the model that was converted for CTranslate2.
        bundle: the bundle, for its vocabulary.
        sentences: the sentences to translate; at ``is_single``, every fifth of them (``SINGLE_SHARE``) is timed.
        num_rounds: interleaved rounds; one more, before them, warms up.
        note: called after every run, for progress.
    """
    ours, peers = _contestants(point, folders, bundle)
    sources = sentences.tokens[::SINGLE_SHARE] if point.is_single else sentences.tokens
    answers = {name: each.translate(sentences.tokens) for name, each in (ours | peers).items()}

    def attempt() -> _Costs:
        if point.is_single:
            return _one_by_one(ours | peers, sources, num_rounds, note)
        calls = {name: functools.partial(_timed, each, sources) for name, each in (ours | peers).items()}
        return interleave(calls, num_rounds, note)

    def quotients_of(costs: _Costs) -> list[float]:
        own, other = _best(point, costs, ours), _best(point, costs, peers)
        return quotients(_counted(point, costs[other]), _counted(point, costs[own]))

    costs, num_attempts = steadiest(attempt, quotients_of)
    our_best, peer_best = _best(point, costs, ours), _best(point, costs, peers)
    seconds = {name: [each.wall for each in values] for name, values in costs.items()}
    return PointResult(
        point,
        spread(quotients_of(costs)),
        ratio(seconds[peer_best], seconds[our_best]),
        (our_best, _tokens_per_second(answers[our_best], seconds[our_best], point)),
        (peer_best, _tokens_per_second(answers[peer_best], seconds[peer_best], point)),
        seconds,
        {name: [each.processor for each in values] for name, values in costs.items()},
        num_attempts,
        statistics.mean(a == b for a, b in zip(answers[our_best], answers[peer_best], strict=True)),
        _bleu(bundle, {"ours": answers[our_best], "peer": answers[peer_best]}, sentences.references),
    )


def _counted(point: Point, costs: Sequence[Cost]) -> list[float]:
    """The times that count: processor time, which other processes change least; of several workers wall time, for they overlap."""
    return [each.wall if point.workers > 1 else each.processor for each in costs]


def _best(point: Point, costs: _Costs, side: Iterable[str]) -> str:
    return best_of({name: _counted(point, costs[name]) for name in side})


def num_runs(point: Point, num_rounds: int) -> int:
    """How often :func:`measure` calls ``note``."""
    return num_rounds * (2 if point.is_single else len(NUM_SLOTS) + len(BATCH_SIZES))


def _contestants(point: Point, folders: tuple[Path, Path], bundle: Bundle) -> tuple[dict[str, Contestant], dict[str, Contestant]]:
    folder, converted = folders
    if point.is_single:
        return (
            {"in flight": Engine(folder, point.variant, NUM_SLOTS[0], point.beam_size)},
            {"batch 1": Peer(converted, bundle, point.variant, 1, point.beam_size)},
        )
    if point.workers > 1:
        count = point.workers
        return (
            {
                f"{count} processes, {slots} slots": Replicas(folder, point.variant, slots, point.beam_size, count)
                for slots in NUM_SLOTS
            },
            {
                f"{count} replicas, batch {size}": Peer(converted, bundle, point.variant, size, point.beam_size, count)
                for size in BATCH_SIZES
            },
        )
    return (
        {f"{slots} slots": Engine(folder, point.variant, slots, point.beam_size) for slots in NUM_SLOTS},
        {f"batch {size}": Peer(converted, bundle, point.variant, size, point.beam_size) for size in BATCH_SIZES},
    )


def _timed(contestant: Contestant, sources: Sequence[Tokens]) -> Cost:
    spent, began = contestant.processor_seconds(), time.perf_counter()
    contestant.translate(sources)
    return Cost(contestant.processor_seconds() - spent, time.perf_counter() - began)


def _one_by_one(
    contestants: Mapping[str, Contestant], sources: Sequence[Tokens], num_rounds: int, note: Callable[[], None]
) -> dict[str, list[Cost]]:
    """Translates each sentence alone; the sides take turns, a block of sentences each."""
    costs = {name: [Cost(0.0, 0.0)] * num_rounds for name in contestants}
    for number in range(num_rounds):
        for start in range(0, len(sources), BLOCK):
            for name, each in contestants.items():
                for source in sources[start : start + BLOCK]:
                    costs[name][number] += _timed(each, [source])
        for _ in contestants:
            note()
    return costs


def _tokens_per_second(answers: Sequence[Tokens], seconds: Sequence[float], point: Point) -> float:
    tokens = sum(len(answer) + 1 for answer in (answers[::SINGLE_SHARE] if point.is_single else answers))
    return tokens / statistics.median(seconds)


def _bleu(bundle: Bundle, answers: Mapping[str, Sequence[Tokens]], references: Sequence[str] | None) -> dict[str, float]:
    if references is None:
        return {}
    vocabulary = Vocabulary.of(bundle)
    return {name: round(score(vocabulary.decode(each), references).bleu_lc, 2) for name, each in answers.items()}
