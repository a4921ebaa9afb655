# SPDX-License-Identifier: Apache-2.0
"""Interleaved rounds: both sides run one after the other in every round, and the result is the ratio within a round.

The speed of a shared machine varies by a factor of two over time. A round is short compared with that, so both sides of a ratio
have the same speed; the median over rounds removes rounds in which the speed changed.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Ratio:
    """The ratio of speeds of two sides: the median over rounds, the least and the greatest."""

    median: float
    least: float
    most: float


def interleave(calls: Mapping[str, Callable[[], float]], num_rounds: int, note: Callable[[], None]) -> dict[str, list[float]]:
    """Runs every call once in each round.

    Args:
        calls: by name; each returns what it measured.
        num_rounds: rounds.
        note: called after every call, for progress.

    Returns:
        By name, a value for each round.
    """
    values: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(num_rounds):
        for name, call in calls.items():
            values[name].append(call())
            note()
    return values


def best_of(values: Mapping[str, Sequence[float]]) -> str:
    """The name with the least median."""
    return min(values, key=lambda name: statistics.median(values[name]))


def ratio(numerators: Sequence[float], denominators: Sequence[float]) -> Ratio:
    """The ratio of values that were measured in the same rounds."""
    quotients = [a / b for a, b in zip(numerators, denominators, strict=True)]
    return Ratio(statistics.median(quotients), min(quotients), max(quotients))
