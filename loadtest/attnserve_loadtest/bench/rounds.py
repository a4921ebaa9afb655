# SPDX-License-Identifier: Apache-2.0
"""Interleaved rounds: both sides run one after the other in every round, and the result is the ratio within a round.

The speed of a shared machine varies by a factor of two over time. A round is short compared with that, so both sides of a ratio
have the same speed; the median over rounds removes rounds in which the speed changed.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")

MAX_SCATTER = 0.15
"""A measurement whose rounds scatter more is repeated."""
MAX_ATTEMPTS = 3
"""Measurements of a point; the one with the least scatter counts."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Cost of work in seconds: processor time of all processes that do it, and wall time."""

    processor: float
    wall: float

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.processor + other.processor, self.wall + other.wall)


@dataclass(frozen=True, slots=True)
class Ratio:
    """The ratio of speeds of two sides: the median over rounds, the least and the greatest."""

    median: float
    least: float
    most: float


def interleave(calls: Mapping[str, Callable[[], T]], num_rounds: int, note: Callable[[], None]) -> dict[str, list[T]]:
    """Runs every call once in each round.

    Args:
        calls: by name; each returns what it measured.
        num_rounds: rounds.
        note: called after every call, for progress.

    Returns:
        By name, a value for each round.
    """
    values: dict[str, list[T]] = {name: [] for name in calls}
    for _ in range(num_rounds):
        for name, call in calls.items():
            values[name].append(call())
            note()
    return values


def best_of(values: Mapping[str, Sequence[float]]) -> str:
    """The name with the least median."""
    return min(values, key=lambda name: statistics.median(values[name]))


def scatter(values: Sequence[float]) -> float:
    """The distance between the quartiles of values over their median; 0 of a single one."""
    if len(values) < 2:
        return 0.0
    lower, middle, upper = statistics.quantiles(values, n=4, method="inclusive")
    return (upper - lower) / middle


def steadiest(measure: Callable[[], T], values_of: Callable[[T], Sequence[float]]) -> tuple[T, int]:
    """Measures until the rounds scatter by at most ``MAX_SCATTER``, at most ``MAX_ATTEMPTS`` times.

    Args:
        measure: runs all rounds.
        values_of: returns the value of each round of a measurement.

    Returns:
        The measurement with the least scatter, and the number of measurements.
    """
    attempts = [measure()]
    while scatter(values_of(attempts[-1])) > MAX_SCATTER and len(attempts) < MAX_ATTEMPTS:
        attempts.append(measure())
    return min(attempts, key=lambda attempt: scatter(values_of(attempt))), len(attempts)


def quotients(numerators: Sequence[float], denominators: Sequence[float]) -> list[float]:
    """The quotients of values that were measured in the same rounds."""
    return [a / b for a, b in zip(numerators, denominators, strict=True)]


def spread(values: Sequence[float]) -> Ratio:
    """The median of values, the least and the greatest."""
    return Ratio(statistics.median(values), min(values), max(values))


def ratio(numerators: Sequence[float], denominators: Sequence[float]) -> Ratio:
    """The ratio of values that were measured in the same rounds."""
    return spread(quotients(numerators, denominators))
