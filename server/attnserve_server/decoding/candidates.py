# SPDX-License-Identifier: Apache-2.0
"""Chooses tokens from one row of log-probabilities: the best ones, or random draws. Pure functions of the row and the draws."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from attnserve_server.request import Sampling

_FIRST_GUESS = 64
"""The best 64 tokens nearly always contain the nucleus; sorting the whole vocabulary takes ten times as long."""


def top(row: npt.NDArray[np.floating], count: int) -> npt.NDArray[np.intp]:
    """Returns the indices of the ``count`` largest finite entries of a row (V,), largest first; ties by lower index."""
    count = min(count, len(row))
    index = np.argpartition(row, len(row) - count)[len(row) - count :]
    index = index[np.lexsort((index, -row[index]))]
    finite: npt.NDArray[np.intp] = index[np.isfinite(row[index])]
    return finite


class UniformGenerator:
    """Uniform random numbers in [0, 1) that depend only on a seed and a generator number (Philox, Salmon et al. 2011)."""

    def __init__(self, seed: int, number: int) -> None:
        self._bits = np.random.Philox(key=np.array([seed, number], dtype=np.uint64))

    def next(self) -> float:
        """Returns the next number, with 53 random bits."""
        return (int(self._bits.random_raw()) >> 11) * 2.0**-53


def draw(log_probs: npt.NDArray[np.float32], sampling: Sampling, uniforms: Sequence[float]) -> list[int]:
    """Draws tokens independently, one per uniform number, by inversion of the cumulative distribution.

    Args:
        log_probs: (V,), minus infinity for tokens that must not be drawn; need not be normalized.
        sampling: temperature, ``top_k`` and ``top_p``, applied in this order.
        uniforms: numbers in [0, 1).

    Returns:
        One token per uniform number.
    """
    weights = np.exp((log_probs - log_probs.max()) / np.float32(sampling.temperature))  # (V,)
    tokens: npt.NDArray[np.intp] | None = None
    if 0 < sampling.top_k < len(weights):
        tokens = top(log_probs, sampling.top_k)
    if sampling.top_p < 1.0:
        tokens = _nucleus(log_probs, weights, sampling.top_p, tokens)
    cumulated = np.cumsum(weights if tokens is None else weights[tokens], dtype=np.float64)
    places = np.searchsorted(cumulated, np.asarray(uniforms) * cumulated[-1], side="right")
    drawn: list[int] = (places if tokens is None else tokens[places]).tolist()
    return drawn


def _nucleus(
    log_probs: npt.NDArray[np.float32], weights: npt.NDArray[np.float32], top_p: float, among: npt.NDArray[np.intp] | None
) -> npt.NDArray[np.intp]:
    """Returns the smallest set of most probable tokens with at least ``top_p`` of the weight (Holtzman et al. 2020), best first."""
    if among is not None:
        return among[: nucleus_size(weights[among], top_p, float(weights[among].sum(dtype=np.float64)))]
    total = float(weights.sum(dtype=np.float64))
    for count in (_FIRST_GUESS, len(weights)):
        tokens = top(log_probs, count)
        size = nucleus_size(weights[tokens], top_p, total)
        if size < len(tokens):
            return tokens[:size]
    return tokens


def nucleus_size(weights: npt.NDArray[np.float32], top_p: float, total: float) -> int:
    """Returns how many of the weights, in descending order, sum to at least ``top_p * total``."""
    return int(np.searchsorted(np.cumsum(weights, dtype=np.float64), top_p * total, side="left")) + 1
