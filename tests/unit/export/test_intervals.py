# SPDX-License-Identifier: Apache-2.0
"""The interval of a gain: it covers the truth, seeds and blocks widen it, and unpaired runs are refused."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from attnserve_export.training.intervals import Interval, consecutive_blocks, paired_interval

Figures = npt.NDArray[np.float64]


def mean(figures: Figures) -> float:
    return float(figures.mean())


def runs(seeds: int, gain: float, of_seed: float, of_block: float, number: int = 0) -> tuple[list[Figures], list[Figures]]:
    """Synthetic figures of 60 examples in blocks of 10; the gain varies by seed and by block, the difficulty by example."""
    rng = np.random.default_rng(number)
    difficulty, blocks = rng.normal(0, 5, 60), np.repeat(rng.normal(0, of_block, 6), 10)
    twins = [difficulty + rng.normal(0, 0.1, 60) for _ in range(seeds)]
    return [twin + gain + blocks + rng.normal(0, of_seed) for twin in twins], twins


def test_blocks_are_consecutive_and_hold_all_examples() -> None:
    assert [block.tolist() for block in consecutive_blocks(7, 3)] == [[0, 1, 2], [3, 4, 5], [6]]


def test_the_mean_is_the_mean_difference_of_all_seeds_and_examples() -> None:
    ours, twins = runs(5, 2.0, 1.0, 1.0)
    found = paired_interval(ours, twins, mean, consecutive_blocks(60, 10), draws=100)
    assert found.mean == pytest.approx(np.mean(ours) - np.mean(twins))
    assert found.low < found.mean < found.high
    assert found == paired_interval(ours, twins, mean, consecutive_blocks(60, 10), draws=100)
    assert str(Interval(1.234, -0.5, 3.0)) == "+1.23 [-0.50, +3.00]"


def test_the_difficulty_of_the_examples_cancels() -> None:
    found = paired_interval(*runs(5, 2.0, 0.0, 0.0), mean, consecutive_blocks(60, 10), draws=200)
    assert found.low == pytest.approx(2, abs=0.01)
    assert found.high == pytest.approx(2, abs=0.01)


@pytest.mark.parametrize(("of_seed", "of_block"), [(1.0, 0.0), (0.0, 1.0)])
def test_seeds_and_blocks_each_widen_the_interval(of_seed: float, of_block: float) -> None:
    found = paired_interval(*runs(5, 2.0, of_seed, of_block), mean, consecutive_blocks(60, 10), draws=300)
    assert found.high - found.low > 0.5


def test_examples_that_are_alike_need_blocks() -> None:
    figures = runs(5, 2.0, 0.0, 1.0)
    in_blocks, alone = (paired_interval(*figures, mean, consecutive_blocks(60, length), draws=300) for length in (10, 1))
    assert in_blocks.high - in_blocks.low > 2 * (alone.high - alone.low)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    covered = 0
    for number in range(60):
        found = paired_interval(*runs(8, 2.0, 1.0, 0.5, number), mean, consecutive_blocks(60, 10), draws=200)
        covered += found.low <= 2 <= found.high
    assert 46 <= covered < 60, "percentile intervals of few seeds are somewhat narrow"


def test_what_cannot_be_paired_is_refused() -> None:
    ours, twins = runs(3, 1.0, 1.0, 1.0)
    blocks = consecutive_blocks(60, 10)
    with pytest.raises(ValueError, match="3 runs cannot be paired with 2"):
        paired_interval(ours, twins[:2], mean, blocks)
    with pytest.raises(ValueError, match="0 runs"):
        paired_interval([], [], mean, blocks)
    with pytest.raises(ValueError, match="different numbers of examples"):
        paired_interval(ours, [*twins[:2], twins[2][:50]], mean, blocks)
    with pytest.raises(ValueError, match="no blocks"):
        paired_interval(ours, twins, mean, [])
