# SPDX-License-Identifier: Apache-2.0
"""The gain of a model over its twin, with an interval by bootstrap over the seeds and over blocks of the evaluated examples.

Neighbouring frames of a film, or clips of one source, are correlated. So whole blocks of them are drawn, not single examples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Figures = npt.NDArray[Any]
"""Figures of one run: a row for each evaluated example, (examples, ...)."""
Statistic = Callable[[Figures], float]
"""Maps the rows of a run, (examples', ...), to its score. It must not depend on the order of the rows."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean difference and the bounds of its confidence interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:+.2f} [{self.low:+.2f}, {self.high:+.2f}]"


def consecutive_blocks(count: int, length: int) -> list[npt.NDArray[np.int64]]:
    """Returns the indices of ``count`` examples in blocks of ``length`` consecutive ones; the last block may be shorter."""
    return [np.arange(start, min(start + length, count)) for start in range(0, count, length)]


def paired_interval(
    ours: Sequence[Figures],
    twins: Sequence[Figures],
    statistic: Statistic,
    blocks: Sequence[npt.NDArray[np.int64]],
    *,
    draws: int = 2000,
    confidence: float = 0.95,
) -> Interval:
    """Returns the mean over seeds of ``statistic(ours) - statistic(twin)``, and its percentile interval (Efron 1979).

    Each draw takes as many seeds and blocks as there are, with replacement. All runs of a draw are scored on the same
    examples, so the difficulty of the examples cancels. The draws are the same in each call.

    Args:
        ours: figures of the runs with attention, one array for each seed.
        twins: figures of the runs without attention, for the same seeds in the same order, on the same examples.
        statistic: computes the score from the rows of one run.
        blocks: indices of the examples that are drawn together.
        draws: number of bootstrap samples.
        confidence: level of the interval, between 0 and 1.

    Raises:
        ValueError: the runs are not paired, or there are no blocks.
    """
    if len(ours) != len(twins) or not ours:
        raise ValueError(f"{len(ours)} runs cannot be paired with {len(twins)}")
    if len({len(figures) for figures in (*ours, *twins)}) > 1:
        raise ValueError("the runs were evaluated on different numbers of examples")
    if not blocks:
        raise ValueError("no blocks to draw from")

    def mean_difference(seeds: Sequence[int], rows: npt.NDArray[np.int64]) -> float:
        found = {seed: statistic(ours[seed][rows]) - statistic(twins[seed][rows]) for seed in set(seeds)}
        return float(np.mean([found[seed] for seed in seeds]))

    rng, differences = np.random.default_rng(0), np.empty(draws)
    for draw in range(draws):
        seeds = rng.integers(len(ours), size=len(ours)).tolist()
        rows = np.concatenate([blocks[index] for index in rng.integers(len(blocks), size=len(blocks))])
        differences[draw] = mean_difference(seeds, rows)
    low, high = np.quantile(differences, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(mean_difference(range(len(ours)), np.concatenate(list(blocks))), float(low), float(high))
