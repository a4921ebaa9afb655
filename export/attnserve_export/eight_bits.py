# SPDX-License-Identifier: Apache-2.0
"""Weights of 8 bits, one scale a channel: a matrix rounded to integers times scales, and found to be such without being told.

A scale has so few bits that its products with integers up to 127 are exact. So the scale is found again from the largest weight of
its channel, and a bundle's weights are, bit for bit, those that the module had when it was exported.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int8]
Scales = npt.NDArray[np.float32]
Weights = npt.NDArray[np.float32]
LEVELS = 127
_SPARE_BITS = 8
"""Of a scale's 23 mantissa bits, those that are 0."""


def rounded(weights: npt.NDArray[Any], axis: int = 0) -> Weights:
    """The nearest weights that are integers from -127 to 127 times one scale for each index of ``axis``."""
    array = np.asarray(weights, np.float32)
    scales = _scales(array, axis)
    result: Weights = (np.clip(np.rint(array / scales), -LEVELS, LEVELS) * scales).astype(np.float32)
    return result


def split(weights: Weights) -> tuple[Integers, Scales] | None:
    """Integers and scales whose product is exactly ``weights``, channels along the first or the last axis; None if it is none."""
    if weights.ndim < 2:
        return None
    for axis in (0, weights.ndim - 1):
        scales = _scales(weights, axis)
        integers = np.rint(weights / scales)
        if np.array_equal(integers * scales, weights) and np.abs(integers).max() <= LEVELS:
            return integers.astype(np.int8), scales
    return None


def _scales(array: Weights, axis: int) -> Scales:
    """The largest weight of each channel over 127, rounded up to few bits: shaped to be multiplied with ``array``."""
    others = tuple(each for each in range(array.ndim) if each != axis)
    exact = np.maximum(np.abs(array).max(others, keepdims=True) / np.float32(LEVELS), np.float32(1e-30)).astype(np.float32)
    bits = exact.view(np.uint32)
    mask = np.uint32((1 << _SPARE_BITS) - 1)
    scales: Scales = ((bits + mask) & ~mask).view(np.float32)
    return scales
