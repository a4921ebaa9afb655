# SPDX-License-Identifier: Apache-2.0
"""Interleaved rounds: contestants run one after the other in every round, and what counts is the ratio within a round.

A shared machine is twice as fast at one moment as at another. A round is short against that, so both sides of a ratio see the same
machine; the median over rounds forgets those that were disturbed half-way.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Ratio:
    """How many times as fast one side is as the other: the median over rounds, and the least and the most of them."""

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
    """Of values that belong to the same rounds."""
    quotients = [a / b for a, b in zip(numerators, denominators, strict=True)]
    return Ratio(statistics.median(quotients), min(quotients), max(quotients))
